"""A plain LMDB environment: one database of it, an entry a key."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import lmdb

from kvgit_hamt.backend.lmdb_files import MARKER_NAME
from kvgit_hamt.errors import InvalidInputError, SourceError
from kvgit_hamt.interchange.base import (
    Progress,
    Row,
    Source,
    ValuesAs,
    bytes_of,
    selected,
    text_of,
    value_decoder,
    value_encoder,
)
from kvgit_hamt.snapshot import TreeView

KeysAs = Literal["text", "hex"]
DATABASE_RECORD_BYTES: Final = 48  # of the entry that stands for a named database in the main one
FIRST_MAP_BYTES: Final = 64 << 20
BATCH_ROWS: Final = 10_000  # of an export, in one transaction
MAX_DATABASES: Final = 2


class LmdbTable(Source):
    """The entries of one database of an LMDB environment, in the order of their keys. It is opened read-only.

    Args:
        path: the environment: a directory, or its data file.
        db: the name of a database; None for the main one.
        keys: "text": UTF-8, other bytes and NUL escaped (see ``text_of``); "hex": hex digits. Integer keys
            become decimal numbers.
        values: "bytes" as they are, "text", "json" or "msgpack".

    Where a key has several values (MDB_DUPSORT), the value is the list of them.
    """

    format = "lmdb"
    unit = "rows"

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        db: str | None = None,
        keys: KeysAs = "text",
        values: ValuesAs = "bytes",
    ) -> None:
        if keys not in ("text", "hex"):
            raise InvalidInputError(f'keys is "text" or "hex", not {keys!r}')
        self.name = os.fspath(path) if db is None else f"{os.fspath(path)}:{db}"
        self._path = Path(path)
        self._db = db
        self._keys: KeysAs = keys
        self._values: ValuesAs = values
        self._decode = value_decoder(values)
        self._key = b""
        self._count = 0
        self._is_dup = False
        self._is_integer = False

    def options(self) -> dict[str, Any]:
        return {"keys": self._keys, "values": self._values}

    def position(self) -> dict[str, Any]:
        return {"after": self._key, "count": self._count}

    def done(self) -> int:
        return self._count

    def at(self) -> str:
        return f"key {self._key!r}"

    def rows(self, after: Mapping[str, Any] | None = None) -> Iterator[Row]:
        self._count, self._key = (0, b"") if after is None else (int(after["count"]), bytes(after["after"]))
        env = self._open()
        try:
            with env.begin() as txn:
                table = self._table(env, txn)
                self.total = txn.stat(table)["entries"]
                with txn.cursor(table) as cursor:
                    if _start(cursor, None if after is None else self._key):
                        yield from self._entries(env, txn, cursor)
        except lmdb.Error as error:
            raise SourceError(self.name, "", f"LMDB: {error}") from error
        finally:
            env.close()

    def _open(self) -> Any:
        data = self._path / "data.mdb" if self._path.is_dir() else self._path
        if not data.is_file():
            raise SourceError(self.name, "", "is no LMDB environment: there is no data file")
        if (data.parent / MARKER_NAME).exists() and self._path.is_dir():
            raise SourceError(self.name, "", "is a store of this library; copy from it, or open it")
        how: dict[str, Any] = {"subdir": self._path.is_dir(), "readonly": True, "create": False}
        how["max_dbs"] = MAX_DATABASES
        try:
            try:
                env = lmdb.open(str(self._path), **how)
            except lmdb.Error:
                if os.access(data.parent, os.W_OK):
                    raise
                env = lmdb.open(str(self._path), lock=False, **how)  # nobody can write there
        except lmdb.Error as error:
            raise SourceError(self.name, "", f"cannot be opened: {error}") from error
        size = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
        if size > data.stat().st_size:  # reading on would end the process
            env.close()
            raise SourceError(self.name, "", f"was cut: {data.stat().st_size:,} bytes of {size:,} are there")
        return env

    def _table(self, env: Any, txn: Any) -> Any:
        try:
            table = env.open_db(None if self._db is None else self._db.encode(), txn=txn, create=False)
        except lmdb.NotFoundError as error:
            raise SourceError(self.name, "", "there is no database of this name") from error
        flags = table.flags(txn)
        self._is_dup, self._is_integer = flags["dupsort"], flags["integerkey"]
        return table

    def _entries(self, env: Any, txn: Any, cursor: Any) -> Iterator[Row]:
        while True:
            key, value = cursor.item()
            self._key = key
            if self._db is None and len(value) == DATABASE_RECORD_BYTES and _is_database(env, txn, key):
                raise self.fault("is a database; name one (db=..)")
            try:
                values = [self._decode(each) for each in cursor.iternext_dup()] if self._is_dup else None
                row = self._text(key), self._decode(value) if values is None else values
            except ValueError as error:
                raise self.fault(str(error)) from error
            self._count += 1 if values is None else len(values)
            yield row
            if not (cursor.next_nodup() if self._is_dup else cursor.next()):
                return

    def _text(self, key: bytes) -> str:
        if self._is_integer:
            return str(int.from_bytes(key, sys.byteorder))
        return key.hex() if self._keys == "hex" else text_of(key)


def _start(cursor: Any, after: bytes | None) -> bool:
    """Move to the first entry, or to the first key after one; whether there is any."""
    if after is None:
        return bool(cursor.first())
    if not cursor.set_range(after):
        return False
    return bool(cursor.next_nodup()) if cursor.key() == after else True


def _is_database(env: Any, txn: Any, name: bytes) -> bool:
    try:
        env.open_db(name, txn=txn, create=False)
    except lmdb.Error:
        return False
    return True


def write_lmdb(  # noqa: PLR0913 (options that users give by name)
    view: TreeView,
    path: str | os.PathLike[str],
    *,
    prefix: str = "",
    strip: bool = False,
    db: str | None = None,
    keys: KeysAs = "text",
    values: ValuesAs = "bytes",
    progress: Progress | None = None,
) -> int:
    """Write an LMDB environment: a new directory, which is there whole or not at all; how many entries.

    Args:
        path: a directory that does not exist.
        strip: take the prefix off the keys.
        db: the name of the database in it; None for the main one.
        keys, values: as for ``LmdbTable``.

    Raises:
        SourceError: a key or a value does not fit (LMDB's keys have 1 to 511 bytes), or the directory exists
            or cannot be written.
    """
    target = Path(path)
    if target.exists():
        raise SourceError(str(target), "", "exists; give the name of a new directory")
    try:
        scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    except OSError as error:
        raise SourceError(str(target), "", f"cannot be written: {error.strerror}") from error
    try:
        rows = selected(view, prefix, strip, progress)
        count = _fill(scratch, db, _encoded(rows, target, keys, value_encoder(values)))
        (scratch / "lock.mdb").unlink(missing_ok=True)
        os.chmod(scratch, 0o755)
        os.rename(scratch, target)
    except (lmdb.Error, OSError) as error:
        raise SourceError(str(target), "", f"cannot be written: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return count


def _encoded(
    rows: Iterator[Row], target: Path, keys: KeysAs, encode: Any
) -> Iterator[tuple[bytes, bytes]]:  # fmt: skip
    for key, value in rows:
        try:
            yield (bytes.fromhex(key) if keys == "hex" else bytes_of(key)), encode(value)
        except (ValueError, TypeError) as error:
            raise SourceError(str(target), f"key {key!r}", str(error)) from error


def _fill(scratch: Path, db: str | None, entries: Iterator[tuple[bytes, bytes]]) -> int:
    env = lmdb.open(str(scratch), map_size=FIRST_MAP_BYTES, max_dbs=1, sync=False, lib_version=0)
    count = 0
    try:
        table = env.open_db(None if db is None else db.encode())
        longest = env.max_key_size()
        while batch := list(_batch(entries, longest, scratch)):
            _put(env, table, batch)
            count += len(batch)
        env.sync(True)
    finally:
        env.close()
    return count


def _batch(
    entries: Iterator[tuple[bytes, bytes]], longest: int, target: Path
) -> Iterator[tuple[bytes, bytes]]:
    size = 0
    for at, (key, value) in enumerate(entries, 1):
        if not 1 <= len(key) <= longest:
            raise SourceError(str(target), f"key {key!r:.60}", f"LMDB's keys have 1 to {longest} bytes")
        yield key, value
        size += len(key) + len(value)
        if at == BATCH_ROWS or size > FIRST_MAP_BYTES // 4:
            return


def _put(env: Any, table: Any, batch: list[tuple[bytes, bytes]]) -> None:
    batch.sort()
    while True:
        with contextlib.suppress(lmdb.MapFullError):
            with env.begin(write=True, db=table) as txn:
                for key, value in batch:
                    if not txn.put(key, value, overwrite=False):
                        raise SourceError(env.path(), f"key {key!r:.60}", "two keys have these bytes")
            return
        env.set_mapsize(env.info()["map_size"] * 2)
