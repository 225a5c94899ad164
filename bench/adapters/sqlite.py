"""SQLite through the standard library, without versions; also the base of doltlite, which is SQL as well."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.adapters.base import Adapter, Pair

CACHE_KIB = 262_144
TABLE = "CREATE TABLE kv(k TEXT PRIMARY KEY, v BLOB) WITHOUT ROWID"


class Sqlite(Adapter):
    """One table in one file."""

    title = "sqlite3 (no versions)"
    how = (
        "a WITHOUT ROWID table, WAL, cache of 256 MB; a batch is one transaction of executemany; "
        "SELECT .. IN (1,000 parameters); durable: synchronous=FULL, else OFF"
    )
    modules = ("sqlite3",)

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._connection: Any = None

    @classmethod
    def versions(cls) -> dict[str, str]:
        """Of the engine that is linked."""
        import sqlite3

        return {"sqlite": sqlite3.sqlite_version}

    def _connect(self, durable: bool) -> Any:
        import sqlite3

        self.path.mkdir(exist_ok=True)
        connection = sqlite3.connect(self.path / "store.db", isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL").fetchall()
        connection.execute(f"PRAGMA cache_size=-{CACHE_KIB}").fetchall()
        connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'OFF'}").fetchall()
        return connection

    def _one(self, statement: str, *values: object) -> Any:
        row = self._connection.execute(statement, values).fetchall()
        return row[0][0] if row else None

    def load(self, pairs: list[Pair]) -> None:
        """As they come."""
        self._load(pairs)

    def load_sorted(self, pairs: list[Pair]) -> None:
        """Sorted."""
        self._load(sorted(pairs))

    def _load(self, pairs: list[Pair]) -> None:
        self._connection = self._connect(True)
        self._connection.execute(TABLE)
        self.commit(pairs)
        self.close()

    def open(self, durable: bool = True) -> None:
        """The file."""
        self._connection = self._connect(durable)

    def close(self) -> None:
        """The last connection writes the log back and removes it."""
        self._connection.close()

    def getter(self) -> Callable[[str], bytes | None]:
        """One prepared statement, in one read transaction."""
        execute = self._connection.execute
        if not self._connection.in_transaction:
            execute("BEGIN")

        def get(key: str) -> bytes | None:
            row = execute("SELECT v FROM kv WHERE k=?", (key,)).fetchone()
            return row[0] if row else None

        return get

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """One statement."""
        marks = ",".join("?" * len(keys))
        return dict(self._connection.execute(f"SELECT k, v FROM kv WHERE k IN ({marks})", keys))

    def items(self) -> Iterable[Pair]:
        """One statement."""
        found: Iterable[Pair] = self._connection.execute("SELECT k, v FROM kv")
        return found

    def list_directory(self, prefix: str) -> list[str]:
        """A range of the primary key."""
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        rows = self._connection.execute("SELECT k FROM kv WHERE k >= ? AND k < ?", (prefix, end))
        return [key for (key,) in rows]

    def commit(self, pairs: list[Pair]) -> Any:
        """One transaction."""
        self._connection.execute("BEGIN")
        self._connection.executemany(
            "INSERT INTO kv VALUES(?, ?) ON CONFLICT(k) DO UPDATE SET v=excluded.v", pairs
        )
        self._connection.execute("COMMIT")
