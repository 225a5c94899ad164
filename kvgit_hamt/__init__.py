"""kvgit_hamt: an embedded, versioned key-value store with git's semantics.

Every commit is the root of a canonical Merkle HAMT in LMDB: branches share structure, and diff and
merge read only where trees differ.
"""

from kvgit_hamt.codec import Codec
from kvgit_hamt.errors import (
    AmbiguousCommitError,
    BackendError,
    BranchExistsError,
    BranchMovedError,
    BranchNotFoundError,
    ClosedError,
    CommitNotFoundError,
    ConflictError,
    CorruptionError,
    DecodeError,
    EncodeError,
    ExistsError,
    ForkedError,
    FormatVersionError,
    InvalidInputError,
    InvalidKeyError,
    InvalidNameError,
    KeyTypeError,
    KvgitHamtError,
    LockedError,
    MergeConflict,
    NotFoundError,
    OutcomeUnknownError,
    PendingChangesError,
    ReadOnlyError,
    StateError,
    StoreFullError,
    StoreReplacedError,
    StoreRolledBackError,
    TagExistsError,
    TagNotFoundError,
)
from kvgit_hamt.mergefns import (
    append_only_list,
    counter,
    last_writer_wins,
    maximum,
    minimum,
    nested_dict,
    ours,
    set_union,
    text_merge,
    theirs,
)
from kvgit_hamt.path import Shape
from kvgit_hamt.policy import DELETE, OURS, THEIRS, MergeChoice, MergePolicy
from kvgit_hamt.repo import Repo, open
from kvgit_hamt.results import (
    Change,
    Commit,
    Conflict,
    DiffStat,
    MergeResult,
    ReflogEntry,
    Status,
)
from kvgit_hamt.snapshot import Snapshot
from kvgit_hamt.worktree import Worktree

__version__ = "0.1.0"

__all__ = [name for name in dir() if not name.startswith("_")]
