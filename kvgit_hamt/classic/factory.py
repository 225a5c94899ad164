"""``store()``: a Staged in one call."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from kvgit_hamt.errors import InvalidInputError

if TYPE_CHECKING:
    from kvgit_hamt.classic.staged import Staged


def store(  # noqa: PLR0913 (the contract's names)
    kind: Literal["memory", "disk"] = "memory",
    *,
    path: str | os.PathLike[str] | None = None,
    branch: str = "main",
    encoder: Callable[[Any], bytes] = pickle.dumps,
    decoder: Callable[[bytes], Any] = pickle.loads,
    high_water_bytes: int | None = None,
    low_water_bytes: int | None = None,
    is_protected: Callable[[str], bool] | None = None,
) -> Staged:
    """A Staged over a new Memory, or over a directory.

    Args:
        path: the directory, for kind "disk".
        branch: made at the empty initial commit if missing.
        encoder, decoder: see Staged; reading a pickle runs code.
        high_water_bytes: makes it a GCVersioned, which see for the others.

    Raises:
        InvalidInputError, a ValueError: another kind, or "disk" without a path.
    """
    # Imported here, so that importing the package does not pay for this door.
    from kvgit_hamt.classic.disk import Disk
    from kvgit_hamt.classic.kvstore import KVStore, Memory
    from kvgit_hamt.classic.staged import Staged
    from kvgit_hamt.classic.versioned import Versioned

    if kind == "memory":
        backing: KVStore = Memory()
    elif kind == "disk":
        if path is None or not os.fspath(path):
            raise InvalidInputError("path is required when kind='disk': the directory of the store")
        backing = Disk(path)
    else:
        raise InvalidInputError(f"Unknown kind: {kind!r}; there are 'memory' and 'disk'")
    if high_water_bytes is None:
        versioned = Versioned(backing, branch=branch)
    else:
        from kvgit_hamt.classic.gcversioned import GCVersioned, is_system_key

        versioned = GCVersioned(
            backing,
            branch=branch,
            high_water_bytes=high_water_bytes,
            low_water_bytes=low_water_bytes,
            is_protected=is_protected or is_system_key,
        )
    return Staged(versioned, encoder=encoder, decoder=decoder)
