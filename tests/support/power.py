"""Judge what a power cut left, in a process that may die of it."""

from __future__ import annotations

import multiprocessing
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from kvgit_hamt import Repo
from kvgit_hamt.backend.lmdb import LmdbBackend
from kvgit_hamt.errors import KvgitHamtError
from tests.support.crash import check_problem, differences, read_state
from tests.support.crash_model import MAIN, Plan, State
from tests.support.verify import structure_problems

PATIENCE_S = 120
DIED = "the process that opened it died"
_context = multiprocessing.get_context("forkserver")


class Found(NamedTuple):
    """What was wrong ("" if nothing), and which of the states that it may have was found (-1: none)."""

    problem: str
    which: int = -1


class Judge:
    """A process that opens stores which may be damaged; started again when one kills it."""

    def __init__(self) -> None:
        self._process: multiprocessing.process.BaseProcess | None = None

    def ask(self, path: Path, allowed: list[State], *, is_acked: bool = True, whole: bool = False) -> Found:
        """Open a store, compare all it holds with the states that it may have, and commit to it once.

        Args:
            is_acked: the store's making was acknowledged: it must be there.
            whole: run ``Repo.check`` too, and look at LMDB's pages.
        """
        if self._process is None:
            self._end, other = _context.Pipe()
            self._process = _context.Process(target=_serve, args=(other,), daemon=True)
            self._process.start()
            other.close()
        try:
            self._end.send((path, allowed, is_acked, whole))
            if not self._end.poll(PATIENCE_S):
                return Found(f"no answer in {PATIENCE_S} s")
            found: Found = self._end.recv()
            return found
        except (EOFError, ConnectionError):
            self._process.join()
            code, self._process = self._process.exitcode, None
            return Found(f"{DIED}: {code}")

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._end.close()
            self._process.join()
            self._process = None


def _serve(end: Connection) -> None:
    with suppress(EOFError):
        while True:
            end.send(look(*end.recv()))


def look(path: Path, allowed: list[State], is_acked: bool, whole: bool) -> Found:
    """See ``Judge.ask``."""
    try:
        with Repo(LmdbBackend(path, create=not is_acked)) as repo:
            state = read_state(repo)
            if state not in allowed:
                return Found(differences(state, allowed[0]))
            worktree = repo.worktree(MAIN)
            worktree["after the cut"] = "here"
            worktree.commit()
            faults = check_problem(repo) if whole else ""
        with Repo(path) as repo:
            if read_state(repo) != {**state, MAIN: {**state[MAIN], "after the cut": "here"}}:
                return Found("what was committed after the cut is not there")
    except (KvgitHamtError, LookupError) as error:
        return Found(f"{type(error).__name__}: {error}")
    if whole:
        faults = faults or "; ".join(structure_problems(path)[:3])
    return Found(faults, allowed.index(state))


def states_of(plan: Plan, steps: int) -> list[State]:
    """The state after each step, from 0 on."""
    states: list[State] = [{MAIN: {}}]
    for n in range(1, steps + 1):
        states.append(plan.after(states[-1], n))
    return states
