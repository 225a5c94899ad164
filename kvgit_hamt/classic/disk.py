"""A store in a directory: the engine's LMDB, and plain keys beside it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeVar

from kvgit_hamt.backend.base import Batch, RefUpdate
from kvgit_hamt.backend.lmdb import LmdbBackend
from kvgit_hamt.classic.kvstore import KVStore, check_values
from kvgit_hamt.errors import BackendError, BranchMovedError, CorruptionError, StateError
from kvgit_hamt.objects import LogEntry, decode_ref, encode_log_entry
from kvgit_hamt.refs import now_us

ATTEMPTS: Final = 10_000  # lost races, each of which means that somebody else's write went through
NAME_MAX_BYTES: Final = 400  # longer keys are named by their hash: LMDB's keys have at most 511 bytes
PLAIN_NAME: Final = "kv"  # directory of the plain keys
T = TypeVar("T")


class Disk(KVStore):
    """A durable store in a directory, shared safely by threads, handles and processes of one host.

    Versions (``Versioned(Disk(path))``, ``store("disk", path=path)``) are kept by the engine in LMDB,
    as ``kvgit_hamt.open(path)`` keeps them, not under keys of this store. The methods of a KVStore
    read and write plain keys of their own beside them, each call one durable transaction.

    Args:
        directory: made when missing.
        size_limit: not used; nothing is ever evicted. For programs that name it.

    Raises:
        BackendError, CorruptionError: see LmdbBackend.
    """

    def __init__(self, directory: str | os.PathLike[str], size_limit: int | None = None) -> None:
        self.directory = os.path.abspath(os.fspath(directory))
        self._lock = threading.Lock()
        self._opened: list[LmdbBackend] = []
        self._plain: LmdbBackend | None = None
        self._is_closed = False
        self._engine = self.open_backend()  # refuse a directory of something else at once

    def open_backend(self) -> LmdbBackend:
        """A handle on the engine's store, closed with this object."""
        with self._lock:
            return self._open(self.directory)

    def _open(self, directory: str) -> LmdbBackend:
        """A handle that ``close`` will close; those that somebody closed since are forgotten."""
        if self._is_closed:
            raise StateError(f"Disk({self.directory!r}) was closed")
        backend = LmdbBackend(directory)
        self._opened = [other for other in self._opened if not other._is_closed]
        self._opened.append(backend)
        return backend

    def _keys_of_own(self) -> LmdbBackend:
        """The environment of the plain keys: refs of an LMDB store, which are compared and set."""
        with self._lock:
            if self._plain is None:
                self._plain = self._open(os.path.join(self.directory, PLAIN_NAME))
            return self._plain

    def get(self, key: str) -> bytes | None:
        """The value of a key, None if it is absent. Cost: one LMDB read."""
        stored = self._keys_of_own().get_ref(_name_of(key))
        return None if stored is None else _value_of(key, stored)

    def set(self, key: str, value: bytes) -> None:
        """Set a key. TypeError if the value is not bytes."""
        self.set_many(**{key: value})

    def get_many(self, *keys: str) -> dict[str, bytes]:
        """The values of those keys that are present, in the order asked for."""
        found = ((key, self.get(key)) for key in keys)
        return {key: value for key, value in found if value is not None}

    def set_many(self, /, **items: bytes) -> None:
        """Set several keys in one transaction. TypeError if a value is not bytes; then none is set."""
        check_values(items)
        self._write({_name_of(key): _stored_of(key, value) for key, value in items.items()})

    def items(self) -> Iterable[tuple[str, bytes]]:
        """All (key, value) pairs, as they are now. Memory: all of them."""
        for name, stored in self._keys_of_own().list_refs(""):
            key = _key_of(name, stored)
            yield key, _value_of(key, stored)

    def keys(self) -> Iterable[str]:
        """All keys, as they are now. Cost: as ``items``."""
        return [key for key, _ in self.items()]

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._keys_of_own().get_ref(_name_of(key)) is not None

    def remove(self, key: str) -> None:
        """Remove a key, if it is present."""
        self.remove_many(key)

    def remove_many(self, *keys: str) -> None:
        """Remove those of the keys that are present, in one transaction."""
        self._write(dict.fromkeys(map(_name_of, keys)))

    def cas(self, key: str, value: bytes, expected: bytes | None) -> bool:
        """Set a key in one step if it holds ``expected`` (None: if it is absent); whether it did."""
        check_values({key: value})
        old = None if expected is None else _stored_of(key, expected)
        update = RefUpdate(_name_of(key), old, _stored_of(key, value), None)
        try:
            self._keys_of_own().publish(Batch(refs=[update]))
        except BranchMovedError:
            return False
        return True

    def clear(self) -> None:
        """Remove the plain keys and every branch and tag of the engine.

        What the branches held is collected by a later gc, and until then undoable by the reflog.
        """
        plain = self._keys_of_own()
        self._write({name: None for name, _ in plain.list_refs("")})
        engine = self._engine
        for prefix in ("heads/", "tags/"):
            for name, value in engine.list_refs(prefix):
                with contextlib.suppress(BranchMovedError):  # somebody else is at it
                    log = encode_log_entry(LogEntry(decode_ref(name, value).oid, None, now_us(), "cleared"))
                    engine.publish(Batch(refs=[RefUpdate(name, value, None, log)]))

    def _write(self, values: Mapping[str, bytes | None]) -> None:
        """Set (None: remove) refs whatever they hold, in one transaction."""
        plain = self._keys_of_own()
        for _ in range(ATTEMPTS):
            old = {name: plain.get_ref(name) for name in values}
            refs = [RefUpdate(name, old[name], new, None) for name, new in values.items() if new != old[name]]
            if not refs or _succeeds(lambda refs=refs: plain.publish(Batch(refs=refs))):  # type: ignore[misc]
                return
        raise BackendError(f"{ATTEMPTS} attempts to write were lost to others; nothing was written")

    def close(self) -> None:
        """Close the files; everything opened from here raises ClosedError afterwards."""
        with self._lock:
            self._is_closed = True
            for backend in self._opened:
                backend.close()

    def __enter__(self) -> Disk:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Disk({self.directory!r})"


def _succeeds(publish: Callable[[], T]) -> bool:
    try:
        publish()
    except BranchMovedError:
        return False
    return True


def _name_of(key: str) -> str:
    """The ref that holds a key: "=" and the key, or "#" and its hash if the key is long."""
    if not isinstance(key, str):
        raise TypeError(f"Expected str as key, got {type(key).__name__} ({key!r:.60})")
    data = key.encode("utf-8", "surrogatepass")
    if len(data) <= NAME_MAX_BYTES and b"\0" not in data and data == key.encode("utf-8", "replace"):
        return "=" + key
    return "#" + hashlib.sha256(data).hexdigest()


def _stored_of(key: str, value: bytes) -> bytes:
    if _name_of(key).startswith("="):
        return value
    data = key.encode("utf-8", "surrogatepass")
    return len(data).to_bytes(4, "little") + data + value


def _value_of(key: str, stored: bytes) -> bytes:
    if _name_of(key).startswith("="):
        return stored
    return stored[4 + int.from_bytes(stored[:4], "little") :]


def _key_of(name: str, stored: bytes) -> str:
    if name.startswith("="):
        return name[1:]
    size = int.from_bytes(stored[:4], "little")
    if len(stored) < 4 + size:
        raise CorruptionError(f"the plain key {name!r} is malformed")
    return stored[4 : 4 + size].decode("utf-8", "surrogatepass")
