"""Typed objects over a backend: verified reads, a bounded cache, counters, and batches of writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, NoReturn, Protocol

from kvgit_hamt import kernel, killpoints, node, wire
from kvgit_hamt.backend.base import Backend, Batch, Kind, NewRecord, RefUpdate, Touch
from kvgit_hamt.counters import Counters, LiveCounters
from kvgit_hamt.errors import (
    AmbiguousCommitError,
    CommitNotFoundError,
    CorruptionError,
    StaleBatchError,
    StateError,
)
from kvgit_hamt.hamt import Tree
from kvgit_hamt.node import INNER, LEAF, BlobRef, Value
from kvgit_hamt.objects import BLOB_HEADER, CommitCache, CommitObject, decode_commit
from kvgit_hamt.oid import oid_of, parse_hex
from kvgit_hamt.path import Shape

DEFAULT_CACHE_BYTES = 64 << 20
NODE_OVERHEAD_BYTES = 150  # dict entry, key and object headers of a cached node (sys.getsizeof)
RESERVE_COUNT = 65_536  # places a bulk load takes at once
FLUSH_BYTES = 32 << 20  # of records a bulk load keeps before it writes them
SHARE_PART = 16  # an inner node is looked for if that may save a record for so many of ``index_min``
Link = tuple[bytes, bytes]
_NOTHING: Final[Mapping[str, bytes]] = MappingProxyType({})
_NO_NODES: Final[Mapping[bytes, bytes]] = MappingProxyType({})


class NodeCache:
    """Bodies of inner nodes by location, in two generations; the older one is dropped whole.

    A node is never changed under its location, so nothing here is ever stale.
    """

    __slots__ = ("_half", "_size", "old", "young")

    def __init__(self, max_bytes: int) -> None:
        self._half = max_bytes // 2
        self.young: dict[bytes, bytes] = {}
        self.old: dict[bytes, bytes] = {}
        self._size = 0

    def get_old(self, key: bytes) -> bytes | None:
        """Look in the older generation; what is found there becomes young again."""
        if not self.old:
            return None
        body = self.old.pop(key, None)
        if body is not None:
            self.put(key, body)
        return body

    def put(self, key: bytes, body: bytes) -> None:
        """Keep a body, unless it alone is too large; may drop the older generation."""
        size = len(body) + NODE_OVERHEAD_BYTES
        if size > self._half:
            return
        self._size += size
        if self._size > self._half:
            self.old = self.young
            self.young = {}
            self._size = size
        self.young[key] = body

    def clear(self) -> None:
        """Forget everything."""
        self.young = {}
        self.old = {}
        self._size = 0


class ObjectReader(Protocol):
    """What reading a tree with its values takes: a store, or a batch that is not stored yet."""

    @property
    def shape(self) -> Shape:
        """The form of its trees."""

    def read(self, oid: bytes, loc: bytes) -> bytes:
        """The body of a node."""

    def read_many(self, links: Sequence[Link]) -> list[bytes]:
        """Bodies of many nodes."""

    def read_blob(self, ref: BlobRef) -> bytes:
        """An out-of-line value."""

    def load_value(self, value: Value) -> bytes:
        """The bytes of a value, wherever it lies."""


class Store:
    """Objects of one backend. Reads may come from any thread.

    Args:
        cache_bytes: bound on the memory of cached inner nodes, and with the compiled kernel of as much again
            that is linked; 0 caches nothing.
    """

    def __init__(self, backend: Backend, shape: Shape, cache_bytes: int) -> None:
        self.backend = backend
        self.read_record = backend.read
        self.shape = shape
        self.cache = NodeCache(cache_bytes)
        self.commits = CommitCache(cache_bytes > 0)
        self._counters = LiveCounters()
        self.ways: kernel.Ways | None = None
        if cache_bytes and kernel.NAME == "compiled":
            self.ways = self._counters.ways = kernel.Ways(self, _door_of(backend), cache_bytes)

    @property
    def counters(self) -> Counters:
        """What was done so far."""
        return self._counters.settle()

    def forget(self) -> None:
        """Drop everything cached."""
        self.cache.clear()
        self.commits.clear()
        if self.ways is not None:
            self.ways.clear()

    def close(self) -> None:
        """Close the backend; lookups that were handed out refuse from now on."""
        if self.ways is not None:
            self.ways.is_closed = True
        self.forget()
        self.backend.close()

    def read(self, oid: bytes, loc: bytes) -> bytes:
        """The verified body of a node.

        Raises:
            CorruptionError: it is missing, damaged, or not a node.

        Cost: one backend read, or none for an inner node in the cache.
        """
        body = self.cache.young.get(loc or oid)
        return self._fetch(oid, loc) if body is None else body

    def _fetch(self, oid: bytes, loc: bytes) -> bytes:
        body = self.cache.get_old(loc or oid)
        if body is not None:
            return body
        return self.accept(oid, loc, self.read_record(oid, loc))

    def accept(self, oid: bytes, loc: bytes, record: bytes | None) -> bytes:
        """The body of a node's record, verified; an inner node goes to the cache."""
        body = kernel.unseal(oid, record)
        if body and body[0] == LEAF:
            counters = self._counters
            counters.nodes_read += 1
            counters.leaves_read += 1
            counters.bytes_read += len(body)
        else:
            self._admit(oid, loc or oid, body)
        return body

    def read_many(self, links: Sequence[Link]) -> list[bytes]:
        """Bodies of many nodes, in order; those not cached in one backend read."""
        out: list[bytes] = [b""] * len(links)
        missing = []
        for index, (oid, loc) in enumerate(links):
            key = loc or oid
            body = self.cache.young.get(key) or self.cache.get_old(key)
            if body is None:
                missing.append(index)
            else:
                out[index] = body
        if missing:
            records = self.backend.read_many([links[index] for index in missing])
            for index, record in zip(missing, records, strict=True):
                oid, loc = links[index]
                body = kernel.unseal(oid, record)
                self._admit(oid, loc or oid, body)
                out[index] = body
        return out

    def _admit(self, oid: bytes, key: bytes, body: bytes) -> None:
        counters = self._counters
        counters.nodes_read += 1
        counters.bytes_read += len(body)
        kind = body[0] if body else 0
        if kind == LEAF:
            counters.leaves_read += 1
        elif kind == INNER and kernel.is_sound_inner(body) and body[2] == self.shape.bits:
            self.cache.put(key, body)
        else:
            raise CorruptionError(f"object {oid.hex()} is not a well-formed node")

    def read_blob(self, ref: BlobRef) -> bytes:
        """The bytes of an out-of-line value; CorruptionError if missing or damaged."""
        body = kernel.unseal(ref.oid, self.backend.read(ref.oid, ref.loc))
        if body[:2] != BLOB_HEADER or len(body) != ref.length + len(BLOB_HEADER):
            raise CorruptionError(f"object {ref.oid.hex()} is not the blob it should be")
        self._counters.blobs_read += 1
        self._counters.bytes_read += len(body)
        return body[len(BLOB_HEADER) :]

    def load_value(self, value: Value) -> bytes:
        """The bytes of a stored value, wherever it lies."""
        return value if isinstance(value, bytes) else self.read_blob(value)

    def read_commit(self, oid: bytes, loc: bytes | None = None) -> CommitObject:
        """A commit by its oid.

        Raises:
            CorruptionError: it is not there or damaged; callers ask only for commits that a ref
                or a child names.

        Cost: one or two backend reads.
        """
        return self.read_sized_commit(oid, loc)[0]

    def read_sized_commit(self, oid: bytes, loc: bytes | None = None) -> tuple[CommitObject, int]:
        """A commit, and the bytes of its record. See ``read_commit``."""
        if loc is None:
            loc = self.backend.find("commit", oid)
            if loc is None:
                raise CorruptionError(f"commit {oid.hex()} is missing from the store")
        body = kernel.unseal(oid, self.backend.read(oid, loc))
        self._counters.nodes_read += 1
        self._counters.bytes_read += len(body)
        return decode_commit(oid, loc, body, strict=False), len(body) + wire.CHECK_BYTES

    def current(self, commit: CommitObject) -> CommitObject:
        """A commit that was read before, where it lies now.

        It lies elsewhere if gc collected it and somebody made it again. CorruptionError if it is gone.
        Cost: one backend read.
        """
        loc = self.backend.find("commit", commit.oid)
        return commit if loc == commit.loc else self.read_commit(commit.oid, loc)

    def resolve_commit(self, text: str) -> bytes:
        """The oid of a full or abbreviated commit id.

        Raises:
            InvalidInputError: too short. AmbiguousCommitError: it fits several commits.
            CommitNotFoundError: it fits none.
        """
        prefix = parse_hex(text)
        found = self.backend.find_abbreviated(prefix, 3)
        if not found:
            raise CommitNotFoundError(f"no commit has the id {text!r}")
        if len(found) > 1:
            shown = ", ".join(oid.hex()[: len(prefix) + 4] for oid in found)
            raise AmbiguousCommitError(f"{text!r} fits several commits ({shown}); give more of the id")
        return found[0]

    def writer(self) -> StoreWriter:
        """A new, empty batch. Make it after reading the refs that it builds on."""
        return StoreWriter(self, self.backend.next_place(), is_reserved=False)

    def bulk_writer(self) -> StoreWriter:
        """A batch of any size: on placed backends it writes what it holds now and then; refs come last.

        ``release`` it in the end, else gc spares all that was stored since, while the process lives.
        """
        base = self.backend.reserve(RESERVE_COUNT) if self.backend.placed else 0
        killpoints.reached("load.reserved")
        return StoreWriter(self, base, is_reserved=True)


class StoreWriter:
    """Collects the records of one change and hands them to the backend in one step.

    New nodes are readable through it before they are stored. It must not see trees that another
    writer stored after it was made, since their places may equal those it gave out: it refuses.
    """

    def __init__(self, store: Store, base: int, is_reserved: bool) -> None:
        self.store = store
        self._placed = store.backend.placed
        self._is_reserved = is_reserved
        self._base = base
        # without places gc could not tell flushed records from garbage, so nothing is flushed there
        end = base + RESERVE_COUNT if is_reserved and self._placed else None
        self.pen = kernel.Pen(self._placed, base, end, FLUSH_BYTES, self._make_room)
        self.put_leaf = self.pen.put_leaf  # keep a leaf; its (oid, loc)
        self._ranges = [base] if is_reserved and self._placed else []
        self._flushed = 0
        self._blobs: dict[bytes, bytes] = {}
        self._commits: set[bytes] = set()
        self._required: set[bytes] = set()
        self._shared: set[bytes] = (
            set()
        )  # commits that were made before: gc may take them, then they are made anew
        self._relied: list[tuple[Kind, bytes, bytes]] = []
        self._nodes: dict[bytes, bytes] = {}  # of a load: to be found by oid once it is published
        self._last_blob = 0
        self._last_shared = -1  # where the last node was found stored already
        floor = base if self._placed and not is_reserved else None
        self.pen.reads(floor, store.read if store.ways is None else store.ways.read, _refuse_later)
        self.read = self.pen.read  # the body of a node: of this batch, or stored before it

    # reading

    def read_many(self, links: Sequence[Link]) -> list[bytes]:
        """Bodies of many nodes, in order."""
        if not self.pen.new:
            for _, loc in links:
                self._refuse_later(loc)
            return self.store.read_many(links)
        return [self.read(oid, loc) for oid, loc in links]

    @property
    def shape(self) -> Shape:
        """The form of the store's trees."""
        return self.store.shape

    def read_blob(self, ref: BlobRef) -> bytes:
        """An out-of-line value: of this batch, or stored before it."""
        new = self.pen.new.get(ref.loc or ref.oid)
        if new is not None and new[0] == ref.oid:
            return new[1][len(BLOB_HEADER) :]
        return self.store.read_blob(ref)

    def load_value(self, value: Value) -> bytes:
        """The bytes of a value, also of a blob of this batch."""
        return value if isinstance(value, bytes) else self.read_blob(value)

    def _refuse_later(self, loc: bytes) -> None:
        if loc and not self._is_reserved and int.from_bytes(loc, "little") >= self._base:
            _refuse_later()

    # writing

    def mark(self) -> int:
        """How many records there are."""
        return self._flushed + len(self.pen.records)

    def put_inner(self, body: bytes, count: int, mark: int) -> Link:
        """Keep an inner node of ``count`` entries, or name the stored one of the same oid.

        Looking for it, and entering it to be found, pays where much of this batch (what was put since
        ``mark``) would not be stored; a small commit is spared both.
        """
        saved = self.mark() - mark
        index_min = self.store.shape.index_min
        is_worth_it = saved >= index_min // SHARE_PART or self._last_shared >= mark
        if not self._placed or count < index_min or not is_worth_it:
            return self.pen.put_inner(body)
        length = node.inner_payload_length(body)
        oid = oid_of(body[:length])
        loc = self._nodes.get(oid)
        if loc is not None:
            self._rewind(mark)
            return oid, loc
        loc = self.store.backend.find("node", oid)
        if loc is not None and int.from_bytes(loc, "little") < self._base:
            self.store._counters.nodes_shared += 1
            self._relied.append(("node", oid, loc))
            self._rewind(mark)
            return oid, loc
        places = (len(body) - length) // node.PLACE_BYTES
        if self._is_reserved:
            loc = self._nodes[oid] = self.pen.put(oid, body, places, None)
            return oid, loc
        return oid, self.pen.put(oid, body, places, "node")

    def put_blob(self, data: bytes) -> BlobRef:
        """Keep an out-of-line value once, however often it is put."""
        payload = BLOB_HEADER + data
        oid = oid_of(payload)
        loc = self._blobs.get(oid)
        if loc is None:
            loc = self.store.backend.find("blob", oid)
            if loc is None or (not self._is_reserved and self._is_late(loc)):
                loc = self.pen.put(oid, payload, 0, "blob")
                self._last_blob = self.mark()
            else:
                self._relied.append(("blob", oid, loc))
            self._blobs[oid] = loc
        return BlobRef(oid, len(data), loc)

    def put_value(self, data: bytes) -> Value:
        """A value as it stands in a leaf: itself, or the reference of a blob made of it."""
        return data if len(data) <= self.store.shape.inline_max else self.put_blob(data)

    def require(self, commit: CommitObject) -> None:
        """Publish only if a commit still lies where it did: the new trees share nodes with it.

        Its parents' history and all their trees are there too then; see ``gc``.
        """
        if commit.oid not in self._commits:
            self._required.add(commit.oid)
            self._relied.append(("commit", commit.oid, commit.loc))

    def stored_commit(self, oid: bytes) -> CommitObject | None:
        """The commit of this oid, if it is stored: on placed backends none may be stored twice.

        Raises:
            StaleBatchError: it was stored after this batch was begun; or gc has just collected it.
        """
        if not self._placed or oid in self._commits:
            return None
        loc = self.store.backend.find("commit", oid)
        if loc is None:
            return None
        if not self._is_reserved and self._is_late(loc):
            raise StaleBatchError("somebody has just stored this very commit; run again")
        try:
            found = self.store.read_commit(oid, loc)
        except CorruptionError as error:
            if self.store.backend.find("commit", oid) == loc:
                raise
            raise StaleBatchError("gc has just collected this very commit; run again") from error
        self._shared.add(oid)
        self._relied.append(("commit", oid, loc))
        return found

    def put_commit(self, payload: bytes, tree: Tree, parents: Sequence[CommitObject]) -> Link:
        """Keep a commit that is not stored yet; its (oid, loc)."""
        oid = oid_of(payload)
        for loc in (tree.loc, *(parent.loc for parent in parents)):
            if loc not in self.pen.new:
                self._refuse_later(loc)
        links = [(tree.oid, tree.loc), *((parent.oid, parent.loc) for parent in parents)]
        for parent in parents:
            self.require(parent)
        body = payload
        places = 0
        if self._placed:
            body += b"".join(loc for _, loc in links)
            places = len(links)
        self._commits.add(oid)
        return oid, self.pen.put(oid, body, places, "commit")

    def _is_late(self, loc: bytes) -> bool:
        return bool(loc) and int.from_bytes(loc, "little") >= self._base

    def _make_room(self, is_out_of_places: bool) -> None:
        """Store what there is so far; the pen calls this."""
        self.flush()
        if is_out_of_places:
            self.pen.next = self._base = self.store.backend.reserve(RESERVE_COUNT)
            self.pen.end = self._base + RESERVE_COUNT
            self._ranges.append(self._base)

    def _rewind(self, mark: int) -> None:
        """Drop the nodes put since ``mark``: all lie below one that is stored already."""
        self._last_shared = mark
        if mark < self._flushed or mark < self._last_blob or not self._placed:
            return
        for record in self.pen.rewind(self.mark() - mark):
            self._nodes.pop(record.oid, None)

    def flush(self) -> None:
        """Bulk only: store what there is so far; no ref names it yet."""
        if self.pen.records:
            self._send()
            self.pen.new.clear()
            killpoints.reached("load.flushed")

    def release(self) -> None:
        """Bulk only: give back the reserved places, when it has published or been given up."""
        killpoints.reached("load.release")
        while self._ranges:
            self.store.backend.release(self._ranges.pop())

    def publish(
        self,
        refs: Sequence[RefUpdate] = (),
        required: Sequence[bytes] = (),
        meta: Mapping[str, bytes] = _NOTHING,
        touches: Sequence[Touch] = (),
    ) -> int:
        """Store the batch, move refs, set meta values and touches, in one step.

        Args:
            required: commits that must still be there, besides the parents of those in the batch.

        Returns:
            by how much the places moved: if not 0, locations given out before are void, and what
            they named is found again by its oid.

        Raises:
            BranchMovedError: a ref had moved; nothing of this step was stored.
            (others: see Backend.publish)
        """
        shift = self._send(refs, required, meta, touches, self._nodes)
        self._nodes = {}
        return shift

    def _send(
        self,
        refs: Sequence[RefUpdate] = (),
        required: Sequence[bytes] = (),
        meta: Mapping[str, bytes] = _NOTHING,
        touches: Sequence[Touch] = (),
        nodes: Mapping[bytes, bytes] = _NO_NODES,
    ) -> int:
        base = self.pen.next - len(self.pen.records) if self._placed else 0
        batch = Batch(
            records=self.pen.records, base=base, is_reserved=self._is_reserved and self._placed,
            refs=refs, required=sorted(self._required.union(required) - self._commits - self._shared),
            relied=self._relied, entries=[("node", *link) for link in nodes.items()],
            meta=meta, touches=touches,
        )  # fmt: skip
        shift = self.store.backend.publish(batch)
        if refs and self._ranges:
            self._ranges.pop()  # the backend has ended the one that this batch lies in
        self._count(batch.records)
        if not shift:
            for key, (_, body) in self.pen.new.items():
                if body[0] == INNER:
                    self.store.cache.put(key, body)
        self._flushed += len(self.pen.records)
        self.pen.records = []
        self.pen.size = 0
        return shift

    def _count(self, records: Sequence[NewRecord]) -> None:
        nodes, leaves, blobs, size = kernel.tally(records)
        counters = self.store.counters
        counters.nodes_written += nodes
        counters.leaves_written += leaves
        counters.blobs_written += blobs
        counters.bytes_written += size


def _door_of(backend: Backend) -> kernel.Door | None:
    """The way around a backend's ``read``; None where that is another one: of a wrapper, or a subclass."""
    kinds = type(backend).__mro__
    owners = [next((kind for kind in kinds if name in vars(kind)), None) for name in ("door", "read")]
    return getattr(backend, "door", None) if owners[0] is owners[1] is not None else None


def _refuse_later() -> NoReturn:
    raise StateError("this batch is older than the tree it was asked to build on")
