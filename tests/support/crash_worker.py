"""What the processes do that harnesses of crashes kill, and variants of the library that cannot bear it."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import struct
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, cast

import lmdb

from kvgit_hamt import Repo, bundle_load, gc, killpoints
from kvgit_hamt.backend.base import Batch
from kvgit_hamt.backend.lmdb import LmdbBackend
from kvgit_hamt.backend.lmdb_files import DATA_NAME
from kvgit_hamt.errors import KvgitHamtError
from kvgit_hamt.store import StoreWriter
from tests.support.crash_model import Plan

OPENED, STARTED, DONE = range(3)
FAILED = 1  # exit code
MESSAGE = struct.Struct("<BQ")  # what, step


class Job(NamedTuple):
    """What a process is to do.

    Attributes:
        step: the last step that the store has behind it.
        kill_at: of ``killpoints.arm``.
        fault: one of ``FAULTS``, for controls.
        may_fail: end in silence when the library raises an error: the disk will be taken away.
    """

    path: Path
    plan: Plan
    step: int = 0
    kill_at: str = ""
    fault: str = ""
    may_fail: bool = False


def work(job: Job, end: Connection) -> None:
    """Do step after step until killed, and tell what was begun and done."""
    make_small()
    killpoints.arm(job.kill_at)
    if job.fault:
        FAULTS[job.fault]()
    try:
        _work(job, end)
    except (KvgitHamtError, OSError):
        if not job.may_fail:
            raise
        sys.exit(FAILED)


def _work(job: Job, end: Connection) -> None:
    with Repo(LmdbBackend(job.path, map_bytes=1)) as repo:
        end.send_bytes(MESSAGE.pack(OPENED, job.step))
        for n in itertools.count(job.step + 1):
            end.send_bytes(MESSAGE.pack(STARTED, n))
            if job.fault == "early":
                end.send_bytes(MESSAGE.pack(DONE, n))
                job.plan.run(repo, n)
            else:
                job.plan.run(repo, n)
                end.send_bytes(MESSAGE.pack(DONE, n))


def make_small() -> None:
    """Many steps in small operations: loads are written, and garbage deleted, bit by bit."""
    for module in (sys.modules[StoreWriter.__module__], bundle_load):
        vars(module)["FLUSH_BYTES"] = 10_000
    vars(gc)["STEP"] = 20


def _publish_in_two() -> None:
    """Refs first, and what they name in a second transaction."""
    publish = LmdbBackend.publish

    def torn(self: LmdbBackend, batch: Batch) -> int:
        if not (batch.refs and batch.records) or batch.is_reserved:
            return publish(self, batch)
        publish(self, Batch(refs=batch.refs))
        return publish(self, dataclasses.replace(batch, refs=()))

    LmdbBackend.publish = torn  # type: ignore[method-assign]


def _collect_greedily() -> None:
    """Every seventh record is garbage."""
    holds = gc.Marks.holds

    def some(self: gc.Marks, location: bytes) -> bool:
        return holds(self, location) and int.from_bytes(location, "little") % 7 != 3

    gc.Marks.holds = some  # type: ignore[method-assign]


def _compact_in_place() -> None:
    """The copy is written over the data file instead of taking its place; the process dies half-way."""
    replace = os.replace

    def overwrite(source: str, target: str) -> None:
        (_begin_to_overwrite if target.endswith(DATA_NAME) else replace)(source, target)

    vars(os)["replace"] = overwrite


def _copy_in_place() -> None:
    """The files of a copy are written one by one, instead of being renamed together; it dies in the first."""

    def fill(source: str, target: str) -> None:
        os.mkdir(target)
        for name in sorted(os.listdir(source)):
            _begin_to_overwrite(os.path.join(source, name), os.path.join(target, name))

    vars(os)["rename"] = fill


def _begin_to_overwrite(source: str, target: str) -> None:
    with open(source, "rb") as copy, open(target, "wb", buffering=0) as file:
        file.write(copy.read(os.path.getsize(source) // 2))
        os._exit(killpoints.EXIT_CODE)


def switch_syncs_off() -> None:
    """Open every environment without syncs, which the library does not offer."""
    vars(lmdb)["open"] = functools.partial(cast(Any, lmdb.open), sync=False)


FAULTS: dict[str, Callable[[], None]] = {
    "early": lambda: None,  # see ``work``
    "torn": _publish_in_two,
    "greedy": _collect_greedily,
    "in place": _compact_in_place,
    "piece by piece": _copy_in_place,
    "no sync": switch_syncs_off,
}
