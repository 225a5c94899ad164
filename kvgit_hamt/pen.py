"""The records of a batch while it grows: which place each gets, and how large they are together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, NoReturn

from kvgit_hamt import node
from kvgit_hamt.oid import oid_of
from kvgit_hamt.wire import CHECK_BYTES, place_of, seal

Kind = Literal["commit", "blob", "node"]


class NewRecord(NamedTuple):
    """One object to store: sealed (wire.seal) by the backend, after its places are final.

    Attributes:
        oid: 32 bytes.
        body: payload, followed by the places of what it refers to (placed backends only).
        place_count: how many 8-byte places end the body; 0 on backends addressed by oid.
        kind: the index to enter it in by oid or None.
    """

    oid: bytes
    body: bytes
    place_count: int
    kind: Kind | None


class Pen:
    """The growing list.

    Attributes:
        records: in the order of their places, which follow each other.
        new: (oid, body) by location: the place, or the oid where there are no places.
        next: the place of the next record.
        end: where the places run out; None when they do not, and nothing is ever full.
        size: bytes of the bodies.
    """

    def __init__(
        self, placed: bool, first: int, end: int | None, max_bytes: int, full: Callable[[bool], None]
    ) -> None:
        """``full(True)`` is called when the places have run out, ``full(False)`` past ``max_bytes``."""
        self.records: list[NewRecord] = []
        self.new: dict[bytes, tuple[bytes, bytes]] = {}
        self.next = first
        self.end = end
        self.size = 0
        self._placed = placed
        self._most = max_bytes
        self._full = full

    def reads(
        self, floor: int | None, fetch: Callable[[bytes, bytes], bytes], refuse: Callable[[], NoReturn]
    ) -> None:
        """How to read what is not of this batch: ``fetch``, or ``refuse`` for places from ``floor`` on."""
        self.floor = floor
        self._fetch = fetch
        self._refuse = refuse

    def read(self, oid: bytes, loc: bytes) -> bytes:
        """The body of a node: of this batch, or stored before it."""
        new = self.new.get(loc or oid)
        if new is not None and new[0] == oid:
            return new[1]
        if self.floor is not None and loc and int.from_bytes(loc, "little") >= self.floor:
            self._refuse()
        return self._fetch(oid, loc)

    def put(self, oid: bytes, body: bytes, place_count: int, kind: Kind | None) -> bytes:
        """Keep a record; its place, or b"" where there are none."""
        loc = b""
        if self._placed:
            if self.next == self.end:
                self._full(True)
            loc = place_of(self.next)
            self.next += 1
        self.records.append(NewRecord(oid, body, place_count, kind))
        self.size += len(body)
        self.new[loc or oid] = (oid, body)
        if self.end is not None and self.size > self._most:
            self._full(False)
        return loc

    def put_leaf(self, body: bytes) -> tuple[bytes, bytes]:
        """Keep a leaf; its (oid, loc)."""
        length = node.leaf_payload_length(body)
        oid = oid_of(body if length == len(body) else body[:length])
        return oid, self.put(oid, body, (len(body) - length) // node.PLACE_BYTES, None)

    def put_inner(self, body: bytes) -> tuple[bytes, bytes]:
        """Keep an inner node that need not be found by its oid; its (oid, loc)."""
        length = node.inner_payload_length(body)
        oid = oid_of(body[:length])
        return oid, self.put(oid, body, (len(body) - length) // node.PLACE_BYTES, None)

    def rewind(self, count: int) -> list[NewRecord]:
        """Drop the last records, which have places; these."""
        left = len(self.records) - count
        if left < 0:
            raise ValueError("fewer records than are to go")
        dropped = self.records[left:]
        del self.records[left:]
        self.next -= count
        for number, record in enumerate(dropped):
            self.size -= len(record.body)
            del self.new[place_of(self.next + number)]
        return dropped


def seal_all(records: Sequence[NewRecord], first: int) -> list[tuple[bytes, bytes]]:
    """(place, sealed record) of records that get the places from ``first`` on."""
    return [(place_of(place), seal(record.oid, record.body)) for place, record in enumerate(records, first)]


def tally(records: Sequence[NewRecord]) -> tuple[int, int, int, int]:
    """(nodes, leaves, blobs, bytes with their checks) among records."""
    nodes = leaves = blobs = size = 0
    for record in records:
        size += len(record.body) + CHECK_BYTES
        kind = record.body[:1]
        leaves += kind == bytes((node.LEAF,))
        nodes += kind in (bytes((node.LEAF,)), bytes((node.INNER,)))
        blobs += record.kind == "blob"
    return nodes, leaves, blobs, size
