"""Trees of hostile nodes under right checks, through all that the compiled kernel reads stores with.

Point reads and walks go over linked nodes and through a door, while snapshots pass, the map moves and
others read in between. What the plain kernel gives over the same records must come out as long as
nothing changes, and again after it changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kvgit_hamt import diff, node, run, scan
from kvgit_hamt.descent import Tree
from kvgit_hamt.errors import CorruptionError
from kvgit_hamt.hamt import Editor
from kvgit_hamt.path import Shape
from kvgit_hamt.store import Store
from tests.support.hostile_map import BUDGET, HostileMap
from tests.support.kernels import (
    PLAIN,
    Maker,
    NodeWriter,
    Refused,
    agree,
    comparable,
    compiled,
    counts,
    outcome,
    quietly,
)

Link = tuple[bytes, bytes]


def planted(maker: Maker, shape: Shape, writer: NodeWriter, count: int) -> tuple[Tree, list[bytes]]:
    """A sound tree of some entries, and their keys."""
    entries = run.make_run(shape, maker.changes(count, maker.rng.random() < 0.2, False))
    (top,) = PLAIN["plant"](writer, shape, entries, (0, len(entries.hi)), -1, (0, 1))
    link = (top.oid, top.loc) if top.oid else writer.put_leaf(top.body or node.EMPTY_LEAF)
    return Tree(*link), [entries.key(index) for index in range(len(entries.hi))]


def spoil(maker: Maker, bodies: dict[bytes, bytes], links: dict[bytes, Link], rings: int) -> None:
    """Mutate some nodes, and let some inner ones lead anywhere, even to themselves."""
    rng = maker.rng
    for victim in rng.sample(list(bodies), min(rng.randrange(4), len(bodies))):
        bodies[victim] = maker.mutated(bodies[victim])
    inner = [oid for oid, body in bodies.items() if node.is_sound_inner(body)]
    for victim in rng.sample(inner, min(rings, len(inner))):
        columns = node.inner_children(bodies[victim])
        number = rng.randrange(len(columns.oids))
        columns.oids[number], columns.locs[number] = links[rng.choice([victim, rng.choice(list(bodies))])]
        bodies[victim] = node.inner_encode(columns)


class Codec:
    """Values as they are; some cannot be decoded."""

    def decode(self, value: bytes) -> bytes:
        """The value."""
        if value[:1] == b"\7":
            raise ValueError("cannot be decoded")
        return value

    def decode_error(self, key: object, error: Exception) -> CorruptionError:
        """What is raised then."""
        return CorruptionError(f"{key!r:.100}: {error}")


class World:
    """A hostile store with its ways."""

    def __init__(self, maker: Maker, shape: Shape, rings: int) -> None:
        rng = maker.rng
        self.maker = maker
        self.shape = shape
        writer = NodeWriter(is_placed=True)
        size = rng.choice([3, 30, 120])
        self.old, self.keys = planted(maker, shape, writer, size)
        self.new = self.changed(writer) if rng.random() < 0.8 else planted(maker, shape, writer, size)[0]
        links = {oid: (oid, int.from_bytes(oid, "big").to_bytes(8, "little")) for oid in writer.bodies}
        self.is_sound = rng.random() < 0.3
        if not self.is_sound:
            spoil(maker, writer.bodies, links, rings)
        door = compiled.Door() if rng.random() < 0.8 else None
        self.map = HostileMap(rng, writer.bodies, lambda oid: links[oid][1], door)
        cache = rng.choice([1 << 20, 1 << 20, 4_000, 600])
        backend: Any = self.map
        self.store = Store(backend, shape, cache)
        self.plain = Store(backend, shape, cache)
        self.plain.ways = None
        self.ways = compiled.Ways(self.store, door, cache)
        self.store.ways = self.ways
        self.map.between += [self.ways.clear, self.store.forget, self.look]

    def changed(self, writer: NodeWriter) -> Tree:
        """The old tree with changes."""
        made = run.make_run(self.shape, self.maker.changes(self.maker.rng.choice([1, 9, 40]), False, True))
        any_writer: Any = writer
        return Editor(any_writer, self.shape).apply(self.old, made)

    def key(self) -> bytes:
        """One that may be there."""
        rng = self.maker.rng
        return rng.choice(self.keys) if self.keys and rng.random() < 0.8 else self.maker.key()

    def look(self) -> None:
        """A read as from another thread."""
        keys = [self.key() for _ in range(3)]
        quietly("Ways.get_many", compiled.get_many, self.store, self.shape, self.new, keys)
        quietly("Ways.get", compiled.get, self.store, self.shape, self.old, self.key())

    def lookup(self, tree: Tree) -> Any:
        """A ``Lookup`` whose parts stir, and are odd now and then."""
        rng = self.maker.rng

        def encode(key: Any) -> Any:
            self.map.stir()
            odd = self.map.odd()
            if odd < 3:
                return (None, "text", 7)[odd]
            if not isinstance(key, str):
                raise TypeError("keys are text")
            return key.encode()

        def refuse(is_closed: bool) -> None:
            raise ValueError("closed")

        return compiled.Lookup(self.ways, tree, rng.choice([None, Codec()]), encode, refuse)


def texts(keys: list[bytes]) -> list[str]:
    """Those that are text."""
    out = []
    for key in keys:
        try:
            out.append(key.decode())
        except UnicodeDecodeError:
            continue
    return out


def plain_get(world: World, tree: Tree, key: bytes) -> Any:
    """What the plain kernel gives; its ``get`` takes on trust that all nodes have places or none."""
    found = outcome(PLAIN["get_many"], world.plain, world.shape, tree, [key])
    return found if isinstance(found, Refused) else comparable(found.get(key))


def gets_agree(world: World) -> None:
    """Each key through both kernels, over records that rest."""
    world.map.budget = 10**9  # the way of a key ends
    for tree in (world.old, world.new):
        keys = [world.key() for _ in range(6)]
        for key in keys + keys[:2]:
            expected = plain_get(world, tree, key)
            agree("Ways.get", expected, outcome(compiled.get, world.store, world.shape, tree, key), key)
        expected = {key: plain_get(world, tree, key) for key in keys}
        if not any(isinstance(value, Refused) for value in expected.values()):
            found = outcome(compiled.get_many, world.store, world.shape, tree, keys)
            present = {key: value for key, value in expected.items() if value is not None}
            if isinstance(found, dict):
                found = {key: comparable(value) for key, value in found.items()}
            agree("Ways.get_many", present, found, keys)
        lookup = compiled.Lookup(world.ways, tree, None, str.encode, None)
        for text in texts(keys):
            wanted = expected[text.encode()]
            if isinstance(wanted, (Refused, bytes, type(None))):
                agree("Lookup.get", wanted, outcome(lookup.get, text), text)
        for oid, loc in (tree, *_links(world)):
            expected_body = outcome(world.plain.read, oid, loc)
            agree("Ways.read", expected_body, outcome(world.ways.read, oid, loc), (oid, loc))


def _links(world: World) -> list[Link]:
    rng = world.maker.rng
    return (
        [(world.map.oids[loc], loc) for loc in rng.sample(list(world.map.oids), 2)]
        if len(world.map.oids) > 1
        else []
    )


def gets_survive(world: World) -> None:
    """Odd keys and links while the world turns."""
    rng = world.maker.rng
    odd_keys: list[Any] = ["ü", "a/ü", "\ud800", b"bytes", 7, None, "x" * 70_000, "", "a" * 65_535, "///"]
    for tree in (world.old, world.new):
        lookup = world.lookup(tree)
        for _ in range(6):
            key: Any = rng.choice([*texts([world.key(), world.key()]), rng.choice(odd_keys)])
            quietly("Lookup.get", lookup.get, key, 5)
        many: Any = [*texts([world.key() for _ in range(9)]), *rng.sample(odd_keys, rng.randrange(3))]
        quietly("Lookup.get_many", lookup.get_many, rng.choice([many, tuple(many), iter(many), None]))
        for _ in range(4):
            world.look()
        quietly("Ways.get_many", compiled.get_many, world.store, world.shape, tree, [None, b"a"])
        wrong = rng.choice(
            [(tree[0], None), (None, tree[1]), (b"", b""), (tree[0], b"\1" * 8), (tree[0], b"x"), ("", "")]
        )
        quietly("Ways.get", compiled.get, world.store, world.shape, wrong, b"a")
        quietly("Ways.get_many", compiled.get_many, world.store, world.shape, wrong, [b"a"])
        quietly("Lookup", compiled.Lookup, world.ways, wrong, None, None, None)
        if all(isinstance(part, bytes) for part in wrong):
            quietly("Ways.read", world.ways.read, *wrong)


def walk(world: World, old: Tree, new: Tree) -> list[Any] | None:
    """All that a walk gives, run by run; None if it was refused."""
    rng = world.maker.rng
    world.map.budget = BUDGET
    linked = quietly("DiffWalk", compiled.DiffWalk, world.ways, old, new, rng.random() < 0.5)
    if linked is None:
        return None
    out: list[Any] = []
    for _ in range(200):
        step = quietly("DiffWalk.step", linked.step, rng.choice([1, 3, 256]))
        if step is None:
            quietly("DiffWalk.step", linked.step, 3)  # after a refusal: anything, but no crash
            return None
        out.append(step)
        if not step[0] and step[1] is None:
            break
    return out


def leaves_survive(world: World, tree: Tree) -> None:
    """The leaves of a tree, some at a time."""
    linked = quietly("LeafWalk", compiled.LeafWalk, world.ways, tree)
    for _ in range(200 if linked is not None else 0):
        if not quietly("LeafWalk.step", linked.step, world.maker.rng.choice([1, 5, 64])):
            quietly("LeafWalk.step", linked.step, 3)
            break


def walks_agree(world: World) -> None:
    """The keys that a walk finds are those of the plain way over the same records."""
    for old, new in ((world.old, world.new), (world.new, world.old)):
        walk(world, old, new)
        leaves_survive(world, old)
        if not world.is_sound or old.oid == new.oid:
            continue
        world.map.budget = 10**9
        both = [keys_that_differ(store, world, old, new) for store in (world.plain, world.store)]
        agree("diff", both[0], both[1], (old, new))
        both = [items_of(store, world, old) for store in (world.plain, world.store)]
        agree("items", both[0], both[1], old)


def keys_that_differ(store: Store, world: World, old: Tree, new: Tree) -> Any:
    """By the way that a store offers."""
    return outcome(lambda: sorted(change[0] for change in diff.diff(store, world.shape, old, new)))


def items_of(store: Store, world: World, tree: Tree) -> Any:
    """All entries, by the way that a store offers."""
    return outcome(lambda: list(scan.items(store, world.shape, tree)))


def store_round(maker: Maker, shape: Shape) -> None:
    """One hostile store, at rest, while the world turns, and at rest again."""
    rng = maker.rng
    world = World(maker, shape, rings=rng.choice([0, 1, 5]))
    gets_agree(world)
    world.map.rate = rng.choice([0.02, 0.1, 0.4])
    gets_survive(world)
    world.map.rate = 0.0
    gets_agree(world)
    world = World(maker, shape, rings=rng.choice([0, 1]))  # two rings side by side have no end
    walks_agree(world)
    world.map.rate = rng.choice([0.02, 0.1])
    for _ in range(3):
        walk(world, world.old, world.new)
        leaves_survive(world, world.new)
        world.map.stir()
    world.map.rate = 0.0
    gets_agree(world)
    counts["leaves read in place"] += world.ways.take_counts()[0]
    action: Callable[[], object] = rng.choice([world.ways.clear, world.store.forget, lambda: None])
    action()
