"""Several key-value stores as one: fast ones in front of a durable one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from kvgit_hamt.backend.base import Backend
from kvgit_hamt.backend.kv import ROOT_KEY
from kvgit_hamt.classic.kvstore import KVStore
from kvgit_hamt.errors import InvalidInputError

_FAILED: Final = object()


class Composite(KVStore):
    """Tiers of stores, fastest first; the last one is the truth.

    Reading asks the tiers in order and fills those in front of the one that knew; writing goes to the
    last one first. A tier in front that fails is passed over: it is a cache. What the last one raises
    comes out. Branches and tags are read, compared and set on the last tier alone, so no cache can
    hold an old one; and it alone is asked whether what a commit shares is still stored, since a gc
    through another object leaves caches what it took. If the last tier is a Disk, versions live in its
    LMDB and the engine's own cache stands in front of it; the tiers then cache plain keys only.

    Attributes:
        last_tier: the store that is the truth; of a Composite as last tier, its own.

    Raises:
        ValueError: no tiers.
    """

    def __init__(self, stores: Sequence[Any]) -> None:
        self._stores = list(stores)
        if not self._stores:
            raise InvalidInputError("Composite requires at least one store")
        self._last = self._stores[-1]
        self.last_tier: Any = getattr(self._last, "last_tier", self._last)
        opener = getattr(self._last, "open_backend", None)
        if callable(opener):
            self.open_backend: Callable[[], Backend] = opener

    def get(self, key: str) -> bytes | None:
        """The value of a key, None if it is absent; fills the tiers in front."""
        return self.get_many(key).get(key)

    def get_many(self, *keys: str) -> dict[str, bytes]:
        """The values of those keys that are present; fills the tiers in front."""
        found: dict[str, bytes] = {}
        missed: list[tuple[Any, list[str]]] = []
        wanted = [key for key in keys if key != ROOT_KEY]
        for tier in self._stores[:-1]:
            known = dict(_attempt({}, tier.get_many, *wanted))
            missed.append((tier, [key for key in wanted if key not in known]))
            found.update(known)
            wanted = missed[-1][1]
        if len(wanted) + (ROOT_KEY in keys):
            found.update(self._last.get_many(*wanted, *(key for key in keys if key == ROOT_KEY)))
        for tier, names in missed:
            items = {name: found[name] for name in names if name in found}
            if items:
                _attempt(None, tier.set_many, **items)
        return {key: found[key] for key in keys if key in found}

    def __contains__(self, key: object) -> bool:
        if key != ROOT_KEY:
            for tier in self._stores[:-1]:
                if _attempt(False, tier.__contains__, key):
                    return True
        return key in self._last

    def keys(self) -> Iterable[str]:
        """All keys of the last tier."""
        keys: Iterable[str] = self._last.keys()
        return keys

    def items(self) -> Iterable[tuple[str, bytes]]:
        """All pairs of the last tier."""
        items: Iterable[tuple[str, bytes]] = self._last.items()
        return items

    def set(self, key: str, value: bytes) -> None:
        """Set a key in every tier, in the last one first."""
        self._last.set(key, value)
        self._in_front(lambda tier: tier.set(key, value), [key])

    def set_many(self, /, **items: bytes) -> None:
        """Set several keys in every tier, in the last one first."""
        self._last.set_many(**items)
        self._in_front(lambda tier: tier.set_many(**items), items)

    def remove(self, key: str) -> None:
        """Remove a key from every tier."""
        self.remove_many(key)

    def remove_many(self, *keys: str) -> None:
        """Remove keys from every tier."""
        self._last.remove_many(*keys)
        self._in_front(lambda tier: tier.remove_many(*keys), ())

    def cas(self, key: str, value: bytes, expected: bytes | None) -> bool:
        """Compare and set in the last tier; the others follow if it did."""
        done = bool(self._last.cas(key, value, expected))
        if key == ROOT_KEY:
            return done
        if done:
            self._in_front(lambda tier: tier.set(key, value), [key])
        else:  # what they hold may be what misled the caller
            self._in_front(lambda tier: tier.remove(key), ())
        return done

    def clear(self) -> None:
        """Clear every tier."""
        self._last.clear()
        self._in_front(lambda tier: tier.clear(), ())

    def _in_front(self, action: Callable[[Any], object], written: Iterable[str]) -> None:
        """Do it in the tiers in front; one that fails must not keep old values of ``written``."""
        for tier in self._stores[:-1]:
            if _attempt(_FAILED, action, tier) is _FAILED:
                _attempt(None, tier.remove_many, *written)

    def __repr__(self) -> str:
        return f"Composite({self._stores!r})"


def _attempt(otherwise: Any, action: Callable[..., Any], *args: Any, **more: Any) -> Any:
    """What a tier in front gives; ``otherwise`` if it fails: it is only a cache."""
    try:
        return action(*args, **more)
    except Exception:  # noqa: BLE001 - a tier is the user's code
        return otherwise
