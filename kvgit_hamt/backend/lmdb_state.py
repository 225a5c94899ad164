"""What the LMDB backend keeps for itself: checked values, the store's state, reservations.

Spec: docs/format.md, "LMDB".
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from xxhash import xxh3_64_digest, xxh3_64_intdigest

from kvgit_hamt.backend.base import Kind, Touch
from kvgit_hamt.backend.lmdb_tail import EMPTY_TAIL, SEQUENCE, TAIL_MAX_BYTES, Tail
from kvgit_hamt.errors import CorruptionError, FormatVersionError

LAYOUT = 1  # of the databases and their keys; another number is refused
CHECK_BYTES = 8  # xxh3_64 behind ref, reflog, meta and pending values
SUM_MASK = (1 << 64) - 1
NONCE_COUNT = 8  # commits that can be told apart after an I/O error
# Keys of the main database, beside the names of the tables. Only the others open with one of these signs.
STATE_KEY = b"state"  # between the names of the tables: a commit is to change one page
REF, META, PENDING = b"@", b"!", b"+"


def protect(key: bytes, value: bytes) -> bytes:
    """A value as it is stored: with 8 bytes of xxh3_64 over it, seeded from its key."""
    return value + xxh3_64_digest(value, xxh3_64_intdigest(key))


def unprotect(key: bytes, stored: bytes, what: str) -> bytes:
    """The value behind ``protect``.

    Raises:
        CorruptionError: a bit of the key or the value was flipped.
    """
    value = stored[:-CHECK_BYTES]
    if xxh3_64_digest(value, xxh3_64_intdigest(key)) != stored[-CHECK_BYTES:]:
        raise CorruptionError(f"{what} {key!r} is damaged: its stored bytes fail the check")
    return value


def check_number(stored: bytes) -> int:
    """The check of a protected value as a number: what a ref adds to ``State.refs_sum``."""
    return int.from_bytes(stored[-CHECK_BYTES:], "little")


_STATE = struct.Struct(f"<4sIQQQQ16s{8 * NONCE_COUNT}s")
_STATE_SEED = xxh3_64_intdigest(STATE_KEY)


class State(NamedTuple):
    """What every write transaction moves on, kept as one value in the meta database.

    Attributes:
        counter: write transactions since creation.
        next_place: the place of the next record.
        refs_sum: sum of ``check_number`` over all refs, modulo 2**64.
        log_sequence: number of the next reflog entry.
        store_id: 16 random bytes of creation.
        nonces: 8 random bytes of each of the last commits, newest first.
        tail: what of ``commits`` and ``reflog`` is not in these tables yet.
    """

    counter: int
    next_place: int
    refs_sum: int
    log_sequence: int
    store_id: bytes
    nonces: bytes
    tail: Tail = EMPTY_TAIL

    def encode(self) -> bytes:
        """The bytes under the state key."""
        fields = _STATE.pack(b"KVST", LAYOUT, *self[:-1]) + self.tail.encode()
        return fields + xxh3_64_digest(fields, _STATE_SEED)

    def after_commit(self) -> State:
        """The next state: counted on, with a nonce of its own."""
        nonces = (os.urandom(8) + self.nonces)[: 8 * NONCE_COUNT]
        return self._replace(counter=self.counter + 1, nonces=nonces)


def _decode_state(stored: bytes) -> State:
    value = unprotect(STATE_KEY, stored, "meta value")
    if value[:4] != b"KVST" or len(value) < 8:
        raise CorruptionError("the store's state is not one of ours")
    layout = int.from_bytes(value[4:8], "little")
    if layout != LAYOUT:
        raise FormatVersionError(f"the store has layout {layout}; this version reads layout {LAYOUT}")
    if len(value) < _STATE.size:
        raise CorruptionError("the store's state is cut")
    fields = [*_STATE.unpack_from(value)[2:], Tail.decode(value[_STATE.size :])]
    return State(*fields)


class Tables(NamedTuple):
    """Handles of the named databases, and of the main one, which holds the small values."""

    records: Any
    commits: Any
    blobs: Any
    nodes: Any
    reflog: Any
    touches: Any
    main: Any


NAMED = Tables._fields[:-1]


_last: tuple[bytes, State] = b"", State(0, 0, 0, 0, b"", b"")  # last encoded: most often what is read next


def index_of(tables: Tables, kind: Kind) -> Any:
    """The table of an index; the newest commits are in the tail, see ``find_indexed``."""
    if kind == "commit":
        return tables.commits
    return tables.blobs if kind == "blob" else tables.nodes


def find_indexed(txn: Any, tables: Tables, tail: Tail, kind: Kind, oid: bytes) -> bytes | None:
    """The place of an indexed object, None when there is none."""
    loc = tail.find(oid) if kind == "commit" else None
    if loc is None:
        loc = txn.get(oid, None, index_of(tables, kind))
    return loc


def read_state(txn: Any, tables: Tables) -> State:
    """The state as the transaction sees it."""
    stored = txn.get(STATE_KEY, None, tables.main)
    known = _last
    if stored == known[0]:
        return known[1]
    if stored is None:
        raise CorruptionError("the store's state is missing")
    return _decode_state(stored)


def put_state(txn: Any, tables: Tables, state: State) -> None:
    """Write the state."""
    global _last  # noqa: PLW0603 (equal bytes mean an equal state, whoever wrote them)
    stored = state.encode()
    txn.put(STATE_KEY, stored, db=tables.main)
    _last = stored, state


def flush_tail(txn: Any, tables: Tables, tail: Tail, sequence: int) -> Tail:
    """Move what is in a tail to the tables; ``sequence``: number of the next log entry. The empty tail."""
    for oid, loc in tail.links():
        txn.put(oid, loc, db=tables.commits)
    for key, entry in tail.rows(sequence):
        txn.put(key, protect(key, entry), db=tables.reflog)
    return EMPTY_TAIL


def add_commit(txn: Any, tables: Tables, tail: Tail, link: tuple[bytes, bytes], sequence: int) -> Tail:
    """Enter a commit (oid, place) that is in no index yet; the new tail."""
    tail = tail.with_commit(*link)
    return tail if tail.size <= TAIL_MAX_BYTES else flush_tail(txn, tables, tail, sequence)


def add_log(txn: Any, tables: Tables, tail: Tail, row: tuple[bytes, bytes], sequence: int) -> Tail:
    """Enter a reflog entry (name of the ref, entry), which is number ``sequence``; the new tail."""
    name, entry = row
    if len(name) + len(entry) <= TAIL_MAX_BYTES:
        tail = tail.with_log(name, entry)
        return tail if tail.size <= TAIL_MAX_BYTES else flush_tail(txn, tables, tail, sequence + 1)
    key = name + b"\0" + SEQUENCE.pack(sequence)
    txn.put(key, protect(key, entry), db=tables.reflog)
    return flush_tail(txn, tables, tail, sequence)


def small_rows(txn: Any, tables: Tables, sign: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
    """(key, stored value) of the small values whose key starts with ``sign``, past ``after``, in order."""
    with txn.cursor(tables.main) as cursor:
        more = cursor.set_range(after + b"\0" if after else sign)
        while more and cursor.key().startswith(sign):
            yield cursor.item()
            more = cursor.next()


def sum_refs(txn: Any, tables: Tables) -> int:
    """What ``State.refs_sum`` must be."""
    return sum(check_number(stored) for _, stored in small_rows(txn, tables, REF)) & SUM_MASK


_TOUCH = struct.Struct("<Q")


def put_touches(txn: Any, tables: Tables, touches: Iterable[Touch]) -> None:
    """Set and delete rows: table, NUL, 16 bytes -> counter (u64), check."""
    for table, key, number in touches:
        name = table.encode() + b"\0" + key
        if number is None:
            txn.delete(name, db=tables.touches)
        else:
            txn.put(name, protect(name, _TOUCH.pack(number)), db=tables.touches)


def read_touches(txn: Any, tables: Tables, table: str) -> dict[bytes, int]:
    """All rows of a table."""
    start = table.encode() + b"\0"
    found = {}
    with txn.cursor(tables.touches) as cursor:
        more = cursor.set_range(start)
        while more and cursor.key().startswith(start):
            name, stored = cursor.item()
            (found[name[len(start) :]],) = _TOUCH.unpack(unprotect(name, stored, "touch"))
            more = cursor.next()
    return found


_HOLDER = struct.Struct("<QQQQQ")
_KEPT = struct.Struct("<Q16s")


class Holder(NamedTuple):
    """The process behind a reservation, told apart from a later one with the same pid."""

    pid: int
    start: int  # clock ticks after boot; 0 when unknown
    namespace: int  # inode of the pid namespace; 0 when unknown
    boot: int  # hash of the boot id; 0 when unknown
    taken: int  # places
    until_s: int = 0  # seconds since 1970: kept so long although its process is gone
    name: bytes = b""  # 16 bytes by which a kept one is found again

    @classmethod
    def me(cls, taken: int) -> Holder:
        """This process."""
        return cls(os.getpid(), _process_start(os.getpid()) or 0, _pid_namespace(), _boot(), taken)

    @classmethod
    def decode(cls, value: bytes) -> Holder:
        """Read back what ``encode`` made."""
        if len(value) not in (_HOLDER.size, _HOLDER.size + _KEPT.size):
            raise CorruptionError("a reservation is not one of ours")
        more = _KEPT.unpack_from(value, _HOLDER.size) if len(value) > _HOLDER.size else ()
        return cls(*_HOLDER.unpack_from(value), *more)

    def encode(self) -> bytes:
        """40 bytes, 64 with a name."""
        return _HOLDER.pack(*self[:5]) + (_KEPT.pack(self.until_s, self.name) if self.name else b"")

    def is_alive(self) -> bool:
        """Whether the process still runs, or its work is kept all the same."""
        return time.time() < self.until_s or self.is_running()

    def is_running(self) -> bool:
        """Whether the process still runs. Another container's processes cannot be seen: they count as
        alive until the machine boots again."""
        if self.boot and _boot() and self.boot != _boot():
            return False
        if self.namespace != _pid_namespace() or os.name == "nt":
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        start = _process_start(self.pid)
        return start is not None and (not start or not self.start or start == self.start)


def _process_start(pid: int) -> int | None:
    """Start time in ticks, 0 when the system does not tell, None when the process is dead or a zombie."""
    if not os.path.exists("/proc/self/stat"):
        return 0
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def _pid_namespace() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def _boot() -> int:
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return xxh3_64_intdigest(file.read())
    except OSError:
        return 0
