"""The backend interface: small enough for LMDB, a dict, or an object store.

A backend keeps sealed records, an index of the objects that are looked up by oid, refs with their
reflog, and a few named meta values. It knows nothing of nodes, commits or values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

from kvgit_hamt.oid import OID_BYTES
from kvgit_hamt.pen import Kind as Kind
from kvgit_hamt.pen import NewRecord as NewRecord

T = TypeVar("T")


class RefUpdate(NamedTuple):
    """Compare-and-set of one ref. ``old`` None: must be absent; ``new`` None: delete.

    ``log`` is the encoded reflog entry to append under ``name``, None for no entry.
    """

    name: str
    old: bytes | None
    new: bytes | None
    log: bytes | None


class Touch(NamedTuple):
    """A row of a table of touches: when a key was last read or made, by a counter.

    Attributes:
        table: the table's name; the branch's.
        key: 16 bytes that stand for the key.
        number: the counter, below 2**64; None deletes the row.
    """

    table: str
    key: bytes
    number: int | None


@dataclass(frozen=True)
class Batch:
    """All that one commit writes. Stored wholly or not at all.

    Attributes:
        records: children before parents. On a placed backend record i was built for place
            ``base + i``, and bodies name each other by those places.
        base: see above; 0 on backends addressed by oid.
        is_reserved: ``base`` lies in a range that ``reserve`` gave, so the places are this batch's own and
            final. A load of several batches puts its refs in the last one: that ends the reservation.
        refs: compare-and-sets, applied after the records.
        required: oids of commits that must still be stored, else CorruptionError
            (a parent may have been collected by another process).
        relied: (kind, oid, loc) of stored objects that the batch shares because an index named them; each
            must still be named so, else StaleBatchError (gc may have collected it). Commits count as
            well: what the batch builds on lies at a place, and the index must still name that place.
        entries: (kind, oid, loc) to enter into the indexes, of records that earlier batches of the same
            load stored. A node is entered only by the batch that makes a ref reach it: an entry promises
            that all below it is there, which gc keeps only for what it can reach (placed backends).
        meta: values to set by name.
        touches: rows to set or delete.
    """

    records: Sequence[NewRecord] = ()
    base: int = 0
    is_reserved: bool = False
    refs: Sequence[RefUpdate] = ()
    required: Sequence[bytes] = ()
    relied: Sequence[tuple[Kind, bytes, bytes]] = ()
    entries: Sequence[tuple[Kind, bytes, bytes]] = ()
    meta: Mapping[str, bytes] = field(default_factory=dict)
    touches: Sequence[Touch] = ()


class Sweep(Protocol):
    """Deletions, in one write transaction: nobody publishes while it is open.

    Attributes:
        version: see ``Backend.version``, as it is now.
    """

    version: int

    def delete_record(self, location: bytes) -> bool:
        """Delete a record by its place, or by its oid on backends without places; False if it is gone."""

    def delete_index(self, kind: Kind, oid: bytes, loc: bytes) -> None:
        """Delete an index entry if it still names this location."""

    def trim_reflog(self, name: str, keep: int) -> None:
        """Keep only the newest ``keep`` entries of a ref's reflog."""


class Backend(Protocol):
    """What the engine asks of storage. All methods may be called from any thread.

    A *location* (``loc``) says where a record lies: 8 bytes (wire.place_of) on a placed backend;
    on a backend addressed by oid it is always ``b""``.

    Raises (all methods): BackendError and its kinds; nothing of the library below escapes.
    ClosedError after close().
    """

    placed: bool

    def read(self, oid: bytes, loc: bytes) -> bytes | None:
        """The sealed record, or None when it is not there. The caller verifies it."""

    def read_many(self, links: Sequence[tuple[bytes, bytes]]) -> list[bytes | None]:
        """Records of many (oid, loc), in order, in one read transaction."""

    def find(self, kind: Kind, oid: bytes) -> bytes | None:
        """The location of an indexed object, None when there is none."""

    def find_abbreviated(self, prefix: str, limit: int = 2) -> list[bytes]:
        """Oids of up to ``limit`` commits whose hex id starts with ``prefix``, in order."""

    def next_place(self) -> int:
        """The place the next record would get now; 0 on backends addressed by oid."""

    def reserve(self, count: int) -> int:
        """Take ``count`` places for good and return the first (placed backends).

        Registered as pending until a batch in this range that carries refs is published, ``release``
        is called, or the process ends.
        """

    def release(self, first: int) -> None:
        """Give up a reservation by its first place; unknown ones are ignored."""

    def pending_floor(self) -> int | None:
        """The lowest place that a live reservation holds, None when there is none.

        gc spares records at or past it: they may belong to a load whose refs are not published yet.
        """

    def publish(self, batch: Batch) -> int:
        """Store a batch in one atomic, durable step: records, then refs.

        Returns:
            by how much the places of the batch moved (0 when ``is_reserved`` or addressed by oid).

        Raises:
            BranchMovedError: a ref did not hold its ``old`` value. Nothing was stored.
            CorruptionError: a required commit is gone. Nothing was stored.
            StaleBatchError: an object that the batch relies on is gone, or (placed backends) a commit in
                it is stored already. Nothing was stored; run again.
            StoreFullError, ReadOnlyError, StoreReplacedError: nothing was stored.
            OutcomeUnknownError: an I/O error, and reading back could not settle the outcome.
        """

    def get_ref(self, name: str) -> bytes | None:
        """The encoded value of one ref."""

    def list_refs(self, prefix: str) -> list[tuple[str, bytes]]:
        """(name, encoded value) of all refs whose name starts with ``prefix``, by name (as UTF-8)."""

    def read_reflog(self, name: str, limit: int | None = None) -> list[bytes]:
        """Encoded reflog entries of a ref, newest first. They outlive the ref."""

    def reflog_names(self) -> list[str]:
        """Names that have reflog entries, those of deleted refs among them, in order."""

    def get_meta(self, name: str) -> bytes | None:
        """A meta value (written through ``Batch.meta``)."""

    def read_touches(self, table: str) -> dict[bytes, int]:
        """All rows of a table of touches (written through ``Batch.touches``), key -> counter."""

    def iterate_records(self) -> Iterator[tuple[bytes, bytes]]:
        """(loc or oid, sealed record) of all records, in storage order."""

    def version(self) -> int:
        """A number that grows with every publish and sweep, whoever does it."""

    def list_index(self, kind: Kind, after: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Up to ``limit`` (oid, loc) of an index, in order of oids, from the first past ``after``."""

    def list_records(self, after: bytes, limit: int) -> list[tuple[bytes, int]]:
        """Up to ``limit`` (place or oid, bytes of the record), in order, from the first past ``after``."""

    def sweep(self, action: Callable[[Sweep], T]) -> tuple[T, int]:
        """Run deletions in one write transaction: what the action returned, and the version after it.

        The action may read through the backend, and may be run again from the start. If it raises,
        nothing is deleted.
        """

    def compact(self) -> tuple[int, int]:
        """Give freed space back where there is a file: (bytes before, bytes after); (0, 0) without one."""

    def stats(self) -> dict[str, int]:
        """``record_count``, ``file_bytes`` and what else the backend knows, as integers."""

    def close(self) -> None:
        """Release everything; a second call does nothing."""


class Row(NamedTuple):
    """A ref or a reflog entry as an inspection finds it.

    Attributes:
        name: of the ref; escaped where its bytes are no text.
        value: None when it is damaged, and ``problem`` then says how.
    """

    name: str
    value: bytes | None
    problem: str = ""


class Finding(NamedTuple):
    """A fault in what a backend keeps for itself; ``kind`` is "structure", "state" or "row"."""

    kind: Literal["structure", "state", "row"]
    message: str


class Inspector(Protocol):
    """Reads what damage would make a ``Backend`` refuse to read.

    Raises CorruptionError or BackendError only where the tables themselves cannot be read.
    """

    def findings(self, deep: bool) -> Iterator[Finding]:
        """Faults in what is neither record, index, ref nor reflog; ``deep``: and in the file's structure."""

    def ref_rows(self) -> list[Row]:
        """All refs, by name."""

    def reflog_rows(self) -> Iterator[Row]:
        """All reflog entries: by name of the ref, oldest first."""

    def pending(self) -> list[tuple[int, int]]:
        """(first place, places) of each reservation whose process still runs."""

    def notes(self, deep: bool) -> list[str]:
        """What ``findings`` did not look at."""


@runtime_checkable
class Inspectable(Protocol):
    """A backend that can be inspected. Others are checked as far as ``Backend`` goes."""

    def inspector(self) -> Inspector:
        """A view of what lies there, damage included."""


class Mender(Protocol):
    """Puts right what a check found, in one write transaction."""

    def put_record(self, loc: bytes, record: NewRecord) -> None:
        """Store a record at this very location, in place of what lies there."""

    def set_index(self, kind: Kind, oid: bytes, loc: bytes | None) -> None:
        """Enter an object at a location, whatever the entry says now; None removes the entry."""

    def set_ref(self, name: str, value: bytes) -> None:
        """Set a ref, whatever it holds now, without a reflog entry.

        A sum that the backend keeps over its refs stays: it fits again once all are what they were.
        """

    def drop_bad_refs(self) -> int:
        """Remove rows of refs that fail their check; how many."""


@runtime_checkable
class Mendable(Protocol):
    """A backend that can be repaired in place."""

    def mend(self, action: Callable[[Mender], T]) -> T:
        """Run an action in one durable write transaction. It must bear being run again."""


def oid_floor(prefix: str) -> bytes | None:
    """The least oid whose hex starts with ``prefix``; None when it is no lower-case hex or too long."""
    if len(prefix) > 2 * OID_BYTES or not set(prefix) <= set("0123456789abcdef"):
        return None
    return bytes.fromhex(prefix.ljust(2 * OID_BYTES, "0"))
