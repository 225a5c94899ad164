"""What a batch does inside LMDB's write transaction: refuse first, then records, indexes, refs, reflog."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from kvgit_hamt import killpoints
from kvgit_hamt.backend.base import Batch, NewRecord, RefUpdate
from kvgit_hamt.backend.lmdb_state import (
    SUM_MASK,
    Holder,
    State,
    Tables,
    check_number,
    protect,
    put_touches,
    unprotect,
)
from kvgit_hamt.backend.lmdb_sweep import index_of
from kvgit_hamt.errors import BackendError, BranchMovedError, CorruptionError, StaleBatchError
from kvgit_hamt.wire import place_of, seal, shift_places

_Txn = Any  # lmdb.Transaction[bytes]; its stubs are not part of every installation

CHUNK_RECORDS = 256  # put in one call
SEQUENCE = struct.Struct(">Q")


def apply_batch(txn: _Txn, tables: Tables, state: State, batch: Batch) -> tuple[State, int]:
    """All of a batch. Refusals come first, so that a lost race costs nothing."""
    killpoints.reached("publish.begun")
    for oid in batch.required:
        if txn.get(oid, None, tables.commits) is None:
            raise CorruptionError(f"commit {oid.hex()} is gone; nothing was stored")
    for kind, oid, loc in batch.relied:
        if txn.get(oid, None, index_of(tables, kind)) != loc:
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
        _enter_records(txn, tables, batch.records, first)
    killpoints.reached("publish.records")
    for kind, oid, loc in batch.entries:
        is_new = txn.put(oid, loc, overwrite=False, db=index_of(tables, kind))
        if kind == "commit" and not is_new:
            raise StaleBatchError(f"commit {oid.hex()} is stored already; nothing was stored")
    sequence = state.log_sequence
    for update in batch.refs:
        if update.log is not None:
            key = update.name.encode() + b"\0" + SEQUENCE.pack(sequence)
            txn.put(key, protect(key, update.log), db=tables.reflog)
            sequence += 1
    for name, value in batch.meta.items():
        key = name.encode()
        txn.put(key, protect(key, value), db=tables.meta)
    put_touches(txn, tables, batch.touches)
    killpoints.reached("publish.refs")
    state = state._replace(next_place=next_place, refs_sum=refs_sum & SUM_MASK, log_sequence=sequence)
    return state, delta


def _move_ref(txn: _Txn, tables: Tables, update: RefUpdate) -> int:
    """Compare and set one ref; returns what it adds to the sum over the refs."""
    key = update.name.encode()
    stored = txn.get(key, None, tables.refs)
    actual = None if stored is None else unprotect(key, stored, "ref")
    if actual != update.old:
        raise BranchMovedError(update.name, actual)
    change = 0 if stored is None else -check_number(stored)
    if update.new is not None:
        value = protect(key, update.new)
        txn.put(key, value, db=tables.refs)
        change += check_number(value)
    elif stored is not None:
        txn.delete(key, db=tables.refs)
    return change


def _use_reservation(txn: _Txn, tables: Tables, batch: Batch) -> None:
    """Check that the batch lies in a reservation that still stands; the batch with the refs ends it."""
    with txn.cursor(tables.pending) as cursor:
        after = cursor.set_range(SEQUENCE.pack(batch.base + 1))
        found = cursor.prev() if after else cursor.last()
        key, stored = cursor.item() if found else (b"", b"")
        end = batch.base + len(batch.records)
        holder = Holder.decode(unprotect(key, stored, "reservation")) if found else None
        if holder is None or end > int.from_bytes(key, "big") + holder.taken:
            raise BackendError(f"places {batch.base} to {end - 1} are not reserved; nothing was stored")
        if batch.refs:
            cursor.delete()


def _append_records(txn: _Txn, tables: Tables, batch: Batch, first: int) -> None:
    """Seal and put the records at ``first`` and following; past the last key LMDB only appends."""
    with txn.cursor(tables.records) as cursor:
        is_last = not cursor.last() or int.from_bytes(cursor.key(), "little") < first
        items = _sealed(batch.records, batch.base, first)
        added = 0
        # Lists, so that no Python runs inside putmulti: a signal handler that forks would close it all.
        while part := list(islice(items, CHUNK_RECORDS)):
            added += cursor.putmulti(part, dupdata=False, overwrite=False, append=is_last)[1]
    if added != len(batch.records):
        raise CorruptionError(f"places from {first} on hold records already; nothing was stored")


def _sealed(records: Sequence[NewRecord], base: int, first: int) -> Iterator[tuple[bytes, bytes]]:
    delta = first - base
    for place, record in enumerate(records, first):
        body = record.body
        if delta and record.place_count:
            body = shift_places(body, record.place_count, base, delta)
        yield place.to_bytes(8, "little"), seal(record.oid, body)


def _enter_records(txn: _Txn, tables: Tables, records: Sequence[NewRecord], first: int) -> None:
    for place, (oid, _, _, kind) in enumerate(records, first):
        if kind is not None:
            # A blob or node that is there already stays where it is: others link to it.
            is_new = txn.put(oid, place_of(place), overwrite=False, db=index_of(tables, kind))
            if kind == "commit" and not is_new:
                raise StaleBatchError(f"commit {oid.hex()} is stored already; nothing was stored")
