"""Reservations of places: of running loads, and of loads that may be taken up again after their process.

A reservation whose process is gone is dropped, and gc then frees what was stored under it. One with a name
is kept for some days more: who starts the same load again finds it by its name and goes on. Whether a
reservation stands is decided under the write lock by its row alone: whoever judges it dead removes the
row, so no later judgement can differ. Spec: docs/format.md, "Bundles".
"""

from __future__ import annotations

import os
import time
from typing import Any

from kvgit_hamt.backend.lmdb_state import PENDING, Holder, Tables, protect, small_rows, unprotect
from kvgit_hamt.backend.lmdb_tail import SEQUENCE
from kvgit_hamt.errors import LockedError

KEEP_S = 7 * 86_400  # a load that was interrupted may be gone on with
Range = tuple[int, int]


def put_reservation(txn: Any, tables: Tables, first: int, count: int, name: bytes) -> None:
    """Enter a reservation of this process; with a name it outlives the process for ``KEEP_S``."""
    holder = Holder.me(count)
    if name:
        holder = holder._replace(until_s=int(time.time()) + KEEP_S, name=name)
    key = PENDING + SEQUENCE.pack(first)
    txn.put(key, protect(key, holder.encode()), db=tables.main)


def rows(txn: Any, tables: Tables) -> list[tuple[int, Holder]]:
    """(first place, holder) of all reservations, by place."""
    return [
        (int.from_bytes(key[1:], "big"), Holder.decode(unprotect(key, stored, "reservation")))
        for key, stored in small_rows(txn, tables, PENDING)
    ]


def drop(txn: Any, tables: Tables, first: int) -> None:
    """Remove the reservation of this first place, if there is one."""
    txn.delete(PENDING + SEQUENCE.pack(first), db=tables.main)


def drop_dead(txn: Any, tables: Tables) -> int | None:
    """Remove the reservations that are no longer held: the lowest place under one that is."""
    floor = None
    for first, holder in rows(txn, tables):
        if not holder.is_alive():
            drop(txn, tables, first)
        elif floor is None:
            floor = first
    return floor


def claim(txn: Any, tables: Tables, name: bytes) -> list[Range]:
    """Take over the reservations of a name: (first place, places) of each, by place.

    Raises:
        LockedError: another process that runs holds them.
    """
    found = [(first, holder) for first, holder in rows(txn, tables) if holder.name == name]
    for first, holder in found:
        if holder.is_running() and holder.pid != os.getpid():
            raise LockedError(f"process {holder.pid} is loading this bundle; wait for it, or stop it")
        put_reservation(txn, tables, first, holder.taken, name)
    return [(first, holder.taken) for first, holder in found]


def forget(txn: Any, tables: Tables) -> int:
    """Remove the named reservations of processes that do not run; how many."""
    dead = [first for first, holder in rows(txn, tables) if holder.name and not holder.is_running()]
    for first in dead:
        drop(txn, tables, first)
    return len(dead)
