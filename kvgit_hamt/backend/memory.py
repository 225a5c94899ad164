"""A backend in a dict: for tests, for trees that are thrown away, and as the model of the others."""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from kvgit_hamt.backend.base import Batch, Kind, Mender, NewRecord, RefUpdate, Sweep, oid_floor
from kvgit_hamt.errors import BranchMovedError, ClosedError, CorruptionError, StaleBatchError
from kvgit_hamt.wire import seal

T = TypeVar("T")


class MemoryBackend:
    """Records, refs and reflog in memory, addressed by oid. Safe to share between threads.

    Nothing is verified on reading; the caller does that, as on every backend.
    """

    placed = False

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._is_closed = False
        self._records: dict[bytes, bytes] = {}
        self._index: dict[Kind, set[bytes]] = {"commit": set(), "blob": set(), "node": set()}
        self._commits: list[bytes] = []  # sorted, for abbreviations
        self._refs: dict[str, bytes] = {}
        self._reflog: dict[str, list[bytes]] = {}
        self._meta: dict[str, bytes] = {}
        self._version = 0
        self._touches: dict[str, dict[bytes, int]] = {}

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClosedError("the backend was closed")

    def read(self, oid: bytes, loc: bytes) -> bytes | None:
        """The sealed record, or None when it is not there."""
        records = self._records  # taken before the check: ``close`` puts an empty one in its place
        self._check_open()
        return records.get(oid)

    def read_many(self, links: Sequence[tuple[bytes, bytes]]) -> list[bytes | None]:
        """Records of many (oid, loc), in order."""
        with self._lock:
            self._check_open()
            return [self._records.get(oid) for oid, _ in links]

    def find(self, kind: Kind, oid: bytes) -> bytes | None:
        """``b""`` when the object is indexed under ``kind``, else None."""
        self._check_open()
        return b"" if oid in self._index[kind] else None

    def find_abbreviated(self, prefix: str, limit: int = 2) -> list[bytes]:
        """Oids of up to ``limit`` commits whose hex id starts with ``prefix``, in order."""
        self._check_open()
        found: list[bytes] = []
        low = oid_floor(prefix)
        if low is None:
            return found
        with self._lock:
            at = bisect_left(self._commits, low)
            for oid in self._commits[at : at + limit]:
                if not oid.hex().startswith(prefix):
                    break
                found.append(oid)
        return found

    def next_place(self) -> int:
        """Always 0: records are addressed by oid."""
        self._check_open()
        return 0

    def reserve(self, count: int) -> int:
        """Always 0: there are no places to take."""
        self._check_open()
        return 0

    def release(self, first: int) -> None:
        """Nothing to give up."""
        self._check_open()

    def pending_floor(self) -> int | None:
        """Always None: nothing is ever pending."""
        self._check_open()
        return None

    def publish(self, batch: Batch) -> int:
        """Store a batch wholly, or raise and store nothing. Returns 0."""
        with self._lock:
            self._check_open()
            for oid in batch.required:
                if oid not in self._index["commit"]:
                    raise CorruptionError(f"commit {oid.hex()} is gone; nothing was stored")
            for kind, oid, _ in batch.relied:
                if oid not in self._index[kind]:
                    raise StaleBatchError("something this change shares was collected; nothing was stored")
            refs = dict(self._refs)
            for update in batch.refs:
                _move(refs, update)
            self._version += 1
            for record in batch.records:
                self._records.setdefault(record.oid, seal(record.oid, record.body))
                self._enter(record.kind, record.oid)
            for kind, oid, _ in batch.entries:
                self._enter(kind, oid)
            self._refs = refs
            for update in batch.refs:
                if update.log is not None:
                    self._reflog.setdefault(update.name, []).append(update.log)
            self._meta.update(batch.meta)
            for table, key, number in batch.touches:
                rows = self._touches.setdefault(table, {})
                if number is None:
                    rows.pop(key, None)
                else:
                    rows[key] = number
        return 0

    def _enter(self, kind: Kind | None, oid: bytes) -> None:
        if kind is None or oid in self._index[kind]:
            return
        self._index[kind].add(oid)
        if kind == "commit":
            insort(self._commits, oid)

    def get_ref(self, name: str) -> bytes | None:
        """The encoded value of one ref."""
        refs = self._refs
        self._check_open()
        return refs.get(name)

    def list_refs(self, prefix: str) -> list[tuple[str, bytes]]:
        """(name, encoded value) of all refs whose name starts with ``prefix``, by name in UTF-8 order."""
        with self._lock:
            self._check_open()
            names = sorted(name for name in self._refs if name.startswith(prefix))
            return [(name, self._refs[name]) for name in names]

    def read_reflog(self, name: str, limit: int | None = None) -> list[bytes]:
        """Encoded reflog entries of a ref, newest first."""
        with self._lock:
            self._check_open()
            return self._reflog.get(name, [])[::-1][:limit]

    def reflog_names(self) -> list[str]:
        """Names that have reflog entries, deleted refs among them, in order."""
        with self._lock:
            self._check_open()
            return sorted(self._reflog)

    def get_meta(self, name: str) -> bytes | None:
        """A meta value (written through ``Batch.meta``)."""
        self._check_open()
        return self._meta.get(name)

    def read_touches(self, table: str) -> dict[bytes, int]:
        """All rows of a table of touches, key -> counter."""
        with self._lock:
            self._check_open()
            return dict(self._touches.get(table, {}))

    def iterate_records(self) -> Iterator[tuple[bytes, bytes]]:
        """(oid, sealed record) of the records there were at the start, in order of storing."""
        with self._lock:
            self._check_open()
            oids = list(self._records)
        for oid in oids:
            self._check_open()
            record = self._records.get(oid)
            if record is not None:
                yield oid, record

    def version(self) -> int:
        """How many publishes and sweeps there were."""
        self._check_open()
        return self._version

    def list_index(self, kind: Kind, after: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Up to ``limit`` (oid, b"") of an index past ``after``. Cost: sorts the index."""
        with self._lock:
            self._check_open()
            return [(oid, b"") for oid in sorted(o for o in self._index[kind] if o > after)[:limit]]

    def list_records(self, after: bytes, limit: int) -> list[tuple[bytes, int]]:
        """Up to ``limit`` (oid, bytes of the record) past ``after``. Cost: sorts the records."""
        with self._lock:
            self._check_open()
            oids = sorted(oid for oid in self._records if oid > after)[:limit]
            return [(oid, len(self._records[oid])) for oid in oids]

    def sweep(self, action: Callable[[Sweep], T]) -> tuple[T, int]:
        """Run deletions under the lock; if the action raises, nothing is deleted."""
        with self._lock:
            self._check_open()
            deletions = _Deletions(self._version, self._records)
            result = action(deletions)
            for oid in deletions.records:
                self._records.pop(oid, None)
            for kind, oid in deletions.index:
                self._index[kind].discard(oid)
                if kind == "commit":
                    self._commits = [other for other in self._commits if other != oid]
            for name, keep in deletions.reflogs.items():
                entries = self._reflog.get(name, [])
                self._reflog[name] = entries[max(0, len(entries) - keep) :]
                if not self._reflog[name]:
                    del self._reflog[name]
            self._version += 1
            return result, self._version

    def mend(self, action: Callable[[Mender], T]) -> T:
        """Put records, index entries and refs right, under the lock. See ``Mendable``."""
        with self._lock:
            self._check_open()
            self._version += 1
            return action(self)

    def put_record(self, loc: bytes, record: NewRecord) -> None:
        """Store a record in place of what is there (see ``mend``)."""
        self._records[record.oid] = seal(record.oid, record.body)
        self._enter(record.kind, record.oid)

    def set_index(self, kind: Kind, oid: bytes, loc: bytes | None) -> None:
        """Enter an object in an index, or remove it (see ``mend``)."""
        if loc is not None:
            self._enter(kind, oid)
            return
        self._index[kind].discard(oid)
        if kind == "commit":
            self._commits = [other for other in self._commits if other != oid]

    def set_ref(self, name: str, value: bytes) -> None:
        """Set a ref (see ``mend``)."""
        self._refs[name] = value

    def drop_bad_refs(self) -> int:
        """Always 0: the refs are read all together or not at all."""
        return 0

    def compact(self) -> tuple[int, int]:
        """Nothing to give back."""
        self._check_open()
        return 0, 0

    def stats(self) -> dict[str, int]:
        """Counts of records, commits and refs; ``file_bytes`` is 0."""
        with self._lock:
            self._check_open()
            return {
                "record_count": len(self._records),
                "commit_count": len(self._commits),
                "ref_count": len(self._refs),
                "record_bytes": sum(map(len, self._records.values())),
                "file_bytes": 0,
            }

    def close(self) -> None:
        """Forget everything; a second call does nothing."""
        with self._lock:
            self._is_closed = True
            self._records = {}
            self._refs = {}


def _move(refs: dict[str, bytes], update: RefUpdate) -> None:
    actual = refs.get(update.name)
    if actual != update.old:
        raise BranchMovedError(update.name, actual)
    if update.new is None:
        refs.pop(update.name, None)
    else:
        refs[update.name] = update.new


class _Deletions:
    """Collects what a sweep deletes, so that one that fails deletes nothing."""

    def __init__(self, version: int, records: Mapping[bytes, bytes]) -> None:
        self.version = version
        self.records: set[bytes] = set()
        self.index: list[tuple[Kind, bytes]] = []
        self.reflogs: dict[str, int] = {}
        self._there = records

    def delete_record(self, location: bytes) -> bool:
        """Delete a record by its oid; False if it is gone."""
        if location not in self._there or location in self.records:
            return False
        self.records.add(location)
        return True

    def delete_index(self, kind: Kind, oid: bytes, loc: bytes) -> None:
        """Delete an index entry."""
        self.index.append((kind, oid))

    def trim_reflog(self, name: str, keep: int) -> None:
        """Keep only the newest ``keep`` entries of a ref's reflog."""
        self.reflogs[name] = keep
