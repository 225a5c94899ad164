"""kvgit, the library this one takes its interface from, with its disk backend (diskcache over SQLite)."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.adapters.base import Adapter, Pair, Unsupported


class KvgitDisk(Adapter):
    """A repository over Disk."""

    title = "kvgit 0.4 (disk)"
    how = (
        "Repo(Disk(path), codec='bytes'); Worktree.update and commit; the first gets by a snapshot, "
        "which opens faster, warm ones by a worktree, whose cache of values in RAM answers them; "
        "items by get_many of all keys; durable: diskcache's sqlite_synchronous=2 (FULL), else its 1 (NORMAL)"
    )
    modules = ("kvgit", "kvgit.kv.disk", "diskcache")

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._repo: Any = None
        self._work: Any = None

    @classmethod
    def versions(cls) -> dict[str, str]:
        """Of both packages."""
        cls.import_library()
        return {name: importlib.metadata.version(name) for name in ("kvgit", "diskcache")}

    def _open(self, durable: bool) -> Any:
        from kvgit import Repo
        from kvgit.kv.disk import Disk

        disk = Disk(str(self.path))
        level = 2 if durable else 1
        if disk.store.sqlite_synchronous != level:
            disk.store.reset("sqlite_synchronous", level)
        return Repo(disk, codec="bytes")

    def load(self, pairs: list[Pair]) -> None:
        """One commit."""
        with self._open(True) as repo:
            work = repo.worktree("main", create=True)
            work.update(pairs)
            work.commit()

    def open(self, durable: bool = True) -> None:
        """The directory; a worktree only when it is needed, since that reads every key."""
        self._repo = self._open(durable)
        self._work = None

    def close(self) -> None:
        """Close the backend."""
        self._repo.close()

    def _worktree(self) -> Any:
        if self._work is None:
            self._work = self._repo.worktree("main")
        return self._work

    def first_get(self, key: str) -> bytes | None:
        """By a snapshot."""
        return self.cold_getter()(key)

    def cold_getter(self) -> Callable[[str], bytes | None]:
        """A snapshot's ``get``."""
        found: Callable[[str], bytes | None] = self._repo.snapshot(branch="main").get
        return found

    def getter(self) -> Callable[[str], bytes | None]:
        """The worktree's ``get``."""
        found: Callable[[str], bytes | None] = self._worktree().get
        return found

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """The worktree's ``get_many``."""
        found: dict[str, bytes] = self._worktree().get_many(*keys)
        return found

    def items(self) -> Iterable[Pair]:
        """All keys, then their values at once."""
        work = self._worktree()
        return iter(work.get_many(*work.keys()).items())

    def list_directory(self, prefix: str) -> list[str]:
        """There is no listing: all keys are looked at."""
        return [key for key in self._worktree().keys() if key.startswith(prefix)]  # noqa: SIM118

    def commit(self, pairs: list[Pair]) -> str:
        """Edits, then a commit."""
        work = self._worktree()
        work.update(pairs)
        work.commit()
        found: str = work.head
        return found

    def diff_keys(self, old: str, new: str) -> list[str]:
        """Three sets."""
        found = self._repo.diff(old, new)
        return [*found.added, *found.removed, *found.modified]

    def diff_values(self, old: str, new: str) -> list[tuple[str, bytes | None, bytes | None]]:
        """The sets, and the values from two snapshots."""
        keys = self.diff_keys(old, new)
        sides = [self._repo.snapshot(commit=commit).get_many(*keys) for commit in (old, new)]
        return [(key, sides[0].get(key), sides[1].get(key)) for key in keys]

    def branch(self, name: str) -> None:
        """A ref."""
        self._repo.branches.create(name, at=self._repo.branches["main"])

    def diverge(self, name: str, ours: list[Pair], theirs: list[Pair]) -> None:
        """Two worktrees."""
        self.branch(name)
        side = self._repo.worktree(name)
        side.update(theirs)
        side.commit()
        self.commit(ours)

    def merge(self, name: str) -> None:
        """A merge commit."""
        result = self._worktree().merge(branch=name)
        if not result.merged:
            raise Unsupported(f"the merge ended as {result!r}")

    def log(self, count: int) -> list[Any]:
        """The stream of commits."""
        return list(self._repo.log(branch="main", limit=count))
