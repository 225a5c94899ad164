"""A run: a batch of entries or changes, sorted by path, in columns.

A run holds no Python object per entry, so a spilled one can lie in a file and a leaf can be cut out
of it by slices. ``Pieces`` is what several runs say about one range of paths, the last one winning.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import eq, sub
from typing import Any, NamedTuple

from kvgit_hamt import node
from kvgit_hamt.path import ENTRY_BYTES, PATH_BITS, TAIL_BITS, Shape

_HALF = (1 << 64) - 1
_IS_LITTLE = sys.byteorder == "little"


class Run(NamedTuple):
    """Entries in path order (ties by tail, then key), each key once.

    Attributes:
        hi, lo: upper and lower 64 bits of each path, native u64.
        ends: end of key and end of value in ``heap``, two a entry, u64.
        kinds: node.INLINE, BLOB_VALUE or DELETED, one byte an entry; b"" when all are inline.
        heap: key, stored value, key, stored value, ..
        locs: 8 bytes for each BLOB_VALUE entry, or b"" when there are no places.
    """

    hi: Sequence[int]
    lo: Sequence[int]
    ends: Sequence[int]
    kinds: bytes
    heap: bytes | memoryview
    locs: bytes

    def start(self, index: int) -> int:
        """Offset in the heap of an entry."""
        return self.ends[2 * index - 1] if index else 0

    def path(self, index: int) -> int:
        """The 128-bit path of an entry."""
        return self.hi[index] << 64 | self.lo[index]

    def key(self, index: int) -> bytes:
        """The key of an entry."""
        return bytes(self.heap[self.start(index) : self.ends[2 * index]])

    def kind(self, index: int) -> int:
        """The kind of an entry's value."""
        return self.kinds[index] if self.kinds else node.INLINE

    def weight(self, i: int, j: int) -> int:
        """Weight of the entries i to j: keys, stored values, and five bytes each."""
        return self.start(j) - self.start(i) + ENTRY_BYTES * (j - i)

    def loc(self, index: int) -> bytes:
        """The location of a BLOB_VALUE entry's blob."""
        at = node.PLACE_BYTES * self.kinds.count(node.BLOB_VALUE, 0, index)
        return self.locs[at : at + node.PLACE_BYTES]

    def packed_paths(self, i: int, j: int) -> list[bytes]:
        """The paths of entries i to j, 16 bytes each, big-endian."""
        flat = array("Q", bytes(16 * (j - i)))
        flat[0::2] = array("Q", self.hi[i:j])
        flat[1::2] = array("Q", self.lo[i:j])
        if _IS_LITTLE:
            flat.byteswap()
        packed = flat.tobytes()
        return [packed[at : at + 16] for at in range(0, len(packed), 16)]

    def cut(self, shape: Shape, i: int, j: int, bit: int) -> int:
        """The first of the entries i to j whose path has ``bit`` set; they share all bits above."""
        if i == j:
            return i
        if bit < 64:
            keep = 64 - bit
            return bisect_left(self.hi, (self.hi[i] >> keep << keep) | 1 << keep - 1, i, j)
        if bit < PATH_BITS:
            keep = PATH_BITS - bit
            return bisect_left(self.lo, (self.lo[i] >> keep << keep) | 1 << keep - 1, i, j)
        mask = 1 << TAIL_BITS - 1 - (bit - PATH_BITS)
        while i < j:
            middle = (i + j) // 2
            if shape.tail(self.key(middle)) & mask:
                j = middle
            else:
                i = middle + 1
        return i

    def slot(self, shape: Shape, index: int, level: int) -> int:
        """The slot of an entry in a node at ``level``."""
        shift = PATH_BITS - shape.bits * (level + 1)
        if shift >= 0:
            return self.path(index) >> shift & shape.slots - 1
        return shape.slot(self.key(index), self.path(index), level)

    def bound(self, shape: Shape, i: int, j: int, level: int, slot: int) -> int:
        """The first of the entries i to j, all in one node at ``level``, at or past a slot."""
        if slot == shape.slots:
            return j
        keep = 64 - shape.bits * (level + 1)
        if keep >= 0:
            above = keep + shape.bits
            return bisect_left(self.hi, self.hi[i] >> above << above | slot << keep, i, j)
        while i < j:
            middle = (i + j) // 2
            if shape.slot(self.key(middle), self.path(middle), level) >= slot:
                j = middle
            else:
                i = middle + 1
        return i

    def entries(self, i: int, j: int) -> node.Entries:
        """Entries i to j as columns of a leaf; DELETED ones are left out."""
        records, lengths, tags, kinds, locs = [], [], bytearray(), bytearray(), []
        at = self.start(i)
        for index in range(i, j):
            end = self.ends[2 * index + 1]
            kind = self.kind(index)
            if kind != node.DELETED:
                records.append(bytes(self.heap[at:end]))
                lengths.append(self.ends[2 * index] - at)
                tags.append(self.lo[index] & 255)
                kinds.append(kind)
                locs.append(self.loc(index) if kind == node.BLOB_VALUE else b"")
            at = end
        return node.Entries(records, lengths, tags, kinds, locs)

    def leaf(self, i: int, j: int) -> bytes:
        """The body of a leaf of entries i to j (none of them DELETED)."""
        if self.kinds and node.BLOB_VALUE in self.kinds[i:j]:
            return node.leaf_encode(self.entries(i, j))
        start = self.start(i)
        ends = [end - start for end in self.ends[2 * i : 2 * j]]
        tags = bytes([low & 255 for low in self.lo[i:j]])
        return node.leaf_pack(tags, ends, b"", bytes(self.heap[start : self.start(j)]), b"")

    def extra(self, i: int, j: int) -> int:
        """Bytes by which the blobs of entries i to j are longer than their references."""
        if not self.kinds:
            return 0
        total = 0
        for index in range(i, j):
            if self.kinds[index] == node.BLOB_VALUE:
                end = self.ends[2 * index + 1]
                total += int.from_bytes(self.heap[end - 8 : end], "little") - node.REF_BYTES
        return total


EMPTY_RUN = Run(array("Q"), array("Q"), array("Q"), b"", b"", b"")


@dataclass(slots=True)
class Builder:
    """Collects entries in any order; ``finish`` sorts them into a run."""

    shape: Shape
    paths: list[bytes]
    records: list[bytes]
    key_lengths: list[int]
    kinds: bytearray
    locs: dict[int, bytes]
    size: int

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.paths = []
        self.records = []
        self.key_lengths = []
        self.kinds = bytearray()
        self.locs = {}
        self.size = 0

    def __len__(self) -> int:
        return len(self.records)

    def add(self, key: bytes, stored: bytes, kind: int = node.INLINE, loc: bytes = b"") -> None:
        """Add one entry; a later one of the same key replaces an earlier one."""
        if loc:
            self.locs[len(self.records)] = loc
        self.paths.append(self.shape.hash(key).to_bytes(16, "big"))
        record = key + stored
        self.records.append(record)
        self.key_lengths.append(len(key))
        self.kinds.append(kind)
        self.size += len(record)

    def extend(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Add many inline entries."""
        self.paths += self.shape.packed_paths(keys)
        records = list(map(bytes.__add__, keys, values))
        self.records += records
        self.key_lengths += map(len, keys)
        self.kinds.extend(bytes(len(records)))
        self.size += sum(map(len, records))

    def extend_pairs(
        self, pairs: list[tuple[str, Any]], encode: Callable[[Any], bytes] | None, limit: int
    ) -> int:
        """Add (key, value) pairs from the first on, as far as they are ordinary; how many that were.

        The compiled kernel takes keys of ASCII, and values of at most ``limit`` bytes when encoded
        (None: they are bytes). This one leaves all to the caller.
        """
        return 0

    def finish(self) -> Run:
        """The run of all entries added, sorted, the last of each key kept."""
        paths = self.paths
        order = sorted(range(len(paths)), key=paths.__getitem__)
        ordered = [paths[i] for i in order]
        if any(map(eq, ordered, islice(ordered, 1, None))):
            order = self._settle(order)
            ordered = [paths[i] for i in order]
        records = [self.records[i] for i in order]
        lengths = [self.key_lengths[i] for i in order]
        flat = array("Q", b"".join(ordered))
        if _IS_LITTLE:
            flat.byteswap()
        ends = array("Q", node.accumulate_ends(
            lengths, [len(r) - k for r, k in zip(records, lengths, strict=True)]
        ))  # fmt: skip
        kinds = b""
        locs = b""
        if any(self.kinds):
            kinds = bytes([self.kinds[i] for i in order])
            kinds = kinds if any(kinds) else b""
            locs = b"".join([self.locs[i] for i in order if i in self.locs])
        return Run(flat[0::2], flat[1::2], ends, kinds, b"".join(records), locs)

    def _settle(self, order: list[int]) -> list[int]:
        """Order entries of equal paths by tail and key, and keep the last of each key."""

        def key_of(i: int) -> bytes:
            return self.records[i][: self.key_lengths[i]]

        last = {key_of(i): i for i in sorted(order)}
        crowded: dict[bytes, int] = {}
        for i in last.values():
            crowded[self.paths[i]] = crowded.get(self.paths[i], 0) + 1

        def rank(i: int) -> tuple[bytes, int, bytes]:
            if crowded[self.paths[i]] == 1:
                return self.paths[i], 0, b""
            return self.paths[i], self.shape.tail(key_of(i)), key_of(i)

        return sorted(last.values(), key=rank)


def run_of_leaf(shape: Shape, body: bytes) -> Run:
    """The entries of a leaf as a run: the keys are hashed, the order is the leaf's."""
    entries = node.leaf_entries(body)
    paths = array("Q")
    values = []
    for record, length in zip(entries.records, entries.key_lengths, strict=True):
        path = shape.hash(record[:length])
        paths.append(path >> 64)
        paths.append(path & _HALF)
        values.append(len(record) - length)
    kinds = bytes(entries.kinds) if any(entries.kinds) else b""
    ends = array("Q", node.accumulate_ends(entries.key_lengths, values))
    return Run(paths[0::2], paths[1::2], ends, kinds, b"".join(entries.records), b"".join(entries.locs))


class Piece(NamedTuple):
    """Entries i to j of a run."""

    run: Run
    i: int
    j: int


@dataclass(frozen=True, slots=True)
class Pieces:
    """What several runs hold for one range of paths; of equal keys the last piece counts."""

    pieces: tuple[Piece, ...]

    def count(self) -> int:
        """Entries, those of equal keys counted each."""
        return sum(piece.j - piece.i for piece in self.pieces)

    def size(self) -> int:
        """Bytes of keys and stored values."""
        return sum(p.run.start(p.j) - p.run.start(p.i) for p in self.pieces)

    def cut(self, shape: Shape, bit: int) -> tuple[Pieces, Pieces]:
        """The two halves by a bit of the path; all entries share the bits above it."""
        left, right = [], []
        for run, i, j in self.pieces:
            middle = run.cut(shape, i, j, bit)
            if middle > i:
                left.append(Piece(run, i, middle))
            if j > middle:
                right.append(Piece(run, middle, j))
        return Pieces(tuple(left)), Pieces(tuple(right))

    def flatten(self, shape: Shape, keep_deleted: bool) -> Run:
        """One run of the range, in memory. Without ``keep_deleted`` deletions take effect."""
        if not self.pieces:
            return EMPTY_RUN
        builder = Builder(shape)
        for run, i, j in self.pieces:
            if run.locs:
                at = len(builder.records)
                for index in range(i, j):
                    if run.kind(index) == node.BLOB_VALUE:
                        builder.locs[at + index - i] = run.loc(index)
            heap, base = bytes(run.heap[run.start(i) : run.start(j)]), run.start(i)
            middles = [end - base for end in run.ends[2 * i : 2 * j : 2]]
            ends = [end - base for end in run.ends[2 * i + 1 : 2 * j : 2]]
            starts = [0, *ends[:-1]]
            builder.records += [heap[a:b] for a, b in zip(starts, ends, strict=True)]
            builder.key_lengths += map(sub, middles, starts)
            builder.kinds += run.kinds[i:j] if run.kinds else bytes(j - i)
            builder.paths += run.packed_paths(i, j)
        whole = builder.finish()
        if keep_deleted or node.DELETED not in whole.kinds:
            return whole
        return drop_deleted(whole, 0, len(whole.hi))


def flatten(pieces: Pieces, shape: Shape, keep_deleted: bool) -> Run:
    """One run of what pieces hold: see ``Pieces.flatten``."""
    return pieces.flatten(shape, keep_deleted)


def drop_deleted(run: Run, i: int, j: int) -> Run:
    """Entries i to j of a run without the DELETED ones."""
    kept = [n for n in range(i, j) if run.kind(n) != node.DELETED]
    entries = run.entries(i, j)
    values = [
        len(record) - length for record, length in zip(entries.records, entries.key_lengths, strict=True)
    ]
    return Run(
        array("Q", [run.hi[n] for n in kept]), array("Q", [run.lo[n] for n in kept]),
        array("Q", node.accumulate_ends(entries.key_lengths, values)),
        bytes(entries.kinds) if any(entries.kinds) else b"",
        b"".join(entries.records), b"".join(entries.locs),
    )  # fmt: skip


def make_run(shape: Shape, changes: Sequence[tuple[bytes, node.Value | None]]) -> Run:
    """A run of changes: (key, value), None deletes."""
    builder = Builder(shape)
    for key, value in changes:
        if value is None:
            builder.add(key, b"", node.DELETED)
        elif isinstance(value, node.BlobRef):
            stored = value.oid + value.length.to_bytes(8, "little")
            builder.add(key, stored, node.BLOB_VALUE, value.loc)
        else:
            builder.add(key, value)
    return builder.finish()


def splice(shape: Shape, body: bytes, run: Run, i: int, j: int) -> bytes | None:
    """Apply changes i to j of a run to a leaf.

    Returns:
        the new body, of whatever weight, or None when the changes change nothing.
    """
    entries = node.leaf_entries(body)
    changed = False
    start = run.start(i)
    for index in range(i, j):
        middle, end = run.ends[2 * index], run.ends[2 * index + 1]
        record = bytes(run.heap[start:end])
        length = middle - start
        start = end
        tag = run.lo[index] & 255
        at = _position(entries, tag, record[:length])
        kind = run.kind(index)
        if kind == node.DELETED:
            if at >= 0:
                changed = True
                for column in entries:
                    del column[at]
        elif at < 0:
            changed = True
            at = _insertion_point(shape, entries, run.path(index), record[:length])
            entries.records.insert(at, record)
            entries.key_lengths.insert(at, length)
            entries.tags.insert(at, tag)
            entries.kinds.insert(at, kind)
            entries.locs.insert(at, run.loc(index) if kind == node.BLOB_VALUE else b"")
        elif entries.records[at] != record or entries.kinds[at] != kind:
            changed = True
            entries.records[at] = record
            entries.kinds[at] = kind
            entries.locs[at] = run.loc(index) if kind == node.BLOB_VALUE else b""
    return node.leaf_encode(entries) if changed else None


def _position(entries: node.Entries, tag: int, key: bytes) -> int:
    """Index of a key among the entries of a leaf, -1 if it is not there."""
    size = len(key)
    at = entries.tags.find(tag)
    while at >= 0:
        if entries.key_lengths[at] == size and entries.records[at].startswith(key):
            return at
        at = entries.tags.find(tag, at + 1)
    return -1


def _insertion_point(shape: Shape, entries: node.Entries, path: int, key: bytes) -> int:
    """Where a key that is not there belongs; hashes the keys that the binary search meets."""
    low, high = 0, len(entries.records)
    while low < high:
        middle = (low + high) // 2
        other = entries.records[middle][: entries.key_lengths[middle]]
        other_path = shape.hash(other)
        if other_path == path:
            is_before = (shape.tail(other), other) < (shape.tail(key), key)
        else:
            is_before = other_path < path
        if is_before:
            low = middle + 1
        else:
            high = middle
    return low
