"""Staged: a mapping with pending edits over a Versioned, with values of any kind."""

from __future__ import annotations

import pickle
from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, MutableMapping, ValuesView
from dataclasses import replace
from typing import Any, Final

from kvgit_hamt.classic.versioned import BytesMergeFn, Versioned
from kvgit_hamt.codec import Codec
from kvgit_hamt.errors import MergeConflict
from kvgit_hamt.policy import MergeChoice, MergeFn, MergePolicy
from kvgit_hamt.results import Conflict, MergeResult
from kvgit_hamt.snapshot import encode_key

CACHE_MAX: Final = 65_536  # decoded values kept between two commits; the oldest go first
_ABSENT: Final[Any] = object()


class StagedItems(ItemsView[str, Any]):
    """The (key, value) pairs under a prefix, read leaf by leaf."""

    def __init__(self, staged: Staged, prefix: str) -> None:
        super().__init__(staged)
        self._staged = staged
        self._prefix = prefix

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return self._staged._pairs(self._prefix)

    def __len__(self) -> int:
        return len(self._staged.keys(self._prefix)) if self._prefix else len(self._staged)


class StagedValues(ValuesView[Any]):
    """The values under a prefix, read leaf by leaf."""

    def __init__(self, staged: Staged, prefix: str) -> None:
        super().__init__(staged)
        self._items = StagedItems(staged, prefix)

    def __iter__(self) -> Iterator[Any]:
        return (value for _, value in self._items)

    def __len__(self) -> int:
        return len(self._items)


class Staged(MutableMapping[str, Any]):
    """A mapping over a Versioned whose edits stay in memory until ``commit``.

    Values are encoded when they are committed, so a mutable object that was set may change until then.
    What was read is kept decoded until the next commit; changing it in place stores nothing.

    Args:
        versioned: the handle below.
        encoder, decoder: value -> bytes and back. The default, pickle, runs code when it reads: use it
            for data you trust.
    """

    def __init__(
        self,
        versioned: Versioned,
        *,
        encoder: Callable[[Any], bytes] = pickle.dumps,
        decoder: Callable[[bytes], Any] = pickle.loads,
    ) -> None:
        self._versioned = versioned
        self._encoder = encoder
        self._decoder = decoder
        self._codec = Codec("staged", encoder, decoder)
        self._updates: dict[str, Any] = {}
        self._removals: set[str] = set()
        self._cache: dict[str, Any] = {}
        self._merge_fns: dict[str, MergeFn] = {}
        self._default_merge: MergeFn | None = None

    def __repr__(self) -> str:
        pending = len(self._updates) + len(self._removals)
        return f"Staged({self._versioned!r}, {pending} pending)"

    # reading

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, ``default`` if it is absent.

        Raises:
            KeyTypeError, InvalidKeyError: this can be no key.
            DecodeError: the decoder failed. CorruptionError: see Versioned.get.
        """
        if key in self._updates:
            return self._updates[key]
        if key in self._removals:
            return default
        known = self._cache.get(key, _ABSENT)
        if known is not _ABSENT:
            return known
        data = self._versioned.get(key)
        return default if data is None else self._decoded(key, data)

    def _decoded(self, key: str, data: bytes) -> Any:
        """Decode and remember a committed value."""
        value = self._cache[key] = self._codec.decode_for(key, data)
        if len(self._cache) > CACHE_MAX:
            del self._cache[next(iter(self._cache))]
        return value

    def get_many(self, *keys: str) -> dict[str, Any]:
        """The values of those keys that are present. Cost: each node once."""
        wanted = [key for key in keys if not self._is_known(key)]
        found = self._versioned.get_many(*wanted) if wanted else {}
        fresh = {key: self._decoded(key, data) for key, data in found.items()}
        result = {}
        for key in keys:
            if key in fresh:
                result[key] = fresh[key]
            elif self._is_known(key) and key not in self._removals:
                result[key] = self._updates[key] if key in self._updates else self._cache[key]
        return result

    def _is_known(self, key: str) -> bool:
        return key in self._updates or key in self._removals or key in self._cache

    def keys(self, prefix: str = "") -> set[str]:  # type: ignore[override]
        """The keys that start with ``prefix``, pending edits included, as a set of its own.

        Cost: for a prefix with a "/", the nodes of that directory.
        """
        return set(self._iterate(prefix))

    def items(self, prefix: str = "") -> StagedItems:
        """A view of the (key, value) pairs whose key starts with ``prefix``. Cost: as ``keys``."""
        return StagedItems(self, prefix)

    def values(self, prefix: str = "") -> StagedValues:
        """A view of the values whose key starts with ``prefix``. Cost: as ``keys``."""
        return StagedValues(self, prefix)

    def _iterate(self, prefix: str) -> Iterator[str]:
        """Keys as they are at the start; what is edited meanwhile does not count."""
        updates = [key for key in self._updates if key.startswith(prefix)]
        hidden = self._removals.union(updates)
        committed: Iterable[str] = self._versioned.keys(prefix)
        for key in committed:
            if key not in hidden:
                yield key
        yield from updates

    def _pairs(self, prefix: str) -> Iterator[tuple[str, Any]]:
        updates = {key: value for key, value in self._updates.items() if key.startswith(prefix)}
        hidden = self._removals.union(updates)
        for key, data in self._versioned.items(prefix):
            if key not in hidden:
                known = self._cache.get(key, _ABSENT)
                yield key, self._decoded(key, data) if known is _ABSENT else known
        yield from updates.items()

    def __iter__(self) -> Iterator[str]:
        return self._iterate("")

    def __len__(self) -> int:
        """Cost: one node read, and a lookup for each pending edit."""
        versioned = self._versioned
        total = len(versioned.keys())
        total += sum(key not in versioned for key in self._updates)
        return total - sum(key in versioned for key in self._removals)

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, str) or key in self._removals:
            return False
        return key in self._updates or key in self._versioned

    def __getitem__(self, key: str) -> Any:
        value = self.get(key, _ABSENT)
        if value is _ABSENT:
            raise KeyError(key)
        return value

    # editing

    def __setitem__(self, key: str, value: Any) -> None:
        """Set a key (pending). KeyTypeError, InvalidKeyError: nothing was set."""
        encode_key(key)
        self._removals.discard(key)
        self._updates[key] = value

    def __delitem__(self, key: str) -> None:
        """Delete a key (pending); KeyError if it is absent."""
        if key not in self:
            raise KeyError(key)
        self.remove_known((key,))

    def remove_known(self, keys: Iterable[str]) -> None:
        """Delete keys (pending) that the caller knows to be present, without looking them up."""
        for key in keys:
            self._updates.pop(key, None)
            self._removals.add(key)

    def clear(self) -> None:
        """Delete every key (pending). Cost: the list of keys."""
        self.remove_known(self.keys())

    @property
    def has_changes(self) -> bool:
        """Whether any edit is pending."""
        return bool(self._updates or self._removals)

    def is_staged(self, key: str) -> bool:
        """Whether an edit of this key is pending."""
        return key in self._updates or key in self._removals

    def reset(self) -> None:
        """Drop all pending edits."""
        self._updates.clear()
        self._removals.clear()
        self._cache.clear()

    # merge functions

    def set_merge_fn(self, key: str, fn: MergeFn) -> None:
        """Merge a key with a function (old, ours, theirs) -> value in every commit of this handle."""
        MergePolicy.of({key: fn})
        self._merge_fns[key] = fn

    def set_default_merge(self, fn: MergeFn | None) -> None:
        """Merge keys that have no function of their own with this one; None: they conflict."""
        MergePolicy.of(None, None, fn)
        self._default_merge = fn

    def _on_bytes(self, fn: Any) -> Any:
        """A merge function on values as one on stored bytes; a choice stays one."""
        if fn is None or isinstance(fn, MergeChoice):
            return fn

        def merge(*sides: bytes | None) -> Any:
            answer = fn(*(None if side is None else self._decoder(side) for side in sides))
            return answer if isinstance(answer, MergeChoice) else self._encoder(answer)

        return merge

    # commits

    def commit(
        self,
        *,
        on_conflict: str = "raise",
        merge_fns: Mapping[str, MergeFn] | None = None,
        default_merge: MergeFn | None = None,
        info: Mapping[str, Any] | None = None,
    ) -> MergeResult:
        """Store the pending edits as a commit; see ``Versioned.commit``.

        Raises:
            EncodeError: the encoder failed; the message names the key. And what Versioned.commit
            raises. The edits are still pending then, as when it abandons.
        """
        own = MergePolicy.of(self._merge_fns or None, None, self._default_merge)
        policy = MergePolicy.of(merge_fns or None, None, default_merge).over(own)
        fns: dict[str, BytesMergeFn] = {key: self._on_bytes(fn) for key, fn in policy.fns.items()}
        encoded = {key: self._codec.encode_for(key, value) for key, value in self._updates.items()}
        try:
            result = self._versioned.commit(
                encoded,
                self._removals,
                on_conflict=on_conflict,
                merge_fns=fns,
                default_merge=self._on_bytes(policy.default),
                info=info,
            )
        except MergeConflict as conflict:
            conflict.conflicts = tuple(map(self._decoded_conflict, conflict.conflicts))
            raise
        if result:
            self.reset()
        return result

    def _decoded_conflict(self, conflict: Conflict) -> Conflict:
        key = conflict.key
        sides = (conflict.base, conflict.ours, conflict.theirs)
        base, ours, theirs = (None if side is None else self._codec.decode_for(key, side) for side in sides)
        return replace(conflict, base=base, ours=ours, theirs=theirs)

    # what the Versioned below does

    @property
    def versioned(self) -> Versioned:
        """The handle below."""
        return self._versioned

    @property
    def current_commit(self) -> str:
        """Id of the commit it reads from."""
        return self._versioned.current_commit

    @property
    def base_commit(self) -> str:
        """Id of the commit the next one builds on."""
        return self._versioned.base_commit

    @property
    def last_merge_result(self) -> MergeResult | None:
        """What the last commit gave."""
        return self._versioned.last_merge_result

    def create_branch(self, name: str) -> Staged:
        """Make a branch at the commit it stands at; pending edits stay here. See Versioned."""
        return self._over(self._versioned.create_branch(name))

    def checkout(self, commit_hash: str, *, branch: str | None = None) -> Staged | None:
        """A new Staged at a commit, None if there is none. See Versioned."""
        found = self._versioned.checkout(commit_hash, branch=branch)
        return None if found is None else self._over(found)

    def _over(self, versioned: Versioned) -> Staged:
        return Staged(versioned, encoder=self._encoder, decoder=self._decoder)

    def list_branches(self) -> list[str]:
        """The names of all branches, sorted."""
        return self._versioned.list_branches()

    def reset_to(self, commit_hash: str) -> bool:
        """Move the branch and this handle to a commit and drop pending edits; False if there is none."""
        done = self._versioned.reset_to(commit_hash)
        if done:
            self.reset()
        return done

    def refresh(self) -> None:
        """Stand at the branch's head and drop pending edits."""
        self._versioned.refresh()
        self.reset()

    def history(self, commit_hash: str | None = None, *, all_parents: bool = False) -> Iterator[str]:
        """Ids of the commits from one (the current) back, newest first. See Versioned."""
        return self._versioned.history(commit_hash, all_parents=all_parents)

    def close(self) -> None:
        """Drop pending edits and close the repository for every handle on this store object."""
        self.reset()
        self._versioned.close()
