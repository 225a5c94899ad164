"""Collections beside each other and beside writers who make again what was collected (L9)."""

from __future__ import annotations

import time

import pytest

import kvgit_hamt as kvgit
from bench import gc_soak
from kvgit_hamt import gc
from kvgit_hamt.store import Store, StoreWriter
from tests.support.faults_store import assert_whole
from tests.support.homes import SMALL
from tests.support.racers import PATIENCE_S, call, run_all
from tests.support.scale import pick, record

SECONDS_OF_REST = 0.001


def commit_again(path, rounds, barrier):
    """Make the same two contents again and again, each of which is garbage while the other is current."""
    with kvgit.Repo(path, shape=SMALL) as repo:
        barrier.wait(PATIENCE_S)
        for turn in range(rounds):
            with repo.worktree("again") as work:
                start = work.base
                work.update({f"{turn % 2}/{number}": f"value {number} " * 9 for number in range(60)})
                work.commit(time=None)
                assert len(list(work.items())) == 60
                work.reset(list(repo.log(start))[-1].id)
    return rounds


def collect_until(path, seconds, is_careless, barrier):
    """Collect without a pause, and without looking again if ``is_careless``."""
    if is_careless:
        gc._Sweeper.look = lambda self: None
    gc.STEP = 20
    freed = runs = 0
    with kvgit.Repo(path) as repo:
        barrier.wait(PATIENCE_S)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            freed += repo.gc(keep_reflog=0).freed_count
            runs += 1
            time.sleep(SECONDS_OF_REST)
    return runs, freed


def race(path, rounds, seconds, *, is_careless=False):
    """(collections, records freed); raises what a writer met."""
    with kvgit.Repo(path, shape=SMALL) as repo:
        repo.branches.create("again")
    jobs = [(commit_again, path, rounds)] + [(collect_until, path, seconds, is_careless)] * 2
    _, *collectors = run_all(call, jobs)
    with kvgit.Repo(path) as repo:
        assert_whole(repo)
    return sum(runs for runs, _ in collectors), sum(freed for _, freed in collectors)


@pytest.mark.slow
def test_what_is_made_again_while_two_gcs_collect_it_is_there(tmp_path):
    rounds, seconds = pick(200, 20_000), pick(6, 600)
    runs, freed = race(tmp_path / "store", rounds, seconds)
    assert runs > 10
    assert freed > 100
    try:
        race(tmp_path / "careless", rounds, seconds, is_careless=True)
        failed = 0
    except (kvgit.KvgitHamtError, AssertionError):
        failed = 1
    assert failed  # the control: one that does not look again under the lock takes what others have just made
    record("L9", rounds=rounds, collections=runs, freed=freed, violations=0, control_failed=failed)


@pytest.mark.slow
def test_two_gcs_beside_two_writers_and_a_reader_for_long(tmp_path):
    counts = gc_soak.race(tmp_path / "store", pick(4, 300), collectors=2, seed=21)
    assert counts["freed records"] > 0
    record("L9 writers", collections=counts["gc"], freed=counts["freed records"], violations=0)


@pytest.mark.parametrize("moment", ["read_commit", "publish"])
def test_a_commit_that_is_collected_while_it_is_made_again_is_made_anew(tmp_path, monkeypatch, moment):
    path = tmp_path / "store"
    with kvgit.Repo(path, shape=SMALL) as repo, kvgit.Repo(path) as other:
        work = repo.worktree()
        initial = work.base
        work["a"] = "value"
        first = work.commit(time=None).commit
        work.reset(initial)
        owner = StoreWriter if moment == "publish" else Store
        method = getattr(owner, moment)

        def late(self, *arguments, **options):
            if moment == "publish" or arguments[0].hex() == first:
                monkeypatch.undo()
                assert other.gc(keep_reflog=0).freed_count > 0
            return method(self, *arguments, **options)

        monkeypatch.setattr(owner, moment, late)
        work["a"] = "value"
        assert work.commit(time=None).commit == first
        assert dict(repo.snapshot()) == {"a": "value"}
        assert_whole(repo)
