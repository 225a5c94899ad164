"""Loads a bundle into a store: each object verified, nothing visible before all of it is, resumable.

How an interrupted load goes on. Records go to reserved places, and the reservations bear the bundle's id
(``LmdbBackend.reserve``), so gc spares them for some days after the process. Who loads the bundle again
claims them, makes a list of what lies there (``_Sink.stored``), and reads the bundle from its start: an
object whose record lies there, with all that it refers to where this run finds it, is taken as it is, and
any other is written. So nothing has to be believed of the run before.

Why it is safe beside gc and other writers. What the new records refer to and the load did not write is
reached through index entries of commits and blobs. The last transaction, which enters the new commits and
moves the refs, compares that each entry still names the place that was used (``Batch.relied``); so does it
that no new commit was stored by somebody else meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from kvgit_hamt import graph, hamt, history, killpoints, node, wire
from kvgit_hamt.backend.base import Batch, Kind, NewRecord, RefUpdate
from kvgit_hamt.bundle import Progress, Target, open_bundle
from kvgit_hamt.bundle_check import UNREAD_LEVEL, Checker, Known, Visitor, visit
from kvgit_hamt.bundle_format import FrameReader, Head, Header
from kvgit_hamt.bundle_spill import SpillMap
from kvgit_hamt.errors import (
    BranchMovedError,
    BundlePrerequisiteError,
    CorruptionError,
    FormatVersionError,
    InvalidInputError,
    NotFastForwardError,
    NotFoundError,
    StaleBatchError,
    StateError,
    TagExistsError,
)
from kvgit_hamt.hamt import Tree
from kvgit_hamt.node import BLOB, COMMIT, INNER, LEAF, BlobRef
from kvgit_hamt.objects import BLOB_HEADER, CommitObject, Link, RefValue, decode_commit
from kvgit_hamt.oid import oid_of
from kvgit_hamt.path import PATH_BITS, Shape
from kvgit_hamt.refs import HEADS, TAGS, Refs, check_name
from kvgit_hamt.store import FLUSH_BYTES, RESERVE_COUNT, Store

ATTEMPTS = 3  # of a load that others keep changing the ground of
CACHE_BYTES = 16 << 20
LIST_COUNT = 1_000  # records listed at a time
_NO_PLACE = bytes(8)
_busy: set[tuple[object, bytes]] = set()  # loads that run in this process: (store, bundle)
_busy_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What loading a bundle did.

    Attributes:
        refs: "heads/NAME" or "tags/NAME", as they are called here -> commit id.
        changed: those of them that were made or moved.
        commit_count: commits that were not there before.
        written_count: objects that this call stored.
        resumed_count: objects that an interrupted call had stored.
    """

    refs: Mapping[str, str]
    changed: tuple[str, ...]
    commit_count: int
    written_count: int
    resumed_count: int


def load(
    refs: Refs,
    codec: str,
    source: Target,
    names: Mapping[str, str] | Iterable[str] | None,
    how: tuple[bool, Progress | None],
) -> LoadResult:
    """Load a bundle: all of it, or nothing is visible.

    A branch that is missing, or still at the empty commit that a store begins with, is made; one that the
    bundle's continues moves. Everything in the bundle is verified before a ref moves: each SHA-256, the form
    of each node, its figures, and that the keys lie where they belong. (Leaves of prerequisites are not read
    again; ``Repo.check`` does.)

    Args:
        source: a path, or a binary file at the bundle's start.
        names: the branches, tags and ids to take; all named ones if None. A mapping says what they are
            called here: ``{"main": "theirs/main"}``, or ``{"*": "theirs/*"}`` for all branches.
        how: (force, progress). With force a branch also moves to what it is no part of; tags never do.

    Raises:
        CorruptionError: the bundle is damaged. FormatVersionError: it is of another version, or of a store
        with other parameters. BundlePrerequisiteError: it builds on commits that are not here; they are
        named. NotFastForwardError, TagExistsError: a ref may not move. InvalidInputError, InvalidNameError,
        NotFoundError: of ``names``. LockedError, StateError: it is being loaded already.
        All refs are as they were. After anything but CorruptionError the same call goes on where it stopped,
        also from another process and after a crash (on LMDB, for 7 days; gc spares all newer records until
        then, or until ``discard``).

    Cost: reads the bundle once, writes what is not there, in bounded memory (backends without places: one
    batch in memory). What an interrupted call had written is read and compared, not written again.
    """
    force, progress = how
    if isinstance(names, str):
        raise InvalidInputError("names is a list of names, or a mapping of names in the bundle to names here")
    wanted = names if isinstance(names, Mapping) or names is None else {name: name for name in names}
    for attempt in range(1, ATTEMPTS + 1):
        with open_bundle(source) as reader:
            _check_header(reader.header, refs.store.shape, codec)
            targets = choose(reader.header, wanted)
            with _one_at_a_time(refs.store, reader.id):
                try:
                    return _Load(refs, reader, targets, progress).run(force)
                except StaleBatchError:
                    if attempt == ATTEMPTS or hasattr(source, "read"):
                        raise
    raise AssertionError("unreachable")


@contextmanager
def _one_at_a_time(store: Store, name: bytes) -> Iterator[None]:
    key = getattr(store.backend, "path", id(store.backend)), name
    with _busy_lock:
        if key in _busy:
            raise StateError("another thread is loading this bundle into this store")
        _busy.add(key)
    try:
        yield
    finally:
        with _busy_lock:
            _busy.discard(key)


def _check_header(header: Header, shape: Shape, codec: str) -> None:
    """Refuse a bundle whose trees would have other oids here.

    Raises:
        FormatVersionError: saying which parameters differ.
    """
    mine = {"bits": shape.bits, "leaf_max": shape.leaf_max, "inline_max": shape.inline_max, "codec": codec}
    its = {name: getattr(header.shape, name) for name in ("bits", "leaf_max", "inline_max")}
    its["codec"] = header.codec
    other = [f"{name} is {its[name]!r}, here {mine[name]!r}" for name in mine if mine[name] != its[name]]
    if other:
        raise FormatVersionError(
            f"the bundle is of a store with other parameters ({'; '.join(other)}). Load it into a store that "
            "was made with these; nothing was changed"
        )


def choose(header: Header, wanted: Mapping[str, str] | None) -> dict[str, Head]:
    """Which heads of a bundle go to which full names here.

    Raises:
        NotFoundError: the bundle has no such name. InvalidNameError: a name that is none.
        InvalidInputError: nothing was chosen, or two heads for one name.
    """
    named = {head.name: head for head in header.heads if head.name is not None}
    targets: dict[str, Head] = {}

    def add(full: str, head: Head) -> None:
        kind, _, name = full.partition("/")
        check_name(name, "tag" if kind == "tags" else "branch")
        if targets.setdefault(full, head) != head:
            raise InvalidInputError(f"{full} would be two things at once")

    if wanted is None:
        for full, head in named.items():
            add(full, head)
    for source, target in (wanted or {}).items():
        found = next((named[full] for full in (HEADS + source, TAGS + source, source) if full in named), None)
        if source == "*":
            for full, head in named.items():
                if full.startswith(HEADS):
                    add(HEADS + target.replace("*", full[len(HEADS) :]), head)
            continue
        if found is None:
            found = next((head for head in header.heads if head.oid.hex() == source), None)
        if found is None:
            known = ", ".join(sorted(named)[:10]) + (", .." if len(named) > 10 else "")
            raise NotFoundError(f"the bundle has no {source!r}; it has {known or 'no names'}")
        prefix = TAGS if (found.name or HEADS).startswith(TAGS) else HEADS
        add(target if target.startswith((HEADS, TAGS)) else prefix + target, found)
    if not targets:
        ids = ", ".join(head.oid.hex() for head in header.heads)
        raise InvalidInputError(
            f"the bundle has no names; say what to call its commits: names={{{ids!r}: ..}}"
        )
    return targets


class _Sink:
    """Where new records go: reserved places in steps, or one batch on backends without places."""

    def __init__(self, store: Store, name: bytes) -> None:
        self.backend = store.backend
        self.name = name
        self.is_kept = hasattr(self.backend, "claim")
        self.ranges: list[tuple[int, int]] = []
        self.next = self.end = self.base = 0
        self.records: list[NewRecord] = []
        self.pending_bytes = 0
        self.pending: dict[bytes, NewRecord] = {}  # by oid, until it is stored
        self.entries: list[tuple[Kind, bytes, bytes]] = []
        self.stored = SpillMap()
        self.has_stored = False
        self.written_count = self.resumed_count = 0

    def claim(self) -> None:
        """Take over what an interrupted run stored."""
        if not self.is_kept:
            return
        self.ranges = self.backend.claim(self.name)  # type: ignore[attr-defined]
        for first, count in self.ranges:
            after = wire.place_of(first - 1)
            self.next, self.end = first, first + count
            while chunk := self.backend.list_records(after, LIST_COUNT):
                inside = [place for place, _ in chunk if int.from_bytes(place, "little") < self.end]
                self._list(inside)
                after = chunk[-1][0]
                if len(inside) < len(chunk):
                    break
        self.base = self.next

    def _list(self, places: list[bytes]) -> None:
        """Note which objects lie at places; what is damaged is not noted, and so written again."""
        for place in places:
            self.next = int.from_bytes(place, "little") + 1
            record = self.backend.read(b"", place)
            payload = None if record is None else _payload_in(record[: -wire.CHECK_BYTES])
            if payload is not None:
                self.stored.put(oid_of(payload), place)
                self.has_stored = True

    def put(self, oid: bytes, payload: bytes, places: list[bytes], kind: Kind | None) -> bytes:
        """Keep an object, children first; where it lies."""
        if not self.backend.placed:
            self._keep(NewRecord(oid, payload, 0, kind))
            return b""
        body = payload + b"".join(places) if places else payload
        loc = self.stored.get(oid) if self.has_stored else None
        if loc is not None and self.backend.read(oid, loc) == wire.seal(oid, body):
            self.resumed_count += 1
        else:
            loc = self._place()
            self._keep(NewRecord(oid, body, len(places), "blob" if kind == "blob" else None))
        if kind is not None and kind != "blob":
            self.entries.append((kind, oid, loc))
        return loc

    def _keep(self, record: NewRecord) -> None:
        self.records.append(record)
        self.pending[record.oid] = record
        self.pending_bytes += len(record.body)
        self.written_count += 1
        if self.backend.placed and self.pending_bytes > FLUSH_BYTES:
            self.flush()

    def _place(self) -> bytes:
        if self.next == self.end:
            self.flush()
            more = (self.name,) if self.is_kept else ()
            self.next = self.base = self.backend.reserve(RESERVE_COUNT, *more)
            self.end = self.next + RESERVE_COUNT
            self.ranges.append((self.next, RESERVE_COUNT))
        self.next += 1
        return wire.place_of(self.next - 1)

    def flush(self) -> None:
        """Store what there is so far; no ref and no index names it yet."""
        if self.records and self.backend.placed:
            self.backend.publish(Batch(self.records, self.base, is_reserved=True))
            self.base = self.next
            self._forget()
            killpoints.reached("bundle.flushed")

    def _forget(self) -> None:
        self.records = []
        self.pending = {}
        self.pending_bytes = 0

    def publish(self, updates: list[RefUpdate], relied: list[tuple[Kind, bytes, bytes]]) -> None:
        """Enter the commits and move the refs."""
        self.flush()
        is_reserved = bool(self.ranges)
        base = self.ranges[-1][0] if is_reserved else 0
        self.backend.publish(
            Batch(self.records, base, is_reserved, updates, (), relied, entries=self.entries)
        )  # fmt: skip
        self._forget()

    def release(self) -> None:
        """Give back what was reserved, when it has been published or given up."""
        killpoints.reached("bundle.release")
        while self.ranges:
            self.backend.release(self.ranges[-1][0])
            self.ranges.pop()


def _payload_in(body: bytes) -> bytes | None:
    """The payload of a stored body, None if it is none."""
    try:
        kind = body[0]
        if kind in (LEAF, INNER):
            return body[: node.payload_length(body)]
        if kind == COMMIT:
            return body[: len(body) - node.PLACE_BYTES * (1 + (body[2] | body[3] << 8))]
    except (CorruptionError, IndexError):
        return None
    return body if kind == BLOB else None


class _Reader(Store):
    """The store, and the commits that the load has not stored yet."""

    def __init__(self, store: Store, sink: _Sink) -> None:
        super().__init__(store.backend, store.shape, CACHE_BYTES)
        self._sink = sink

    def read_sized_commit(self, oid: bytes, loc: bytes | None = None) -> tuple[CommitObject, int]:
        """A commit by its oid, and the bytes of its record."""
        record = self._sink.pending.get(oid)
        if record is not None:
            return decode_commit(oid, loc or b"", record.body), len(record.body) + wire.CHECK_BYTES
        return super().read_sized_commit(oid, loc)


class _Load(Visitor):
    """One load of a bundle."""

    def __init__(
        self, refs: Refs, reader: FrameReader, targets: dict[str, Head], progress: Progress | None
    ) -> None:  # fmt: skip
        self.refs = refs
        self.reader = reader
        self.targets = targets
        self.progress = progress
        self.sink = _Sink(refs.store, reader.id)
        self.store = _Reader(refs.store, self.sink)
        self.backend = refs.store.backend
        self.checker = Checker(reader.header, is_open=False)
        self.relied: list[tuple[Kind, bytes, bytes]] = []
        self.bases: list[CommitObject] = []
        self.commit_count = 0

    def run(self, force: bool) -> LoadResult:
        """Load it, or raise and leave all refs alone."""
        try:
            self._need()
            self.sink.claim()
            visit(self.reader, self.checker, self)
            self.sink.flush()
            changed = self._move(force)
        except CorruptionError:
            self.sink.release()  # of anything else the load can be taken up again
            raise
        finally:
            self.checker.close()
            self.sink.stored.close()
        self.sink.release()
        refs = {full: head.oid.hex() for full, head in self.targets.items()}
        counts = self.commit_count, self.sink.written_count, self.sink.resumed_count
        return LoadResult(refs, tuple(changed), *counts)

    # what is there already

    def _need(self) -> None:
        """Find the prerequisites.

        Raises:
            BundlePrerequisiteError: some are not here.
        """
        oids = self.reader.header.prerequisites
        found = {oid: self.backend.find("commit", oid) for oid in oids}
        missing = [oid.hex() for oid, loc in found.items() if loc is None]
        if missing:
            raise BundlePrerequisiteError(missing)
        for oid in oids:
            base = self.store.read_commit(oid, found[oid])
            self.bases.append(base)
            self._rely(base)
            self._know(base.tree, b"")

    def _rely(self, commit: CommitObject) -> None:
        self.relied.append(("commit", commit.oid, commit.loc))
        known = Known(commit.loc or _NO_PLACE, COMMIT, entry_count=commit.generation)
        self.checker.put(commit.oid, known)

    def _know(self, link: Link, slots: bytes) -> list[tuple[Link, bytes]]:
        """Enter a stored node and, of an inner one, its children.

        Returns:
            (link, slots that lead to it) of inner children that were not known.
        """
        body = self.store.read(*link)
        figures = hamt.stats_of(body)
        if body[0] != INNER:
            self._enter(link, Known(_NO_PLACE, LEAF, UNREAD_LEVEL, 0, *figures))
            return []
        bounds = _bounds(self.store.shape, slots, 0, self.store.shape.slots)
        self._enter(link, Known(_NO_PLACE, INNER, len(slots), 0, *figures, *bounds))
        return self._children(body, slots)

    def _children(self, body: bytes, slots: bytes) -> list[tuple[Link, bytes]]:
        shape = self.store.shape
        level = len(slots) + 1
        below = []
        for segment in node.segments_of(body):
            if not segment.entry_count:
                continue
            link = segment.oid, segment.loc
            figures = segment.entry_count, segment.size, segment.extra
            if level > shape.max_level or shape.is_leaf(*figures[:2]):
                self._enter(link, Known(_NO_PLACE, LEAF, UNREAD_LEVEL, 0, *figures))
                continue
            bounds = _bounds(shape, slots, segment.start, segment.width)
            if self._enter(link, Known(_NO_PLACE, INNER, level, 0, *figures, *bounds)):
                below.append((link, slots + bytes((segment.start,))))
        return below

    def _enter(self, link: Link, known: Known) -> bool:
        """Remember a stored node; whether it was new."""
        if self.checker.find(link[0]) is not None:
            return False
        self.checker.put(link[0], known._replace(loc=link[1] or _NO_PLACE))
        return True

    def begin(self, oid: bytes) -> None:
        """If a commit is here already, what the bundle has of its tree is taken from here."""
        loc = self.backend.find("commit", oid)
        if loc is None or self.checker.find(oid) is not None:
            return
        commit = self.store.read_commit(oid, loc)
        self._rely(commit)
        if self.checker.find(commit.tree[0]) is not None:
            return
        stack = [(commit.tree, b"")]
        while stack:
            stack.extend(self._know(*stack.pop()))

    def base(self, prerequisite: int, slots: bytes) -> None:
        """Enter the children of a node of a prerequisite's tree."""
        body = self.store.read(*self.bases[prerequisite].tree)
        for slot in slots:
            step = node.inner_step(body, slot) if body[0] == INNER and slot < self.store.shape.slots else None
            if step is None:
                raise CorruptionError("the bundle points to a node that its prerequisite does not have")
            body = self.store.read(*step)
        if body[0] != INNER:
            raise CorruptionError("the bundle points to a leaf of its prerequisite")
        self._children(body, slots)

    def find_blob(self, key: bytes, ref: BlobRef) -> Known | None:
        """A prerequisite's value at this key, or one that the index names."""
        for base in self.bases:
            value = hamt.get(self.store, self.store.shape, Tree(*base.tree), key)
            if isinstance(value, BlobRef) and value == ref:
                return Known(value.loc or _NO_PLACE, BLOB, size=value.length)
        loc = self.backend.find("blob", ref.oid)
        if loc is None:
            return None
        self.store.read_blob(ref._replace(loc=loc))  # CorruptionError unless it is of this length
        self.relied.append(("blob", ref.oid, loc))
        return Known(loc or _NO_PLACE, BLOB, size=ref.length)

    # what is new

    def put(self, oid: bytes, payload: bytes, below: list[Known]) -> bytes:
        """Store an object that was found right."""
        if self.progress is not None:
            self.progress("read", self.reader.position, self.reader.size or 0)
        kind: Kind | None = None
        if payload[0] == BLOB:
            loc = self.backend.find("blob", oid)
            if loc is not None and self._is_sound_blob(oid, loc, len(payload)):
                self.relied.append(("blob", oid, loc))
                self.sink.resumed_count += self.sink.stored.get(oid) == loc
                return loc
            kind = "blob"
        elif payload[0] == COMMIT:
            kind = "commit"
            self.commit_count += 1
        elif payload[0] == INNER and node.inner_stats(payload)[0] >= self.store.shape.index_min:
            kind = "node"
        return self.sink.put(oid, payload, [known.loc for known in below], kind)

    def _is_sound_blob(self, oid: bytes, loc: bytes, size: int) -> bool:
        try:
            self.store.read_blob(BlobRef(oid, size - len(BLOB_HEADER), loc))
        except CorruptionError:
            return False
        return True

    # refs

    def _move(self, force: bool) -> list[str]:
        """Move the refs; those that changed. Again if somebody moved one of them meanwhile."""
        while True:
            updates = [update for full in sorted(self.targets) if (update := self._update(full, force))]
            if not updates:
                return []
            try:
                self.sink.publish(updates, self.relied)
            except BranchMovedError:
                continue
            return [update.name for update in updates]

    def _update(self, full: str, force: bool) -> RefUpdate | None:
        """How a ref moves; None if it is right already.

        Raises:
            NotFastForwardError, TagExistsError: it may not.
        """
        head = self.targets[full]
        old = self.refs.get(full)
        new = RefValue(head.oid, head.info if full.startswith(TAGS) else None)
        if old == new:
            return None
        update = partial(self.refs.update, full, old, new)
        if old is None:
            return update("bundle: created")
        if full.startswith(TAGS):
            raise TagExistsError(f"there is another tag {full[len(TAGS) :]!r} already; tags never move")
        if old.oid == new.oid or old.oid == history.initial_oid(self.reader.header.codec):
            return update("bundle: fast-forward")
        if self._is_ancestor(old.oid, head.oid):
            return update("bundle: fast-forward")
        if not force:
            raise NotFastForwardError(full, old.oid.hex(), head.oid.hex())
        return update("bundle: forced")

    def _is_ancestor(self, old: bytes, new: bytes) -> bool:
        ours = self.store.read_commit(old)
        known = self.checker.find(new)
        loc = known.loc if known is not None and self.backend.placed else None
        return graph.is_ancestor(self.store, ours, self.store.read_commit(new, loc))


def _bounds(shape: Shape, slots: bytes, start: int, width: int) -> tuple[bytes, bytes]:
    """The least and the largest path, 16 bytes each, below a run of slots of the node at ``slots``."""
    low = high = 0
    for slot in slots:
        low = high = low << shape.bits | slot
    taken = shape.bits * (len(slots) + 1)
    low, high = low << shape.bits | start, high << shape.bits | start + width - 1
    if taken <= PATH_BITS:
        rest = PATH_BITS - taken
        low, high = low << rest, high << rest | (1 << rest) - 1
    else:
        low, high = low >> taken - PATH_BITS, high >> taken - PATH_BITS
    return low.to_bytes(16, "big"), high.to_bytes(16, "big")


def discard(store: Store) -> int:
    """Give up the loads that were interrupted; how many reservations that frees. gc takes their records."""
    forget: Callable[[], int] | None = getattr(store.backend, "forget", None)
    return 0 if forget is None else forget()
