"""An LMDB store's tables written behind the library's back, as damage, a bug or an enemy would."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

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


class RawRow(NamedTuple):
    """A row as it lies in LMDB; ``table`` is a field of ``Tables``."""

    table: str
    key: bytes
    value: bytes


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

    def drop_ref_row(self, name: str) -> None:
        """Take a ref away; the sum over the refs stays."""
        self.delete("refs", name.encode())

    def rename_ref_row(self, name: str, other: str) -> None:
        """Put a ref's row, as it is, under another name."""
        stored = self.get("refs", name.encode())
        assert stored is not None
        self.delete("refs", name.encode())
        self.put("refs", other.encode(), stored)

    def add_log(self, name: str, entry: bytes) -> None:
        """Add a reflog entry, with a right checksum."""
        state = read_state(self.txn, self.tables)
        key = name.encode() + b"\0" + state.log_sequence.to_bytes(8, "big")
        self.put("reflog", key, protect(key, entry))
        put_state(self.txn, self.tables, state._replace(log_sequence=state.log_sequence + 1))

    def ref_rows(self) -> list[RawRow]:
        """All refs, as they lie in LMDB."""
        return [RawRow("main", *row) for row in small_rows(self.txn, self.tables, REF)]

    def log_rows(self) -> list[RawRow]:
        """All reflog entries, as they lie in LMDB."""
        return [RawRow("reflog", *row) for row in self.rows("reflog")]

    def replace_row(self, table: str, old_key: bytes, key: bytes, value: bytes) -> None:
        """Exchange a row, key and value, as it lies in LMDB."""
        handle = getattr(self.tables, table)
        assert self.txn.delete(old_key, db=handle)
        self.txn.put(key, value, db=handle)

    def set_ref(self, name: str, value: bytes | None) -> None:
        """Set or drop a ref in a commit of its own: the sum over the refs and the counter go with it."""
        key = name.encode()
        if value is None:
            self.txn.delete(REF + key, db=self.tables.main)
        else:
            self.put("refs", key, protect(REF + key, value))
        state = read_state(self.txn, self.tables)
        refs_sum = sum_refs(self.txn, self.tables)
        put_state(self.txn, self.tables, state._replace(refs_sum=refs_sum, counter=state.counter + 1))


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
