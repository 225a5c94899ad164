"""Stores as an enemy would make them: every record passes its check, and what it says is a lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from kvgit_hamt import Repo, node, wire
from kvgit_hamt.backend.base import Batch, Kind, NewRecord, RefUpdate
from kvgit_hamt.backend.memory import MemoryBackend
from kvgit_hamt.node import Children
from kvgit_hamt.objects import RefValue, encode_commit, encode_ref
from kvgit_hamt.oid import oid_of
from kvgit_hamt.path import Shape
from kvgit_hamt.wire import place_of
from tests.support.placed import PlacedBackend

READS_MAX = 30_000  # a walk over a handful of records that takes more has no end
Link = tuple[bytes, bytes]


class EndlessError(Exception):
    """So many reads that nobody would wait for the end."""


class Fuse:
    """A backend that counts reads, and raises when there were far too many."""

    reads = 0

    def _count(self, reads: int) -> None:
        self.reads += reads
        if self.reads > READS_MAX:
            raise EndlessError


class FusedMemory(Fuse, MemoryBackend):
    """Records by oid."""

    def read(self, oid: bytes, loc: bytes) -> bytes | None:
        self._count(1)
        return super().read(oid, loc)

    def read_many(self, links: Sequence[Link]) -> list[bytes | None]:
        self._count(len(links))
        return super().read_many(links)


class FusedPlaced(Fuse, PlacedBackend):
    """Records by place."""

    def read(self, oid: bytes, loc: bytes) -> bytes | None:
        self._count(1)
        return super().read(oid, loc)

    def read_many(self, links: Sequence[Link]) -> list[bytes | None]:
        self._count(len(links))
        return super().read_many(links)


BACKENDS: dict[str, Callable[[], Any]] = {"by oid": FusedMemory, "by place": FusedPlaced}


class Enemy:
    """Puts what it likes into a store that was made properly, and reads it as its victim would."""

    def __init__(self, backend: Any, shape: Shape | None = None) -> None:
        self.backend = backend
        self.repo = Repo(backend, shape=shape, cache_bytes=0)
        self.shape = self.repo.store.shape
        self.initial = self.repo.read_head("main")

    def next_loc(self, ahead: int = 0) -> bytes:
        """The location of a record that is put after ``ahead`` others."""
        return place_of(self.backend.next_place() + ahead) if self.backend.placed else b""

    def put(
        self, payload: bytes, links: Sequence[Link] = (), kind: Kind | None = None, oid: bytes | None = None
    ) -> Link:
        """A record, sealed as the library seals; under its SHA-256, or any oid."""
        oid = oid_of(payload) if oid is None else oid
        loc = self.next_loc()
        places = b"".join(at for _, at in links) if self.backend.placed else b""
        record = NewRecord(oid, payload + places, len(links) if self.backend.placed else 0, kind)
        self.backend.publish(Batch([record], self.backend.next_place()))
        return oid, loc

    def leaf(self, entries: dict[bytes, bytes]) -> Link:
        """A leaf of entries in the order given."""
        keys, values = list(entries), list(entries.values())
        columns = node.Entries(
            [key + value for key, value in entries.items()],
            [len(key) for key in keys],
            bytearray(self.shape.hash(key) & 255 for key in keys),
            bytearray(len(values)),
            [b""] * len(values),
        )
        return self.put(node.leaf_encode(columns))

    def inner(self, below: Sequence[Link], counts: Sequence[int], oid: bytes | None = None) -> Link:
        """An inner node: slot i leads to the child i modulo their number; ``counts`` entries in each."""
        return self.put(self.inner_payload(below, counts), below, oid=oid)

    def inner_payload(self, below: Sequence[Link], counts: Sequence[int]) -> bytes:
        """What ``inner`` puts."""
        slots = bytes(number % len(below) for number in range(self.shape.slots))
        sizes = [self.shape.leaf_max + count for count in counts]
        oids = [oid for oid, _ in below]
        columns = Children(slots, oids, [b""] * len(oids), list(counts), sizes, [0] * len(oids))
        return node.inner_encode(columns)

    def loop(self) -> Link:
        """An inner node, all of whose children are itself: impossible but for a made-up oid."""
        oid, loc = b"\x77" * 32, self.next_loc()
        return self.inner([(oid, loc)] * 8, [1 << 20] * 8, oid)

    def chain(self, length: int, end: Link) -> Link:
        """Inner nodes below inner nodes, each with one child in every slot."""
        link = end
        for _ in range(length):
            link = self.inner([link], [1 << 20])
        return link

    def commit(self, tree: Link, parents: Sequence[Link] = (), **fields: Any) -> Link:
        """A commit; ``generation``, ``time_us``, ``info``, ``codec`` and ``oid`` as wanted."""
        oids = [oid for oid, _ in parents]
        honest = encode_commit(tree[0], tuple(oids), 1, None, None, "x")
        told = [fields.get(name) for name in ("time_us", "info")]
        said = [tree[0], oids, fields.get("generation", 2), *told, fields.get("codec", "msgpack")]
        header = len(honest) - len(wire.pack([tree[0], oids, 1, None, None, "x"]))
        payload = honest[:header] + wire.pack(said)
        return self.put(payload, [tree, *parents], "commit", fields.get("oid"))

    def branch(self, name: str, commit: Link) -> None:
        """A branch at a commit, whatever that is."""
        full = "heads/" + name
        self.backend.publish(Batch(refs=[RefUpdate(full, None, encode_ref(RefValue(commit[0])), None)]))

    def branch_of(self, name: str, tree: Link) -> None:
        """A branch whose head has a tree."""
        self.branch(name, self.commit(tree, [(self.initial.oid, self.initial.loc)]))


def some(iterator: Iterator[Any], count: int = 5_000) -> None:
    """Take the first of a stream; a stream may be as long as it likes."""
    for number, _ in enumerate(iterator):
        if number >= count:
            return


def calls(repo: Repo, name: str) -> dict[str, Callable[[], Any]]:
    """Everything that reads a branch, or writes over it."""

    def edit() -> None:
        work = repo.worktree(name)
        work["new"] = 1
        work.commit()

    def edit_many() -> None:
        work = repo.worktree(name)
        work.update({f"k{number}": number for number in range(300)})
        work.commit()

    def merge() -> None:
        repo.branches.create("side", at=name)
        for branch in ("side", name):
            work = repo.worktree(branch)
            work[branch] = branch
            work.commit()
        repo.worktree(name).merge(branch="side")

    return {
        "get": lambda: [repo.snapshot(branch=name).get(f"k{number}") for number in range(50)],
        "get_many": lambda: repo.snapshot(branch=name).get_many([f"k{number}" for number in range(50)]),
        "len": lambda: len(repo.snapshot(branch=name)),
        "byte_size": lambda: repo.snapshot(branch=name).byte_size,
        "items": lambda: some(iter(repo.snapshot(branch=name).items())),
        "prefix": lambda: some(iter(repo.snapshot(branch=name).items("a/b/"))),
        "sample": lambda: repo.snapshot(branch=name).sample(5, seed=1),
        "diff": lambda: some(repo.diff("main", name)),
        "diff back": lambda: some(repo.diff(name, "main")),
        "log": lambda: some(repo.log(name)),
        "log of a key": lambda: some(repo.log(name, key="k1")),
        "log of a prefix": lambda: some(repo.log(name, prefix="a/")),
        "log of first parents": lambda: some(repo.log(name, first_parent=True)),
        "merge_base": lambda: repo.merge_base("main", name),
        "merge into main": lambda: repo.worktree("main").merge(branch=name),
        "get_commit": lambda: repr(repo.get_commit(name)),
        "gc": lambda: repo.gc(dry_run=True, keep_reflog=0),
        "usage": repo.usage,
        "edit": edit,
        "edit many": edit_many,
        "merge": merge,
    }
