"""What single operations cost in nodes and memory, small and large: ``python -m bench.costs --keys 1000000``.

Counters, not seconds: node reads and writes of opening, a commit, a branch, ``len``, a diff of one change, a
merge of 2 x 1,000 changes, and of listing and comparing a directory of 100 keys; and the resident memory of a
process that opened the store, read one key and committed one, above that of an empty store.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from kvgit_hamt import Repo

BATCH = 1_000
SMALL = 10_000
PER_DIRECTORY = 100

MEMORY_PROGRAM = """
import sys
from kvgit_hamt import Repo
def resident():
    with open("/proc/self/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return [int(fields[name].split()[0]) for name in ("VmRSS", "RssAnon")]
with Repo(sys.argv[1]) as repo:
    work = repo.worktree()
    work.get("user:000000007")
    work["user:000000007"] = b"x" * 64
    work.commit()
    print(*resident())
"""


def key_of(number: int) -> str:
    """A key of 14 bytes."""
    return f"user:{number:09d}"


def nested_key(number: int) -> str:
    """The same, in a directory of 100 keys."""
    return f"users/{number // PER_DIRECTORY}/{number % PER_DIRECTORY:03d}"


def load(path: Path, count: int, name: Callable[[int], str] = key_of) -> None:
    """Make a store of so many keys with 64 random bytes each."""
    rng = random.Random(1)
    with Repo(path, codec="bytes") as repo:
        repo.worktree().load((name(number), rng.randbytes(64)) for number in range(count))


def _steps(repo: Repo, count: int, rng: random.Random) -> Iterator[tuple[str, Callable[[], object]]]:
    work = repo.worktree()

    def commit_one() -> None:
        work[key_of(rng.randrange(count))] = rng.randbytes(64)
        work.commit()

    before = work.base
    yield "open + get", lambda: repo.worktree().get(key_of(5))
    yield "commit of 1 key", commit_one
    yield "create branch", lambda: repo.branches.create("counted")
    yield "len", lambda: len(work)
    yield "diff of 1 change", lambda: list(repo.diff(before, "main"))


def _print_cost(repo: Repo, name: str, step: Callable[[], object]) -> None:
    before = repo.store.counters.copy()
    step()
    done = repo.store.counters.since(before)
    print(
        f"  {name:<34} {done.nodes_read:>6} read, {done.leaves_read:>6} of them leaves, "
        f"{done.nodes_written:>6} written"
    )


def operations(path: Path, count: int) -> None:
    """Print the counters of single operations on a store that was just opened."""
    rng = random.Random(4)
    print(f"nodes at {count:,} keys")
    with Repo(path) as repo:
        for name, step in _steps(repo, count, rng):
            _print_cost(repo, name, step)
    with Repo(path) as repo:
        ours, side = repo.worktree(), repo.worktree("counted")
        for number in rng.sample(range(count), min(2 * BATCH, count)):
            tree = ours if number % 2 else side
            tree[key_of(number)] = rng.randbytes(64)
        side.commit()
        ours.commit()
        _print_cost(repo, "merge of 2 x 1,000 changes", lambda: ours.merge(branch="counted"))


def directories(path: Path, count: int) -> None:
    """Print the counters of listing and comparing directories of 100 keys among ``count``."""
    print(f"nodes of a directory of {PER_DIRECTORY} keys among {count:,}")
    with Repo(path) as repo:
        work = repo.worktree()
        before = work.base
        name = f"users/{count // PER_DIRECTORY // 3}/"
        for key in list(work.keys(name))[::10]:
            work[key] = b"changed"
        work.commit()
    with Repo(path) as repo:
        _print_cost(repo, "listed", lambda: list(repo.snapshot().items(name)))
    with Repo(path) as repo:
        _print_cost(repo, "compared, 10 keys changed", lambda: list(repo.diff(before, "main", name)))
    reads = []
    with Repo(path) as repo:
        snapshot = repo.snapshot()
        for number in random.Random(5).sample(range(count // PER_DIRECTORY), 200):
            earlier = repo.store.counters.copy()
            assert sum(1 for _ in snapshot.keys(f"users/{number}/")) == PER_DIRECTORY
            reads.append(repo.store.counters.since(earlier).nodes_read)
    average = sum(reads) / len(reads)
    print(f"  listed, 200 directories in turn    {max(reads):>6} read at most, {average:.0f} on average")


def resident_kib(path: Path) -> tuple[int, int]:
    """Resident memory, and the anonymous part of it, after opening a store, one get and one commit."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY_PROGRAM, str(path)], capture_output=True, text=True, check=True
    )
    whole, anonymous = map(int, done.stdout.split())
    return whole, anonymous


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.costs", description=__doc__)
    parser.add_argument("--keys", type=int, default=1_000_000)
    count = parser.parse_args(argv).keys
    with tempfile.TemporaryDirectory(prefix="kvgit-hamt-costs-") as name:
        root = Path(name)
        load(root / "small", min(SMALL, count))
        load(root / "large", count)
        load(root / "directories", count, nested_key)
        with Repo(root / "empty", codec="bytes"):
            pass
        operations(root / "small", min(SMALL, count))
        operations(root / "large", count)
        directories(root / "directories", count)
        empty, large = resident_kib(root / "empty"), resident_kib(root / "large")
    print(
        f"resident after open, get and commit: {large[0] - empty[0]:,} KiB above an empty store "
        f"({large[1] - empty[1]:,} KiB of it anonymous)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
