"""H4: msgpack that claims, nests or repeats more than it holds: an error of ours, in memory by its length."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from kvgit_hamt import CorruptionError, KvgitHamtError, objects, wire
from kvgit_hamt.codec import get_codec

SIZES = (100, 4_096, 100_000, 1 << 20)
PER_BYTE = 40  # bytes of Python objects that a byte of msgpack can be: an item of a list, and what it is
SPARE = 1 << 20


def u32(number: int) -> bytes:
    return struct.pack(">I", number)


def filled(head: bytes, size: int, fill: bytes = b"\xc0") -> bytes:
    return (head * (size // len(head) + 1))[: size // 2].ljust(size, fill)


BOMBS: dict[str, Callable[[int], bytes]] = {
    "arrays of 2^32-1": lambda size: filled(b"\xdd\xff\xff\xff\xff", size),
    "maps of 2^32-1": lambda size: filled(b"\xdf\xff\xff\xff\xff", size),
    "bytes of 2^32-1": lambda size: b"\xc6\xff\xff\xff\xff" + b"x" * size,
    "text of 2^32-1": lambda size: b"\xdb\xff\xff\xff\xff" + b"x" * size,
    "extension of 2^32-1": lambda size: b"\xc9\xff\xff\xff\xff\x05" + b"x" * size,
    "arrays as long as the input, nested": lambda size: filled(b"\xdd" + u32(size), size),
    "arrays of half the input, nested": lambda size: filled(b"\xdd" + u32(size // 2), size),
    "maps of half the input, nested": lambda size: filled(b"\xdf" + u32(size // 2) + b"\xa1k", size),
    "lists in lists": lambda size: b"\x91" * size + b"\xc0",
    "maps in maps": lambda size: b"\x81\xa1k" * max(70, size // 3) + b"\xc0",
    "maps as keys": lambda size: b"\x81" * size + b"\xc0",
    "a map of one key again and again": lambda size: b"\xdf" + u32(size // 3) + b"\xa1k\xc0" * (size // 3),
    "timestamps": lambda size: b"\x91" + b"\xd6\xff\x00\x00\x00\x00" + b"x" * size,
    "text that is no UTF-8": lambda size: b"\xdb" + u32(size) + b"\xff" * size,
    "an integer in nine bytes": lambda size: b"\xdd" + u32(size // 9) + (b"\xcf" + b"\0" * 8) * (size // 9),
}  # fmt: skip

OID = b"\x11" * 32
READERS: dict[str, Callable[[bytes], Any]] = {
    "wire.unpack": lambda data: wire.unpack(data, "it"),
    "a commit": lambda data: objects.decode_commit(OID, b"", bytes((3, 1, 0, 0)) + data),
    "a commit in a record that passes its check": lambda data: objects.decode_commit(
        OID, b"", bytes((3, 1, 0, 0)) + data, strict=False
    ),
    "a ref": lambda data: objects.decode_ref("heads/main", data),
    "a reflog entry": lambda data: objects.decode_log_entry("heads/main", data),
    "a description": objects.decode_config,
}
CODEC = get_codec("msgpack")


def peak_of(call: Callable[[], Any]) -> int:
    """The most memory that a call held at once, claimed but unused parts of lists included."""
    tracemalloc.start()
    try:
        call()
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


def bounded(call: Callable[[bytes], Any], data: bytes) -> type[KvgitHamtError] | None:
    """What kind of error reading raises, None for none; its memory follows the length."""
    caught: list[type[KvgitHamtError]] = []

    def attempt() -> None:
        try:
            call(data)
        except KvgitHamtError as error:
            caught.append(type(error))
            assert len(str(error)) < 500

    assert peak_of(attempt) <= PER_BYTE * len(data) + SPARE
    return caught[0] if caught else None


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_in_the_stores_own_records_is_corruption(bomb, size):
    data = BOMBS[bomb](size)
    for name, call in READERS.items():
        assert bounded(call, data) is CorruptionError, name


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_in_a_value_is_damage_of_that_value(bomb, size):
    """A value need not be canonical: what is plain data is read, the rest is refused."""
    refused = bounded(lambda data: CODEC.decode_for("key", data), BOMBS[bomb](size))
    is_plain = bomb in ("a map of one key again and again", "an integer in nine bytes")
    is_shallow = size == 100 and bomb in ("lists in lists", "maps in maps")
    assert (refused is None) is (is_plain or is_shallow)


def test_what_a_value_may_nest_is_far_above_what_is_written():
    deep: list[Any] = []
    for _ in range(200):
        deep = [deep]
    assert CODEC.decode_for("key", CODEC.encode_for("key", deep)) == deep


def test_control_a_reader_that_believes_lengths_takes_memory_for_them():
    """What a reader does that makes room for as much as is claimed: the measure sees it."""
    data = BOMBS["arrays of half the input, nested"](100_000)

    def believe() -> None:
        held = [[None] * struct.unpack_from(">I", data, at + 1)[0] for at in range(0, 250, 5)]
        assert len(held) == 50

    assert peak_of(believe) > PER_BYTE * len(data) + SPARE
