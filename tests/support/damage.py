"""A backend whose records can be exchanged for others or lost, as a bad disk would."""

from __future__ import annotations

from collections.abc import Sequence

from kvgit_hamt.backend.memory import MemoryBackend


class DamagedBackend(MemoryBackend):
    """``instead``: what is read in place of the record of an oid; None where it is missing."""

    def __init__(self) -> None:
        super().__init__()
        self.instead: dict[bytes, bytes | None] = {}

    def read(self, oid: bytes, loc: bytes) -> bytes | None:
        return self.instead[oid] if oid in self.instead else super().read(oid, loc)

    def read_many(self, links: Sequence[tuple[bytes, bytes]]) -> list[bytes | None]:
        return [self.read(oid, loc) for oid, loc in links]
