"""Reading what lies partly in a table and partly in the tail (``lmdb_tail``), in one read transaction."""

from __future__ import annotations

from typing import Any

from kvgit_hamt.backend.base import Kind
from kvgit_hamt.backend.lmdb_state import (
    META,
    NAMED,
    PENDING,
    Tables,
    index_of,
    read_state,
    small_rows,
    unprotect,
)
from kvgit_hamt.wire import place_of

_Txn = Any  # lmdb.Transaction[bytes]; its stubs are not part of every installation
_LASTSEQUENCE = b"\xff" * 8
Link = tuple[bytes, bytes]


def find(txn: _Txn, tables: Tables, kind: Kind, oid: bytes) -> bytes | None:
    """The place of an indexed object, None when there is none."""
    found: bytes | None = txn.get(oid, None, index_of(tables, kind))
    if found is None and kind == "commit":
        found = read_state(txn, tables).tail.find(oid)
    return found


def find_abbreviated(txn: _Txn, tables: Tables, start: tuple[bytes, str], limit: int) -> list[bytes]:
    """Oids of up to ``limit`` commits: ``start`` is the least that fits, and what their hex starts with."""
    low, prefix = start
    found = [oid for oid, _ in read_state(txn, tables).tail.links() if oid.hex().startswith(prefix)]
    end = len(found) + limit
    with txn.cursor(tables.commits) as cursor:
        more = cursor.set_range(low)
        while more and len(found) < end and cursor.key().hex().startswith(prefix):
            found.append(cursor.key())
            more = cursor.next()
    return sorted(found)[:limit]


def list_index(txn: _Txn, tables: Tables, kind: Kind, after: bytes, limit: int) -> list[Link]:
    """Up to ``limit`` (oid, place) of an index past ``after``."""
    found: list[Link] = []
    with txn.cursor(index_of(tables, kind)) as cursor:
        more = cursor.set_range(after + b"\0") if after else cursor.first()
        while more and len(found) < limit:
            found.append(cursor.item())
            more = cursor.next()
    if kind != "commit":
        return found
    newest = [link for link in read_state(txn, tables).tail.links() if link[0] > after]
    return sorted(found + newest)[:limit]


def list_records(txn: _Txn, tables: Tables, after: bytes, limit: int) -> list[tuple[bytes, int]]:
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


def reflog(txn: _Txn, tables: Tables, name: bytes, limit: int | None) -> list[bytes]:
    """Entries of a ref, newest first; CorruptionError if one of those that are read is damaged."""
    found = read_state(txn, tables).tail.log_of(name)
    start = name + b"\0"
    with txn.cursor(tables.reflog) as cursor:
        more = cursor.prev() if cursor.set_range(start + _LASTSEQUENCE) else cursor.last()
        while more and cursor.key().startswith(start) and (limit is None or len(found) < limit):
            key, stored = cursor.item()
            found.append(unprotect(key, stored, "reflog entry"))
            more = cursor.prev()
    return found[:limit]


def reflog_names(txn: _Txn, tables: Tables) -> list[bytes]:
    """Names that have entries, in order."""
    names = {name for name, _ in read_state(txn, tables).tail.entries()}
    with txn.cursor(tables.reflog) as cursor:
        more = cursor.first()
        while more:
            name = cursor.key()[:-9]
            names.add(name)
            more = cursor.set_range(name + b"\0" + _LASTSEQUENCE)
    return sorted(names)


def counts(txn: _Txn, tables: Tables) -> dict[str, int]:
    """Counts of what is stored."""

    def entries(table: Any) -> int:
        return int(txn.stat(table)["entries"])

    state = read_state(txn, tables)
    pending = sum(1 for _ in small_rows(txn, tables, PENDING))
    metas = sum(1 for _ in small_rows(txn, tables, META))
    return {
        "record_count": entries(tables.records),
        "commit_count": entries(tables.commits) + len(state.tail.links()),
        "blob_count": entries(tables.blobs),
        "node_count": entries(tables.nodes),
        "ref_count": entries(tables.main) - len(NAMED) - 1 - pending - metas,
        "pending_count": pending,
        "next_place": state.next_place,
        "write_count": state.counter,
    }
