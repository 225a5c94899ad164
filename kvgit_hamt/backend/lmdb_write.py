"""What a batch does inside LMDB's write transaction: refuse first, then records, indexes, refs, reflog."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kvgit_hamt import killpoints
from kvgit_hamt.backend.base import Batch, NewRecord, RefUpdate
from kvgit_hamt.backend.lmdb_state import (
    META,
    PENDING,
    REF,
    SUM_MASK,
    Holder,
    State,
    Tables,
    add_commit,
    add_log,
    check_number,
    find_indexed,
    index_of,
    protect,
    put_touches,
    unprotect,
)
from kvgit_hamt.backend.lmdb_tail import SEQUENCE, Tail
from kvgit_hamt.errors import BackendError, BranchMovedError, CorruptionError, StaleBatchError
from kvgit_hamt.kernel import seal_all
from kvgit_hamt.wire import place_of, shift_places

_Txn = Any  # lmdb.Transaction[bytes]; its stubs are not part of every installation

CHUNK_RECORDS = 256  # put in one call


def apply_batch(txn: _Txn, tables: Tables, state: State, batch: Batch) -> tuple[State, int]:
    """All of a batch. Refusals come first, so that a lost race costs nothing."""
    killpoints.reached("publish.begun")
    tail = state.tail
    there: dict[bytes, bytes] = {}
    for oid in batch.required:
        found = find_indexed(txn, tables, tail, "commit", oid)
        if found is None:
            raise CorruptionError(f"commit {oid.hex()} is gone; nothing was stored")
        there[oid] = found
    for kind, oid, loc in batch.relied:
        found = there.get(oid)  # a commit: no two objects have one oid
        if (found or find_indexed(txn, tables, tail, kind, oid)) != loc:
            raise StaleBatchError("something that this change shares was collected; nothing was stored")
    refs_sum = state.refs_sum
    for update in batch.refs:
        refs_sum += _move_ref(txn, tables, update)
    if batch.is_reserved:
        first, next_place = batch.base, state.next_place
        _use_reservation(txn, tables, batch)
    else:
        first, next_place = state.next_place, state.next_place + len(batch.records)
    delta = first - batch.base if batch.records else 0
    if batch.records:
        _append_records(txn, tables, batch, first)
        tail = _enter_records(txn, tables, state, batch.records, first)
    killpoints.reached("publish.records")
    for kind, oid, loc in batch.entries:
        if kind == "commit":
            tail = _enter_commit(txn, tables, tail, (oid, loc), state.log_sequence)
        else:
            txn.put(oid, loc, overwrite=False, db=index_of(tables, kind))
    sequence = state.log_sequence
    for update in batch.refs:
        if update.log is not None:
            tail = add_log(txn, tables, tail, (update.name.encode(), update.log), sequence)
            sequence += 1
    for name, value in batch.meta.items():
        key = META + name.encode()
        txn.put(key, protect(key, value), db=tables.main)
    put_touches(txn, tables, batch.touches)
    killpoints.reached("publish.refs")
    state = state._replace(
        next_place=next_place, refs_sum=refs_sum & SUM_MASK, log_sequence=sequence, tail=tail
    )
    return state, delta


def _move_ref(txn: _Txn, tables: Tables, update: RefUpdate) -> int:
    """Compare and set one ref; returns what it adds to the sum over the refs."""
    key = REF + update.name.encode()
    stored = txn.get(key, None, tables.main)
    actual = None if stored is None else unprotect(key, stored, "ref")
    if actual != update.old:
        raise BranchMovedError(update.name, actual)
    change = 0 if stored is None else -check_number(stored)
    if update.new is not None:
        value = protect(key, update.new)
        txn.put(key, value, db=tables.main)
        change += check_number(value)
    elif stored is not None:
        txn.delete(key, db=tables.main)
    return change


def _use_reservation(txn: _Txn, tables: Tables, batch: Batch) -> None:
    """Check that the batch lies in a reservation that still stands; the batch with the refs ends it."""
    with txn.cursor(tables.main) as cursor:
        after = cursor.set_range(PENDING + SEQUENCE.pack(batch.base + 1))
        found = (cursor.prev() if after else cursor.last()) and cursor.key().startswith(PENDING)
        key, stored = cursor.item() if found else (b"", b"")
        end = batch.base + len(batch.records)
        holder = Holder.decode(unprotect(key, stored, "reservation")) if found else None
        if holder is None or end > int.from_bytes(key[1:], "big") + holder.taken:
            raise BackendError(f"places {batch.base} to {end - 1} are not reserved; nothing was stored")
        if batch.refs:
            cursor.delete()


def _append_records(txn: _Txn, tables: Tables, batch: Batch, first: int) -> None:
    """Seal and put the records at ``first`` and following; past the last key LMDB only appends."""
    with txn.cursor(tables.records) as cursor:
        # A place that was not reserved lies past all records; one that does not is not appended.
        is_last = not batch.is_reserved or not cursor.last() or int.from_bytes(cursor.key(), "little") < first
        added = 0
        # Lists, so that no Python runs inside putmulti: a signal handler that forks would close it all.
        for at in range(0, len(batch.records), CHUNK_RECORDS):
            part = batch.records[at : at + CHUNK_RECORDS]
            if first != batch.base:
                part = [_shifted(record, batch.base, first - batch.base) for record in part]
            sealed = seal_all(part, first + at)
            added += cursor.putmulti(sealed, dupdata=False, overwrite=False, append=is_last)[1]
    if added != len(batch.records):
        raise CorruptionError(f"places from {first} on hold records already; nothing was stored")


def _shifted(record: NewRecord, base: int, delta: int) -> NewRecord:
    return record._replace(body=shift_places(record.body, record.place_count, base, delta))


def _enter_records(txn: _Txn, tables: Tables, state: State, records: Sequence[NewRecord], first: int) -> Tail:
    """Enter new records in their indexes; the tail with their commits."""
    tail = state.tail
    for place, (oid, _, _, kind) in enumerate(records, first):
        if kind == "commit":
            tail = _enter_commit(txn, tables, tail, (oid, place_of(place)), state.log_sequence)
        elif kind is not None:
            # One that is there already stays where it is: others link to it.
            txn.put(oid, place_of(place), overwrite=False, db=index_of(tables, kind))
    return tail


def _enter_commit(txn: _Txn, tables: Tables, tail: Tail, link: tuple[bytes, bytes], sequence: int) -> Tail:
    if find_indexed(txn, tables, tail, "commit", link[0]) is not None:
        raise StaleBatchError(f"commit {link[0].hex()} is stored already; nothing was stored")
    return add_commit(txn, tables, tail, link, sequence)
