"""A process whose writes are recorded: ``python -m tests.support.power_work STORE SEED STEPS SYNC``.

SYNC is a sync level, or "off": LMDB without any, which the library does not offer.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

from kvgit_hamt import Repo
from kvgit_hamt.backend.lmdb import LmdbBackend
from tests.support.crash_model import Plan
from tests.support.crash_worker import make_small, switch_syncs_off

LIFE = (
    *("commit", "commit", "load", "fork", "side", "side", "commit", "merge", "drop"),
    *("fork", "side", "side", "drop", "commit", "gc", "compact"),
)


def main(path: Path, plan: Plan, steps: int, sync: str) -> None:
    """Do some steps in a new store, with a mark in the record after each."""
    mark = ctypes.CDLL(None).power_mark
    mark.argtypes, mark.restype = [ctypes.c_uint64], None
    make_small()
    if sync == "off":
        switch_syncs_off()
    with Repo(LmdbBackend(path, map_bytes=1, sync="no_meta" if sync == "no_meta" else "full")) as repo:
        mark(0)
        for n in range(1, steps + 1):
            plan.run(repo, n)
            mark(n)


if __name__ == "__main__":
    where, seed, count, level = sys.argv[1:]
    main(Path(where), Plan(int(seed), LIFE), int(count), level)
