"""The tree: a canonical hash-array-mapped trie over the bits of key paths.

A worked key
------------
``b"Lu/0041"`` lies in the directory ``Lu/``. Its path is 12 bits of xxh3_64("Lu/"), say
``101101 000111``, then the top 116 bits of xxh3_128 of the whole key, say ``010010 110001 ..``.
With 6 bits a level the root looks at slot 45 (101101), its child at slot 7 (000111): everything in
``Lu/`` lies below that one slot. From there the key's own bits spread it: slot 18, slot 49, ..

::

    root   [ .. 45 .. ]                      level 0
               |
           [ 7 ......... ]                   level 1: the directory "Lu/"
             |
           [ 0-15 | 16-31 | 32-47 | 48..]    level 2: runs of slots
             leaf   leaf    leaf    inner

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

from typing import NamedTuple, Protocol

from kvgit_hamt import node
from kvgit_hamt.node import EMPTY_SLOT, INNER, BlobRef, Value
from kvgit_hamt.oid import oid_of
from kvgit_hamt.path import PATH_BITS, Shape
from kvgit_hamt.run import Piece, Pieces, Run, drop_deleted, run_of_leaf, splice

MANY_CHANGES = 128  # of one leaf; beyond it sorting both together is cheaper than inserting


class Reader(Protocol):
    """Gives the verified body of a node."""

    def read(self, oid: bytes, loc: bytes) -> bytes:
        """The body; CorruptionError when it is missing or damaged."""

    def read_many(self, links: list[tuple[bytes, bytes]]) -> list[bytes]:
        """Bodies of many nodes, in order, in one step."""


class Writer(Reader, Protocol):
    """Takes new nodes, children before parents; also reads what it was given."""

    def mark(self) -> int:
        """A position to which ``put_inner`` may take the writer back."""

    def put_leaf(self, body: bytes) -> tuple[bytes, bytes]:
        """Keep a leaf; its (oid, loc)."""

    def put_inner(self, body: bytes, count: int, mark: int) -> tuple[bytes, bytes]:
        """Keep an inner node of ``count`` entries; its (oid, loc).

        When it is stored already, that one is named, and what was put since ``mark`` is dropped.
        """


class Tree(NamedTuple):
    """The root of a tree: its oid names the contents, its location says where it lies."""

    oid: bytes
    loc: bytes


class Segment(NamedTuple):
    """What stands in an aligned run of slots: an empty run, a leaf, or an inner node.

    Attributes:
        start, width: the run of slots in the parent.
        entry_count, size, extra: entries, bytes, and blob bytes beyond the references.
        oid, loc: of a stored node; b"" while it is a leaf not yet put (or empty).
        body: of a leaf not yet put, else b"".
    """

    start: int
    width: int
    entry_count: int
    size: int
    extra: int
    oid: bytes
    loc: bytes
    body: bytes


def empty_segment(start: int, width: int) -> Segment:
    """A run of slots without entries."""
    return Segment(start, width, 0, 0, 0, b"", b"", b"")


def leaf_segment(start: int, width: int, body: bytes) -> Segment:
    """A leaf that is not yet put; an empty run if it has no entries."""
    return Segment(start, width, *node.leaf_stats(body), b"", b"", body)


def segment_at(children: node.Children, number: int) -> Segment:
    """One child of an inner node."""
    return Segment(
        children.slots.index(number),
        children.slots.count(number),
        children.counts[number],
        children.sizes[number],
        children.extras[number],
        children.oids[number],
        children.locs[number],
        b"",
    )


def segments_of(body: bytes) -> list[Segment]:
    """The runs of an inner node, in slot order."""
    slots, oids, locs, counts, sizes, extras = node.inner_children(body)
    out = []
    for start, width, child in node.inner_runs(slots):
        if child == EMPTY_SLOT:
            out.append(empty_segment(start, width))
        else:
            out.append(Segment(
                start, width, counts[child], sizes[child], extras[child], oids[child], locs[child], b""
            ))  # fmt: skip
    return out


def get(reader: Reader, shape: Shape, tree: Tree, key: bytes) -> Value | None:
    """The stored value of a key, None if the tree has no such key.

    Cost: one node read a level; inner nodes mostly come from the reader's cache.
    """
    path = shape.hash(key)
    oid, loc = tree
    read = reader.read
    step = node.inner_step_placed if loc else node.inner_step
    body = read(oid, loc)
    bits = shape.bits
    mask = (1 << bits) - 1
    shift = PATH_BITS - bits
    while body[0] == INNER:
        if shift >= 0:
            link = step(body, path >> shift & mask)
        else:
            link = step(body, shape.slot(key, path, (PATH_BITS - shift) // bits - 1))
        if link is None:
            return None
        oid, loc = link
        body = read(oid, loc)
        shift -= bits
    return node.leaf_find(body, path & 255, key)


def get_many(reader: Reader, shape: Shape, tree: Tree, keys: list[bytes]) -> dict[bytes, Value]:
    """The stored values of those keys that the tree has.

    Cost: each node on the way is read once; one batched read a level.
    """
    found: dict[bytes, Value] = {}
    paths = {key: shape.hash(key) for key in keys}
    wanted: dict[tuple[bytes, bytes], list[bytes]] = {(tree.oid, tree.loc): list(paths)}
    level = 0
    while wanted:
        bodies = reader.read_many(list(wanted))
        below: dict[tuple[bytes, bytes], list[bytes]] = {}
        for body, group in zip(bodies, wanted.values(), strict=True):
            if body[0] == INNER:
                for key in group:
                    step = node.inner_step(body, shape.slot(key, paths[key], level))
                    if step is not None:
                        below.setdefault(step, []).append(key)
            else:
                for key in group:
                    value = node.leaf_find(body, paths[key] & 255, key)
                    if value is not None:
                        found[key] = value
        wanted = below
        level += 1
    return found


def summary(reader: Reader, tree: Tree) -> tuple[int, int, int]:
    """(count, size, extra) of a whole tree. Cost: one node read."""
    return stats_of(reader.read(tree.oid, tree.loc))


def stats_of(body: bytes) -> tuple[int, int, int]:
    """(count, size, extra) of what lies below a node."""
    return node.inner_stats(body) if body[0] == INNER else node.leaf_stats(body)


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
            both = Pieces((Piece(run_of_leaf(self.shape, old), 0, child.entry_count), Piece(run, i, j)))
            merged = both.flatten(self.shape, False)
            planted = self.plant(merged, 0, len(merged.hi), level, child)
            return [child] if len(planted) == 1 and planted[0].body == old else planted
        spliced = splice(self.shape, old, run, i, j)
        if spliced is None:
            return [child]
        leaf = leaf_segment(child.start, child.width, spliced)
        if self.is_leaf(leaf, level):
            return [leaf if leaf.entry_count else empty_segment(child.start, child.width)]
        entries = run_of_leaf(self.shape, spliced)
        return self.plant(entries, 0, leaf.entry_count, level, child)

    def change_inner(
        self, child: Segment, body: bytes, level: int, run: Run, i: int, j: int
    ) -> Segment:  # fmt: skip
        """Make changes i to j below an inner node that is a child of a node at ``level``."""
        mark = self.writer.mark()
        level += 1
        shape = self.shape
        columns = node.inner_children(body)
        slots = columns.slots
        changed: list[tuple[Segment, list[Segment]]] = []
        while i < j:
            slot = run.slot(shape, i, level)
            number = slots[slot]
            if number == EMPTY_SLOT:
                old = empty_segment(*node.empty_run(slots, slot))
            else:
                old = segment_at(columns, number)
            end = run.bound(shape, i, j, level, old.start + old.width)
            new = self.change(old, level, run, i, end)
            if new != [old]:
                changed.append((old, new))
            i = end
        return self.exchange(child, body, changed, mark)

    def exchange(
        self, child: Segment, body: bytes, changed: list[tuple[Segment, list[Segment]]], mark: int
    ) -> Segment:
        """An inner node with what stands in some of its runs exchanged: (old, new) in slot order."""
        if not changed:
            return child
        if all(_keeps_layout(old, new) for old, new in changed):
            return self._replace(child, node.inner_children(body), changed, mark)
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
        self,
        child: Segment,
        columns: node.Children,
        changed: list[tuple[Segment, list[Segment]]],
        mark: int,
    ) -> Segment:
        """``exchange`` where every child stays one child of its run."""
        for old, (new,) in changed:
            number = columns.slots[old.start]
            oid, loc = self.put(new)
            columns.oids[number] = oid
            columns.locs[number] = loc
            columns.counts[number] = new.entry_count
            columns.sizes[number] = new.size
            columns.extras[number] = new.extra
        body = node.inner_encode(columns)
        totals = sum(columns.counts), sum(columns.sizes), sum(columns.extras)
        oid, loc = self.writer.put_inner(body, totals[0], mark)
        return Segment(child.start, child.width, *totals, oid, loc, b"")

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
        out: list[Segment] = []
        self._plant(out, run, (i, j), level, (where.start, where.width))
        return out

    def _plant(
        self, out: list[Segment], run: Run, span: tuple[int, int], level: int, where: tuple[int, int]
    ) -> None:
        shape = self.shape
        i, j = span
        start, width = where
        after: list[Segment] = []
        while True:
            if i == j:
                out.append(empty_segment(start, width))
                break
            size = run.start(j) - run.start(i)
            if shape.is_leaf(j - i, size) or (width == 1 and level >= shape.max_level):
                body = run.leaf(i, j)
                extra = run.extra(i, j) if run.kinds else 0
                out.append(Segment(start, width, j - i, size, extra, b"", b"", body))
                break
            if width == 1:
                out.append(self._plant_inner(run, i, j, level + 1)._replace(start=start, width=1))
                break
            half = width // 2
            bit = shape.bits * (level + 1) - width.bit_length() + 1
            middle = run.cut(shape, i, j, bit)
            if middle == i:  # one half is empty: go on in a loop, so forged keys cost no recursion
                out.append(empty_segment(start, half))
                start += half
            elif middle == j:
                after.append(empty_segment(start + half, half))
            else:
                self._plant(out, run, (i, middle), level, (start, half))
                start += half
                i = middle
            width = half
        out.extend(reversed(after))

    def _plant_inner(self, run: Run, i: int, j: int, level: int) -> Segment:
        mark = self.writer.mark()
        segments: list[Segment] = []
        self._plant(segments, run, (i, j), level, (0, self.shape.slots))
        return self.assemble(segments, mark)

    def assemble(self, segments: list[Segment], mark: int) -> Segment:
        """One node of segments that cover all slots: joined, put, as a segment of all slots.

        The result is a leaf (not yet put) or empty when everything joins into one.
        """
        segments = self.join(segments)
        slots = self.shape.slots
        if len(segments) == 1 and segments[0].width == slots:
            return segments[0]
        table = bytearray()
        live: list[Segment] = []
        for segment in segments:
            number = len(live) if segment.entry_count else EMPTY_SLOT
            table += bytes((number,)) * segment.width
            if segment.entry_count:
                live.append(segment)
        links = [self.put(segment) for segment in live]
        columns = node.Children(
            bytes(table), [link[0] for link in links], [link[1] for link in links],
            [s.entry_count for s in live], [s.size for s in live], [s.extra for s in live],
        )  # fmt: skip
        totals = sum(columns.counts), sum(columns.sizes), sum(columns.extras)
        oid, loc = self.writer.put_inner(node.inner_encode(columns), totals[0], mark)
        return Segment(0, slots, *totals, oid, loc, b"")

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
        body = node.leaf_join([self.body_of(left), self.body_of(right)])
        return leaf_segment(left.start, width, body)


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
