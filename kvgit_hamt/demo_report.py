"""What the demo writes: text, the figures of a step, a progress bar, and the list of its own checks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TextIO, TypeVar

from kvgit_hamt import scan, wire
from kvgit_hamt.counters import Counters
from kvgit_hamt.hamt import Tree
from kvgit_hamt.store import Store

T = TypeVar("T")
BAR_WIDTH = 30
REDRAW_S = 0.1
STEP_COUNT = 4_096  # items between two looks at the clock


def bytes_text(count: int) -> str:
    """A number of bytes for people: ``41.2 MB``; a kB is 1,000 bytes."""
    if count < 1_000:
        return f"{count} B"
    if count < 999_950:
        return f"{count / 1_000:.1f} kB"
    return f"{count / 1_000_000:.1f} MB"


def time_text(seconds: float) -> str:
    """A duration for people: ``1.24 s``, ``3.1 ms``."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1_000:.1f} ms"


def bar(counts: tuple[int, int, int], largest: int, width: int = BAR_WIDTH) -> str:
    """Added, removed and modified as ``+``, ``-`` and ``~``, to scale; at least one sign each."""
    return "".join(
        sign * max(1, round(width * count / largest))
        for sign, count in zip("+-~", counts, strict=True)
        if count
    )


class Progress:
    """A bar on a terminal; elsewhere one plain line when a task begins."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._label = ""
        self._drawn_s = 0.0

    def begin(self, label: str) -> None:
        """Start a task."""
        self.end()
        self._label = label
        if not self._is_terminal:
            self._write(f"{label} ...\n")

    def show(self, done: int, total: int) -> None:
        """How far the task is; drawn ten times a second at most."""
        now = time.monotonic()
        if not self._is_terminal or now - self._drawn_s < REDRAW_S:
            return
        self._drawn_s = now
        share = done / total if total else 0.0
        full = round(BAR_WIDTH * share)
        self._write(f"\r{self._label:<32} [{'#' * full}{'.' * (BAR_WIDTH - full)}] {share:4.0%}")

    def over(
        self, label: str, items: Iterable[T], total: int, position: Callable[[T], int] | None = None
    ) -> Iterator[T]:
        """The items, with progress by their number, or by a position that is found in them."""
        self.begin(label)
        for done, item in enumerate(items):
            if done % STEP_COUNT == 0:
                self.show(done if position is None else position(item), total)
            yield item
        self.end()

    def end(self) -> None:
        """Wipe the bar, so that it never stands between lines of the report."""
        if self._is_terminal and self._drawn_s:
            self._write("\r\x1b[K")
        self._drawn_s = 0.0

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


@dataclass
class Meter:
    """Time and counters of one step: ``with meter: ...``."""

    store: Store
    seconds: float = 0.0
    counters: Counters = field(default_factory=Counters)

    def __enter__(self) -> Meter:
        self._before = self.store.counters.copy()
        self._start = time.perf_counter()
        return self

    def __exit__(self, *exc: object) -> None:
        self.seconds = time.perf_counter() - self._start
        self.counters = self.store.counters.since(self._before)


def node_sizes(store: Store, tree: Tree) -> dict[bytes, int]:
    """Bytes of each node of a tree as it is stored, by its place. Walks the whole tree."""
    return {seen.loc: len(seen.body) + wire.CHECK_BYTES for seen in scan.nodes(store, tree)}


@dataclass(frozen=True)
class Sharing:
    """How much of a tree lies in the store anyway, because the tree before has it too.

    Attributes:
        tree_bytes: of all nodes of the tree.
        shared_bytes: of those that are nodes of the tree before, at the same place.
    """

    tree_bytes: int
    shared_bytes: int

    @classmethod
    def of(cls, store: Store, before: Tree, after: Tree) -> Sharing:
        """Walk both trees and compare."""
        known = node_sizes(store, before)
        sizes = node_sizes(store, after)
        return cls(sum(sizes.values()), sum(size for loc, size in sizes.items() if loc in known))

    @property
    def new_bytes(self) -> int:
        """Bytes of the nodes that only the later tree has."""
        return self.tree_bytes - self.shared_bytes


class Report:
    """The demo's text, and what its checks said."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._step = 0
        self.checked = 0
        self.failures: list[str] = []

    def line(self, text: str = "") -> None:
        """Write a line; what the stream cannot encode becomes a question mark."""
        encoding = getattr(self._out, "encoding", None) or "utf-8"
        self._out.write(text.encode(encoding, "replace").decode(encoding) + "\n")
        self._out.flush()

    def step(self, title: str) -> None:
        """Begin a step."""
        self._step += 1
        self.line()
        self.line(f"{self._step}. {title}")

    def figures(self, meter: Meter, key_count: int, sharing: Sharing | None = None) -> None:
        """What a step took, and what of the new tree it shares with the one before."""
        done = meter.counters
        self.line(
            f"   time {time_text(meter.seconds)} | keys {key_count:,} | nodes read {done.nodes_read:,} | "
            f"nodes written {done.nodes_written:,} | bytes written {bytes_text(done.bytes_written)}"
        )
        if sharing is not None:
            share = sharing.shared_bytes / sharing.tree_bytes
            self.line(
                f"   shared {bytes_text(sharing.shared_bytes)} of a tree of "
                f"{bytes_text(sharing.tree_bytes)} ({share:.2%})"
            )

    def check(self, claim: str, is_true: bool) -> None:
        """One of the demo's own checks."""
        self.checked += 1
        if not is_true:
            self.failures.append(claim)
        self.line(f"   {'ok' if is_true else 'FAILED'}: {claim}")
