"""Three-way merge of trees, by structure: a subtree that one side left alone is taken unread.

Spec: docs/format.md, "Trees".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from kvgit_hamt import kernel, node
from kvgit_hamt.hamt import Editor, Segment, Tree, Writer, empty_segment, segments_of, stats_of
from kvgit_hamt.kernel import make_run, run_of_leaf
from kvgit_hamt.node import INNER, Value
from kvgit_hamt.path import Shape
from kvgit_hamt.run import EMPTY_RUN, Piece, Pieces, Run

Resolve = Callable[[bytes, Value | None, Value | None, Value | None], Value | None]
"""(key, base, ours, theirs) -> what the merge holds; None deletes. Asked for contested keys only."""

Side: TypeAlias = list[Segment] | Run  # what one side has in a run of slots


def merge(writer: Writer, shape: Shape, trees: tuple[Tree, Tree, Tree], resolve: Resolve) -> Tree:
    """The merge of (base, ours, theirs).

    A key that one side changed is taken from it, one that both changed alike once; for one that
    both changed differently ``resolve`` is asked.

    Cost: reads nodes where all three sides differ, and the leaves that both sides changed; writes
    the inner nodes above changes of both sides and the leaves that hold both.
    """
    base, ours, theirs = trees
    if ours.oid == theirs.oid or theirs.oid == base.oid:
        return ours
    if ours.oid == base.oid:
        return theirs
    merger = _Merger(writer, shape, resolve)
    mark = writer.mark()
    sides: list[Side] = []
    for tree in trees:
        body = writer.read(tree.oid, tree.loc)
        sides.append([Segment(0, shape.slots, *stats_of(body), tree.oid, tree.loc, b"")])
    if all(merger.is_light(side, -1) for side in sides):
        merged = merger.run(sides, 0, 0, shape.slots)
    else:
        merged = [merger.descend(sides, -1, 0)]
    result = merger.finish(merged, mark, ours)
    return theirs if result.oid == theirs.oid else result


class _Merger(Editor):
    def __init__(self, writer: Writer, shape: Shape, resolve: Resolve) -> None:
        super().__init__(writer, shape)
        self.resolve = resolve

    def run(self, sides: list[Side], level: int, start: int, width: int) -> list[Segment]:
        """Merge what three sides hold in a run of slots of a node at ``level``."""
        where = empty_segment(start, width)
        sides = [_as_segments(side, where) for side in sides]
        base, ours, theirs = sides
        if _same(ours, theirs) or _same(theirs, base):
            return self.segments(ours, level, where)
        if _same(ours, base):
            return self.segments(theirs, level, where)
        if all(self.is_light(side, level) for side in sides):
            return self.entries(sides, level, where)
        if width == 1:
            return [self.descend(sides, level, start)]
        half = width // 2
        bit = self.shape.bits * (level + 1) - width.bit_length() + 1
        halves = [self.halve(side, start + half, bit) for side in sides]
        left = self.run([pair[0] for pair in halves], level, start, half)
        return left + self.run([pair[1] for pair in halves], level, start + half, half)

    def is_light(self, side: Side, level: int) -> bool:
        """Whether a side is at most one leaf in its run."""
        return isinstance(side, Run) or (len(side) == 1 and self.is_leaf(side[0], level))

    def segments(self, side: Side, level: int, where: Segment) -> list[Segment]:
        """One side as it stands."""
        if isinstance(side, Run):
            return self.plant(side, 0, len(side.hi), level, where)
        return side

    def leaf_run(self, side: Side) -> Run:
        """The entries of a light side."""
        if isinstance(side, Run):
            return side
        return run_of_leaf(self.shape, self.body_of(side[0])) if side[0].entry_count else EMPTY_RUN

    def halve(self, side: Side, middle: int, bit: int) -> tuple[Side, Side]:
        """A side's two halves of a run; a leaf over all of it is cut by ``bit`` of the path."""
        if not isinstance(side, Run) and len(side) > 1:
            return [s for s in side if s.start < middle], [s for s in side if s.start >= middle]
        run = self.leaf_run(side)
        left, right = Pieces((Piece(run, 0, len(run.hi)),)).cut(self.shape, bit)
        return kernel.flatten(left, self.shape, True), kernel.flatten(right, self.shape, True)

    def descend(self, sides: list[Side], level: int, start: int) -> Segment:
        """Merge below a single slot, where at least one side has an inner node."""
        mark = self.writer.mark()
        below: list[Side] = []
        inner = [side[0] for side in sides if not isinstance(side, Run) and not self.is_light(side, level)]
        if len(inner) == 3:
            bodies = [self.writer.read(side.oid, side.loc) for side in inner]
            if len({node.inner_slots(body) for body in bodies}) == 1:
                return kernel.merge_aligned(self, inner, bodies, level + 1, mark)
        for side in sides:
            if isinstance(side, Run) or self.is_light(side, level):
                below.append(self.leaf_run(side))
            else:
                below.append(segments_of(self.writer.read(side[0].oid, side[0].loc)))
        merged = self.run(below, level + 1, 0, self.shape.slots)
        width = self.shape.slots if level < 0 else 1
        for side, segments in zip(sides[1:], below[1:], strict=True):
            if not isinstance(side, Run) and _same(merged, segments):
                return side[0]
        return self.assemble(merged, mark)._replace(start=start, width=width)

    def entries(self, sides: list[Side], level: int, where: Segment) -> list[Segment]:
        """Merge three leaves key by key."""
        base, ours, theirs = (self.items(side) for side in sides)
        merged: dict[bytes, Value] = {}
        for key in dict.fromkeys((*ours, *theirs)):
            old, mine, other = base.get(key), ours.get(key), theirs.get(key)
            if mine == other or other == old:
                value = mine
            elif mine == old:
                value = other
            else:
                value = self.resolve(key, old, mine, other)
            if value is not None:
                merged[key] = value
        for side, items in ((sides[1], ours), (sides[2], theirs)):
            if merged == items:
                return self.segments(side, level, where)
        run = make_run(self.shape, list(merged.items()))
        return self.plant(run, 0, len(run.hi), level, where)

    def items(self, side: Side) -> dict[bytes, Value]:
        """The entries of a light side by key."""
        if isinstance(side, Run):
            return dict(kernel.leaf_items(node.leaf_encode(side.entries(0, len(side.hi)))))
        return dict(kernel.leaf_items(self.body_of(side[0]))) if side[0].entry_count else {}


def _as_segments(side: Side, where: Segment) -> Side:
    """An empty run of entries as the empty segment, so that sides compare."""
    return [where] if isinstance(side, Run) and not len(side.hi) else side


def _same(one: Side, other: Side) -> bool:
    """Whether two sides are known to be equal without reading anything."""
    if isinstance(one, Run) or isinstance(other, Run):
        return (
            isinstance(one, Run)
            and isinstance(other, Run)
            and one.heap == other.heap
            and list(one.ends) == list(other.ends)
            and one.kinds == other.kinds
        )
    return len(one) == len(other) and all(
        a.start == b.start and a.width == b.width and a.entry_count == b.entry_count and a.oid == b.oid
        and a.body == b.body for a, b in zip(one, other, strict=True)
    )  # fmt: skip


__all__ = ["INNER", "Resolve", "merge"]
