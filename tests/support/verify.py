"""LMDB's own structure, seen from outside: for every harness that leaves a data file behind."""

from __future__ import annotations

import os
from pathlib import Path

from lmdb.verify import VerifyError, verify


def structure_problems(store: str | os.PathLike[str]) -> list[str]:
    """What is wrong with the pages of a store's data file; empty when all is well.

    The file is read without LMDB, so nothing in it can kill the process. Nobody may write meanwhile.

    Args:
        store: the store's directory, or a data file.
    """
    path = Path(store)
    data = path / "data.mdb" if path.is_dir() else path
    try:
        problems: list[str] = verify(str(data), subdir=False)  # type: ignore[no-untyped-call]
        return problems
    except VerifyError as error:
        return [str(error)]


def assert_sound_structure(store: str | os.PathLike[str]) -> None:
    """Fail, naming the first problems, unless the pages of a store's data file are sound."""
    problems = structure_problems(store)
    assert not problems, f"{store}: {len(problems)} problems, first: {problems[:3]}"
