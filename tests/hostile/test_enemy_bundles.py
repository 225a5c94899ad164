"""Bundles of stores that lie: what is taken in is sound, or nothing is taken in."""

from __future__ import annotations

import io
import random

import pytest

from kvgit_hamt import KvgitHamtError, Repo
from tests.hostile.enemy import BACKENDS, Enemy
from tests.hostile.test_enemy_stores import HISTORIES, TREES, laughs, lies
from tests.support.homes import SMALL, Home, state_of
from tests.support.scale import pick, record

every_backend = pytest.mark.parametrize("kind", BACKENDS)


def bundle_of(enemy: Enemy) -> bytes | None:
    """A bundle of all the enemy has, None if the library's own writer refuses to make it."""
    file = io.BytesIO()
    enemy.backend.reads = 0
    try:
        enemy.repo.bundle(file, "bad")
    except KvgitHamtError:
        return None
    return file.getvalue()


def load(home: Home, data: bytes) -> str:
    """What becomes of a bundle that is loaded beside a store's own data."""
    repo = home.open()
    before = state_of(repo)
    try:
        repo.load_bundle(io.BytesIO(data))
    except KvgitHamtError as error:
        assert {**state_of(repo), "file_bytes": 0} == {**before, "file_bytes": 0}
        outcome = type(error).__name__
    else:
        outcome = "loaded"
    assert list(repo.check(deep=True)) == [], "what was taken in is sound"
    assert dict(repo.snapshot()) == {"mine": 1}
    return outcome


@pytest.fixture(params=["memory", "lmdb"])
def home(request, tmp_path):
    home = Home(request.param, tmp_path)
    work = home.open().worktree()
    work["mine"] = 1
    work.commit()
    yield home
    home.close()


@every_backend
@pytest.mark.parametrize("name", [*TREES, "a leaf in every slot of every node"])
def test_a_bundle_of_a_tree_that_lies_is_refused_or_sound(kind, name, home):
    enemy = Enemy(BACKENDS[kind]())
    enemy.branch_of("bad", TREES.get(name, laughs)(enemy))
    data = bundle_of(enemy)
    if data is not None:
        outcome = load(home, data)
        assert (outcome == "loaded") is (name == "a value that claims 2^32-1 items")


@every_backend
@pytest.mark.parametrize("name", HISTORIES)
def test_a_bundle_of_a_history_that_lies_is_refused_or_sound(kind, name, home):
    enemy = Enemy(BACKENDS[kind]())
    enemy.branch("bad", HISTORIES[name](enemy))
    data = bundle_of(enemy)
    if data is not None:
        load(home, data)


def random_ones(home: Home, seeds: range) -> dict[str, int]:
    """Random lies as bundles, and bundles with some bytes changed."""
    outcomes: dict[str, int] = {}
    for seed in seeds:
        rng = random.Random(seed)
        enemy = Enemy(BACKENDS[rng.choice(sorted(BACKENDS))]())
        enemy.branch_of(f"bad{seed}", lies(enemy, rng))
        file = io.BytesIO()
        try:
            enemy.backend.reads = 0
            enemy.repo.bundle(file, f"bad{seed}")
        except KvgitHamtError:
            outcomes["not made"] = outcomes.get("not made", 0) + 1
            continue
        data = bytearray(file.getvalue())
        for _ in range(rng.choice([0, 0, 1, 3])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        outcome = load(home, bytes(data))
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    return outcomes


def test_random_bundles_are_refused_or_sound(home):
    assert random_ones(home, range(60))


@pytest.mark.slow
def test_many_random_bundles_are_refused_or_sound(tmp_path):
    home = Home("memory", tmp_path)
    work = home.open().worktree()
    work["mine"] = 1
    work.commit()
    count = pick(400, 20_000)
    outcomes = random_ones(home, range(1_000, 1_000 + count))
    record("H4 enemy-made bundles", bundles=count, violations=0, **outcomes)


def test_control_an_honest_bundle_is_loaded(home):
    """The same steps with nothing wrong: it is the lies that are refused."""
    with Repo(shape=SMALL) as other:
        work = other.worktree()
        work["theirs"] = 2
        work.commit()
        file = io.BytesIO()
        other.branches.create("good")
        other.bundle(file, "good")
    assert load(home, file.getvalue()) in ("loaded", "FormatVersionError", "InvalidInputError")
    enemy = Enemy(BACKENDS["by oid"]())
    enemy.branch_of("bad", enemy.leaf({b"k1": b"\x01"}))
    data = bundle_of(enemy)
    assert data is not None
    assert load(home, data) == "loaded"
    assert home.open().snapshot(branch="bad")["k1"] == 1
