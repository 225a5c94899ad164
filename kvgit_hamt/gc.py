"""Garbage collection: mark what is reachable, then sweep the rest in small write transactions.

Roots are branches, tags, reflog entries that have not expired, and the caller's pinned commits.
Nothing is deleted unless the whole mark found every object it asked for.

Why it is safe beside writers in other processes, without leases or a minimum age (the whole argument
is in docs/design/002-garbage-collection.md):

- Records that are stored after the mark began, or under a live reservation, are not looked at.
- Each sweep step holds the write lock. If anything was published since the last look, the step first
  marks what refs and reflogs hold now; no ref can move before the step is done.
- An index entry promises that all below it is there: entries go first, children before parents, and
  records later. So a writer that wants to build on a collected commit, or to share a collected node or
  blob, finds in its own write transaction that the index no longer names it, and runs again
  (``Batch.required``, ``Batch.relied``).

It can stop anywhere: what was deleted was garbage, and the next run finds the rest.

Memory: one bit a record (placed backends), and the path to the node that is being read.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b

from kvgit_hamt import kernel, killpoints, node
from kvgit_hamt.backend.base import Backend, Kind, Sweep
from kvgit_hamt.errors import CorruptionError
from kvgit_hamt.node import INNER
from kvgit_hamt.objects import Link, decode_log_entry
from kvgit_hamt.refs import Refs
from kvgit_hamt.results import GcResult
from kvgit_hamt.store import Store

DAY_US = 86_400_000_000
KEEP_REFLOG_US = 90 * DAY_US  # git's gc.reflogExpire
STEP = 500  # deletions in one write transaction: a few milliseconds under the lock, a few MB of dirty pages
COMMITS_STEP = 20_000  # dead commits sorted at a time
BLOCK_BITS = 13  # places in a block of marks: 1 KiB of bits

Progress = Callable[[str, int, int], None]
"""(phase, done, of how many): phase is "mark" (objects found so far, of records) or "sweep"."""


class Marks:
    """The records that are reachable: a bit each by place, or a set of oids where there are none.

    Places only grow, so the bits are in blocks, made where a record is marked.
    """

    def __init__(self, is_placed: bool) -> None:
        self.count = 0
        self._blocks: dict[int, bytearray] = {}
        self._oids: set[bytes] | None = None if is_placed else set()

    def add(self, oid: bytes, loc: bytes) -> bool:
        """Mark a record; False if it was marked already."""
        if self._oids is not None:
            if oid in self._oids:
                return False
            self._oids.add(oid)
        else:
            place = int.from_bytes(loc, "little")
            block = self._blocks.get(place >> BLOCK_BITS)
            if block is None:
                block = self._blocks[place >> BLOCK_BITS] = bytearray(1 << BLOCK_BITS - 3)
            at, bit = place >> 3 & (1 << BLOCK_BITS - 3) - 1, 1 << (place & 7)
            if block[at] & bit:
                return False
            block[at] |= bit
        self.count += 1
        return True

    def holds(self, location: bytes) -> bool:
        """Whether the record at a place, or of an oid, is marked."""
        if self._oids is not None:
            return location in self._oids
        place = int.from_bytes(location, "little")
        block = self._blocks.get(place >> BLOCK_BITS)
        return block is not None and bool(block[place >> 3 & (1 << BLOCK_BITS - 3) - 1] & 1 << (place & 7))


class Marker:
    """Marks everything that commits reach. Reads verified records; a fault raises CorruptionError."""

    def __init__(self, store: Store, report: Callable[[int], None]) -> None:
        self.store = Store(store.backend, store.shape, 0)  # without a cache: each node is read once
        self.marks = Marks(store.backend.placed)
        self.report = report

    def mark_commit(self, oid: bytes) -> None:
        """Mark a commit, its history and all their trees."""
        loc = self.store.backend.find("commit", oid)
        if loc is None:
            raise CorruptionError(f"commit {oid.hex()} is missing from the store")
        stack = [(oid, loc)]
        while stack:
            link = stack.pop()
            if not self.marks.add(*link):
                continue
            commit = self.store.read_commit(*link)
            stack.extend(commit.parents)
            self.mark_tree(commit.tree)

    def mark_tree(self, root: Link) -> None:
        """Mark a tree. Leaves without blobs are marked unread: their parent's figures tell."""
        if not self.marks.add(*root):
            return
        self.report(self.marks.count)
        stack: list[tuple[Link, int]] = [(root, 0)]
        while stack:
            link, level = stack.pop()
            body = self.store.read(*link)
            if body[0] == INNER:
                stack.extend((below, level + 1) for below in self._below(body, level))
            else:
                self._mark_blobs(body)

    def _below(self, body: bytes, level: int) -> Iterator[Link]:
        """Mark the children of an inner node; those that must be read."""
        children = node.inner_children(body)
        shape = self.store.shape
        columns = zip(
            children.oids, children.locs, children.counts, children.sizes, children.extras, strict=True
        )
        for oid, loc, count, size, extra in columns:
            if not self.marks.add(oid, loc):
                continue
            is_leaf = shape.is_leaf(count, size) or level >= shape.max_level
            if extra or not is_leaf:
                yield oid, loc

    def _mark_blobs(self, body: bytes) -> None:
        if not node.has_blobs(body):
            return
        for _, value in kernel.leaf_items(body):
            if isinstance(value, node.BlobRef):
                self.marks.add(value.oid, value.loc)


class Roots:
    """The commits that refs, unexpired reflog entries and pins hold, looked at again after changes."""

    def __init__(self, refs: Refs, keep_after_us: int, pinned: Iterable[bytes]) -> None:
        self.refs = refs
        self.keep_after_us = keep_after_us
        self.pinned = list(pinned)
        self._seen: dict[str, tuple[int, bytes]] = {}
        self.has_expired = False

    def all(self) -> Iterator[bytes]:
        """Oids of commits that are held now; reflog entries that a former call gave are left out.

        A pinned commit that is not there was collected by another process, which knows nothing of pins.
        """
        backend = self.refs.store.backend
        yield from (oid for oid in self.pinned if backend.find("commit", oid) is not None)
        yield from (value.oid for _, value in self.refs.named())
        for name in backend.reflog_names():
            yield from self._entries(name)

    def _entries(self, name: str) -> Iterator[bytes]:
        """Commits of the entries that came on top since the last call; of all, if others went.

        All entries are compared: with a clock that stands still, equal ones are no rarity.
        """
        entries = self.refs.store.backend.read_reflog(name)
        count, digest = self._seen.get(name, (0, _digest([])))
        is_known = count <= len(entries) and _digest(entries[len(entries) - count :]) == digest
        self._seen[name] = len(entries), _digest(entries)
        kept = self.unexpired_count(name, entries)
        self.has_expired = self.has_expired or kept < len(entries)
        for data in entries[: min(kept, len(entries) - count) if is_known else kept]:
            entry = decode_log_entry(name, data)
            yield from (oid for oid in (entry.old, entry.new) if oid is not None)

    def unexpired_count(self, name: str, entries: list[bytes]) -> int:
        """How many entries, newest first, stay: an expired one stays while one behind it has not expired."""
        for count in range(len(entries), 0, -1):
            if decode_log_entry(name, entries[count - 1]).time_us > self.keep_after_us:
                return count
        return 0


def _digest(entries: list[bytes]) -> bytes:
    return blake2b(b"\0".join(entries), digest_size=16).digest()


@dataclass
class _Sweeper:
    """Deletes what is not marked. ``version``: of the store when it was last looked at."""

    backend: Backend
    marker: Marker
    roots: Roots
    version: int
    limit: int

    def look(self) -> None:
        """Mark what has come to be held since the last look."""
        for oid in self.roots.all():
            self.marker.mark_commit(oid)

    def run(self, delete: Callable[[Sweep], tuple[int, int]]) -> tuple[int, int]:
        """One step under the write lock; what ``delete`` returns."""

        def step(sweep: Sweep) -> tuple[int, int]:
            if sweep.version != self.version:
                self.look()
            return delete(sweep)

        done, self.version = self.backend.sweep(step)
        return done

    def is_marked(self, link: Link) -> bool:
        """Whether the record that an index entry names is marked."""
        oid, loc = link
        return self.marker.marks.holds(loc or oid)

    def is_garbage(self, location: bytes) -> bool:
        """Whether a record may go: it is older than the mark, and not marked."""
        if self.backend.placed and int.from_bytes(location, "little") >= self.limit:
            return False
        return not self.marker.marks.holds(location)

    def listed(self, kind: Kind) -> Iterator[Link]:
        """All entries of an index."""
        after = b""
        while chunk := self.backend.list_index(kind, after, STEP):
            after = chunk[-1][0]
            yield from chunk

    def index(self) -> None:
        """Delete the index entries of garbage. Afterwards whatever an index names is there to stay."""
        self._commits()
        dead: list[Link] = []
        for link in self.listed("blob"):
            if self.is_garbage(link[1] or link[0]):
                dead.append(link)
            if len(dead) == STEP:
                self._delete_index("blob", dead)
                dead = []
        self._delete_index("blob", dead)
        if self.backend.list_index("node", b"", 1):
            self.run(self._delete_nodes)

    def _commits(self) -> None:
        """Delete entries of commits, children before parents: those that are left have all their history."""
        below = b"\xff" * 64
        while True:
            ranked = (rank for rank in self._ranked() if rank < below)
            dead = heapq.nlargest(COMMITS_STEP, ranked)
            for at in range(0, len(dead), STEP):
                self._delete_index("commit", [self._unranked(rank) for rank in dead[at : at + STEP]])
            if len(dead) < COMMITS_STEP:
                return
            below = dead[-1]

    def _ranked(self) -> Iterator[bytes]:
        """Dead commits with a number in front that is larger than that of their parents."""
        for oid, loc in self.listed("commit"):
            if self.is_garbage(loc or oid):
                number = int.from_bytes(loc, "little") if loc else self._generation(oid)
                yield number.to_bytes(8, "big") + oid

    def _generation(self, oid: bytes) -> int:
        try:
            return self.marker.store.read_commit(oid).generation
        except CorruptionError:  # it is garbage, whatever it is
            return 0

    def _unranked(self, rank: bytes) -> Link:
        return rank[8:], rank[7::-1] if self.backend.placed else b""

    def _delete_index(self, kind: Kind, dead: list[Link]) -> None:
        def delete(sweep: Sweep) -> tuple[int, int]:
            for oid, loc in dead:
                if self.is_garbage(loc or oid):
                    sweep.delete_index(kind, oid, loc)
            killpoints.reached("gc.index_step")
            return 0, 0

        if dead:
            self.run(delete)

    def _delete_nodes(self, sweep: Sweep) -> tuple[int, int]:
        """Of young ones as well, and all in one step: else one that is entered meanwhile, and that no ref
        reaches, could be left with garbage below it. They are few: inner nodes over 4,096 entries."""
        for link in self.listed("node"):
            if not self.is_marked(link):
                sweep.delete_index("node", *link)
        return 0, 0

    def records(self, is_dry: bool, report: Callable[[int], None]) -> tuple[int, int, int]:
        """Delete garbage records: (bytes kept, records freed, bytes freed)."""
        kept_bytes = freed_count = freed_bytes = done = 0
        after = b""
        end = self.backend.next_place()  # what is stored from now on would keep us walking for ever
        while chunk := self.backend.list_records(after, STEP):
            after = chunk[-1][0]
            if self.backend.placed:
                chunk = [each for each in chunk if int.from_bytes(each[0], "little") < end]
            dead = [(location, size) for location, size in chunk if self.is_garbage(location)]
            freed = len(dead), sum(size for _, size in dead)
            if dead and not is_dry:
                freed = self.run(partial(self._delete_records, dead=dead))
            kept_bytes += sum(size for _, size in chunk) - freed[1]
            freed_count += freed[0]
            freed_bytes += freed[1]
            done += len(chunk)
            report(done)
            if self.backend.placed and int.from_bytes(after, "little") >= end - 1:
                break
        return kept_bytes, freed_count, freed_bytes

    def _delete_records(self, sweep: Sweep, dead: list[tuple[bytes, int]]) -> tuple[int, int]:
        gone = [
            size for location, size in dead if self.is_garbage(location) and sweep.delete_record(location)
        ]
        killpoints.reached("gc.record_step")
        return len(gone), sum(gone)

    def reflog(self) -> None:
        """Delete expired reflog entries, which hold nothing from now on."""

        def trim(sweep: Sweep) -> tuple[int, int]:
            for name in self.backend.reflog_names():
                entries = self.backend.read_reflog(name)
                kept = self.roots.unexpired_count(name, entries)
                if kept < len(entries):
                    sweep.trim_reflog(name, kept)
            return 0, 0

        if self.roots.has_expired:
            self.run(trim)


def _marked(store: Store, make_roots: Callable[[], Roots], report: Callable[[int], None]) -> _Sweeper:
    """Mark all that is held.

    Raises:
        CorruptionError: something that is held is missing or damaged.
    """
    backend = store.backend
    while True:
        version = backend.version()
        limit = backend.next_place()  # before the floor: no reservation can slip in between
        floor = backend.pending_floor()
        limit = limit if floor is None else min(floor, limit)
        sweeper = _Sweeper(backend, Marker(store, report), make_roots(), version, limit)
        oid = b""
        try:
            for _ in range(2):  # what was published during a long mark is marked here, not under the lock
                sweeper.version = backend.version()
                for oid in sweeper.roots.all():
                    sweeper.marker.mark_commit(oid)
            return sweeper
        except CorruptionError:
            # Another gc may have taken what was let go after we saw it held. What is held is never taken.
            if backend.version() == version or oid in make_roots().all():
                raise


def collect(
    store: Store,
    refs: Refs,
    *,
    dry_run: bool = False,
    keep_reflog_us: int | None = None,
    pinned: Iterable[bytes] = (),
    progress: Progress | None = None,
) -> GcResult:
    """Delete what no branch, tag, unexpired reflog entry or pinned commit reaches.

    Args:
        dry_run: delete nothing; the result says what would go.
        keep_reflog_us: age at which reflog entries expire, in microseconds; 90 days if None.
        pinned: oids of commits to keep besides.
        progress: called now and then, never while the write lock is held.

    Raises:
        CorruptionError: something reachable is missing or damaged; nothing was deleted.

    Cost: reads every reachable commit and inner node once (leaves only if they have blobs), then walks
    the records; one write transaction for each 500 records among which some are garbage.
    """
    started = time.monotonic()
    backend = store.backend
    keep_after = refs.clock() - (KEEP_REFLOG_US if keep_reflog_us is None else keep_reflog_us)
    pins = list(pinned)
    report = progress or (lambda phase, done, total: None)
    total = backend.stats()["record_count"]
    sweeper = _marked(store, lambda: Roots(refs, keep_after, pins), lambda done: report("mark", done, total))
    sweeper.marker.report = lambda done: None
    killpoints.reached("gc.marked")
    if not dry_run:
        sweeper.reflog()
        killpoints.reached("gc.reflog")
        sweeper.index()
        killpoints.reached("gc.index")
    kept_bytes, freed, freed_bytes = sweeper.records(dry_run, lambda done: report("sweep", done, total))
    killpoints.reached("gc.swept")
    if freed and not dry_run:
        # LMDB uses freed pages from the transaction after the next one on: on a full device that would be
        # one commit too late.
        sweeper.run(lambda sweep: (0, 0))
    kept = backend.stats()["record_count"] - (freed if dry_run else 0)
    return GcResult(kept, freed, kept_bytes, freed_bytes, time.monotonic() - started, dry_run)
