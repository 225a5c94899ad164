"""The check of a whole store: everything that refs and reflogs reach, and what the backend keeps beside it.

It never stops at a fault, and it may run beside readers and writers: what is reachable never changes, only
what is reached does. What gc takes away meanwhile, because a ref was moved and its reflog entries expired, is
recognised by its commit, which goes first.

Spec: docs/format.md.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator

from kvgit_hamt.backend.base import Inspectable, Kind, Row
from kvgit_hamt.check_faults import CheckResult, Fault, FaultKind
from kvgit_hamt.check_history import CommitHealer, HistoryWalk, Origin, Root
from kvgit_hamt.check_walk import (
    UNREADABLE,
    Context,
    Flaw,
    Healer,
    Task,
    TreeWalk,
    is_same,
    mark_of,
    name_of_kind,
)
from kvgit_hamt.errors import CorruptionError
from kvgit_hamt.node import BLOB, COMMIT, INNER, LEAF
from kvgit_hamt.objects import Link, decode_config, decode_log_entry, decode_ref
from kvgit_hamt.refs import CONFIG, HEADS, TAGS
from kvgit_hamt.store import Store

STEP = 500  # index entries read at a time
REPORT_EVERY = 256  # steps between two calls of progress
_KIND_BYTES: dict[Kind, tuple[int, int]] = {
    "commit": (COMMIT, COMMIT),
    "blob": (BLOB, BLOB),
    "node": (LEAF, INNER),
}
_UNCHECKED = "whether values can be decoded by the codec; they are the bytes that were stored"

Progress = Callable[[str, int, int], None]
"""(phase, done, of how many): phase is "walk" (records), "index" (entries) or "structure" (0 or 1 of 1)."""


class Check:
    """A check under way: iterate over its faults as they are found, then ask for its ``result``.

    Args:
        deep: verify SHA-256, canonical form and the paths of keys, the records of loads that are under way,
            and the structure of the file. Without it, that everything is there, passes its checksum, and
            adds up.
        progress: see ``Progress``; called now and then.
        healer, commit_healer: see ``TreeWalk`` and ``HistoryWalk``.
    """

    def __init__(
        self,
        store: Store,
        *,
        deep: bool = True,
        progress: Progress | None = None,
        healer: Healer | None = None,
        commit_healer: CommitHealer | None = None,
    ) -> None:
        self.store = store
        self.deep = deep
        self.faults_kept: deque[Fault] = deque()
        self.walk = TreeWalk(store, deep, self, healer)
        self.history = HistoryWalk(self.walk, self, commit_healer)
        self.names: list[str] = []
        self.fault_count = 0
        self.counts: dict[FaultKind, int] = {}
        self.unheld: list[str] = []  # what was collected meanwhile
        self.bad_entries: list[tuple[Kind, Link]] = []  # of indexes
        self._values: dict[str, bytes] = {}  # where refs are
        self._unread: set[str] = set()  # names of those that cannot be read
        self._masks = [0, 0]  # refs that reach a fault; those whose head does
        self._notes: list[str] = []
        self._progress = progress or (lambda phase, done, total: None)
        self._started = time.monotonic()
        self._version = store.backend.version()
        self._total = 0
        self._steps = self._run()
        self._result: CheckResult | None = None

    # reading the outcome

    def __iter__(self) -> Iterator[Fault]:
        return self

    def __next__(self) -> Fault:
        while not self.faults_kept:
            if self._result is not None:
                raise StopIteration
            try:
                next(self._steps)
            except StopIteration:
                self._result = self._sum_up()
        return self.faults_kept.popleft()

    def result(self) -> CheckResult:
        """What the whole check saw; runs what is left of it, and drops faults that nobody took."""
        for _ in self:
            pass
        assert self._result is not None
        return self._result

    def _sum_up(self) -> CheckResult:
        counts = self.walk.counts
        backend = self.store.backend
        unreached = None
        if backend.version() == self._version:
            unreached = max(0, self._total - self.walk.seen.count - self.walk.flawed_count)
        mask, heads = self._masks
        refs = {
            name: "head" if heads >> bit & 1 else "history"
            for bit, name in enumerate(self.names)
            if mask >> bit & 1
        }
        return CheckResult(
            not self.fault_count, self.deep, self.fault_count, dict(self.counts), refs,  # type: ignore[arg-type]
            counts.commits, counts.nodes, counts.leaves, counts.blobs, counts.keys,
            self.walk.records.read_bytes, unreached, tuple(self._unchecked(unreached)),
            time.monotonic() - self._started,
        )  # fmt: skip

    def _unchecked(self, unreached: int | None) -> Iterator[str]:
        yield _UNCHECKED
        if not self.deep:
            yield "the SHA-256 of records, the canonical form of nodes, and whether keys lie on their paths"
            yield "the records of loads that are under way"
        if unreached is None:
            yield "what was stored after the check had begun"
        elif unreached:
            yield f"{unreached} records that no ref reaches (gc deletes them)"
        if self.walk.lost_count:
            yield f"what lies behind {self.walk.lost_count} objects that could not be used"
        if self.walk.is_taint_full:
            yield "which other refs reach all of this damage; there is too much of it"
        for name in self.unheld[:1]:
            yield f"{len(self.unheld)} commits that were collected meanwhile, the first of {name}"
        yield from self._notes

    # noting faults

    def fault(
        self, kind: FaultKind, message: str, context: Context | None = None, task: Task | None = None
    ) -> Fault:
        """Note a fault, at a task within a tree or by itself."""
        self.fault_count += 1
        self.counts[kind] = self.counts.get(kind, 0) + 1
        fault = Fault(self.fault_count, kind, message)
        if context is not None:
            fault.ref, fault.commit = context.ref, context.commit.oid.hex()
            self.reach(fault, context)
        if task is not None:
            self.locate(fault, task.link)
            fault.slots, fault.path = task.trail.slots(), str(task.spot)
            if task.key is not None:
                fault.key_count = 1
            elif task.claim is not None:
                fault.key_count = task.claim[0]
        self.faults_kept.append(fault)
        return fault

    def reach(self, fault: Fault, context: Context) -> None:
        """Note that one more commit reaches a fault."""
        self.reach_by(fault, context.mask, context.heads)

    def reach_by(self, fault: Fault, mask: int, heads: int) -> None:
        """Note that refs reach a fault, as bits."""
        fault.reach(self.names, mask, heads)
        self._masks[0] |= mask
        self._masks[1] |= heads

    def at_commit(self, fault: Fault, link: Link, origin: Origin, heads: int) -> None:
        """Say of a fault that it is in a commit."""
        self.locate(fault, link)
        fault.ref, fault.commit = origin.name, link[0].hex()
        self.reach_by(fault, origin.mask, heads)

    def locate(self, fault: Fault, link: Link) -> None:
        """Say of a fault in which object it is."""
        fault.oid = link[0].hex()
        fault.place = int.from_bytes(link[1], "little") if link[1] else None

    def is_collected(self, name: str, oid: bytes, child: bytes | None) -> bool:
        """Whether an object is missing because gc took what nothing holds any more: commits go first.

        Args:
            name: under which commit ``oid`` was reached.
            child: the commit that led there, None for a ref.
        """
        if self.store.backend.version() == self._version:
            return False
        gone = self.history.find(child) is None if child is not None else not self._is_held(name, oid)
        if gone:
            self.unheld.append(name)
        return gone

    def _is_held(self, name: str, oid: bytes) -> bool:
        try:
            if name.startswith(_REFLOG):
                entries = self.store.backend.read_reflog(name[len(_REFLOG) :])
                return any(oid in data for data in entries)
            data = self.store.backend.get_ref(name)
        except UNREADABLE:
            return True
        return data is not None and oid in data

    # the phases

    def _run(self) -> Iterator[None]:
        self._total = self._count_records()
        roots = self._refs()
        yield
        yield from self._walked(roots)
        yield from self._reflogs()
        yield from self._indexes()
        if self.deep:
            yield from self._pending()
        yield from self._backend()

    def _count_records(self) -> int:
        try:
            return self.store.backend.stats()["record_count"]
        except UNREADABLE as error:
            self.fault("state", f"the records cannot be counted: {error}")
            return 0

    def _refs(self) -> list[Root]:
        """All branches and tags; those that cannot be read are faults."""
        roots = []
        for row in self._ref_rows():
            if row.value is None:
                self._of_name(self.fault("ref", f"ref {row.name}: {row.problem}"), row.name)
                continue
            try:
                if row.name == CONFIG:
                    self._config(row.value)
                    continue
                value = decode_ref(row.name, row.value)
            except CorruptionError as error:
                self._of_name(self.fault("ref", str(error)), row.name)
                continue
            if not row.name.startswith((HEADS, TAGS)):
                self.fault("ref", f"ref {row.name}: neither a branch nor a tag")
            bit = self._bit_of(row.name)
            self.history.add_head(value.oid, bit)
            self._values[row.name] = value.oid
            roots.append(Root(row.name, value.oid, bit))
        return roots

    def _config(self, data: bytes) -> None:
        config = decode_config(data)
        if config.shape != self.store.shape:
            self.fault("ref", "the store's description is not that under which it was opened")

    def _bit_of(self, name: str) -> int:
        self.names.append(name)
        return len(self.names) - 1

    def _of_name(self, fault: Fault, name: str) -> None:
        """A fault of a ref by itself."""
        fault.ref = name
        self._unread.add(name)
        bit = 1 << self._bit_of(name)
        self.reach_by(fault, bit, bit)

    def _ref_rows(self) -> list[Row]:
        backend = self.store.backend
        try:
            if isinstance(backend, Inspectable):
                return backend.inspector().ref_rows()
            return [Row(name, value) for name, value in backend.list_refs("")]
        except UNREADABLE as error:
            self.fault("ref", f"the refs cannot be read: {error}")
            self._notes.append("what the refs reach: they cannot be read")
            return []

    def _walked(self, roots: list[Root]) -> Iterator[None]:
        for number, _ in enumerate(self.history.walk(roots)):
            if not number % REPORT_EVERY:
                self._progress("walk", self.walk.seen.count, self._total)
            yield
        self._progress("walk", self.walk.seen.count, self._total)

    # reflogs

    def _reflogs(self) -> Iterator[None]:
        """Walk what reflog entries hold; each entry must go on where the one before it ended."""
        last: tuple[str, bytes | None] | None = None  # name, and where its newest entry so far left it
        for name, data in self._log_rows():
            if last is not None and last[0] != name:
                self._ended(*last)
                last = None
            try:
                entry = None if data is None else decode_log_entry(name, data)
            except CorruptionError as error:
                self.fault("reflog", str(error)).ref = _REFLOG + name
                entry = None
            if entry is None:
                last = None
                continue
            if last is not None and entry.old != last[1]:
                self.fault("reflog", f"reflog of {name}: an entry is missing").ref = _REFLOG + name
            last = name, entry.new
            roots = [Root(_REFLOG + name, oid, -1) for oid in (entry.new, entry.old) if oid is not None]
            new = [root for root in roots if not self.history.was_met(root.oid)]
            if new:
                yield from self._walked(new)
            yield
        if last is not None:
            self._ended(*last)

    def _ended(self, name: str, oid: bytes | None) -> None:
        """Where the newest entry of a reflog left its ref, there the ref is."""
        is_steady = self.store.backend.version() == self._version
        if self._values.get(name) != oid and name not in self._unread and is_steady:
            message = f"reflog of {name}: its newest entry does not say where {name} is"
            self.fault("reflog", message).ref = _REFLOG + name

    def _log_rows(self) -> Iterator[tuple[str, bytes | None]]:
        """(name, entry) of all reflogs, oldest first; None for an entry that is a fault."""
        backend = self.store.backend
        try:
            if isinstance(backend, Inspectable):
                for row in backend.inspector().reflog_rows():
                    if row.value is None:
                        self.fault("reflog", f"reflog of {row.name}: {row.problem}").ref = _REFLOG + row.name
                    yield row.name, row.value
                return
            names = backend.reflog_names()
        except UNREADABLE as error:
            self.fault("reflog", f"the reflogs cannot be read: {error}")
            self._notes.append("what the reflogs reach: they cannot be read")
            return
        for name in names:
            try:
                entries = backend.read_reflog(name)
            except UNREADABLE as error:
                self.fault("reflog", f"reflog of {name}: {error}").ref = _REFLOG + name
                self._notes.append(f"what the reflog of {name} reaches: it cannot be read")
                continue
            yield from ((name, data) for data in reversed(entries))

    # indexes

    def _indexes(self) -> Iterator[None]:
        done = 0
        for kind in _KIND_BYTES:
            after = b""
            while True:
                try:
                    chunk = self.store.backend.list_index(kind, after, STEP)
                except UNREADABLE as error:
                    self.fault("index", f"the index of {kind}s cannot be read: {error}")
                    break
                if not chunk:
                    break
                after = chunk[-1][0]
                for link in chunk:
                    self._entry(kind, link)
                done += len(chunk)
                self._progress("index", done, done)
                yield

    def _entry(self, kind: Kind, link: Link) -> None:
        """Whether an index entry names a record of its oid and kind."""
        marked, wanted = _KIND_BYTES[kind]
        if len(link[0]) != 32 or len(link[1]) != (8 if self.store.backend.placed else 0):
            self.locate(self.fault("index", f"a malformed entry in the index of {kind}s"), link)
            self.bad_entries.append((kind, link))
            return
        was = self.walk.seen.get(link)
        if was and is_same(was, mark_of(marked, link[0], None)):
            return
        found = self.walk.records.read(*link)
        if isinstance(found, Flaw):
            if self.history.find(link[0], kind) == link[1]:  # not one that gc has just taken
                self.bad_entries.append((kind, link))
                self.locate(
                    self.fault("index", f"the index of {kind}s names a bad record: {found.message}"), link
                )
        elif found[:1] != bytes((wanted,)):
            self.bad_entries.append((kind, link))
            message = f"the index of {kind}s names {name_of_kind(found)}, object {link[0].hex()}"
            self.locate(self.fault("index", message), link)

    # loads under way, and the backend's own

    def _pending(self) -> Iterator[None]:
        """The records of loads that are under way: nothing names them yet, so each is verified by itself."""
        backend = self.store.backend
        if not isinstance(backend, Inspectable):
            return
        try:
            ranges = backend.inspector().pending()
        except UNREADABLE as error:
            self.fault("row", f"the reservations cannot be read: {error}")
            return
        for first, count in ranges:
            after = first - 1
            while True:
                chunk = backend.list_records(after.to_bytes(8, "little"), STEP)
                places = [int.from_bytes(place, "little") for place, _ in chunk]
                for place in places:
                    if place < first + count:
                        self._loose(place)
                if not places or places[-1] >= first + count - 1:
                    break
                after = places[-1]
                yield

    def _loose(self, place: int) -> None:
        """A record whose oid nobody says: it must be sound under that of its payload."""
        loc = place.to_bytes(8, "little")
        problem = self.walk.records.loose_problem(loc)
        if problem:
            message = f"the record at place {place}, of a load under way, is not sound: {problem}"
            self.fault("damaged", message).place = place

    def _backend(self) -> Iterator[None]:
        backend = self.store.backend
        if not isinstance(backend, Inspectable):
            self._notes.append(f"what {type(backend).__name__} keeps for itself")
            return
        self._progress("structure", 0, 1)
        inspector = backend.inspector()
        try:
            for finding in inspector.findings(self.deep):
                self.fault(finding.kind, finding.message)
                yield
        except UNREADABLE as error:
            self.fault("state", f"the backend's own tables cannot be read: {error}")
        self._notes += inspector.notes(self.deep)
        self._progress("structure", 1, 1)


_REFLOG = "reflog of "
