"""What check and repair ask of the LMDB backend: rows with the damage in them, the structure, mending."""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

from lmdb.verify import VerifyError, verify

from kvgit_hamt.backend.base import Finding, Kind, NewRecord, Row
from kvgit_hamt.backend.lmdb_files import DATA_NAME, compare_witness, read_witness
from kvgit_hamt.backend.lmdb_state import (
    META,
    NAMED,
    PENDING,
    REF,
    STATE_KEY,
    Holder,
    State,
    Tables,
    index_of,
    protect,
    read_state,
    small_rows,
    sum_refs,
    unprotect,
)
from kvgit_hamt.errors import BackendError, CorruptionError, FormatVersionError
from kvgit_hamt.wire import seal

T = TypeVar("T")
_Txn = Any  # lmdb.Transaction[bytes]; its stubs are not part of every installation
View = Callable[[Callable[[_Txn, Tables], Any]], Any]

CHUNK_ROWS = 500  # read in one transaction: no long reader pins pages
PROBLEMS_MAX = 1_000  # of the structure that are given out; one bad page can make thousands
_UNREADABLE = (CorruptionError, BackendError)


class LmdbInspector:
    """See ``base.Inspector``.

    Args:
        view: runs an action with a read transaction and the tables.
    """

    def __init__(self, view: View, directory: str) -> None:
        self._view = view
        self._directory = directory

    def findings(self, deep: bool) -> Iterator[Finding]:
        """Faults in the state, the witness, meta values, reservations and touches; deep: and in the pages."""
        try:
            yield from self._state_findings()
        except (FormatVersionError, *_UNREADABLE) as error:
            yield Finding("state", str(error))
        for key, stored in self._rows("main"):
            problem = _problem_of(key, stored)
            if problem:
                yield Finding("row", problem)
        for key, stored in self._rows("touches"):
            problem = _problem_of_touch(key, stored)
            if problem:
                yield Finding("row", f"table touches: {problem}")
        if deep:
            yield from self._structure()

    def _state_findings(self) -> Iterator[Finding]:
        witness = read_witness(self._directory)  # before the state: it may only be older
        state, last_place, refs_sum = self._view(_totals)
        try:
            compare_witness(self._directory, witness, state)
        except CorruptionError as error:
            yield Finding("state", str(error))
        if last_place >= state.next_place:
            yield Finding("state", f"a record lies at place {last_place}, past the next {state.next_place}")
        if refs_sum != state.refs_sum:
            yield Finding(
                "state", "the sum over the refs is not that of the state: one is missing or changed"
            )
        numbers = (int.from_bytes(key[-8:], "big") for key, _ in self._rows("reflog") if len(key) > 9)
        last = max(numbers, default=-1)
        if last >= state.log_sequence:
            yield Finding("state", f"a reflog entry has number {last}, past the next {state.log_sequence}")

    def _structure(self) -> Iterator[Finding]:
        path = os.path.join(self._directory, DATA_NAME)

        def action(txn: _Txn, tables: Tables) -> list[str]:
            # The open transaction keeps the pages of the state that is verified from being used again.
            try:
                found: list[str] = verify(path, subdir=False)  # type: ignore[no-untyped-call]
            except VerifyError as error:
                return [str(error)]
            return found

        try:
            problems = self._view(action)
        except _UNREADABLE as error:
            problems = [str(error)]
        for problem in problems[:PROBLEMS_MAX]:
            yield Finding("structure", f"{DATA_NAME}: {problem}")
        if len(problems) > PROBLEMS_MAX:
            yield Finding("structure", f"{DATA_NAME}: and {len(problems) - PROBLEMS_MAX} more")

    def _rows(self, table: str, sign: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """All rows of a table whose key starts with ``sign``, a chunk in each transaction."""
        after = b""
        while True:
            chunk = self._view(partial(_chunk, table=table, sign=sign, after=after))
            if not chunk:
                return
            yield from chunk
            after = chunk[-1][0]

    def ref_rows(self) -> list[Row]:
        """All refs, by name."""
        return [_row(key, key[1:], stored, "ref") for key, stored in self._rows("main", REF)]

    def reflog_rows(self) -> Iterator[Row]:
        """All reflog entries there are now: by name of the ref, oldest first."""
        last = b""
        tail, end = self._tail_rows()
        for key, stored in heapq.merge(tail, self._rows("reflog")):
            if key == last:  # it has moved from the tail to the table meanwhile
                continue
            last = key
            if len(key) < 10 or key[-9] != 0:
                yield Row(_shown(key), None, f"reflog entry under a malformed key {key!r}")
            elif end is None or int.from_bytes(key[-8:], "big") < end or not self._is_later(key):
                yield _row(key, key[:-9], stored, "reflog entry")

    def _is_later(self, key: bytes) -> bool:
        """Whether an entry was made since the reading began: else its number is damaged."""
        state: State = self._view(read_state)
        return int.from_bytes(key[-8:], "big") < state.log_sequence

    def _tail_rows(self) -> tuple[list[tuple[bytes, bytes]], int | None]:
        """Those reflog entries that are in the tail, as rows of the table, and the number of the next one."""
        try:
            state: State = self._view(read_state)
        except (FormatVersionError, *_UNREADABLE):
            return [], None  # among the findings
        rows = state.tail.rows(state.log_sequence)
        return sorted((key, protect(key, entry)) for key, entry in rows), state.log_sequence

    def pending(self) -> list[tuple[int, int]]:
        """(first place, places) of each live reservation; damaged ones are among the findings."""
        found = []
        for key, stored in self._rows("main", PENDING):
            if _problem_of(key, stored) is None:
                holder = Holder.decode(unprotect(key, stored, "reservation"))
                if holder.is_alive():
                    found.append((int.from_bytes(key[1:], "big"), holder.taken))
        return found

    def notes(self, deep: bool) -> list[str]:
        """What was not looked at."""
        found = [] if deep else ["the structure of LMDB's file"]
        if read_witness(self._directory) is None:
            found.append("whether the store was set back to an older state: its witness is missing or torn")
        return found


def _totals(txn: _Txn, tables: Tables) -> tuple[State, int, int]:
    """(state, last place that a record has, sum over the refs)."""
    state = read_state(txn, tables)
    with txn.cursor(tables.records) as cursor:
        last_place = int.from_bytes(cursor.key(), "little") if cursor.last() else 0
    return state, last_place, sum_refs(txn, tables)


def _chunk(txn: _Txn, tables: Tables, table: str, sign: bytes, after: bytes) -> list[tuple[bytes, bytes]]:
    found: list[tuple[bytes, bytes]] = []
    with txn.cursor(getattr(tables, table)) as cursor:
        start = after + b"\0" if after else sign
        more = cursor.set_range(start) if start else cursor.first()
        while more and len(found) < CHUNK_ROWS and cursor.key().startswith(sign):
            found.append(cursor.item())
            more = cursor.next()
    return found


_WHAT = {META: "meta value", PENDING: "reservation"}
_KNOWN = frozenset({STATE_KEY, *(name.encode() for name in NAMED)})


def _problem_of(key: bytes, stored: bytes) -> str | None:
    """What is wrong with a row of the main table; refs and the state are looked at by themselves."""
    sign = key[:1]
    if sign == REF or key in _KNOWN:
        return None
    if sign not in _WHAT or (sign == PENDING and len(key) != 9):
        return f"row {key!r} is malformed"
    try:
        value = unprotect(key, stored, _WHAT[sign])
        if sign == PENDING:
            Holder.decode(value)
    except CorruptionError as error:
        return str(error)
    return None


def _problem_of_touch(key: bytes, stored: bytes) -> str | None:
    try:
        value = unprotect(key, stored, "touch")
    except CorruptionError as error:
        return str(error)
    return f"row {key!r} is malformed" if len(value) != 8 or len(key) < 17 else None


def _row(key: bytes, name: bytes, stored: bytes, what: str) -> Row:
    try:
        value = unprotect(key, stored, what)
        return Row(name.decode(), value)
    except CorruptionError as error:
        return Row(_shown(name), None, str(error))
    except UnicodeDecodeError:
        return Row(_shown(name), None, f"{what} {name!r} is damaged: its name is no text")


def _shown(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


class LmdbMender:
    """Mending in one write transaction, in which the tail is empty; see ``base.Mender``.

    ``state`` is what the transaction leaves.
    """

    def __init__(self, txn: _Txn, tables: Tables, state: State) -> None:
        self.state = state
        self._txn = txn
        self._tables = tables

    def put_record(self, loc: bytes, record: NewRecord) -> None:
        """Store a record at this very place, in place of what lies there."""
        place = int.from_bytes(loc, "little")
        if not 0 < place < self.state.next_place:
            raise CorruptionError(f"place {place} was never given out; nothing was stored there")
        self._txn.put(loc, seal(record.oid, record.body), db=self._tables.records)

    def set_index(self, kind: Kind, oid: bytes, loc: bytes | None) -> None:
        """Enter an object at a place, whatever the entry says now; None removes the entry."""
        table = index_of(self._tables, kind)
        if loc is None:
            self._txn.delete(oid, db=table)
        else:
            self._txn.put(oid, loc, db=table)

    def set_ref(self, name: str, value: bytes) -> None:
        """Set a ref, whatever it holds now."""
        key = REF + name.encode()
        self._txn.put(key, protect(key, value), db=self._tables.main)

    def drop_bad_refs(self) -> int:
        """Remove rows of refs that fail their check; how many."""
        rows = small_rows(self._txn, self._tables, REF)
        bad = [key for key, stored in rows if _row(key, key[1:], stored, "ref").value is None]
        for key in bad:
            self._txn.delete(key, db=self._tables.main)
        return len(bad)
