"""The contract suite on key-value stores as users write them: a dict, a table in sqlite3."""

from __future__ import annotations

import sqlite3

import pytest

from kvgit_hamt.backend.kv import KvBackend
from kvgit_hamt.testing.backends import BackendContract


class DictStore:
    """Not safe for threads, no base class: the least a user may bring."""

    def __init__(self):
        self.data = {}

    def get(self, key):
        return self.data.get(key)

    def set(self, key, value):
        self.data[key] = value

    def get_many(self, *keys):
        return {key: self.data[key] for key in keys if key in self.data}

    def set_many(self, **items):
        self.data.update(items)

    def items(self):
        return self.data.items()

    def keys(self):
        return self.data.keys()

    def __contains__(self, key):
        return key in self.data

    def remove(self, key):
        self.data.pop(key, None)

    def remove_many(self, *keys):
        for key in keys:
            self.data.pop(key, None)

    def cas(self, key, value, expected):
        if self.data.get(key) != expected:
            return False
        self.data[key] = value
        return True

    def clear(self):
        self.data.clear()


class SqliteStore:
    def __init__(self, path):
        self.db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
        self.db.execute("create table if not exists kv (key text unique, value blob)")

    def get(self, key):
        row = self.db.execute("select value from kv where key = ?", (key,)).fetchone()
        return row and row[0]

    def set(self, key, value):
        self.set_many(**{key: value})

    def get_many(self, *keys):
        found = ((key, self.get(key)) for key in keys)
        return {key: value for key, value in found if value is not None}

    def set_many(self, **items):
        self.db.execute("begin immediate")
        self.db.executemany(
            "insert into kv values (?, ?) on conflict (key) do update set value = excluded.value",
            items.items(),
        )
        self.db.execute("commit")

    def items(self):
        return self.db.execute("select key, value from kv order by rowid").fetchall()

    def keys(self):
        return [key for (key,) in self.db.execute("select key from kv order by rowid")]

    def __contains__(self, key):
        return self.db.execute("select 1 from kv where key = ?", (key,)).fetchone() is not None

    def remove(self, key):
        self.db.execute("delete from kv where key = ?", (key,))

    def remove_many(self, *keys):
        self.db.executemany("delete from kv where key = ?", ((key,) for key in keys))

    def cas(self, key, value, expected):
        if expected is None:
            done = self.db.execute("insert into kv values (?, ?) on conflict do nothing", (key, value))
        else:
            done = self.db.execute(
                "update kv set value = ? where key = ? and value = ?", (value, key, expected)
            )
        return done.rowcount == 1

    def clear(self):
        self.db.execute("delete from kv")


class TestDictStore(BackendContract):
    @pytest.fixture
    def open_backend(self):
        store = DictStore()
        return lambda: KvBackend(store)


class TestSqliteStore(BackendContract):
    @pytest.fixture
    def open_backend(self, tmp_path):
        return lambda: KvBackend(SqliteStore(tmp_path / "kv.sqlite"))
