"""What the processes of tests/race/test_isolation.py run: readers of one commit beside writers and gc."""

from __future__ import annotations

import random
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import kvgit_hamt as kvgit
from kvgit_hamt import Repo
from tests.support.racers import PATIENCE_S

PINNED = "pinned"  # the tag that keeps what is read


def make(path: Path, key_count: int) -> None:
    """A store of so many keys, tagged."""
    with kvgit.open(path) as work:
        work.load((f"k{number % 97}/{number}", number) for number in range(key_count))
        work.repo.tags.create(PINNED)


def hash_of(snapshot: kvgit.Snapshot) -> str:
    """A hash over all keys and values in the order of the tree."""
    found = sha256()
    for key, value in snapshot.items():
        found.update(f"{key}={value};".encode())
    return found.hexdigest()


def read(path: Path, seconds: float, barrier: Any) -> tuple[int, int, int]:
    """Read one commit and each new head; (passes, different contents of the commit, different heads)."""
    with Repo(path, cache_bytes=1 << 20) as repo:
        held = repo.snapshot(tag=PINNED)
        contents, heads, passes = {hash_of(held)}, {hash_of(repo.snapshot())}, 0
        barrier.wait(PATIENCE_S)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            contents |= {hash_of(held), hash_of(repo.snapshot(tag=PINNED))}
            heads.add(hash_of(repo.snapshot()))
            passes += 1
    return passes, len(contents), len(heads)


def write(path: Path, seed: int, seconds: float, barrier: Any) -> int:
    """Change many keys of main again and again, and throw away what was made on another branch."""
    rng, commits = random.Random(seed), 0
    with Repo(path) as repo:
        work, side = repo.worktree(), repo.worktree(f"side{seed}", create=True)
        barrier.wait(PATIENCE_S)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            work.update(
                {f"k{rng.randrange(97)}/{rng.randrange(1_000)}": rng.randrange(10**6) for _ in range(200)}
            )
            work.commit(default_merge=kvgit.THEIRS)
            side.update({f"s/{rng.randrange(5_000)}": rng.randrange(9) for _ in range(300)})
            side.commit(time=None)
            if rng.random() < 0.3:
                side.reset(PINNED)
            commits += 2
    return commits


def collect(path: Path, seconds: float, barrier: Any) -> int:
    """Collect all the time; records freed."""
    freed = 0
    with Repo(path) as repo:
        barrier.wait(PATIENCE_S)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            freed += repo.gc(keep_reflog=0).freed_count
    return freed
