"""What the processes of tests/race/test_refs_race.py run: counters and random calls on refs."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

from kvgit_hamt.backend import lmdb_write
from kvgit_hamt.backend.base import Batch, RefUpdate
from kvgit_hamt.backend.lmdb import LmdbBackend
from kvgit_hamt.errors import BranchMovedError
from tests.support.linear import Call
from tests.support.racers import PATIENCE_S

REFS = ("heads/a", "heads/b", "tags/c")


def put_blindly() -> None:
    """Take the comparison out of compare-and-set: what the controls race with."""
    compare_and_set = lmdb_write._move_ref

    def move(txn: Any, tables: Any, update: RefUpdate) -> int:
        try:
            return compare_and_set(txn, tables, update)
        except BranchMovedError as error:
            return compare_and_set(txn, tables, update._replace(old=error.actual))

    lmdb_write._move_ref = move


def count_up(path: Path, count: int, is_blind: bool, barrier: Any) -> int:
    """Add one to a ref, again where another was faster; how often it was told that it succeeded."""
    if is_blind:
        put_blindly()
    with LmdbBackend(path, sync="no_meta") as backend:
        barrier.wait(PATIENCE_S)
        done = 0
        while done < count:
            old = backend.get_ref("heads/n")
            try:
                backend.publish(Batch(refs=[RefUpdate("heads/n", old, b"%d" % (int(old or 0) + 1), None)]))
            except BranchMovedError:
                continue
            done += 1
        return done


def call_at_random(path: Path, seed: int, shape: tuple[int, int], is_blind: bool, barrier: Any) -> Any:
    """``shape``: histories, and calls of this process in each; what was called in each, by ref.

    All processes meet before each history, which begins with refs of its own that are not there yet.
    """
    if is_blind:
        put_blindly()
    rng = random.Random(seed)
    histories, length = shape
    found: list[list[tuple[str, Call]]] = []
    with LmdbBackend(path, sync="no_meta") as backend:
        for number in range(histories):
            barrier.wait(PATIENCE_S)
            known: dict[str, bytes | None] = {}
            found.append([_call(backend, rng, number, known) for _ in range(length)])
    return found


def _call(
    backend: LmdbBackend, rng: random.Random, number: int, known: dict[str, bytes | None]
) -> tuple[str, Call]:
    name = f"{rng.choice(REFS)}{number}"
    draw = rng.random()
    old = known.get(name)
    if draw < 0.35:
        start = time.monotonic_ns()
        value = known[name] = backend.get_ref(name)
        return name, Call(start, time.monotonic_ns(), ("get",), value)
    new = None if draw < 0.5 else rng.randbytes(6)
    start = time.monotonic_ns()
    try:
        backend.publish(Batch(refs=[RefUpdate(name, old, new, None)]))
        end, result = time.monotonic_ns(), True
        known[name] = new
    except BranchMovedError as error:
        end, result = time.monotonic_ns(), False
        known[name] = error.actual
    return name, Call(start, end, ("cas", old, new), result)
