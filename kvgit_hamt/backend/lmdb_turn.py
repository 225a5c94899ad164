"""Taking turns to write, so that waiting for another process can end.

Who waits for LMDB's own write lock waits without a limit, and not even Ctrl-C ends it. So a writer first
takes its turn: an ``flock`` on the store's directory, held around the write transaction. It protects
nothing: that is what LMDB's lock is for, and where ``flock`` is not to be had, writers go on without it.
The system gives the turn of a process that died to the next one.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

from kvgit_hamt.errors import LockTimeoutError

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.0002, 0.005
_NOTHING: Final[Callable[[], object]] = bool


class Turn:
    """The turn of this process in one directory; belongs to one environment, and is closed with it.

    Attributes:
        give: gives the turn back, if it was taken. No Python code runs in it, so no signal handler before it.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._fd = os.open(directory, os.O_RDONLY)
        self._is_void = False
        self.give = _NOTHING

    def take(self, timeout_s: float | None) -> None:
        """Wait until no other process writes, for ever if ``timeout_s`` is None.

        Raises:
            LockTimeoutError: another process wrote all the time.
        """
        if self._is_void:
            return
        self.give = partial(fcntl.flock, self._fd, fcntl.LOCK_UN)
        try:
            if timeout_s is None:
                fcntl.flock(self._fd, fcntl.LOCK_EX)
            else:
                self._wait(timeout_s)
        except OSError:  # a file system that has no such locks
            self._is_void = True
            self.give = _NOTHING

    def _wait(self, timeout_s: float) -> None:
        end = time.monotonic() + timeout_s
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                left_s = end - time.monotonic()
            if left_s <= 0:
                raise LockTimeoutError(
                    f"another process{_holder_of(self._fd)} was writing to {self._directory} "
                    f"for {timeout_s} s; nothing was stored"
                )
            time.sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def close(self) -> None:
        """Let go of the directory, and of the turn."""
        fd, self._fd = self._fd, -1
        self._is_void = True
        self.give = _NOTHING
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        with suppress(OSError, AttributeError):  # of an object that was never made
            self.close()


def _holder_of(fd: int) -> str:
    """ " (pid N)" of the process that has the lock, where the system tells."""
    number = f":{os.fstat(fd).st_ino}"
    with suppress(OSError), open("/proc/locks", encoding="ascii") as file:
        for fields in map(str.split, file):
            if fields[1:2] == ["FLOCK"] and fields[5].endswith(number):
                return f" (pid {fields[4]})"
    return ""
