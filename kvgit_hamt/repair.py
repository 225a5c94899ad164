"""Repair from another store, or a bundle, that holds the same objects.

The check walks, and wherever a record is missing or wrong this fetches the payload of its oid, verifies it by
SHA-256, and stores it where the parent says that it lies, so every link to it works again; then the walk goes
on below it. Nothing else is read from the source.

On a backend with places a record also says where its children lie. These places come from what is left of
the record (if the child does lie there), or from the indexes; where neither helps, the store's own records
are searched, once in a round, by their SHA-256; a child that is nowhere gets a new place, where the walk then
finds it missing. There are as many rounds as records are missing one below another, at most a tree's depth.

What is lost beside records: an index entry is made anew, or dropped if it names nothing sound; a branch or
tag comes back from the newest entry of its reflog. Nothing is guessed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from kvgit_hamt import kernel, node
from kvgit_hamt.backend.base import Inspectable, Kind, Mendable, Mender, NewRecord
from kvgit_hamt.backend.lmdb import LmdbBackend
from kvgit_hamt.bundle import BundlePayloads
from kvgit_hamt.check import Check, Progress
from kvgit_hamt.check_faults import Fault
from kvgit_hamt.check_history import Origin
from kvgit_hamt.check_walk import UNREADABLE, Context, Flaw, Task
from kvgit_hamt.errors import CorruptionError, InvalidInputError, KvgitHamtError
from kvgit_hamt.node import BLOB, COMMIT, INNER, LEAF, PLACE_BYTES, BlobRef
from kvgit_hamt.objects import (
    Link,
    RefValue,
    decode_commit,
    decode_config,
    decode_log_entry,
    encode_ref,
)
from kvgit_hamt.oid import oid_of
from kvgit_hamt.refs import CONFIG, TAGS
from kvgit_hamt.repair_source import INDEXES, Clue, PayloadSource, StoreSource
from kvgit_hamt.store import Store
from kvgit_hamt.wire import CHECK_BYTES, place_of

Resume: TypeAlias = Callable[[Link], Iterator[None]]
PASSES = 100  # over the store; more than two only where many records name one wrong place
QUEUE = 200  # records stored in one transaction
From: TypeAlias = Any  # a Repo, the directory of a store, a bundle's path, or a PayloadSource


@dataclass(frozen=True, slots=True)
class RepairResult:
    """What a repair did; true when nothing is left that it found.

    Attributes:
        healed: the faults that were put right.
        unhealed: those that were not, and why: (fault, reason).
        fetched_count, fetched_bytes: objects taken from the source.
    """

    healed: tuple[Fault, ...]
    unhealed: tuple[tuple[Fault, str], ...]
    fetched_count: int
    fetched_bytes: int

    def __bool__(self) -> bool:
        return not self.unhealed


class _Pending(NamedTuple):
    """A bad record that waits for its payload, its children's places, or for its own to turn out free.

    Attributes:
        link: with the location b"" where nobody knows it.
        named: the place that its parent names.
        parent: whose record names it; None where an index does.
        resume: goes on with the walk when it is stored.
    """

    fault: Fault
    link: Link
    named: bytes
    parent: Link | None
    payload: bytes | None
    locs: list[bytes | None]
    is_occupied: bool
    resume: Resume


class _Repair:
    def __init__(self, store: Store, source: PayloadSource, progress: Progress | None) -> None:
        self.backend = store.backend
        self.store = store
        self.source = source
        self.check = Check(
            store, deep=True, progress=progress, healer=self._node, commit_healer=self._commit
        )  # fmt: skip
        self.records = self.check.walk.records
        self.own = StoreSource(store.backend, store.shape)
        self.fetched_count = self.fetched_bytes = 0
        self.faults: list[Fault] = []
        self.healed: set[int] = set()
        self.reasons: dict[int, str] = {}
        self._queue: list[tuple[bytes, NewRecord]] = []
        self._pending: list[_Pending] = []
        self._claimed: dict[bytes, bytes] = {}  # place -> oid of what was stored there
        self._reserved: list[int] = []

    # the whole

    def run(self) -> RepairResult:
        """Repair; see ``repair``."""
        try:
            self._refs()
            self.faults = [*self.check]
            self._flush()
            while self._pending:
                self._round()
            self._entries()
        finally:
            for first in self._reserved:
                self.backend.release(first)
            self.store.forget()  # a record that names other places now
        healed = tuple(fault for fault in self.faults if fault.number in self.healed)
        left = tuple(
            (fault, self.reasons.get(fault.number, "nothing to fetch would put it right"))
            for fault in self.faults
            if fault.number not in self.healed
        )
        return RepairResult(healed, left, self.fetched_count, self.fetched_bytes)

    # what the walk asks

    def _node(self, fault: Fault, task: Task, flaw: Flaw, context: Context) -> bytes | None:
        walk = self.check.walk
        clue = Clue(context.commit.oid, task.trail.slots(), task.key)
        above = task.trail.parent if task.key is None else task.trail
        parent = (context.commit.oid, context.commit.loc) if above is None else above.link

        def resume(link: Link) -> Iterator[None]:
            walk.untaint(task)
            if task.key is not None:
                walk.blob(task._replace(link=link), context)
            else:
                yield from walk.resume(
                    task._replace(link=link, trail=task.trail._replace(link=link)), context
                )

        found = self._heal(
            _Pending(fault, task.link, task.link[1], parent, None, [], False, resume), flaw, clue
        )
        return None if found is None else found[1]

    def _commit(self, fault: Fault, link: Link, flaw: Flaw, origin: Origin) -> tuple[bytes, bytes] | None:
        parent = None if origin.child is None else (origin.child.oid, origin.child.loc)

        def resume(at: Link) -> Iterator[None]:
            yield from self.check.history.resume(at, origin)

        found = self._heal(_Pending(fault, link, link[1], parent, None, [], False, resume), flaw, None)
        self._flush()  # it may be asked for again, by its id
        return found

    def _heal(self, each: _Pending, flaw: Flaw, clue: Clue | None) -> tuple[bytes, bytes] | None:
        """(location, right body) of a bad record, which is stored; None where that fails or has to wait."""
        oid, loc = each.link
        if (
            flaw.body is not None
            and flaw.kind in ("mismatch", "malformed")
            and self._is_itself(oid, flaw.body)
        ):
            return None
        if self.backend.placed:
            is_occupied = bool(loc) and self._is_occupied(oid, loc)
            is_possible = 0 < int.from_bytes(loc, "little") < self.backend.next_place()
            if not is_possible or (is_occupied and each.parent is None):  # an index is wrong, or gone
                self._pending.append(each._replace(link=(oid, b"")))
                return None
            each = each._replace(is_occupied=is_occupied)
        payload = self._fetch(oid, clue)
        locs: list[bytes | None] = []
        if payload is not None and self.backend.placed:
            locs = self._places(payload, flaw.body)
        if payload is None or each.is_occupied or None in locs:
            self._pending.append(each._replace(payload=payload, locs=locs))
            return None
        body = payload + b"".join(place for place in locs if place)
        return (loc, body) if self._put(each.fault, each.link, body) else None

    def _is_itself(self, oid: bytes, body: bytes) -> bool:
        """Whether an object is what its oid says: then no other one can take its place."""
        try:
            return oid_of(self.records.payload_of(body)) == oid
        except CorruptionError:
            return False

    def _fetch(self, oid: bytes, clue: Clue | None) -> bytes | None:
        payload = None
        try:
            payload = self.source.payload(oid)
            if payload is None and clue is not None and isinstance(self.source, StoreSource):
                payload = self.source.follow(oid, clue)
        except KvgitHamtError:  # damaged as well: the search may find another copy
            return None
        if payload is None or oid_of(payload) != oid:
            return None
        self.fetched_count += 1
        self.fetched_bytes += len(payload)
        return payload

    # places

    def _links(self, payload: bytes) -> list[tuple[int, bytes]]:
        """(kind, oid) of what a payload refers to, in the order of its places; kind 0 where either may be."""
        if payload[0] == INNER:
            return [(0, oid) for oid in node.inner_children(payload).oids]
        if payload[0] == LEAF:
            if not node.has_blobs(payload):
                return []
            items = node.leaf_items(payload)
            return [(BLOB, value.oid) for _, value in items if isinstance(value, BlobRef)]
        if payload[0] == COMMIT:
            commit = decode_commit(b"", b"", payload)
            return [(0, commit.tree[0]), *((COMMIT, oid) for oid, _ in commit.parents)]
        return []

    def _places(self, payload: bytes, old: bytes | None) -> list[bytes | None]:
        """The places of an object's children, None where they are not known.

        A place in what is left of the record counts if the child does lie there, or an index says the same.
        """
        links = self._links(payload)
        tail = b""
        if old is not None and len(old) == len(payload) + PLACE_BYTES * len(links):
            tail = old[len(payload) :]
        found: list[bytes | None] = []
        for number, (kind, oid) in enumerate(links):
            place = tail[PLACE_BYTES * number : PLACE_BYTES * (number + 1)]
            if not place or isinstance(self.records.read(oid, place), Flaw):
                place = self._indexed(kind, oid)
            found.append(place or None)
        return found

    def _indexed(self, kind: int, oid: bytes) -> bytes:
        """The place that an index names, unless another object lies there; b"" if none does."""
        place = self.check.history.find(oid, INDEXES[kind] if kind else "node")
        return b"" if place is None or self._is_occupied(oid, place) else place

    def _is_occupied(self, oid: bytes, place: bytes) -> bool:
        """Whether a sound record of another object lies at a place."""
        try:
            record = self.backend.read(oid, place)
            if record is None:
                return False
            lying = oid_of(self.records.payload_of(record[:-CHECK_BYTES]))
            kernel.unseal(lying, record)
        except UNREADABLE:
            return False
        return lying != oid

    # storing

    def _put(self, fault: Fault, link: Link, body: bytes) -> bool:
        """Queue a record; False if another one was put at its place before."""
        oid, loc = link
        if self.backend.placed and self._claimed.setdefault(loc, oid) != oid:
            self.reasons[fault.number] = "two links name one place"
            return False
        kind = INDEXES.get(body[0])
        count = (len(body) - len(self.records.payload_of(body))) // PLACE_BYTES
        self._queue.append((loc, NewRecord(oid, body, count, None if kind == "node" else kind)))
        self.healed.add(fault.number)
        if len(self._queue) >= QUEUE:
            self._flush()
        return True

    def _flush(self) -> None:
        queue, self._queue = self._queue, []

        def store(mender: Mender) -> None:
            for loc, record in queue:
                mender.put_record(loc, record)
                if record.kind is not None:
                    known = self.check.history.find(record.oid, record.kind)
                    if known is None or (known != loc and record.kind == "commit"):
                        mender.set_index(record.kind, record.oid, loc)

        if queue:
            assert isinstance(self.backend, Mendable)
            self.backend.mend(store)

    # rounds

    def _round(self) -> None:
        """Settle what waits: search both stores, give new places, store, and walk on."""
        pending, self._pending = self._pending, []
        found = self._search({each.link[0] for each in pending if self.backend.placed and not each.link[1]})
        payloads = self._payloads([each for each in pending if each.link[1] or each.link[0] not in found])
        wanted: set[bytes] = set()
        waiting: list[_Pending] = []
        for each in pending:
            payload, locs = payloads.get(each.link[0], each.payload), each.locs
            if payload is not None and self.backend.placed:
                if each.payload is None:
                    locs = self._places(payload, None)
                links = zip(self._links(payload), locs, strict=True)
                wanted.update(oid for (_, oid), loc in links if loc is None)
            waiting.append(each._replace(payload=payload, locs=locs))
        found.update(self._search(wanted))
        lost = {each.link[0] for each in pending if self.backend.placed and not each.link[1]} | wanted
        lost.difference_update(found)
        found.update(self._new_places(lost))
        resumed = [item for each in waiting if (item := self._settle(each, found, lost)) is not None]
        self._flush()
        for each, link in resumed:
            for _ in each.resume(link):
                pass
        self.faults += self.check.faults_kept
        self.check.faults_kept.clear()
        self._flush()

    def _new_places(self, lost: set[bytes]) -> dict[bytes, bytes]:
        """Places for objects that are nowhere: where a child commit says that one lies, else new ones."""
        named = self.check.history.named
        end = self.backend.next_place()
        found = {
            oid: named[oid]
            for oid in lost
            if oid in named
            and 0 < int.from_bytes(named[oid], "little") < end
            and not self._is_occupied(oid, named[oid])
        }
        new = sorted(lost.difference(found))
        if new:
            first = self.backend.reserve(len(new))
            self._reserved.append(first)
            found.update((oid, place_of(first + number)) for number, oid in enumerate(new))
        return found

    def _search(self, wanted: set[bytes]) -> dict[bytes, bytes]:
        """Where objects lie in this store, whatever names them. Cost: the SHA-256 of every record."""
        return {oid: place for oid, place, _ in self.own.search(wanted)} if wanted else {}

    def _payloads(self, pending: list[_Pending]) -> dict[bytes, bytes]:
        """Payloads that were not found at first."""
        found = {}
        for each in pending:
            if each.payload is None:
                payload = self._fetch(each.link[0], None)
                if payload is not None:
                    found[each.link[0]] = payload
        wanted = {each.link[0] for each in pending if each.payload is None and each.link[0] not in found}
        if wanted and isinstance(self.source, StoreSource):
            for oid, _, payload in self.source.search(wanted):
                found[oid] = payload
                self.fetched_count += 1
                self.fetched_bytes += len(payload)
        return found

    def _settle(
        self, each: _Pending, found: Mapping[bytes, bytes], lost: set[bytes]
    ) -> tuple[_Pending, Link] | None:
        """Store what waited, if all is known now; the link under which the walk goes on."""
        oid, loc = each.link
        if each.is_occupied and self.check.walk.seen.get((oid, loc)):
            # What lies there is in its place: so the parent is wrong.
            self._pending.append(each._replace(link=(oid, b""), is_occupied=False))
            return None
        is_moved = self.backend.placed and not loc
        if is_moved:
            loc = found[oid]
        if is_moved and oid not in lost:
            self.healed.add(each.fault.number)
        elif each.payload is None:
            self.reasons[each.fault.number] = "the source does not hold it"
            return None
        else:
            oids = [child for _, child in self._links(each.payload)] if self.backend.placed else []
            places = [place or found[child] for child, place in zip(oids, each.locs, strict=True)]
            if not self._put(each.fault, (oid, loc), each.payload + b"".join(places)):
                return None
        if is_moved and each.parent is None:
            self._enter(oid, loc)
        elif is_moved and each.parent is not None:
            self._rewrite(each.parent, (oid, each.named), loc)
        return each, (oid, loc)

    def _rewrite(self, parent: Link, link: Link, loc: bytes) -> None:
        """Let a record name another place for what it links to; the next pass finds others that do."""
        self._flush()
        body = self.records.read(*parent)
        if isinstance(body, Flaw):
            return
        payload = self.records.payload_of(body)
        tail = body[len(payload) :]
        places = [tail[at : at + PLACE_BYTES] for at in range(0, len(tail), PLACE_BYTES)]
        for number, (_, oid) in enumerate(self._links(payload)):
            if (oid, places[number]) == link:
                places[number] = loc
        record = NewRecord(parent[0], payload + b"".join(places), len(places), None)
        self._queue.append((parent[1], record))

    def _enter(self, oid: bytes, loc: bytes) -> None:
        assert isinstance(self.backend, Mendable)
        self.backend.mend(lambda mender: mender.set_index("commit", oid, loc))

    # indexes and refs

    def _entries(self) -> None:
        """Index entries: of commits that were met elsewhere set, those that name nothing sound dropped."""
        assert isinstance(self.backend, Mendable)
        changes: list[tuple[Kind, bytes, bytes | None]] = []
        bad = {oid: (kind, loc) for kind, (oid, loc) in self.check.bad_entries}
        kept = {
            fault.oid for fault in self.faults if fault.kind != "index" and fault.number not in self.healed
        }  # a place to come back to
        for fault in self.faults:
            if fault.kind != "index" or fault.oid is None:
                continue
            oid = bytes.fromhex(fault.oid)
            child, link, entered = self.check.history.strays.get(fault.number, (None, (oid, b""), b""))
            if child and entered and not isinstance(self.records.read(oid, entered), Flaw):
                self._rewrite(child, link, entered)  # it lies twice: all are to name the one that is found
            elif fault.commit is not None:
                changes.append(("commit", oid, b"" if fault.place is None else place_of(fault.place)))
            elif oid in bad and fault.oid not in kept:
                kind, loc = bad[oid]
                is_there = self.check.history.find(oid, kind) == loc
                if is_there and self._is_other(kind, oid, loc):
                    changes.append((kind, oid, None))
            else:
                continue
            self.healed.add(fault.number)
        if changes:

            def enter(mender: Mender) -> None:
                for change in changes:
                    mender.set_index(*change)

            self.backend.mend(enter)
        self._flush()

    def _is_other(self, kind: Kind, oid: bytes, loc: bytes) -> bool:
        """Whether anything but a sound object of this oid and kind lies at a place."""
        body = self.records.read(oid, loc)
        return isinstance(body, Flaw) or INDEXES.get(body[0]) != kind

    def _refs(self) -> None:
        """Bring back refs from the newest entries of their reflogs, before the walk.

        The sum over the refs stays as it is: it fits again if, and only if, all refs are what they were.
        """
        backend = self.backend
        if not isinstance(backend, Inspectable) or not isinstance(backend, Mendable):
            return
        inspector = backend.inspector()
        try:
            newest = {row.name: row.value for row in inspector.reflog_rows()}  # oldest first
            rows = {row.name: row for row in inspector.ref_rows()}
        except UNREADABLE:
            return  # the check says so
        bad = {name: row.problem for name, row in rows.items() if row.value is None}
        values = self._lost_refs(newest, {name for name in rows if name not in bad})
        strays = set(bad) - set(values)  # perhaps lost refs under names that were damaged
        can_drop = bool(strays) and len(strays) <= len(set(values) - set(rows))
        lost = {name for name in newest if self._is_lost(name, newest[name]) and name not in rows}
        for name in sorted({*bad, *values, *lost}):
            problem = bad.get(name) or "it is missing, but its reflog does not say that it was deleted"
            fault = self.check.fault("ref", f"ref {name}: {problem}")
            fault.ref = name
            if name in values or (can_drop and name in bad):
                self.healed.add(fault.number)
            else:
                reason = (
                    "the source does not have it, and it may have an info" if name.startswith(TAGS) else None
                )
                self.reasons[fault.number] = reason or "the newest entry of its reflog is gone or damaged too"

        def restore(mender: Mender) -> None:
            for name, value in values.items():
                mender.set_ref(name, value)
            if can_drop:
                mender.drop_bad_refs()

        if values or (bad and can_drop):
            backend.mend(restore)

    def _is_lost(self, name: str, data: bytes | None) -> bool:
        """Whether the newest entry of a reflog says that its ref is there."""
        try:
            return data is not None and decode_log_entry(name, data).new is not None
        except CorruptionError:
            return False

    def _lost_refs(self, newest: Mapping[str, bytes | None], there: set[str]) -> dict[str, bytes]:
        values = {}
        for name, data in newest.items():
            if data is None or name in there:
                continue
            try:
                entry = decode_log_entry(name, data)
            except CorruptionError:
                continue
            value = None if entry.new is None else self._ref_value(name, entry.new)
            if value is not None:
                values[name] = value
        return values

    def _ref_value(self, name: str, oid: bytes) -> bytes | None:
        """What a ref at a commit holds; a tag's info is known to the source alone, if at all."""
        if not name.startswith(TAGS):
            return encode_ref(RefValue(oid))
        found = self.source.ref(name) if isinstance(self.source, StoreSource) else None
        return encode_ref(found) if found is not None and found.oid == oid else None


def repair(store: Store, from_: From, progress: Progress | None = None) -> RepairResult:
    """Put right what a deep check finds, with objects from a source that holds the same ones.

    Args:
        store: of the store that is repaired.
        from_: a ``Store``, the directory of one, the path of a bundle, or anything with ``payload(oid)``.
        progress: see ``check.Progress``.

    Raises:
        InvalidInputError: the backend cannot be repaired in place, or ``from_`` is no source.
        OSError, CorruptionError, FormatVersionError: the source cannot be opened.
        ReadOnlyError and other kinds of BackendError. What was put right before stays.

    Cost: two deep checks (one, if nothing is healed), one object of the source for each bad record, and, for
    records that are gone, a search of the whole store for what they referred to.
    """
    if not isinstance(store.backend, Mendable):
        raise InvalidInputError(f"a {type(store.backend).__name__} cannot be repaired in place")
    if isinstance(from_, Store):
        return _run(store, StoreSource(from_.backend, from_.shape), progress)
    if isinstance(from_, (str, os.PathLike)):
        if os.path.isdir(from_):
            return _from_directory(store, os.fspath(from_), progress)
        with BundlePayloads(from_) as bundle:
            return _run(store, bundle, progress)
    if not callable(getattr(from_, "payload", None)):
        raise InvalidInputError(f"a {type(from_).__name__} is no source: give a Repo, a path, or a bundle")
    return _run(store, from_, progress)


def _from_directory(store: Store, path: str, progress: Progress | None) -> RepairResult:
    with LmdbBackend(path, create=False, readonly=True) as backend:
        data = backend.get_ref(CONFIG)
        if data is None:
            raise InvalidInputError(f"{path} is not a store")
        return _run(store, StoreSource(backend, decode_config(data).shape), progress)


def _run(store: Store, source: PayloadSource, progress: Progress | None) -> RepairResult:
    """Passes, until one heals nothing: so the last one has seen what is left.

    Mostly that is the second. A record that several others name at a wrong place takes one for each of them.
    """
    healed: list[Fault] = []
    count = size = passes = 0
    while True:
        passes += 1
        result = _Repair(store, source, progress).run()
        count += result.fetched_count
        size += result.fetched_bytes
        if not result.healed or passes == PASSES:
            back = tuple((fault, "it came back in each pass") for fault in result.healed)
            return RepairResult(tuple(healed), result.unhealed + back, count, size)
        healed += result.healed
