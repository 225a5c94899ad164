"""Changes and merges over hostile nodes, and batches of odd arguments, through both kernels."""

from __future__ import annotations

from typing import Any

from kvgit_hamt import node, pen, run
from kvgit_hamt.descent import Tree
from kvgit_hamt.errors import CorruptionError
from kvgit_hamt.hamt import Editor
from kvgit_hamt.merge import _Merger
from kvgit_hamt.node import Segment, Value
from kvgit_hamt.path import Shape
from tests.fuzz.fuzz_stores import planted, spoil
from tests.support.kernels import (
    PLAIN,
    Maker,
    NodeWriter,
    agree,
    comparable,
    compiled,
    counts,
    outcome,
    quietly,
)


class Scarce(NodeWriter):
    """One that gives out so many nodes and no more: rings of nodes have no end."""

    left = 400

    def read(self, oid: bytes, loc: bytes) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise CorruptionError("too many reads")
        return super().read(oid, loc)

    def copy(self) -> Any:
        """Another with the same nodes, each sound one at its place."""
        made = Scarce(self.is_placed)
        made.bodies = dict(self.bodies)
        made.log = list(self.log)
        return made


def resolve(key: bytes, base: Value | None, ours: Value | None, theirs: Value | None) -> Value | None:
    """Some of each."""
    return (base, ours, theirs)[len(key) % 3]


def root_of(writer: Any, shape: Shape, tree: Tree) -> Segment:
    """A root as a segment."""
    body = writer.bodies[tree.oid]
    stats = PLAIN["inner_stats" if body[0] == node.INNER else "leaf_stats"](body)
    return Segment(0, shape.slots, *stats, tree.oid, tree.loc, b"")


def edit_round(maker: Maker, shape: Shape) -> None:
    """Trees changed and merged: sound ones as the plain kernel does, hostile ones without harm."""
    rng = maker.rng
    writer: Any = Scarce(rng.random() < 0.5)
    writer.left = 10**9
    base, _ = planted(maker, shape, writer, rng.choice([20, 60, 150]))
    trees = [base]
    for _ in range(2):
        made = run.make_run(shape, maker.changes(rng.choice([1, 5, 30]), rng.random() < 0.1, True))
        trees.append(Editor(writer, shape).apply(base, made))
    roots = [root_of(writer, shape, tree) for tree in trees]
    changes = run.make_run(shape, maker.changes(rng.choice([1, 5, 30, 200]), rng.random() < 0.1, True))
    if writer.bodies[base.oid][0] == node.INNER:
        change_both(writer, shape, roots[0], changes)
    merge_both(writer, shape, roots)
    for _ in range(3):
        hostile = writer.copy()
        links = {
            oid: (oid, int.from_bytes(oid, "big").to_bytes(8, "little") if writer.is_placed else b"")
            for oid in writer.bodies
        }
        spoil(maker, hostile.bodies, links, rng.choice([0, 1, 3]))
        bodies = [
            maker.mutated(hostile.bodies[tree.oid]) if rng.random() < 0.2 else hostile.bodies[tree.oid]
            for tree in trees
        ]
        level = rng.choice([-1, -1, -1, 0, 3, 200, -2, 2**20])
        editor = Editor(hostile, shape)
        span = rng.choice([(0, len(changes.hi)), (0, 0), (1, 0), (0, len(changes.hi) + 1), (-1, 1)])
        quietly("change_inner", compiled.change_inner, editor, roots[0], bodies[0], level, changes, span)
        merger: Any = _Merger(hostile, shape, resolve)
        hostile.left = 400
        quietly("merge_aligned", compiled.merge_aligned, merger, roots, bodies, rng.choice([0, 0, level]), 0)
        same_slots = [maker.mutated(bodies[1]) for _ in range(2)]
        quietly("merge_aligned", compiled.merge_aligned, merger, roots, [bodies[1], *same_slots], 0, 0)
        one, two, three = (_renumbered(maker, bodies[1]) for _ in range(3))
        hostile.left = 400
        quietly("merge_aligned", compiled.merge_aligned, merger, roots, [one, two, three], 0, 0)


def _renumbered(maker: Maker, body: bytes) -> bytes:
    """An inner node with other oids and counts, that stay in its columns."""
    if not node.is_sound_inner(body):
        return body
    rng = maker.rng
    columns = node.inner_children(body)
    for number in range(len(columns.oids)):
        if rng.random() < 0.5:
            columns.oids[number] = rng.choice(columns.oids)
        if rng.random() < 0.3:
            columns.counts[number] = rng.choice([0, 1, 2, 100, 2**31, 2**63])
            columns.sizes[number] = rng.choice([0, 1, 2, 100, 2**31, 2**63])
    try:
        return node.inner_encode(columns)
    except (OverflowError, ValueError):
        return body


def change_both(writer: Any, shape: Shape, root: Segment, changes: run.Run) -> None:
    """The same changes by both kernels: equal segments, equal records."""
    results = []
    for function in (PLAIN["change_inner"], compiled.change_inner):
        mine = writer.copy()
        mine.left = 10**9
        span = (0, len(changes.hi))
        found = outcome(function, Editor(mine, shape), root, mine.bodies[root.oid], -1, changes, span)
        results.append((found, comparable(mine.log)))
    agree("change_inner", results[0], results[1], (root, changes))


def merge_both(writer: Any, shape: Shape, roots: list[Segment]) -> None:
    """The same merge by both kernels, where it is one of aligned nodes."""
    bodies = [writer.bodies[root.oid] for root in roots]
    if any(body[0] != node.INNER for body in bodies) or len({node.inner_slots(body) for body in bodies}) > 1:
        return
    results = []
    for function in (PLAIN["merge_aligned"], compiled.merge_aligned):
        mine = writer.copy()
        mine.left = 10**9
        results.append(outcome(function, _Merger(mine, shape, resolve), roots, bodies, 0, mine.mark()))
    # what was put differs in its order, not in what it is
    agree(
        "merge_aligned", *[result[:6] if isinstance(result, tuple) else result for result in results], roots
    )


def batch_round(maker: Maker, shape: Shape) -> None:
    """Pens and builders."""
    pen_round(maker)
    odd_pen(maker)
    pairs_round(maker, shape)


def pen_round(maker: Maker) -> None:
    """The same calls of two pens, which must look the same after each."""
    rng = maker.rng
    placed = rng.random() < 0.7
    first = rng.choice([0, 5, 2**40])
    end = rng.choice([None, first + 3]) if placed else None
    told: list[list[bool]] = [[], []]
    pens: list[Any] = []
    for kind, heard in zip((pen.Pen, compiled.Pen), told, strict=True):
        made: Any = kind(placed, first, end, 300, heard.append)
        made.reads(rng.choice([None, first]) if not pens else pens[0].floor, _fetch, _refuse)
        pens.append(made)
    bodies = [maker.leaf(Shape(), 3), maker.inner(4), rng.randbytes(rng.randrange(30))]
    for _ in range(6):
        body = rng.choice(bodies)
        oid = rng.randbytes(32)
        calls: list[tuple[str, tuple[Any, ...]]] = [
            (
                "put",
                (oid, body, rng.randrange(3), rng.choice([None, "node"] if body[:1] in _NODES else ["blob"])),
            ),
            ("read", rng.choice([(oid, b""), (oid, (first + rng.randrange(4)).to_bytes(8, "little"))])),
        ]
        if body[:1] == b"\1":
            calls.append(("put_leaf", (body,)))
        if node.is_sound_inner(body):
            calls.append(("put_inner", (body,)))
        if placed and pens[0].records:
            calls.append(("rewind", (rng.randrange(len(pens[0].records) + 1),)))
        name, arguments = rng.choice(calls)
        found = [outcome(getattr(each, name), *arguments) for each in pens]
        agree(f"Pen.{name}", found[0], found[1], arguments)
        states = [(comparable(p.records), p.new, p.next, p.size) for p in pens]
        agree(f"Pen.{name}", states[0], states[1], arguments)
    records = pens[0].records
    for name in ("seal_all", "tally"):
        arguments = (records, first) if name == "seal_all" else (records,)
        agree(name, PLAIN[name](*arguments), getattr(compiled, name)(*arguments), arguments)
    agree("told", told[0], told[1], ())


_NODES = (b"\1", b"\2")


def _fetch(oid: bytes, loc: bytes) -> bytes:
    return oid + loc


def _refuse() -> None:
    raise CorruptionError("of another batch")


def odd_pen(maker: Maker) -> None:
    """Arguments that nobody should give."""
    rng = maker.rng
    odd: list[Any] = [
        None,
        b"",
        b"\1",
        b"\2" * 9,
        "text",
        7,
        -1,
        2**64,
        2**70,
        (),
        [],
        rng.randbytes(40),
        maker.inner(2),
        maker.leaf(Shape(), 2),
    ]

    def some() -> Any:
        return rng.choice(odd)

    made = quietly(
        "Pen",
        compiled.Pen,
        some(),
        rng.choice([0, 2**64 - 1, -1, None, "x"]),
        rng.choice([None, 2, "x"]),
        50,
        _told,
    )
    if made is None:
        made = compiled.Pen.__new__(compiled.Pen)
    calls = ["put", "put_leaf", "put_inner", "rewind", "read", "put_leaf", "put"]
    for name in rng.choices(calls, k=5):
        number = {"put": 4, "read": 2}.get(name, 1)
        quiet_any(f"Pen.{name}", getattr(made, name), *[some() for _ in range(number)])
    quiet_any("Pen.reads", made.reads, some(), _fetch, _told)
    quiet_any("Pen.read", made.read, rng.randbytes(32), rng.choice([b"", rng.randbytes(8), b"x"]))
    quiet_any("seal_all", compiled.seal_all, [(some(), some(), 0, None)], 0)
    quiet_any(
        "seal_all", compiled.seal_all, [(rng.randbytes(8), b"", 0, None)], rng.choice([0, 2**64 - 1, -1])
    )
    quiet_any("tally", compiled.tally, [(some(), some(), 0, some())])
    quiet_any("tally", compiled.tally, [some()])


def _told(*what: object) -> None:
    """Whatever it is."""


def quiet_any(name: str, function: Any, *arguments: Any) -> None:
    """``quietly``, where attributes and items may be missing, too."""
    try:
        quietly(name, function, *arguments)
    except (AttributeError, KeyError, IndexError):
        counts["refused"] += 1


def pairs_round(maker: Maker, shape: Shape) -> None:
    """Pairs of all sorts; those that were taken are the first, and make the run that they should."""
    rng = maker.rng
    pairs: list[Any] = []
    for _ in range(rng.choice([0, 3, 30])):
        pairs.append((f"k{rng.randrange(50)}", b"v" * rng.randrange(20)))
        if rng.random() < 0.1:
            pairs.append(rng.choice(_ODD_PAIRS))
    limit = rng.choice([512, 10, 0, -1, 2**62])
    builder = compiled.Builder(shape)
    calls = 0

    def encode(value: Any) -> Any:
        nonlocal calls
        calls += 1
        what = rng.randrange(200)
        if what == 0:
            raise ValueError("no")
        if what == 1:
            pairs.clear()
        if what == 2:
            return None
        if what == 3:
            builder.extend_pairs([("again", b"x")], None, 9)
        return value

    is_plain = rng.random() < 0.6
    given = list(pairs)
    taken = quietly("extend_pairs", builder.extend_pairs, pairs, None if is_plain else encode, limit)
    if taken is not None and is_plain:
        twin = run.Builder(shape)
        for key, value in given[:taken]:
            twin.add(key.encode(), value)
        agree("extend_pairs", comparable(twin.finish()), comparable(builder.finish()), given)
    else:
        quietly("finish", builder.finish)
    for odd in (None, (), [None], 7):
        quietly("extend_pairs", builder.extend_pairs, odd, None, limit)


_ODD_PAIRS: list[Any] = [
    None, 7, "ab", b"ab", [], ("a",), ("a", b"", b""), ["a", b""], (b"a", b"b"), ("a", "b"), ("a", None),
    (None, b""), ("ü", b"x"), ("\ud800", b"x"), ("x" * 70_000, b""), ("a", bytearray(b"x")),
    ("a/b", b"x"), ("", b""),
]  # fmt: skip
