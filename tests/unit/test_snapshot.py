"""Snapshots: read-only mappings of one commit, lazily read, safe to share."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping

import pytest

import kvgit_hamt as kvgit
from tests.support.homes import KINDS, SMALL, Home

WANT = {f"{d}k{i}": "v" * (i * 5 % 140) for d in ("", "a/", "a/b/", "c/") for i in range(40)}


@pytest.fixture(params=KINDS)
def home(request, tmp_path):
    home = Home(request.param, tmp_path)
    yield home
    home.close()


@pytest.fixture
def repo(home):
    repo = home.open(shape=SMALL)
    repo.worktree().load(WANT)
    return repo


@pytest.fixture
def snapshot(repo):
    return repo.snapshot()


def test_a_snapshot_is_a_read_only_mapping(repo, snapshot):
    assert isinstance(snapshot, Mapping)
    assert snapshot == WANT
    assert dict(snapshot) == WANT
    assert len(snapshot) == len(WANT)
    assert set(snapshot) == set(snapshot.keys()) == set(WANT)
    assert Counter(snapshot.values()) == Counter(WANT.values())
    assert snapshot.keys() >= {"k1", "a/k1"}
    assert ("k1", WANT["k1"]) in snapshot.items()
    assert WANT["k7"] in snapshot.values()
    assert snapshot.get("none", 3) == 3
    with pytest.raises(KeyError):
        snapshot["none"]
    for change in ("__setitem__", "__delitem__", "update", "pop", "clear"):
        assert not hasattr(snapshot, change)
    with pytest.raises(TypeError):
        hash(snapshot)


def test_the_order_of_iteration_is_that_of_the_tree_and_the_same_everywhere(repo, snapshot):
    order = list(snapshot)
    assert order == [key for key, _ in snapshot.items()] == list(repo.snapshot().keys())
    other = kvgit.Repo(shape=SMALL).worktree()
    for key in random.Random(1).sample(sorted(WANT), len(WANT)):
        other[key] = WANT[key]
        if len(other) % 37 == 0:
            other.commit()
    other.commit()
    assert list(other) == order


@pytest.mark.parametrize("prefix", ["", "a/", "a/b/", "a", "k", "k1", "c/k39", "none/", "a/b/k3"])
def test_a_part_is_what_starts_with_the_prefix(snapshot, prefix):
    part = {key: value for key, value in WANT.items() if key.startswith(prefix)}
    assert dict(snapshot.items(prefix)) == part
    assert set(snapshot.keys(prefix)) == set(part)
    assert Counter(snapshot.values(prefix)) == Counter(part.values())
    assert (
        len(snapshot.keys(prefix)) == len(snapshot.items(prefix)) == len(snapshot.values(prefix)) == len(part)
    )
    assert dict(snapshot.raw.items(prefix)) == {key: snapshot.raw[key] for key in part}
    assert ("a/k1" in snapshot.keys(prefix)) == ("a/k1" in part)


def test_raw_gives_the_stored_bytes(snapshot):
    decode = kvgit.Repo().codec.decode
    assert {key: decode(data) for key, data in snapshot.raw.items()} == WANT
    assert decode(snapshot.raw["k9"]) == WANT["k9"]
    assert len(snapshot.raw) == len(WANT)
    assert set(snapshot.raw) == set(WANT)
    with pytest.raises(KeyError):
        snapshot.raw["none"]


def test_the_size_is_that_of_keys_and_stored_values(snapshot):
    assert snapshot.byte_size == sum(len(key) + len(data) for key, data in snapshot.raw.items())


def test_many_keys_are_read_at_once(snapshot):
    wanted = ["k1", "none", "a/b/k39", "k1"]
    assert snapshot.get_many(wanted) == {key: WANT[key] for key in ("k1", "a/b/k39")}
    assert list(snapshot.get_many(wanted)) == ["k1", "a/b/k39"]
    assert snapshot.get_many(iter(WANT)) == WANT
    assert snapshot.get_many([]) == {}


def test_samples_are_different_entries_and_repeat_with_a_seed(snapshot):
    drawn = snapshot.sample(20, seed=3)
    assert drawn == snapshot.sample(20, seed=3)
    assert drawn != snapshot.sample(20, seed=4)
    assert len(dict(drawn)) == 20
    assert dict(drawn).items() <= WANT.items()
    assert dict(snapshot.sample(1000)) == WANT
    assert snapshot.sample(0) == []


def test_samples_are_drawn_evenly(snapshot):
    drawn = Counter(key for seed in range(400) for key, _ in snapshot.sample(8, seed))
    assert set(drawn) == set(WANT)  # each is drawn 20 times on average
    assert max(drawn.values()) < 50


def test_snapshots_compare_by_content(repo, snapshot):
    worktree = repo.worktree()
    worktree["new"] = 1
    worktree.commit()
    assert repo.snapshot() != snapshot
    del worktree["new"]
    worktree.commit()
    assert repo.snapshot() == snapshot
    assert repo.snapshot().id != snapshot.id
    assert snapshot == {**WANT}
    other = kvgit.Repo()
    other.worktree().load(WANT)
    assert other.snapshot() == snapshot, "also with one of another store and shape"


def test_a_snapshot_knows_its_commit(repo, snapshot):
    assert snapshot.id == repo.branches["main"]
    assert snapshot.commit == repo.get_commit("main")
    assert snapshot.id[:8] in repr(snapshot)


def test_a_closed_snapshot_is_done_while_others_go_on(repo, snapshot):
    with snapshot:
        pass
    for call in (
        lambda: snapshot["k1"],
        lambda: len(snapshot),
        lambda: list(snapshot),
        lambda: snapshot.sample(1),
    ):
        with pytest.raises(kvgit.ClosedError):
            call()
    assert repo.snapshot()["k1"] == WANT["k1"]


def test_a_missing_node_is_corruption_and_never_an_absent_key(tmp_path):
    home = Home("memory", tmp_path)  # damage in LMDB has tests of its own
    repo = home.open(shape=SMALL)
    repo.worktree().load(WANT)
    root = bytes.fromhex(repo.get_commit("main").tree)
    records = home._inner._records
    lost = [oid for oid in records if oid != root and records[oid][:1] == b"\x01"]  # the leaves
    for oid in lost:
        del records[oid]
    snapshot = repo.snapshot()
    for call in (
        lambda: snapshot.get("k1"), lambda: "k1" in snapshot, lambda: snapshot.get("none", 1),
        lambda: list(snapshot), lambda: snapshot.get_many(["k1"]), lambda: list(snapshot.keys("a/")),
        lambda: snapshot.sample(1),
    ):  # fmt: skip
        with pytest.raises(kvgit.CorruptionError, match="missing"):
            call()
    assert len(snapshot) == len(WANT), "the root knows"
