"""A backend over any key-value store from str to bytes: the user's own.

| key (after ``PREFIX``) | value |
|---|---|
| ``refs`` | the root: version, refs, meta values, head and length of each reflog; sealed msgpack |
| ``o/`` oid in hex | one byte for its index, then the sealed record |
| ``l/`` digest in hex | a reflog entry: (digest of the one before, name, entry) |
| ``t/`` table ``/`` 32 hex digits | a touch: counter (u64), check |

Everything but the root never changes under its key (touches apart, which are advice, and the first byte of
what gc is about to remove), so a cache in front of the store may answer reads of it. But keys go: gc through
another object removes them where a cache keeps them. So a store with caches offers its durable tier as
``last_tier``, which is asked whether something is there (``find`` and its like, publishing, gc), and for the
root, which alone is compared and set.

A key-value store has no write lock. So gc is safe beside handles on the same store object, which share
one adapter and its lock; handles in other processes must not write while it deletes.
"""

from __future__ import annotations

import os
import random
import struct
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from kvgit_hamt import wire
from kvgit_hamt.backend.base import Batch, Kind, Mender, NewRecord, RefUpdate, Sweep, oid_floor
from kvgit_hamt.errors import (
    BackendError,
    BranchMovedError,
    ClosedError,
    CorruptionError,
    FormatVersionError,
    KvgitHamtError,
    OutcomeUnknownError,
    StaleBatchError,
)
from kvgit_hamt.oid import OID_BYTES, oid_of

PREFIX: Final = "kvgit_hamt/"
ROOT_KEY: Final = PREFIX + "refs"
LAYOUT: Final = 1  # of the keys above; another number is refused
METHODS: Final = (
    "get", "set", "get_many", "set_many", "items", "keys", "__contains__", "remove", "remove_many", "cas",
    "clear",
)  # fmt: skip
ATTEMPTS: Final = 10_000  # lost races for the root, which each mean that somebody else's publish went through
_OBJECT: Final = PREFIX + "o/"
_LOG: Final = PREFIX + "l/"
_TOUCH: Final = PREFIX + "t/"
_ROOT_OID: Final = oid_of(ROOT_KEY.encode())  # what the check over the root is seeded from
_CHUNK: Final = 500  # values fetched at a time in a listing
_NUMBER: Final = struct.Struct("<Q")
_KINDS: Final[dict[Kind | None, bytes]] = {None: b"-", "commit": b"c", "blob": b"b", "node": b"n"}
T = TypeVar("T")


class KeyValueStore(Protocol):
    """What the adapter asks of a store. Values are bytes; a missing key reads as None."""

    def get(self, key: str, /) -> bytes | None:
        """The value of a key, None if it is absent."""

    def get_many(self, *keys: str) -> Mapping[str, bytes]:
        """The values of those keys that are present."""

    def set_many(self, **items: bytes) -> None:
        """Set several keys."""

    def keys(self) -> Iterable[str]:
        """All keys."""

    def __contains__(self, key: str, /) -> bool: ...

    def remove_many(self, *keys: str) -> None:
        """Remove keys; absent ones are ignored."""

    def cas(self, key: str, value: bytes, expected: bytes | None) -> bool:
        """Set a key if it holds ``expected`` (None: if it is absent); whether it did."""


class KvBackend:
    """Records, refs and reflog in a key-value store, addressed by oid.

    Calls to the store are made one at a time, so it need not be safe for threads unless others use
    it too. All refs lie under one key: a publish writes its records, then swaps that key by
    ``cas``, so several refs move in one step; what a lost race leaves behind is unreachable.

    Args:
        store: if it has a key-value store as attribute ``last_tier`` (see ``Composite``), whether a record
            is there is asked of that one.

    Raises:
        TypeError: the store lacks methods; the message names them.
    """

    placed = False

    def __init__(self, store: KeyValueStore) -> None:
        missing = _missing(store)
        if missing:
            raise TypeError(
                f"{type(store).__name__} is no key-value store: it has no {', '.join(missing)} (see KVStore)"
            )
        self.kvstore = store
        last = getattr(store, "last_tier", None)
        self._last: KeyValueStore = store if last is None or _missing(last) else last
        self._lock = threading.RLock()
        self._is_closed = False
        self._seen: tuple[bytes, _Root] | None = None  # the root as last read
        self._listing: list[str] = []  # the keys of all records, sorted, as gc's listing began

    def _call(self, what: str, fn: Callable[..., T], *args: Any, **more: Any) -> T:
        """Call into the user's store; what it raises comes out as BackendError."""
        with self._lock:
            if self._is_closed:
                raise ClosedError("the backend was closed")
            try:
                return fn(*args, **more)
            except KvgitHamtError:
                raise
            except Exception as error:
                kind = type(self.kvstore).__name__
                raise BackendError(f"{kind} failed to {what}: {type(error).__name__}: {error}") from error

    def _get(self, key: str, tier: KeyValueStore | None = None) -> bytes | None:
        value = self._call("read", (self.kvstore if tier is None else tier).get, key)
        if value is not None and not isinstance(value, bytes):
            raise BackendError(f"{type(self.kvstore).__name__}.get gave {type(value).__name__}, not bytes")
        return value

    def _keys(self, prefix: str) -> list[str]:
        keys = self._call("list its keys", lambda: list(self._last.keys()))
        return [key for key in keys if key.startswith(prefix)]

    def _read_root(self) -> tuple[bytes | None, _Root]:
        raw = self._get(ROOT_KEY, self._last)
        if raw is None:
            return None, _Root(0, {}, {}, {})
        if self._seen is None or self._seen[0] != raw:
            self._seen = raw, _Root.decode(raw)
        return raw, self._seen[1]

    # reading

    def read(self, oid: bytes, loc: bytes) -> bytes | None:
        """The sealed record, or None when it is not there."""
        value = self._get(_OBJECT + oid.hex())
        return None if value is None else value[1:]

    def read_many(self, links: Sequence[tuple[bytes, bytes]]) -> list[bytes | None]:
        """Records of many (oid, loc), in order."""
        names = [_OBJECT + oid.hex() for oid, _ in links]
        found = self._call("read", self.kvstore.get_many, *names)
        values = [found.get(name) for name in names]
        return [None if value is None else value[1:] for value in values]

    def find(self, kind: Kind, oid: bytes) -> bytes | None:
        """``b""`` when the object is indexed under ``kind`` in the last tier, else None."""
        key = _OBJECT + oid.hex()
        if not self._call("read", self._last.__contains__, key):
            return None
        value = self._get(key, self._last)
        return b"" if value is not None and value[:1] == _KINDS[kind] else None

    def find_abbreviated(self, prefix: str, limit: int = 2) -> list[bytes]:
        """Oids of up to ``limit`` commits whose hex id starts with ``prefix``, in order.

        Cost: one read for a whole id, else the list of all keys.
        """
        if oid_floor(prefix) is None:
            self._call("read", bool)
            return []
        if len(prefix) == 2 * OID_BYTES:
            oid = bytes.fromhex(prefix)
            return [oid][:limit] if self.find("commit", oid) is not None else []
        found: list[bytes] = []
        for key in sorted(self._keys(_OBJECT + prefix)):
            if len(found) == limit:
                break
            oid = bytes.fromhex(key[len(_OBJECT) :])
            if self.find("commit", oid) is not None:
                found.append(oid)
        return found

    def next_place(self) -> int:
        """Always 0: records are addressed by oid."""
        return int(self._call("read", bool))

    def reserve(self, count: int) -> int:
        """Always 0: there are no places to take."""
        return self.next_place()

    def release(self, first: int) -> None:
        """Nothing to give up."""

    def pending_floor(self) -> int | None:
        """Always None: nothing is ever pending."""
        self.next_place()
        return None

    def get_ref(self, name: str) -> bytes | None:
        """The encoded value of one ref."""
        return self._read_root()[1].refs.get(name)

    def list_refs(self, prefix: str) -> list[tuple[str, bytes]]:
        """(name, encoded value) of all refs whose name starts with ``prefix``, by name."""
        refs = self._read_root()[1].refs
        return [(name, refs[name]) for name in sorted(refs) if name.startswith(prefix)]

    def read_reflog(self, name: str, limit: int | None = None) -> list[bytes]:
        """Encoded reflog entries of a ref, newest first. Cost: a read each."""
        found: list[bytes] = []
        digest, count = self._read_root()[1].logs.get(name, (None, 0))
        while digest is not None and len(found) < (count if limit is None else min(limit, count)):
            raw = self._get(_LOG + digest.hex())
            if raw is None or oid_of(raw) != digest:
                raise CorruptionError(f"an entry in the reflog of {name} is missing or damaged")
            digest, _, entry = wire.unpack(raw, f"reflog of {name}")
            found.append(entry)
        return found

    def reflog_names(self) -> list[str]:
        """Names that have reflog entries, deleted refs among them, in order."""
        return sorted(self._read_root()[1].logs)

    def get_meta(self, name: str) -> bytes | None:
        """A meta value."""
        return self._read_root()[1].meta.get(name)

    def read_touches(self, table: str) -> dict[bytes, int]:
        """All rows of a table of touches. Cost: the list of all keys of the store."""
        start = _TOUCH + table + "/"
        names = [key for key in self._keys(start) if len(key) == len(start) + 32]
        rows = self._call("read", self._last.get_many, *names)
        found = {}
        for name, value in rows.items():
            key = bytes.fromhex(name[len(start) :])
            (found[key],) = _NUMBER.unpack(wire.unseal(key, value))
        return found

    def iterate_records(self) -> Iterator[tuple[bytes, bytes]]:
        """(oid, sealed record) of the records there were at the start, in the store's order of keys."""
        for key in self._keys(_OBJECT):
            value = self._get(key, self._last)
            if value is not None:
                yield bytes.fromhex(key[len(_OBJECT) :]), value[1:]

    def compact(self) -> tuple[int, int]:
        """Nothing to give back: what space a deleted key takes is the store's own business."""
        return 0, 0

    def stats(self) -> dict[str, int]:
        """Counts of records and refs; ``file_bytes`` is 0. Cost: the list of all keys."""
        count = len(self._keys(_OBJECT))
        return {"record_count": count, "ref_count": len(self._read_root()[1].refs), "file_bytes": 0}

    # writing

    def publish(self, batch: Batch) -> int:
        """Store a batch: records first, then all refs in one ``cas``. Returns 0.

        A crash in between leaves records that no ref names; they are stored again or collected.
        """
        self.next_place()
        if not (batch.records or batch.refs or batch.required or batch.meta or batch.touches):
            return 0
        self._change(lambda root: self._stored(batch, root))
        gone = [_touch_key(row.table, row.key) for row in batch.touches if row.number is None]
        if gone:
            self._call("remove", self.kvstore.remove_many, *gone)
        return 0

    def _change(self, make: Callable[[_Root], _Root]) -> _Root:
        """Swap the root for what ``make`` gives, again and again until no other writer is faster."""
        for attempt in range(ATTEMPTS):
            with self._lock:
                raw, root = self._read_root()
                after = make(root)
                if self._swap(raw, after.encode()):
                    return after
            time.sleep(random.random() * min(0.05, 0.0005 * attempt))
        raise BackendError(f"{ATTEMPTS} attempts to move refs were lost to others; nothing was moved")

    def _stored(self, batch: Batch, root: _Root) -> _Root:
        """The root after a batch, whose records are stored; refused before anything is written."""
        for oid in batch.required:
            if self.find("commit", oid) is None:
                raise CorruptionError(f"commit {oid.hex()} is gone; nothing was stored")
        for kind, oid, _ in batch.relied:
            if self.find(kind, oid) is None:
                raise StaleBatchError("something that this change shares was collected; nothing was stored")
        refs = dict(root.refs)
        for update in batch.refs:
            _move(refs, update)
        logs, entries = root.with_entries(batch.refs)
        items = {**entries, **_items_of(batch)}
        if items:
            self._call("write", self.kvstore.set_many, **items)
        return _Root(root.version + 1, refs, logs, {**root.meta, **batch.meta})

    def _swap(self, raw: bytes | None, new: bytes) -> bool:
        try:
            return bool(self._call("compare and set", self.kvstore.cas, ROOT_KEY, new, raw))
        except BackendError as error:
            try:
                found = self._get(ROOT_KEY, self._last)
            except BackendError as second:
                raise OutcomeUnknownError(
                    f"{error}; reading back failed too ({second}): compare the ref"
                ) from error
            if found == new:
                return True
            if found == raw:
                raise
            raise OutcomeUnknownError(f"{error}; others have written since: compare the ref") from error

    # for gc

    def version(self) -> int:
        """How many publishes and sweeps there were."""
        return self._read_root()[1].version

    def list_index(self, kind: Kind, after: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Up to ``limit`` (oid, b"") of an index past ``after``."""
        tag = _KINDS[kind]
        return [(oid, b"") for oid, value in self._listed(after, limit, tag)]

    def list_records(self, after: bytes, limit: int) -> list[tuple[bytes, int]]:
        """Up to ``limit`` (oid, bytes of the record) past ``after``."""
        return [(oid, len(value) - 1) for oid, value in self._listed(after, limit, b"")]

    def _listed(self, after: bytes, limit: int, tag: bytes) -> list[tuple[bytes, bytes]]:
        """(oid, stored value) in order of oids. A listing is taken when it begins, with no ``after``."""
        with self._lock:
            if not after or not self._listing:
                self._listing = sorted(self._keys(_OBJECT))
            at = bisect_right(self._listing, _OBJECT + after.hex()) if after else 0
            found: list[tuple[bytes, bytes]] = []
            while at < len(self._listing) and len(found) < limit:
                names = self._listing[at : at + min(_CHUNK, limit - len(found))]
                at += len(names)
                values = self._call("read", self._last.get_many, *names)
                there = [name for name in names if name in values and values[name].startswith(tag)]
                found += [(bytes.fromhex(name[len(_OBJECT) :]), values[name]) for name in there]
            return found

    def sweep(self, action: Callable[[Sweep], T]) -> tuple[T, int]:
        """Run deletions while no handle on this store object publishes. See the module."""
        with self._lock:
            results: list[tuple[T, _KvSweep]] = []

            def make(root: _Root) -> _Root:
                sweep = _KvSweep(self, root)
                results.append((action(sweep), sweep))
                return _Root(root.version + 1, root.refs, sweep.logs, root.meta)

            # The version first: another process that publishes meanwhile loses its swap and writes again.
            after = self._change(make)
            result, sweep = results[-1]
            if sweep.unnamed:
                self._call("write", self.kvstore.set_many, **sweep.unnamed)
            if sweep.removed:
                self._call("remove", self.kvstore.remove_many, *sweep.removed)
            return result, after.version

    def mend(self, action: Callable[[Mender], T]) -> T:
        """Put records, index entries and refs right, one write each. See ``Mendable``."""
        with self._lock:
            return action(self)

    def put_record(self, loc: bytes, record: NewRecord) -> None:
        """Store a record in place of what is there (see ``mend``)."""
        items = {_OBJECT + record.oid.hex(): _KINDS[record.kind] + wire.seal(record.oid, record.body)}
        self._call("write", self.kvstore.set_many, **items)

    def set_index(self, kind: Kind, oid: bytes, loc: bytes | None) -> None:
        """Give a record the mark of an index, or take it (see ``mend``)."""
        key = _OBJECT + oid.hex()
        value = self._get(key, self._last)
        if value is not None:
            items = {key: _KINDS[None if loc is None else kind] + value[1:]}
            self._call("write", self.kvstore.set_many, **items)

    def set_ref(self, name: str, value: bytes) -> None:
        """Set a ref (see ``mend``)."""
        self._change(lambda root: root._replace(version=root.version + 1, refs={**root.refs, name: value}))

    def drop_bad_refs(self) -> int:
        """Always 0: the refs are read all together or not at all."""
        return 0

    def close(self) -> None:
        """Let go of the store, which stays open; a second call does nothing."""
        with self._lock:
            self._is_closed = True
            self._seen = None


class _Root(NamedTuple):
    """What one key holds of the whole store.

    Attributes:
        version: publishes and sweeps so far.
        refs, meta: values by name.
        logs: name -> (digest of the newest entry, number of entries) of its reflog.
    """

    version: int
    refs: Mapping[str, bytes]
    logs: Mapping[str, tuple[bytes, int]]
    meta: Mapping[str, bytes]

    @classmethod
    def decode(cls, raw: bytes) -> _Root:
        try:
            body = wire.unseal(_ROOT_OID, raw)
        except CorruptionError as error:
            raise CorruptionError("the refs are damaged: their stored bytes fail the check") from error
        fields = wire.unpack(body, "the refs")
        if not isinstance(fields, list) or not fields or fields[0] != LAYOUT:
            raise FormatVersionError(f"the refs are not of layout {LAYOUT}, which this version reads")
        _, _, version, refs, logs, meta = fields
        return cls(version, refs, {name: (digest, count) for name, (digest, count) in logs.items()}, meta)

    def encode(self) -> bytes:
        """With 8 random bytes, so that no two roots are equal and a ``cas`` cannot mistake one."""
        fields = [LAYOUT, os.urandom(8), self.version, dict(self.refs), dict(self.logs), dict(self.meta)]
        return wire.seal(_ROOT_OID, wire.pack(fields))

    def with_entries(
        self, updates: Sequence[RefUpdate]
    ) -> tuple[dict[str, tuple[bytes, int]], dict[str, bytes]]:
        """The reflogs after moves of refs, and the entries to store."""
        logs = dict(self.logs)
        entries: dict[str, bytes] = {}
        for update in updates:
            if update.log is not None:
                before, count = logs.get(update.name, (None, 0))
                raw = wire.pack([before, update.name, update.log])
                digest = oid_of(raw)
                logs[update.name] = (digest, count + 1)
                entries[_LOG + digest.hex()] = raw
        return logs, entries


class _KvSweep:
    """Collects the keys that a sweep removes; see ``base.Sweep``."""

    def __init__(self, backend: KvBackend, root: _Root) -> None:
        self.version = root.version
        self.removed: list[str] = []
        self.unnamed: dict[str, bytes] = {}
        self.logs = dict(root.logs)
        self._backend = backend

    def delete_record(self, location: bytes) -> bool:
        """Delete a record by its oid; False if it is gone."""
        key = _OBJECT + location.hex()
        if self._backend._get(key, self._backend._last) is None:
            return False
        self.removed.append(key)
        return True

    def delete_index(self, kind: Kind, oid: bytes, loc: bytes) -> None:
        """Store the record as one that no index names; it goes later, perhaps after what it refers to."""
        key = _OBJECT + oid.hex()
        value = self._backend._get(key, self._backend._last)
        if value is not None and value[:1] == _KINDS[kind]:
            self.unnamed[key] = _KINDS[None] + value[1:]

    def trim_reflog(self, name: str, keep: int) -> None:
        """Keep only the newest ``keep`` entries of a ref's reflog."""
        digest, count = self.logs.get(name, (None, 0))
        if digest is None or keep >= count:
            return
        for number in range(count):
            raw = self._backend._get(_LOG + digest.hex())
            if number >= keep:
                self.removed.append(_LOG + digest.hex())
            digest = None if raw is None else wire.unpack(raw, f"reflog of {name}")[0]
            if digest is None:
                break
        if keep:
            self.logs[name] = (self.logs[name][0], keep)
        else:
            del self.logs[name]


def _missing(store: object) -> list[str]:
    """The methods of a key-value store that an object lacks."""
    return [name for name in METHODS if not callable(getattr(store, name, None))]


def _items_of(batch: Batch) -> dict[str, bytes]:
    items = {_OBJECT + oid.hex(): _KINDS[kind] + wire.seal(oid, body) for oid, body, _, kind in batch.records}
    for table, key, number in batch.touches:
        if number is not None:
            items[_touch_key(table, key)] = wire.seal(key, _NUMBER.pack(number))
    return items


def _touch_key(table: str, key: bytes) -> str:
    return f"{_TOUCH}{table}/{key.hex()}"


def _move(refs: dict[str, bytes], update: RefUpdate) -> None:
    actual = refs.get(update.name)
    if actual != update.old:
        raise BranchMovedError(update.name, actual)
    if update.new is None:
        refs.pop(update.name, None)
    else:
        refs[update.name] = update.new
