"""Trees and commits that break one rule and nothing else: every checksum and every oid above is right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kvgit_hamt import Repo, node
from kvgit_hamt.backend.memory import MemoryBackend
from kvgit_hamt.node import INNER, Children
from kvgit_hamt.objects import RefValue, encode_commit
from kvgit_hamt.oid import oid_of
from kvgit_hamt.wire import seal

Stats = tuple[int, int, int]


def stats_of(payload: bytes) -> Stats:
    """(entries, bytes, bytes of blobs) below a node."""
    return node.inner_stats(payload) if payload[0] == INNER else node.leaf_stats(payload)


class Forge:
    """Writes past the library into a store in memory, whose branch main moves to what it makes."""

    def __init__(self, repo: Repo) -> None:
        assert isinstance(repo.store.backend, MemoryBackend)
        self.repo = repo
        self.backend = repo.store.backend
        self.codec = repo.codec.name

    def put(self, payload: bytes, oid: bytes | None = None) -> bytes:
        """Store an object under its oid, or under another, with a checksum that is right for it."""
        oid = oid_of(payload) if oid is None else oid
        self.backend._records[oid] = seal(oid, payload)
        return oid

    def head(self) -> Any:
        """The commit that main is at."""
        return self.repo.read_head("main")

    def way(self, slots: Sequence[int]) -> list[bytes]:
        """The nodes from the root of main's tree down to the one at some slots."""
        store = self.repo.store
        link = self.head().tree
        found = [store.read(*link)]
        for slot in slots:
            step = node.inner_step(found[-1], slot)
            assert step is not None
            found.append(store.read(*step))
        return found

    def slots_of(self, key: str) -> list[int]:
        """The slots that lead to the leaf of a key (the first slot of each child's run)."""
        shape = self.repo.store.shape
        data = key.encode()
        path = shape.hash(data)
        slots: list[int] = []
        while True:
            body = self.way(slots)[-1]
            if body[0] != INNER:
                return slots
            number = body[node.HEADER_BYTES + shape.slot(data, path, len(slots))]
            slots.append(node.inner_slots(body).index(number))

    def replace(self, slots: Sequence[int], payload: bytes, claim: Stats | None = None) -> str:
        """Put another node at some slots, new nodes above it, a commit and main: the commit's id.

        Args:
            claim: what its parent says of it, if not the truth.
        """
        oid, stats = self.put(payload), claim or stats_of(payload)
        for slot, body in reversed(list(zip(slots, self.way(slots)[:-1], strict=True))):
            payload = with_child(body, slot, oid, stats)
            oid, stats = self.put(payload), stats_of(payload)
        return self.commit(oid)

    def commit(
        self, tree: bytes, parents: Sequence[bytes] | None = None, generation: int | None = None
    ) -> str:
        """A commit on main."""
        head = self.head()
        oids = (head.oid,) if parents is None else tuple(parents)
        number = head.generation + 1 if generation is None else generation
        return self.commit_bytes(encode_commit(tree, oids, number, None, None, self.codec))

    def commit_bytes(self, payload: bytes) -> str:
        """Whatever is to pass for a commit, on main."""
        oid = self.put(payload)
        self.backend._enter("commit", oid)
        old = self.repo.refs.get("heads/main")
        self.repo.refs.move("heads/main", old, RefValue(oid), "forged")
        return oid.hex()


def with_child(body: bytes, slot: int, oid: bytes, stats: Stats) -> bytes:
    """An inner node with one child exchanged."""
    columns = node.inner_children(body)
    number = columns.slots[slot]
    lists = [list(column) for column in columns[1:]]
    for column, value in zip((lists[0], *lists[2:]), (oid, *stats), strict=True):
        column[number] = value
    return node.inner_encode(Children(columns.slots, *lists))  # type: ignore[arg-type]
