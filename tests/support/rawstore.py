"""An LMDB store's tables written behind the library's back, as damage, a bug or an enemy would."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lmdb

from kvgit_hamt.backend.lmdb_state import (
    META,
    NAMED,
    PENDING,
    REF,
    Tables,
    flush_tail,
    protect,
    put_state,
    read_state,
    small_rows,
    sum_refs,
)
from kvgit_hamt.wire import CHECK_BYTES, seal

SIGNS = {"refs": REF, "meta": META, "pending": PENDING}  # tables whose rows lie in the main database


class RawStore:
    """The tables of a store in one open write transaction. No handle of the library may be open.

    Small values are shown as tables "refs", "meta" and "pending", without the signs before their keys. What
    was in the tail has been moved to its tables.
    """

    def __init__(self, txn: Any, tables: Tables) -> None:
        self.txn = txn
        self.tables = tables

    def _at(self, table: str, key: bytes) -> tuple[Any, bytes]:
        """Handle and key of a row."""
        if table in SIGNS:
            return self.tables.main, SIGNS[table] + key
        return getattr(self.tables, table), key

    def get(self, table: str, key: bytes) -> bytes | None:
        handle, row = self._at(table, key)
        found: bytes | None = self.txn.get(row, db=handle)
        return found

    def put(self, table: str, key: bytes, value: bytes) -> None:
        handle, row = self._at(table, key)
        self.txn.put(row, value, db=handle)

    def delete(self, table: str, key: bytes) -> None:
        handle, row = self._at(table, key)
        assert self.txn.delete(row, db=handle)

    def rows(self, table: str) -> list[tuple[bytes, bytes]]:
        if table in SIGNS:
            return [(key[1:], value) for key, value in small_rows(self.txn, self.tables, SIGNS[table])]
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
            self.txn.delete(REF + key, db=self.tables.main)
        else:
            self.put("refs", key, protect(REF + key, value))
        state = read_state(self.txn, self.tables)
        put_state(self.txn, self.tables, state._replace(refs_sum=sum_refs(self.txn, self.tables)))


def open_raw(path: str | os.PathLike[str]) -> tuple[lmdb.Environment, Tables]:
    """A store's environment and its tables, opened without the library. Close it before the library opens."""
    env = lmdb.open(str(path), map_size=1 << 30, max_dbs=len(NAMED), lib_version=0)
    handles = [env.open_db(name.encode(), integerkey=name == "records") for name in NAMED]
    handles.append(env.open_db(None))
    return env, Tables(*handles)


@contextmanager
def raw_store(path: str | os.PathLike[str]) -> Iterator[RawStore]:
    """The tables of a store, for writing; committed at the end, without the witness."""
    env, tables = open_raw(path)
    try:
        with env.begin(write=True) as txn:
            state = read_state(txn, tables)
            put_state(
                txn, tables, state._replace(tail=flush_tail(txn, tables, state.tail, state.log_sequence))
            )
            yield RawStore(txn, tables)
    finally:
        env.close()
