"""Stores for tests of the main API: in memory and in LMDB, each of which can be opened again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kvgit_hamt import Repo
from kvgit_hamt.backend.base import Backend
from kvgit_hamt.backend.lmdb import LmdbBackend
from kvgit_hamt.backend.memory import MemoryBackend
from kvgit_hamt.errors import ClosedError
from kvgit_hamt.path import Shape
from tests.support.placed import PlacedBackend

SMALL = Shape(bits=4, leaf_max=120, inline_max=64, index_min=8)  # deep trees and blobs from few entries
KINDS = ("memory", "lmdb")


class Lent:
    """A backend that outlives the repository it is lent to, so that the store can be opened again."""

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self._is_closed = False

    def __getattr__(self, name: str) -> Any:
        if self._is_closed:
            raise ClosedError("this handle was closed")
        return getattr(self._inner, name)

    def close(self) -> None:
        self._is_closed = True


class Home:
    """Where one store lies. ``open`` gives a new handle on it each time."""

    def __init__(self, kind: str, directory: Path) -> None:
        self.kind = kind
        self.path = directory / "store"
        self._handles: list[Repo] = []
        self._inner: Backend | None = None
        if kind != "lmdb":
            self._inner = MemoryBackend() if kind == "memory" else PlacedBackend()
        self.ticks = 0

    def clock(self) -> int:
        """A clock that counts: each call is one second later."""
        self.ticks += 1
        return self.ticks * 1_000_000

    def backend(self) -> Any:
        """A backend on the store; the caller, or a repository, closes it."""
        return LmdbBackend(self.path) if self._inner is None else Lent(self._inner)

    def open(self, **options: Any) -> Repo:
        repo = Repo(self.backend(), **options)
        self._handles.append(repo)
        return repo

    def close(self) -> None:
        for repo in self._handles:
            repo.close()


def state_of(repo: Repo) -> dict[str, Any]:
    """All that a call which fails, or only looks, must leave alone."""
    stats = {name: count for name, count in repo.stats().items() if name in STEADY}
    return {
        "branches": dict(repo.branches),
        "tags": dict(repo.tags),
        "reflogs": {name: repo.reflog(name) for name in repo.branches},
        **stats,
    }


STEADY = ("record_count", "commit_count", "blob_count", "node_count", "ref_count", "file_bytes")


def raised_by(call: Callable[[], object]) -> BaseException:
    """What a call raises; an AssertionError if it raises nothing."""
    try:
        call()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")
