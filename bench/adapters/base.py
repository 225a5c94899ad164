"""What a rival has to do. Each adapter does it by the fastest way that the rival documents."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

Key = Any  # str or bytes, as the rival takes it
Pair = tuple[Key, bytes]


class Unsupported(Exception):
    """The rival does not have this, or not in a form that can be measured; the text says why."""


class Adapter(ABC):
    """One store of one rival in a directory of its own.

    Attributes:
        title: heads its column.
        how: how it is run, in a sentence or two; goes into the results.
        modules: what it imports, in order.
        takes_bytes: whether its keys are bytes; they are made before the clock starts.
        syncs: whether a commit can be made to wait for the disk.
    """

    title: ClassVar[str]
    how: ClassVar[str]
    modules: ClassVar[tuple[str, ...]]
    syncs: ClassVar[bool] = True
    takes_bytes: ClassVar[bool] = False

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    @abstractmethod
    def versions(cls) -> dict[str, str]:
        """Versions of what is used. Importing it here must fail (ImportError) where it is not installed."""

    @classmethod
    def import_library(cls) -> None:
        """Import what the other methods need."""
        for module in cls.modules:
            importlib.import_module(module)

    def key(self, text: str) -> Key:
        """A key as the rival takes it."""
        return text.encode() if self.takes_bytes else text

    # the store as a whole

    @abstractmethod
    def load(self, pairs: list[Pair]) -> None:
        """Make the store and put the pairs into it as one durable commit; closed afterwards."""

    def load_sorted(self, pairs: list[Pair]) -> None:
        """The same with the pairs sorted first, for rivals whose cost depends on it."""
        raise Unsupported("load chooses the order itself")

    @abstractmethod
    def open(self, durable: bool = True) -> None:
        """Open the store that ``load`` made. ``durable``: a commit returns when it is on disk."""

    @abstractmethod
    def close(self) -> None:
        """Close it."""

    # reads of the main branch as it is when the first of them is called

    def first_get(self, key: Key) -> bytes | None:
        """The value of a key in a store that has just been opened."""
        return self.getter()(key)

    def cold_getter(self) -> Callable[[Key], bytes | None]:
        """What looks one key up, fastest for the first thousand after opening."""
        return self.getter()

    @abstractmethod
    def getter(self) -> Callable[[Key], bytes | None]:
        """What looks one key up, fastest first."""

    @abstractmethod
    def get_many(self, keys: Sequence[Key]) -> dict[Key, bytes]:
        """The values of many keys."""

    @abstractmethod
    def items(self) -> Iterable[Pair]:
        """All pairs, in any order."""

    @abstractmethod
    def list_directory(self, prefix: str) -> list[Key]:
        """The keys that start with a prefix ending in "/"."""

    # writes to the main branch

    @abstractmethod
    def commit(self, pairs: list[Pair]) -> Any:
        """Set these keys in one commit; the commit's id, None for stores without versions."""

    # versions

    def diff_keys(self, old: Any, new: Any) -> list[Key]:
        """The keys in which two commits differ."""
        raise Unsupported("no versions")

    def diff_values(self, old: Any, new: Any) -> list[tuple[Key, bytes | None, bytes | None]]:
        """The keys in which two commits differ, with old and new value."""
        raise Unsupported("no versions")

    def branch(self, name: str) -> None:
        """Create a branch at the main branch."""
        raise Unsupported("no versions")

    def diverge(self, name: str, ours: list[Pair], theirs: list[Pair]) -> None:
        """Commit ``theirs`` to a new branch and ``ours`` to the main branch."""
        raise Unsupported("no versions")

    def merge(self, name: str) -> None:
        """Merge that branch into the main branch."""
        raise Unsupported("no versions")

    def log(self, count: int) -> list[Any]:
        """The ids (and what else comes with them) of the newest commits of the main branch."""
        raise Unsupported("no versions")
