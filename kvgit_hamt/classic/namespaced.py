"""Namespaced: the keys under ``name/`` of a mapping, as a mapping of their own."""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, Mapping, MutableMapping, ValuesView
from inspect import signature
from typing import Any

from kvgit_hamt.classic.staged import Staged
from kvgit_hamt.errors import InvalidInputError
from kvgit_hamt.snapshot import TreeView
from kvgit_hamt.stage import Stage


class Namespaced(MutableMapping[str, Any]):
    """A view of the keys ``name/..`` of a mapping. A namespace in a namespace is ``outer/inner/..``.

    Iteration, ``keys``, ``len`` and ``clear`` are about the direct children, keys without a further
    "/"; ``descendant_keys`` gives all. Over a mapping that lists keys by prefix (Staged, Worktree,
    Snapshot, Live) everything costs what the namespace holds, not what the mapping holds.

    Args:
        store: any mapping; over one that is read-only (a Snapshot), edits raise TypeError.
        namespace: without "/".

    Raises:
        InvalidInputError, a ValueError: a "/" in the name. TypeError: not a mapping, or a name that is
        no str.
    """

    def __init__(self, store: Mapping[str, Any], namespace: str) -> None:
        if not isinstance(namespace, str):
            raise TypeError(f"a namespace's name is a str, not {type(namespace).__name__}")
        if "/" in namespace:
            raise InvalidInputError(f"Namespace names cannot contain '/': {namespace!r}; nest them instead")
        if not isinstance(store, Mapping):
            raise TypeError(f"Namespaced requires a mapping, not {type(store).__name__}")
        if isinstance(store, Namespaced):
            self.namespace: str = f"{store.namespace}/{namespace}"
            self._store: Any = store._store
        else:
            self.namespace = namespace
            self._store = store
        self._prefix = self.namespace + "/"
        self._lists_by_prefix = _takes_prefix(self._store.keys) and _takes_prefix(self._store.items)

    def __repr__(self) -> str:
        return f"Namespaced({self._store!r}, {self.namespace!r})"

    # reading

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key of the namespace, ``default`` if it is absent."""
        return self._store.get(self._prefix + key, default)

    def get_many(self, *keys: str) -> dict[str, Any]:
        """The values of those keys that are present."""
        names = [self._prefix + key for key in keys]
        store = self._store
        if isinstance(store, TreeView):
            found: Mapping[str, Any] = store.get_many(names)
        elif hasattr(store, "get_many"):
            found = store.get_many(*names)
        else:
            found = {name: store[name] for name in names if name in store}
        return {name[len(self._prefix) :]: value for name, value in found.items()}

    def _all(self) -> Iterator[str]:
        """Keys of the mapping that lie in the namespace or below it."""
        keys: Iterable[str] = self._store.keys(self._prefix) if self._lists_by_prefix else self._store.keys()
        return (key for key in keys if key.startswith(self._prefix))

    def keys(self) -> set[str]:  # type: ignore[override]
        """The direct children, as a set of its own."""
        start = len(self._prefix)
        return {key[start:] for key in self._all() if self._is_child(key)}

    def _is_child(self, key: str) -> bool:
        return len(key) > len(self._prefix) and key.find("/", len(self._prefix)) < 0

    def descendant_keys(self) -> Iterator[str]:
        """All keys below the namespace, those of namespaces in it by their path from here."""
        start = len(self._prefix)
        return (key[start:] for key in self._all())

    def items(self) -> NamespacedItems:
        """A view of the (key, value) pairs of the direct children."""
        return NamespacedItems(self)

    def values(self) -> NamespacedValues:
        """A view of the values of the direct children."""
        return NamespacedValues(self)

    def _pairs(self) -> Iterator[tuple[str, Any]]:
        start = len(self._prefix)
        if not self._lists_by_prefix:
            return ((key, self[key]) for key in self.keys())
        pairs: Iterable[tuple[str, Any]] = self._store.items(self._prefix)
        return ((key[start:], value) for key, value in pairs if self._is_child(key))

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._prefix + key in self._store

    def __getitem__(self, key: str) -> Any:
        return self._store[self._prefix + key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return sum(map(self._is_child, self._all()))

    # editing

    def __setitem__(self, key: str, value: Any) -> None:
        self._store[self._prefix + key] = value

    def __delitem__(self, key: str) -> None:
        del self._store[self._prefix + key]

    def clear(self) -> None:
        """Delete the direct children; what lies in namespaces below stays."""
        names = [key for key in self._all() if self._is_child(key)]
        if isinstance(self._store, Staged):
            self._store.remove_known(names)
        elif isinstance(self._store, Stage):
            self._store.delete_many(names)
        else:
            for name in names:
                del self._store[name]


class NamespacedItems(ItemsView[str, Any]):
    """The (key, value) pairs of a namespace's direct children."""

    def __init__(self, namespaced: Namespaced) -> None:
        super().__init__(namespaced)
        self._namespaced = namespaced

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return self._namespaced._pairs()


class NamespacedValues(ValuesView[Any]):
    """The values of a namespace's direct children."""

    def __init__(self, namespaced: Namespaced) -> None:
        super().__init__(namespaced)
        self._namespaced = namespaced

    def __iter__(self) -> Iterator[Any]:
        return (value for _, value in self._namespaced._pairs())


def _takes_prefix(method: Any) -> bool:
    """Whether a mapping's ``keys`` or ``items`` can be asked for a prefix."""
    try:
        return "prefix" in signature(method).parameters
    except (TypeError, ValueError):  # a method of C that does not say what it takes
        return False
