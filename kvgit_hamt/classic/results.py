"""The values that the classic door returns beside MergeResult."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class DiffResult:
    """The keys in which two commits differ, from the first to the second."""

    added: frozenset[str]
    removed: frozenset[str]
    modified: frozenset[str]


@dataclass(frozen=True, slots=True)
class RebaseResult:
    """What a rebase did.

    Attributes:
        performed: False when there was nothing to do; then nothing was changed.
        new_commit: id of the commit without parents that the branch is at now.
        dropped_keys: in the order they were chosen, coldest first.
        total_size_before, total_size_after: bytes of the values that count (not of protected keys).
        orphans_cleaned: as ``clean_orphans`` gives it.
    """

    performed: bool
    new_commit: str | None
    dropped_keys: tuple[str, ...]
    total_size_before: int
    total_size_after: int
    orphans_cleaned: int = 0
    _kept: Callable[[], tuple[str, ...]] = field(default=tuple, repr=False, compare=False)

    @property
    def kept_keys(self) -> tuple[str, ...]:
        """The keys that are left, protected ones among them, sorted. Cost: reading them all."""
        return self._kept()
