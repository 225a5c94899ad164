"""Verifies the objects of a bundle one by one, children first: canonical form, figures, places of keys.

Each object is looked at once. What is kept of it (``Known``) is enough to verify whatever refers to it, so
that in the end each tree is known to be the one valid tree of its entries.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from kvgit_hamt import node
from kvgit_hamt.bundle_format import BASE as BASE_FRAME
from kvgit_hamt.bundle_format import COMMIT as COMMIT_FRAME
from kvgit_hamt.bundle_format import FrameReader, Header
from kvgit_hamt.bundle_spill import SpillMap
from kvgit_hamt.errors import CorruptionError
from kvgit_hamt.node import BLOB, COMMIT, EMPTY_SLOT, INNER, LEAF, BlobRef, Children
from kvgit_hamt.objects import BLOB_HEADER, CommitObject, decode_commit
from kvgit_hamt.path import MAX_KEY_BYTES, PATH_BITS

UNREAD_LEVEL = -2  # of stored leaves that were not looked into: the paths below them are not known
UNKNOWN_LEVEL = -1  # of leaves, which have none, and below forged keys that share all of their path
TOO_MUCH = 1 << 63  # bytes or entries
_KNOWN = struct.Struct("<8sBhHQQQ16s16s")
_ZERO = bytes(16)


class Known(NamedTuple):
    """What is kept of an object that was verified.

    Attributes:
        loc: where it lies, 8 bytes; zeros where there are no places.
        kind: LEAF, INNER, BLOB or COMMIT.
        level: of an inner node, below the root (0); UNKNOWN_LEVEL if it cannot be told.
        height: of a node, above the lowest leaf.
        entry_count, size, extra: figures of a tree. ``size`` of a blob is the value's length,
            ``entry_count`` of a commit its generation.
        low, high: paths of the first and the last entry, 16 bytes each; of a stored node bounds of them, of
            one with unread leaves those of the others.
    """

    loc: bytes
    kind: int
    level: int = UNKNOWN_LEVEL
    height: int = 0
    entry_count: int = 0
    size: int = 0
    extra: int = 0
    low: bytes = _ZERO
    high: bytes = _ZERO


class Checker:
    """Verifies objects and remembers them.

    Args:
        is_open: objects that are not known may be referred to: those of prerequisites, when there is no
            store at hand that holds them.
    """

    def __init__(self, header: Header, is_open: bool) -> None:
        self.shape = header.shape
        self.codec = header.codec
        self.prerequisites = frozenset(header.prerequisites)
        self.is_open = is_open and bool(header.prerequisites)
        self._known = SpillMap()

    def close(self) -> None:
        """Give memory and temporary files back."""
        self._known.close()

    def find(self, oid: bytes) -> Known | None:
        """What is known of an object."""
        data = self._known.get(oid)
        return None if data is None else Known(*_KNOWN.unpack(data))

    def put(self, oid: bytes, known: Known) -> None:
        """Remember an object."""
        self._known.put(oid, _KNOWN.pack(*known))

    def need(self, oid: bytes, kinds: Sequence[int], by: bytes) -> Known | None:
        """An object that another refers to.

        Returns:
            None where it may be missing: it is a prerequisite's.
        """
        known = self.find(oid)
        if known is None:
            if self.is_open if COMMIT not in kinds else oid in self.prerequisites:
                return None
            raise CorruptionError(f"object {by.hex()} refers to {oid.hex()}, which is not in the bundle")
        if known.kind not in kinds:
            raise CorruptionError(f"object {by.hex()} refers to {oid.hex()}, which is of another kind")
        return known

    # objects

    def blob(self, oid: bytes, payload: bytes) -> Known:
        """Verify a blob."""
        if payload[:2] != BLOB_HEADER or len(payload) - len(BLOB_HEADER) <= self.shape.inline_max:
            raise CorruptionError(f"object {oid.hex()} is no blob, or too small for one")
        return Known(_ZERO[:8], BLOB, size=len(payload) - len(BLOB_HEADER))

    def leaf(self, oid: bytes, payload: bytes) -> Known:
        """Verify a leaf by itself; of the blobs that it refers to see ``blobs_of``."""
        node.check_node(payload)
        entries = node.leaf_entries(payload)
        keys = [record[:n] for record, n in zip(entries.records, entries.key_lengths, strict=True)]
        paths = self.shape.packed_paths(keys)
        is_ordered = all(
            one < other or (one == other and self._rank(a) < self._rank(b))
            for (one, a), (other, b) in pairwise(zip(paths, keys, strict=True))
        )
        if not is_ordered or bytes(path[-1] for path in paths) != entries.tags:
            raise CorruptionError(f"leaf {oid.hex()} is not in the order of its paths")
        for key, record, kind in zip(keys, entries.records, entries.kinds, strict=True):
            self._check_entry(oid, key, record, kind)
        count, size, extra = node.leaf_stats(payload)
        if extra >= TOO_MUCH:
            raise CorruptionError(f"leaf {oid.hex()} claims more than there can be")
        ends = (paths[0], paths[-1]) if paths else (_ZERO, _ZERO)
        return Known(_ZERO[:8], LEAF, UNKNOWN_LEVEL, 0, count, size, extra, *ends)

    def _rank(self, key: bytes) -> tuple[int, bytes]:
        return self.shape.tail(key), key

    def _check_entry(self, oid: bytes, key: bytes, record: bytes, kind: int) -> None:
        length = len(record) - len(key)
        if kind == node.BLOB_VALUE:
            length = int.from_bytes(record[-8:], "little")
        if len(key) > MAX_KEY_BYTES or (length > self.shape.inline_max) != (kind == node.BLOB_VALUE):
            raise CorruptionError(f"leaf {oid.hex()} holds an entry that belongs elsewhere")
        try:
            key.decode()
        except UnicodeDecodeError as error:
            raise CorruptionError(f"leaf {oid.hex()} holds a key that is no text") from error

    def inner(self, oid: bytes, payload: bytes) -> tuple[Known, list[Known | None]]:
        """Verify an inner node and what its children are; these too, in its order."""
        node.check_node(payload)
        shape = self.shape
        if payload[2] != shape.bits:
            raise CorruptionError(f"inner node {oid.hex()} is of another store: bits {payload[2]}")
        children = node.inner_children(payload)
        found = [self.need(child, (LEAF, INNER), oid) for child in children.oids]
        figures = zip(children.counts, children.sizes, children.extras, strict=True)
        for known, (count, size, extra) in zip(found, figures, strict=True):
            if known is not None and (
                (known.entry_count, known.size, known.extra) != (count, size, extra)
                or (known.kind == LEAF) != shape.is_leaf(count, size)
            ):
                raise CorruptionError(f"inner node {oid.hex()} has wrong figures of a child")
        totals = sum(children.counts), sum(children.sizes), sum(children.extras)
        if shape.is_leaf(*totals[:2]) or self._has_joinable(children):
            raise CorruptionError(f"inner node {oid.hex()} holds leaves that belong in one")
        if max(totals) >= TOO_MUCH:
            raise CorruptionError(f"inner node {oid.hex()} claims more than there can be")
        there = [known for known in found if known is not None and known.level != UNREAD_LEVEL]
        ends = (there[0].low, there[-1].high) if there else (_ZERO, _ZERO)
        return Known(_ZERO[:8], INNER, *self._position(oid, children, found), *totals, *ends), found

    def _has_joinable(self, children: Children) -> bool:
        """Whether two neighbours that make one aligned run are light together."""
        runs = node.inner_runs(children.slots)
        for (start, width, one), (_, other_width, other) in pairwise(runs):
            if width != other_width or start & (2 * width - 1):
                continue
            both = [number for number in (one, other) if number != EMPTY_SLOT]
            count = sum(children.counts[number] for number in both)
            if self.shape.is_leaf(count, sum(children.sizes[number] for number in both)):
                return True
        return False

    def _position(self, oid: bytes, children: Children, found: list[Known | None]) -> tuple[int, int]:
        """(level, height) of an inner node, from the paths of the entries below it.

        Raises:
            CorruptionError: some of these do not belong there.
        """
        there = [known for known in found if known is not None]
        height = 1 + max((known.height for known in there), default=0)
        if height > self.shape.max_level + 1:
            raise CorruptionError(f"inner node {oid.hex()} is deeper than any tree")
        return self._level(oid, children, found), height

    def _level(self, oid: bytes, children: Children, found: list[Known | None]) -> int:
        there = [
            (number, known)
            for number, known in enumerate(found)
            if known is not None and known.level != UNREAD_LEVEL
        ]
        if not there:
            return UNREAD_LEVEL
        bits = self.shape.bits
        low = int.from_bytes(there[0][1].low, "big")
        high = int.from_bytes(there[-1][1].high, "big")
        common = PATH_BITS - (low ^ high).bit_length()
        if len(there) > 1:
            level = common // bits
        else:
            below = there[0][1].level
            level = UNKNOWN_LEVEL if below == UNKNOWN_LEVEL else below - 1
            if below == 0:
                raise CorruptionError(f"inner node {oid.hex()} holds keys that belong elsewhere")
        if level == UNKNOWN_LEVEL or bits * (level + 1) > PATH_BITS:
            return UNKNOWN_LEVEL
        shift = PATH_BITS - bits * (level + 1)
        prefix = low >> shift + bits
        for number, known in there:
            ends = [int.from_bytes(end, "big") >> shift for end in (known.low, known.high)]
            is_here = all(
                end >> bits == prefix and children.slots[end & self.shape.slots - 1] == number for end in ends
            )
            if not is_here or known.level not in (UNKNOWN_LEVEL, level + 1):
                raise CorruptionError(f"inner node {oid.hex()} holds keys that belong elsewhere")
        return level

    def commit(self, oid: bytes, payload: bytes) -> CommitObject:
        """Verify a commit, its root and its parents."""
        commit = decode_commit(oid, b"", payload)
        if commit.codec != self.codec:
            raise CorruptionError(f"commit {oid.hex()} has another codec than the bundle")
        root = self.need(commit.tree[0], (LEAF, INNER), oid)
        if root is not None:
            is_light = self.shape.is_leaf(root.entry_count, root.size)
            if (root.kind == LEAF) != is_light or (root.kind == INNER and root.level > 0):
                raise CorruptionError(f"commit {oid.hex()} has a root that is the root of no tree")
        parents = [self.need(parent, (COMMIT,), oid) for parent, _ in commit.parents]
        highest = max((parent.entry_count for parent in parents if parent is not None), default=0)
        is_right = commit.generation == 1 + highest
        if not is_right and not (None in parents and commit.generation > highest):
            raise CorruptionError(f"commit {oid.hex()} has a wrong generation")
        return commit


def blobs_of(payload: bytes) -> Iterator[tuple[bytes, BlobRef]]:
    """(key, reference) of the out-of-line values of a leaf."""
    if node.has_blobs(payload):
        for key, value in node.leaf_items(payload):
            if isinstance(value, BlobRef):
                yield key, value


class Visitor:
    """What is done with the objects of a bundle that were found right; this one does nothing."""

    def begin(self, oid: bytes) -> None:
        """A commit's objects follow."""

    def base(self, prerequisite: int, slots: bytes) -> None:
        """The objects that follow refer to children of this node of a prerequisite's tree."""

    def find_blob(self, key: bytes, ref: BlobRef) -> Known | None:
        """An out-of-line value that is not in the bundle."""
        return None

    def put(self, oid: bytes, payload: bytes, below: list[Known]) -> bytes:
        """Take an object and what it refers to, in the order of its places; where it lies now."""
        return _ZERO[:8]


def visit(reader: FrameReader, checker: Checker, visitor: Visitor) -> None:
    """Read a whole bundle, verify each object, and hand it on. Children come before what refers to them.

    Raises:
        CorruptionError: anything is wrong with it. What was handed on before is as verified as all else.
    """
    header = reader.header
    current: bytes | None = None
    commit_count = 0
    for frame in reader.frames():
        if frame.kind == COMMIT_FRAME:
            if current is not None:
                raise CorruptionError(f"the bundle lacks commit {current.hex()}")
            current = frame.oid
            visitor.begin(current)
            continue
        if current is None:
            raise CorruptionError("the bundle holds something that belongs to no commit")
        if frame.kind == BASE_FRAME:
            visitor.base(frame.prerequisite, frame.slots)
        elif (frame.payload[:1] == bytes((COMMIT,))) != (frame.oid == current):
            raise CorruptionError(f"the bundle holds object {frame.oid.hex()} where commit "
                                  f"{current.hex()} should be")  # fmt: skip
        else:
            if checker.find(frame.oid) is None:
                _take(checker, visitor, frame.oid, frame.payload)
            if frame.oid == current:
                current = None
                commit_count += 1
    if current is not None or commit_count != header.commit_count:
        raise CorruptionError(f"the bundle holds {commit_count} of {header.commit_count} commits")
    for head in header.heads:
        known = checker.find(head.oid)
        if (known is None and head.oid not in checker.prerequisites) or (known and known.kind != COMMIT):
            raise CorruptionError(f"the bundle lacks commit {head.oid.hex()}")


def _take(checker: Checker, visitor: Visitor, oid: bytes, payload: bytes) -> None:
    """Verify one object that was not known before."""
    kind = payload[0] if payload else 0
    below: list[Known | None] = []
    if kind == LEAF:
        known = checker.leaf(oid, payload)
        below = [_blob(checker, visitor, key, ref) for key, ref in blobs_of(payload)]
    elif kind == INNER:
        known, below = checker.inner(oid, payload)
    elif kind == BLOB:
        known = checker.blob(oid, payload)
    elif kind == COMMIT:
        commit = checker.commit(oid, payload)
        known = Known(_ZERO[:8], COMMIT, entry_count=commit.generation)
        below = [checker.find(link[0]) for link in (commit.tree, *commit.parents)]
    else:
        raise CorruptionError(f"object {oid.hex()} of the bundle is of an unknown kind")
    loc = visitor.put(oid, payload, [each for each in below if each is not None])
    checker.put(oid, known._replace(loc=loc or _ZERO[:8]))


def _blob(checker: Checker, visitor: Visitor, key: bytes, ref: BlobRef) -> Known | None:
    known = checker.find(ref.oid) or visitor.find_blob(key, ref)
    if known is None and not checker.is_open:
        raise CorruptionError(f"out-of-line value {ref.oid.hex()} is not in the bundle")
    if known is not None and (known.kind != BLOB or known.size != ref.length):
        raise CorruptionError(f"out-of-line value {ref.oid.hex()} is not what a leaf says")
    return known
