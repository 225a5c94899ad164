"""Clocks that jump (T1): history follows parents, and nothing is collected for a clock that went back."""

from __future__ import annotations

import random
import time

import pytest

import kvgit_hamt as kvgit
from kvgit_hamt import Repo, gc
from tests.support.homes import SMALL

SECOND_US = 1_000_000
DAY_US = 86_400 * SECOND_US
NOW_US = 56 * 365 * DAY_US  # 2025, or so
LEAP_US = 1_483_228_800 * SECOND_US  # behind 2016-12-31T23:59:60
JUMPS = {
    "a day back": [NOW_US, NOW_US - DAY_US],
    "ten years ahead": [NOW_US, NOW_US + 3_650 * DAY_US, NOW_US + 1],
    "1970": [NOW_US, 0, NOW_US + 5],
    "before 1970": [NOW_US, -DAY_US],
    "a leap second": [LEAP_US - 1, LEAP_US - SECOND_US, LEAP_US],
    "standing still": [NOW_US],
}


class Clock:
    """Gives the moments again and again, in turn or at random."""

    def __init__(self, moments, rng=None):
        self.moments = moments
        self.rng = rng
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return self.rng.choice(self.moments) if self.rng else self.moments[self.calls % len(self.moments)]


def assert_in_order(repo):
    """Every commit comes before its parents, whatever their times say."""
    places = {commit.id: place for place, commit in enumerate(repo.log())}
    for commit in repo.log():
        assert all(places[commit.id] < places[parent] for parent in commit.parents)
    return len(places)


@pytest.mark.parametrize("jump", JUMPS)
@pytest.mark.parametrize("where", ["memory", "lmdb"])
def test_history_and_merges_follow_parents_and_never_the_clock(tmp_path, jump, where):
    rng = random.Random(jump)
    path = tmp_path / "store" if where == "lmdb" else None
    with Repo(path, shape=SMALL, clock=Clock(JUMPS[jump], rng)) as repo:
        main, side = repo.worktree(), repo.worktree("side", create=True)
        for turn in range(12):
            for work in (main, side):
                work[f"{work.branch}/{turn}"] = turn
                work.commit()
            if turn % 4 == 3:
                main.merge(branch="side")
                side.merge(branch="main")
        assert assert_in_order(repo) > 24
        assert repo.merge_base("main", "side") == repo.branches["main"]
        wanted = {f"{name}/{turn}": turn for name in ("main", "side") for turn in range(12)}
        assert dict(repo.snapshot().items()) == dict(repo.snapshot(branch="side").items()) == wanted
        moves = list(reversed(repo.reflog()))
        assert [move.old for move in moves[1:]] == [move.new for move in moves[:-1]]


def thrown_away(path, clock):
    """A commit that only the reflog holds."""
    repo = Repo(path, shape=SMALL, clock=clock)
    work = repo.worktree()
    start = work.base
    work["lost"] = "and found"
    lost = work.commit().commit
    work.reset(start)
    work.close()
    return repo, lost


@pytest.mark.parametrize("back_us", [1, DAY_US, 200 * DAY_US, NOW_US])
def test_gc_takes_nothing_that_is_newer_than_its_clock(tmp_path, back_us):
    clock = Clock([NOW_US])
    repo, lost = thrown_away(tmp_path / "store", clock)
    clock.moments = [NOW_US - back_us]
    assert repo.gc().freed_count == 0
    assert repo.gc(keep_reflog=0).freed_count == 0  # not even then: the entry is of a time that is to come
    assert repo.snapshot(commit=lost)["lost"] == "and found"
    repo.close()


def test_gc_waits_as_long_as_it_was_told_to(tmp_path):
    """The control: the same commit goes when its time has come."""
    clock = Clock([NOW_US])
    repo, lost = thrown_away(tmp_path / "store", clock)
    clock.moments = [NOW_US + gc.KEEP_REFLOG_US - 1]
    assert repo.gc().freed_count == 0
    clock.moments = [NOW_US + gc.KEEP_REFLOG_US + 1]
    assert repo.gc().freed_count > 0
    with pytest.raises(kvgit.NotFoundError):
        repo.snapshot(commit=lost)
    repo.close()


def test_entries_of_a_clock_that_was_off_are_kept_by_older_ones_of_the_right_time(tmp_path):
    clock = Clock([NOW_US])
    repo, _ = thrown_away(tmp_path / "store", clock)
    clock.moments = [0]  # the battery is dead
    work = repo.worktree()
    start = work.base
    work["made in 1970"] = 1
    lost = work.commit().commit
    work.reset(start)
    work.close()
    clock.moments = [NOW_US + DAY_US]
    repo.gc()
    assert repo.snapshot(commit=lost)["made in 1970"] == 1
    repo.close()


@pytest.mark.parametrize("moment", [NOW_US + 3_650 * DAY_US, 0])
def test_whatever_the_clock_says_what_branches_and_tags_reach_is_never_taken(tmp_path, moment):
    clock = Clock([NOW_US])
    with Repo(tmp_path / "store", shape=SMALL, clock=clock) as repo:
        work = repo.worktree()
        for turn in range(20):
            work[f"{turn}"] = turn
            work.commit()
        repo.tags.create("v1")
        clock.moments = [moment]
        repo.gc(keep_reflog=0)
        assert assert_in_order(repo) == 21
        assert len(dict(repo.snapshot(tag="v1").items())) == 20


@pytest.mark.parametrize(
    "moment", [time.time_ns(), -(10**18), 2.5, None], ids=["ns", "early", "float", "none"]
)
def test_a_clock_that_counts_in_other_units_is_refused_before_anything_is_stored(tmp_path, moment):
    clock = Clock([NOW_US])
    with Repo(tmp_path / "store", clock=clock) as repo:
        work = repo.worktree()
        work["a"] = 1
        before = work.base
        clock.moments = [moment]
        with pytest.raises(kvgit.InvalidInputError, match="microseconds"):
            work.commit()
        with pytest.raises(kvgit.InvalidInputError, match="microseconds"):
            repo.branches.create("b")
        clock.moments = [NOW_US]
        assert repo.branches["main"] == before
        assert work.commit().merged


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the system has one time zone for all programs")
def test_times_are_the_same_in_every_time_zone(monkeypatch):
    repo = Repo(None, clock=Clock([NOW_US]))
    work = repo.worktree()
    work["a"] = 1
    first = work.commit().commit
    seen = set()
    for zone in ("UTC", "Asia/Kathmandu", "America/St_Johns", "XYZ-14"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        commit = repo.get_commit(first)
        seen.add((commit.time.isoformat(), commit.time.timestamp(), repo.snapshot(as_of=NOW_US / 1e6).id))
    monkeypatch.undo()
    time.tzset()
    assert len(seen) == 1


def test_a_system_clock_that_is_set_back_between_two_commits_changes_nothing_else(tmp_path, monkeypatch):
    with kvgit.open(tmp_path / "store") as work:
        work["a"] = 1
        work.commit()
        real = time.time_ns
        monkeypatch.setattr(time, "time_ns", lambda: real() - 10 * 365 * DAY_US * 1_000)
        monkeypatch.setattr(time, "time", lambda: real() / 1e9 - 10 * 365 * 86_400)
        work["b"] = 2
        work.commit()
        assert assert_in_order(work.repo) == 3
        assert work.repo.gc().freed_count == 0
    with kvgit.open(tmp_path / "store") as work:
        assert dict(work) == {"a": 1, "b": 2}
