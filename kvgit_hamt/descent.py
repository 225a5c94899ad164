"""The inner loops over nodes: point lookup, the children a batch touches, new nodes out of a run.

Plain Python, and the reference for the compiled kernel; the rest of the package calls whichever
``kernel`` has chosen. Storage is behind ``Reader`` and ``Writer``.

Spec: docs/format.md, "Trees".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from kvgit_hamt import node
from kvgit_hamt.errors import CorruptionError
from kvgit_hamt.node import EMPTY_SLOT, INNER, Segment, Value, empty_segment
from kvgit_hamt.path import PATH_BITS, Shape
from kvgit_hamt.run import Run

Link = tuple[bytes, bytes]


class Door:
    """What leads into the map of an environment; only the compiled kernel goes through it.

    Attributes:
        begin: opens a read transaction; None while the environment is closed.
        records: the database to read.
        epoch: counted on by whoever unmaps or moves the map, before and after.
    """

    __slots__ = ("begin", "epoch", "records")

    def __init__(self) -> None:
        self.begin: Callable[..., Any] | None = None
        self.records: Any = None
        self.epoch = 0


class Ways:
    """Inner nodes linked in memory, and leaves found in the map: of the compiled kernel alone."""

    has_door = False

    def __init__(self, store: object, door: object, max_bytes: int) -> None:
        self.is_closed = False

    def clear(self) -> None:
        """Nothing is kept here."""

    read: Callable[[bytes, bytes], bytes]

    def take_counts(self) -> tuple[int, int]:
        """(leaves, bytes) read in place since the last call."""
        return 0, 0


class Lookup:
    """``get`` and ``get_many`` of one tree without a Python frame: of the compiled kernel alone."""

    is_closed = False
    has_door = False
    get: Callable[..., Any]
    get_many: Callable[..., Any]

    def __init__(self, ways: Ways, tree: Tree, codec: object, encode: object, refuse: object) -> None:
        raise NotImplementedError("the plain kernel has no lookups of its own")


class DiffWalk:
    """The walk of a diff over linked nodes: of the compiled kernel alone; see ``diff``."""

    def __init__(self, ways: Ways, old: Tree, new: Tree, with_values: bool) -> None:
        raise NotImplementedError("the plain kernel has no walk of its own")

    step: Callable[..., Any]


class LeafWalk:
    """The leaves of a tree over linked nodes: of the compiled kernel alone; see ``scan``."""

    def __init__(self, ways: Ways, tree: Tree) -> None:
        raise NotImplementedError("the plain kernel has no walk of its own")

    step: Callable[..., Any]


class Reader(Protocol):
    """Gives the verified body of a node.

    One that has ``ways`` is read by the compiled kernel without calls: see ``Store``.
    """

    def read(self, oid: bytes, loc: bytes) -> bytes:
        """The body; CorruptionError when it is missing or damaged."""

    def read_many(self, links: list[Link]) -> list[bytes]:
        """Bodies of many nodes, in order, in one step."""


class Writer(Reader, Protocol):
    """Takes new nodes, children before parents; also reads what it was given."""

    def mark(self) -> int:
        """A position to which ``put_inner`` may take the writer back."""

    def put_leaf(self, body: bytes) -> Link:
        """Keep a leaf; its (oid, loc)."""

    def put_inner(self, body: bytes, count: int, mark: int) -> Link:
        """Keep an inner node of ``count`` entries; its (oid, loc).

        When it is stored already, that one is named, and what was put since ``mark`` is dropped.
        """


class Tree(NamedTuple):
    """The root of a tree: its oid names the contents, its location says where it lies."""

    oid: bytes
    loc: bytes


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
    wanted: dict[Link, list[bytes]] = {(tree.oid, tree.loc): list(paths)}
    level = 0
    while wanted:
        bodies = reader.read_many(list(wanted))
        below: dict[Link, list[bytes]] = {}
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


def leaf_texts(body: bytes) -> list[tuple[str, bytes]]:
    """(key as text, value) of a leaf without blobs, in path order."""
    return [(key.decode(), value) for key, value in node.leaf_inline_items(body)]


def uneven_runs(old: bytes, new: bytes) -> list[tuple[list[Segment], list[Segment]]]:
    """The runs of two inner nodes, side by side; pairs of equal ones left out."""
    if node.inner_slots(old) == node.inner_slots(new):  # most of the time
        one, other = node.inner_children(old), node.inner_children(new)
        return [
            ([node.segment_at(one, number)], [node.segment_at(other, number)])
            for number, oid in enumerate(one.oids)
            if oid != other.oids[number]
        ]
    left, right = node.segments_of(old), node.segments_of(new)
    out: list[tuple[list[Segment], list[Segment]]] = []
    i = j = 0
    while i < len(left):
        if j >= len(right):  # the runs of one of them overlap
            raise CorruptionError(node.BAD_INNER)
        end = max(left[i].start + left[i].width, right[j].start + right[j].width)
        i_end = _until(left, i, end)
        j_end = _until(right, j, end)
        before, after = left[i:i_end], right[j:j_end]
        i, j = i_end, j_end
        if not (len(before) == len(after) == 1 and before[0].oid == after[0].oid):
            out.append((before, after))
    return out


def _until(segments: list[Segment], at: int, end: int) -> int:
    """Index after the segments that lie before slot ``end``."""
    while at < len(segments) and segments[at].start < end:
        at += 1
    return at


def touched(
    shape: Shape, body: bytes, run: Run, span: tuple[int, int], level: int
) -> list[tuple[Segment, int, int]]:
    """The children of an inner node at ``level`` into which entries of a run fall.

    Args:
        span: (i, j), first and end of those entries of the run that belong into this node.

    Returns:
        (child, i, j) in slot order: the child, an empty run where there is none, and its entries.
    """
    children = node.inner_children(body)
    slots = children.slots
    i, j = span
    out = []
    while i < j:
        slot = run.slot(shape, i, level)
        number = slots[slot]
        if number == EMPTY_SLOT:
            old = empty_segment(*node.empty_run(slots, slot))
        else:
            old = node.segment_at(children, number)
        end = run.bound(shape, i, j, level, old.start + old.width)
        if end <= i:  # a child whose slots are no run
            raise CorruptionError(node.BAD_INNER)
        out.append((old, i, end))
        i = end
    return out


def inner_replace(body: bytes, changed: list[tuple[Segment, Link]]) -> tuple[bytes, int, int, int]:
    """(body, count, size, extra) of an inner node in which children were exchanged and no run changed."""
    columns = node.inner_children(body)
    for new, (oid, loc) in changed:
        number = columns.slots[new.start]
        columns.oids[number] = oid
        columns.locs[number] = loc
        columns.counts[number] = new.entry_count
        columns.sizes[number] = new.size
        columns.extras[number] = new.extra
    return _encoded(columns)


def inner_pack(segments: list[Segment], links: list[Link]) -> tuple[bytes, int, int, int]:
    """(body, count, size, extra) of an inner node of segments that cover all its slots.

    Args:
        links: (oid, loc) of each segment that has entries.
    """
    table = bytearray()
    live: list[Segment] = []
    for segment in segments:
        number = len(live) if segment.entry_count else EMPTY_SLOT
        table += bytes((number,)) * segment.width
        if segment.entry_count:
            live.append(segment)
    return _encoded(node.Children(
        bytes(table), [link[0] for link in links], [link[1] for link in links],
        [s.entry_count for s in live], [s.size for s in live], [s.extra for s in live],
    ))  # fmt: skip


def _encoded(columns: node.Children) -> tuple[bytes, int, int, int]:
    return node.inner_encode(columns), sum(columns.counts), sum(columns.sizes), sum(columns.extras)


class Changer(Protocol):
    """What changes nodes: see ``hamt.Editor``."""

    writer: Writer
    shape: Shape
    many: int

    def change(self, child: Segment, level: int, run: Run, i: int, j: int) -> list[Segment]:
        """Make changes i to j in a child of a node at ``level``; what stands in its run then."""

    def plant(self, run: Run, i: int, j: int, level: int, where: Segment) -> list[Segment]:
        """New nodes for entries i to j."""

    def exchange(
        self, child: Segment, body: bytes, changed: list[tuple[Segment, list[Segment]]], mark: int
    ) -> Segment:
        """An inner node with what stands in some of its runs exchanged."""


def change_inner(
    editor: Changer, child: Segment, body: bytes, level: int, run: Run, span: tuple[int, int]
) -> Segment:
    """Make the changes of a span below an inner node that is a child of a node at ``level``.

    Cost: each node on the way to a change is read and written once.
    """
    mark = editor.writer.mark()
    level += 1
    changed: list[tuple[Segment, list[Segment]]] = []
    for old, first, end in touched(editor.shape, body, run, span, level):
        new = editor.change(old, level, run, first, end)
        if new != [old]:
            changed.append((old, new))
    return editor.exchange(child, body, changed, mark)


class Merger(Changer, Protocol):
    """What merges nodes: see ``merge``."""

    def run(self, sides: list[Any], level: int, start: int, width: int) -> list[Segment]:
        """Merge what three sides hold in a run of slots of a node at ``level``."""


def merge_aligned(
    merger: Merger, inner: list[Segment], bodies: list[bytes], level: int, mark: int
) -> Segment:
    """Merge (base, ours, theirs) at ``level``, whose children stand in the same runs: most of the time.

    What only one side changed is taken from it, unread.
    """
    base, ours, theirs = (node.inner_children(body) for body in bodies)
    changed: list[tuple[Segment, list[Segment]]] = []
    is_theirs = True
    for number, mine in enumerate(ours.oids):
        other, old = theirs.oids[number], base.oids[number]
        if mine == other:
            continue
        if other == old:
            is_theirs = False
            continue
        here = node.segment_at(ours, number)
        there = node.segment_at(theirs, number)
        if mine == old:
            merged = [there]
        else:
            sides = [[node.segment_at(base, number)], [here], [there]]
            merged = merger.run(sides, level, here.start, here.width)
        is_theirs = is_theirs and merged == [there]
        if merged != [here]:
            changed.append((here, merged))
    if is_theirs:
        return inner[2]
    return merger.exchange(inner[1], bodies[1], changed, mark)


def plant(
    writer: Writer, shape: Shape, run: Run, span: tuple[int, int], level: int, where: tuple[int, int]
) -> list[Segment]:  # fmt: skip
    """New nodes for a span of a run in a run of slots (start, width) of a node at ``level``.

    Inner nodes are put; leaves are left for the caller, who may join them. None of the entries is
    DELETED. What is planted has no buddies to join: each prefix that was divided is too heavy.
    """
    out: list[Segment] = []
    _plant(writer, shape, run, out, (*span, level, *where))
    return out


def _plant(
    writer: Writer, shape: Shape, run: Run, out: list[Segment], what: tuple[int, int, int, int, int]
) -> None:
    i, j, level, start, width = what
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
            out.append(_plant_inner(writer, shape, run, (i, j, level + 1))._replace(start=start, width=1))
            break
        half = width // 2
        middle = run.cut(shape, i, j, shape.bits * (level + 1) - width.bit_length() + 1)
        if middle == i:  # one half is empty: go on in a loop, so forged keys cost no recursion
            out.append(empty_segment(start, half))
            start += half
        elif middle == j:
            after.append(empty_segment(start + half, half))
        else:
            _plant(writer, shape, run, out, (i, middle, level, start, half))
            start += half
            i = middle
        width = half
    out.extend(reversed(after))


def _plant_inner(writer: Writer, shape: Shape, run: Run, what: tuple[int, int, int]) -> Segment:
    i, j, level = what
    mark = writer.mark()
    segments: list[Segment] = []
    _plant(writer, shape, run, segments, (i, j, level, 0, shape.slots))
    links = [
        (segment.oid, segment.loc) if segment.oid else writer.put_leaf(segment.body)
        for segment in segments
        if segment.entry_count
    ]
    body, count, size, extra = inner_pack(segments, links)
    oid, loc = writer.put_inner(body, count, mark)
    return Segment(0, shape.slots, count, size, extra, oid, loc, b"")
