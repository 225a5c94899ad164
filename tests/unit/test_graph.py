"""The log, ancestors and merge bases, against sets of ancestors on random histories."""

from __future__ import annotations

import random

import pytest

from kvgit_hamt import graph
from tests.support.dags import grow
from tests.support.history import Histories
from tests.support.homes import KINDS, SMALL, Home

KEYS = ["a", "b", "dir/a", "dir/b", "dir/sub/c"]


@pytest.fixture(params=KINDS)
def home(request, tmp_path):
    home = Home(request.param, tmp_path)
    yield home
    home.close()


@pytest.fixture
def repo(home):
    return home.open(shape=SMALL)


def pairs(rng, model, count):
    names = list(model.nodes)
    return [(rng.choice(names), rng.choice(names)) for _ in range(count)]


@pytest.mark.parametrize(("seed", "parents_max"), [(1, 2), (2, 2), (3, 2), (4, 3), (5, 1)])
def test_merge_bases_are_the_best_common_ancestors(repo, seed, parents_max):
    rng = random.Random(seed)
    model = grow(repo, rng, 60, KEYS, parents_max)
    several = 0
    for one, other in pairs(rng, model, 150):
        want = model.merge_bases(one, other)
        several += len(want) > 1
        commits = [repo.resolve_commit(name) for name in (one, other)]
        assert [base.oid.hex() for base in graph.merge_bases(repo.store, *commits)] == want
        assert [base.oid.hex() for base in graph.merge_bases(repo.store, *reversed(commits))] == want
        assert repo.merge_base(one, other) == want[0]
        assert graph.is_ancestor(repo.store, *commits) == model.is_ancestor(one, other)
    assert several > 0 or parents_max == 1


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_log_is_newest_first_and_children_come_before_parents(repo, seed):
    rng = random.Random(seed)
    model = grow(repo, rng, 60, KEYS)
    for start, _ in pairs(rng, model, 12):
        for first_parent in (False, True):
            found = [commit.id for commit in repo.log(start, first_parent=first_parent)]
            assert found == model.log(start, first_parent)
            limit = rng.randint(0, 5)
            assert [c.id for c in repo.log(start, first_parent=first_parent, limit=limit)] == found[:limit]
        places = {name: place for place, name in enumerate(model.log(start))}
        assert all(places[name] < places[p] for name in places for p in model.nodes[name].parents)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_log_of_a_key_or_prefix_has_the_commits_that_changed_it_against_every_parent(repo, seed):
    rng = random.Random(seed)
    model = grow(repo, rng, 60, KEYS)
    for start, _ in pairs(rng, model, 6):
        for wanted in [*KEYS, "none"]:
            found = [commit.id for commit in repo.log(start, key=wanted)]
            assert found == [n for n in model.log(start) if model.touches(n, lambda k, w=wanted: k == w)]
        for wanted in ("", "dir/", "d", "dir/sub/", "none/"):
            found = [commit.id for commit in repo.log(start, prefix=wanted)]
            want = [n for n in model.log(start) if model.touches(n, lambda k, w=wanted: k.startswith(w))]
            assert found == want
            assert [commit.id for commit in repo.log(start, prefix=wanted, limit=2)] == want[:2]


def test_the_log_streams(repo):
    worktree = repo.worktree()
    for number in range(30):
        worktree.commit(info={"n": number})
    before = repo.store.counters.copy()
    log = repo.log()
    assert next(log).info == {"n": 29}
    assert next(log).info == {"n": 28}
    assert repo.store.counters.since(before).nodes_read <= 4
    worktree.commit(info={"n": "later"})
    assert next(log).info == {"n": 27}


def test_a_criss_cross_has_two_bases_and_the_newer_is_used(repo):
    worktree, other = repo.worktree(), repo.worktree("side", create=True)
    worktree["a"], other["b"] = 1, 1
    one, two = worktree.commit(time=1).commit, other.commit(time=2).commit
    worktree.merge(commit=two)
    other.merge(commit=one)
    bases = graph.merge_bases(repo.store, *(repo.resolve_commit(n) for n in ("main", "side")))
    assert [base.oid.hex() for base in bases] == [two, one]
    assert repo.merge_base("main", "side") == two
    assert worktree.merge(branch="side").strategy == "three_way"
    assert dict(worktree) == {"a": 1, "b": 1}


def test_a_commit_is_the_base_of_itself_and_of_its_descendants(repo):
    first = repo.branches["main"]
    last = repo.worktree().commit(info={}).commit
    assert repo.merge_base(first, first) == first
    assert repo.merge_base(first, last) == repo.merge_base(last, first) == first


def test_a_merge_base_of_near_commits_does_not_read_the_far_history(repo):
    worktree = repo.worktree()
    for number in range(200):
        worktree.commit(info={"n": number})
    repo.branches.create("side")
    repo.worktree("side").commit(info={"side": 1})
    worktree.commit(info={"main": 1})
    before = repo.store.counters.copy()
    repo.merge_base("main", "side")
    assert repo.store.counters.since(before).nodes_read <= 6


def test_the_model_knows_a_criss_cross_too():
    model = Histories()
    for name, parents in {"o": (), "a": ("o",), "b": ("o",), "x": ("a", "b"), "y": ("b", "a")}.items():
        model.add(name, {}, parents)
    assert model.merge_bases("x", "y") == ["a", "b"]


def test_commits_with_a_long_info_are_read_again_rather_than_kept(repo):
    """Else what a log leaves in memory would have no bound in bytes."""
    work = repo.worktree()
    for number in range(6):
        work["n"] = number
        work.commit(info={"why": "x" * (5_000 if number % 2 else 5)})
    for _ in range(2):
        assert len(list(repo.log())) == 7
    kept = list(repo.store.commits._young.values())
    assert kept
    assert all(len(commit.info["why"]) == 5 for commit in kept if commit.info)
    before = repo.store.counters.copy()
    assert len(list(repo.log())) == 7
    assert repo.store.counters.since(before).nodes_read == 1 + 2  # the head, and the other two long ones
