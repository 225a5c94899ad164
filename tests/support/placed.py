"""A backend in memory that keeps records by place, as the embedded one does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kvgit_hamt.backend.base import Batch, Kind
from kvgit_hamt.backend.memory import MemoryBackend
from kvgit_hamt.path import Shape
from kvgit_hamt.store import Store
from kvgit_hamt.wire import place_of, seal, shift_places


class PlacedBackend(MemoryBackend):
    """Refs and abbreviations are the parent's; records, places and indexes are here."""

    placed = True

    def __init__(self) -> None:
        super().__init__()
        self.by_place: dict[bytes, bytes] = {}
        self.places: dict[tuple[Kind, bytes], bytes] = {}
        self.next = 1
        self.publish_count = 0

    def read(self, oid: bytes, loc: bytes) -> bytes | None:
        return self.by_place.get(loc)

    def read_many(self, links: Sequence[tuple[bytes, bytes]]) -> list[bytes | None]:
        return [self.by_place.get(loc) for _, loc in links]

    def find(self, kind: Kind, oid: bytes) -> bytes | None:
        return self.places.get((kind, oid))

    def next_place(self) -> int:
        return self.next

    def reserve(self, count: int) -> int:
        first = self.next
        self.next += count
        return first

    def publish(self, batch: Batch) -> int:
        super().publish(batch)
        self.publish_count += 1
        delta = 0
        if not batch.is_reserved:
            delta = self.next - batch.base
            self.next += len(batch.records)
        for number, record in enumerate(batch.records, batch.base + delta):
            place = place_of(number)
            assert place not in self.by_place, "a place is never used twice"
            body = shift_places(record.body, record.place_count, batch.base, delta)
            self.by_place[place] = seal(record.oid, body)
            if record.kind is not None:
                self.places.setdefault((record.kind, record.oid), place)
        for kind, oid, loc in batch.entries:
            self.places.setdefault((kind, oid), loc)
        return delta

    def iterate_records(self) -> Iterator[tuple[bytes, bytes]]:
        yield from sorted(self.by_place.items(), key=lambda item: int.from_bytes(item[0], "little"))


def placed_store(shape: Shape, cache_bytes: int = 1 << 20) -> Store:
    """A store in memory whose records have places."""
    return Store(PlacedBackend(), shape, cache_bytes)
