"""H4 and more: stores whose every record passes its check, and lies. Errors of ours, an end, and no more.

Who can write the file can make any record: checks are no signatures. What must hold then: each call ends,
in bounded memory, with a result or with an error of the library; only `check` says whether a result is true.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

import pytest

from kvgit_hamt import CorruptionError, KvgitHamtError, Repo, graph, node, wire
from kvgit_hamt.backend.base import Batch, RefUpdate
from kvgit_hamt.node import Children
from kvgit_hamt.objects import RefValue, encode_ref
from kvgit_hamt.oid import oid_of
from kvgit_hamt.path import Shape
from tests.hostile.enemy import BACKENDS, EndlessError, Enemy, Link, calls
from tests.support.homes import SMALL
from tests.support.scale import pick, record

CALLS = sorted(calls(Repo(), "main"))
every_backend = pytest.mark.parametrize("kind", BACKENDS)


def one(enemy: Enemy) -> Link:
    return enemy.leaf({b"k1": b"\x01"})


def many_of(enemy: Enemy, link: Link, counts: int) -> Link:
    """An inner node with a child of its own, always the same, in each slot."""
    slots = enemy.shape.slots
    return enemy.inner([link] * slots, [counts] * slots)


def blob_leaf(enemy: Enemy, oid: bytes, length: int) -> Link:
    """A leaf whose value lies outside it, where and as long as it says."""
    entry = node.Entries(
        [b"k1" + oid + struct.pack("<Q", length)], [2], bytearray((enemy.shape.hash(b"k1") & 255,)),
        bytearray((node.BLOB_VALUE,)), [b""],
    )  # fmt: skip
    return enemy.put(node.leaf_encode(entry), [(oid, enemy.next_loc(9))])


def twice(enemy: Enemy) -> Link:
    tag = enemy.shape.hash(b"k1") & 255
    columns = node.Entries([b"k1\x01", b"k1\x02"], [2, 2], bytearray((tag, tag)), bytearray(2), [b"", b""])
    return enemy.put(node.leaf_encode(columns))


def unordered(enemy: Enemy) -> Link:
    keys = sorted((b"k%d" % number for number in range(20)), key=enemy.shape.hash, reverse=True)
    return enemy.leaf(dict.fromkeys(keys, b"\x01"))


def leaf_of_count(flags: int, count: int) -> Callable[[Enemy], Link]:
    header = struct.pack("<BBHI", node.LEAF, node.VERSION, flags, count)
    return lambda enemy: enemy.put(header + b"x" * 100)


TREES: dict[str, Callable[[Enemy], Link]] = {
    "a node that is its own child": Enemy.loop,
    "nodes deeper than paths": lambda e: e.chain(e.shape.max_level + 5, one(e)),
    "a thousand levels": lambda e: e.chain(1_000, one(e)),
    "a commit as a tree": lambda e: (e.initial.oid, e.initial.loc),
    "a tree that is missing": lambda e: (b"\x01" * 32, e.next_loc(7)),
    "no bytes": lambda e: e.put(b""),
    "one byte of a leaf": lambda e: e.put(bytes((node.LEAF,))),
    "one byte of an inner node": lambda e: e.put(bytes((node.INNER,))),
    "a leaf of 2^32-1 entries": leaf_of_count(0, 2**32 - 1),
    "a wide leaf of 2^32-1 entries": leaf_of_count(node.WIDE | node.KINDS, 2**32 - 1),
    "a leaf of 65,535 entries": leaf_of_count(0, 2**16 - 1),
    "children of 2^63 entries": lambda e: many_of(e, one(e), 1 << 63),
    "children of no entries": lambda e: many_of(e, one(e), 0),
    "inner nodes that should be leaves": lambda e: many_of(e, many_of(e, one(e), 1 << 20), 1),
    "an inner node over several slots": lambda e: e.inner([e.chain(2, one(e))], [5]),
    "a key that is no UTF-8": lambda e: e.leaf({b"\xff\xfe": b"\x01"}),
    "a key that comes twice": twice,
    "keys out of order": unordered,
    "a blob that is missing": lambda e: blob_leaf(e, b"\x05" * 32, 1_000),
    "a blob of 2^63 bytes": lambda e: blob_leaf(e, b"\x05" * 32, 1 << 63),
    "a blob that is a node": lambda e: blob_leaf(e, oid_of(node.EMPTY_LEAF), len(node.EMPTY_LEAF)),
    "a value that claims 2^32-1 items": lambda e: e.leaf({b"k1": b"\xdd\xff\xff\xff\xff"}),
    "a value of a thousand levels": lambda e: e.leaf({b"k1": b"\x91" * 1_000 + b"\xc0"}),
}  # fmt: skip


def survives(enemy: Enemy, name: str) -> str:
    """Make one call as a victim would; how it ended. Anything but an error of ours comes through."""
    enemy.backend.reads = 0
    try:
        calls(enemy.repo, "bad")[name]()
    except KvgitHamtError as error:
        assert len(str(error)) < 2_000
        return type(error).__name__
    return "done"


@every_backend
@pytest.mark.parametrize("name", TREES)
def test_a_tree_that_lies_ends_in_errors_of_ours(kind, name):
    for call in CALLS:
        enemy = Enemy(BACKENDS[kind]())
        enemy.branch_of("bad", TREES[name](enemy))
        outcome = survives(enemy, call)
        if name in ("a node that is its own child", "a tree that is missing") and call == "get":
            assert outcome == "CorruptionError"


def history(enemy: Enemy, **fields: object) -> Link:
    parents = fields.pop("parents", [(enemy.initial.oid, enemy.initial.loc)])
    return enemy.commit(enemy.initial.tree, parents, **fields)  # type: ignore[arg-type]


def own_parent(enemy: Enemy) -> Link:
    oid, loc = b"\x66" * 32, enemy.next_loc()
    return history(enemy, parents=[(oid, loc)], oid=oid)


def ring(enemy: Enemy) -> Link:
    oids = [bytes((number,)) * 32 for number in (97, 98, 99)]
    locs = [enemy.next_loc(ahead) for ahead in range(3)]
    for number, oid in enumerate(oids):
        after = (number + 1) % 3
        link = history(enemy, parents=[(oids[after], locs[after])], oid=oid, generation=3 - number)
    return link


HISTORIES: dict[str, Callable[[Enemy], Link]] = {
    "a commit that is its own parent": own_parent,
    "three commits in a ring": ring,
    "a parent younger than its child": lambda e: history(e, parents=[history(e, generation=1 << 62)]),
    "generation 2^64-1": lambda e: history(e, generation=(1 << 64) - 1),
    "year 292,277": lambda e: history(e, time_us=(1 << 63) - 1),
    "2^64-1 microseconds": lambda e: history(e, time_us=(1 << 64) - 1),
    "long before year 1": lambda e: history(e, time_us=-(1 << 63)),
    "a codec named in escape sequences": lambda e: history(e, codec="\x1b[2J" * 1_000),
    "one parent 5,000 times": lambda e: history(e, parents=[(e.initial.oid, e.initial.loc)] * 5_000),
    "a parent that is missing": lambda e: history(e, parents=[(b"\x03" * 32, e.next_loc(5))]),
    "a head that is a blob": lambda e: e.put(b"\x04\x01hello", kind="blob"),
    "a head that is a leaf": lambda e: e.put(node.EMPTY_LEAF, kind="commit"),
    "no oid at all": lambda e: (b"", b""),
}


@every_backend
@pytest.mark.parametrize("name", HISTORIES)
def test_a_history_that_lies_ends_in_errors_of_ours(kind, name):
    for call in CALLS:
        enemy = Enemy(BACKENDS[kind]())
        enemy.branch("bad", HISTORIES[name](enemy))
        outcome = survives(enemy, call)
        if call == "log" and (("parent" in name and "5,000" not in name) or "ring" in name):
            assert outcome == "CorruptionError"


def laughs(enemy: Enemy) -> Link:
    """A dozen nodes that claim, and by iteration have, more entries than anybody can read."""
    link = enemy.leaf({b"k%d" % number: b"\x01" for number in range(20)})
    for _ in range(12):
        link = many_of(enemy, link, 1 << 20)
    return link


LYING_LEAVES = {"a value that claims 2^32-1 items", "a value of a thousand levels"}  # its own affair


@pytest.mark.parametrize("name", [*TREES, "a leaf in every slot of every node"])
def test_a_check_of_a_tree_that_lies_ends_and_says_so(name):
    for make in BACKENDS.values():
        enemy = Enemy(make())
        enemy.branch_of("bad", TREES.get(name, laughs)(enemy))
        enemy.backend.reads = 0
        checking = enemy.repo.check(deep=True)
        faults = [fault for fault in checking if fault.kind != "index"]
        assert len(faults) < 5_000
        if name not in LYING_LEAVES:
            assert faults
            assert not checking.result().is_sound


HARMLESS = {"one parent 5,000 times", "a codec named in escape sequences"}


@pytest.mark.parametrize("name", sorted(set(HISTORIES) - HARMLESS))
def test_a_check_of_a_history_that_lies_ends_and_says_so(name):
    enemy = Enemy(BACKENDS["by oid"]())
    enemy.branch("bad", HISTORIES[name](enemy))
    assert list(enemy.repo.check(deep=True))


@every_backend
def test_control_without_generations_a_ring_of_commits_has_no_end(kind, monkeypatch):
    monkeypatch.setattr(graph, "read_parent", lambda store, commit, link: store.read_commit(*link))
    enemy = Enemy(BACKENDS[kind]())
    enemy.branch("bad", ring(enemy))
    with pytest.raises(EndlessError):
        for _ in enemy.repo.log("bad"):
            pass


# --- random ones


def lies(enemy: Enemy, rng: random.Random) -> Link:
    """A tree of a few nodes, each a mixture of truth and lies; its root."""
    links: list[Link] = [enemy.leaf({}), enemy.initial.tree, (enemy.initial.oid, enemy.initial.loc)]
    for _ in range(rng.randint(2, 12)):
        chance = rng.random()
        if chance < 0.3:
            links.append(random_leaf(enemy, rng))
        elif chance < 0.5:
            head = bytes((rng.choice((node.LEAF, node.INNER)), node.VERSION)) * rng.randint(0, 1)
            links.append(enemy.put(head + rng.randbytes(rng.randint(0, 300))))
        else:
            links.append(random_inner(enemy, rng, links))
    return links[-1]


def random_leaf(enemy: Enemy, rng: random.Random) -> Link:
    keys = [b"k%d" % rng.randint(0, 60) for _ in range(rng.randint(0, 8))]
    if rng.random() < 0.1:
        keys.append(rng.randbytes(3))
    if rng.random() < 0.6:
        keys.sort(key=lambda key: (enemy.shape.hash(key), enemy.shape.tail(key)))
    return enemy.leaf({key: rng.choice((b"\x01", b"\xc0", b"x" * 60, rng.randbytes(4))) for key in keys})


def random_inner(enemy: Enemy, rng: random.Random, links: list[Link]) -> Link:
    slots = enemy.shape.slots
    count = 1 << rng.randint(0, enemy.shape.bits)
    below = [rng.choice(links) for _ in range(count)]
    chance = rng.random()
    if chance < 0.4:
        table = bytes(sorted(rng.randrange(count) for _ in range(slots)))
    elif chance < 0.8:
        width = slots // count
        table = bytes(slot // width if rng.random() < 0.8 else node.EMPTY_SLOT for slot in range(slots))
    else:
        table = bytes(rng.choice((node.EMPTY_SLOT, *range(count))) for _ in range(slots))

    def number() -> int:
        return (
            rng.choice((0, 1, 300, 1 << 20, 1 << 63, (1 << 64) - 1))
            if rng.random() < 0.3
            else rng.randint(0, 60)
        )

    columns = [[number() for _ in below] for _ in range(2)]
    extras = [number() if rng.random() < 0.1 else 0 for _ in below]
    oids = [oid for oid, _ in below]
    return enemy.put(node.inner_encode(Children(table, oids, [b""] * count, *columns, extras)), below)


def run_lies(kind: str, seeds: range) -> dict[str, int]:
    """All calls over each random tree; how they ended."""
    outcomes: dict[str, int] = {}
    for seed in seeds:
        for call in CALLS:
            rng = random.Random(seed)
            enemy = Enemy(BACKENDS[kind](), SMALL)
            root = lies(enemy, rng)
            between = enemy.commit(enemy.leaf({b"k1": b"\x01"}), [(enemy.initial.oid, enemy.initial.loc)])
            enemy.branch("bad", enemy.commit(root, [between], generation=3))
            outcome = survives(enemy, call)
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
    return outcomes


@every_backend
def test_random_lies_end_in_errors_of_ours(kind):
    outcomes = run_lies(kind, range(15))
    assert outcomes["CorruptionError"] > 50
    assert outcomes["done"] > 50


@pytest.mark.slow
@every_backend
def test_many_random_lies_end_in_errors_of_ours(kind):
    stores = pick(100, 20_000)
    outcomes = run_lies(kind, range(1_000, 1_000 + stores))
    record("H4 enemy-made stores", stores=stores, calls=sum(outcomes.values()), violations=0)
    assert outcomes["CorruptionError"] > stores


@every_backend
def test_control_without_a_bound_on_depth_a_loop_has_no_end(kind, monkeypatch):
    """With that one check off, the same calls end in errors of anything but ours, or not at all."""
    monkeypatch.setattr(Shape, "max_level", 1 << 60)
    for call, kinds in {"get": ValueError, "items": EndlessError, "sample": EndlessError}.items():
        enemy = Enemy(BACKENDS[kind]())
        enemy.branch_of("bad", enemy.loop())
        with pytest.raises(kinds):
            survives(enemy, call)


# --- refs, reflog, description


@every_backend
@pytest.mark.parametrize(
    "value",
    [b"", b"\xc0", b"\xff" * 40, b"\x92" + b"\xc4\x20" + b"\x01" * 32 + b"\xc0", b"\xdd\xff\xff\xff\xff",
     b"\x91" * 5_000, encode_ref(RefValue(b"\x09" * 32)) + b"\0"],
    ids=repr,
)  # fmt: skip
def test_a_ref_that_lies_is_corruption_and_others_stay_readable(kind, value):
    enemy = Enemy(BACKENDS[kind]())
    enemy.repo.branches.create("good")
    enemy.backend.publish(Batch(refs=[RefUpdate("heads/bad", None, value, None)]))
    for call in ("get", "log", "merge_base", "edit", "gc"):
        assert survives(enemy, call) == "CorruptionError"
    assert len(enemy.repo.snapshot(branch="good")) == 0
    assert survives(Enemy(enemy.backend), "len") == "CorruptionError"


@every_backend
@pytest.mark.parametrize("entry", [b"", b"\xc0", b"\x94\xc0\xc0\x00", b"\x91" * 3_000], ids=repr)
def test_a_reflog_that_lies_is_corruption_and_gc_deletes_nothing(kind, entry):
    enemy = Enemy(BACKENDS[kind]())
    before = enemy.repo.stats()["record_count"]
    head = enemy.backend.get_ref("heads/main")
    enemy.backend.publish(Batch(refs=[RefUpdate("heads/main", head, head, entry)]))
    for call in (enemy.repo.reflog, lambda: enemy.repo.gc(keep_reflog=10)):
        with pytest.raises(CorruptionError):
            call()
    assert enemy.repo.stats()["record_count"] == before
    assert len(enemy.repo.snapshot()) == 0


def test_a_reflog_entry_of_a_time_that_cannot_be_shown_is_corruption():
    enemy = Enemy(BACKENDS["by oid"]())
    head = enemy.backend.get_ref("heads/main")
    entry = wire.pack([None, enemy.initial.oid, 1 << 63, "why"])
    enemy.backend.publish(Batch(refs=[RefUpdate("heads/main", head, head, entry)]))
    with pytest.raises(CorruptionError, match="malformed"):
        enemy.repo.reflog()
