"""kvgit_hamt: an embedded, versioned key-value store with git's semantics.

Every commit is the root of a canonical Merkle HAMT in LMDB: branches share structure, and diff and
merge read only where trees differ.
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING

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
    from kvgit_hamt.bundle import BundleInfo
    from kvgit_hamt.bundle import verify as verify_bundle
    from kvgit_hamt.bundle_load import LoadResult
    from kvgit_hamt.check_faults import CheckResult, Fault
    from kvgit_hamt.classic.composite import Composite
    from kvgit_hamt.classic.disk import Disk
    from kvgit_hamt.classic.gcversioned import GCVersioned
    from kvgit_hamt.classic.kvstore import KVStore, Memory
    from kvgit_hamt.classic.live import Live
    from kvgit_hamt.classic.namespaced import Namespaced
    from kvgit_hamt.classic.results import DiffResult, RebaseResult
    from kvgit_hamt.classic.staged import Staged
    from kvgit_hamt.classic.versioned import Versioned
    from kvgit_hamt.repair import RepairResult

__version__ = "0.1.0"

# Names and where they are, imported when first asked for: who does not use the classic door, bundles or
# checks does not pay for them.
_LATER = {
    "BundleInfo": "bundle.BundleInfo",
    "CheckResult": "check_faults.CheckResult",
    "Composite": "classic.composite.Composite",
    "DiffResult": "classic.results.DiffResult",
    "Disk": "classic.disk.Disk",
    "Fault": "check_faults.Fault",
    "GCVersioned": "classic.gcversioned.GCVersioned",
    "KVStore": "classic.kvstore.KVStore",
    "Live": "classic.live.Live",
    "LoadResult": "bundle_load.LoadResult",
    "Memory": "classic.kvstore.Memory",
    "Namespaced": "classic.namespaced.Namespaced",
    "RebaseResult": "classic.results.RebaseResult",
    "RepairResult": "repair.RepairResult",
    "Staged": "classic.staged.Staged",
    "Versioned": "classic.versioned.Versioned",
    "verify_bundle": "bundle.verify",
}


def __getattr__(name: str) -> object:
    module, _, attribute = _LATER.get(name, "").rpartition(".")
    if not module:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found = globals()[name] = getattr(import_module(f"kvgit_hamt.{module}"), attribute)
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
