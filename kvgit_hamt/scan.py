"""Walking a tree: all entries, those under a prefix, samples, and all nodes.

Spec: docs/format.md, "Trees".
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

from kvgit_hamt import kernel, node
from kvgit_hamt.errors import CorruptionError
from kvgit_hamt.hamt import Reader, Segment, Tree, segments_of, summary
from kvgit_hamt.node import INNER, LEAF, Value
from kvgit_hamt.path import TOO_DEEP, Shape

READ_AHEAD = 64  # leaves read in one step of a walk; bounds its memory

Link = tuple[bytes, bytes]


class Window(NamedTuple):
    """The part of the tree in which the keys of a prefix lie: ``taken`` leading path bits."""

    bits: int
    taken: int

    def slots(self, shape: Shape, level: int) -> tuple[int, int]:
        """First slot and end of slots, in a node at ``level``, that the prefix can lie in."""
        known = self.taken - shape.bits * level
        if known <= 0:
            return 0, shape.slots
        if known >= shape.bits:
            slot = self.bits >> known - shape.bits & shape.slots - 1
            return slot, slot + 1
        first = (self.bits & (1 << known) - 1) << shape.bits - known
        return first, first + (1 << shape.bits - known)

    def holds(self, shape: Shape, segment: Segment, level: int) -> bool:
        """Whether a segment of a node at ``level`` can hold keys of the prefix."""
        first, end = self.slots(shape, level)
        return segment.start < end and first < segment.start + segment.width


def window_of(shape: Shape, prefix: bytes) -> Window:
    """The window of a prefix; the whole tree for one without "/"."""
    return Window(*shape.prefix(prefix))


def leaf_bodies(reader: Reader, shape: Shape, tree: Tree, window: Window) -> Iterator[bytes]:
    """The leaves that a window touches, in path order.

    Cost: each of their nodes is read once, leaves READ_AHEAD at a time; memory O(depth).
    """
    ways = getattr(reader, "ways", None)
    if ways is not None and not window.taken and reader.read(*tree)[0] != LEAF:
        walk = kernel.LeafWalk(ways, tree)
        while bodies := walk.step(READ_AHEAD):
            yield from bodies
        return
    stack: list[tuple[list[Link], int]] = [([(tree.oid, tree.loc)], 0)]
    while stack:
        links, level = stack.pop()
        bodies = reader.read_many(links) if len(links) > 1 else [reader.read(*links[0])]
        if bodies[0][0] == LEAF:
            yield from bodies
            continue
        if level > shape.max_level:
            raise CorruptionError(TOO_DEEP)
        groups: list[tuple[list[Link], int]] = []
        is_open = False
        for segment in segments_of(bodies[0]):
            if not segment.entry_count or not window.holds(shape, segment, level):
                continue
            link = (segment.oid, segment.loc)
            is_leaf = level >= shape.max_level or shape.is_leaf(segment.entry_count, segment.size)
            if is_leaf and is_open and len(groups[-1][0]) < READ_AHEAD:
                groups[-1][0].append(link)
            else:
                groups.append(([link], level + 1))
            is_open = is_leaf
        stack.extend(reversed(groups))


def items(reader: Reader, shape: Shape, tree: Tree, prefix: bytes = b"") -> Iterator[tuple[bytes, Value]]:
    """(key, stored value) of all entries whose key starts with ``prefix``, in path order.

    Cost: the nodes of the directory that the prefix names, not those of the tree.
    """
    for body in leaf_bodies(reader, shape, tree, window_of(shape, prefix)):
        if not prefix:
            yield from kernel.leaf_items(body)
        else:
            for item in kernel.leaf_items(body):
                if item[0].startswith(prefix):
                    yield item


def keys(reader: Reader, shape: Shape, tree: Tree, prefix: bytes = b"") -> Iterator[bytes]:
    """All keys that start with ``prefix``, in path order. Cost: as ``items``."""
    for body in leaf_bodies(reader, shape, tree, window_of(shape, prefix)):
        if not prefix:
            yield from kernel.leaf_keys(body)
        else:
            for key in kernel.leaf_keys(body):
                if key.startswith(prefix):
                    yield key


def sample(
    reader: Reader, shape: Shape, tree: Tree, count: int, rng: random.Random
) -> list[tuple[bytes, Value]]:
    """``count`` entries drawn uniformly without replacement (all, if there are fewer).

    Cost: O(count x depth) node reads, by the counts in inner nodes.
    """
    total = summary(reader, tree)[0]
    chosen = sorted(rng.sample(range(total), min(count, total)))
    out: list[tuple[bytes, Value]] = []
    stack: list[tuple[Link, list[int], int]] = [((tree.oid, tree.loc), chosen, 0)] if chosen else []
    while stack:
        link, ranks, level = stack.pop()
        body = reader.read(*link)
        if body[0] == LEAF:
            entries = kernel.leaf_items(body)
            if ranks[-1] >= len(entries):
                raise CorruptionError(f"leaf {link[0].hex()} has fewer entries than its parent says")
            out.extend(entries[rank] for rank in ranks)
            continue
        if level > shape.max_level:
            raise CorruptionError(TOO_DEEP)
        below = []
        first = at = 0
        for segment in segments_of(body):
            end = at
            while end < len(ranks) and ranks[end] < first + segment.entry_count:
                end += 1
            if end > at:
                below.append(((segment.oid, segment.loc), [r - first for r in ranks[at:end]], level + 1))
            at = end
            first += segment.entry_count
        stack.extend(reversed(below))
    rng.shuffle(out)
    return out


class Visited(NamedTuple):
    """A node met by ``nodes``."""

    oid: bytes
    loc: bytes
    level: int
    body: bytes


def nodes(reader: Reader, tree: Tree) -> Iterator[Visited]:
    """Every node of a tree, parents before children. Cost: reads each node once."""
    stack: list[tuple[Link, int]] = [((tree.oid, tree.loc), 0)]
    while stack:
        (oid, loc), level = stack.pop()
        body = reader.read(oid, loc)
        yield Visited(oid, loc, level, body)
        if body[0] == INNER:
            children = node.inner_children(body)
            links = zip(children.oids, children.locs, strict=True)
            stack.extend((link, level + 1) for link in reversed(list(links)))
