"""Bulk load: any number of entries into a tree, in bounded memory, in two passes.

The first pass sorts what fits in memory into runs and spills them to a temporary file. The second
walks the tree in path order and cuts the runs by path bits until a range fits in memory; each node
is written once, whatever the order in which the entries came.
"""

from __future__ import annotations

import mmap
import tempfile
from array import array
from collections.abc import Callable, Iterable
from typing import IO, Any, NamedTuple

from kvgit_hamt import kernel, node
from kvgit_hamt.hamt import Editor, Segment, Tree, Writer, empty_segment, segments_of, stats_of
from kvgit_hamt.kernel import Builder, run_of_leaf
from kvgit_hamt.node import INNER
from kvgit_hamt.path import PATH_BITS, Shape
from kvgit_hamt.run import Piece, Pieces, Run

DEFAULT_MEMORY_BYTES = 64 << 20
ENTRY_OVERHEAD_BYTES = 220  # Python objects of one entry while it is sorted (measured, CPython 3.11)
STEP = 4_096  # entries taken from the source at a time
FORGET_STEP = 65_536  # entries built between two times that pages of the spill file are given back

Columns = tuple[list[bytes], list[bytes | node.BlobRef]]


class Pairs(NamedTuple):
    """Entries that are not yet encoded.

    Attributes:
        pairs: (key, value).
        encode: of a value; None: it is stored as it is.
        limit: bytes of the largest encoded value that lies in a leaf.
        rest: encodes what ``Builder.extend_pairs`` leaves: keys, and values or references of blobs.
    """

    pairs: list[tuple[str, Any]]
    encode: Callable[[Any], bytes] | None
    limit: int
    rest: Callable[[list[tuple[str, Any]]], Columns]


Source = Iterable[Columns | Pairs]
"""Batches of keys and their stored values."""

Progress = Callable[[str, int, int], None]
"""(phase, entries done, entries known): phase is "read" (known is 0) or "build"."""


class Spill:
    """Runs that were too much for memory, in one temporary file that nobody else sees."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._map: mmap.mmap | None = None
        self._forgot = 0
        self._spans: list[tuple[int, int, int, bytes, bytes]] = []

    def write(self, run: Run) -> None:
        """Append a run to the file; its kinds and blob locations stay in memory."""
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="kvgit-hamt-")  # noqa: SIM115 (closed by close)
        at = self._file.tell()
        for column in (run.hi, run.lo, run.ends):
            self._file.write(memoryview(array("Q", column)).cast("B"))
        self._file.write(run.heap)
        self._file.write(b"\0" * (-len(run.heap) % 8))
        self._spans.append((at, len(run.hi), len(run.heap), run.kinds, run.locs))

    def runs(self) -> list[Run]:
        """The runs as views of the file; the system pages them in and out."""
        if self._file is None:
            return []
        self._file.flush()
        self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        view = memoryview(self._map)
        runs = []
        for at, count, heap_bytes, kinds, locs in self._spans:
            columns = []
            for width in (8 * count, 8 * count, 16 * count):
                columns.append(view[at : at + width].cast("Q"))
                at += width
            hi, lo, ends = columns
            runs.append(Run(hi, lo, ends, kinds, view[at : at + heap_bytes], locs))
        return runs

    def forget(self, done: int) -> None:
        """Give pages back that were read, now and then: the walk goes through each run from start to end.

        The system would do so only when it has no other memory left, and counts them as ours till then.
        """
        if self._map is not None and done - self._forgot >= FORGET_STEP and hasattr(mmap, "MADV_DONTNEED"):
            self._forgot = done
            self._map.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Give the file back."""
        if self._file is not None:
            self._file.close()
            self._file = None


def load(
    writer: Writer,
    shape: Shape,
    tree: Tree,
    source: Source,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    progress: Progress | None = None,
) -> Tree:
    """The tree with all entries of ``source`` put in; of equal keys the last one counts.

    Args:
        memory_bytes: about what sorting may hold at once; the rest goes to a temporary file.

    Cost: two passes over the entries; reads and writes each touched node of the tree once.
    """
    report = progress or (lambda phase, done, known: None)
    spill = Spill()
    try:
        builder = Builder(shape)
        runs: list[Run] = []
        done = 0
        for part in source:
            done += _add(builder, part)
            report("read", done, 0)
            if builder.size + ENTRY_OVERHEAD_BYTES * len(builder) > memory_bytes:
                spill.write(builder.finish())
                builder = Builder(shape)
        last = builder.finish() if len(builder) else None
        del builder
        runs = spill.runs()
        if last is not None:
            runs.append(last)
        pieces = Pieces(tuple(Piece(run, 0, len(run.hi)) for run in runs))

        # entries of the tree's own leaves are built again with those loaded, but are not counted in
        def step(count: int) -> None:
            report("build", min(count, done), done)
            spill.forget(count)

        loader = _Loader(writer, shape, memory_bytes, step)
        return loader.load(tree, pieces)
    finally:
        spill.close()


def _add(builder: Builder, part: Columns | Pairs) -> int:
    """Add a part of the source; how many entries it has."""
    if not isinstance(part, Pairs):
        _add_columns(builder, *part)
        return len(part[0])
    done = builder.extend_pairs(part.pairs, part.encode, part.limit)
    if done < len(part.pairs):
        _add_columns(builder, *part.rest(part.pairs[done:]))
    return len(part.pairs)


def _add_columns(builder: Builder, keys: list[bytes], values: list[bytes | node.BlobRef]) -> None:
    plain = [value for value in values if isinstance(value, bytes)]
    if len(plain) == len(values):
        builder.extend(keys, plain)
        return
    for key, value in zip(keys, values, strict=True):
        if isinstance(value, node.BlobRef):
            stored = value.oid + value.length.to_bytes(8, "little")
            builder.add(key, stored, node.BLOB_VALUE, value.loc)
        else:
            builder.add(key, value)


class _Loader(Editor):
    """Applies pieces to a tree; a range that fits in memory is handed to the ordinary editor."""

    def __init__(
        self, writer: Writer, shape: Shape, memory_bytes: int, report: Callable[[int], None]
    ) -> None:
        super().__init__(writer, shape)
        self.memory_bytes = memory_bytes
        self.report = report
        self.done = 0

    def load(self, tree: Tree, pieces: Pieces) -> Tree:
        """The tree with the entries of the pieces put in."""
        if not pieces.count():
            return tree
        mark = self.writer.mark()
        body = self.writer.read(tree.oid, tree.loc)
        root = Segment(0, self.shape.slots, *stats_of(body), tree.oid, tree.loc, b"")
        if body[0] == INNER and self.fits(pieces, root, 0):
            segments = [self.change_inner(root, body, -1, *self.one_run(pieces))]
        elif body[0] == INNER:
            segments = [self.into_inner(root, -1, pieces)]
        else:
            segments = self.into(root, 0, pieces)
        return self.finish(segments, mark, tree)

    def fits(self, pieces: Pieces, child: Segment, level: int) -> bool:
        """Whether a range may go to the editor at once: it is small, needs no copy, or is one key
        many times over (or keys forged to look so), which no cut divides."""
        if (len(pieces.pieces) == 1 and not child.entry_count) or self.shape.bits * level >= PATH_BITS:
            return True
        return pieces.size() + ENTRY_OVERHEAD_BYTES * pieces.count() <= self.memory_bytes // 4

    def one_run(self, pieces: Pieces) -> tuple[Run, int, int]:
        """The entries of the pieces as a span of one run; they count as done."""
        self.done += pieces.count()
        if len(pieces.pieces) == 1:
            return pieces.pieces[0]
        run = kernel.flatten(pieces, self.shape, True)
        return run, 0, len(run.hi)

    def into(self, child: Segment, level: int, pieces: Pieces) -> list[Segment]:
        """Put pieces into a child of a node at ``level``."""
        if not pieces.pieces:
            return [child]
        if self.fits(pieces, child, level):
            changed = self.change(child, level, *self.one_run(pieces))
            self.report(self.done)
            return changed
        if child.entry_count and not self.is_leaf(child, level):
            return [self.into_inner(child, level, pieces)]
        if child.entry_count:
            run = run_of_leaf(self.shape, self.body_of(child))
            pieces = Pieces((Piece(run, 0, child.entry_count), *pieces.pieces))
            child = empty_segment(child.start, child.width)
        if child.width > 1:
            return self.halves(child, level, pieces)
        mark = self.writer.mark()
        below = self.into(empty_segment(0, self.shape.slots), level + 1, pieces)
        return [self.assemble(below, mark)._replace(start=child.start, width=1)]

    def halves(self, child: Segment, level: int, pieces: Pieces) -> list[Segment]:
        """Put pieces into an empty run of more than one slot."""
        half = child.width // 2
        left, right = self.cut(pieces, level, child.width)
        return self.into(empty_segment(child.start, half), level, left) + self.into(
            empty_segment(child.start + half, half), level, right
        )

    def cut(self, pieces: Pieces, level: int, width: int) -> tuple[Pieces, Pieces]:
        """The halves of a run of ``width`` slots of a node at ``level``."""
        return pieces.cut(self.shape, self.shape.bits * (level + 1) - width.bit_length() + 1)

    def into_inner(self, child: Segment, level: int, pieces: Pieces) -> Segment:
        """Put pieces below an inner node that is a child of a node at ``level``."""
        mark = self.writer.mark()
        old = segments_of(self.writer.read(child.oid, child.loc))
        merged = self.spread(old, level + 1, (0, self.shape.slots), pieces)
        if merged == old:
            return child
        return self.assemble(merged, mark)._replace(start=child.start, width=child.width)

    def spread(self, old: list[Segment], level: int, where: tuple[int, int], pieces: Pieces) -> list[Segment]:
        """Deal pieces out to the children that stand in a run of slots."""
        start, width = where
        if not pieces.pieces:
            return old
        if len(old) == 1:
            return self.into(old[0], level, pieces)
        half = width // 2
        left, right = self.cut(pieces, level, width)
        middle = start + half
        return self.spread([s for s in old if s.start < middle], level, (start, half), left) + (
            self.spread([s for s in old if s.start >= middle], level, (middle, half), right)
        )
