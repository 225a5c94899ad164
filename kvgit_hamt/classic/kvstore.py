"""Key-value stores from str to bytes: the interface to bring your own, and one in memory."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping


class KVStore(ABC):
    """What a store of your own offers; the engine keeps everything it has in it.

    Any object with these eleven methods will do, derived from this class or not. Keys are str, values
    bytes. ``cas`` must be atomic against every other writer of the store; nothing else must.
    """

    @abstractmethod
    def get(self, key: str) -> bytes | None:
        """The value of a key, None if it is absent."""

    @abstractmethod
    def set(self, key: str, value: bytes) -> None:
        """Set a key. TypeError if the value is not bytes."""

    @abstractmethod
    def get_many(self, *keys: str) -> Mapping[str, bytes]:
        """The values of those keys that are present."""

    @abstractmethod
    def set_many(self, **items: bytes) -> None:
        """Set several keys. TypeError if a value is not bytes; then none is set."""

    @abstractmethod
    def items(self) -> Iterable[tuple[str, bytes]]:
        """All (key, value) pairs."""

    @abstractmethod
    def keys(self) -> Iterable[str]:
        """All keys."""

    @abstractmethod
    def __contains__(self, key: str) -> bool:
        """Whether a key is present."""

    @abstractmethod
    def remove(self, key: str) -> None:
        """Remove a key, if it is present."""

    @abstractmethod
    def remove_many(self, *keys: str) -> None:
        """Remove those of the keys that are present."""

    @abstractmethod
    def cas(self, key: str, value: bytes, expected: bytes | None) -> bool:
        """Set a key in one step if it holds ``expected``; None: if it is absent.

        Returns:
            whether it was set.
        """

    @abstractmethod
    def clear(self) -> None:
        """Remove everything, versions included."""


def check_values(items: Mapping[str, bytes]) -> None:
    """Raise TypeError unless all keys are str and all values bytes."""
    for key, value in items.items():
        if not isinstance(key, str):
            raise TypeError(f"Expected str as key, got {type(key).__name__} ({key!r:.60})")
        if not isinstance(value, bytes):
            raise TypeError(f"Expected bytes for {key!r}, got {type(value).__name__}")


class Memory(KVStore):
    """A store in a dict. Safe for threads; gone with the object."""

    def __init__(self) -> None:
        self._items: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        """The value of a key, None if it is absent."""
        return self._items.get(key)  # one dict operation, which is atomic

    def set(self, key: str, value: bytes) -> None:
        """Set a key. TypeError if the value is not bytes."""
        check_values({key: value})
        with self._lock:
            self._items[key] = value

    def get_many(self, *keys: str) -> dict[str, bytes]:
        """The values of those keys that are present, in the order asked for."""
        with self._lock:
            items = self._items
            return {key: items[key] for key in keys if key in items}

    def set_many(self, /, **items: bytes) -> None:
        """Set several keys in one step. TypeError if a value is not bytes; then none is set."""
        check_values(items)
        with self._lock:
            self._items.update(items)

    def items(self) -> list[tuple[str, bytes]]:
        """All (key, value) pairs, as they are now."""
        with self._lock:
            return list(self._items.items())

    def keys(self) -> list[str]:
        """All keys, as they are now."""
        with self._lock:
            return list(self._items)

    def __contains__(self, key: object) -> bool:
        return key in self._items

    def remove(self, key: str) -> None:
        """Remove a key, if it is present."""
        with self._lock:
            self._items.pop(key, None)

    def remove_many(self, *keys: str) -> None:
        """Remove those of the keys that are present, in one step."""
        with self._lock:
            for key in keys:
                self._items.pop(key, None)

    def cas(self, key: str, value: bytes, expected: bytes | None) -> bool:
        """Set a key in one step if it holds ``expected`` (None: if it is absent); whether it did."""
        check_values({key: value})
        with self._lock:
            if self._items.get(key) != expected:
                return False
            self._items[key] = value
            return True

    def clear(self) -> None:
        """Remove everything, versions included."""
        with self._lock:
            self._items.clear()

    def __repr__(self) -> str:
        return f"<Memory {len(self._items)} keys>"
