"""When keys were last read or made: counters by branch, in a side table that no tree contains."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Final, NamedTuple

from kvgit_hamt import wire
from kvgit_hamt.backend.base import Backend, Touch
from kvgit_hamt.errors import CorruptionError

PENDING_MAX: Final = 65_536  # keys touched between two commits; bounds memory, the coldest are forgotten
_MAX_FORKS: Final = 64  # branches made from branches; older touches than that all count as cold


class Header(NamedTuple):
    """What a branch's table says of itself, a meta value.

    Attributes:
        counter: the last number given out.
        origin, fork: the branch this one was made from, and the counter then; "" if none.
        commit, total: oid of a commit of the branch and the bytes of its values that count under the
            default rule of protection; b"" if unknown.
    """

    counter: int = 0
    origin: str = ""
    fork: int = 0
    commit: bytes = b""
    total: int = 0


def row_key(key: str) -> bytes:
    """The 16 bytes that stand for a key."""
    return blake2b(key.encode(), digest_size=16).digest()


def meta_name(branch: str) -> str:
    """The name of the meta value that holds a branch's header."""
    return "touches/" + branch


def read_header(backend: Backend, branch: str) -> Header | None:
    """The header of a branch's table, None if touches of it were never kept."""
    raw = backend.get_meta(meta_name(branch))
    if raw is None:
        return None
    fields = wire.unpack(raw, f"touches of {branch}")
    if not isinstance(fields, list) or [type(field) for field in fields] != [int, str, int, bytes, int]:
        raise CorruptionError(f"touches of {branch}: malformed")
    return Header(*fields)


def encode_header(branch: str, header: Header) -> dict[str, bytes]:
    """The meta value to write for a header."""
    return {meta_name(branch): wire.pack(list(header))}


class TouchLog:
    """The touches of one handle that its next commit will write."""

    def __init__(self, branch: str, header: Header) -> None:
        self.branch = branch
        self.header = header
        self.counter = header.counter
        self._pending: dict[str, int] = {}

    def touch(self, key: str) -> None:
        """Give a key the next number."""
        self.counter += 1
        pending = self._pending
        pending.pop(key, None)
        pending[key] = self.counter
        if len(pending) > PENDING_MAX:
            del pending[next(iter(pending))]

    def rows(self, dropped: Iterable[str] = ()) -> list[Touch]:
        """The rows to write, and to delete for ``dropped`` keys."""
        rows = [Touch(self.branch, row_key(key), number) for key, number in self._pending.items()]
        return rows + [Touch(self.branch, row_key(key), None) for key in dropped]

    def written(self, header: Header) -> None:
        """The rows and this header are stored."""
        self.header = header
        self._pending.clear()

    def numbers(self, backend: Backend) -> dict[bytes, int]:
        """Row key -> number of all touches, those of the branches it was made from as they were then,
        and those still pending."""
        tables = [(self.branch, 1 << 64)]
        header: Header | None = self.header
        while header is not None and header.origin and len(tables) < _MAX_FORKS:
            tables.append((header.origin, min(header.fork, tables[-1][1])))
            header = read_header(backend, header.origin)
        found: dict[bytes, int] = {}
        for branch, most in reversed(tables):
            rows = backend.read_touches(branch)
            found.update((key, min(number, most)) for key, number in rows.items())
        found.update((row_key(key), number) for key, number in self._pending.items())
        return found
