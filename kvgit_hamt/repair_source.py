"""Where a repair takes objects from: whatever gives a payload by its oid, above all another store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

from kvgit_hamt import kernel, node
from kvgit_hamt.backend.base import Backend, Kind
from kvgit_hamt.check_walk import UNREADABLE, Flaw, Records
from kvgit_hamt.errors import CorruptionError
from kvgit_hamt.node import BLOB, COMMIT, INNER, BlobRef
from kvgit_hamt.objects import Link, RefValue, decode_ref
from kvgit_hamt.oid import oid_of
from kvgit_hamt.path import Shape
from kvgit_hamt.store import Store
from kvgit_hamt.wire import CHECK_BYTES

INDEXES: Mapping[int, Kind] = {COMMIT: "commit", BLOB: "blob", INNER: "node"}
"""Kind of object -> the index that it may be in."""


class PayloadSource(Protocol):
    """Whatever can give an object by its oid. What it gives is verified, so it need not be trusted."""

    def payload(self, oid: bytes) -> bytes | None:
        """The payload of an object, None if it is not there."""


class Clue(NamedTuple):
    """Where an object was looked for: in the tree of which commit, by which slots, as which key's blob."""

    commit: bytes
    slots: tuple[int, ...]
    key: bytes | None


class StoreSource:
    """Another store as a source: by its indexes, by the way that a clue tells, or by a search of all."""

    def __init__(self, backend: Backend, shape: Shape) -> None:
        self._backend = backend
        self._store = Store(backend, shape, 1 << 20)
        self._records = Records(self._store, deep=True)

    def payload(self, oid: bytes) -> bytes | None:
        """The payload of an object that an index names, or any where records have no places."""
        if not self._backend.placed:
            return self._read((oid, b""))
        for kind in INDEXES.values():
            loc = self._backend.find(kind, oid)
            if loc is not None:
                return self._read((oid, loc))
        return None

    def follow(self, oid: bytes, clue: Clue) -> bytes | None:
        """The payload of an object in the tree of a commit that both stores have."""
        link = self._follow(clue)
        return self._read(link) if link is not None and link[0] == oid else None

    def _follow(self, clue: Clue) -> Link | None:
        loc = self._backend.find("commit", clue.commit)
        if loc is None:
            return None
        link: Link = self._store.read_commit(clue.commit, loc).tree
        for slot in clue.slots:
            body = self._store.read(*link)
            step = node.inner_step(body, slot) if body[0] == INNER and slot < 1 << body[2] else None
            if step is None:
                return None
            link = step
        if clue.key is None:
            return link
        for key, value in kernel.leaf_items(self._store.read(*link)):
            if key == clue.key and isinstance(value, BlobRef):
                return value.oid, value.loc
        return None

    def _read(self, link: Link) -> bytes | None:
        body = self._records.read(*link)
        return None if isinstance(body, Flaw) else self._records.payload_of(body)

    def ref(self, name: str) -> RefValue | None:
        """What a ref of this name holds, None if there is none that can be read."""
        try:
            data = self._backend.get_ref(name)
            return None if data is None else decode_ref(name, data)
        except UNREADABLE:
            return None

    def search(self, wanted: set[bytes]) -> Iterator[tuple[bytes, bytes, bytes]]:
        """(oid, location, payload) of wanted objects. Cost: the SHA-256 of every record."""
        for location, record in self._backend.iterate_records():
            try:
                payload = self._records.payload_of(record[:-CHECK_BYTES])
                oid = oid_of(payload)
                if oid in wanted:
                    kernel.unseal(oid, record)
                    yield oid, location, payload
            except CorruptionError:
                continue
