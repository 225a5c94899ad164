"""Live: a mapping without versions, for what need not be kept."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any


class Live(MutableMapping[str, Any]):
    """A dict with the methods of a Staged that make sense without commits. Every edit counts at once."""

    def __init__(self) -> None:
        self._data: dict[str, Any] = {}

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, ``default`` if it is absent."""
        return self._data.get(key, default)

    def get_many(self, *keys: str) -> dict[str, Any]:
        """The values of those keys that are present."""
        return {key: self._data[key] for key in keys if key in self._data}

    def keys(self, prefix: str = "") -> set[str]:  # type: ignore[override]
        """The keys that start with ``prefix``, as a set of its own. Cost: the number of keys."""
        return {key for key in self._data if key.startswith(prefix)} if prefix else set(self._data)

    def __contains__(self, key: object) -> bool:
        return key in self._data

    def __getitem__(self, key: str) -> Any:
        return self._data[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._data[key] = value

    def __delitem__(self, key: str) -> None:
        del self._data[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def __repr__(self) -> str:
        return f"<Live {len(self._data)} keys>"
