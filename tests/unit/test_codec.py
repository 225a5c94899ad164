"""A codec gives back what it was given, or says why not; stored bytes it cannot read are damage."""

from __future__ import annotations

import collections
import copy
import enum
import math
import pickle
import threading
from datetime import datetime, timezone

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import kvgit_hamt as kvgit
from kvgit_hamt import codec as codec_module
from kvgit_hamt.codec import MAX_DEPTH, Codec, get_codec
from kvgit_hamt.errors import CorruptionError, DecodeError, EncodeError, InvalidInputError

MSGPACK = get_codec("msgpack")
PICKLE = get_codec("pickle")

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.binary(max_size=8)
)
dict_keys = st.text(max_size=3) | st.integers(-5, 5) | st.binary(max_size=2)
plain = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(dict_keys, inner, max_size=5)
)


class Colour(str, enum.Enum):
    RED = "red"
    BLUE = "blue"


class Name(str):
    __slots__ = ()


def exactly(value):
    """A form that compares equal only for equal values of equal types, at any depth."""
    if isinstance(value, dict):
        return dict, frozenset((exactly(key), exactly(item)) for key, item in value.items())
    if isinstance(value, list):
        return list, tuple(exactly(item) for item in value)
    return type(value), repr(value)


# --- msgpack: round trip


@given(plain)
def test_plain_data_comes_back_exactly(value):
    before = copy.deepcopy(value)
    data = MSGPACK.encode(value)
    assert type(data) is bytes
    assert exactly(MSGPACK.decode(data)) == exactly(value)
    assert exactly(value) == exactly(before), "encoding left the value as it was"


def test_a_nan_comes_back_as_a_nan():
    assert math.isnan(MSGPACK.decode(MSGPACK.encode(math.nan)))


@pytest.mark.parametrize(
    "value", [2**64 - 1, -(2**63), "", b"", [], {}, {"": None}, {1: 2}, {None: 1, b"k": 2}]
)
def test_the_edges_of_plain_data_come_back(value):
    assert exactly(MSGPACK.decode(MSGPACK.encode(value))) == exactly(value)


@given(plain, st.randoms(use_true_random=False))
def test_equal_dicts_give_equal_bytes_whatever_the_order_of_their_keys(value, random):
    assert MSGPACK.encode(_shuffled(value, random)) == MSGPACK.encode(value)


def _shuffled(value, random):
    if isinstance(value, dict):
        items = [(key, _shuffled(item, random)) for key, item in value.items()]
        random.shuffle(items)
        return dict(items)
    if isinstance(value, list):
        return [_shuffled(item, random) for item in value]
    return value


def test_dicts_too_wide_to_be_remembered_are_sorted_too():
    wide = {f"k{i}": i for i in range(100)}
    assert MSGPACK.encode(wide) == MSGPACK.encode(dict(reversed(wide.items())))


def test_the_shapes_that_are_remembered_are_bounded():
    for i in range(codec_module._SHAPES_MAX + 10):
        MSGPACK.encode({f"b{i}": 1, "a": 2})
    assert len(codec_module._shapes) <= codec_module._SHAPES_MAX
    assert MSGPACK.decode(MSGPACK.encode({"b": 1, "a": 2})) == {"a": 2, "b": 1}


def test_the_bytes_of_msgpack_are_fixed():
    assert (
        MSGPACK.encode({"b": [1, -1, 2.5], "a": b"\x00"}).hex() == "82a161c40100a1629301ffcb4004000000000000"
    )


# --- msgpack: what it cannot hold

MISFITS = [
    ((1, 2), "tuple"),
    ({1}, "set"),
    (frozenset(), "frozenset"),
    (bytearray(b"x"), "bytearray"),
    (memoryview(b"x"), "memoryview"),
    (1j, "complex"),
    (object(), "object"),
    (Name("x"), "Name"),
    (Colour.RED, "Colour"),
    (collections.OrderedDict(a=1), "OrderedDict"),
    (collections.defaultdict(int), "defaultdict"),
    (datetime(2026, 1, 1, tzinfo=timezone.utc), "datetime"),
    (msgpack.ExtType(1, b"x"), "ExtType"),
    (msgpack.Timestamp(1), "Timestamp"),
    (2**64, "64 bits"),
    (-(2**63) - 1, "64 bits"),
    ("\ud800", "surrogate"),
]


@pytest.mark.parametrize(("value", "named"), MISFITS, ids=[named for _, named in MISFITS])
@pytest.mark.parametrize(
    ("wrap", "where"),
    [
        (lambda v: v, ""),
        (lambda v: [0, v], "at [1], "),
        (lambda v: {"a": v}, "at ['a'], "),
        (lambda v: {"b": 1, "a": [{"c": v}]}, "at ['a'][0]['c'], "),
    ],
    ids=["bare", "in a list", "in a dict", "deep"],
)
def test_what_would_not_come_back_as_it_is_is_refused_with_key_type_place_and_way_out(
    value, named, wrap, where
):
    whole = wrap(value)
    with pytest.raises(EncodeError) as caught:
        MSGPACK.encode_for("users/7", whole)
    message = str(caught.value)
    assert "'users/7'" in message
    assert type(whole).__name__ in message
    assert named in message
    assert where in message
    assert 'codec="pickle"' in message and "pair" in message
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize("key", [(1, 2), Name("a"), Colour.BLUE, 2**70, "\udfff", frozenset()], ids=repr)
@pytest.mark.parametrize("others", [{}, {"b": 1}], ids=["alone", "among str"])
def test_a_dict_key_that_would_not_come_back_is_refused(key, others):
    MSGPACK.encode({"b": 1, "a": 2, "blue": 3})
    with pytest.raises(EncodeError, match=r"key|64 bits|surrogate"):
        MSGPACK.encode_for("k", {**others, key: 1})


def test_a_key_of_a_derived_class_is_refused_even_where_its_text_was_seen_as_a_plain_key():
    for plain_keys in ({"red": 1, "blue": 2}, {"blue": 1, "red": 2}, {"red": 1}):
        MSGPACK.encode(plain_keys)
    for derived in ({Colour.RED: 1, Colour.BLUE: 2}, {Colour.BLUE: 1, Colour.RED: 2}, {Colour.RED: 1}):
        with pytest.raises(EncodeError, match="Colour"):
            MSGPACK.encode_for("k", derived)


def test_nesting_is_bounded_and_a_list_that_holds_itself_is_refused():
    def nested(levels):
        value: object = 1
        for _ in range(levels):
            value = [value]
        return value

    assert MSGPACK.decode(MSGPACK.encode(nested(MAX_DEPTH))) == nested(MAX_DEPTH)
    loop: list[object] = []
    loop.append(loop)
    for value in (nested(MAX_DEPTH + 2), nested(900), loop):
        with pytest.raises(EncodeError, match="nested"):
            MSGPACK.encode_for("k", value)


def test_a_failed_encode_leaves_nothing_behind_in_the_next():
    for _ in range(3):
        with pytest.raises(TypeError):
            MSGPACK.encode([1, "x" * 1000, "\ud800"])
        assert MSGPACK.encode("fine") == b"\xa4fine"


def test_a_large_value_does_not_keep_its_buffer():
    codec_module._packers.clear()
    MSGPACK.encode(b"x" * (2 << 20))
    assert codec_module._packers == []


def test_threads_do_not_mix_their_values():
    wrong = []

    def work(seed):
        for i in range(2000):
            value = {"seed": seed, "i": i, "text": "x" * (i % 50)}
            if MSGPACK.decode(MSGPACK.encode(value)) != value:
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# --- msgpack: hostile bytes


@given(st.binary(max_size=64))
@example(b"")
@example(b"\xc1")
@example(b"\x01\x02")
@example(b"\xd4\x05x")
@example(b"\xd6\xff\x00\x00\x00\x01")
@example(b"\x91\xd6\xff\x00\x00\x00\x01")
@example(b"\x81\xa1a\xd7\xff\x00\x00\x00\x00\x00\x00\x00\x01")
@example(b"\x81\xc7\x0c\xff" + bytes(12) + b"\x01")
@example(b"\x91\xc7\x0c\xff" + bytes(12))
@example(b"\x91\xd4\x05x")
@example(b"\x81\x91\x01\x01")
@example(b"\x81\x80\x01")
@example(b"\xdd\xff\xff\xff\xff")
@example(b"\xdf\xff\xff\xff\xff")
@example(b"\xdb\xff\xff\xff\xff")
@example(b"\xa1\xff")
def test_any_bytes_decode_to_plain_data_or_are_damage(data):
    try:
        value = MSGPACK.decode_for("some/key", data)
    except DecodeError as error:
        assert "'some/key'" in str(error)
        assert isinstance(error, CorruptionError)
    else:
        assert exactly(MSGPACK.decode(MSGPACK.encode(value))) == exactly(value)


@pytest.mark.parametrize(
    "data",
    [b"\x91" * 100_000, b"\x81\x01" * 100_000, (b"\xdd\x00\x01\x00\x00" * 500) + b"\xc0" * 65536],
    ids=["deep lists", "deep dicts", "lists that claim more than there is"],
)
def test_deep_and_boastful_bytes_are_damage(data):
    with pytest.raises(DecodeError):
        MSGPACK.decode_for("k", data)


def test_bytes_that_only_look_like_a_timestamp_are_read():
    value = {"a": b"\xd6\xff\x00\x00\x00\x01", "b": [b"\xc7\x0c\xff", -1]}
    assert MSGPACK.decode(MSGPACK.encode(value)) == value


# --- pickle, bytes


@pytest.mark.parametrize("value", [(1, 2), {1, 2}, 2**100, datetime(2026, 1, 1), Colour.RED, {"a": (1,)}])
def test_pickle_holds_any_object_at_a_fixed_protocol(value):
    data = PICKLE.encode_for("k", value)
    assert data[:2] == bytes([0x80, 5])
    assert PICKLE.decode_for("k", data) == value


def test_what_pickle_cannot_hold_is_refused_by_name():
    with pytest.raises(EncodeError, match=r"'k'.*function.*pair"):
        PICKLE.encode_for("k", lambda: None)
    with pytest.raises(DecodeError, match="'k'"):
        PICKLE.decode_for("k", b"no pickle")


def test_the_bytes_codec_holds_bytes_only():
    codec = get_codec("bytes")
    assert codec.decode_for("k", codec.encode_for("k", b"x")) == b"x"
    for value in ("x", bytearray(b"x"), memoryview(b"x"), None, 1):
        with pytest.raises(EncodeError, match="bytes"):
            codec.encode_for("k", value)


# --- the caller's own


def test_a_pair_is_named_custom_and_a_codec_brings_its_name():
    pair = (lambda value: repr(value).encode(), lambda data: data.decode())
    assert get_codec(pair).name == "custom"
    assert get_codec(pair).decode_for("k", get_codec(pair).encode_for("k", 5)) == "5"
    named = Codec("repr/1", *pair)
    assert get_codec(named) is named
    assert named.name == "repr/1" and "repr/1" in repr(named)


def test_what_a_callers_functions_raise_or_return_amiss_names_the_key():
    def fails(_):
        raise RuntimeError("no luck")

    codec = get_codec((fails, fails))
    with pytest.raises(EncodeError, match=r"'k'.*no luck") as encode_error:
        codec.encode_for("k", 1)
    with pytest.raises(DecodeError, match=r"'k'.*no luck"):
        codec.decode_for("k", b"")
    assert isinstance(encode_error.value.__cause__, RuntimeError)
    with pytest.raises(EncodeError, match="returned str, not bytes"):
        get_codec((str, bytes.decode)).encode_for("k", 1)


def test_the_built_in_codecs_are_one_object_each_and_msgpack_is_the_default():
    assert get_codec() is get_codec("msgpack") is MSGPACK
    assert [get_codec(name).name for name in ("msgpack", "pickle", "bytes")] == ["msgpack", "pickle", "bytes"]


@pytest.mark.parametrize(
    "spec", ["json", None, 5, (pickle.dumps,), (1, 2), (pickle.dumps, None), [1, 2], pickle]
)
def test_an_unknown_codec_is_refused(spec):
    with pytest.raises(InvalidInputError, match="codec"):
        get_codec(spec)


@pytest.mark.parametrize("name", ["", "pickle", "msgpack", "bytes", "x" * 65, "a\nb", 5])
def test_a_bad_or_reserved_name_is_refused(name):
    with pytest.raises(InvalidInputError):
        Codec(name, pickle.dumps, pickle.loads)


def test_a_loop_over_the_bare_functions_can_name_the_key_afterwards():
    try:
        MSGPACK.encode({1})
    except TypeError as error:
        assert "'k'" in str(MSGPACK.encode_error("k", {1}, error))


# --- values that are not to be decoded


class Trap:
    """A pickle of it says so when it is read."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was read",)


def test_a_store_of_pickles_is_looked_at_without_reading_one(tmp_path):
    with kvgit.open(tmp_path / "store", codec="pickle") as work:
        work["a"] = Trap()
        work.commit()
    codec = codec_module.undecoded("pickle")
    with kvgit.Repo(tmp_path / "store", codec=codec) as repo:
        work = repo.worktree()
        stored = work["a"]
        assert stored == codec_module.Undecoded(PICKLE.encode(Trap()))
        work["b"] = stored
        work.commit()
        assert [change.new for change in repo.diff("main~1", "main")] == [stored]
        with pytest.raises(EncodeError, match="not to be decoded"):
            work["c"] = 1
