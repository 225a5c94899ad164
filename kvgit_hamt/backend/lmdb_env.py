"""One LMDB environment per directory and process: opening guards, witness, growth, fork.

Threads and remapping. Growing, reopening and closing an environment unmap its pages. py-lmdb marks every
open transaction invalid, waits until no call is inside the library, and lets later calls fail at once, all
ordered by the GIL; so a racing reader never touches unmapped pages, it gets ``lmdb.Error``. Such a reader
takes ``lock``, under which all remapping is done, and repeats its read there: an error that comes again under
the lock is a real one. The undisturbed read therefore needs no lock, no flag and no check at all.

Fork. An environment must not cross ``fork``: reader slots and the write lock belong to the parent, and
closing it in the child waits for ever for calls that other threads were in. So the hooks below close every
environment *before* the fork, with all locks held, and both sides open their own again on next use. A fork
therefore waits for the commits that other threads are in.
"""

from __future__ import annotations

import errno
import os
import threading
import traceback
import warnings
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, NoReturn

import lmdb

from kvgit_hamt import killpoints
from kvgit_hamt.backend import lmdb_pending
from kvgit_hamt.backend.lmdb_errors import MAX_READERS, translate, translate_os
from kvgit_hamt.backend.lmdb_files import (
    DATA_NAME,
    LOCK_NAME,
    MARKER_NAME,
    Head,
    Witness,
    WitnessFile,
    check_directory,
    compare_witness,
    empty_unfinished,
    extend,
    network_filesystem,
    occupy_streams,
    read_head,
    read_witness,
    write_marker,
)
from kvgit_hamt.backend.lmdb_state import (
    NAMED,
    NONCE_COUNT,
    STATE_KEY,
    State,
    Tables,
    put_state,
    read_state,
    sum_refs,
)
from kvgit_hamt.backend.lmdb_turn import Turn
from kvgit_hamt.errors import (
    FormatVersionError,
    StoreFullError,
    StoreReplacedError,
)
from kvgit_hamt.kernel import Door

DEFAULT_MAP_BYTES = 1 << 40  # address space only: the file grows by what is written
MIN_MAP_BYTES = 1 << 20
READER_CHECK_EVERY = 256  # write transactions between two sweeps of dead readers' slots

Sync = Literal["full", "no_meta"]


class Session(NamedTuple):
    """An open environment and its databases; dead after a reopen, a fork or ``close``."""

    env: lmdb.Environment
    tables: Tables


def abandon(left: weakref.ref[Any] | None, error: BaseException, outer: BaseException | None) -> None:
    """Abort the write transaction that an error ended, by dropping the last references to it.

    ``left`` is None when the error came so early (an interrupt) that only frames of the error know it.
    ``Transaction.abort`` waits for a moment when no other thread is inside LMDB, which never comes while
    several of them read without pause; deallocation does not wait. So the frames of the error, up to what was
    handled before (``outer``), let go of their locals.
    """
    found: BaseException | None = error
    while found is not None and found is not outer:
        traceback.clear_frames(found.__traceback__)
        found = found.__context__
    txn = None if left is None else left()
    if txn is not None:  # held by a debugger, say
        txn.abort()


@dataclass(frozen=True)
class Options:
    """How a handle wants its environment; see ``LmdbBackend``."""

    create: bool = True
    readonly: bool = False
    map_bytes: int | None = None
    sync: Sync = "full"
    accept_rollback: bool = False
    lock_timeout_s: float | None = None


class SharedEnvironment:
    """The one environment of a directory in this process. Everything but ``lock`` needs ``lock`` held."""

    def __init__(self, directory: str, options: Options) -> None:
        self.lock = threading.RLock()
        self.directory = directory
        self.data_path = os.path.join(directory, DATA_NAME)
        self.epoch = 0  # counts closings: a caller whose transaction died sees that it was one of them
        self.door = Door()  # for readers that follow pointers into the map
        self._options = options
        self.turn: Turn | None = None  # while the environment is open for writing
        self._session: Session | None = None
        self._pid = 0
        self._identity: tuple[int, int] | None = None
        self._lock_path = os.path.join(directory, LOCK_NAME)
        self._lock_identity: tuple[int, int] | None = None  # a writer with another lock file knows not of us
        self._is_replaced = False
        self._witnessed: State | None = None
        self._witness = WitnessFile(directory)
        self._last_page = -1  # to which the file is known to be long enough
        self._write_count = 0
        self._users: weakref.WeakSet[Any] = weakref.WeakSet()

    # opening

    def open(self) -> Session:
        """The open session; opens or, after a fork, reopens when there is none."""
        if self._is_replaced:
            self._raise_replaced()
        if self._session is not None and self._pid != os.getpid():
            self.close()  # a fork that ran no hooks
        if self._session is None:
            try:
                self._session = self._open()
            except lmdb.Error as error:
                raise translate(error, self.directory) from error
            except OSError as error:
                raise translate_os(error, self.directory) from error
            self._pid = os.getpid()
            self.door.records = self._session.tables.records
            self.door.begin = self._session.env.begin
        return self._session

    def _open(self) -> Session:
        options = self._options
        is_new = check_directory(self.directory, create=options.create and not options.readonly)
        if is_new:
            empty_unfinished(self.directory)
        occupy_streams()
        witness = read_witness(self.directory)  # before the state: it may only be older
        head = None if is_new else read_head(self.data_path)
        before = None if is_new else _identity_of(self.data_path)
        env = self._map(head)
        try:
            if not options.readonly:
                self.turn = Turn(self.directory)
            tables, state = _load(env, self.turn, options, is_new or head is None or head.table_count == 0)
            found = _identity_of(self.data_path)
            if found != (before or found) or found != (self._identity or found):
                self._raise_replaced()
            self._identity = found
            self._lock_identity = None if options.readonly else _identity_of(self._lock_path)
            if not options.accept_rollback:
                compare_witness(self.directory, witness, state)
            env.reader_check()
            if not options.readonly:
                self._complete(env, witness, state)
            self._options = _changed(options, create=False, accept_rollback=False)
            self._witnessed = state
            return Session(env, tables)
        except BaseException:
            env.close()
            self._witness.close()
            self._close_turn()
            raise

    def _complete(self, env: lmdb.Environment, witness: Witness | None, state: State) -> None:
        """Put beside a store that was opened for writing what may be missing there."""
        with suppress(OSError):  # a full device, say: the next open verifies again
            self._extend(env)
        if not os.path.exists(os.path.join(self.directory, MARKER_NAME)):
            killpoints.reached("create.tables")
            write_marker(self.directory)
            killpoints.reached("create.marked")
        if witness is None or self._options.accept_rollback:
            env.sync(True)
            self._witness.write(state)

    def _map(self, head: Head | None) -> lmdb.Environment:
        """Open with the wished map; when address space is short (RLIMIT_AS, say) with a smaller one."""
        used = (head.last_page + 1) * head.page_bytes if head else 0
        wished = self._options.map_bytes
        size = DEFAULT_MAP_BYTES if wished is None else max(wished, head.map_bytes if head else 0)
        floor = max(used, MIN_MAP_BYTES)
        size = max(size, floor)
        while True:
            try:
                return lmdb.open(
                    os.fsencode(self.directory),  # a str it would take for UTF-8
                    map_size=size,
                    readonly=self._options.readonly,
                    metasync=self._options.sync == "full",
                    create=False,
                    readahead=used < _memory_bytes() // 2,
                    max_readers=MAX_READERS,
                    max_dbs=len(NAMED),
                    max_spare_txns=1,  # never crosses a fork: see above
                    lib_version=0,  # whatever LMDB_DEFAULT_LIB_VERSION says
                )
            except lmdb.Error as error:
                if error.code != errno.ENOMEM or size <= floor:
                    raise
            size = max(size // 4, floor)

    def close(self) -> None:
        """Close the environment; the next ``open`` makes a new one."""
        session, self._session = self._session, None
        self.epoch += 1
        self.door.begin = self.door.records = None
        self.door.epoch += 1
        if session is not None:
            session.env.close()
        self._last_page = -1
        self._witness.close()
        self._close_turn()

    def _close_turn(self) -> None:
        turn, self.turn = self.turn, None
        if turn is not None:
            turn.close()

    def swapped(self) -> None:
        """Accept the file that ``compact`` put in place of the old one, at the next ``open``."""
        self._identity = None

    # growth

    def grow(self) -> None:
        """Double the map.

        Raises:
            StoreFullError: there is no address space for it; the old map is kept.
        """
        killpoints.reached("grow.before")
        env = self.open().env
        size = 2 * env.info()["map_size"]
        try:
            self._remap(env, size)
        except lmdb.Error as error:
            self.close()  # py-lmdb gives up an environment that it could not map
            raise StoreFullError(
                f"the map of {self.directory} is full and may not grow to {size} bytes ({error}); "
                "nothing was stored"
            ) from error
        killpoints.reached("grow.after")

    def _remap(self, env: lmdb.Environment, size: int) -> None:
        self.door.epoch += 1
        try:
            env.set_mapsize(size)
        finally:
            self.door.epoch += 1

    def adopt_size(self) -> None:
        """Follow another process that grew the file past our map."""
        try:
            self._remap(self.open().env, 0)
        except lmdb.Error as error:
            self.close()
            raise translate(error, self.directory) from error

    def begin_write(self) -> tuple[lmdb.Transaction[bytes], Tables]:
        """Begin a write transaction in the file that was opened, in this process.

        Whoever calls this gives ``turn`` back when the transaction has ended, or was not begun.

        Raises:
            LockTimeoutError: another process wrote for too long.
            StoreReplacedError: the data file is not the one that was opened.
            lmdb.Error: see ``translate``.
        """
        session = self.open()
        if self.turn is not None:
            self.turn.take(self._options.lock_timeout_s)
        try:
            txn = session.env.begin(write=True)
        except lmdb.MapResizedError:
            self.adopt_size()
            txn = session.env.begin(write=True)
        for path, identity in ((self.data_path, self._identity), (self._lock_path, self._lock_identity)):
            if identity is not None and not _is_still(path, identity):
                del txn  # see ``abandon``
                self._raise_replaced(path)
        return txn, session.tables

    def committed(self, state: State) -> None:
        """After a commit: the witness, and now and then the slots of dead readers."""
        # Without metasync a power cut may take the last commit, but not the witness: stay one behind.
        seen = state if self._options.sync == "full" else self._witnessed
        if seen is not None:
            self._witness.write(seen)
        self._witnessed = state
        self._write_count += 1
        if self._session is None:
            return
        try:
            self._extend(self._session.env)
        except OSError:  # a full device, say: the next open verifies again
            self._last_page = -1
        if self._write_count % READER_CHECK_EVERY == 0:
            self._session.env.reader_check()
            self._witness.close()  # somebody may have removed it

    def _extend(self, env: lmdb.Environment) -> None:
        """Make the file as long as its meta page says."""
        last_page = env.info()["last_pgno"]
        if last_page != self._last_page:
            self._last_page = last_page
            extend(self.data_path, (last_page + 1) * env.stat()["psize"])

    # sharing

    @property
    def is_replaced(self) -> bool:
        """Whether the data file in the directory is another one than that which is open."""
        return self._identity is not None and not _is_still(self.data_path, self._identity)

    @property
    def is_used(self) -> bool:
        """Whether a handle is left that was neither closed nor dropped."""
        return len(self._users) > 0

    def retire(self) -> None:
        """Close for good: the directory holds another store now."""
        self._is_replaced = True
        self.close()

    def join(self, user: object, options: Options) -> Callable[[], None]:
        """Share with one more handle; the stronger wish wins, by a reopen. What is returned takes it back."""
        mine = self._options
        joined = _changed(
            mine,
            readonly=mine.readonly and options.readonly,
            sync="full" if "full" in (mine.sync, options.sync) else "no_meta",
            map_bytes=max((size for size in (mine.map_bytes, options.map_bytes) if size), default=None),
            accept_rollback=options.accept_rollback,
            lock_timeout_s=min(
                (limit for limit in (mine.lock_timeout_s, options.lock_timeout_s) if limit is not None),
                default=None,
            ),
        )
        if (joined.readonly, joined.sync) != (mine.readonly, mine.sync) or joined.accept_rollback:
            self.close()
        self._options = joined
        self._users.add(user)

        def take_back() -> None:
            if self._options is joined:
                self._options = mine

        return take_back

    def leave(self, user: object) -> bool:
        """Stop sharing. True when nobody is left and the environment was closed."""
        self._users.discard(user)
        if len(self._users):
            return False
        self.close()
        return True

    def _raise_replaced(self, path: str | None = None) -> NoReturn:
        raise StoreReplacedError(
            f"{path or self.data_path} was replaced, moved or removed while it was open; "
            "nothing was written. Open it again"
        )


def _load(env: lmdb.Environment, turn: Turn | None, options: Options, is_new: bool) -> tuple[Tables, State]:
    """Open the databases, making them in a new store.

    In one write transaction, which costs nothing while nothing is written: py-lmdb keeps no table that was
    opened in a read transaction.
    """
    if turn is None:
        tables = _open_tables(env, None, create=False)
        with env.begin() as txn:
            return tables, read_state(txn, tables)
    try:
        turn.take(options.lock_timeout_s)
        return _load_or_make(env, options, is_new)
    finally:
        turn.give()


def _load_or_make(env: lmdb.Environment, options: Options, is_new: bool) -> tuple[Tables, State]:
    try:
        txn = env.begin(write=True)
    except lmdb.MapResizedError:
        env.set_mapsize(0)
        txn = env.begin(write=True)
    with txn:
        tables = _open_tables(env, txn, create=is_new)
        if is_new and txn.get(STATE_KEY, db=tables.main) is None:
            put_state(txn, tables, State(0, 1, 0, 0, os.urandom(16), bytes(8 * NONCE_COUNT)))
        state = read_state(txn, tables)
        if options.accept_rollback:
            refs_sum = sum_refs(txn, tables)
            if refs_sum != state.refs_sum:
                state = state._replace(refs_sum=refs_sum)
                put_state(txn, tables, state)
        lmdb_pending.drop_dead(txn, tables)
    return tables, state


def _open_tables(env: lmdb.Environment, txn: Any, *, create: bool) -> Tables:
    handles = []
    for name in NAMED:
        try:
            handle = env.open_db(name.encode(), txn=txn, create=create, integerkey=name == "records")
        except lmdb.NotFoundError as error:
            raise FormatVersionError(
                f"this is an LMDB environment, but no store of this version: it has no table {name!r}"
            ) from error
        handles.append(handle)
    handles.append(env.open_db(None, txn=txn))
    return Tables(*handles)


def _changed(options: Options, **changes: Any) -> Options:
    return Options(**{**vars(options), **changes})


def _identity_of(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _is_still(path: str, identity: tuple[int, int]) -> bool:
    try:
        return _identity_of(path) == identity
    except OSError:
        return False


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 1 << 33


_registry_lock = threading.RLock()  # taken before any environment's lock, never after
_environments: dict[tuple[int, int], SharedEnvironment] = {}  # by device and inode of the directory
_forking: list[SharedEnvironment] = []


def acquire(path: str, options: Options, user: object) -> SharedEnvironment:
    """The open environment of a directory, shared by all handles of this process.

    ``user`` is the handle; give it back with ``release``.
    """
    directory = os.path.realpath(path)
    try:
        key = _identity_of(directory) if os.path.exists(directory) else None
        if key is None or key in _environments:  # else it is checked when it is opened
            check_directory(directory, create=options.create and not options.readonly)
        if key is None:
            os.makedirs(directory, exist_ok=True)
            key = _identity_of(directory)
    except OSError as error:
        raise translate_os(error, directory) from error
    with _registry_lock:
        _sweep()
        shared = _environments.get(key)
        if shared is not None and shared.is_replaced:
            with shared.lock:
                shared.retire()
            shared = None
        if shared is None:
            shared = _environments[key] = SharedEnvironment(directory, options)
            kind = network_filesystem(directory)
            if kind:
                warnings.warn(
                    f"{directory} lies on {kind}: LMDB's locks and maps do not hold between hosts; "
                    "use the store from one host only",
                    stacklevel=3,
                )
        with shared.lock:
            take_back = shared.join(user, options)
    try:
        with shared.lock:
            shared.open()
    except BaseException:
        with shared.lock:
            take_back()  # others go on as before: reading, say, where there is no way to write
        release(shared, user)
        raise
    return shared


def _sweep() -> None:
    """Close what only dropped, never closed handles used. Not done by finalisers: they run anywhere,
    under any lock."""
    for key, shared in list(_environments.items()):
        if not shared.is_used and shared.lock.acquire(blocking=False):
            try:
                shared.close()
            finally:
                shared.lock.release()
            del _environments[key]


def release(shared: SharedEnvironment, user: object) -> None:
    """Give a handle back; the last one closes the environment."""
    with _registry_lock, shared.lock:
        if not shared.leave(user):
            return
        for key in [key for key, value in _environments.items() if value is shared]:
            del _environments[key]


def _before_fork() -> None:
    _registry_lock.acquire()
    for shared in _environments.values():
        shared.lock.acquire()
        _forking.append(shared)
        shared.close()


def _after_fork_in_parent() -> None:
    while _forking:
        _forking.pop().lock.release()
    _registry_lock.release()


def _after_fork_in_child() -> None:
    global _registry_lock  # noqa: PLW0603 - the old one may be held by a thread that is not here
    _registry_lock = threading.RLock()
    _forking.clear()
    for shared in _environments.values():
        shared.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
    )
