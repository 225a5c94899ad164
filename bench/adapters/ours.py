"""This library, in LMDB, with either of its kernels."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from bench.adapters.base import Adapter, Pair

PLAIN_NAMES = ("plain", "python", "pure")


class Plain(Adapter):
    """The plain Python kernel."""

    title = "kvgit_hamt (plain)"
    how = (
        "codec=bytes; Worktree.load; Snapshot.get, get_many and items; Worktree.update and commit; "
        "repo.diff with and without values; not durable: LmdbBackend(sync='no_meta'), "
        "which still syncs the data"
    )
    modules = ("kvgit_hamt",)
    kernel: ClassVar[str] = "plain"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._repo: Any = None
        self._work: Any = None
        self._seen: Any = None

    @classmethod
    def versions(cls) -> dict[str, str]:
        """Ours, LMDB's, and the kernel in use."""
        import lmdb

        names = {
            name: importlib.metadata.version(name) for name in ("kvgit-hamt", "lmdb", "msgpack", "xxhash")
        }
        kernel = kernel_in_use()
        if (kernel in PLAIN_NAMES) != (cls.kernel == "plain"):
            raise ImportError(f"no {cls.kernel} kernel in this installation")
        return {**names, "liblmdb": ".".join(map(str, lmdb.version())), "kernel": kernel}

    def load(self, pairs: list[Pair]) -> None:
        """One streamed commit."""
        from kvgit_hamt import Repo

        with Repo(self.path, codec="bytes") as repo:
            repo.worktree().load(pairs)

    def open(self, durable: bool = True) -> None:
        """The directory, or a backend with another sync."""
        from kvgit_hamt import Repo

        if durable:
            self._repo = Repo(self.path)
        else:
            from kvgit_hamt.backend.lmdb import LmdbBackend

            self._repo = Repo(LmdbBackend(self.path, sync="no_meta"))
        self._work = self._seen = None

    def close(self) -> None:
        """Close the repository (and a backend that was handed to it)."""
        self._repo.close()

    def _snapshot(self) -> Any:
        if self._seen is None:
            self._seen = self._repo.snapshot()
        return self._seen

    def _worktree(self) -> Any:
        if self._work is None:
            self._work = self._repo.worktree()
        return self._work

    def getter(self) -> Callable[[str], bytes | None]:
        """A snapshot's ``get``."""
        found: Callable[[str], bytes | None] = self._snapshot().get
        return found

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """A snapshot's ``get_many``."""
        found: dict[str, bytes] = self._snapshot().get_many(keys)
        return found

    def items(self) -> Iterable[Pair]:
        """A snapshot's items."""
        found: Iterable[Pair] = self._snapshot().items()
        return found

    def list_directory(self, prefix: str) -> list[str]:
        """The keys under a prefix."""
        return list(self._snapshot().keys(prefix=prefix))

    def commit(self, pairs: list[Pair]) -> str:
        """Edits, then a commit."""
        work = self._worktree()
        work.update(pairs)
        work.commit()
        found: str = work.base
        return found

    def diff_keys(self, old: str, new: str) -> list[str]:
        """The stream of changes without values."""
        return [change.key for change in self._repo.diff(old, new, values=False)]

    def diff_values(self, old: str, new: str) -> list[tuple[str, bytes | None, bytes | None]]:
        """The stream of changes."""
        return [(change.key, change.old, change.new) for change in self._repo.diff(old, new)]

    def branch(self, name: str) -> None:
        """A ref."""
        self._repo.branches.create(name)

    def diverge(self, name: str, ours: list[Pair], theirs: list[Pair]) -> None:
        """Two worktrees."""
        self._repo.branches.create(name)
        side = self._repo.worktree(name)
        side.update(theirs)
        side.commit()
        self.commit(ours)

    def merge(self, name: str) -> None:
        """A merge commit."""
        result = self._worktree().merge(branch=name)
        assert result.strategy == "three_way", result

    def log(self, count: int) -> list[Any]:
        """The stream of commits."""
        return list(self._repo.log(limit=count))


class Compiled(Plain):
    """The compiled kernel."""

    title = "kvgit_hamt (compiled)"
    kernel: ClassVar[str] = "compiled"


def kernel_in_use() -> str:
    """ "plain", or what the kernel that is in use calls itself."""
    try:
        kernel = importlib.import_module("kvgit_hamt.kernel")
    except ModuleNotFoundError:
        return "plain"
    return str(getattr(kernel, "NAME", "plain"))
