"""Garbage collection for long, under load, and by the byte.

    python -m bench.gc_soak --seconds 60        gc in a loop beside two writers and a reader, all processes
    python -m bench.gc_soak --commits 10000     size of the file while a branch is re-written and collected
    python -m bench.gc_soak --records 1000000   anonymous memory of gc beside that of an idle process

Each prints what it did and fails with a traceback if anything was lost or anybody failed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import resource
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import kvgit_hamt as kvgit
from kvgit_hamt import gc, history
from kvgit_hamt.errors import StaleBatchError
from kvgit_hamt.hamt import Tree
from kvgit_hamt.objects import RefValue

SPAWN = multiprocessing.get_context("spawn")
PATIENCE_S = 300
KEYS = 100_000
PER_COMMIT = 100
GC_EVERY = 500


# --- beside writers and readers -----------------------------------------------------------------


class Writer:
    """One process of the race: changes a branch of its own in every way, and adds pairs to "main".

    Whatever it does it knows what must be there, and looks now and then.
    """

    def __init__(self, path: Path, name: str, seed: int) -> None:
        self.repo = kvgit.Repo(path)
        self.name = name
        self.rng = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.mine = self.repo.worktree(name, create=True)
        self.main = self.repo.worktree("main")
        self.past: list[tuple[str, dict[str, Any]]] = [(self.mine.base, {})]
        self.on_main: dict[str, Any] = {}

    @property
    def content(self) -> dict[str, Any]:
        """What its branch must hold."""
        return dict(self.past[-1][1])

    def changes(self, count: int) -> dict[str, Any]:
        """New values for some keys; some are out of line, and many were there before."""
        pick = self.rng.randrange
        return {f"k{pick(30)}/{pick(2_000)}": ("blob " * 200 + str(pick(9))) if not pick(20) else pick(50)
                for _ in range(count)}  # fmt: skip

    def note(self, commit: str, content: dict[str, Any]) -> None:
        """Remember where the branch is now."""
        self.past.append((commit, content))
        del self.past[:-20]

    def commit(self) -> None:
        """A commit on its own branch; without a time, so that old commits are made again."""
        changes = self.changes(self.rng.choice([1, 10, 200]))
        self.mine.update(changes)
        when: Any = None if self.rng.random() < 0.5 else "now"
        self.note(self.mine.commit(time=when).commit, {**self.content, **changes})

    def commit_to_main(self) -> None:
        """A pair of equal values on the branch that all share; merges when the other was there first."""
        number, value = self.counts["commit_to_main"], self.rng.randrange(10**6)
        pair = {f"{self.name}/{number % 500}/{side}": value for side in "ab"}
        self.main.update(pair)
        assert self.main.commit().merged
        self.on_main.update(pair)

    def load(self) -> None:
        """Many entries at once. It may have to begin anew when gc took what it was to share."""
        start = self.rng.randrange(5) * 3_000
        items = {f"load/{number}": f"value {number}" * 3 for number in range(start, start + 6_000)}
        while True:
            try:
                self.note(self.mine.load(items).commit, {**self.content, **items})
                return
            except StaleBatchError:
                self.counts["load again"] += 1

    def reset(self) -> None:
        """Back to an older commit; what came after it is garbage."""
        back = self.rng.randrange(len(self.past))
        del self.past[back + 1 :]
        self.mine.reset(self.past[back][0])

    def branch(self) -> None:
        """A branch and a tag that come and go."""
        name = f"{self.name}-{self.rng.randrange(3)}"
        if name in self.repo.branches:
            self.repo.branches.delete(name)
            self.repo.tags.delete(name)
        else:
            self.repo.branches.create(name, at=self.name)
            self.repo.tags.create(name, at=self.name)
            side = self.repo.worktree(name)
            side.update(self.changes(30))
            side.commit()

    def pick(self) -> None:
        """The changes of a commit of one of its side branches, if there is one."""
        name = f"{self.name}-{self.rng.randrange(3)}"
        if name in self.repo.branches:
            result = self.mine.cherry_pick(name, default_merge=kvgit.THEIRS)
            self.note(result.commit, dict(self.mine.items()))

    def check(self) -> None:
        """Everything of its own is there."""
        assert dict(self.mine.items()) == self.content
        with self.repo.snapshot(branch=self.name) as snapshot:
            assert dict(snapshot.items()) == self.content
        found = dict(self.repo.snapshot().items(prefix=self.name + "/"))
        assert found == self.on_main

    def run(self, seconds: float) -> None:
        """Do all of it at random."""
        end = time.monotonic() + seconds
        steps = (
            [self.commit] * 6 + [self.commit_to_main] * 6 + [self.reset, self.branch, self.check, self.pick]
        )
        while time.monotonic() < end:
            step = self.load if self.rng.random() < 0.02 else self.rng.choice(steps)
            step()
            self.counts[step.__name__] += 1
        self.check()


def write(path: Path, name: str, seed: int, seconds: float) -> dict[str, Any]:
    """A writing process: what it did, and what its branch and its keys on "main" must be."""
    writer = Writer(path, name, seed)
    writer.run(seconds)
    return {"counts": dict(writer.counts), "content": writer.content, "main": writer.on_main}


def read(path: Path, seconds: float) -> dict[str, Any]:
    """A reading process: every fresh snapshot is whole, and holds both keys of every pair."""
    end = time.monotonic() + seconds
    count = 0
    with kvgit.Repo(path) as repo:
        while time.monotonic() < end:
            with repo.snapshot() as snapshot:
                items = dict(snapshot.items())
                assert len(items) == len(snapshot)
                assert all(
                    items[key[:-1] + "b"] == value for key, value in items.items() if key.endswith("a")
                )
            count += 1
    return {"counts": {"read": count}}


def collect(path: Path, seconds: float) -> dict[str, Any]:
    """A collecting process: nothing that can be reset to is spared by the reflog."""
    end = time.monotonic() + seconds
    counts: Counter[str] = Counter()
    with kvgit.Repo(path) as repo:
        while time.monotonic() < end:
            result = repo.gc(keep_reflog=0)
            counts["gc"] += 1
            counts["freed records"] += result.freed_count
    return {"counts": dict(counts)}


def _report(end: Any, barrier: Any, work: Any, arguments: tuple[Any, ...]) -> None:
    try:
        barrier.wait(PATIENCE_S)
        end.send(work(*arguments))
    except BaseException as error:
        barrier.abort()
        end.send(error)


def together(*jobs: tuple[Any, ...]) -> list[Any]:
    """Run each job (function, arguments..) in a process of its own; their results in order."""
    barrier = SPAWN.Barrier(len(jobs))
    running = []
    for work, *arguments in jobs:
        mine, other = SPAWN.Pipe(duplex=False)
        process = SPAWN.Process(target=_report, args=(other, barrier, work, tuple(arguments)), daemon=True)
        process.start()
        other.close()
        running.append((process, mine))
    results = [mine.recv() if mine.poll(PATIENCE_S) else TimeoutError("it hangs") for _, mine in running]
    for process, _ in running:
        process.join(PATIENCE_S)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def race(path: Path, seconds: float, collectors: int = 1, seed: int = 1) -> dict[str, Any]:
    """gc beside two writers and a reader; then everything is read, and the count of records is exact."""
    kvgit.open(path).close()
    jobs = [(write, path, f"w{number}", seed + number, seconds) for number in range(2)]
    results = together(*jobs, (read, path, seconds), *[(collect, path, seconds)] * collectors)
    counts: Counter[str] = Counter()
    for result in results:
        counts.update(result["counts"])
    with kvgit.Repo(path) as repo:
        for number, result in enumerate(results[:2]):
            assert dict(repo.snapshot(branch=f"w{number}").items()) == result["content"]
        assert dict(repo.snapshot().items()) == {**results[0]["main"], **results[1]["main"]}
        repo.gc(keep_reflog=0)
        trees = {commit.tree: commit.id for name in repo.branches for commit in repo.log(name)}
        for commit in trees.values():
            snapshot = repo.snapshot(commit=commit)
            assert sum(1 for _ in snapshot.items()) == len(snapshot)
        assert repo.gc(keep_reflog=0).freed_count == 0
        counts["records left"] = repo.stats()["record_count"]
        counts["file bytes"] = repo.stats()["file_bytes"]
    return dict(counts)


# --- the size of the file -----------------------------------------------------------------------


def cut_history(repo: kvgit.Repo, branch: str) -> None:
    """Move a branch to a commit without parents that holds the same: all that came before is garbage."""
    head = repo.branches.head(branch)
    commit = repo.store.read_commit(head.oid)
    writer = repo.store.writer()
    writer.require(commit)
    meta = history.CommitMeta(None, {"cut": commit.oid.hex()[:12]}, commit.codec)
    root = history.put_commit(writer, Tree(*commit.tree), (), meta)
    update = repo.refs.update("heads/" + branch, head, RefValue(root.oid), "history cut")
    writer.publish([update], [root.oid])


def _key(rng: random.Random, keys: int) -> str:
    return f"user:{rng.randrange(keys):09d}"


def churn(path: Path, commits: int, every: int = GC_EVERY, keys: int = KEYS) -> dict[str, Any]:
    """Re-write random keys, commit after commit; cut the history and collect now and then."""
    rng = random.Random(1)
    sizes, seconds = [], []
    with kvgit.open(path, codec="bytes") as work:
        repo = work.repo
        work.load((f"user:{number:09d}", rng.randbytes(64)) for number in range(keys))
        loaded = repo.stats()["file_bytes"]
        for number in range(1, commits + 1):
            work.update({_key(rng, keys): rng.randbytes(64) for _ in range(PER_COMMIT)})
            work.commit()
            if number % every == 0:
                cut_history(repo, "main")
                work.refresh()
                result = repo.gc(keep_reflog=0)
                sizes.append(repo.stats()["file_bytes"])
                seconds.append(result.seconds)
                live = result.kept_bytes
                print(
                    f"{number:6d} commits: file {sizes[-1] / 1e6:7.1f} MB, live {live / 1e6:6.1f} MB, "
                    f"freed {result.freed_count} records in {result.seconds:.2f} s",
                    flush=True,
                )
        assert len(work) == keys
        assert sum(1 for _ in work.items()) == keys
    return {
        "commits": commits, "file bytes when loaded": loaded, "file bytes after first gc": sizes[0],
        "largest file bytes": max(sizes), "live bytes": live,
        "ratio to first": round(max(sizes) / sizes[0], 3),
        "ratio to first + live": round(max(sizes) / (sizes[0] + live), 3),
        "median gc seconds": round(statistics.median(seconds), 3),
    }  # fmt: skip


# --- memory -------------------------------------------------------------------------------------


def _kb(name: str) -> int:
    """A line of this process's status; RssAnon is its memory without pages of mapped files."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    return 0


class Peak(threading.Thread):
    """Samples anonymous memory every millisecond."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = _kb("RssAnon")
        self._is_over = threading.Event()

    def run(self) -> None:
        """Until ``stop``."""
        while not self._is_over.wait(0.001):
            self.peak = max(self.peak, _kb("RssAnon"))

    def stop(self) -> int:
        """The largest sample, in KiB."""
        self._is_over.set()
        self.join()
        return max(self.peak, _kb("RssAnon"))


def watched(path: Path, collecting: bool, step: int) -> dict[str, Any]:
    """Open a store, read one key, and perhaps collect: peak memory."""
    gc.STEP = step
    with kvgit.Repo(path) as repo:
        assert repo.snapshot().get("none") is None
        start = _kb("RssAnon")
        watch = Peak()
        watch.start()
        out: dict[str, Any] = {}
        if collecting:
            result = repo.gc(keep_reflog=0)
            out = {
                "freed": result.freed_count,
                "kept": result.kept_count,
                "seconds": round(result.seconds, 2),
            }
        else:
            time.sleep(0.3)
        peak = watch.stop()
        # These two count mapped pages of the file as well, and ru_maxrss what ran before exec.
        high = {
            "VmHWM KiB": _kb("VmHWM"),
            "ru_maxrss KiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        }
        return {**out, "start RssAnon KiB": start, "peak RssAnon KiB": peak, **high}


def memory(path: Path, records: int, step: int) -> dict[str, Any]:
    """A store of that many records, a tenth of them garbage all over it, opened by two processes."""
    rng = random.Random(2)
    keys = records * 19  # about 20 entries of 14 + 64 bytes a leaf
    with kvgit.open(path, codec="bytes") as work:
        work.load((f"user:{number:09d}", rng.randbytes(64)) for number in range(keys))
        for _ in range(10):
            work.update({_key(rng, keys): rng.randbytes(64) for _ in range(records // 100)})
            work.commit()
        cut_history(work.repo, "main")
        count = work.repo.stats()["record_count"]
    idle = together((watched, path, False, step))[0]
    busy = together((watched, path, True, step))[0]
    more = busy["peak RssAnon KiB"] - idle["peak RssAnon KiB"]
    return {"records": count, "idle": idle, "gc": busy, "gc above idle MiB": round(more / 1024, 2)}


def main(arguments: list[str]) -> None:
    """Run what the options ask for, in a temporary directory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0)
    parser.add_argument("--collectors", type=int, default=1)
    parser.add_argument("--commits", type=int, default=0)
    parser.add_argument("--every", type=int, default=GC_EVERY)
    parser.add_argument("--records", type=int, default=0)
    parser.add_argument("--step", type=int, default=gc.STEP, help="records of one sweep transaction")
    parser.add_argument("--dir", default=None)
    options = parser.parse_args(arguments)
    root = Path(tempfile.mkdtemp(prefix="gc-soak-", dir=options.dir))
    try:
        if options.seconds:
            print(json.dumps(race(root / "race", options.seconds, options.collectors), indent=1))
        if options.commits:
            print(json.dumps(churn(root / "churn", options.commits, options.every), indent=1))
        if options.records:
            print(json.dumps(memory(root / "memory", options.records, options.step), indent=1))
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main(sys.argv[1:])
