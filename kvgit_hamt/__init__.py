"""kvgit_hamt: an embedded, versioned key-value store with git's semantics.

Every commit is the root of a canonical Merkle HAMT in LMDB: branches share structure, and diff and
merge read only where trees differ.
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from kvgit_hamt.bundle import BundleInfo
from kvgit_hamt.bundle import verify as verify_bundle
from kvgit_hamt.bundle_load import LoadResult
from kvgit_hamt.check_faults import CheckResult, Fault
from kvgit_hamt.codec import Codec
from kvgit_hamt.errors import (
    AmbiguousCommitError,
    BackendError,
    BranchExistsError,
    BranchMovedError,
    BranchNotFoundError,
    BundlePrerequisiteError,
    ClosedError,
    CommitNotFoundError,
    ConcurrencyError,
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
    LockTimeoutError,
    MergeConflict,
    NotFastForwardError,
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
from kvgit_hamt.policy import DELETE, OURS, THEIRS, MergeChoice, MergeFn, MergePolicy
from kvgit_hamt.repair import RepairResult
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

# Last, since importing the engine's module of that name has bound it.
from kvgit_hamt.classic.factory import store  # isort: skip

if _TYPE_CHECKING:
    from kvgit_hamt.classic.composite import Composite
    from kvgit_hamt.classic.disk import Disk
    from kvgit_hamt.classic.gcversioned import GCVersioned
    from kvgit_hamt.classic.kvstore import KVStore, Memory
    from kvgit_hamt.classic.live import Live
    from kvgit_hamt.classic.namespaced import Namespaced
    from kvgit_hamt.classic.results import DiffResult, RebaseResult
    from kvgit_hamt.classic.staged import Staged
    from kvgit_hamt.classic.versioned import Versioned

__version__ = "0.1.0"

# The classic door's names and their modules, imported when first asked for: who does not use them does
# not pay for them.
_CLASSIC = {
    "Composite": "composite",
    "DiffResult": "results",
    "Disk": "disk",
    "GCVersioned": "gcversioned",
    "KVStore": "kvstore",
    "Live": "live",
    "Memory": "kvstore",
    "Namespaced": "namespaced",
    "RebaseResult": "results",
    "Staged": "staged",
    "Versioned": "versioned",
}


def __getattr__(name: str) -> object:
    module = _CLASSIC.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found = globals()[name] = getattr(import_module(f"kvgit_hamt.classic.{module}"), name)
    return found


__all__ = [
    "DELETE",
    "OURS",
    "THEIRS",
    "AmbiguousCommitError",
    "BackendError",
    "BranchExistsError",
    "BranchMovedError",
    "BranchNotFoundError",
    "BundleInfo",
    "BundlePrerequisiteError",
    "Change",
    "CheckResult",
    "ClosedError",
    "Codec",
    "Commit",
    "CommitNotFoundError",
    "Composite",
    "ConcurrencyError",
    "Conflict",
    "ConflictError",
    "CorruptionError",
    "DecodeError",
    "DiffResult",
    "DiffStat",
    "Disk",
    "EncodeError",
    "ExistsError",
    "Fault",
    "ForkedError",
    "FormatVersionError",
    "GCVersioned",
    "InvalidInputError",
    "InvalidKeyError",
    "InvalidNameError",
    "KVStore",
    "KeyTypeError",
    "KvgitHamtError",
    "Live",
    "LoadResult",
    "LockTimeoutError",
    "LockedError",
    "Memory",
    "MergeChoice",
    "MergeConflict",
    "MergeFn",
    "MergePolicy",
    "MergeResult",
    "Namespaced",
    "NotFastForwardError",
    "NotFoundError",
    "OutcomeUnknownError",
    "PendingChangesError",
    "ReadOnlyError",
    "RebaseResult",
    "ReflogEntry",
    "RepairResult",
    "Repo",
    "Shape",
    "Snapshot",
    "Staged",
    "StateError",
    "Status",
    "StoreFullError",
    "StoreReplacedError",
    "StoreRolledBackError",
    "TagExistsError",
    "TagNotFoundError",
    "Versioned",
    "Worktree",
    "append_only_list",
    "counter",
    "last_writer_wins",
    "maximum",
    "minimum",
    "nested_dict",
    "open",
    "ours",
    "set_union",
    "store",
    "text_merge",
    "theirs",
    "verify_bundle",
]
