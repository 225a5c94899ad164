"""Several writers and readers on one store: nothing is lost, nothing changes under a reader."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import kvgit_hamt as kvgit
from kvgit_hamt import counter
from tests.support import racers
from tests.support.homes import KINDS, Home

SIZES = [pytest.param(3, 25, id="small"), pytest.param(6, 300, id="large", marks=pytest.mark.slow)]


def assert_all_landed(repo, commits, writers, count):
    """Every key is there, every commit is reachable, and each writer's own are in order."""
    head = repo.snapshot()
    assert set(head) == {f"writer{w}/{n}" for w in range(writers) for n in range(count)}
    assert len(head) == writers * count
    log = list(repo.log())
    places = {commit.id: place for place, commit in enumerate(log)}
    assert len(places) == len(log)
    for mine in commits:
        assert [places[commit] for commit in mine] == sorted((places[c] for c in mine), reverse=True)
    moves = [entry for entry in reversed(repo.reflog()) if entry.old]
    assert [move.old for move in moves[1:]] == [move.new for move in moves[:-1]]
    assert len(moves) == writers * count


@pytest.mark.parametrize(("writers", "count"), SIZES)
def test_disjoint_writers_in_processes_all_land(tmp_path, writers, count):
    path = tmp_path / "store"
    kvgit.open(path).close()
    commits = racers.run_all(racers.write_keys, [(path, f"writer{w}", count) for w in range(writers)])
    with kvgit.Repo(path) as repo:
        assert_all_landed(repo, commits, writers, count)


@pytest.fixture(params=KINDS)
def home(request, tmp_path):
    home = Home(request.param, tmp_path)
    yield home
    home.close()


def in_threads(count, work):
    barrier = threading.Barrier(count)

    def run(number):
        barrier.wait(racers.PATIENCE_S)
        return work(number)

    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # threads change places within a commit, not after many
    try:
        with ThreadPoolExecutor(count) as pool:
            return [job.result(racers.PATIENCE_S) for job in [pool.submit(run, n) for n in range(count)]]
    finally:
        sys.setswitchinterval(usual)


@pytest.mark.parametrize(("writers", "count"), SIZES)
def test_disjoint_writers_in_threads_of_one_repository_all_land(home, writers, count):
    repo = home.open()
    commits = in_threads(writers, lambda n: racers.commit_keys(repo.worktree(), f"writer{n}", count))
    assert_all_landed(repo, commits, writers, count)


# A merge keeps a value once that both sides came to, and cannot know that it was two increments. So
# writers that merge add amounts whose sums tell them apart, and writers that add one do not merge.


def steps(writers):
    return [1_000**writer for writer in range(writers)]


@pytest.mark.parametrize(("writers", "count"), SIZES)
def test_a_contested_counter_that_merges_in_processes_ends_exactly_right(tmp_path, writers, count):
    path = tmp_path / "store"
    kvgit.open(path).close()
    racers.run_all(racers.count_up, [(path, step, count) for step in steps(writers)])
    with kvgit.Repo(path) as repo:
        assert repo.snapshot()["hits"] == count * sum(steps(writers))


@pytest.mark.parametrize(("writers", "count"), SIZES)
def test_a_contested_counter_that_merges_in_threads_ends_exactly_right(home, writers, count):
    repo = home.open(merge_fns={"hits": counter()})
    in_threads(writers, lambda n: racers.add_merging(repo.worktree(), steps(writers)[n], count))
    assert repo.snapshot()["hits"] == count * sum(steps(writers))


@pytest.mark.parametrize(("writers", "count"), SIZES)
def test_a_contested_counter_that_retries_in_processes_ends_exactly_right(tmp_path, writers, count):
    path = tmp_path / "store"
    kvgit.open(path).close()
    racers.run_all(racers.count_up_alone, [(path, count)] * writers)
    with kvgit.Repo(path) as repo:
        assert repo.snapshot()["hits"] == writers * count


@pytest.mark.parametrize(("writers", "count"), SIZES)
def test_a_contested_counter_that_retries_in_threads_ends_exactly_right(home, writers, count):
    repo = home.open()
    in_threads(writers, lambda _: racers.add_retrying(repo.worktree(), count))
    assert repo.snapshot()["hits"] == writers * count


@pytest.mark.parametrize(("commits", "passes"), [(40, 10), pytest.param(1_500, 300, marks=pytest.mark.slow)])
def test_readers_in_processes_see_snapshots_that_never_change(tmp_path, commits, passes):
    path = tmp_path / "store"
    with kvgit.open(path) as worktree:
        worktree.load({f"k/{i}": "start" * (i % 200) for i in range(400)})
    barrier_users = [(racers.read_pinned, path, passes)] * 2 + [(racers.rewrite, path, commits)]
    assert racers.run_all(racers.call, barrier_users)[:2] == [True, True]


def test_readers_in_threads_see_snapshots_that_never_change(home):
    repo = home.open()
    worktree = repo.worktree()
    worktree.update({f"k/{i}": "start" * (i % 200) for i in range(400)})
    worktree.commit()
    pinned = repo.snapshot()
    first = racers.content_hash(pinned)

    def work(number):
        if number == 0:
            for step in range(30):
                worktree.update({f"k/{i}": step for i in range(step % 7, 400, 7)})
                worktree.commit()
        for _ in range(0 if number == 0 else 12):
            assert racers.content_hash(pinned) == first
            head = repo.snapshot()
            assert racers.content_hash(head) == racers.content_hash(repo.snapshot(commit=head.id))

    in_threads(3, work)
    assert racers.content_hash(pinned) == first


@pytest.mark.parametrize(("writers", "rounds"), [(3, 1), pytest.param(6, 25, marks=pytest.mark.slow)])
def test_creators_of_one_store_at_once_share_it(tmp_path, writers, rounds):
    for number in range(rounds):
        path = tmp_path / f"store{number}"
        initial = racers.run_all(racers.create, [(path, f"key{w}") for w in range(writers)])
        assert len(set(initial)) == 1
        with kvgit.Repo(path) as repo:
            assert dict(repo.snapshot()) == {f"key{w}": 1 for w in range(writers)}


def test_creators_in_threads_share_the_store(home):
    def work(number):
        worktree = home.open().worktree()
        worktree[f"key{number}"] = number
        worktree.commit()
        return list(worktree.repo.log())[-1].id

    assert len(set(in_threads(4, work))) == 1
    assert dict(home.open().snapshot()) == {f"key{n}": n for n in range(4)}


@pytest.mark.parametrize("count", [20, pytest.param(400, marks=pytest.mark.slow)])
def test_of_writers_that_do_not_merge_one_wins_each_round(home, count):
    repo = home.open()

    def work(number):
        worktree, won = repo.worktree(), 0
        for step in range(count):
            worktree[f"{number}/{step}"] = step
            try:
                worktree.commit(on_moved="raise")
                won += 1
            except kvgit.BranchMovedError:
                worktree.discard()
                worktree.refresh()
        return won

    won = sum(in_threads(3, work))
    assert len(repo.snapshot()) == won == len(list(repo.log())) - 1
    assert won >= count


@pytest.mark.parametrize("count", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_merges_and_picks_that_lose_a_race_are_run_again(home, count):
    repo = home.open()
    for number in range(3):
        worktree = repo.worktree(f"topic{number}", create=True)
        for step in range(count):
            worktree[f"{number}/{step}"] = step
            worktree.commit()

    def work(number):
        commits = [commit.id for commit in repo.log(f"topic{number}", limit=count)]
        worktree = repo.worktree()
        for commit in reversed(commits):
            result = worktree.merge(commit=commit) if number else worktree.cherry_pick(commit)
            assert result.merged

    in_threads(3, work)
    assert len(repo.snapshot()) == 3 * count


def test_of_creators_of_one_branch_or_tag_one_wins(home):
    repo = home.open()

    def work(number):
        won = 0
        for step in range(15):
            for names in (repo.branches, repo.tags):
                try:
                    names.create(f"name{step}")
                    won += 1
                except kvgit.ExistsError:
                    continue
        return won

    assert sum(in_threads(4, work)) == 30
