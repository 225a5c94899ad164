"""What lies beside an LMDB data file, and what must hold of it before a page is mapped.

LMDB trusts its file. Checked here, by plain file I/O: that the directory is a store of ours, that the
file is as long as its meta pages say (a shorter one kills the process with SIGBUS), and, through a *witness*
beside the data, that the environment has not fallen back to an older state.
"""

from __future__ import annotations

import fcntl
import os
import struct
from typing import NamedTuple

from lmdb.verify import VerifyError, verify
from xxhash import xxh3_64_digest

from kvgit_hamt import killpoints
from kvgit_hamt.backend.lmdb_state import CHECK_BYTES, LAYOUT, State
from kvgit_hamt.errors import BackendError, CorruptionError, FormatVersionError, StoreRolledBackError

DATA_NAME, LOCK_NAME, MARKER_NAME, WITNESS_NAME = "data.mdb", "lock.mdb", "FORMAT", "WITNESS"
COMPACT_NAME = "compact.tmp"
_OUR_NAMES = frozenset({DATA_NAME, LOCK_NAME, MARKER_NAME, WITNESS_NAME, COMPACT_NAME})
_MARKER = f"kvgit_hamt store\nlayout {LAYOUT}\n"
_NETWORK_TYPES = (
    "nfs", "cifs", "smb", "9p", "fuse.", "ceph", "gluster", "lustre", "afs", "beegfs", "gpfs", "ocfs2",
    "gfs2", "coda", "orangefs", "vboxsf", "virtiofs", "prl_fs", "vmhgfs", "drvfs",
)  # fmt: skip

_CREATION_PAGES = 64  # more than creation writes before its first sync
MOUNTS = "/proc/self/mounts"
_META_BYTES = 152  # page header, meta: enough for everything below
_META_MAGIC = 0xBEEFC0DE
_META_VERSION = 1  # data format of LMDB 0.9


class Head(NamedTuple):
    """What the newer meta page of an LMDB 0.9 file says."""

    page_bytes: int
    map_bytes: int
    last_page: int
    txn_id: int
    table_count: int


def _parse_meta(raw: bytes, path: str) -> Head:
    if len(raw) < _META_BYTES:
        raise CorruptionError(f"{path} ends inside its meta pages")
    magic, version = struct.unpack_from("=II", raw, 16)
    if struct.unpack_from("=I", raw, 24)[0] == _META_MAGIC:  # LMDB 1.0 has a longer page header
        raise FormatVersionError(f"{path} was written by LMDB 1.0, no store is")
    if magic != _META_MAGIC:
        raise CorruptionError(f"{path} has a damaged meta page, or is no LMDB file")
    if version != _META_VERSION:
        raise FormatVersionError(f"{path} has LMDB data format {version}, not {_META_VERSION}")
    (map_bytes,) = struct.unpack_from("=Q", raw, 32)
    (page_bytes,) = struct.unpack_from("=I", raw, 40)
    (table_count,) = struct.unpack_from("=Q", raw, 120)
    last_page, txn_id = struct.unpack_from("=QQ", raw, 136)
    if page_bytes & (page_bytes - 1) or not 256 <= page_bytes <= 65536:
        raise CorruptionError(f"{path} has a damaged meta page: pages of {page_bytes} bytes")
    return Head(page_bytes, map_bytes, last_page, txn_id, table_count)


def read_head(path: str) -> Head | None:
    """Read the meta pages by plain file I/O and check the file's length against them; None for an empty file.

    Raises:
        CorruptionError: the file was cut, or a meta page is damaged.
        FormatVersionError: not written by LMDB 0.9.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        raw = os.read(fd, _META_BYTES)
        if not raw:
            return None
        first = _parse_meta(raw, path)
        os.lseek(fd, first.page_bytes, os.SEEK_SET)
        second = _parse_meta(os.read(fd, _META_BYTES), path)
        if first.page_bytes != second.page_bytes:
            raise CorruptionError(f"{path} has a damaged meta page: the two differ in the size of a page")
        head = max(first, second, key=lambda meta: meta.txn_id)
        # The length after the meta pages: a writer in another process puts data before meta.
        file_bytes = os.fstat(fd).st_size
    finally:
        os.close(fd)
    if (head.last_page + 1) * head.page_bytes > file_bytes:
        _check_missing_tail(path, head, file_bytes)
    return head


def _check_missing_tail(path: str, head: Head, file_bytes: int) -> None:
    """Pages that were taken and given back in one transaction are never written, so a sound file may be
    shorter than its meta page says; but then no page in use lies past the end."""
    try:
        problems: list[str] = verify(path)  # type: ignore[no-untyped-call]
    except VerifyError as error:
        problems = [str(error)]
    if problems:
        raise CorruptionError(
            f"{path} was cut: it has {file_bytes} bytes of {(head.last_page + 1) * head.page_bytes} "
            f"({problems[0]})"
        )


def extend(path: str, file_bytes: int) -> None:
    """Make a data file this long, so that the next open need not verify a sound but short one.

    ``posix_fallocate`` never cuts nor overwrites what others add meanwhile.
    """
    now = os.path.getsize(path)
    if file_bytes <= now or not hasattr(os, "posix_fallocate"):
        return
    fd = os.open(path, os.O_RDWR)
    try:
        os.posix_fallocate(fd, now, file_bytes - now)
    finally:
        os.close(fd)


def check_directory(directory: str, *, create: bool) -> bool:
    """Decide what lies in a directory, touching nothing.

    Returns:
        True when a store is to be made there (see ``empty_unfinished``), False when one is there.

    Raises:
        BackendError: missing (and not ``create``), a file, or a directory of something else.
        CorruptionError: our marker is there but the data file is gone or empty.
        FormatVersionError: a store of another layout.
    """
    try:
        names = set(os.listdir(directory))
    except FileNotFoundError:
        names = set()
    except NotADirectoryError as error:
        raise BackendError(f"{directory} is a file; a store is a directory") from error
    except PermissionError as error:
        raise BackendError(f"{directory} may not be read: {error.strerror}") from error
    data_path = os.path.join(directory, DATA_NAME)
    data_bytes = os.path.getsize(data_path) if DATA_NAME in names else 0
    is_claimed = bool(names & {MARKER_NAME, WITNESS_NAME})
    if data_bytes and not is_claimed and _is_unfinished(data_path):
        data_bytes = 0
    if MARKER_NAME in names:
        _check_marker(directory)
        if not data_bytes:
            state = "empty" if DATA_NAME in names else "missing"
            raise CorruptionError(
                f"{data_path} is {state}, but {MARKER_NAME} beside it says there is a store"
            )
        return False
    if data_bytes:
        return False
    if not create:
        raise BackendError(f"there is no store at {directory}")
    foreign = sorted(name for name in names - _OUR_NAMES if not name.startswith(MARKER_NAME + "."))
    if foreign:
        raise BackendError(
            f"{directory} is no store and not empty (it holds {foreign[0]!r}); name a new directory"
        )
    return True


def empty_unfinished(directory: str) -> None:
    """Before a store is made: empty a data file whose making was broken off by a power cut.

    Creation writes meta pages and tables, syncs, and puts the marker last. So without a marker, and with a
    meta page that did not arrive, nothing was ever stored.
    """
    path = os.path.join(directory, DATA_NAME)
    if not os.path.exists(path) or not os.path.getsize(path):
        return
    with open(os.path.join(directory, LOCK_NAME), "a+b") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0)
        except OSError:  # another process is making it right now
            return
        if _is_unfinished(path) and MARKER_NAME not in os.listdir(directory):
            os.truncate(path, 0)


def _is_unfinished(path: str) -> bool:
    """Whether a meta page is missing, and the other one too or it is of one without transactions."""
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    try:
        with open(path, "rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size > _CREATION_PAGES * page_bytes:
                return False
            heads = [file.read(_META_BYTES)]
            file.seek(page_bytes)
            heads.append(file.read(_META_BYTES))
    except OSError:  # it will be said when the file is opened for good
        return False
    there = [head for head in heads if any(head)]
    try:
        return len(there) < 2 and not any(_parse_meta(head, path).txn_id for head in there)
    except (CorruptionError, FormatVersionError):
        return False


def _read_file(path: str) -> bytes:
    """The first 200 bytes of a file: all of a marker or a witness. Half as many calls as ``open`` makes."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, 200)
    finally:
        os.close(fd)


def _check_marker(directory: str) -> None:
    text = _read_file(os.path.join(directory, MARKER_NAME)).decode("utf-8", "replace")
    if text != _MARKER:
        raise FormatVersionError(
            f"{directory} is marked {text.strip()!r}, not {_MARKER.strip()!r}: it is of another version, "
            "or the marker is damaged"
        )


def write_marker(directory: str) -> None:
    """Put the marker beside the data, durably and whole: another process may be opening the store.

    Last step of creation: without it nothing is claimed.
    """
    path = os.path.join(directory, MARKER_NAME)
    part = f"{path}.{os.urandom(8).hex()}"
    with open(part, "w", encoding="utf-8", newline="") as file:
        file.write(_MARKER)
        file.flush()
        os.fsync(file.fileno())
    killpoints.reached("create.marker")
    os.replace(part, path)
    sync_directory(directory)
    sync_directory(os.path.dirname(directory))


def occupy_streams() -> None:
    """Let no file of a store become standard input, output or error, whose numbers are free where a program
    was started without them or closed them: what is printed would be written into the store."""
    fd = os.open(os.devnull, os.O_RDWR)
    while fd <= 2:
        fd = os.open(os.devnull, os.O_RDWR)
    os.close(fd)


def sync_directory(directory: str) -> None:
    """Make new names in a directory durable, where the system can."""
    if os.name == "nt":
        return
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def network_filesystem(directory: str, mounts: str = MOUNTS) -> str | None:
    """The type of the file system when its locks or maps may not hold between hosts, else None.

    One that lies on a block device of its own has a major number; the table of mounts is slow to read.
    """
    if mounts == MOUNTS and os.major(os.stat(directory).st_dev):
        return None
    best, found = "", None
    try:
        with open(mounts, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split(" ")
        point = fields[1].replace("\\040", " ").rstrip("/")
        inside = directory == point or directory.startswith(point + "/")
        if inside and len(point) >= len(best):
            best, found = point, fields[2]
    return found if found == "fuse" or (found or "").startswith(_NETWORK_TYPES) else None


_WITNESS = struct.Struct("<8sQQ16s16x")
_WITNESS_MAGIC = b"KVHWITN1"


class Witness(NamedTuple):
    """The last commit that somebody saw through: counter and sum over the refs."""

    counter: int
    refs_sum: int
    store_id: bytes


def read_witness(directory: str) -> Witness | None:
    """The witness, None when there is none or it is torn (it is written without fsync)."""
    try:
        data = _read_file(os.path.join(directory, WITNESS_NAME))
    except OSError:
        return None
    head = data[: _WITNESS.size]
    if len(data) != _WITNESS.size + CHECK_BYTES or xxh3_64_digest(head) != data[_WITNESS.size :]:
        return None
    magic, counter, refs_sum, store_id = _WITNESS.unpack(head)
    return Witness(counter, refs_sum, store_id) if magic == _WITNESS_MAGIC else None


class WitnessFile:
    """Writes the witness of one directory, through a descriptor that stays open until ``close``."""

    def __init__(self, directory: str) -> None:
        self._path = os.path.join(directory, WITNESS_NAME)
        self._fd = -1

    def write(self, state: State) -> None:
        """Note a commit that is on disk, in one write of 64 bytes.

        Not synced, so after a power cut it is older than the store, never newer. Two processes may write in
        the other order than they committed: then it is older too, which is harmless. A failure is, as well.
        """
        head = _WITNESS.pack(_WITNESS_MAGIC, state.counter, state.refs_sum, state.store_id)
        try:
            if self._fd < 0:
                self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o644)
            os.pwrite(self._fd, head + xxh3_64_digest(head), 0)
        except OSError:
            self.close()

    def close(self) -> None:
        """Let go of the file; the next ``write`` opens what then has its name."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def compare_witness(directory: str, witness: Witness | None, state: State) -> None:
    """Raise StoreRolledBackError when the store is not a successor of what the witness saw."""
    if witness is None:
        return
    if witness.store_id != state.store_id:
        problem = "holds another store than before"
    elif witness.counter > state.counter:
        problem = f"is at commit {state.counter}, but commit {witness.counter} was stored before"
    elif witness.counter == state.counter and witness.refs_sum != state.refs_sum:
        problem = f"has other refs than it had at commit {state.counter}"
    else:
        return
    raise StoreRolledBackError(
        f"{directory} {problem}: the data file was restored, or damage made LMDB fall back to an older "
        "state. If that is meant, open it once with accept_rollback=True"
    )
