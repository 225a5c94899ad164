"""Speed and cost of the engine beside raw LMDB, in one run: ``python -m bench.engine --keys 1000000``.

Both sides hold the same pairs (keys of about 14 bytes, values of 64 random bytes), as ``bytes``. Each figure
is the median of ``--repeats`` measurements taken in turn. Raw LMDB is py-lmdb without versions: unsorted
``putmulti``, ``get`` in one read transaction, a cursor over everything.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb

import kvgit_hamt
from kvgit_hamt import Repo

GETS = 20_000
BATCH = 1_000


def key_of(number: int) -> str:
    """A key of 14 bytes."""
    return f"user:{number:09d}"


def make_pairs(count: int) -> list[tuple[str, bytes]]:
    """The pairs of a run, in random order."""
    rng = random.Random(1)
    pairs = [(key_of(number), rng.randbytes(64)) for number in range(count)]
    rng.shuffle(pairs)
    return pairs


def seconds(work: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def raw_load(path: Path, pairs: list[tuple[str, bytes]]) -> None:
    """Load the pairs into a raw LMDB environment."""
    with lmdb.open(str(path), map_size=1 << 36) as env, env.begin(write=True) as txn:
        txn.cursor().putmulti((key.encode(), value) for key, value in pairs)


def our_load(path: Path, pairs: list[tuple[str, bytes]]) -> None:
    """Load the pairs into a store."""
    with Repo(path, codec="bytes") as repo:
        repo.worktree().load(pairs)


def measure_load(root: Path, pairs: list[tuple[str, bytes]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each load, in turn."""
    samples: dict[str, list[float]] = {"raw": [], "ours": []}
    for turn in range(repeats):
        for name, load in (("raw", raw_load), ("ours", our_load)):
            path = root / f"{name}{turn}"
            samples[name].append(seconds(lambda load=load, path=path: load(path, pairs)))  # type: ignore[misc]
            if turn < repeats - 1:
                shutil.rmtree(path)
    (root / f"raw{repeats - 1}").rename(root / "raw")
    (root / f"ours{repeats - 1}").rename(root / "ours")
    return samples


def measure_reads(root: Path, count: int, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of random gets and of a walk over everything, in turn."""
    rng = random.Random(2)
    wanted = [key_of(rng.randrange(count)) for _ in range(GETS)]
    out: dict[str, dict[str, list[float]]] = {
        "get": {"raw": [], "ours": []},
        "iterate": {"raw": [], "ours": []},
    }
    env = lmdb.open(str(root / "raw"), map_size=1 << 36, readonly=True)
    with Repo(root / "ours") as repo, env.begin() as txn:
        snapshot = repo.snapshot()

        def raw_gets() -> None:
            get = txn.get
            for key in wanted:
                get(key.encode())

        def our_gets() -> None:
            get = snapshot.get
            for key in wanted:
                get(key)

        def raw_walk() -> None:
            for _ in txn.cursor():
                pass

        def our_walk() -> None:
            for _ in snapshot.items():
                pass

        raw_gets()
        our_gets()
        for _ in range(repeats):
            out["get"]["raw"].append(seconds(raw_gets))
            out["get"]["ours"].append(seconds(our_gets))
            out["iterate"]["raw"].append(seconds(raw_walk))
            out["iterate"]["ours"].append(seconds(our_walk))
    env.close()
    return out


def measure_commits(root: Path, count: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of 1-key and 1,000-key commits, of diffs, and of a merge of 2 x 1,000 changes."""
    rng = random.Random(3)
    out: dict[str, list[float]] = {
        name: [] for name in ("commit_1", "commit_1000", "diff_1", "diff_1000", "merge", "branch")
    }
    with Repo(root / "ours") as repo:
        work = repo.worktree()

        def edit(tree: Any, how_many: int) -> None:
            for _ in range(how_many):
                tree[key_of(rng.randrange(count))] = rng.randbytes(64)

        for turn in range(repeats):
            for how_many in (1, BATCH):
                before = work.base
                edit(work, how_many)
                out[f"commit_{how_many}"].append(seconds(work.commit))
                out[f"diff_{how_many}"].append(
                    seconds(lambda before=before: list(repo.diff(before, "main", values=False)))  # type: ignore[misc]
                )
            name = f"side{turn}"
            out["branch"].append(seconds(lambda name=name: repo.branches.create(name)))  # type: ignore[misc]
            side = repo.worktree(name)
            edit(side, BATCH)
            edit(work, BATCH)
            side.commit()
            work.commit()
            out["merge"].append(
                seconds(lambda name=name: work.merge(branch=name, default_merge=kvgit_hamt.OURS))  # type: ignore[misc]
            )
    return out


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


def measure_costs(path: Path, count: int) -> dict[str, dict[str, int]]:
    """Node reads and writes of single operations on a store that was just opened."""
    rng = random.Random(4)
    out = {}
    with Repo(path) as repo:
        for name, step in _steps(repo, count, rng):
            before = repo.store.counters.copy()
            step()
            done = repo.store.counters.since(before)
            out[name] = {"nodes_read": done.nodes_read, "nodes_written": done.nodes_written}
    with Repo(path) as repo:
        ours, side = repo.worktree(), repo.worktree("counted")
        for number in rng.sample(range(count), min(2 * BATCH, count)):
            tree = ours if number % 2 else side
            tree[key_of(number)] = rng.randbytes(64)
        side.commit()
        ours.commit()
        before = repo.store.counters.copy()
        ours.merge(branch="counted")
        done = repo.store.counters.since(before)
        out["merge of 2 x 1,000 changes"] = {
            "nodes_read": done.nodes_read,
            "leaves_read": done.leaves_read,
            "nodes_written": done.nodes_written,
        }
        repo.branches.delete("counted")
    return out


MEMORY_PROGRAM = """
import sys
from kvgit_hamt import Repo
def resident():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1])
with Repo(sys.argv[1]) as repo:
    work = repo.worktree()
    work.get("user:000000007")
    work["user:000000007"] = b"x" * 64
    work.commit()
    print(resident())
"""


def resident_kib(path: Path) -> int:
    """Resident memory, without the file map's pages, after opening a store, one get and one commit."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY_PROGRAM, str(path)], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def report(count: int, figures: dict[str, Any]) -> None:
    """Print what was measured."""
    load = {name: statistics.median(times) for name, times in figures["load"].items()}
    rate = load["raw"] / load["ours"]
    print(
        f"load     ours {count / load['ours']:>11,.0f} keys/s   raw {count / load['raw']:>11,.0f}   x {rate:.2f}"
    )
    get = {name: statistics.median(times) / GETS * 1e6 for name, times in figures["get"].items()}
    print(
        f"get      ours {get['ours']:>11.2f} us       raw {get['raw']:>11.2f}   x {get['ours'] / get['raw']:.2f}"
    )
    walk = {name: statistics.median(times) for name, times in figures["iterate"].items()}
    ratio = walk["ours"] / walk["raw"]
    print(
        f"iterate  ours {count / walk['ours']:>11,.0f} items/s  raw {count / walk['raw']:>11,.0f}   time x {ratio:.2f}"
    )
    for name, times in figures["commits"].items():
        print(f"{name:<12} {statistics.median(times) * 1e3:9.2f} ms")
    for size, costs in figures["costs"].items():
        print(f"node reads and writes at {int(size):,} keys")
        for name, cost in costs.items():
            print(f"  {name:<28} {', '.join(f'{value} {what}' for what, value in cost.items())}")
    memory = figures["resident_kib"]
    print(f"resident after open, get, commit: {memory['full'] - memory['empty']:,} KiB above an empty store")
    print(
        f"peak of this process {figures['peak_kib']:,} KiB; file {figures['file_bytes'] / count:.0f} bytes a key"
    )


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and write the samples if asked."""
    parser = argparse.ArgumentParser(prog="python -m bench.engine", description=__doc__)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the raw samples here")
    options = parser.parse_args(argv)
    count = options.keys
    with tempfile.TemporaryDirectory(prefix="kvgit-hamt-bench-") as name:
        root = Path(name)
        pairs = make_pairs(count)
        figures: dict[str, Any] = {"load": measure_load(root, pairs, options.repeats)}
        figures["peak_kib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        figures["file_bytes"] = os.stat(root / "ours" / "data.mdb").st_blocks * 512
        small = min(10_000, count)
        our_load(root / "small", pairs and make_pairs(small))
        with Repo(root / "empty", codec="bytes"):
            pass
        figures.update(measure_reads(root, count, options.repeats))
        figures["costs"] = {
            small: measure_costs(root / "small", small),
            count: measure_costs(root / "ours", count),
        }
        figures["resident_kib"] = {
            "empty": resident_kib(root / "empty"),
            "full": resident_kib(root / "ours"),
        }
        figures["commits"] = measure_commits(root, count, options.repeats)
    report(count, figures)
    if options.json:
        machine = {"python": platform.python_version(), "lmdb": lmdb.version(), "cpus": os.cpu_count()}
        options.json.write_text(json.dumps({"keys": count, "machine": machine, **figures}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
