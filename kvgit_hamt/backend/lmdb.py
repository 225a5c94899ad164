"""Records in LMDB: the embedded default.

Six named databases in one environment, and small values in its main one. Spec: docs/format.md, "LMDB".

| database | key | value |
|---|---|---|
| records | place (u64, the machine's order: ``integerkey``) | sealed record |
| commits, blobs, nodes | oid | place |
| reflog | name, NUL, number (u64, big-endian) | entry, check |
| touches | table, NUL, 16 bytes | counter (u64), check |
| (main) | ``state`` | counters, the newest commits and log entries (``lmdb_tail``), check |
| (main) | ``@`` name | ref value, check |
| (main) | ``!`` name | meta value, check |
| (main) | ``+`` first place (u64, big-endian) | reservation, check |
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NoReturn, TypeVar

import lmdb

from kvgit_hamt import killpoints
from kvgit_hamt.backend import lmdb_copy, lmdb_pending, lmdb_read
from kvgit_hamt.backend.base import Batch, Kind, Mender, Sweep, oid_floor
from kvgit_hamt.backend.lmdb_check import LmdbInspector, LmdbMender
from kvgit_hamt.backend.lmdb_compact import compact
from kvgit_hamt.backend.lmdb_env import (
    Options,
    Session,
    SharedEnvironment,
    Sync,
    abandon,
    acquire,
    release,
)
from kvgit_hamt.backend.lmdb_errors import is_full, translate
from kvgit_hamt.backend.lmdb_state import (
    META,
    REF,
    SUM_MASK,
    State,
    Tables,
    check_number,
    flush_tail,
    put_state,
    read_state,
    read_touches,
    small_rows,
    unprotect,
)
from kvgit_hamt.backend.lmdb_sweep import LmdbSweep
from kvgit_hamt.backend.lmdb_write import apply_batch
from kvgit_hamt.errors import (
    BackendError,
    ClosedError,
    CorruptionError,
    KvgitHamtError,
    OutcomeUnknownError,
    ReadOnlyError,
    StoreFullError,
)
from kvgit_hamt.kernel import Door
from kvgit_hamt.wire import place_of

T = TypeVar("T")
_Txn = Any  # lmdb.Transaction[bytes]; its stubs are not part of every installation

ATTEMPTS = 64  # of one call: growth doubles the map, so 64 reach any size
CHUNK_RECORDS = 256  # read in one transaction while iterating (no long reader pins pages), put in one call
CHUNK_BYTES = 1 << 20


class LmdbBackend:
    """A store in a directory, shared safely between threads, handles and processes of one host.

    Args:
        path: the directory; made when missing (``create``).
        readonly: refuse writes; nothing is written but LMDB's lock file.
        map_bytes: address space to start with (default 1 TiB, less where that is not to be had); it
            grows by itself. The file is only as large as what is stored.
        sync: "full" makes every publish durable before it returns. "no_meta" saves one of two disk
            writes: after a power cut the last commits may be missing, but what is left is whole.
        accept_rollback: take the store as it is although it is older than its witness says.
        lock_timeout_s: how long a write waits while another process is writing; for ever if None. All
            handles of this process on the store share the smallest.

    Raises:
        BackendError: no store there and not ``create``; a file, or a directory of something else.
        CorruptionError: the data file is missing, empty, cut or damaged.
        StoreRolledBackError: it is older than a commit that was seen through.
        FormatVersionError, ReadOnlyError, LockedError.
    """

    placed = True

    def __init__(  # noqa: PLR0913 (options by name)
        self,
        path: str | os.PathLike[str],
        *,
        create: bool = True,
        readonly: bool = False,
        map_bytes: int | None = None,
        sync: Sync = "full",
        accept_rollback: bool = False,
        lock_timeout_s: float | None = None,
    ) -> None:
        if sys.byteorder != "little":
            raise BackendError("LmdbBackend needs a little-endian machine: places are its integer keys")
        if sync not in ("full", "no_meta"):
            raise BackendError(f"sync is 'full' or 'no_meta', not {sync!r}")
        if lock_timeout_s is not None and not lock_timeout_s >= 0:
            raise BackendError(f"lock_timeout_s is None or seconds, not {lock_timeout_s!r}")
        self._is_readonly = readonly
        self._is_closed = False
        options = Options(create, readonly, map_bytes, sync, accept_rollback, lock_timeout_s)
        self._shared: SharedEnvironment = acquire(os.fspath(path), options, self)
        with self._shared.lock:
            self._bind()

    @property
    def path(self) -> str:
        """The directory."""
        return self._shared.directory

    @property
    def door(self) -> Door:
        """The way into the map, for readers that follow pointers."""
        return self._shared.door

    # sessions

    def _bind(self) -> Session:
        """Take over the shared environment's session, opening it if need be. Under its lock."""
        if self._is_closed:
            raise ClosedError(f"the store at {self.path} was closed")
        self._session: Session = self._shared.open()
        self._begin: Callable[..., _Txn] = self._session.env.begin
        self._records = self._session.tables.records
        return self._session

    def _view(self, action: Callable[[_Txn, Tables], T]) -> T:
        """Run a reading action in one transaction. It must bear being run again."""
        try:
            return _run(self._begin, self._session.tables, action)
        except lmdb.Error:
            return self._view_again(action)

    def _view_again(self, action: Callable[[_Txn, Tables], T]) -> T:
        """Repeat a read that failed, where no remapping can disturb it: see ``lmdb_env``."""
        shared = self._shared
        with shared.lock:
            for attempt in range(ATTEMPTS):
                env, tables = self._bind()
                try:
                    return _run(env.begin, tables, action)
                except lmdb.MapResizedError:
                    shared.adopt_size()
                except (lmdb.PanicError, lmdb.BadRslotError):
                    shared.close()
                except lmdb.ReadersFullError as error:
                    if attempt or not env.reader_check():
                        raise translate(error, self.path) from error
                except lmdb.Error as error:
                    raise translate(error, self.path) from error
        raise BackendError(f"{self.path} could not be read in {ATTEMPTS} attempts")

    # reading

    def read(self, oid: bytes, loc: bytes) -> bytes | None:
        """The sealed record at a place, or None when it is not there. The caller verifies it."""
        try:
            txn = self._begin(self._records)
            record: bytes | None = txn.get(loc)
            txn.abort()
        except lmdb.Error:
            return self._view_again(lambda txn, tables: _get_record(txn, tables, loc))
        return record

    def read_many(self, links: Sequence[tuple[bytes, bytes]]) -> list[bytes | None]:
        """Records of many (oid, loc), in order, in one read transaction."""

        def action(txn: _Txn, tables: Tables) -> list[bytes | None]:
            get, records = txn.get, tables.records
            return [get(loc, None, records) for _, loc in links]

        return self._view(action)

    def find(self, kind: Kind, oid: bytes) -> bytes | None:
        """The place of an indexed object, None when there is none."""
        return self._view(lambda txn, tables: lmdb_read.find(txn, tables, kind, oid))

    def find_abbreviated(self, prefix: str, limit: int = 2) -> list[bytes]:
        """Oids of up to ``limit`` commits whose hex id starts with ``prefix``, in order."""
        low = oid_floor(prefix)
        if low is None:
            return []
        return self._view(lambda txn, tables: lmdb_read.find_abbreviated(txn, tables, (low, prefix), limit))

    def next_place(self) -> int:
        """The place the next record would get now."""
        return self._view(read_state).next_place

    def get_ref(self, name: str) -> bytes | None:
        """The encoded value of one ref."""
        key = REF + name.encode()
        stored = self._view(lambda txn, tables: txn.get(key, None, tables.main))
        return None if stored is None else unprotect(key, stored, "ref")

    def list_refs(self, prefix: str) -> list[tuple[str, bytes]]:
        """(name, encoded value) of all refs whose name starts with ``prefix``, by name (as UTF-8).

        CorruptionError if any ref is damaged or missing: it might have been one of these. Cost: all refs.
        """

        def action(txn: _Txn, tables: Tables) -> tuple[list[tuple[bytes, bytes]], int]:
            return list(small_rows(txn, tables, REF)), read_state(txn, tables).refs_sum

        found, refs_sum = self._view(action)
        refs = [(_text(key[1:]), unprotect(key, stored, "ref")) for key, stored in found]
        if sum(check_number(stored) for _, stored in found) & SUM_MASK != refs_sum:
            raise CorruptionError(f"refs of {self.path} are missing or of an older state")
        return [ref for ref in refs if ref[0].startswith(prefix)]

    def read_reflog(self, name: str, limit: int | None = None) -> list[bytes]:
        """Encoded reflog entries of a ref, newest first. They outlive the ref."""
        key = name.encode()
        return self._view(lambda txn, tables: lmdb_read.reflog(txn, tables, key, limit))

    def reflog_names(self) -> list[str]:
        """Names that have reflog entries, those of deleted refs among them, in order."""
        return [_text(name) for name in self._view(lmdb_read.reflog_names)]

    def get_meta(self, name: str) -> bytes | None:
        """A meta value (written through ``Batch.meta``)."""
        key = META + name.encode()
        stored = self._view(lambda txn, tables: txn.get(key, None, tables.main))
        return None if stored is None else unprotect(key, stored, "meta value")

    def read_touches(self, table: str) -> dict[bytes, int]:
        """All rows of a table of touches, key -> counter."""
        return self._view(lambda txn, tables: read_touches(txn, tables, table))

    def iterate_records(self) -> Iterator[tuple[bytes, bytes]]:
        """(place, sealed record) of all records, in storage order.

        No transaction is open between two items: records that are stored or deleted meanwhile may or
        may not be seen.
        """
        place = 0
        while True:
            start = place_of(place)
            chunk = self._view(lambda txn, tables, start=start: _chunk(txn, tables, start))  # type: ignore[misc]
            if not chunk:
                return
            yield from chunk
            place = int.from_bytes(chunk[-1][0], "little") + 1

    def pending_floor(self) -> int | None:
        """The lowest place that a live reservation holds, None when there is none."""
        if all(holder.is_alive() for _, holder in self._view(lmdb_pending.rows)) or self._is_readonly:
            alive = (first for first, holder in self._view(lmdb_pending.rows) if holder.is_alive())
            return next(alive, None)
        return self._write(lambda txn, tables, state: (state, lmdb_pending.drop_dead(txn, tables)))

    def stats(self) -> dict[str, int]:
        """Counts of what is stored, and bytes of the file, of its pages in use or free, and of the map."""
        counts = self._view(lmdb_read.counts)
        with self._shared.lock:
            env = self._bind().env
            info, page_bytes = env.info(), env.stat()["psize"]
        return {
            **counts,
            "file_bytes": os.path.getsize(self._shared.data_path),
            "used_bytes": (info["last_pgno"] + 1) * page_bytes,
            "map_bytes": info["map_size"],
            "reader_count": info["num_readers"],
        }

    # writing

    def publish(self, batch: Batch) -> int:
        """Store a batch in one atomic, durable step: records, then refs. See ``Backend.publish``."""
        if not (batch.records or batch.refs or batch.required or batch.meta or batch.touches):
            return 0
        return self._write(lambda txn, tables, state: apply_batch(txn, tables, state, batch))

    def reserve(self, count: int, name: bytes = b"") -> int:
        """Take ``count`` places for good and return the first. Durable, and pending: see ``Backend``.

        With a name (16 bytes) it outlives the process for some days: see ``claim``.
        """

        def action(txn: _Txn, tables: Tables, state: State) -> tuple[State, int]:
            first = state.next_place
            lmdb_pending.put_reservation(txn, tables, first, count, name)
            return state._replace(next_place=first + count), first

        return self._write(action)

    def claim(self, name: bytes) -> list[tuple[int, int]]:
        """Take over reservations of a name that an interrupted load left: (first place, places) of each."""
        return self._write(lambda txn, tables, state: (state, lmdb_pending.claim(txn, tables, name)))

    def forget(self) -> int:
        """Give up all reservations that interrupted loads left; how many."""
        return self._write(lambda txn, tables, state: (state, lmdb_pending.forget(txn, tables)))

    def release(self, first: int) -> None:
        """Give up a reservation by its first place; unknown ones are ignored."""

        def action(txn: _Txn, tables: Tables, state: State) -> tuple[State, None]:
            lmdb_pending.drop(txn, tables, first)
            return state, None

        self._write(action)

    # collecting

    def version(self) -> int:
        """How many write transactions there were."""
        return self._view(read_state).counter

    def list_index(self, kind: Kind, after: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Up to ``limit`` (oid, place) of an index past ``after``."""
        return self._view(lambda txn, tables: lmdb_read.list_index(txn, tables, kind, after, limit))

    def list_records(self, after: bytes, limit: int) -> list[tuple[bytes, int]]:
        """Up to ``limit`` (place, bytes of the record) past ``after``."""
        return self._view(lambda txn, tables: lmdb_read.list_records(txn, tables, after, limit))

    def sweep(self, action: Callable[[Sweep], T]) -> tuple[T, int]:
        """Run deletions in one write transaction. See ``Backend.sweep``."""

        def write(txn: _Txn, tables: Tables, state: State) -> tuple[State, tuple[T, int]]:
            state = _flushed(txn, tables, state)
            return state, (action(LmdbSweep(txn, tables, state.counter)), state.counter + 1)

        return self._write(write)

    def compact(self) -> tuple[int, int]:
        """Give freed pages back to the file system: (bytes of the file before, and after).

        Raises:
            LockedError: another process has the store open, or wrote to it meanwhile.
            StoreFullError: no room for the copy. The store is as it was.

        Cost: writes what is stored once; needs that much room beside it.
        """
        if self._is_readonly:
            raise ReadOnlyError(f"the store at {self.path} was opened read-only")
        with self._shared.lock:
            self._bind()
            try:
                return compact(self._shared)
            finally:
                self._bind()

    def inspector(self) -> LmdbInspector:
        """What lies in the tables, damage included. See ``Inspectable``."""
        return LmdbInspector(self._view, self.path)

    def mend(self, action: Callable[[Mender], T]) -> T:
        """Put records, index entries and refs right, in one write transaction. See ``Mendable``."""

        def write(txn: _Txn, tables: Tables, state: State) -> tuple[State, T]:
            mender = LmdbMender(txn, tables, _flushed(txn, tables, state))
            result = action(mender)
            return mender.state, result

        return self._write(write)

    def copy(self, directory: str | os.PathLike[str], *, compact: bool = False) -> None:
        """Copy the store, as it is now, to a new directory. Writers, of other processes too, go on.

        Args:
            directory: is not there, or empty. It gets the whole copy, synced, in one step.
            compact: leave freed pages out; takes longer.

        Raises:
            ExistsError: something is there. StoreFullError: no room. CorruptionError: the store is
            damaged. BackendError. There is no copy then.

        Cost: reads and writes the file once. This process cannot grow its map meanwhile: such a write waits.
        """
        lmdb_copy.copy(self.path, os.fspath(directory), partial(self._copy_to, compact), LmdbBackend)

    def _copy_to(self, compact: bool, file: int) -> None:
        with self._shared.lock:
            env = self._bind().env
        try:
            env.copyfd(file, compact=compact)
        except lmdb.Error:
            os.ftruncate(file, 0)
            os.lseek(file, 0, os.SEEK_SET)
            with self._shared.lock:  # where no other thread closes or remaps it
                self._bind().env.copyfd(file, compact=compact)

    # the write transaction

    def _write(self, action: Callable[[_Txn, Tables, State], tuple[State, T]]) -> T:
        """Run an action in one write transaction. It must bear being run again: the map may have to grow."""
        if self._is_readonly:
            raise ReadOnlyError(f"the store at {self.path} was opened read-only")
        shared = self._shared
        with shared.lock:
            for _ in range(ATTEMPTS):
                self._bind()
                epoch = shared.epoch
                try:
                    return self._write_once(action)
                except lmdb.MapFullError:
                    shared.grow()
                except lmdb.PanicError:
                    shared.close()
                except lmdb.Error as error:
                    if epoch == shared.epoch:
                        raise translate(error, self.path) from error
        raise BackendError(f"{self.path} could not be written in {ATTEMPTS} attempts; nothing was stored")

    def _write_once(self, action: Callable[[_Txn, Tables, State], tuple[State, T]]) -> T:
        outer = sys.exc_info()[1]
        txn: _Txn = None
        try:
            txn, tables = self._shared.begin_write()
            before = read_state(txn, tables)
            state, result = action(txn, tables, before)
            state = state.after_commit()
            put_state(txn, tables, state)
            killpoints.reached("write.before_commit")
            try:
                self._commit(txn)
            except lmdb.MapFullError:
                raise  # LMDB aborted it
            except lmdb.Error as error:
                self._settle(error, before, state)
        except BaseException as error:
            left = None if txn is None else weakref.ref(txn)
            del txn
            abandon(left, error, outer)
            raise
        finally:
            turn = self._shared.turn
            if turn is not None:
                turn.give()
        killpoints.reached("write.committed")
        self._shared.committed(state)
        killpoints.reached("write.witnessed")
        return result

    def _commit(self, txn: _Txn) -> None:
        txn.commit()

    def _settle(self, error: lmdb.Error, before: State, state: State) -> None:
        """After a failed commit, find out whether it is on disk: return when it is, raise when not.

        Each commit leaves its nonce among the last few in the state, so it is known again even when
        other processes have committed since.
        """
        shared = self._shared
        full = is_full(error, self.path)
        try:
            shared.close()
            env, tables = shared.open()
            env.sync(True)
            found = _run(env.begin, tables, read_state)
        except (lmdb.Error, KvgitHamtError) as second:
            raise OutcomeUnknownError(
                f"a commit to {self.path} failed ({error}), and reading it back failed too ({second}): "
                "open the store again and compare the ref"
            ) from error
        nonces = [found.nonces[at : at + 8] for at in range(0, len(found.nonces), 8)]
        if state.nonces[:8] in nonces:
            return
        if found.counter - before.counter >= len(nonces):
            raise OutcomeUnknownError(
                f"a commit to {self.path} failed ({error}), and too many others followed to tell "
                "its outcome: compare the ref"
            ) from error
        if full:
            raise StoreFullError(f"no space left for {self.path}: {error}; nothing was stored") from error
        raise BackendError(f"a commit to {self.path} failed: {error}; nothing was stored") from error

    def close(self) -> None:
        """Release everything; a second call does nothing. Other handles on the store stay open."""
        with self._shared.lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._begin = self._refuse
        release(self._shared, self)

    def _refuse(self, *_: object) -> NoReturn:
        raise ClosedError(f"the store at {self.path} was closed")

    def __enter__(self) -> LmdbBackend:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _run(begin: Callable[..., _Txn], tables: Tables, action: Callable[[_Txn, Tables], T]) -> T:
    txn = begin()
    try:
        return action(txn, tables)
    finally:
        txn.abort()


def _flushed(txn: _Txn, tables: Tables, state: State) -> State:
    """The state with all in the tables."""
    return state._replace(tail=flush_tail(txn, tables, state.tail, state.log_sequence))


def _get_record(txn: _Txn, tables: Tables, loc: bytes) -> bytes | None:
    record: bytes | None = txn.get(loc, None, tables.records)
    return record


def _chunk(txn: _Txn, tables: Tables, start: bytes) -> list[tuple[bytes, bytes]]:
    found: list[tuple[bytes, bytes]] = []
    size = 0
    with txn.cursor(tables.records) as cursor:
        more = cursor.set_range(start)
        while more and len(found) < CHUNK_RECORDS and size < CHUNK_BYTES:
            item = cursor.item()
            found.append(item)
            size += len(item[1])
            more = cursor.next()
    return found


def _text(key: bytes) -> str:
    try:
        return key.decode()
    except UnicodeDecodeError as error:
        raise CorruptionError(f"ref name {key!r} is damaged") from error
