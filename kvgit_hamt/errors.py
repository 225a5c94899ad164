"""Every error the library raises, grouped by what a handler does about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class KvgitHamtError(Exception):
    """Root of the library's own errors."""


class NotFoundError(KvgitHamtError, LookupError):
    """A commit, branch or tag that was named does not exist."""


class CommitNotFoundError(NotFoundError):
    """No commit has this id or abbreviation."""


class BranchNotFoundError(NotFoundError):
    """No branch has this name."""


class TagNotFoundError(NotFoundError):
    """No tag has this name."""


class BundlePrerequisiteError(NotFoundError):
    """A bundle builds on commits that are not in this store; nothing was changed.

    ``commits``: their ids.
    """

    def __init__(self, commits: Sequence[str]) -> None:
        more = f" and {len(commits) - 5} more" if len(commits) > 5 else ""
        super().__init__(
            f"the bundle builds on {len(commits)} commit(s) that are not in this store: "
            f"{', '.join(commits[:5])}{more}. Load a bundle that holds them first"
        )
        self.commits = tuple(commits)


class ExistsError(KvgitHamtError, ValueError):
    """A thing that was to be created exists already."""


class BranchExistsError(ExistsError):
    """A branch of this name exists already."""


class TagExistsError(ExistsError):
    """A tag of this name exists already; tags never move."""


class ConflictError(KvgitHamtError):
    """Somebody else's change stands in the way; nothing was changed."""


class BranchMovedError(ConflictError):
    """A ref no longer holds the value that the compare-and-set expected.

    ``name`` is the full ref name ("heads/main"); ``actual`` is the encoded ref value that was found
    (None when the ref is absent).
    """

    def __init__(self, name: str, actual: bytes | None = None) -> None:
        super().__init__(f"{name} moved while this change was made; refresh and try again")
        self.name = name
        self.actual = actual


class NotFastForwardError(ConflictError):
    """A branch has commits that what it should move to does not have; it was not moved.

    ``name`` is the full ref name; ``old`` and ``new`` are commit ids.
    """

    def __init__(self, name: str, old: str, new: str) -> None:
        super().__init__(
            f"{name} is at {old[:12]}, which is not in the history of {new[:12]}. Give what is loaded "
            "another name and merge it, or force it; nothing was moved"
        )
        self.name = name
        self.old = old
        self.new = new


class ConcurrencyError(ConflictError):
    """Classic door: somebody moved the branch first. Refresh and try again."""


class StaleBatchError(ConflictError):
    """What a change shares with the store was collected while it was made; it is to be made again."""


class MergeConflict(ConflictError):
    """A three-way merge met keys that both sides changed and no function settled.

    Attributes:
        conflicts: tuple of ``Conflict(key, base, ours, theirs)`` sorted by key; empty when the
            layer that raised it knows keys only.
        conflicting_keys: frozenset of the keys.
        merge_errors: key -> the exception its merge function raised.
    """

    def __init__(
        self,
        conflicting_keys: Sequence[str] | frozenset[str],
        merge_errors: Mapping[str, Exception] | None = None,
        conflicts: Sequence[Any] = (),
    ) -> None:
        keys = sorted(conflicting_keys)
        shown = ", ".join(repr(key) for key in keys[:5])
        more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
        super().__init__(
            f"{len(keys)} key(s) changed on both sides: {shown}{more}; "
            "nothing was changed. Give a merge function, OURS or THEIRS for them"
        )
        self.conflicting_keys = frozenset(keys)
        self.merge_errors = dict(merge_errors or {})
        self.conflicts = tuple(conflicts)


class CorruptionError(KvgitHamtError):
    """Stored bytes are missing or are not what they must be. Never raised for an absent key."""


class StoreRolledBackError(CorruptionError):
    """The data file is older than the witness beside it: committed states are gone."""


class FormatVersionError(KvgitHamtError):
    """The store is of a newer or foreign format, or of other parameters; it was not touched."""


class StateError(KvgitHamtError):
    """The call does not fit the object's state."""


class ClosedError(StateError):
    """The repository, worktree or snapshot was closed."""


class PendingChangesError(StateError):
    """The worktree holds uncommitted changes that this call would lose or mix in."""


class ForkedError(StateError):
    """An object opened before ``os.fork`` was used in the child in a way that is not safe."""


class MissingDependencyError(KvgitHamtError, ImportError):
    """A program, or an optional package, that this call needs is not installed; the message says which."""


class BackendError(KvgitHamtError):
    """The storage below failed."""


class StoreFullError(BackendError):
    """No space left: on the device, or the map may not grow. The commit was not made."""


class ReadOnlyError(BackendError):
    """A write to a store that is open, or lies, read-only."""


class LockedError(BackendError):
    """Another process holds what this call needs, or all reader slots are taken."""


class LockTimeoutError(LockedError):
    """Another process was writing for longer than this handle waits; nothing was stored."""


class StoreReplacedError(BackendError):
    """The data file was replaced or removed while it was open; nothing was written."""


class OutcomeUnknownError(BackendError):
    """An I/O error in the middle of a commit: it may or may not have been stored."""


class InvalidInputError(KvgitHamtError, ValueError):
    """An argument that can never be right."""


class SourceError(InvalidInputError):
    """What an import or an export was given to read or to write is not as it must be.

    Nothing of the commit that was being made is stored. ``source`` names the file, ``at`` the place in it
    ("line 7"; "" where it concerns the whole), ``reason`` what is wrong.
    """

    def __init__(self, source: str, at: str, reason: str) -> None:
        super().__init__(f"{source}, {at}: {reason}" if at else f"{source}: {reason}")
        self.source = source
        self.at = at
        self.reason = reason


class InvalidKeyError(InvalidInputError):
    """A key that is too long or is not valid Unicode."""


class KeyTypeError(InvalidInputError, TypeError):
    """A key that is not a ``str``."""


class InvalidNameError(InvalidInputError):
    """A branch or tag name that the rules forbid."""


class AmbiguousCommitError(InvalidInputError):
    """An abbreviation that fits several commits."""


class EncodeError(InvalidInputError, TypeError):
    """A value that the codec cannot hold; nothing pending was lost."""


class DecodeError(CorruptionError):
    """Stored value bytes that the codec cannot read back."""
