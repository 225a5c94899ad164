"""A copy of a store that is in use, as another directory that is whole or not there at all.

LMDB writes the copy out of one read transaction, so writers in any process go on; what they commit meanwhile
is not in it. It is made beside its target under another name, opened and verified there, and renamed last.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import lmdb
from lmdb.verify import VerifyError, verify

from kvgit_hamt import killpoints
from kvgit_hamt.backend.lmdb_errors import translate
from kvgit_hamt.backend.lmdb_files import DATA_NAME, LOCK_NAME, sync_directory
from kvgit_hamt.errors import BackendError, CorruptionError, ExistsError, StoreFullError

CopyTo = Callable[[int], None]
"""Writes the environment to an open file, out of one read transaction."""


def copy(source: str, directory: str, write: CopyTo, open_store: Callable[[str], Any]) -> None:
    """Make a copy of the store at ``source``. See ``LmdbBackend.copy``."""
    target = os.path.realpath(directory)
    check_target(target)
    part = f"{target}.{os.urandom(6).hex()}.part"
    try:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.mkdir(part, os.stat(source).st_mode & 0o777)
        _write_data(source, part, write)
        with open_store(part) as backend:  # verifies, and adds the marker and the witness
            backend.list_refs("")
            backend.version()
        _check_structure(os.path.join(part, DATA_NAME))
        os.unlink(os.path.join(part, LOCK_NAME))
        _sync(part)
        killpoints.reached("copy.part")
        os.rename(part, target)
        killpoints.reached("copy.renamed")
        sync_directory(os.path.dirname(target))
    except lmdb.Error as error:
        raise translate(error, source) from error
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise ExistsError(
                f"{target} has come to be while the copy was made; it was left alone"
            ) from error
        kind = StoreFullError if error.errno in (errno.ENOSPC, errno.EDQUOT) else BackendError
        raise kind(f"{source} could not be copied to {target}: {error}") from error
    finally:
        with suppress(FileNotFoundError):
            shutil.rmtree(part)


def check_target(target: str) -> None:
    """Refuse a target that is there, but for an empty directory."""
    try:
        if not os.path.lexists(target) or (os.path.isdir(target) and not os.listdir(target)):
            return
    except OSError as error:
        raise BackendError(f"{target} cannot be looked into: {error}") from error
    raise ExistsError(f"{target} is there already and not empty; name a new directory for the copy")


def _write_data(source: str, part: str, write: CopyTo) -> None:
    mode = os.stat(os.path.join(source, DATA_NAME)).st_mode & 0o777
    file = os.open(os.path.join(part, DATA_NAME), os.O_CREAT | os.O_EXCL | os.O_RDWR, mode)
    try:
        write(file)
        os.fsync(file)
    finally:
        os.close(file)


def _check_structure(path: str) -> None:
    try:
        problems: list[str] = verify(path)  # type: ignore[no-untyped-call]
    except VerifyError as error:
        problems = [str(error)]
    if problems:
        raise CorruptionError(f"the copy is damaged, and was not kept: {problems[0]}")


def _sync(directory: str) -> None:
    """Make all files of a directory durable."""
    for name in os.listdir(directory):
        fd = os.open(os.path.join(directory, name), os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    sync_directory(directory)
