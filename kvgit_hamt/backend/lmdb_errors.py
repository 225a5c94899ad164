"""What errors of LMDB and of the system mean for a store: our own errors."""

from __future__ import annotations

import errno
import os

import lmdb

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

from kvgit_hamt.backend.lmdb_files import DATA_NAME
from kvgit_hamt.errors import (
    BackendError,
    CorruptionError,
    FormatVersionError,
    KvgitHamtError,
    LockedError,
    ReadOnlyError,
    StoreFullError,
)

MAX_READERS = 1024  # threads reading at one moment, of all processes; 64 bytes each in the lock file
_FULL_CODES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_DENIED_CODES = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
_FULL_BELOW_BYTES = 1 << 18  # less room than this after a write that was cut short: full


def is_full(error: lmdb.Error, directory: str) -> bool:
    """Whether an error means that the device, the quota or the file size limit is exhausted.

    LMDB reports a write that was cut short as EIO, so an EIO is looked into.
    """
    code = getattr(error, "code", 0)
    if code in _FULL_CODES or isinstance(error, (lmdb.DiskError, lmdb.MapFullError)):
        return True
    return code == errno.EIO and _room_bytes(directory) < _FULL_BELOW_BYTES


def _room_bytes(directory: str) -> float:
    """How much the data file may still grow: space on the device, and RLIMIT_FSIZE."""
    room = float("inf")
    try:
        device = os.statvfs(directory)
        room = device.f_bavail * device.f_frsize
        if resource is not None:
            limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
            if limit != resource.RLIM_INFINITY:
                room = min(room, limit - os.path.getsize(os.path.join(directory, DATA_NAME)))
    except (OSError, AttributeError):  # no statvfs on Windows
        pass
    return room


def translate(error: lmdb.Error, directory: str) -> KvgitHamtError:
    """Our error for one of LMDB."""
    if isinstance(error, (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError)):
        return CorruptionError(f"the data file of {directory} is damaged: {error}")
    if isinstance(error, (lmdb.VersionMismatchError, lmdb.IncompatibleError)):
        return FormatVersionError(f"{directory} is of another format: {error}")
    if isinstance(error, lmdb.ReadonlyError) or getattr(error, "code", 0) in _DENIED_CODES:
        return ReadOnlyError(f"{directory} may not be written, nor locked for reading: {error}")
    if isinstance(error, lmdb.ReadersFullError):
        return LockedError(
            f"all {MAX_READERS} reader slots of {directory} are taken by live processes; close some of them"
        )
    if isinstance(error, lmdb.LockError):
        return LockedError(f"{directory} is locked: {error}")
    if isinstance(error, lmdb.TxnFullError):
        return BackendError(f"one commit to {directory} is too large for LMDB; load it in several batches")
    if is_full(error, directory):
        return StoreFullError(f"no space left for {directory}: {error}; nothing was stored")
    return BackendError(f"LMDB failed on {directory}: {error}")


def translate_os(error: OSError, directory: str) -> KvgitHamtError:
    """Our error for one of the system, at opening."""
    if error.errno in _FULL_CODES:
        return StoreFullError(f"no space left for {directory}: {error.strerror}")
    if error.errno in _DENIED_CODES:
        return ReadOnlyError(f"{error.filename or directory} may not be read or written: {error.strerror}")
    return BackendError(f"{directory} cannot be opened: {error}")
