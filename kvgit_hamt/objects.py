"""Commits, ref values, reflog entries and the store's own description, as bytes.

Spec: docs/format.md, "Commits", "Refs", "Store description".
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from kvgit_hamt import wire
from kvgit_hamt.errors import CorruptionError, FormatVersionError, InvalidInputError
from kvgit_hamt.node import BLOB, COMMIT, PLACE_BYTES, VERSION
from kvgit_hamt.oid import OID_BYTES
from kvgit_hamt.path import Shape
from kvgit_hamt.results import Commit

FORMAT_VERSION = 1
HASH_NAME = "xxh3"  # of key paths; the only one a store may name
COMMITS_KEPT = 2_048  # in each of the two generations of a cache of commits
COMMIT_KEPT_BYTES = (
    1_024  # of a record: commits with a long info are not kept, so a cache has some 16 MB at most
)
BLOB_HEADER = bytes((BLOB, VERSION))
MIN_TIME_US, MAX_TIME_US = -62_135_596_800_000_000, 253_402_300_799_999_999  # years 1 to 9999
_COMMIT_HEADER = struct.Struct("<BBH")
_BRANCH_OPENING, _NIL, _BRANCH_BYTES = b"\x92\xc4\x20", b"\xc0", 36  # a list of two: bin of 32 bytes, nil
_COMMIT_OPENING = bytes((COMMIT, VERSION))
Link = tuple[bytes, bytes]


class CommitObject(NamedTuple):
    """A commit as the engine handles it.

    Attributes:
        oid, loc: its own.
        tree: (oid, loc) of its root.
        parents: (oid, loc) of each, in order.
        generation: 1 + the largest of the parents'; 1 for the initial commit.
        time_us: microseconds since 1970 in UTC, None for a commit without a time.
        info: the caller's map, None if there is none.
        codec: name of the codec of its values.
    """

    oid: bytes
    loc: bytes
    tree: Link
    parents: tuple[Link, ...]
    generation: int
    time_us: int | None
    info: dict[str, Any] | None
    codec: str


class CommitCache:
    """Commits that were read, by their link, in two generations; the older one is dropped whole.

    A commit is never changed under its place, so nothing here is ever stale. ``shown`` is for what callers
    are given of them, by oid; it goes with the older generation.

    Args:
        is_on: False keeps none.
    """

    __slots__ = ("_most", "_old", "_young", "shown")

    def __init__(self, is_on: bool) -> None:
        self._most = COMMITS_KEPT if is_on else 0
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._young: dict[Link, CommitObject] = {}
        self._old: dict[Link, CommitObject] = {}
        self.shown: dict[bytes, Commit] = {}

    def get(self, link: Link) -> CommitObject | None:
        """A commit that is kept, else None."""
        found = self._young.get(link)
        if found is None and link in self._old:
            found = self._old[link]
            self.put(link, found)
        return found

    def put(self, link: Link, commit: CommitObject) -> None:
        """Keep a commit; may drop the older generation."""
        if len(self._young) >= self._most:
            if not self._most:
                return
            self._old, self._young = self._young, {}
            self.shown.clear()
        self._young[link] = commit

    def show(self, commit: CommitObject, make: Callable[[CommitObject], Commit]) -> Commit:
        """What callers are given of a commit; made anew each time if they could change it."""
        found = self.shown.get(commit.oid)
        if found is None:
            found = make(commit)
            if commit.info is None and len(self.shown) < 2 * self._most:
                self.shown[commit.oid] = found
        return found


def encode_commit(
    tree: bytes, parents: tuple[bytes, ...], generation: int, time_us: int | None,
    info: Mapping[str, Any] | None, codec: str,
) -> bytes:  # fmt: skip
    """The payload of a commit; its oid is the SHA-256 of it.

    Raises:
        InvalidInputError: ``info`` holds something other than plain data under str keys.
    """
    if time_us is not None:
        _check_time(time_us)
    try:
        if info is None:
            fields = wire.pack_scalars([tree, list(parents), generation, time_us, None, codec])
        else:
            fields = wire.pack([tree, list(parents), generation, time_us, dict(info), codec])
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInputError(
            f"info holds something that msgpack cannot: {error}; give plain data under str keys"
        ) from error
    return _COMMIT_HEADER.pack(COMMIT, VERSION, len(parents)) + fields


def decode_commit(oid: bytes, loc: bytes, body: bytes, strict: bool = True) -> CommitObject:
    """A commit from its verified body.

    Args:
        strict: False skips the proof that its fields are in canonical form: see ``wire.unpack``.

    Raises:
        CorruptionError: these bytes are no commit.
    """
    if len(body) < _COMMIT_HEADER.size or body[:2] != _COMMIT_OPENING:
        raise CorruptionError(f"commit {oid.hex()}: the stored object is no commit")
    count = body[2] | body[3] << 8
    end = len(body) - (PLACE_BYTES * (count + 1) if loc else 0)
    fields = wire.unpack(body[_COMMIT_HEADER.size : end], f"commit {oid.hex()}", strict)
    if not _is_commit(fields, count):
        raise CorruptionError(f"commit {oid.hex()}: malformed fields")
    tree, parents, generation, time_us, info, codec = fields
    if not loc:
        links = tuple([(parent, b"") for parent in parents])
        return CommitObject(oid, loc, (tree, b""), links, generation, time_us, info, codec)
    root = body[end : end + PLACE_BYTES]
    locs = [body[at : at + PLACE_BYTES] for at in range(end + PLACE_BYTES, len(body), PLACE_BYTES)]
    return CommitObject(
        oid, loc, (tree, root), tuple(zip(parents, locs, strict=True)), generation, time_us, info, codec
    )


def _is_commit(fields: Any, parent_count: int) -> bool:
    if not isinstance(fields, list) or len(fields) != 6:
        return False
    tree, parents, generation, time_us, info, codec = fields
    return (
        is_oid(tree)
        and isinstance(parents, list)
        and len(parents) == parent_count
        and all(map(is_oid, parents))
        and type(generation) is int
        and generation >= 1
        and (time_us is None or is_time(time_us))
        and (info is None or isinstance(info, dict))
        and isinstance(codec, str)
    )


def is_time(value: Any) -> bool:
    """Whether a decoded value is a time in the years 1 to 9999."""
    return type(value) is int and MIN_TIME_US <= value <= MAX_TIME_US


def is_oid(value: Any) -> bool:
    """Whether a decoded value has the form of an oid."""
    return isinstance(value, bytes) and len(value) == OID_BYTES


@dataclass(frozen=True, slots=True)
class RefValue:
    """What a ref holds: the oid of a commit, and for a tag the caller's info."""

    oid: bytes
    info: dict[str, Any] | None = None


def encode_ref(value: RefValue) -> bytes:
    """The bytes of a ref's value."""
    if value.info is None:
        return wire.pack_scalars([value.oid, None])
    return wire.pack([value.oid, value.info])


def decode_ref(name: str, data: bytes) -> RefValue:
    """A ref's value; CorruptionError if it is none."""
    if len(data) == _BRANCH_BYTES and data.startswith(_BRANCH_OPENING) and data.endswith(_NIL):
        return RefValue(data[len(_BRANCH_OPENING) : -1])  # the only form without info
    fields = wire.unpack(data, f"ref {name}")
    if (
        not isinstance(fields, list)
        or len(fields) != 2
        or not is_oid(fields[0])
        or not isinstance(fields[1], (dict, type(None)))
    ):
        raise CorruptionError(f"ref {name}: malformed value")
    return RefValue(fields[0], fields[1])


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One move of a ref: ``old`` None where it was created, ``new`` None where it was deleted."""

    old: bytes | None
    new: bytes | None
    time_us: int
    why: str


def _check_time(time_us: int) -> None:
    """Refuse what could not be read again: of a clock that is off, or counts in other units."""
    if not is_time(time_us):
        raise InvalidInputError(
            f"the clock says {time_us!r:.40}: it must give whole microseconds since 1970, in years 1 to 9999"
        )


def encode_log_entry(entry: LogEntry) -> bytes:
    """The bytes of a reflog entry; InvalidInputError for a time that no calendar holds."""
    _check_time(entry.time_us)
    return wire.pack_scalars([entry.old, entry.new, entry.time_us, entry.why])


def decode_log_entry(name: str, data: bytes) -> LogEntry:
    """A reflog entry; CorruptionError if it is none."""
    fields = wire.unpack(data, f"reflog of {name}")
    if (
        not isinstance(fields, list)
        or len(fields) != 4
        or not all(value is None or is_oid(value) for value in fields[:2])
        or not is_time(fields[2])
        or not isinstance(fields[3], str)
    ):
        raise CorruptionError(f"reflog of {name}: malformed entry")
    return LogEntry(*fields)


@dataclass(frozen=True, slots=True)
class Config:
    """What a store says of itself: the form of its trees and the codec of its values."""

    shape: Shape
    codec: str


def encode_config(config: Config) -> bytes:
    """The bytes of a store's description."""
    shape = config.shape
    return wire.pack({
        "format": FORMAT_VERSION, "hash": HASH_NAME, "codec": config.codec, "bits": shape.bits,
        "leaf_max": shape.leaf_max, "inline_max": shape.inline_max, "index_min": shape.index_min,
    })  # fmt: skip


def decode_config(data: bytes) -> Config:
    """A store's description.

    Raises:
        FormatVersionError: a newer or foreign format, or parameters this version does not know.
        CorruptionError: not a description at all.
    """
    fields = wire.unpack(data, "the store's description")
    if not isinstance(fields, dict) or "format" not in fields:
        raise CorruptionError("the store's description is malformed")
    if fields["format"] != FORMAT_VERSION:
        raise FormatVersionError(
            f"the store has format version {fields['format']!r}; this library reads version "
            f"{FORMAT_VERSION}. Install a kvgit_hamt that knows it; nothing was changed"
        )
    known = {"format", "hash", "codec", "bits", "leaf_max", "inline_max", "index_min"}
    if set(fields) != known or fields["hash"] != HASH_NAME or not isinstance(fields["codec"], str):
        raise FormatVersionError("the store uses parameters that this version does not know")
    numbers = {name: fields[name] for name in ("bits", "leaf_max", "inline_max", "index_min")}
    if any(type(number) is not int for number in numbers.values()):
        raise FormatVersionError("the store uses parameters that this version does not know")
    try:
        return Config(Shape(**numbers), fields["codec"])
    except ValueError as error:
        raise FormatVersionError(f"the store uses unknown parameters: {error}") from error
