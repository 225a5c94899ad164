"""What gc asks of the LMDB backend: deletions in a write transaction."""

from __future__ import annotations

from typing import Any

from kvgit_hamt.backend.base import Kind
from kvgit_hamt.backend.lmdb_state import Tables, index_of


class LmdbSweep:
    """Deletions in one write transaction, in which the tail is empty; see ``base.Sweep``."""

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
