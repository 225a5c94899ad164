"""A small store, things to do with it, and the judge of what is left when one of them was stopped.

Every operation is all or nothing: afterwards each branch holds what it held before, or what it holds when
the operation has run to its end. Which of the two must agree with what the caller was told.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lmdb.verify import verify

import kvgit_hamt as kvgit
from kvgit_hamt import Repo, bulk, gc
from kvgit_hamt.backend.lmdb import LmdbBackend
from kvgit_hamt.store import Store
from tests.support.homes import SMALL

State = dict[str, dict[str, Any]]
Operation = Callable[[Path], None]
_store: Any = sys.modules[Store.__module__]  # the package's own "store" is a function
YEAR_US = 365 * 86_400_000_000


def clock() -> int:
    """A moment that does not pass: equal runs make equal commits."""
    return 50 * YEAR_US


def open_repo(path: Path) -> Repo:
    """The store of a case."""
    return Repo(LmdbBackend(path), shape=SMALL, clock=clock)


def value_of(number: int) -> str:
    """Short ones, and now and then one that lies out of line."""
    return f"value {number} " * (number % 5) if number % 9 else f"blob {number} " * 20


def make(path: Path) -> None:
    """A store with two branches that differ, a tag, and garbage."""
    with open_repo(path) as repo:
        main = repo.worktree()
        main.update({f"k/{number}": value_of(number) for number in range(250)})
        main.commit()
        repo.branches.create("side")
        repo.tags.create("v1", info={"by": "test"})
        main["k/1"] = "on main"
        main.commit()
        side = repo.worktree("side")
        side.update({"k/2": "on side", "new/3": value_of(9), "k/240": value_of(90)})
        del side["k/7"]
        side.commit()
        gone = repo.worktree("gone", create=True)
        for turn in range(3):
            gone.update({f"g/{turn}/{number}": value_of(number + turn) for number in range(150)})
            gone.commit()
        repo.branches.delete("gone")


def _commit(repo: Repo) -> None:
    work = repo.worktree()
    work.update({"k/3": "changed", "more/1": value_of(18), "more/2": 2})
    work.pop("k/4", None)
    work.commit()


def _merge(repo: Repo) -> None:
    repo.worktree().merge(branch="side")


def _gc(repo: Repo) -> None:
    repo.gc(keep_reflog=0)


def _load(repo: Repo) -> None:
    repo.worktree().load({f"load/{number}": value_of(number) for number in range(600)})


def _compact(repo: Repo) -> None:
    repo.compact()


def _refs(repo: Repo) -> None:
    if "other" not in repo.branches:
        repo.branches.create("other", at="side")


def _reopen(repo: Repo) -> None:
    """Only what ``open_repo`` and ``close`` do."""


DEEDS: dict[str, Callable[[Repo], None]] = {
    "commit": _commit,
    "merge": _merge,
    "gc": _gc,
    "load": _load,
    "compact": _compact,
    "branch": _refs,
    "open": _reopen,
}
REPEATED = frozenset({"merge", "gc", "compact", "branch", "open", "load", "commit"})  # all bear a second run


@contextmanager
def small_steps() -> Iterator[None]:
    """Let gc and bulk loads use many small write transactions, as they do with much more data."""
    before = gc.STEP, _store.FLUSH_BYTES, bulk.STEP
    gc.STEP, _store.FLUSH_BYTES, bulk.STEP = 40, 6_000, 100
    try:
        yield
    finally:
        gc.STEP, _store.FLUSH_BYTES, bulk.STEP = before


def state_of(repo: Repo) -> State:
    """What every branch and tag holds, read through a cache that knows nothing."""
    repo.store.cache.clear()
    found = {f"heads/{name}": dict(repo.snapshot(branch=name).items()) for name in repo.branches}
    return {**found, **{f"tags/{name}": dict(repo.snapshot(tag=name).items()) for name in repo.tags}}


def assert_whole(repo: Repo) -> None:
    """All that refs and indexes name is there, in every commit, and can be read."""
    fresh = Store(repo.store.backend, repo.store.shape, 0)
    for name in repo.branches:
        for commit in repo.log(name):
            assert len(dict(repo.snapshot(commit=commit.id).items())) == len(repo.snapshot(commit=commit.id))
    for oid, _ in fresh.backend.list_index("commit", b"", 10_000):
        gc.Marker(fresh, lambda count: None).mark_commit(oid)
    for link in fresh.backend.list_index("node", b"", 10_000):
        gc.Marker(fresh, lambda count: None).mark_tree(link)


class Stage:
    """Copies of one store, one a case."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self.template = directory / "template"
        self.path = directory / "case"
        make(self.template)
        with open_repo(self.template) as repo:
            self.before = state_of(repo)
        self.after: dict[str, State] = {}
        for name, deed in DEEDS.items():
            with open_repo(self.fresh()) as repo:
                deed(repo)
                self.after[name] = state_of(repo)

    def fresh(self) -> Path:
        """A new copy of the store, in place of the last one."""
        shutil.rmtree(self.path, ignore_errors=True)
        shutil.copytree(self.template, self.path)
        return self.path

    def judge(self, name: str, repo: Repo, outcome: str) -> list[str]:
        """What is wrong with a store after an operation that "landed", was "refused", or is "unknown".

        The handle that saw the fault is used first, and again for a second run; then a new one.
        """
        path = Path(repo.store.backend.path)  # type: ignore[attr-defined]
        allowed = {
            "landed": [self.after[name]],
            "refused": [self.before],
            "unknown": [self.before, self.after[name]],
        }[outcome]
        faults = []
        try:
            if state_of(repo) not in allowed:
                faults.append(f"{name} {outcome}, but the branches do not hold that")
            DEEDS[name](repo)
            if state_of(repo) != self.after[name]:
                faults.append(f"{name} {outcome}: a second run does not lead where the first should")
        except kvgit.KvgitHamtError as error:
            faults.append(f"{name} {outcome}, and then the handle fails: {error!r}")
        repo.close()
        return faults + self.judge_files(name, path)

    def judge_files(self, name: str, path: Path) -> list[str]:
        """What is wrong for somebody who opens the store after the second run."""
        problems = verify(str(path))  # type: ignore[no-untyped-call]
        faults = [f"{name}: LMDB's structure: {problem}" for problem in problems[:1]]
        try:
            with open_repo(path) as repo:
                if state_of(repo) != self.after[name]:
                    faults.append(f"{name}: another handle sees other branches")
                assert_whole(repo)
        except kvgit.KvgitHamtError as error:
            faults.append(f"{name}: the store does not open or is not whole: {error!r}")
        return faults
