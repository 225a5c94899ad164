"""Bytes that every record shares: the check over a record, and canonical msgpack.

Spec: docs/format.md, "Records" and "Canonical msgpack".
"""

from __future__ import annotations

import struct
from typing import Any

import msgpack
from xxhash import xxh3_64_digest

from kvgit_hamt.errors import CorruptionError

CHECK_BYTES = 8  # xxh3_64; a longer check would cost space in every node
PLACE_BYTES = 8  # one u64, little-endian: also the LMDB integer key as it stands
CLAIM_BYTES = 1_024  # msgpack up to here can make unpackb take a megabyte of room for items that never come
MAX_DEPTH = 64  # levels of list and map; ours use 4, the rest is the caller's info
_SCALARS = (str, bytes, int, float, type(None))  # a bool is an int


_packb, _unpackb = msgpack.packb, msgpack.unpackb
_seed = struct.Struct("<Q").unpack_from


def seal(oid: bytes, body: bytes) -> bytes:
    """The stored record of a body (payload + places): body + check, seeded from the oid."""
    return body + xxh3_64_digest(body, int.from_bytes(oid[:8], "little"))


def unseal(oid: bytes, record: bytes | None) -> bytes:
    """The body of a record that was read for ``oid``.

    Raises:
        CorruptionError: the record is missing (None), altered, or belongs to another oid.
    """
    if record is None:
        raise CorruptionError(f"object {oid.hex()} is missing from the store")
    body = record[:-8]
    if xxh3_64_digest(body, _seed(oid)[0]) != record[-8:]:
        raise CorruptionError(f"object {oid.hex()} is damaged: its stored bytes fail the check")
    return body


def place_of(number: int) -> bytes:
    """A place as it is stored: u64, little-endian."""
    return number.to_bytes(PLACE_BYTES, "little")


def shift_places(body: bytes, place_count: int, base: int, delta: int) -> bytes:
    """Move the places at a body's end that are at or past ``base`` by ``delta``.

    Used when another writer took the places that this batch was built on.
    """
    if not place_count or not delta:
        return body
    start = len(body) - PLACE_BYTES * place_count
    moved = [body[:start]]
    for at in range(start, len(body), PLACE_BYTES):
        place = int.from_bytes(body[at : at + PLACE_BYTES], "little")
        moved.append(place_of(place + delta if place >= base else place))
    return b"".join(moved)


def pack(value: Any) -> bytes:
    """Canonical msgpack: map keys sorted, shortest forms, so equal values give equal bytes.

    Raises:
        TypeError, ValueError, OverflowError: the value is not plain data (None, bool, int, float,
            str, bytes, list or tuple, dict with str keys), or is nested deeper than MAX_DEPTH.
    """
    packed: bytes = _packb(_sorted(value, MAX_DEPTH), use_bin_type=True)
    return packed


def pack_scalars(value: list[bytes | str | int | list[bytes] | None]) -> bytes:
    """``pack`` of a list without maps: nothing in it is to be sorted, and the caller knows its types."""
    packed: bytes = _packb(value, use_bin_type=True)
    return packed


def _sorted(value: Any, depth: int) -> Any:
    if isinstance(value, _SCALARS):
        return value
    if not depth:
        raise ValueError(f"lists and maps nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"map keys must be str, not {type(key).__name__}")
        return {key: _sorted(value[key], depth - 1) for key in sorted(value)}
    if isinstance(value, (list, tuple)) and not isinstance(value, msgpack.ExtType):
        return [_sorted(item, depth - 1) for item in value]
    raise TypeError(f"{type(value).__name__} is not plain data")


def check_claims(data: bytes) -> None:
    """Walk msgpack without building it: lists within lists that claim more than they hold get no room first.

    Raises:
        Exception: of msgpack's; it is not one whole value.
    """
    walker = msgpack.Unpacker(max_buffer_size=len(data))
    walker.feed(data)
    walker.skip()


def unpack(data: bytes, what: str, strict: bool = True) -> Any:
    """Decode canonical msgpack of ours.

    Args:
        strict: False skips the proof of canonical form, for bytes that a check has shown to be those that
            were written here.

    Raises:
        CorruptionError: not msgpack, trailing bytes, or not in canonical form.
    """
    try:
        if len(data) > CLAIM_BYTES:
            check_claims(data)
        value = _unpackb(data, raw=False, strict_map_key=True)
        canonical = pack(value) if strict else data
    except MemoryError:  # says nothing of the bytes: what they claim to need was looked at first
        raise
    except Exception as error:  # msgpack raises many kinds; all mean the same here
        raise CorruptionError(f"{what} is not canonical msgpack: {error}") from error
    if canonical != data:
        raise CorruptionError(f"{what} is not canonical msgpack")
    return value
