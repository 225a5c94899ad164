"""prollytree: prolly trees in Rust whose commits are git's."""

from __future__ import annotations

import importlib.metadata
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.adapters.base import Adapter, Pair, Unsupported

SPACE = "kv"
NO_DIFF = "NamespacedKvStore has none; VersionedKvStore has, but inserts a key in milliseconds"


class Prollytree(Adapter):
    """A NamespacedKvStore, the only one of its stores that loads in bulk and can be reopened."""

    title = "prollytree"
    how = (
        "NamespacedKvStore, one namespace: ns_insert, commit, ns_get; no get_many, no listing of a prefix, "
        "no diff, no merge (VersionedKvStore has these, but inserts 400 keys/s); does not sync to disk"
    )
    modules = ("prollytree",)
    takes_bytes = True
    syncs = False

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._store: Any = None

    @classmethod
    def versions(cls) -> dict[str, str]:
        """Of the package."""
        cls.import_library()
        return {"prollytree": importlib.metadata.version("prollytree")}

    def load(self, pairs: list[Pair]) -> None:
        """Inside a git repository, as it asks for."""
        from prollytree import NamespacedKvStore

        self.path.mkdir()
        for setting in (("init", "-q", "-b", "main"), ("config", "user.name", "bench")):
            subprocess.run(["git", "-C", str(self.path), *setting], check=True)
        subprocess.run(["git", "-C", str(self.path), "config", "user.email", "bench@localhost"], check=True)
        (self.path / "store").mkdir()
        self._store = NamespacedKvStore(str(self.path / "store"))
        self.commit(sorted(pairs))
        self.close()

    def open(self, durable: bool = True) -> None:
        """The directory."""
        from prollytree import NamespacedKvStore

        self._store = NamespacedKvStore.open(str(self.path / "store"))
        self._durable = durable

    def close(self) -> None:
        """There is no closing."""
        self._store = None

    def getter(self) -> Callable[[bytes], bytes | None]:
        """``ns_get``."""
        get = self._store.ns_get
        return lambda key: get(SPACE, key)

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """One by one."""
        get = self._store.ns_get
        return {key: get(SPACE, key) for key in keys}

    def items(self) -> Iterable[Pair]:
        """All keys, then each value."""
        get = self._store.ns_get
        return ((key, get(SPACE, key)) for key in self._store.ns_list_keys(SPACE))

    def list_directory(self, prefix: str) -> list[bytes]:
        """There is no listing: all keys are looked at."""
        start = prefix.encode()
        return [key for key in self._store.ns_list_keys(SPACE) if key.startswith(start)]

    def commit(self, pairs: list[Pair]) -> str:
        """Staged inserts, then a commit."""
        insert = self._store.ns_insert
        for key, value in pairs:
            insert(SPACE, key, value)
        found: str = self._store.commit("edit")
        return found

    def diff_keys(self, old: Any, new: Any) -> list[bytes]:
        """Not for namespaces."""
        raise Unsupported(NO_DIFF)

    def diff_values(self, old: Any, new: Any) -> list[tuple[bytes, bytes | None, bytes | None]]:
        """Not for namespaces."""
        raise Unsupported(NO_DIFF)

    def branch(self, name: str) -> None:
        """Creates it and switches to it; the next use starts from there, which holds the same."""
        self._store.branch(name)

    def diverge(self, name: str, ours: list[Pair], theirs: list[Pair]) -> None:
        """Not for namespaces."""
        raise Unsupported(NO_DIFF)

    def log(self, count: int) -> list[Any]:
        """All of it."""
        return list(self._store.log())[:count]
