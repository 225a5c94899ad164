"""Pending edits over one tree: the writable mapping, before anything is committed."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any, Final, cast

from kvgit_hamt import diff, hamt
from kvgit_hamt.codec import Codec
from kvgit_hamt.errors import InvalidInputError
from kvgit_hamt.hamt import Tree
from kvgit_hamt.results import Change, Status, make_change
from kvgit_hamt.snapshot import TreeView, check_length, encode_key, encode_keys

_ABSENT: Final = object()


class Stage(TreeView, MutableMapping[str, Any]):
    """A mapping over a tree with edits that stay in memory.

    Values are encoded when they are set, so a value that cannot be stored is refused at once, and
    later changes of a mutable object do not count until it is set again.

    Memory: the pending edits; never the keys of the tree.
    """

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._pending: dict[bytes, bytes | None] = {}
        self._was_there: dict[bytes, bool] = {}  # of pending keys: whether the tree has them

    @property
    def has_changes(self) -> bool:
        """Whether any edit is pending."""
        return bool(self._pending)

    def _set_tree(self, tree: Tree) -> None:
        self._tree = tree
        self._was_there.clear()

    # reading: pending edits over the base

    def _find(self, key: bytes) -> bytes | None:
        if self._pending:
            pending = self._pending.get(key, _ABSENT)
            if pending is not _ABSENT:
                return cast("bytes | None", pending)
        return super()._find(key)

    def _find_many(self, keys: list[bytes]) -> dict[bytes, bytes]:
        pending = self._pending
        found = super()._find_many([key for key in keys if key not in pending])
        for key in keys:
            data = pending.get(key)
            if data is not None:
                found[key] = data
        return found

    def _content_oid(self) -> bytes | None:
        return None if self._pending else super()._content_oid()

    def _count(self) -> int:
        total = super()._count()
        for key, data in self._pending.items():
            total += (data is not None) - self._in_base(key)
        return total

    def _in_base(self, key: bytes) -> bool:
        known = self._was_there.get(key)
        if known is None:
            known = hamt.get(self._store, self._store.shape, self._tree, key) is not None
            self._was_there[key] = known
        return known

    @property
    def byte_size(self) -> int:
        """Bytes of all keys and stored values. Cost: one node read, and a lookup for each pending edit."""
        total = super().byte_size
        for key, data in self._pending.items():
            old = hamt.get(self._store, self._store.shape, self._tree, key)
            if old is not None:
                total -= len(key) + (len(old) if isinstance(old, bytes) else old.length)
            if data is not None:
                total += len(key) + len(data)
        return total

    def sample(self, count: int, seed: int | None = None) -> list[tuple[str, Any]]:
        """As for a snapshot, pending edits included; they cost a lookup each."""
        if not self._pending or count < 0:
            return super().sample(count, seed)
        rng = random.Random(seed)
        mine = sorted(key for key, data in self._pending.items() if data is not None)
        hidden = sum(self._in_base(key) for key in self._pending)
        ranks = rng.sample(range(len(self)), min(count, len(self)))
        wanted = sum(rank >= len(mine) for rank in ranks)
        others = super().sample(wanted + hidden, rng.getrandbits(64))
        drawn = [item for item in others if item[0].encode() not in self._pending][:wanted]
        drawn += [(mine[rank].decode(), self[mine[rank].decode()]) for rank in ranks if rank < len(mine)]
        rng.shuffle(drawn)
        return drawn

    def _keys(self, prefix: bytes) -> Iterator[str]:
        if not self._pending:
            return super()._keys(prefix)
        return (key for key, _ in self._raw_items(prefix))

    def _items(self, prefix: bytes) -> Iterator[tuple[str, Any]]:
        if not self._pending:
            return super()._items(prefix)
        decode = self._codec.decode_for
        return ((key, decode(key, data)) for key, data in self._raw_items(prefix))

    def _raw_items(self, prefix: bytes) -> Iterator[tuple[str, bytes]]:
        pending = dict(self._pending)
        for text, data in super()._raw_items(prefix):
            if not pending or text.encode() not in pending:
                yield text, data
        for key, value in pending.items():
            if value is not None and key.startswith(prefix):
                yield key.decode(), value

    # editing

    def __setitem__(self, key: str, value: Any) -> None:
        """Set a key. EncodeError if the codec cannot hold the value: then nothing changes."""
        data = encode_key(key)
        self._check_open()
        self._pending[data] = self._codec.encode_for(key, value)

    def __delitem__(self, key: str) -> None:
        """Delete a key; KeyError if it is absent. Cost: one lookup."""
        data = encode_key(key)
        if self._find(data) is None:
            raise KeyError(key)
        if self._in_base(data):
            self._pending[data] = None
        else:
            del self._pending[data]

    def delete_many(self, keys: Iterable[str]) -> int:
        """Delete those of the keys that are present; how many were. Cost: each node on the way once."""
        wanted = [encode_key(key) for key in keys]
        there = super()._find_many([key for key in wanted if key not in self._was_there])
        self._was_there.update((key, key in there) for key in wanted if key not in self._was_there)
        count = 0
        for key in dict.fromkeys(wanted):
            is_there = self._was_there[key]
            count += self._pending.get(key) is not None if key in self._pending else is_there
            if is_there:
                self._pending[key] = None
            else:
                self._pending.pop(key, None)
        return count

    def update(self, other: Any = (), /, **more: Any) -> None:
        """Set many keys; all are encoded first, so a value that fails leaves everything as it was."""
        if isinstance(other, Mapping):
            pairs = list(other.items())
        else:
            pairs = [(key, other[key]) for key in other.keys()] if hasattr(other, "keys") else list(other)  # noqa: SIM118
        pairs += more.items()
        encoded = {encode_key(key): self._codec.encode_for(key, value) for key, value in pairs}
        self._check_open()
        self._pending.update(encoded)

    def clear(self) -> None:
        """Delete every key (pending, as any edit). Memory and time follow the number of keys."""
        keys = [*self._pending, *(encode_key(key) for key in self)]
        self._pending = {key: None for key in keys if self._in_base(key)}

    def delete_prefix(self, prefix: str) -> int:
        """Delete every key that starts with ``prefix``; how many there were.

        Cost: the nodes of that directory; memory for its keys.
        """
        return self.delete_many(list(self.keys(prefix)))

    def copy_prefix(self, source: str, target: str, of: TreeView | None = None) -> int:
        """Make what lies under ``target`` a copy of what lies under ``source``; how many edits that takes.

        Keys under ``target`` that have no counterpart are deleted. Values are copied as stored, without
        decoding; an out-of-line value is not stored twice.

        Args:
            source, target: prefixes; the rest of each key is kept.
            of: take the source from another view of the same store, such as an older snapshot. With
                ``source == target`` that restores a directory, and only what differs is edited: subtrees
                that the two states share are neither read nor written.

        Raises:
            InvalidInputError: ``of`` belongs to another store, or one prefix lies inside the other.
            InvalidKeyError: a copied key would be too long. Nothing was changed.

        Cost: the nodes of both directories, or of what differs in them.
        """
        self._check_open()
        view = self if of is None else of
        if view._store is not self._store:
            raise InvalidInputError("copy_prefix takes views of the same store")
        here = source == target
        if not here and (source.startswith(target) or target.startswith(source)):
            raise InvalidInputError(f"{source!r} and {target!r} lie inside one another")
        start, cut = encode_key(target), len(encode_key(source))
        if here and not self._pending and not (isinstance(view, Stage) and view._pending):
            edits = dict(self._differences(view, start))
        else:
            wanted = {start + key.encode()[cut:]: data for key, data in view._raw_items(encode_key(source))}
            there = {key.encode(): data for key, data in self._raw_items(start)}
            edits = {key: data for key, data in wanted.items() if there.get(key) != data}
            edits.update((key, None) for key in there if key not in wanted)
        for key in edits:
            check_length(key)
        gone = [key for key, data in edits.items() if data is None]
        self._pending.update((key, data) for key, data in edits.items() if data is not None)
        for key in gone:
            if self._in_base(key):
                self._pending[key] = None
            else:
                self._pending.pop(key, None)
        return len(edits)

    def _differences(self, other: TreeView, prefix: bytes) -> Iterator[tuple[bytes, bytes | None]]:
        """What to set (None: delete) under a prefix to get from this tree to another."""
        store = self._store
        for key, _, wanted in diff.diff(store, store.shape, self._tree, other._tree, prefix):
            yield key, None if wanted is None else store.load_value(wanted)

    def status(self) -> Status:
        """The keys that pending edits set and remove."""
        updated = frozenset(key.decode() for key, data in self._pending.items() if data is not None)
        removed = frozenset(key.decode() for key, data in self._pending.items() if data is None)
        return Status(updated, removed)

    def diff(self) -> Iterator[Change]:
        """What pending edits change against the base, by key. Cost: a lookup each."""
        self._check_open()
        for key in sorted(self._pending):
            text = key.decode()
            old, new = super()._find(key), self._pending[key]
            if old != new:
                yield make_change(self._codec, text, old, new)

    def discard(self, keys: Iterable[str] | None = None) -> None:
        """Drop pending edits: all, or those of some keys."""
        if keys is None:
            self._pending.clear()
            return
        for key in encode_keys(keys):
            self._pending.pop(key, None)

    __hash__ = None  # type: ignore[assignment]
