"""The shape of one tree: nodes by level, how full leaves are, and where in the tree its entries lie."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from kvgit_hamt import kernel, node, scan, wire
from kvgit_hamt.hamt import Tree
from kvgit_hamt.node import INNER
from kvgit_hamt.path import ENTRY_BYTES, Shape
from kvgit_hamt.store import Store

BINS: Final = 10  # of the histogram of fill
NOTHING, IS_LEAF, IS_INNER = 0, 1, 2


@dataclass(slots=True)
class Level:
    """The nodes at one distance from the root (level 0).

    Attributes:
        inner_count, leaf_count: nodes.
        child_count: children of its inner nodes.
        entry_count: entries of its leaves.
        byte_count: of its nodes, as stored.
        columns: for each column of the picture what covers it: NOTHING, IS_LEAF, IS_INNER; the most frequent
            of those whose middle lies in it, inner nodes before leaves.
        edges: columns in which a node begins, where nodes are as wide as columns or wider.
    """

    inner_count: int = 0
    leaf_count: int = 0
    child_count: int = 0
    entry_count: int = 0
    byte_count: int = 0
    columns: bytearray = field(default_factory=bytearray, repr=False)
    edges: set[int] = field(default_factory=set, repr=False)


@dataclass(slots=True)
class TreeShape:
    """What a walk over a tree saw.

    Attributes:
        key_count, leaf_count, inner_count: entries and nodes.
        blob_count, blob_bytes: out-of-line values that entries name (each entry counted), and their bytes.
        node_bytes: of nodes as stored.
        levels: by distance from the root.
        leaf_max: the weight in bytes from which a leaf is split.
        fill: how many leaves weigh less than 10 %, 20 %, .. of ``leaf_max``; the last bin holds all others.
        fill_sum: of the weights of all leaves.
        largest_leaf: entries.
        width: columns of the picture; see ``Level``.
    """

    leaf_max: int
    width: int
    key_count: int = 0
    leaf_count: int = 0
    inner_count: int = 0
    blob_count: int = 0
    blob_bytes: int = 0
    node_bytes: int = 0
    levels: list[Level] = field(default_factory=list)
    fill: list[int] = field(default_factory=lambda: [0] * BINS)
    fill_sum: int = 0
    largest_leaf: int = 0

    @property
    def depth(self) -> int:
        """Levels; 1 for a tree of one leaf."""
        return len(self.levels)

    @property
    def mean_fill(self) -> float:
        """Weight of the mean leaf, as a part of ``leaf_max``."""
        return self.fill_sum / (self.leaf_count * self.leaf_max) if self.leaf_count else 0.0

    @property
    def mean_depth(self) -> float:
        """Nodes on the way to a key, on average; the leaf included."""
        ways = sum(number * level.entry_count for number, level in enumerate(self.levels, 1))
        return ways / self.key_count if self.key_count else 1.0

    def level(self, number: int) -> Level:
        """A level, made when it is first met."""
        while len(self.levels) <= number:
            self.levels.append(Level(columns=bytearray(self.width)))
        return self.levels[number]


def measure(store: Store, tree: Tree, width: int = 72) -> TreeShape:
    """Walk a tree and measure it.

    Args:
        width: columns of the picture.

    Cost: reads each node once; memory O(depth x width).
    """
    shape = TreeShape(store.shape.leaf_max, width)
    first = 0  # rank of the first entry below the node at hand
    total = 0
    for seen in scan.nodes(store, tree):
        is_inner = seen.body[0] == INNER
        count, size, extra = (kernel.inner_stats if is_inner else kernel.leaf_stats)(seen.body)
        if seen.level == 0:
            total = count
        level = shape.level(seen.level)
        _draw(level, (first, first + count, total, width), is_inner)
        level.byte_count += len(seen.body) + wire.CHECK_BYTES
        shape.node_bytes += len(seen.body) + wire.CHECK_BYTES
        if is_inner:
            shape.inner_count += 1
            level.inner_count += 1
            level.child_count += len(node.inner_children(seen.body).oids)
            continue
        first += count
        _count_leaf(shape, level, store.shape, (count, size))
        if extra:
            _count_blobs(shape, seen.body)
    return shape


def _count_leaf(shape: TreeShape, level: Level, form: Shape, stats: tuple[int, int]) -> None:
    count, size = stats
    weight = size + ENTRY_BYTES * count
    shape.leaf_count += 1
    shape.key_count += count
    shape.fill[min(BINS - 1, weight * BINS // form.leaf_max)] += 1
    shape.fill_sum += weight
    shape.largest_leaf = max(shape.largest_leaf, count)
    level.leaf_count += 1
    level.entry_count += count


def _count_blobs(shape: TreeShape, body: bytes) -> None:
    for _, value in kernel.leaf_items(body):
        if isinstance(value, node.BlobRef):
            shape.blob_count += 1
            shape.blob_bytes += value.length


def _draw(level: Level, span: tuple[int, int, int, int], is_inner: bool) -> None:
    """Cover the columns that a node's entries span; a narrow one covers that of its middle."""
    first, end, total, width = span
    if not total:
        level.columns[:] = bytes([IS_LEAF]) * width
        return
    start, stop = first * width / total, end * width / total
    kind = IS_INNER if is_inner else IS_LEAF
    if stop - start < 1:
        middle = min(width - 1, int((start + stop) / 2))
        level.columns[middle] = max(level.columns[middle], kind)
        return
    left, right = round(start), max(round(start) + 1, round(stop))
    level.columns[left:right] = bytes([kind]) * (min(right, width) - left)
    level.edges.add(left)
