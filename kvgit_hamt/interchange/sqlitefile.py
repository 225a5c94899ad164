"""A table of a SQLite database: a row a key; the value is a map of the other columns, or one column alone."""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import quote

from kvgit_hamt.errors import SourceError
from kvgit_hamt.interchange.base import (
    Progress,
    Row,
    Source,
    ValuesAs,
    join_key,
    key_columns,
    selected,
    value_encoder,
)
from kvgit_hamt.snapshot import TreeView

BATCH_ROWS: Final = 1_000
KEY_COLUMN: Final = "key"
VALUE_COLUMN: Final = "value"
_HELD: Final = frozenset({str, bytes, int, float, bool, type(None)})


class SqliteTable(Source):
    """The rows of a table, in the order of its primary key. The database is opened read-only.

    Args:
        path: the database file.
        table: a table, or a view (of which an import cannot be continued).
        key: the column that is the key, or several, which are joined by "/"; None: the primary key.
        value: the column that alone is the value; None: a map of all columns but the key's.

    NULL is None, a BLOB bytes; INTEGER, REAL and TEXT are int, float and str.
    """

    format = "sqlite"
    unit = "rows"

    def __init__(
        self,
        path: str | os.PathLike[str],
        table: str,
        *,
        key: str | tuple[str, ...] | list[str] | None = None,
        value: str | None = None,
    ) -> None:
        self.name = f"{os.fspath(path)}:{table}"
        self._path = Path(path)
        self._table = table
        self._keys = key_columns(key)
        self._value = value
        self._count = 0
        self._place: list[Any] = []
        with self._connected() as db:
            self._columns, primary = self._layout(db)
            self._order, self.can_resume = self._ordering(db, primary)
            self._keys = self._keys or primary
            self._check_columns()
            self.total = int(db.execute(f"SELECT count(*) FROM {_quoted(table)}").fetchone()[0])

    def options(self) -> dict[str, Any]:
        return {"key": list(self._keys), "value": self._value}

    def position(self) -> dict[str, Any]:
        return {"after": list(self._place), "count": self._count}

    def done(self) -> int:
        return self._count

    def at(self) -> str:
        return f"row {self._count:,}"

    @contextlib.contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        if not self._path.is_file():
            raise SourceError(self.name, "", "there is no such file")
        try:
            db = sqlite3.connect(f"file:{quote(str(self._path))}?mode=ro", uri=True)
            with contextlib.closing(db):
                db.execute(
                    "PRAGMA trusted_schema = OFF"
                )  # what a view calls is the file's business, not ours
                yield db
        except sqlite3.Error as error:
            raise SourceError(self.name, "" if not self._count else self.at(), f"SQLite: {error}") from error

    def _layout(self, db: sqlite3.Connection) -> tuple[list[str], tuple[str, ...]]:
        """(all columns, those of the primary key in its order)."""
        rows = db.execute(f"PRAGMA table_info({_quoted(self._table)})").fetchall()
        if not rows:
            names = [
                row[0] for row in db.execute("SELECT name FROM sqlite_schema WHERE type IN ('table', 'view')")
            ]
            raise SourceError(
                self.name, "", f"there is no such table; there are {', '.join(names) or 'none'}"
            )
        primary = sorted((row[5], row[1]) for row in rows if row[5])
        return [row[1] for row in rows], tuple(name for _, name in primary)

    def _ordering(self, db: sqlite3.Connection, primary: tuple[str, ...]) -> tuple[tuple[str, ...], bool]:
        """The columns that order the rows without a tie, and whether there are such."""
        for name in ("rowid", "_rowid_", "oid"):
            if name.lower() not in (column.lower() for column in self._columns):
                with contextlib.suppress(sqlite3.OperationalError):
                    kind = db.execute(f"SELECT typeof({name}) FROM {_quoted(self._table)} LIMIT 1").fetchone()
                    if kind is None or kind[0] == "integer":
                        return (name,), True
        return tuple(map(_quoted, primary)), bool(primary)

    def _check_columns(self) -> None:
        if not self._keys:
            raise SourceError(self.name, "", "has no primary key; say which column is the key (key=..)")
        for name in (*self._keys, *([] if self._value is None else [self._value])):
            if name not in self._columns:
                raise SourceError(
                    self.name, "", f"there is no column {name!r}; there are {', '.join(self._columns)}"
                )

    def rows(self, after: Mapping[str, Any] | None = None) -> Iterator[Row]:
        self._count, self._place = 0, []
        query, place = self._query(after)
        keys = [self._columns.index(name) for name in self._keys]
        alone = None if self._value is None else self._columns.index(self._value)
        rest = [(at, name) for at, name in enumerate(self._columns) if at not in keys]
        width = len(self._columns)
        with self._connected() as db:
            for row in db.execute(query, place):
                self._count += 1
                self._place = list(row[width:])
                try:
                    key = join_key([row[at] for at in keys])
                except ValueError as error:
                    raise self.fault(str(error)) from error
                yield key, ({name: row[at] for at, name in rest} if alone is None else row[alone])

    def _query(self, after: Mapping[str, Any] | None) -> tuple[str, list[Any]]:
        order = ", ".join(self._order)
        taken = ", ".join([*map(_quoted, self._columns), *self._order])
        query = f"SELECT {taken} FROM {_quoted(self._table)}"
        place: list[Any] = []
        if after is not None:
            place = list(after["after"])
            if len(place) != len(self._order):
                raise SourceError(
                    self.name, "", "has another primary key than at the earlier import; restart"
                )
            self._count, self._place = int(after["count"]), place
            query += f" WHERE ({order}) > ({', '.join('?' * len(place))})"
        return (query + f" ORDER BY {order}" if order else query), place


def _quoted(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def write_sqlite(  # noqa: PLR0913 (options that users give by name)
    view: TreeView,
    path: str | os.PathLike[str],
    table: str,
    *,
    prefix: str = "",
    strip: bool = False,
    key: str = KEY_COLUMN,
    values: Literal["columns"] | ValuesAs = "columns",
    progress: Progress | None = None,
) -> int:
    """Write a new table, into a new database or one that is there, in one transaction; how many rows.

    Args:
        strip: take the prefix off the keys.
        key: the name of the key's column, the primary key.
        values: "columns": a column for each field of the values, which are flat maps (or single scalars, in
            the column "value"); "bytes", "text", "json" or "msgpack": a column "value" with each value so.

    In columns a field that a map lacks is NULL like None, and a bool is 0 or 1: SQLite has no others.

    Raises:
        SourceError: the table exists, or a value or a field's name does not fit. Nothing was written.
    """
    target = f"{os.fspath(path)}:{table}"
    is_new = not Path(path).exists()
    try:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
            rows = selected(view, prefix, strip, progress)
            db.execute("BEGIN IMMEDIATE")
            try:
                count = _Table(db, target, (table, key), values).fill(rows)
            except BaseException:
                if db.in_transaction:  # a full disk has ended it
                    db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")
    except sqlite3.Error as error:
        _drop(path, is_new)
        raise _failed(target, "", error) from error
    except BaseException:
        _drop(path, is_new)
        raise
    return count


def _drop(path: str | os.PathLike[str], is_new: bool) -> None:
    if is_new:
        for name in (os.fspath(path), f"{os.fspath(path)}-journal"):
            Path(name).unlink(missing_ok=True)


def _failed(target: str, at: str, error: Exception) -> SourceError:
    is_disk = isinstance(error, sqlite3.OperationalError) and "disk" in str(error)
    return SourceError(target, at, f"{'cannot be written: ' if is_disk else ''}SQLite: {error}")


class _Table:
    """A table that grows a column when a row has a new field."""

    def __init__(
        self,
        db: sqlite3.Connection,
        target: str,
        names: tuple[str, str],
        values: Literal["columns"] | ValuesAs,
    ) -> None:
        self.db = db
        self.target = target
        self.table, self.key = names
        self.encode: Callable[[Any], Any] | None = None if values == "columns" else value_encoder(values)
        self.is_text = values in ("text", "json")
        self.columns: dict[str, str] = {}  # in lower case, as SQLite compares -> as written
        db.execute(f"CREATE TABLE {_quoted(self.table)} ({_quoted(self.key)} TEXT PRIMARY KEY NOT NULL)")

    def fill(self, rows: Iterator[Row]) -> int:
        count = 0
        while batch := list(itertools.islice(rows, BATCH_ROWS)):
            for key, value in batch:
                fields = self._fields(key, value)
                names = ", ".join(map(_quoted, [self.key, *fields]))
                marks = ", ".join("?" * (len(fields) + 1))
                try:
                    self.db.execute(
                        f"INSERT INTO {_quoted(self.table)} ({names}) VALUES ({marks})",
                        [key, *fields.values()],
                    )
                except (sqlite3.Error, OverflowError) as error:
                    raise _failed(self.target, f"key {key!r}", error) from error
            count += len(batch)
        return count

    def _fields(self, key: str, value: Any) -> Mapping[str, Any]:
        try:
            if self.encode is not None:
                data = self.encode(value)
                fields = {VALUE_COLUMN: data.decode() if self.is_text else data}
            else:
                fields = value if type(value) is dict else {VALUE_COLUMN: value}
                _check_flat(fields)
            for name in fields:
                self._add_column(name)
        except (TypeError, ValueError) as error:
            raise SourceError(self.target, f"key {key!r}", str(error)) from error
        return fields

    def _add_column(self, name: str) -> None:
        known = self.columns.get(name.lower())
        if known == name:
            return
        if known is not None or name.lower() == self.key.lower():
            other = known or self.key
            raise ValueError(f"SQLite cannot tell the columns {name!r} and {other!r} apart")
        self.db.execute(f"ALTER TABLE {_quoted(self.table)} ADD COLUMN {_quoted(name)}")
        self.columns[name.lower()] = name


def _check_flat(fields: Mapping[Any, Any]) -> None:
    for name, field in fields.items():
        if type(name) is not str:
            raise TypeError(f"a field's name is {name!r}, no text")
        if type(field) not in _HELD:
            raise TypeError(
                f"the field {name!r} is a {type(field).__name__}, for which SQLite has no column; "
                'say values="json" or "msgpack"'
            )


__all__: Sequence[str] = ("SqliteTable", "write_sqlite")
