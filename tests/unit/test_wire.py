"""The check over a record, places, and canonical msgpack."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvgit_hamt import wire as plain_wire
from kvgit_hamt.errors import CorruptionError
from kvgit_hamt.oid import oid_of
from tests.support.kernels import InUse

wire = InUse(plain_wire)

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def test_a_sealed_record_opens_to_its_body():
    body = b"\x01\x01 and so on"
    assert wire.unseal(oid_of(body), wire.seal(oid_of(body), body)) == body


def test_a_missing_record_is_damage():
    with pytest.raises(CorruptionError, match="missing"):
        wire.unseal(bytes(32), None)


def test_every_flipped_bit_of_a_record_is_noticed():
    body = bytes(range(40))
    oid = oid_of(body)
    record = wire.seal(oid, body)
    for bit in range(8 * len(record)):
        altered = bytearray(record)
        altered[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptionError, match="fail the check"):
            wire.unseal(oid, bytes(altered))


def test_every_truncation_of_a_record_is_noticed():
    body = bytes(range(40))
    record = wire.seal(oid_of(body), body)
    for length in range(len(record)):
        with pytest.raises(CorruptionError):
            wire.unseal(oid_of(body), record[:length])


def test_a_record_of_another_oid_is_noticed():
    with pytest.raises(CorruptionError):
        wire.unseal(oid_of(b"one"), wire.seal(oid_of(b"other"), b"one"))


def test_places_are_eight_bytes_little_endian():
    assert wire.place_of(0x0102) == bytes([2, 1, 0, 0, 0, 0, 0, 0])


def test_places_of_the_batch_move_and_older_ones_stay():
    body = b"payload" + b"".join(map(wire.place_of, (9, 10, 11, 2**40)))
    moved = wire.shift_places(body, 4, 10, 5)
    assert moved == b"payload" + b"".join(map(wire.place_of, (9, 15, 16, 2**40 + 5)))


def test_nothing_moves_without_places_or_distance():
    assert wire.shift_places(b"payload!", 0, 0, 5) == b"payload!"
    assert wire.shift_places(wire.place_of(10), 1, 10, 0) == wire.place_of(10)


@settings(max_examples=60)
@given(plain)
def test_plain_data_packs_and_unpacks(value):
    assert wire.unpack(wire.pack(value), "it") == value


def test_map_keys_are_sorted_at_every_depth():
    one = {"b": 1, "a": {"d": [{"y": 1, "x": 2}], "c": 3}}
    other = {"a": {"c": 3, "d": [{"x": 2, "y": 1}]}, "b": 1}
    assert wire.pack(one) == wire.pack(other)
    assert wire.pack({"b": 1, "a": 2}).hex() == "82a16102a16201"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x01\x01",  # trailing byte
        b"\xcc\x01",  # a longer form than needed
        b"\xca\x3f\x80\x00\x00",  # a short float
        b"\x82\xa1b\x01\xa1a\x02",  # map keys out of order
        b"\x82\xa1a\x01\xa1a\x02",  # a key twice
        b"\x81\x01\x01",  # a key that is no str
        b"\xa2\xff\xff",  # no UTF-8
        b"\xdd\xff\xff\xff\xff",  # a list longer than the input
        b"\x91" * 100_000,  # very deep
        b"\x91" * 900 + b"\x01",  # deep
    ],
)
def test_bytes_that_are_not_canonical_are_damage(data):
    with pytest.raises(CorruptionError, match="the thing is not canonical msgpack"):
        wire.unpack(data, "the thing")


@settings(max_examples=200)
@given(st.binary(max_size=40))
def test_any_bytes_unpack_to_what_packs_to_them_or_are_damage(data):
    try:
        value = wire.unpack(data, "it")
    except CorruptionError:
        return
    assert wire.pack(value) == data


@pytest.mark.parametrize("value", [{1: 2}, {b"a": 1}, {"a": {None: 1}}, object(), {"a": {1, 2}}])
def test_what_is_not_plain_data_is_refused(value):
    with pytest.raises(TypeError):
        wire.pack(value)


def test_extension_types_are_not_plain_data():
    for value in (msgpack.ExtType(1, b"x"), msgpack.Timestamp(1, 0)):
        with pytest.raises(TypeError):
            wire.pack({"a": [value]})
        with pytest.raises(CorruptionError):
            wire.unpack(msgpack.packb(value), "it")


@pytest.mark.parametrize("depth", [70, 600, 5_000])
def test_data_nested_too_deep_is_refused(depth):
    value: object = 1
    for _ in range(depth):
        value = [value]
    with pytest.raises(ValueError, match="deep"):
        wire.pack(value)


def test_integers_beyond_64_bits_are_refused():
    for value in (2**64, -(2**63) - 1):
        with pytest.raises(OverflowError):
            wire.pack([value])
