"""What differs between two trees, as a stream, reading only where their oids differ.

Spec: docs/format.md, "Trees".
"""

from __future__ import annotations

from collections.abc import Iterator

from kvgit_hamt import kernel
from kvgit_hamt.hamt import Reader, Segment, Tree
from kvgit_hamt.node import INNER, Value
from kvgit_hamt.path import Shape
from kvgit_hamt.scan import Window, leaf_bodies, window_of

Difference = tuple[bytes, Value | None, Value | None]


BATCH = 256  # differences that the compiled walk finds in one read transaction


def diff(
    reader: Reader, shape: Shape, old: Tree, new: Tree, prefix: bytes = b"", values: bool = True
) -> Iterator[Difference]:
    """(key, old value, new value) of every key that differs; None where absent. In tree order.

    Args:
        values: False: any value that is there may be left empty.

    Cost: node reads O(changes x depth), memory O(depth) beside two leaves and ``BATCH`` differences.
    """
    found = _Differ(reader, shape, window_of(shape, prefix)).walk(old, new, values)
    if not prefix:
        return found
    return (change for change in found if change[0].startswith(prefix))


class _Differ:
    def __init__(self, reader: Reader, shape: Shape, window: Window) -> None:
        self.reader = reader
        self.shape = shape
        self.window = window

    def walk(self, old: Tree, new: Tree, values: bool) -> Iterator[Difference]:
        slots = self.shape.slots
        tops = []
        bodies = [self.reader.read(tree.oid, tree.loc) for tree in (old, new)]
        ways = getattr(self.reader, "ways", None)
        if ways is not None and not self.window.taken and all(body[0] == INNER for body in bodies):
            if old.oid != new.oid:
                yield from self.walk_linked(kernel.DiffWalk(ways, old, new, values))
            return
        for tree, body in zip((old, new), bodies, strict=True):
            stats = kernel.inner_stats(body) if body[0] == INNER else kernel.leaf_stats(body)
            tops.append(Segment(0, slots, *stats, tree.oid, tree.loc, b""))
        # level: that of the node which holds the two sides, -1 above the roots
        stack: list[tuple[list[Segment], list[Segment], int]] = [([tops[0]], [tops[1]], -1)]
        while stack:
            before, after, level = stack.pop()
            if len(before) == len(after) == 1:
                if before[0].oid == after[0].oid and before[0].entry_count == after[0].entry_count:
                    continue
                if not (self.is_leaf(before[0], level) or self.is_leaf(after[0], level)):
                    stack.extend(reversed(self.pair(before[0], after[0], level + 1)))
                    continue
            yield from self.uneven(before, after, level)

    def walk_linked(self, linked: kernel.DiffWalk) -> Iterator[Difference]:
        """The same, where the kernel links nodes; it leaves uneven runs to us."""
        while True:
            found, run = linked.step(BATCH)
            yield from found
            if run is not None:
                yield from self.uneven(*run)
            elif not found:
                return

    def is_leaf(self, segment: Segment, level: int) -> bool:
        return level >= self.shape.max_level or self.shape.is_leaf(segment.entry_count, segment.size)

    def are_leaves(self, old: Segment, new: Segment, level: int) -> bool:
        has_both = old.entry_count > 0 and new.entry_count > 0
        return has_both and self.is_leaf(old, level) and self.is_leaf(new, level)

    def pair(self, old: Segment, new: Segment, level: int) -> list[tuple[list[Segment], list[Segment], int]]:
        """The runs of two inner nodes at ``level``, side by side; equal ones left out."""
        bodies = self.reader.read_many([(old.oid, old.loc), (new.oid, new.loc)])
        out: list[tuple[list[Segment], list[Segment], int]] = []
        for before, after in kernel.uneven_runs(*bodies):
            if any(self.window.holds(self.shape, s, level) for s in (*before, *after)):
                out.append((before, after, level))
        return out

    def uneven(self, before: list[Segment], after: list[Segment], level: int) -> Iterator[Difference]:
        """One side is a single leaf (or empty) over the run; the other whatever it is."""
        if len(before) == len(after) == 1 and self.are_leaves(before[0], after[0], level):
            links = [(side.oid, side.loc) for side in (before[0], after[0])]
            yield from kernel.leaf_diff(*self.reader.read_many(links))
            return
        if len(before) == 1 and self.is_leaf(before[0], level):
            small, large, is_swapped = before[0], after, False
        else:
            small, large, is_swapped = after[0], before, True
        rest: dict[bytes, Value] = {}
        if small.entry_count:
            rest = dict(kernel.leaf_items(self.reader.read(small.oid, small.loc)))
        for segment in large:
            if not segment.entry_count:
                continue
            for key, value in self.entries(segment, level):
                was = rest.pop(key, None)
                if was is None or was != value:
                    yield (key, value, was) if is_swapped else (key, was, value)
        for key, value in rest.items():
            yield (key, None, value) if is_swapped else (key, value, None)

    def entries(self, segment: Segment, level: int) -> Iterator[tuple[bytes, Value]]:
        if self.is_leaf(segment, level):
            yield from kernel.leaf_items(self.reader.read(segment.oid, segment.loc))
            return
        below = Window(*_rest(self.window, self.shape, level + 1))
        tree = Tree(segment.oid, segment.loc)
        for body in leaf_bodies(self.reader, self.shape, tree, below):
            yield from kernel.leaf_items(body)


def _rest(window: Window, shape: Shape, level: int) -> tuple[int, int]:
    """What of a window's bits is left below ``level`` levels."""
    left = max(0, window.taken - shape.bits * level)
    return window.bits & (1 << left) - 1, left
