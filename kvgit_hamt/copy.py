"""Hot copies: what ``Repo.copy`` does on a backend."""

from __future__ import annotations

import os

from kvgit_hamt.backend.base import Backend
from kvgit_hamt.errors import InvalidInputError


def copy(backend: Backend, directory: str | os.PathLike[str], compact: bool) -> None:
    """Copy a store to a new directory while it is in use.

    Raises:
        InvalidInputError: the backend has no files to copy; ``Repo.bundle`` works with any.
        (others: see ``LmdbBackend.copy``)
    """
    make = getattr(backend, "copy", None)
    if make is None:
        raise InvalidInputError(f"a {type(backend).__name__} has no files to copy; make a bundle of it")
    make(directory, compact=compact)
