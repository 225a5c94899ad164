"""Makes one history and prints its ids: what tests/environment/test_same_ids.py runs in other interpreters.

python -m tests.support.same_ids ORDER [DIRECTORY]
"""

from __future__ import annotations

import json
import os
import random
import sys
from typing import Any

import kvgit_hamt as kvgit
from kvgit_hamt import Repo

VALUES: list[Any] = [
    None, True, 0, -1, 2**63, 1.5, -0.0, "", "text", "é", "e\u0301", b"bytes", [1, [2, {"a": []}]],
    {"z": 1, "a": {"y": 2, "b": None}}, "long " * 400,
]  # fmt: skip
MOMENT_US = 1_750_000_000_000_000


def entries() -> dict[str, Any]:
    """Keys of many directories and scripts, with values of every kind."""
    found = {f"users/{number % 13}/{number}": VALUES[number % len(VALUES)] for number in range(900)}
    return {**found, "": "empty key", "日本/語": 1, "a" * 300: [0], "x/y/z/u/v/w": {"deep": True}}


def ids(order: int, where: str | None = None) -> list[str]:
    """Commit and tree ids of a history whose edits came in some order."""
    items = list(entries().items())
    random.Random(order).shuffle(items)
    with Repo(where, clock=lambda: MOMENT_US) as repo:
        return history_of(repo, items, order)


def history_of(repo: Repo, items: list[tuple[str, Any]], order: int) -> list[str]:
    """Edits, a merge, a removal; the ids of all commits and of what they hold."""
    work = repo.worktree()
    for key, value in items:
        work[key] = value
        if order % 3 == 0:
            work["passing"] = value
    work.pop("passing", None)
    work.commit(info={"z": 1, "a": ["é", None]})
    repo.branches.create("side")
    side = repo.worktree("side")
    some = sorted(key for key, _ in items)[::7]
    random.Random(order).shuffle(some)
    for key in some:
        side[key] = {"by": "side"}
    side.commit(time=None)
    for key in reversed(some) if order % 2 else some:
        work.pop(f"not/{key}", None)
        work[f"new/{key}"] = 1
    work.commit()
    work.merge(branch="side", default_merge=kvgit.OURS)
    for key in sorted(some)[::2]:
        del work[key]
    work.commit()
    return [each for commit in repo.log() for each in (commit.id, commit.tree)]


if __name__ == "__main__":
    result = ids(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
    os.write(1, json.dumps({"ids": result, "kernel": kvgit.kernel.NAME}).encode() + b"\n")
