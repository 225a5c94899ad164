"""Giving file space back: a compacted copy takes the place of the data file.

LMDB never shrinks its file, and a process that has it open would go on with the old one. So the copy is
swapped in only while no other process has the environment open: each holds a shared ``fcntl`` lock on the
first byte of the lock file, and the swap needs an exclusive one.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import lmdb

from kvgit_hamt import killpoints
from kvgit_hamt.backend.lmdb_env import SharedEnvironment
from kvgit_hamt.backend.lmdb_errors import translate
from kvgit_hamt.backend.lmdb_files import read_head
from kvgit_hamt.errors import BackendError, LockedError

LOCK_NAME = "lock.mdb"
COPY_NAME = "compact.tmp"


def compact(shared: SharedEnvironment) -> tuple[int, int]:
    """Compact a store, with ``shared.lock`` held: (bytes before, bytes after). See ``LmdbBackend``."""
    copy = os.path.join(shared.directory, COPY_NAME)
    try:
        txn_id = _write_copy(shared, copy)
        killpoints.reached("compact.copied")
        before, after = os.path.getsize(shared.data_path), os.path.getsize(copy)
        shared.close()
        with _alone(shared.directory):
            head = read_head(shared.data_path)
            if head is None or head.txn_id != txn_id:
                raise LockedError(f"another process wrote to {shared.directory} meanwhile; compact again")
            killpoints.reached("compact.locked")
            shared.swapped()  # before: an interrupt behind the replacement must not make it a stranger's
            os.replace(copy, shared.data_path)
            killpoints.reached("compact.replaced")
            _sync_directory(shared.directory)
    except lmdb.Error as error:
        raise translate(error, shared.directory) from error
    except OSError as error:
        raise BackendError(f"{shared.directory} could not be compacted: {error}; it is as it was") from error
    finally:
        with suppress(FileNotFoundError):
            os.unlink(copy)
    return before, after


def _write_copy(shared: SharedEnvironment, path: str) -> int:
    """Write a compacted, durable copy; the id of the last transaction in it."""
    env = shared.open().env
    with suppress(FileNotFoundError):
        os.unlink(path)  # of a run that was killed
    mode = os.stat(shared.data_path).st_mode & 0o777
    file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode)
    try:
        with env.begin() as txn:
            txn_id: int = txn.id()
            env.copyfd(file, compact=True, txn=txn)
        os.fsync(file)
    finally:
        os.close(file)
    return txn_id


@contextmanager
def _alone(directory: str) -> Iterator[None]:
    """Hold off every other process that would open the environment; it must be closed in this one."""
    with open(os.path.join(directory, LOCK_NAME), "r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0)
        except OSError as error:
            raise LockedError(
                f"another process has {directory} open; compact when this one is alone with it"
            ) from error
        yield


def _sync_directory(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
