"""What a store has done: nodes read and written, bytes; tests and reports look at it."""

from __future__ import annotations

from dataclasses import dataclass, fields

from kvgit_hamt import kernel


@dataclass(slots=True)
class Counters:
    """What a store has done since it was opened; tests assert costs with them.

    Attributes:
        nodes_read, bytes_read: nodes (and commits) fetched from the backend, not from the cache.
        leaves_read: those of the nodes that were leaves.
        blobs_read: out-of-line values fetched.
        nodes_written, leaves_written, blobs_written, bytes_written: records handed to the backend.
        nodes_shared: new inner nodes found stored already, by their oid.
    """

    nodes_read: int = 0
    leaves_read: int = 0
    bytes_read: int = 0
    blobs_read: int = 0
    nodes_written: int = 0
    leaves_written: int = 0
    blobs_written: int = 0
    bytes_written: int = 0
    nodes_shared: int = 0

    def copy(self) -> Counters:
        """The figures as they are now."""
        return Counters(*(getattr(self, field.name) for field in fields(Counters)))

    def since(self, earlier: Counters) -> Counters:
        """What was done since an earlier copy."""
        return Counters(
            *(getattr(self, field.name) - getattr(earlier, field.name) for field in fields(Counters))
        )


class LiveCounters(Counters):
    """Those of a store, to which its compiled lookups add what they read when somebody looks."""

    __slots__ = ("ways",)

    def __init__(self) -> None:
        super().__init__()
        self.ways: kernel.Ways | None = None

    def settle(self) -> LiveCounters:
        """Add what was read in place since the last call."""
        if self.ways is not None:
            leaves, size = self.ways.take_counts()
            self.nodes_read += leaves
            self.leaves_read += leaves
            self.bytes_read += size
        return self

    def copy(self) -> Counters:
        """The figures as they are now."""
        return Counters.copy(self.settle())

    def since(self, earlier: Counters) -> Counters:
        """What was done since an earlier copy."""
        return Counters.since(self.settle(), earlier)
