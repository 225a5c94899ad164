"""The walk of a check over commits: the history of many refs at once, newest first, and each commit's tree.

A commit is walked when all its children have been, so it is known by then which refs reach it. Memory follows
the width of the graph, not its length.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from kvgit_hamt.backend.base import Kind
from kvgit_hamt.check_faults import Fault, FaultKind
from kvgit_hamt.check_walk import UNREADABLE, Context, Flaw, Report, TreeWalk, mark_of, name_of_kind
from kvgit_hamt.errors import CorruptionError
from kvgit_hamt.node import COMMIT
from kvgit_hamt.objects import CommitObject, Link, decode_commit, encode_commit


class Root(NamedTuple):
    """A commit that a name holds. ``bit``: of the name among the refs, -1 for a reflog."""

    name: str
    oid: bytes
    bit: int


class Origin(NamedTuple):
    """How a commit was reached: under which name, by which refs (bits), from which child."""

    name: str
    mask: int
    child: CommitObject | None


class HistoryReport(Report, Protocol):
    """Where the walk tells what it finds."""

    def at_commit(self, fault: Fault, link: Link, origin: Origin, heads: int) -> None:
        """Say of a fault that it is in a commit."""

    def reach_by(self, fault: Fault, mask: int, heads: int) -> None:
        """Note that refs reach a fault."""

    def is_collected(self, name: str, oid: bytes, child: bytes | None) -> bool:
        """Whether an object is missing because gc took what nothing holds any more."""


CommitHealer = Callable[[Fault, Link, Flaw, Origin], tuple[bytes, bytes] | None]
"""Asked for (location, right body) of a commit that has a flaw, and is given its link; the location in it is
b"" where nobody knows it."""


class _Waiting(NamedTuple):
    commit: CommitObject
    mask: int
    name: str


class HistoryWalk:
    """Walks commits, each once, and the trees of all."""

    def __init__(self, trees: TreeWalk, report: HistoryReport, healer: CommitHealer | None = None) -> None:
        self.trees = trees
        self.healer = healer
        self._backend = trees.store.backend
        self._report = report
        self._heads: dict[bytes, int] = {}  # commits that refs are at, as bits
        self._bad: dict[bytes, Fault] = {}
        self.named: dict[bytes, bytes] = {}  # bad commits -> where a child says that they lie
        self.strays: dict[int, tuple[Link, Link, bytes]] = {}
        """Number of an index fault -> (a child, where it says that the commit lies, what the index says)."""
        self._waiting: dict[bytes, _Waiting] = {}
        self._heap: list[tuple[int, bytes]] = []

    def add_head(self, oid: bytes, bit: int) -> None:
        """Note that a ref is at a commit."""
        self._heads[oid] = self._heads.get(oid, 0) | 1 << bit

    def find(self, oid: bytes, kind: Kind = "commit") -> bytes | None:
        """What an index says; None also where it cannot be read."""
        try:
            return self._backend.find(kind, oid)
        except UNREADABLE:
            return None

    def was_met(self, oid: bytes) -> bool:
        """Whether a commit was walked, or found bad."""
        loc = self.find(oid)
        return oid in self._bad or (
            loc is not None and self.trees.seen.get((oid, loc)) == mark_of(COMMIT, oid, None)
        )

    def walk(self, roots: list[Root]) -> Iterator[None]:
        """Walk the history of roots; gives the caller a turn after every few records."""
        for root in roots:
            mask = 1 << root.bit if root.bit >= 0 else 0
            self._push(root.oid, None, Origin(root.name, mask, None))
        yield from self._drain()

    def resume(self, link: Link, origin: Origin) -> Iterator[None]:
        """Walk a commit that was found bad and has been put right, and its history."""
        self._bad.pop(link[0], None)
        self.trees.seen.set(link, 0)
        self._push(link[0], link[1], origin)
        yield from self._drain()

    def _drain(self) -> Iterator[None]:
        while self._heap:
            oid = heapq.heappop(self._heap)[1]
            commit, mask, name = self._waiting.pop(oid)
            origin = Origin(name, mask, commit)
            generations = [self._push(*link, origin) for link in commit.parents]
            self._compare(commit, generations, origin)
            context = Context(commit, name, mask, self._heads.get(oid, 0))
            yield from self.trees.tree(commit.tree, context)
            yield

    def _push(self, oid: bytes, loc: bytes | None, origin: Origin) -> int | None:
        """Queue a commit, or add who reaches it; its generation, None where that cannot be told."""
        queued = self._waiting.get(oid)
        if queued is not None:
            self._waiting[oid] = queued._replace(mask=queued.mask | origin.mask)
            if loc is not None and loc != queued.commit.loc:
                self._read(oid, loc, origin)  # it was found by its id; this link says another place
            return queued.commit.generation
        known = self._bad.get(oid)
        if known is not None:
            if loc:
                self.named[oid] = loc
            self._report.reach_by(known, origin.mask, self._heads.get(oid, 0))
            return None
        commit = self._read(oid, loc, origin)
        if commit is None:
            return None
        mark = mark_of(COMMIT, oid, None)
        if self.trees.seen.get((oid, commit.loc)) != mark:
            self.trees.seen.set((oid, commit.loc), mark)
            self.trees.counts.commits += 1
            self._waiting[oid] = _Waiting(commit, origin.mask, origin.name)
            heapq.heappush(self._heap, (-commit.generation, oid))
        return commit.generation

    def _read(self, oid: bytes, loc: bytes | None, origin: Origin) -> CommitObject | None:
        entered = self.find(oid)
        where = entered if loc is None else loc
        if where is None:
            flaw = Flaw("missing", f"commit {oid.hex()} is not stored, or not found by its id")
            return self._settled(flaw, (oid, b""), origin)
        read = self.trees.records.read(oid, where)
        found = read if isinstance(read, Flaw) else self._decoded(oid, where, read)
        if isinstance(found, Flaw):
            return self._settled(found, (oid, where), origin)
        if entered != where:
            fault = self._fault("index", f"commit {oid.hex()} is not found by its id", (oid, where), origin)
            if origin.child is not None:
                child = (origin.child.oid, origin.child.loc)
                self.strays[fault.number] = child, (oid, where), entered or b""
        return found

    def _decoded(self, oid: bytes, loc: bytes, body: bytes) -> CommitObject | Flaw:
        try:
            commit = decode_commit(oid, loc, body)
            payload = encode_commit(
                commit.tree[0], tuple(parent for parent, _ in commit.parents), commit.generation,
                commit.time_us, commit.info, commit.codec,
            )  # fmt: skip
        except (CorruptionError, ValueError, IndexError) as error:
            if body[:1] != bytes((COMMIT,)):
                message = f"object {oid.hex()} is {name_of_kind(body)} where a commit belongs"
                return Flaw("mismatch", message, body)
            return Flaw("malformed", str(error), body)
        if not body.startswith(payload):
            return Flaw("malformed", f"commit {oid.hex()} is not in canonical form", body)
        return commit

    def _settled(self, flaw: Flaw, link: Link, origin: Origin) -> CommitObject | None:
        """Note a bad commit, or one that is just gone; what the healer has instead."""
        child = None if origin.child is None else origin.child.oid
        if flaw.kind == "missing" and self._report.is_collected(origin.name, link[0], child):
            return None
        fault = self._fault(flaw.kind, flaw.message, link, origin)
        healed = None if self.healer is None else self.healer(fault, link, flaw, origin)
        if healed is not None:
            loc, body = healed
            found = self._decoded(link[0], loc, body)
            if not isinstance(found, Flaw):
                return found
        self._bad[link[0]] = fault
        self.trees.lost_count += 1
        self.trees.flawed_count += flaw.kind != "missing"
        return None

    def _compare(self, commit: CommitObject, found: list[int | None], origin: Origin) -> None:
        known = [generation for generation in found if generation is not None]
        if len(known) == len(found) and commit.generation != 1 + max(known, default=0):
            message = (
                f"commit {commit.oid.hex()} has generation {commit.generation}, "
                f"its parents have {known or 'none'}"
            )
            self._fault("malformed", message, (commit.oid, commit.loc), origin)

    def _fault(self, kind: FaultKind, message: str, link: Link, origin: Origin) -> Fault:
        fault = self._report.fault(kind, message, None, None)
        self._report.at_commit(fault, link, origin, self._heads.get(link[0], 0))
        return fault
