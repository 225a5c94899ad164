"""An LMDB store's tables written behind the library's back, as damage, a bug or an enemy would."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lmdb

from kvgit_hamt.backend.lmdb_state import SUM_MASK, Tables, check_number, protect, put_state, read_state
from kvgit_hamt.wire import CHECK_BYTES, seal


class RawStore:
    """The tables of a store in one open write transaction. No handle of the library may be open."""

    def __init__(self, txn: Any, tables: Tables) -> None:
        self.txn = txn
        self.tables = tables

    def get(self, table: str, key: bytes) -> bytes | None:
        found: bytes | None = self.txn.get(key, db=getattr(self.tables, table))
        return found

    def put(self, table: str, key: bytes, value: bytes) -> None:
        self.txn.put(key, value, db=getattr(self.tables, table))

    def delete(self, table: str, key: bytes) -> None:
        assert self.txn.delete(key, db=getattr(self.tables, table))

    def rows(self, table: str) -> list[tuple[bytes, bytes]]:
        with self.txn.cursor(getattr(self.tables, table)) as cursor:
            return list(cursor)

    def bodies(self) -> dict[bytes, bytes]:
        """Place -> body of every record."""
        return {place: record[:-CHECK_BYTES] for place, record in self.rows("records")}

    def put_sealed(self, place: bytes, oid: bytes, body: bytes) -> None:
        """Store a body at a place with a checksum that is right for an oid, whatever it holds."""
        self.put("records", place, seal(oid, body))

    def append(self, oid: bytes, body: bytes) -> bytes:
        """Store a record at the next place; the place."""
        state = read_state(self.txn, self.tables)
        place = state.next_place.to_bytes(8, "little")
        self.put("records", place, seal(oid, body))
        put_state(self.txn, self.tables, state._replace(next_place=state.next_place + 1))
        return place

    def set_ref(self, name: str, value: bytes | None) -> None:
        """Set or drop a ref, and the sum over the refs with it."""
        key = name.encode()
        if value is None:
            self.txn.delete(key, db=self.tables.refs)
        else:
            self.txn.put(key, protect(key, value), db=self.tables.refs)
        refs_sum = sum(check_number(stored) for _, stored in self.rows("refs")) & SUM_MASK
        state = read_state(self.txn, self.tables)
        put_state(self.txn, self.tables, state._replace(refs_sum=refs_sum))


@contextmanager
def raw_store(path: str | os.PathLike[str]) -> Iterator[RawStore]:
    """The tables of a store, for writing; committed at the end, without the witness."""
    env = lmdb.open(str(path), map_size=1 << 30, max_dbs=len(Tables._fields), lib_version=0)
    try:
        handles = [env.open_db(name.encode(), integerkey=name == "records") for name in Tables._fields]
        with env.begin(write=True) as txn:
            yield RawStore(txn, Tables(*handles))
    finally:
        env.close()
