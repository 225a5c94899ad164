"""The values that calls return: frozen, compared by content, with every field by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

from kvgit_hamt.codec import Codec

ChangeKind = Literal["added", "removed", "modified"]
MergeStrategy = Literal["no_op", "fast_forward", "three_way"]
Side = Literal["base", "ours", "theirs"]


class Change(NamedTuple):
    """One key that differs between two trees.

    ``old`` is None when the key was added and ``new`` when it was removed; a stored None looks the
    same, so ask ``kind`` and not the values.
    """

    key: str
    old: Any
    new: Any
    kind: ChangeKind


def make_change(codec: Codec, key: str, old: bytes | None, new: bytes | None) -> Change:
    """A change of a key, from the stored bytes of its two sides (None: absent)."""
    before = None if old is None else codec.decode_for(key, old)
    after = None if new is None else codec.decode_for(key, new)
    kind: ChangeKind = "added" if old is None else "removed" if new is None else "modified"
    return Change(key, before, after, kind)


@dataclass(frozen=True, slots=True)
class Conflict:
    """A key that both sides changed differently and that nothing settled.

    Attributes:
        base, ours, theirs: the value on each side, None where the key is absent.
        error: what the key's merge function raised, None when there was no function.
        absent: the sides that have no such key, which tells them from a stored None.
    """

    key: str
    base: Any
    ours: Any
    theirs: Any
    error: Exception | None = None
    absent: frozenset[Side] = frozenset()


@dataclass(frozen=True, slots=True)
class Status:
    """The pending edits of a worktree; true when there are any."""

    updated: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.updated or self.removed)


@dataclass(frozen=True, slots=True, init=False)
class MergeResult:
    """What a commit or a merge did; true when it left the branch where it was asked to be.

    Attributes:
        merged: False only for a merge that was abandoned; nothing was changed then.
        commit: id of the branch's commit afterwards; for an abandoned merge, of the one before
            (classic door: None).
        strategy: "no_op" (nothing to do), "fast_forward" (no merge was needed), "three_way".
        auto_merged_keys: keys both sides changed that a function or a standing choice settled.
            Classic door: and those that only we changed.
        carried_keys: keys taken over from the other side as they are; found by a diff when asked
            for, since a merge takes over whole subtrees without looking into them. A dry run with
            conflicts tells those beside them; an abandoned merge has none. Classic door: all other
            keys of the commit.
        conflicts: sorted by key; empty when merged.
    """

    merged: bool
    commit: str | None
    strategy: MergeStrategy
    auto_merged_keys: frozenset[str]
    conflicts: tuple[Conflict, ...]
    _carried: Callable[[], frozenset[str]] | None = field(repr=False, compare=False)

    def __init__(
        self,
        merged: bool,
        commit: str | None,
        strategy: MergeStrategy,
        auto_merged_keys: Iterable[str] = (),
        carried_keys: Iterable[str] | Callable[[], frozenset[str]] = (),
        conflicts: tuple[Conflict, ...] = (),
    ) -> None:
        put = object.__setattr__  # the one way to set a field of a frozen value
        put(self, "merged", merged)
        put(self, "commit", commit)
        put(self, "strategy", strategy)
        put(self, "auto_merged_keys", frozenset(auto_merged_keys))
        put(self, "conflicts", conflicts)
        put(self, "_carried", _finder(carried_keys))

    @property
    def carried_keys(self) -> frozenset[str]:
        """See above. Cost: finding them, each time they are asked for."""
        return frozenset() if self._carried is None else self._carried()

    def __bool__(self) -> bool:
        return self.merged


def _finder(keys: Iterable[str] | Callable[[], frozenset[str]]) -> Callable[[], frozenset[str]] | None:
    if callable(keys):
        return keys
    known = frozenset(keys)
    return (lambda: known) if known else None


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit as it is stored.

    Attributes:
        id: 64 lower-case hex digits.
        parents: ids; the first is the branch that was committed to. Empty for the initial commit.
        generation: 1 + the largest of the parents'; orders a log without dates.
        time: when the caller says it was made, None for a commit whose id must not depend on it.
        info: the caller's map, as given.
        codec: name of the codec that the values were written with.
        tree: hex oid of the tree's root; equal trees hold equal contents.
    """

    id: str
    parents: tuple[str, ...]
    generation: int
    time: datetime | None
    info: dict[str, Any] | None
    codec: str
    tree: str


@dataclass(frozen=True, slots=True)
class DiffStat:
    """How many keys a diff holds; true when any."""

    added: int = 0
    removed: int = 0
    modified: int = 0

    @property
    def total(self) -> int:
        """Keys of any kind."""
        return self.added + self.removed + self.modified

    def __bool__(self) -> bool:
        return self.total > 0


@dataclass(frozen=True, slots=True)
class ReflogEntry:
    """One move of a branch.

    ``old`` is None where the branch was created and ``new`` where it was deleted.
    """

    old: str | None
    new: str | None
    time: datetime
    why: str


@dataclass(frozen=True, slots=True)
class GcResult:
    """What a garbage collection kept and deleted, or with ``dry_run`` would delete.

    Attributes:
        kept_count, freed_count: records (nodes, commits, out-of-line values).
        kept_bytes, freed_bytes: their bytes as stored. The file itself keeps its size; freed pages are
            used again.
        seconds: how long it took.
    """

    kept_count: int
    freed_count: int
    kept_bytes: int
    freed_bytes: int
    seconds: float
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """What a branch or tag holds, its history included.

    Attributes:
        exclusive_bytes: stored bytes that no other branch or tag reaches: deleting it, and letting
            its reflog expire, lets gc free them.
        shared_bytes: stored bytes that others reach too.
    """

    exclusive_bytes: int
    shared_bytes: int
