"""The tree: a canonical hash-array-mapped trie over the bits of key paths.

A worked key
------------
``b"Lu/0041"`` lies in the directory ``Lu/``. Its path is 16 bits of xxh3_64("Lu/"),
``0110 1110 1001 0011``, then the top 112 bits of xxh3_128 of the whole key, ``1000 0011 0010 ..``.
With 4 bits a level the root looks at slot 6 (0110), its child at slot 14 (1110), and so on:
everything in ``Lu/`` lies below one slot at level 3. From there the key's own bits spread it: slot
8, slot 3, ..

::

    root   [ .. 6 .. ]                       level 0
                |
           [ .. 14 .. ]                      level 1
                |
              [ 9 ]                          level 2
                |
              [ 3 ]                          level 3: the directory "Lu/"
                |
           [ 0-3 | 4-7 | 8 .. | 9 .. ]       level 4: runs of slots
             leaf  leaf  inner  inner

When nodes split and re-join
----------------------------
Think of the binary trie of all path bits. A prefix of bits *weighs* what its entries weigh: key and
stored value bytes, and five more each. A prefix is a leaf if it weighs at most ``leaf_max`` or has
one entry, and its parent does not; a heavier one divides. An inner node packs ``bits`` levels of
that binary trie: a leaf child stands in the aligned run of 1, 2, 4, .. slots that its prefix
covers, a prefix still too heavy at a single slot is an inner child.

That is a rule about the set of entries alone, so any order of inserts, overwrites and deletes
gives the same bytes and the same oids, provided that a delete looks at the neighbour: two aligned
runs ("buddies") whose joint weight fits are joined again, up to and through the root of the node.
``Editor.assemble`` does that for every operation, from counts and sizes alone; it reads a buddy
only to join it.

Spec: docs/format.md, "Trees".
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable

from kvgit_hamt import kernel, node
from kvgit_hamt.descent import Reader, Tree, Writer
from kvgit_hamt.errors import CorruptionError
from kvgit_hamt.kernel import get, get_many, segments_of
from kvgit_hamt.node import INNER, BlobRef, Segment, Value, empty_segment
from kvgit_hamt.oid import oid_of
from kvgit_hamt.path import Shape
from kvgit_hamt.run import Piece, Pieces, Run, drop_deleted

UNCOUNTABLE = "stored nodes claim what no node can hold: {}"
MANY_CHANGES = 128  # of one leaf; beyond it sorting both together is cheaper than inserting


def leaf_segment(start: int, width: int, body: bytes) -> Segment:
    """A leaf that is not yet put; an empty run if it has no entries."""
    return Segment(start, width, *kernel.leaf_stats(body), b"", b"", body)


def summary(reader: Reader, tree: Tree) -> tuple[int, int, int]:
    """(count, size, extra) of a whole tree. Cost: one node read.

    Raises:
        CorruptionError: more entries than ``len`` can say.
    """
    stats = stats_of(reader.read(tree.oid, tree.loc))
    if stats[0] > sys.maxsize:
        raise CorruptionError(f"node {tree.oid.hex()} claims {stats[0]} entries")
    return stats


def stats_of(body: bytes) -> tuple[int, int, int]:
    """(count, size, extra) of what lies below a node."""
    return kernel.inner_stats(body) if body[0] == INNER else kernel.leaf_stats(body)


def has_changed(reader: Reader, shape: Shape, old: Tree, new: Tree, key: bytes) -> bool:
    """Whether a key's value differs between two trees; stops where they share a node."""
    path = shape.hash(key)
    level = 0
    links: list[tuple[bytes, bytes] | None] = [(old.oid, old.loc), (new.oid, new.loc)]
    bodies: list[bytes | None] = [None, None]
    while True:
        if links[0] is not None and links[1] is not None and links[0][0] == links[1][0]:
            return False
        for side, link in enumerate(links):
            if link is not None:
                bodies[side] = reader.read(*link)
        if all(body is None or body[0] != INNER for body in bodies):
            break
        for side, body in enumerate(bodies):
            links[side] = None
            if body is not None and body[0] == INNER:
                links[side] = node.inner_step(body, shape.slot(key, path, level))
                bodies[side] = None
        level += 1
    values = [None if body is None else node.leaf_find(body, path & 255, key) for body in bodies]
    return values[0] != values[1]


def put_empty(writer: Writer) -> Tree:
    """The tree without entries."""
    return Tree(*writer.put_leaf(node.EMPTY_LEAF))


class Editor:
    """Makes new trees out of old ones and runs of changes."""

    many = MANY_CHANGES

    def __init__(self, writer: Writer, shape: Shape) -> None:
        self.writer = writer
        self.shape = shape

    def apply(self, tree: Tree, run: Run) -> Tree:
        """The tree with a run of changes made; the same tree if they change nothing.

        Cost: reads and writes each node on the way to a changed leaf once.
        """
        if not len(run.hi):
            return tree
        mark = self.writer.mark()
        body = self.writer.read(tree.oid, tree.loc)
        root = Segment(0, self.shape.slots, *stats_of(body), tree.oid, tree.loc, b"")
        if body[0] == INNER:
            segments = [self.change_inner(root, body, -1, run, 0, len(run.hi))]
        else:
            segments = self.change(root, 0, run, 0, len(run.hi))
        return self.finish(segments, mark, tree)

    def finish(self, segments: list[Segment], mark: int, old: Tree) -> Tree:
        """Put the root over segments that cover all of its slots; ``old`` if it is the same.

        ``mark``: where the writer stood before anything below the root was put.
        """
        whole = len(segments) == 1 and segments[0].width == self.shape.slots
        root = segments[0] if whole else self.assemble(segments, mark)
        if root.oid:
            return old if old.oid == root.oid else Tree(root.oid, root.loc)
        body = root.body or node.EMPTY_LEAF
        if old.oid == oid_of(body[: node.payload_length(body)]):
            return old
        return Tree(*self.writer.put_leaf(body))

    def is_leaf(self, segment: Segment, level: int) -> bool:
        """Whether a child of a node at ``level`` is a leaf (or empty); nothing is read."""
        is_deepest = level >= self.shape.max_level and segment.width == 1
        return is_deepest or self.shape.is_leaf(segment.entry_count, segment.size)

    def change(self, child: Segment, level: int, run: Run, i: int, j: int) -> list[Segment]:
        """Make changes i to j in a child of a node at ``level``; what stands in its run then."""
        if child.entry_count == 0:
            if run.kinds and node.DELETED in run.kinds[i:j]:
                run = drop_deleted(run, i, j)
                i, j = 0, len(run.hi)
            return self.plant(run, i, j, level, child)
        if not self.is_leaf(child, level):
            body = self.writer.read(child.oid, child.loc)
            return [self.change_inner(child, body, level, run, i, j)]
        old = self.body_of(child)
        if j - i > MANY_CHANGES:
            held = kernel.run_of_leaf(self.shape, old)
            if len(held.hi) != child.entry_count:
                raise CorruptionError(f"leaf {child.oid.hex()} has not the entries that its parent says")
            both = Pieces((Piece(held, 0, child.entry_count), Piece(run, i, j)))
            merged = kernel.flatten(both, self.shape, False)
            planted = self.plant(merged, 0, len(merged.hi), level, child)
            return [child] if len(planted) == 1 and planted[0].body == old else planted
        spliced = kernel.splice(self.shape, old, run, i, j)
        if spliced is None:
            return [child]
        leaf = leaf_segment(child.start, child.width, spliced)
        if self.is_leaf(leaf, level):
            return [leaf if leaf.entry_count else empty_segment(child.start, child.width)]
        entries = kernel.run_of_leaf(self.shape, spliced)
        return self.plant(entries, 0, leaf.entry_count, level, child)

    def change_inner(
        self, child: Segment, body: bytes, level: int, run: Run, i: int, j: int
    ) -> Segment:  # fmt: skip
        """Make changes i to j below an inner node that is a child of a node at ``level``."""
        try:
            return kernel.change_inner(self, child, body, level, run, (i, j))
        except (OverflowError, struct.error) as error:
            raise CorruptionError(UNCOUNTABLE.format(error)) from error

    def exchange(
        self, child: Segment, body: bytes, changed: list[tuple[Segment, list[Segment]]], mark: int
    ) -> Segment:
        """An inner node with what stands in some of its runs exchanged: (old, new) in slot order."""
        if not changed:
            return child
        if all(_keeps_layout(old, new) for old, new in changed):
            return self._replace(child, body, changed, mark)
        segments: list[Segment] = []
        instead = {old.start: new for old, new in changed}
        covered = 0
        for old in segments_of(body):
            if old.start in instead:
                segments += instead[old.start]
                covered = old.start + old.width
            elif old.start >= covered:
                segments.append(old)
        whole = self.assemble(segments, mark)
        return whole._replace(start=child.start, width=child.width)

    def _replace(
        self, child: Segment, body: bytes, changed: list[tuple[Segment, list[Segment]]], mark: int
    ) -> Segment:
        """``exchange`` where every child stays one child of its run."""
        links = [(new, self.put(new)) for _, (new,) in changed]
        body, count, size, extra = _counted(kernel.inner_replace, body, links)
        oid, loc = self.writer.put_inner(body, count, mark)
        return Segment(child.start, child.width, count, size, extra, oid, loc, b"")

    def put(self, segment: Segment) -> tuple[bytes, bytes]:
        """(oid, loc) of a segment that is not empty; puts it if it is a new leaf."""
        if segment.oid:
            return segment.oid, segment.loc
        return self.writer.put_leaf(segment.body)

    def body_of(self, leaf: Segment) -> bytes:
        """The body of a leaf, read if it is stored."""
        return self.writer.read(leaf.oid, leaf.loc) if leaf.oid else leaf.body

    def plant(self, run: Run, i: int, j: int, level: int, where: Segment) -> list[Segment]:
        """New nodes for entries i to j in the run of slots of ``where``, at ``level``."""
        return kernel.plant(self.writer, self.shape, run, (i, j), level, (where.start, where.width))

    def assemble(self, segments: list[Segment], mark: int) -> Segment:
        """One node of segments that cover all slots: joined, put, as a segment of all slots.

        The result is a leaf (not yet put) or empty when everything joins into one.
        """
        segments = self.join(segments)
        slots = self.shape.slots
        if len(segments) == 1 and segments[0].width == slots:
            return segments[0]
        links = [self.put(segment) for segment in segments if segment.entry_count]
        body, count, size, extra = _counted(kernel.inner_pack, segments, links)
        oid, loc = self.writer.put_inner(body, count, mark)
        return Segment(0, slots, count, size, extra, oid, loc, b"")

    def join(self, segments: list[Segment]) -> list[Segment]:
        """Join buddies, aligned neighbours of one width, whose joint weight makes a leaf."""
        stack: list[Segment] = []
        for segment in segments:
            right = segment
            while stack:
                left = stack[-1]
                if (
                    left.width != right.width
                    or left.start & (2 * left.width - 1)
                    or not self.shape.is_leaf(left.entry_count + right.entry_count, left.size + right.size)
                ):
                    break
                stack.pop()
                right = self._join_two(left, right)
            stack.append(right)
        return stack

    def _join_two(self, left: Segment, right: Segment) -> Segment:
        width = 2 * left.width
        if not right.entry_count:
            return left._replace(width=width)
        if not left.entry_count:
            return right._replace(start=left.start, width=width)
        body = kernel.leaf_join([self.body_of(left), self.body_of(right)])
        return leaf_segment(left.start, width, body)


def _counted(pack: Callable[..., tuple[bytes, int, int, int]], *what: object) -> tuple[bytes, int, int, int]:
    """What ``pack`` makes; CorruptionError where stored nodes claim what no node can hold."""
    try:
        return pack(*what)
    except (OverflowError, ValueError, struct.error) as error:
        raise CorruptionError(UNCOUNTABLE.format(error)) from error


def _keeps_layout(old: Segment, new: list[Segment]) -> bool:
    """Whether a changed child stays one child of its run and cannot make a buddy join."""
    return (
        len(new) == 1
        and old.entry_count > 0
        and new[0].width == old.width
        and new[0].entry_count >= old.entry_count
        and new[0].size >= old.size
    )


__all__ = [
    "BlobRef", "Editor", "Reader", "Segment", "Tree", "Value", "Writer", "empty_segment", "get",
    "get_many", "has_changed", "leaf_segment", "put_empty", "segments_of", "summary",
]  # fmt: skip
