"""The tail: the newest commits' index entries and reflog entries, kept inside the state.

Every commit rewrites the state, and with it one page. Its entries in the tables ``commits`` and ``reflog``
would be two to four pages more; so they wait in the state, and move to their tables in groups. A commit or a
log entry lies in the tail or in its table, never in both. Spec: docs/format.md, "LMDB", "Tail".
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from kvgit_hamt.errors import CorruptionError
from kvgit_hamt.oid import OID_BYTES
from kvgit_hamt.wire import PLACE_BYTES

TAIL_MAX_BYTES = (
    1_800  # as a part of the state it must fit half a page: LMDB gives longer values one of their own
)
_ENTRY_BYTES = OID_BYTES + PLACE_BYTES
_COUNTS = struct.Struct("<HH")
_LENGTHS = struct.Struct("<HH")
SEQUENCE = struct.Struct(">Q")


class Tail(NamedTuple):
    """Entries that are not in their tables yet, oldest first.

    Attributes:
        commits: oid and place of each commit, one after the other.
        log: for each reflog entry two lengths (u16), the name of the ref, and the entry.
        log_count: how many; the last has the number ``State.log_sequence`` - 1.
    """

    commits: bytes = b""
    log: bytes = b""
    log_count: int = 0

    def encode(self) -> bytes:
        """The bytes behind the fields of the state."""
        return _COUNTS.pack(len(self.commits) // _ENTRY_BYTES, self.log_count) + self.commits + self.log

    @classmethod
    def decode(cls, data: bytes) -> Tail:
        """Read back what ``encode`` made; CorruptionError if it is none."""
        commit_count, log_count = _COUNTS.unpack_from(data) if len(data) >= _COUNTS.size else (1, 0)
        end = _COUNTS.size + commit_count * _ENTRY_BYTES
        if len(data) < end:
            raise CorruptionError("the store's state ends inside its tail")
        return cls(data[_COUNTS.size : end], data[end:], log_count)

    def find(self, oid: bytes) -> bytes | None:
        """The place of a commit, None if it is not here."""
        at = self.commits.find(oid)
        while at >= 0 and at % _ENTRY_BYTES:
            at = self.commits.find(oid, at + 1)
        return None if at < 0 else self.commits[at + OID_BYTES : at + _ENTRY_BYTES]

    def links(self) -> list[tuple[bytes, bytes]]:
        """(oid, place) of the commits, by oid."""
        data = self.commits
        return sorted(
            (data[at : at + OID_BYTES], data[at + OID_BYTES : at + _ENTRY_BYTES])
            for at in range(0, len(data), _ENTRY_BYTES)
        )

    def entries(self) -> list[tuple[bytes, bytes]]:
        """(name, entry) of the reflog entries, oldest first; CorruptionError if they are malformed."""
        found = []
        at, data = 0, self.log
        for _ in range(self.log_count):
            name_bytes, entry_bytes = _LENGTHS.unpack(
                data[at : at + _LENGTHS.size].ljust(_LENGTHS.size, b"\0")
            )
            middle = at + _LENGTHS.size + name_bytes
            at = middle + entry_bytes
            found.append((data[middle - name_bytes : middle], data[middle:at]))
        if at != len(data):
            raise CorruptionError("the tail of the store's state is malformed")
        return found

    def log_of(self, name: bytes) -> list[bytes]:
        """The entries of one ref, newest first."""
        return [entry for other, entry in self.entries() if other == name][::-1]

    def rows(self, log_sequence: int) -> list[tuple[bytes, bytes]]:
        """(key, entry) of the reflog entries as the table has them, oldest first."""
        named = enumerate(self.entries(), log_sequence - self.log_count)
        return [(name + b"\0" + SEQUENCE.pack(number), entry) for number, (name, entry) in named]

    def with_commit(self, oid: bytes, loc: bytes) -> Tail:
        """With one more commit."""
        return Tail(self.commits + oid + loc, self.log, self.log_count)

    def with_log(self, name: bytes, entry: bytes) -> Tail:
        """With one more reflog entry, at most 65,535 bytes long."""
        data = self.log + _LENGTHS.pack(len(name), len(entry)) + name + entry
        return Tail(self.commits, data, self.log_count + 1)

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return len(self.commits) + len(self.log)


EMPTY_TAIL = Tail()
