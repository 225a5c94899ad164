"""What gc asks of the LMDB backend: listings in chunks, and deletions in a write transaction."""

from __future__ import annotations

from typing import Any

from kvgit_hamt.backend.base import Kind
from kvgit_hamt.backend.lmdb_state import Tables
from kvgit_hamt.wire import place_of


def index_of(tables: Tables, kind: Kind) -> Any:
    """The database of an index."""
    if kind == "commit":
        return tables.commits
    return tables.blobs if kind == "blob" else tables.nodes


def list_index(txn: Any, database: Any, after: bytes, limit: int) -> list[tuple[bytes, bytes]]:
    """Up to ``limit`` (oid, place) past ``after``."""
    found: list[tuple[bytes, bytes]] = []
    with txn.cursor(database) as cursor:
        more = cursor.set_range(after + b"\0") if after else cursor.first()
        while more and len(found) < limit:
            found.append(cursor.item())
            more = cursor.next()
    return found


def list_records(txn: Any, tables: Tables, after: bytes, limit: int) -> list[tuple[bytes, int]]:
    """Up to ``limit`` (place, bytes of the record) past ``after``."""
    found: list[tuple[bytes, int]] = []
    with txn.cursor(tables.records) as cursor:
        start = place_of(int.from_bytes(after, "little") + 1) if after else b""
        more = cursor.set_range(start) if after else cursor.first()
        while more and len(found) < limit:
            key, value = cursor.item()
            found.append((bytes(key), len(value)))
            more = cursor.next()
    return found


class LmdbSweep:
    """Deletions in one write transaction; see ``base.Sweep``."""

    def __init__(self, txn: Any, tables: Tables, version: int) -> None:
        self.version = version
        self._txn = txn
        self._tables = tables

    def delete_record(self, location: bytes) -> bool:
        """Delete a record by its place; False if it is gone."""
        deleted: bool = self._txn.delete(location, db=self._tables.records)
        return deleted

    def delete_index(self, kind: Kind, oid: bytes, loc: bytes) -> None:
        """Delete an index entry if it still names this place."""
        database = index_of(self._tables, kind)
        if self._txn.get(oid, None, database) == loc:
            self._txn.delete(oid, db=database)

    def trim_reflog(self, name: str, keep: int) -> None:
        """Keep only the newest ``keep`` entries of a ref's reflog."""
        start = name.encode() + b"\0"
        keys = []
        with self._txn.cursor(self._tables.reflog) as cursor:
            more = cursor.set_range(start)
            while more and cursor.key().startswith(start):
                keys.append(cursor.key())
                more = cursor.next()
        for key in keys[: max(0, len(keys) - keep)]:
            self._txn.delete(key, db=self._tables.reflog)
