"""Both kernels side by side: the same call on each, and inputs of every function that has a twin."""

from __future__ import annotations

import collections
import random
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

from kvgit_hamt import descent, kernel, node, path, pen, run, wire
from kvgit_hamt.errors import CorruptionError
from kvgit_hamt.node import BlobRef, Segment
from kvgit_hamt.path import Shape
from tests.support.trees import SHAPES

try:
    from kvgit_hamt import _kernel as compiled
except ImportError:
    compiled = None

CLASSES = ("Builder", "DiffWalk", "Door", "LeafWalk", "Lookup", "Pen", "Ways")
PLAIN: dict[str, Callable[..., Any]] = {
    name: getattr(module, name)
    for module in (node, path, pen, run, descent, wire)
    for name in (*kernel.__all__, "leaf_find", "inner_step", "inner_children", "path_of")
    if hasattr(module, name) and name not in ("NAME", "Name", *CLASSES)
}
BOTH = {"plain": PLAIN}
if compiled is not None:
    BOTH["compiled"] = {name: getattr(compiled, name) for name in PLAIN}

COMPILED = compiled if kernel.NAME == "compiled" else None


class InUse:
    """A plain module with the functions of the kernel in use in place of its own."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        own = getattr(self._module, name)
        return getattr(COMPILED, name, own) if callable(own) and not isinstance(own, type) else own


REFUSALS = (CorruptionError, ValueError, TypeError, OverflowError, MemoryError)


class Refused(NamedTuple):
    """A call that raised."""

    kind: type[Exception]
    text: str


def outcome(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a call gives, comparable: results as they are, CorruptionError with its text."""
    try:
        return comparable(function(*arguments))
    except CorruptionError as error:
        return Refused(CorruptionError, str(error))


def comparable(value: Any) -> Any:
    """A value with everything in it that ``==`` would pass over."""
    if isinstance(value, BlobRef):
        return ("blob", value.oid, value.length, value.loc)
    if isinstance(value, array):
        return value.tolist()
    if isinstance(value, list):
        return [comparable(item) for item in value]
    if isinstance(value, tuple):
        return (type(value).__name__, *map(comparable, value))
    return value


counts: collections.Counter[str] = collections.Counter()
"""Calls by function, and those that were refused."""


def same(name: str, *arguments: Any) -> Any:
    """Call a function of both kernels; the results must be equal."""
    expected = outcome(PLAIN[name], *arguments)
    agree(name, expected, outcome(BOTH["compiled"][name], *arguments), arguments)
    return expected


def agree(name: str, expected: Any, found: Any, about: Any) -> None:
    """Two outcomes must be equal; counted as a call."""
    counts[name] += 1
    counts["refused"] += isinstance(expected, Refused)
    if found != expected:
        raise AssertionError(f"{name}{about!r:.4000}:\nplain {expected!r:.4000}\ncompiled {found!r:.4000}")


def harmless(name: str, *arguments: Any) -> None:
    """Call a function of the compiled kernel on what the plain one leaves undefined."""
    quietly(name, BOTH["compiled"][name], *arguments)


def quietly(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call what may return or refuse, and nothing else; None if it refused."""
    counts[name] += 1
    try:
        return function(*arguments)
    except REFUSALS:
        counts["refused"] += 1
        return None


class NodeWriter:
    """A reader and writer over a dict; places are given if asked for."""

    def __init__(self, is_placed: bool) -> None:
        self.is_placed = is_placed
        self.bodies: dict[bytes, bytes] = {}
        self.log: list[tuple[Any, ...]] = []

    def mark(self) -> int:
        return len(self.log)

    def _put(self, *what: Any) -> tuple[bytes, bytes]:
        number = len(self.log)
        self.log.append(what)
        loc = number.to_bytes(8, "little") if self.is_placed else b""
        oid = number.to_bytes(32, "big")
        self.bodies[oid] = what[0]
        return oid, loc

    def put_leaf(self, body: bytes) -> tuple[bytes, bytes]:
        return self._put(body)

    def put_inner(self, body: bytes, count: int, mark: int) -> tuple[bytes, bytes]:
        return self._put(body, count, mark)

    def read(self, oid: bytes, loc: bytes) -> bytes:
        try:
            return self.bodies[oid]
        except KeyError:
            raise CorruptionError("missing") from None

    def read_many(self, links: list[tuple[bytes, bytes]]) -> list[bytes]:
        return [self.read(*link) for link in links]


@dataclass(frozen=True)
class Maker:
    """Random keys, values, changes and nodes from one source of numbers."""

    rng: random.Random

    def key(self) -> bytes:
        rng = self.rng
        start = rng.choice([b"", b"", b"a/", b"a/b/", b"a/b/c/d/e/", b"/", b"//"])
        if rng.random() < 0.9:
            return start + b"%d" % rng.randrange(60)
        return start + rng.randbytes(rng.randrange(300))

    def value(self) -> bytes | BlobRef:
        rng = self.rng
        if rng.random() < 0.1:
            return BlobRef(rng.randbytes(32), rng.randrange(2**40), rng.choice([b"", rng.randbytes(8)]))
        return bytes((rng.randrange(256),)) * rng.choice([0, 1, 3, 8, 30, 64, 120, 400])

    def changes(self, count: int, has_blobs: bool, has_deletions: bool) -> list[tuple[bytes, Any]]:
        """(key, value or None); blobs of one list have a location each, or none of them has."""
        is_placed = self.rng.random() < 0.5
        out: list[tuple[bytes, Any]] = []
        for _ in range(count):
            value: Any = self.value()
            if isinstance(value, BlobRef):
                value = value._replace(loc=self.rng.randbytes(8) if is_placed else b"") if has_blobs else b"v"
            if has_deletions and self.rng.random() < 0.3:
                value = None
            out.append((self.key(), value))
        return out

    def shape(self) -> Shape:
        return self.rng.choice(list(SHAPES.values()))

    def leaf(self, shape: Shape, count: int) -> bytes:
        """A leaf in canonical order."""
        entries = run.make_run(shape, self.changes(count, self.rng.random() < 0.3, False))
        return entries.leaf(0, len(entries.hi))

    def inner(self, bits: int) -> bytes:
        """A canonical inner node."""
        rng = self.rng
        segments: list[Segment] = []
        self._runs(segments, 0, 1 << bits)
        if not any(segment.entry_count for segment in segments):
            segments = [Segment(0, 1 << bits, 1, 2, 3, b"", b"", b"")]
        is_placed = rng.random() < 0.5
        live = [segment for segment in segments if segment.entry_count]
        links = []
        for _ in live:
            oid = rng.choice([b"\1" * 32, rng.randbytes(32)])
            links.append((oid, rng.randbytes(8) if is_placed else b""))
        return descent.inner_pack(segments, links)[0]

    def _runs(self, out: list[Segment], start: int, width: int) -> None:
        rng = self.rng
        if width > 1 and rng.random() < 0.8:
            self._runs(out, start, width // 2)
            self._runs(out, start + width // 2, width // 2)
            return
        count = rng.choice([0, 1, 200, 300, 70_000, 2**33])
        extra = rng.choice([0, 0, 0, 5, 2**20])
        size = rng.randrange(2 ** rng.choice([1, 8, 16, 33]))
        out.append(Segment(start, width, count, size if count else 0, extra if count else 0, b"", b"", b""))

    def mutated(self, data: bytes) -> bytes:
        """The same bytes with some exchanged, cut out, doubled or added."""
        rng = self.rng
        out = bytearray(data)
        for _ in range(rng.choice([1, 1, 1, 2, 4])):
            at = rng.randrange(len(out) + 1)
            what = rng.randrange(7)
            if what == 0:
                out[at : at + 1] = bytes((rng.randrange(256),))
            elif what == 1 and at < len(out):
                out[at] ^= 1 << rng.randrange(8)
            elif what == 2:
                del out[at : at + rng.randrange(1, 9)]
            elif what == 3:
                out[at:at] = rng.randbytes(rng.randrange(1, 9))
            elif what == 4:
                del out[at:]
            elif what == 5 and len(out) >= 8:
                out[rng.randrange(8)] = rng.choice([0, 1, 2, 3, 4, 6, 8, 63, 64, 127, 128, 255])
            elif what == 6 and len(out) > 12:
                at = rng.randrange(8, min(len(out), 80))
                out[at : at + 2] = rng.choice([b"\0\0", b"\xff\xff", b"\xff\x7f", b"\1\0"])
        return bytes(out)
