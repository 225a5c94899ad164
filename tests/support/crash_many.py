"""Writers, a collector and readers on one store, any of which is killed at any moment.

Each writer has a directory of keys of its own on the one branch, and commits there by merging; what the
directory holds after its n-th commit follows from n.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from kvgit_hamt import Repo
from kvgit_hamt.backend import lmdb_write
from kvgit_hamt.backend.base import RefUpdate
from kvgit_hamt.backend.lmdb import LmdbBackend
from kvgit_hamt.errors import BranchMovedError
from tests.support.crash_model import MAIN, Content
from tests.support.crash_worker import DONE, MESSAGE, STARTED, make_small

WRITERS = 3
PATIENCE_S = 600
KEYS = 40  # of each writer
GARBAGE_EVERY = 4  # commits of a writer, after which it makes and drops a branch


class Member(NamedTuple):
    """One process: "writer", "collector" or "reader"."""

    role: str
    number: int

    @property
    def is_writer(self) -> bool:
        return self.role == "writer"


class Directories:
    """What each writer's directory holds after its n-th commit; n does not go back."""

    def __init__(self) -> None:
        self._at = [0] * WRITERS
        self._content: list[Content] = [{} for _ in range(WRITERS)]

    def after(self, number: int, n: int) -> Content:
        content = self._content[number]
        if n < self._at[number]:
            content, self._at[number] = {}, 0
        for step in range(self._at[number] + 1, n + 1):
            content = {**content, **changes(number, step)}
        self._content[number], self._at[number] = content, n
        return content


def changes(number: int, n: int) -> Content:
    """What a writer's n-th commit puts: its number, and a few keys."""
    rng = random.Random(f"{number} {n}")
    some = {f"{number}/{rng.randrange(KEYS)}": f"{n}:" + "x" * rng.choice((9, 90, 900)) for _ in range(5)}
    return {f"{number}/n": f"{n}", **some}


def directory_of(content: Mapping[str, str], number: int) -> Content:
    """The keys of a writer."""
    return {key: value for key, value in content.items() if key.startswith(f"{number}/")}


def work(path: Path, member: Member, start: int, fault: str, end: Connection) -> None:
    """Do what the role says until killed, and tell each time it was done."""
    make_small()
    if fault:
        assert fault == "blind"
        put_blindly()
    act = {"writer": write, "collector": collect, "reader": read}[member.role]
    with Repo(path) as repo:
        act(repo, member.number, start, end)


def write(repo: Repo, number: int, start: int, end: Connection) -> None:
    worktree = repo.worktree(MAIN)
    side = f"side-{number}"
    for n in itertools.count(start + 1):
        end.send_bytes(MESSAGE.pack(STARTED, n))
        worktree.update(changes(number, n))
        worktree.commit(info={"by": number, "n": n})
        end.send_bytes(MESSAGE.pack(DONE, n))
        if n % GARBAGE_EVERY == 0:
            if side in repo.branches:  # of one that was killed
                repo.branches.delete(side)
            repo.branches.create(side, repo.branches[MAIN])
            garbage = repo.worktree(side)
            garbage[f"{number}/garbage"] = "y" * 3_000 + f"{n}"
            garbage.commit()
            repo.branches.delete(side)


def collect(repo: Repo, number: int, start: int, end: Connection) -> None:
    for n in itertools.count(start + 1):
        repo.gc(keep_reflog=0)
        end.send_bytes(MESSAGE.pack(DONE, n))


def read(repo: Repo, number: int, start: int, end: Connection) -> None:
    """Read whole states: each directory must be that of one commit of its writer."""
    directories = Directories()
    for n in itertools.count(start + 1):
        content = dict(repo.snapshot().items())
        for writer in range(WRITERS):
            seen = int(content.get(f"{writer}/n", 0))
            assert directory_of(content, writer) == directories.after(writer, seen), (
                f"writer {writer} at {seen}"
            )
        end.send_bytes(MESSAGE.pack(DONE, n))


def hold(path: Path, end: Connection) -> None:
    """Hold a read transaction until killed."""
    with LmdbBackend(path) as backend, vars(backend)["_session"].env.begin():
        end.send_bytes(b"holding")
        time.sleep(PATIENCE_S)


def put_blindly() -> None:
    """Move refs without comparing them first: what a store must not do."""
    move = vars(lmdb_write)["_move_ref"]

    def blind(txn: object, tables: object, update: RefUpdate) -> object:
        try:
            return move(txn, tables, update)
        except BranchMovedError as error:
            return move(txn, tables, update._replace(old=error.actual))

    vars(lmdb_write)["_move_ref"] = blind
