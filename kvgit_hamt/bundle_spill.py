"""A map from oids to bytes that keeps what is in use in memory and the rest in a temporary file."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3

YOUNG_COUNT = 100_000  # entries in memory before they go to the file: some 25 MB
_CACHE_KIB = 16 << 10  # of the file's pages


class SpillMap:
    """``oid -> bytes``, for one thread. Memory is bounded; a few microseconds a lookup in the file.

    Args:
        young_count: how many entries may be in memory.
    """

    def __init__(self, young_count: int = YOUNG_COUNT) -> None:
        self._young: dict[bytes, bytes] = {}
        self._limit = young_count
        self._file: sqlite3.Connection | None = None

    def get(self, oid: bytes) -> bytes | None:
        """The value of an oid, None if there is none."""
        found = self._young.get(oid)
        if found is not None or self._file is None:
            return found
        row = self._file.execute("select value from map where oid = ?", (oid,)).fetchone()
        return None if row is None else bytes(row[0])

    def __contains__(self, oid: bytes) -> bool:
        return self.get(oid) is not None

    def put(self, oid: bytes, value: bytes = b"") -> None:
        """Set the value of an oid."""
        self._young[oid] = value
        if len(self._young) >= self._limit:
            self._spill()

    def _spill(self) -> None:
        if self._file is None:
            self._file = open_temporary()
            self._file.execute("create table map (oid blob primary key, value blob) without rowid")
        rows = sorted(self._young.items())
        self._file.execute("begin")
        self._file.executemany("insert or replace into map values (?, ?)", rows)
        self._file.execute("commit")
        self._young = {}

    def close(self) -> None:
        """Give the file back."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._young = {}


def open_temporary() -> sqlite3.Connection:
    """A database in a temporary file of its own, which is there only once it is larger than its cache."""
    import sqlite3  # some builds of Python lack it; small bundles do without

    file = sqlite3.connect("", isolation_level=None)
    file.execute("pragma journal_mode = off")
    file.execute(f"pragma cache_size = -{_CACHE_KIB}")
    return file
