"""Garbage collection: mark what is reachable, then sweep the rest in small write transactions.

Roots are branches, tags, reflog entries that have not expired, and the caller's pinned commits.
Nothing is deleted unless the whole mark found every object it asked for.

Why it is safe beside writers in other processes, without leases or a minimum age:

- Records that are stored after the mark began, or under a live reservation, are not looked at.
- Each sweep step holds the write lock. If anything was published since the last look, the step first
  marks what refs and reflogs hold now; no ref can move before the step is done.
- Index entries go first, records later. So a writer that wants to build on a collected commit, or to
  share a collected node or blob, finds in its own write transaction that the index no longer names it,
  and runs again (``Batch.required``, ``Batch.relied``).

It can stop anywhere: what was deleted was garbage, and the next run finds the rest.

Memory: one bit a record (placed backends), and the path to the node that is being read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from kvgit_hamt import node
from kvgit_hamt.backend.base import Backend, Kind, Sweep
from kvgit_hamt.node import INNER
from kvgit_hamt.objects import Link, decode_log_entry
from kvgit_hamt.refs import Refs
from kvgit_hamt.results import GcResult
from kvgit_hamt.store import Store

DAY_US = 86_400_000_000
KEEP_REFLOG_US = 90 * DAY_US  # git's gc.reflogExpire
STEP = 2_000  # deletions in one write transaction: some milliseconds under the lock
INDEX_ORDER: tuple[Kind, ...] = ("commit", "node", "blob")

Progress = Callable[[str, int, int], None]
"""(phase, done, of how many): phase is "mark" (objects found so far, of records) or "sweep"."""


class Marks:
    """The records that are reachable: a bit each by place, or a set of oids where there are none."""

    def __init__(self, is_placed: bool, limit: int) -> None:
        self.count = 0
        self._bits = bytearray(limit // 8 + 1)
        self._oids: set[bytes] | None = None if is_placed else set()

    def add(self, oid: bytes, loc: bytes) -> bool:
        """Mark a record; False if it was marked already."""
        if self._oids is not None:
            if oid in self._oids:
                return False
            self._oids.add(oid)
        else:
            place = int.from_bytes(loc, "little")
            at, bit = place >> 3, 1 << (place & 7)
            if at >= len(self._bits):
                self._bits.extend(bytes(at - len(self._bits) + 1024))
            if self._bits[at] & bit:
                return False
            self._bits[at] |= bit
        self.count += 1
        return True

    def holds(self, location: bytes) -> bool:
        """Whether the record at a place, or of an oid, is marked."""
        if self._oids is not None:
            return location in self._oids
        place = int.from_bytes(location, "little")
        at = place >> 3
        return at < len(self._bits) and bool(self._bits[at] & 1 << (place & 7))


class Marker:
    """Marks everything that commits reach. Reads verified records; a fault raises CorruptionError."""

    def __init__(self, backend: Backend, store: Store, limit: int, report: Callable[[int], None]) -> None:
        self.store = Store(backend, store.shape, 0)  # without a cache: each node is read once
        self.marks = Marks(backend.placed, limit)
        self.report = report

    def mark_commit(self, oid: bytes) -> None:
        """Mark a commit, its history and all their trees."""
        backend = self.store.backend
        loc = backend.find("commit", oid)
        first = (oid, loc if loc is not None else b"")
        if loc is None:
            self.store.read_commit(oid)  # raises: it is missing
        stack = [first]
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
        for _, value in node.leaf_items(body):
            if isinstance(value, node.BlobRef):
                self.marks.add(value.oid, value.loc)


class Roots:
    """The commits that refs, unexpired reflog entries and pins hold, looked at again after changes."""

    def __init__(self, refs: Refs, keep_after_us: int, pinned: Iterable[bytes]) -> None:
        self.refs = refs
        self.keep_after_us = keep_after_us
        self.pinned = list(pinned)
        self._newest: dict[str, bytes] = {}
        self.has_expired = False

    def all(self) -> Iterator[bytes]:
        """Oids of commits that are held now; reflog entries that a former call gave are left out."""
        yield from self.pinned
        yield from (value.oid for _, value in self.refs.named())
        for name in self.refs.store.backend.reflog_names():
            yield from self._entries(name)

    def _entries(self, name: str) -> Iterator[bytes]:
        backend = self.refs.store.backend
        top = backend.read_reflog(name, 1)
        seen = self._newest.get(name)
        if not top or top[0] == seen:
            return
        entries = backend.read_reflog(name)
        kept = self.unexpired_count(name, entries)
        self.has_expired = self.has_expired or kept < len(entries)
        self._newest[name] = entries[0]
        for data in entries[:kept]:
            entry = decode_log_entry(name, data)
            yield from (oid for oid in (entry.old, entry.new) if oid is not None)

    def unexpired_count(self, name: str, entries: list[bytes]) -> int:
        """How many entries, newest first, have not expired."""
        for count, data in enumerate(entries):
            if decode_log_entry(name, data).time_us < self.keep_after_us:
                return count
        return len(entries)


@dataclass
class _Sweeper:
    backend: Backend
    marker: Marker
    roots: Roots
    version: int
    limit: int

    def look_again(self, version: int) -> None:
        """Mark what has come to be held since the last look."""
        if version != self.version:
            for oid in self.roots.all():
                self.marker.mark_commit(oid)

    def run(self, delete: Callable[[Sweep], int]) -> int:
        """One step under the write lock; what ``delete`` returns."""

        def step(sweep: Sweep) -> int:
            self.look_again(sweep.version)
            return delete(sweep)

        done, self.version = self.backend.sweep(step)
        return done

    def is_garbage(self, location: bytes) -> bool:
        """Whether a record may go: it is older than the mark, and not marked."""
        if self.backend.placed and int.from_bytes(location, "little") >= self.limit:
            return False
        return not self.marker.marks.holds(location)

    def index(self, kind: Kind) -> None:
        """Delete the index entries of garbage."""
        after = b""
        while chunk := self.backend.list_index(kind, after, STEP):
            after = chunk[-1][0]
            dead = [(oid, loc) for oid, loc in chunk if self.is_garbage(loc or oid)]
            if dead:
                self.run(lambda sweep, dead=dead: self._delete_index(sweep, kind, dead))  # type: ignore[misc]

    def _delete_index(self, sweep: Sweep, kind: Kind, dead: list[Link]) -> int:
        for oid, loc in dead:
            if self.is_garbage(loc or oid):
                sweep.delete_index(kind, oid, loc)
        return 0

    def records(self, is_dry: bool, report: Callable[[int], None]) -> tuple[int, int, int]:
        """Delete garbage records: (bytes kept, records freed, bytes freed)."""
        kept_bytes = freed_count = freed_bytes = done = 0
        after = b""
        while chunk := self.backend.list_records(after, STEP):
            after = chunk[-1][0]
            dead = [(location, size) for location, size in chunk if self.is_garbage(location)]
            kept_bytes += sum(size for _, size in chunk)
            if dead and not is_dry:
                freed_count += self.run(lambda sweep, dead=dead: self._delete_records(sweep, dead))  # type: ignore[misc]
            elif dead:
                freed_count += len(dead)
            freed_bytes += sum(size for _, size in dead)
            done += len(chunk)
            report(done)
        return kept_bytes - freed_bytes, freed_count, freed_bytes

    def _delete_records(self, sweep: Sweep, dead: list[tuple[bytes, int]]) -> int:
        count = 0
        for location, _ in dead:
            if self.is_garbage(location):
                sweep.delete_record(location)
                count += 1
        return count

    def reflog(self) -> None:
        """Delete expired reflog entries, which hold nothing from now on."""

        def trim(sweep: Sweep) -> int:
            for name in self.backend.reflog_names():
                entries = self.backend.read_reflog(name)
                kept = self.roots.unexpired_count(name, entries)
                if kept < len(entries):
                    sweep.trim_reflog(name, kept)
            return 0

        if self.roots.has_expired:
            self.run(trim)


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
        progress: called now and then.

    Raises:
        CorruptionError: something reachable is missing or damaged; nothing was deleted.

    Cost: reads every reachable commit and inner node once (leaves only if they have blobs), then walks
    the records; one write transaction for each 2,000 deletions.
    """
    started = time.monotonic()
    backend = store.backend
    keep = KEEP_REFLOG_US if keep_reflog_us is None else keep_reflog_us
    report = progress or (lambda phase, done, total: None)
    version = backend.version()
    floor = backend.pending_floor()
    limit = backend.next_place() if floor is None else min(floor, backend.next_place())
    total = backend.stats()["record_count"]
    marker = Marker(backend, store, limit, lambda count: report("mark", count, total))
    roots = Roots(refs, refs.clock() - keep, pinned)
    for oid in roots.all():
        marker.mark_commit(oid)
    sweeper = _Sweeper(backend, marker, roots, version, limit)
    if not dry_run:
        sweeper.reflog()
        for kind in INDEX_ORDER:
            sweeper.index(kind)
    kept_bytes, freed, freed_bytes = sweeper.records(dry_run, lambda done: report("sweep", done, total))
    kept = backend.stats()["record_count"] - (freed if dry_run else 0)
    return GcResult(kept, freed, kept_bytes, freed_bytes, time.monotonic() - started, dry_run)
