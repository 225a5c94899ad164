"""doltlite: SQLite over a versioned prolly tree, loaded in the place of SQLite by its Python package."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from bench.adapters.base import Pair
from bench.adapters.sqlite import CACHE_KIB, TABLE, Sqlite

UPDATE = "UPDATE kv SET v=? WHERE k=?"


class Doltlite(Sqlite):
    """One table in one file; commits by dolt_commit."""

    title = "doltlite"
    how = (
        "import doltlite; a WITHOUT ROWID table, cache of 256 MB; pairs are loaded sorted; "
        "changes in one transaction that dolt_commit ends; dolt_diff_kv(old, new) for the columns needed; "
        "dolt_merge; dolt_log; durable: synchronous=FULL (its default), else OFF"
    )
    modules = ("doltlite", "sqlite3")

    @classmethod
    def versions(cls) -> dict[str, str]:
        """Of the package and of the SQLite it is built on."""
        cls.import_library()
        import sqlite3

        return {"doltlite": importlib.metadata.version("doltlite"), "sqlite": sqlite3.sqlite_version}

    def _connect(self, durable: bool) -> Any:
        self.import_library()
        import sqlite3

        self.path.mkdir(exist_ok=True)
        connection = sqlite3.connect(self.path / "store.db", isolation_level=None)
        connection.execute(f"PRAGMA cache_size=-{CACHE_KIB}").fetchall()
        connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'OFF'}").fetchall()
        return connection

    def load(self, pairs: list[Pair]) -> None:
        """Sorted, which is faster at a million keys and leaves a third of the file."""
        self._load(sorted(pairs))

    def load_sorted(self, pairs: list[Pair]) -> None:
        """``load`` sorts."""
        super(Sqlite, self).load_sorted(pairs)

    def _load(self, pairs: list[Pair]) -> None:
        self._connection = self._connect(True)
        self._connection.execute("BEGIN")
        self._connection.execute(TABLE)
        self._connection.executemany("INSERT INTO kv VALUES(?, ?)", pairs)
        self._end("load")
        self.close()

    def _end(self, message: str) -> str:
        commit: str = self._one("SELECT dolt_commit('-A', '-m', ?)", message)
        if self._connection.in_transaction:
            self._connection.execute("COMMIT")
        return commit

    def commit(self, pairs: list[Pair]) -> str:
        """Updates (or inserts of what is not there), and a commit."""
        if self._connection.in_transaction:
            self._connection.execute("COMMIT")  # of a reader
        self._connection.execute("BEGIN")
        found = self._connection.executemany(UPDATE, [(value, key) for key, value in pairs]).rowcount
        if found != len(pairs):
            self._connection.executemany("INSERT OR REPLACE INTO kv VALUES(?, ?)", pairs)
        return self._end("edit")

    def diff_keys(self, old: str, new: str) -> list[str]:
        """The table function, for one column."""
        rows = self._connection.execute("SELECT coalesce(to_k, from_k) FROM dolt_diff_kv(?, ?)", (old, new))
        return [key for (key,) in rows]

    def diff_values(self, old: str, new: str) -> list[tuple[str, bytes | None, bytes | None]]:
        """The table function."""
        statement = "SELECT coalesce(to_k, from_k), from_v, to_v FROM dolt_diff_kv(?, ?)"
        return list(self._connection.execute(statement, (old, new)))

    def branch(self, name: str) -> None:
        """A branch at the current one."""
        assert self._one("SELECT dolt_branch(?)", name) == 0

    def diverge(self, name: str, ours: list[Pair], theirs: list[Pair]) -> None:
        """Commits on both, by switching."""
        self.branch(name)
        self._one("SELECT dolt_checkout(?)", name)
        self.commit(theirs)
        self._one("SELECT dolt_checkout('main')")
        self.commit(ours)

    def merge(self, name: str) -> None:
        """A clean merge gives the id of its commit."""
        result = self._one("SELECT dolt_merge(?)", name)
        assert len(result) == 40 and "onflict" not in result, result

    def log(self, count: int) -> list[Any]:
        """The newest rows."""
        return list(
            self._connection.execute("SELECT commit_hash, date, message FROM dolt_log LIMIT ?", (count,))
        )
