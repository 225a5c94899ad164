"""A map of sealed records as LMDB shows one, whose bytes are hostile and whose surroundings never rest."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from kvgit_hamt import wire
from kvgit_hamt.errors import CorruptionError
from kvgit_hamt.node import INNER

BUDGET = 4_000  # reads in a round: rings of nodes have no end


class Transaction:
    """A read transaction: the pages of its snapshot stay while it is open, unless the map moves."""

    def __init__(self, over: HostileMap) -> None:
        self.over = over
        self.number = over.number
        self.moves = over.moves
        self.pages: dict[bytes, bytes] | None = over.pages

    def check(self) -> None:
        """Refuse what would be asked of a map that is gone."""
        if self.pages is None or self.moves != self.over.moves:
            raise RuntimeError("the map was closed below this transaction")

    def id(self) -> int:
        """The number of its snapshot."""
        self.over.stir()
        self.check()
        return self.number

    def get(self, place: bytes) -> Any:
        """A view of exactly the bytes of a record."""
        self.over.stir()
        over = self.over
        self.check()
        odd = over.odd()
        if odd == 0:
            raise RuntimeError("cannot be read")
        if odd < 4:
            return (None, bytearray(b"\1\1"), b"\1" * 9)[odd - 1]
        record = over.snapshots[self.number].get(place)
        if record is None:
            return None
        pages = self.pages
        assert pages is not None
        if place not in pages:
            pages[place] = bytes(bytearray(record))  # memory of its own, gone with its snapshot
        return memoryview(pages[place])

    def abort(self) -> None:
        """Let go of the pages."""
        self.pages = None
        self.over.stir()


class HostileMap:
    """The backend and the door of a ``Store``.

    Only leaves ever change under their places, and only from one snapshot to the next; the memory of
    a snapshot goes when its last transaction ends, that of all when the map moves.

    Args:
        bodies: by oid; ``place_of`` names their places.
        rate: how often something happens in the midst of a walk; 0: never.
    """

    placed = True

    def __init__(
        self, rng: random.Random, bodies: dict[bytes, bytes], place_of: Callable[[bytes], bytes], door: Any
    ) -> None:
        self.rng = rng
        self.rate = 0.0
        self.number = 1
        self.moves = 0
        self.budget = BUDGET
        self.records = {place_of(oid): wire.seal(oid, body) for oid, body in bodies.items()}
        self.oids = {place_of(oid): oid for oid in bodies}
        self.snapshots = {1: self.records}
        self.pages: dict[bytes, bytes] = {}
        self.door = door
        self.between: list[Callable[[], object]] = [self.commit, self.move]
        self.is_stirring = False
        self.open()

    def open(self) -> None:
        """Let walks in."""
        if self.door is not None:
            self.door.begin = self.begin
            self.door.records = "records"

    def begin(self, records: object, parent: object, write: bool, buffers: bool) -> Transaction:
        """A read transaction."""
        if records != "records" or parent is not None or write or not buffers:
            raise AssertionError("not the call of a reader")
        self.stir()
        if self.odd() == 0:
            raise RuntimeError("no reader slot")
        made = Transaction(self)
        self.stir()
        return made

    def read(self, oid: bytes, loc: bytes) -> bytes | None:
        """A record, copied."""
        self.stir()
        self.budget -= 1
        if self.budget < 0:
            raise CorruptionError("too many reads")
        return self.records.get(loc)

    def read_many(self, links: Sequence[tuple[bytes, bytes]]) -> list[bytes | None]:
        """Records of many."""
        return [self.read(*link) for link in links]

    def odd(self) -> int:
        """A number that is small now and then, while things happen."""
        return self.rng.randrange(int(20 / self.rate)) if self.rate else 99

    def stir(self) -> None:
        """Now and then something happens, as from another thread."""
        if self.rate and not self.is_stirring and self.rng.random() < self.rate:
            self.is_stirring = True
            try:
                self.rng.choice(self.between)()
            finally:
                self.is_stirring = False

    def commit(self) -> None:
        """Another snapshot: some leaves say other things, and the memory of the last one goes."""
        records = dict(self.records)
        for place in self.rng.sample(list(records), min(3, len(records))):
            body = bytearray(records[place][:-8])
            if not body or body[0] == INNER:
                continue
            body[self.rng.randrange(1, len(body)) if len(body) > 1 else 0] ^= 1 << self.rng.randrange(8)
            if body[0] != INNER:
                records[place] = wire.seal(self.oids[place], bytes(body))
        self.number += 1
        self.records = records
        self.snapshots[self.number] = records
        self.pages = {}

    def move(self) -> None:
        """Close the map, or move it: no pointer into it is good, nor any transaction."""
        self.door_counts()
        self.moves += 1
        self.snapshots.clear()
        if self.door is not None:
            self.door.begin = None
        self.pages.clear()
        self.number += self.rng.randrange(2)  # another file may have the same number
        self.snapshots[self.number] = self.records
        self.pages = {}
        self.door_counts()
        self.open()

    def door_counts(self) -> None:
        """Count on the epoch."""
        if self.door is not None:
            self.door.epoch += 1
