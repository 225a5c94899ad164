"""LMDB through py-lmdb, without versions: the limit for a store that lies in LMDB."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.adapters.base import Adapter, Pair

MAP_BYTES = 1 << 38


class RawLmdb(Adapter):
    """One named environment, its main database."""

    title = "raw LMDB (no versions)"
    how = (
        "one transaction with putmulti (sorted: append=True); get, getmulti and a cursor "
        "in one read transaction; not durable: sync=False"
    )
    modules = ("lmdb",)
    takes_bytes = True

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._env: Any = None
        self._txn: Any = None

    @classmethod
    def versions(cls) -> dict[str, str]:
        """Of the binding and of the engine."""
        import lmdb

        return {"lmdb": lmdb.__version__, "liblmdb": ".".join(map(str, lmdb.version()))}

    def _open(self, sync: bool) -> Any:
        import lmdb

        return lmdb.open(str(self.path), map_size=MAP_BYTES, sync=sync)

    def load(self, pairs: list[Pair]) -> None:
        """As they come."""
        with self._open(True) as env, env.begin(write=True) as txn:
            _, added = txn.cursor().putmulti(pairs)
            assert added == len(pairs)

    def load_sorted(self, pairs: list[Pair]) -> None:
        """Sorted, and appended."""
        with self._open(True) as env, env.begin(write=True) as txn:
            _, added = txn.cursor().putmulti(sorted(pairs), append=True)
            assert added == len(pairs)

    def open(self, durable: bool = True) -> None:
        """The environment."""
        self._env = self._open(durable)
        self._txn = None

    def close(self) -> None:
        """End the read transaction, close."""
        if self._txn is not None:
            self._txn.abort()
        self._env.close()

    def _read(self) -> Any:
        if self._txn is None:
            self._txn = self._env.begin()
        return self._txn

    def getter(self) -> Callable[[bytes], bytes | None]:
        """The read transaction's ``get``."""
        found: Callable[[bytes], bytes | None] = self._read().get
        return found

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """``getmulti``."""
        return dict(self._read().cursor().getmulti(keys))

    def items(self) -> Iterable[Pair]:
        """The cursor."""
        found: Iterable[Pair] = self._read().cursor()
        return found

    def list_directory(self, prefix: str) -> list[bytes]:
        """From the first key of the prefix on."""
        start, out = prefix.encode(), []
        cursor = self._read().cursor()
        if cursor.set_range(start):
            for key in cursor.iternext(values=False):
                if not key.startswith(start):
                    break
                out.append(key)
        return out

    def commit(self, pairs: list[Pair]) -> None:
        """One transaction."""
        with self._env.begin(write=True) as txn:
            txn.cursor().putmulti(pairs)
