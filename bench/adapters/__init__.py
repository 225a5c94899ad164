"""The rivals, by the names of the command line. A module is imported only when its rival is measured."""

from __future__ import annotations

import importlib

from bench.adapters.base import Adapter

# name -> (module, class, the most keys it is given unless --limit says otherwise)
RIVALS: dict[str, tuple[str, str, int | None]] = {
    "plain": ("ours", "Plain", None),
    "compiled": ("ours", "Compiled", None),
    "lmdb": ("raw_lmdb", "RawLmdb", None),
    "sqlite3": ("sqlite", "Sqlite", 1_000_000),
    "doltlite": ("dolt", "Doltlite", None),
    "kvgit": ("kvgit_disk", "KvgitDisk", 100_000),
    "prollytree": ("prolly", "Prollytree", 100_000),
    "git": ("git_cli", "Git", 1_000_000),
}


def find(name: str) -> type[Adapter]:
    """The adapter of a rival."""
    module, symbol, _ = RIVALS[name]
    found: type[Adapter] = getattr(importlib.import_module(f"bench.adapters.{module}"), symbol)
    return found
