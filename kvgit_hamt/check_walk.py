"""The walk of a check over trees: every record once, its claims by every link.

Nothing recurses, and nothing is trusted: below a record that is not what its oid says nothing is read, a node
that stands at two spots is not walked twice, so neither a cycle nor a tree that repeats itself holds it up.

Memory: four bytes a record (placed backends; else its oid), the way to the node that is being read with the
children beside it, and what was found damaged, up to TAINT_MAX nodes.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import NamedTuple, Protocol

from kvgit_hamt import kernel, node
from kvgit_hamt.check_faults import Fault, FaultKind
from kvgit_hamt.check_form import (
    ROOT,
    Spot,
    inner_problems,
    is_leaf_spot,
    leaf_problems,
    payload_of,
    readable_keys,
)
from kvgit_hamt.errors import BackendError, CorruptionError
from kvgit_hamt.hamt import Tree
from kvgit_hamt.node import BLOB, COMMIT, INNER, LEAF, PLACE_BYTES, BlobRef, segments_of
from kvgit_hamt.objects import BLOB_HEADER, CommitObject, Link
from kvgit_hamt.oid import oid_of
from kvgit_hamt.scan import READ_AHEAD, Window, leaf_bodies
from kvgit_hamt.store import Store
from kvgit_hamt.wire import CHECK_BYTES

TAINT_MAX = 100_000  # nodes on the way to damage that are remembered; bounds memory
KEYS_MAX = 20  # names of keys that a fault gives
KIN_MAX = 100  # faults for which ancestors are asked what keys there were
KIN_COMMITS, KIN_LEAVES = 8, 64  # how far back, and how many leaves of each are read
UNREADABLE = (CorruptionError, BackendError)
_BLOCK_BITS = 10
_NAMES = {LEAF: "a leaf", INNER: "an inner node", COMMIT: "a commit", BLOB: "a blob"}


def name_of_kind(body: bytes) -> str:
    """What kind of object a body says that it is, in words."""
    return _NAMES.get(body[0] if body else 0, "an object of unknown kind")


class Seen:
    """What was met where: for each record 16 bits of who it is and 16 of what was claimed of it."""

    def __init__(self, is_placed: bool) -> None:
        self.count = 0
        self._blocks: dict[int, array[int]] = {}
        self._oids: dict[bytes, int] | None = None if is_placed else {}

    def get(self, link: Link) -> int:
        """The mark of a record, 0 if it was not met."""
        if self._oids is not None:
            return self._oids.get(link[0], 0)
        place = int.from_bytes(link[1], "little")
        block = self._blocks.get(place >> _BLOCK_BITS)
        return 0 if block is None else block[place & (1 << _BLOCK_BITS) - 1]

    def set(self, link: Link, mark: int) -> None:
        """Set the mark of a record; 0 takes it back."""
        was = self.get(link)
        self.count += (mark != 0) - (was != 0)
        if self._oids is not None:
            self._oids[link[0]] = mark
            return
        place = int.from_bytes(link[1], "little")
        block = self._blocks.get(place >> _BLOCK_BITS)
        if block is None:
            block = self._blocks[place >> _BLOCK_BITS] = array("I", bytes(4 << _BLOCK_BITS))
        block[place & (1 << _BLOCK_BITS) - 1] = mark


def mark_of(kind: int, oid: bytes, claim: object) -> int:
    """The mark of a record: who it is (``is_same``), and what was claimed of it."""
    return hash((kind, oid)) % 0xFFFF + 1 << 16 | hash(claim) & 0xFFFF


def is_same(mark: int, other: int) -> bool:
    """Whether two marks are of one object, whatever was claimed of it."""
    return mark >> 16 == other >> 16


class Flaw(NamedTuple):
    """Why a record cannot be used; ``body`` is what lies there, if anything does."""

    kind: FaultKind
    message: str
    body: bytes | None = None


class Records:
    """Reads records and verifies each by itself. ``deep``: by its SHA-256 too."""

    def __init__(self, store: Store, deep: bool) -> None:
        self.backend = store.backend
        self.deep = deep
        self.read_bytes = 0

    def read(self, oid: bytes, loc: bytes) -> bytes | Flaw:
        """The verified body of a record, or what is wrong with it."""
        try:
            record = self.backend.read(oid, loc)
        except UNREADABLE as error:
            return Flaw("damaged", f"object {oid.hex()} cannot be read: {error}")
        return self.judge(oid, record)

    def read_many(self, links: Sequence[Link]) -> list[bytes | Flaw]:
        """``read`` of many, in order."""
        try:
            records = self.backend.read_many(links)
        except UNREADABLE:
            return [self.read(*link) for link in links]
        return [self.judge(oid, record) for (oid, _), record in zip(links, records, strict=True)]

    def judge(self, oid: bytes, record: bytes | None) -> bytes | Flaw:
        """The body of a record that was read for ``oid``, or what is wrong with it."""
        if record is None:
            return Flaw("missing", f"object {oid.hex()} is missing")
        self.read_bytes += len(record)
        try:
            body = kernel.unseal(oid, record)
        except CorruptionError as error:
            return Flaw("damaged", str(error), record[:-CHECK_BYTES])
        if not self.deep:
            return body
        try:
            payload = self.payload_of(body)
        except CorruptionError as error:
            return Flaw("malformed", f"object {oid.hex()}: {error}", body)
        if not self.backend.placed and len(payload) != len(body):
            return Flaw("malformed", f"object {oid.hex()} has bytes behind its end", body)
        if oid_of(payload) != oid:
            return Flaw("altered", f"object {oid.hex()} is another one: its SHA-256 is not its oid", body)
        return body

    def loose_problem(self, loc: bytes) -> str | None:
        """What is wrong with a record whose oid nobody names: it must be sound under that of its payload."""
        try:
            record = self.backend.read(b"", loc)
            if record is None:
                return None
            self.read_bytes += len(record)
            kernel.unseal(oid_of(self.payload_of(record[:-CHECK_BYTES])), record)
        except UNREADABLE as error:
            return str(error)
        return None

    def payload_of(self, body: bytes) -> bytes:
        """The part of a body that its oid is the SHA-256 of; CorruptionError if that cannot be told."""
        if body[:1] != bytes((COMMIT,)):
            return payload_of(body)
        end = len(body) - (PLACE_BYTES * (body[2] + 256 * body[3] + 1) if self.backend.placed else 0)
        if len(body) < 4 or end < 4:
            raise CorruptionError("too short for a commit")
        return body[:end]


class Trail(NamedTuple):
    """The way from the root of a tree to a node: this one's link and slot, and those above."""

    parent: Trail | None
    link: Link
    slot: int

    def slots(self) -> tuple[int, ...]:
        """The slots from the root to this node."""
        found: list[int] = []
        at: Trail | None = self
        while at is not None and at.parent is not None:
            found.append(at.slot)
            at = at.parent
        return tuple(reversed(found))


class Context(NamedTuple):
    """From where a tree is walked.

    Attributes:
        ref: the name under which its commit was first reached.
        mask, heads: the refs that reach the commit, and those that are at it, as bits.
    """

    commit: CommitObject
    ref: str
    mask: int
    heads: int


class Task(NamedTuple):
    """A node or blob to look at.

    Attributes:
        claim: (entries, bytes, extra) that the parent tells, None for a root; (length,) of a blob.
        key: of a blob, whose value it is.
        again: it was looked at before, under another claim.
    """

    link: Link
    spot: Spot
    claim: tuple[int, ...] | None
    trail: Trail
    key: bytes | None = None
    again: bool = False

    @property
    def mark(self) -> int:
        """See ``mark_of``."""
        return mark_of(BLOB if self.key is not None else LEAF, self.link[0], (self.claim, self.place_in_tree))

    @property
    def place_in_tree(self) -> Spot | None:
        """The spot; a blob may stand anywhere."""
        return None if self.key is not None else self.spot


class Report(Protocol):
    """Where a walk tells what it finds."""

    def fault(self, kind: FaultKind, message: str, context: Context | None, task: Task | None) -> Fault:
        """Note a fault; ``keys`` may be put in later."""

    def reach(self, fault: Fault, context: Context) -> None:
        """Note that one more commit reaches a fault."""

    def is_collected(self, name: str, oid: bytes, child: bytes | None) -> bool:
        """Whether an object is missing because gc took what nothing holds any more."""


Healer = Callable[[Fault, Task, Flaw, Context], bytes | None]


class Counts:
    """How many objects were verified."""

    def __init__(self) -> None:
        self.commits = self.nodes = self.leaves = self.blobs = self.keys = 0


class TreeWalk:
    """Walks trees, one after another; what they share is looked at once.

    Args:
        healer: asked for the right body of a record that has a flaw; what it gives is taken as read.
    """

    def __init__(self, store: Store, deep: bool, report: Report, healer: Healer | None = None) -> None:
        self.store = Store(store.backend, store.shape, 0)
        self.shape = store.shape
        self.records = Records(store, deep)
        self.deep = deep
        self.seen = Seen(store.backend.placed)
        self.counts = Counts()
        self.healer = healer
        self.lost_count = 0  # flaws below which nothing could be looked at
        self.flawed_count = 0  # records that are there and cannot be used
        self._report = report
        self._tainted: dict[Link, list[Fault]] = {}
        self._kin_left = KIN_MAX

    def tree(self, root: Link, context: Context) -> Iterator[None]:
        """Walk a tree; gives the caller a turn after every few records."""
        trail = Trail(None, root, 0)
        yield from self.resume(Task(root, ROOT, None, trail), context)

    def resume(self, task: Task, context: Context) -> Iterator[None]:
        """Walk what lies at and below one task."""
        first = self._new(task, context)
        stack = [] if first is None else [first]
        while stack:
            task = stack.pop()
            found = self.records.read(*task.link)
            body = self._settled(task, found, context)
            if body is not None:
                if body[0] == INNER:
                    yield from self._inner(task, body, context, stack)
                else:
                    self._leaf(task, body, context)
            yield

    # links

    def _new(self, task: Task, context: Context) -> Task | None:
        """Mark what a link names; the task if it is to be read (``again`` if it was, under another claim)."""
        tainted = self._tainted.get(task.link)
        if tainted is not None:
            for fault in tainted:
                self._report.reach(fault, context)
        mark = task.mark
        was = self.seen.get(task.link)
        if was == mark or (tainted is not None and not was):
            return None
        if was and is_same(was, mark) and self._is_contradiction(task, context):
            return None
        if not was or is_same(was, mark):  # else another object lies there
            self.seen.set(task.link, mark)
        return task._replace(again=True) if was else task

    def _is_contradiction(self, task: Task, context: Context) -> bool:
        """Whether a record that was met under another claim is an inner node: those have one spot only.

        A leaf may stand in several runs, and is looked at again.
        """
        body = self.records.read(*task.link)
        if isinstance(body, Flaw) or body[0] != INNER:
            return False
        self._compare(task, kernel.inner_stats(body), context)
        self._fault("mismatch", f"inner node {_hex(task)} stands at two spots of a tree", task, context)
        return True

    def _settled(self, task: Task, found: bytes | Flaw, context: Context) -> bytes | None:
        """The body that was found, or that the healer has; None with a fault otherwise."""
        if not isinstance(found, Flaw):
            if task.key is None and found[:1] not in (bytes((LEAF,)), bytes((INNER,))):
                message = f"object {_hex(task)} is {name_of_kind(found)} where a node belongs"
                self._bad(task, Flaw("mismatch", message, found), context)
                return None
            return found
        return self._bad(task, found, context)

    def _bad(self, task: Task, flaw: Flaw, context: Context) -> bytes | None:
        commit = context.commit.oid
        if flaw.kind == "missing" and self._report.is_collected(context.ref, commit, commit):
            return None
        fault = self._fault(flaw.kind, flaw.message, task, context)
        if task.key is None:
            self._name_keys(fault, task, flaw.body, context)
        body = None
        if self.healer is not None:
            body = self.healer(fault, task, flaw, context)
        if body is None:
            self.lost_count += 1
            self.flawed_count += flaw.kind != "missing"
            if len(self._tainted) < TAINT_MAX and is_same(self.seen.get(task.link), task.mark):
                self.seen.set(task.link, 0)
        return body

    def _fault(self, kind: FaultKind, message: str, task: Task, context: Context) -> Fault:
        """Note a fault, and which nodes lead to it."""
        fault = self._report.fault(kind, message, context, task)
        at: Trail | None = task.trail
        if task.key is not None:
            fault.keys = (task.key.decode("utf-8", "backslashreplace"),)
            self._taint(task.link, fault)
        while at is not None:
            self._taint(at.link, fault)
            at = at.parent
        return fault

    def _taint(self, link: Link, fault: Fault) -> None:
        faults = self._tainted.get(link)
        if faults is not None:
            faults.append(fault)
        elif len(self._tainted) < TAINT_MAX:
            self._tainted[link] = [fault]

    def untaint(self, task: Task) -> None:
        """Forget that something was wrong with a record: it was put right."""
        self._tainted.pop(task.link, None)
        if is_same(self.seen.get(task.link), task.mark):
            self.seen.set(task.link, 0)

    @property
    def is_taint_full(self) -> bool:
        """Whether some damage was not followed to all refs that reach it."""
        return len(self._tainted) >= TAINT_MAX

    # nodes

    def _compare(self, task: Task, stats: tuple[int, ...], context: Context) -> None:
        if task.claim is not None and task.claim != stats:
            message = f"node {_hex(task)} has {_stats(stats)}, its parent says {_stats(task.claim)}"
            self._fault("mismatch", message, task, context)

    def _inner(self, task: Task, body: bytes, context: Context, stack: list[Task]) -> Iterator[None]:
        """Verify an inner node; its leaves are looked at, its inner children put on the stack."""
        if not node.is_sound_inner(body):
            self._fault("malformed", f"node {_hex(task)}: {node.BAD_INNER}", task, context)
            return
        is_mine = body[2] == self.shape.bits and task.spot.level <= self.shape.max_level
        if self.deep or not is_mine:
            for problem in inner_problems(self.shape, self.records.payload_of(body), task.spot):
                self._fault("malformed", f"node {_hex(task)}: {problem}", task, context)
        self.counts.nodes += not task.again
        stats = kernel.inner_stats(body)
        self._compare(task, stats, context)
        if self.store.backend.placed and len(body) == node.inner_payload_length(body):
            self._fault("malformed", f"node {_hex(task)} has no places", task, context)
            return
        if task.claim is not None and is_leaf_spot(self.shape, task.spot, stats[0], stats[1]):
            self._fault("mismatch", f"an inner node {_hex(task)} stands where a leaf belongs", task, context)
        if is_mine:
            yield from self._children(task, body, context, stack)

    def _children(self, task: Task, body: bytes, context: Context, stack: list[Task]) -> Iterator[None]:
        leaves: list[Task] = []
        for segment in segments_of(body):
            if not segment.oid:
                continue
            spot = task.spot.below(self.shape, segment.start, segment.width)
            link = (segment.oid, segment.loc)
            claim = (segment.entry_count, segment.size, segment.extra)
            child = Task(link, spot, claim, Trail(task.trail, link, segment.start))
            new = self._new(child, context)
            if new is not None:
                is_leaf = is_leaf_spot(self.shape, spot, segment.entry_count, segment.size)
                (leaves if is_leaf else stack).append(new)
        for at in range(0, len(leaves), READ_AHEAD):
            part = leaves[at : at + READ_AHEAD]
            for leaf, found in zip(part, self.records.read_many([each.link for each in part]), strict=True):
                settled = self._settled(leaf, found, context)
                if settled is None:
                    continue
                if settled[0] == INNER:
                    stack.append(leaf)  # read again there, and told that it is no leaf
                else:
                    self._leaf(leaf, settled, context)
            yield

    def _leaf(self, task: Task, body: bytes, context: Context) -> None:
        try:
            stats = kernel.leaf_stats(body)
            payload = self.records.payload_of(body)
            items = kernel.leaf_items(body) if node.has_blobs(body) else []
        except UNREADABLE as error:
            self._fault("malformed", f"leaf {_hex(task)}: {error}", task, context)
            return
        if not task.again:
            self.counts.nodes += 1
            self.counts.leaves += 1
            self.counts.keys += stats[0]
        self._compare(task, stats, context)
        if not is_leaf_spot(self.shape, task.spot, stats[0], stats[1]):
            self._fault("mismatch", f"a leaf {_hex(task)} stands where an inner node belongs", task, context)
        if self.deep:
            for problem in leaf_problems(self.shape, payload, task.spot):
                self._fault("malformed", f"leaf {_hex(task)}: {problem}", task, context)
        for key, value in items:
            if isinstance(value, BlobRef):
                self._blob(task, key, value, context)

    # blobs

    def _blob(self, leaf: Task, key: bytes, ref: BlobRef, context: Context) -> None:
        if self.store.backend.placed and not ref.loc:
            self._fault("malformed", f"leaf {_hex(leaf)} has no places", leaf, context)
            return
        task = Task((ref.oid, ref.loc), leaf.spot, (ref.length,), leaf.trail, key)
        new = self._new(task, context)
        if new is not None:
            self.blob(new, context)

    def blob(self, task: Task, context: Context) -> None:
        """Verify an out-of-line value."""
        body = self._settled(task, self.records.read(*task.link), context)
        if body is None:
            return
        self.counts.blobs += not task.again
        if body[:2] != BLOB_HEADER:
            message = f"object {_hex(task)} is {name_of_kind(body)} where a blob belongs"
            self._bad(task, Flaw("mismatch", message, body), context)
        elif task.claim != (len(body) - len(BLOB_HEADER),):
            message = f"blob {_hex(task)} is {len(body) - len(BLOB_HEADER)} bytes long"
            self._fault("mismatch", f"{message}, its leaf says {(task.claim or (0,))[0]}", task, context)

    # names of keys

    def _name_keys(self, fault: Fault, task: Task, body: bytes | None, context: Context) -> None:
        found = readable_keys(self.shape, body, task.spot, KEYS_MAX)
        if not found and task.spot.bits and self._kin_left:
            self._kin_left -= 1
            found = self._keys_of_kin(task, context)
        fault.keys = tuple(found)

    def _keys_of_kin(self, task: Task, context: Context) -> list[str]:
        """Keys that the nearest ancestor with a sound node at the same spot has: mostly the same ones."""
        commit = context.commit
        for _ in range(KIN_COMMITS):
            if not commit.parents:
                break
            try:
                commit = self.store.read_commit(*commit.parents[0])
            except UNREADABLE:
                break
            found: list[str] = []
            with suppress(*UNREADABLE):
                for leaf in islice(self._leaves_at(commit, task.spot), KIN_LEAVES):
                    found += readable_keys(self.shape, leaf, task.spot, KEYS_MAX - len(found))
                    if len(found) == KEYS_MAX:
                        break
            if found:
                return found
        return []

    def _leaves_at(self, commit: CommitObject, spot: Spot) -> Iterator[bytes]:
        taken = min(spot.bits, 128)
        window = Window(spot.prefix >> spot.bits - taken, taken)
        return leaf_bodies(self.store, self.shape, Tree(*commit.tree), window)


def _hex(task: Task) -> str:
    return task.link[0].hex()


def _stats(stats: tuple[int, ...]) -> str:
    return f"{stats[0]} entries of {stats[1]} bytes" + (f" and {stats[2]} in blobs" if stats[2] else "")
