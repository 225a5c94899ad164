"""Imports that are killed again and again: each run goes on where the last commit ended, nothing is lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kvgit_hamt import Repo
from kvgit_hamt.interchange import JsonLines, import_git, load
from kvgit_hamt.interchange.gitimport import IN_PROGRESS
from tests.support.gitrepos import compare, make_repository
from tests.support.scale import pick, record

ROWS = 4_000
EVERY = 25
COMMITS = 150
LOADS = """
import sys
from kvgit_hamt import Repo
from kvgit_hamt.interchange import JsonLines, load
with Repo(sys.argv[1]) as repo:
    tell = lambda step: print(step.rows, flush=True)
    load(repo.worktree(), JsonLines(sys.argv[2]), every=25, progress=tell)
"""
IMPORTS = """
import sys
from kvgit_hamt import Repo
from kvgit_hamt.interchange import gitimport
gitimport.BATCH_COMMITS = 3
with Repo(sys.argv[1]) as repo:
    gitimport.import_git(repo, sys.argv[2], progress=lambda step: print(step.rows, flush=True))
"""


def run_and_kill(code: str, store: Path, source: Path, rng: random.Random) -> bool:
    """Run an import in a process of its own and kill it, some steps on; whether it had ended before."""
    arguments = [sys.executable, "-c", code, str(store), str(source)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(rng.randrange(30)):
            process.stdout.readline()
        time.sleep(rng.uniform(0, 0.003))  # somewhere within the next step
        os.kill(process.pid, signal.SIGKILL)
    return process.returncode == 0


@pytest.mark.slow
def test_loads_that_are_killed(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"key":"{n}","value":{n}}}\n' for n in range(ROWS)))
    wanted = {str(n): n for n in range(ROWS)}
    store = tmp_path / "store"
    Repo(store).close()
    rng = random.Random(7)
    kills = parts = 0
    for _ in range(pick(25, 500)):
        kills += not run_and_kill(LOADS, store, path, rng)
        with Repo(store) as repo:
            work = repo.worktree()
            count = len(work)
            assert count % EVERY == 0
            assert dict(work.items()) == {str(n): n for n in range(count)}
            parts += 0 < count < ROWS
            if count == ROWS:  # begin anew, so that every kill has something to stop
                work.clear()
                work.commit()
                load(work, JsonLines(path), every=ROWS, restart=True)
                work.reset(list(repo.log("main"))[-1].id)
    with Repo(store) as repo:
        work = repo.worktree()
        load(work, JsonLines(path), every=EVERY)
        assert dict(work.items()) == wanted
    assert kills
    assert parts
    record("K2 import", kills=kills, violations=0, control_failed=lies_are_seen(tmp_path, path, wanted))


def lies_are_seen(tmp_path: Path, path: Path, wanted: dict[str, int]) -> bool:
    """The control: where a commit tells of a later place than it holds, rows are missed, and that is seen."""
    with Repo(tmp_path / "lie") as repo:
        work = repo.worktree()
        load(work, JsonLines(path), every=EVERY)
        whole = (repo.get_commit(f"main~{ROWS // EVERY // 2}").info or {})["import"]
        work.reset(list(repo.log("main"))[-1].id)
        work.commit(info={"import": whole})
        load(work, JsonLines(path), every=EVERY)
        is_seen = dict(work.items()) != wanted
    assert is_seen
    return is_seen


@pytest.mark.slow
def test_git_imports_that_are_killed(tmp_path):
    path = make_repository(tmp_path / "history", COMMITS, seed=9)
    rng = random.Random(8)
    kills = continued = stores = 0
    while kills < pick(10, 200):
        stores += 1
        store = tmp_path / str(stores)
        Repo(store).close()
        while True:
            kills += not run_and_kill(IMPORTS, store, path, rng)
            with Repo(store) as repo:
                if IN_PROGRESS not in repo.branches and len(repo.branches) > 1:
                    break  # it had come to its end before it was killed
        with Repo(store) as repo:
            result = import_git(repo, path)
            assert (result.commits, result.earlier) == (0, COMMITS)
            report = compare(repo, path)
        assert report.faults == []
        assert report.commits == COMMITS
        continued += kills > stores
    assert continued
    other = make_repository(tmp_path / "other", 20, seed=10)
    with Repo(store) as repo:
        assert compare(repo, other).faults  # the comparison can fail
    record("K2 git import", kills=kills, violations=0, control_failed=True)
