"""What linked nodes and pointers into a map must not do, whatever nodes say and whoever else reads."""

from __future__ import annotations

import gc
import random
import sys
import threading
from typing import Any

import pytest

from kvgit_hamt import node, wire
from kvgit_hamt.descent import Tree
from kvgit_hamt.errors import CorruptionError
from kvgit_hamt.hamt import Editor
from kvgit_hamt.merge import _Merger
from kvgit_hamt.node import Segment
from kvgit_hamt.path import Shape
from kvgit_hamt.run import make_run
from kvgit_hamt.store import Store
from tests.support.hostile_map import HostileMap, Transaction
from tests.support.kernels import NodeWriter, compiled

pytestmark = pytest.mark.skipif(compiled is None, reason="the compiled kernel was not built")


def by_letter(key: bytes) -> int:
    """A path whose first two bits are the last two of a key."""
    return (key[-1] & 3) << 126


def no_tail(key: bytes) -> int:
    """Nothing tells keys apart."""
    return 0


SHAPE = Shape(bits=2, leaf_max=64, hash=by_letter, tail=no_tail)


def place(number: int) -> bytes:
    """A place."""
    return number.to_bytes(8, "little")


def oid(number: int) -> bytes:
    """An oid that tells its number."""
    return number.to_bytes(32, "big")


def inner(slots: list[int], numbers: list[int], count: int = 1_000) -> bytes:
    """An inner node whose children are the nodes of these numbers."""
    size = len(numbers)
    return node.inner_encode(node.Children(
        bytes(slots), [oid(number) for number in numbers], [place(number) for number in numbers],
        [count] * size, [count] * size, [0] * size,
    ))  # fmt: skip


def leaf(key: bytes, value: bytes) -> bytes:
    """A leaf of one entry."""
    tag = by_letter(key) & 255
    return node.leaf_pack(bytes((tag,)), [len(key), len(key) + len(value)], b"", key + value, b"")


def store_of(bodies: dict[int, bytes], max_bytes: int = 1 << 28) -> tuple[Any, HostileMap]:
    """A store of nodes by number, with a door."""
    made = {oid(number): body for number, body in bodies.items()}
    over = HostileMap(
        random.Random(0), made, lambda name: place(int.from_bytes(name, "big")), compiled.Door()
    )
    over.budget = 1 << 60
    backend: Any = over
    store = Store(backend, SHAPE, 0)
    store.ways = compiled.Ways(store, over.door, max_bytes)
    return store, over


def test_a_walk_follows_no_pointer_of_an_older_snapshot_that_another_one_noted_meanwhile():
    """One reads two keys in the newer snapshot; another reads the second in the older one in between."""
    root = inner([0, 1, 255, 255], [1, 2], count=1)
    store, over = store_of({0: root, 1: leaf(b"/d", b"first"), 2: leaf(b"/a", b"old")})
    older = Transaction(over)
    over.snapshots[2] = over.records = {**over.records, place(2): wire.seal(oid(2), leaf(b"/a", b"new"))}
    over.number, over.pages = 2, {}
    newer = Transaction(over)
    given = [newer]
    over.door.begin = lambda *arguments: given.pop()
    tree = Tree(oid(0), place(0))
    seen: list[Any] = []

    def encode(key: str) -> bytes:
        if key == "/a":
            given.append(older)
            seen.append(compiled.get(store, SHAPE, tree, b"/a"))
        return key.encode()

    found = compiled.Lookup(store.ways, tree, None, encode, None).get_many(["/d", "/a"])
    assert seen == [b"old"]
    assert found == {"/d": b"first", "/a": b"new"}


def test_a_ring_of_nodes_is_freed_when_nodes_are_forgotten():
    store, _ = store_of({0: inner([0, 0, 0, 0], [0])})
    tree = Tree(oid(0), place(0))
    with pytest.raises(CorruptionError):
        compiled.get(store, SHAPE, tree, b"a")
    body = store.ways.read(*tree)
    held = sys.getrefcount(body)
    store.forget()
    assert sys.getrefcount(body) == held - 1


@pytest.mark.parametrize("is_forgotten", [True, False])
def test_a_chain_of_nodes_of_any_length_is_freed(is_forgotten):
    """Roots above each other, each read as far down as paths lead: linked, they are longer than a stack."""
    length, step = 20_000, SHAPE.max_level
    bodies = {number: inner([0, 0, 0, 0], [number + 1]) for number in range(length)}
    bodies[length] = node.EMPTY_LEAF
    done: list[bool] = []

    def link_and_free() -> None:
        store, _ = store_of(bodies)
        for start in reversed(range(0, length - step, step)):
            with pytest.raises(CorruptionError):
                compiled.get(store, SHAPE, Tree(oid(start), place(start)), b"a")
        if is_forgotten:
            store.forget()
        del store
        gc.collect()
        done.append(True)

    before = threading.stack_size(256 << 10)
    try:
        thread = threading.Thread(target=link_and_free)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    assert done


def test_what_is_forgotten_counts_no_more_and_what_is_kept_does():
    """With room for a few nodes, a walk over many gives what it should."""
    numbers = range(200)
    bodies = {number: inner([0, 1, 255, 255], [number + 1, 1_000]) for number in numbers}
    bodies[200] = leaf(b"d", b"deep")
    bodies[1_000] = leaf(b"a", b"value")
    store, _ = store_of(bodies, max_bytes=1_500)
    for number in reversed(numbers):
        assert compiled.get(store, SHAPE, Tree(oid(number), place(number)), b"a") == b"value"


def test_a_merge_of_rings_in_wide_runs_is_refused():
    """By width 2 no level is the deepest, so nothing else would end it."""
    writer: Any = NodeWriter(is_placed=True)
    sides = []
    for number in (1, 2, 3):
        writer.bodies[oid(number)] = inner([0, 0, 255, 255], [number])
        sides.append(Segment(0, 4, 1_000, 1_000, 0, oid(number), place(number), b""))
    merger: Any = _Merger(writer, SHAPE, lambda key, base, ours, theirs: ours)
    with pytest.raises(CorruptionError):
        compiled.merge_aligned(merger, sides, [writer.bodies[oid(number)] for number in (1, 2, 3)], 0, 0)


@pytest.mark.parametrize("slots", [[0, 1, 0, 1], [0, 1, 0, 2], [0, 1, 2, 0], [0, 0, 1, 0]])
def test_walks_refuse_children_whose_slots_are_no_run(slots):
    """By its width a child covers slots of others, which would be passed over."""
    top = max(slots) + 1
    old, new = inner(slots, list(range(10, 10 + top)), 1), inner(slots, list(range(20, 20 + top)), 1)
    leaves = {number: leaf(b"%d" % number, b"") for number in (*range(10, 13), *range(20, 23))}
    store, _ = store_of({0: old, 1: new, **leaves})
    walk = compiled.DiffWalk(store.ways, Tree(oid(0), place(0)), Tree(oid(1), place(1)), True)
    with pytest.raises(CorruptionError, match=node.BAD_INNER):
        for _ in range(9):
            walk.step(1)
    leaves_walk = compiled.LeafWalk(store.ways, Tree(oid(0), place(0)))
    with pytest.raises(CorruptionError, match=node.BAD_INNER):
        for _ in range(9):
            leaves_walk.step(1)


def test_none_is_no_key_no_link_and_no_body():
    store, over = store_of({0: leaf(b"a", b"value")})
    tree = Tree(oid(0), place(0))
    wrong: Any
    for reader in (store, NodeWriter(is_placed=True)):
        with pytest.raises(TypeError):
            compiled.get_many(reader, SHAPE, tree, [None])
    for wrong in ((None, place(0)), (oid(0), None), ("0", "0")):
        for function, last in ((compiled.get, b"a"), (compiled.get_many, [b"a"])):
            with pytest.raises(TypeError):
                function(store, SHAPE, wrong, last)
        with pytest.raises(TypeError):
            compiled.Lookup(store.ways, wrong, None, str.encode, None)
    lookup = compiled.Lookup(store.ways, tree, None, lambda key: None, None)
    with pytest.raises(TypeError):
        lookup.get("a")
    for records in ([(None, b"")], [(oid(0), None)]):
        with pytest.raises(TypeError):
            compiled.seal_all(records, 0)
    with pytest.raises(TypeError):
        compiled.tally([(oid(0), None, 0, None)])
    store.read = lambda name, loc: None
    over.door.begin = None
    with pytest.raises(TypeError):
        store.ways.read(*tree)


def test_control_a_pointer_is_followed_while_the_snapshot_seems_the_same(monkeypatch):
    """A door that hides a commit makes lookups stale; one that tells does not."""
    root = inner([0, 1, 255, 255], [1, 2], count=1)
    store, over = store_of({0: root, 1: leaf(b"d", b""), 2: leaf(b"a", b"old")})
    tree = Tree(oid(0), place(0))
    held = over.pages
    with monkeypatch.context() as patch:
        patch.setattr(Transaction, "id", lambda self: 1)
        assert compiled.get(store, SHAPE, tree, b"a") == b"old"
        over.snapshots[2] = over.records = {**over.records, place(2): wire.seal(oid(2), leaf(b"a", b"new"))}
        over.number, over.pages = 2, {}
        assert compiled.get(store, SHAPE, tree, b"a") == b"old"
    assert held
    assert store.ways.take_counts()[0] == 2
    assert compiled.get(store, SHAPE, tree, b"a") == b"new"


@pytest.mark.parametrize("level", [-1, -7, 2**20, 2**31 - 1])
def test_levels_that_no_node_has_are_refused(level):
    body = inner([0, 1, 255, 255], [1, 2])
    changes = make_run(SHAPE, [(b"a", b"value")])
    with pytest.raises(CorruptionError):
        compiled.touched(SHAPE, body, changes, (0, 1), level)
    writer: Any = NodeWriter(is_placed=True)
    child = Segment(0, 4, 2_000, 2_000, 0, oid(1), place(1), b"")
    with pytest.raises(CorruptionError):
        above = level - 1 if level < 0 else level
        compiled.change_inner(Editor(writer, SHAPE), child, body, above, changes, (0, 1))
