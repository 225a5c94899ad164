"""The worktree: a mapping with pending edits, commits, merges, and what replays commits."""

from __future__ import annotations

import random
import sys
from datetime import datetime, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kvgit_hamt as kvgit
from kvgit_hamt import DELETE, OURS, THEIRS, counter
from tests.support.homes import KINDS, SMALL, Home, state_of


@pytest.fixture(params=KINDS)
def home(request, tmp_path):
    home = Home(request.param, tmp_path)
    yield home
    home.close()


@pytest.fixture
def repo(home):
    return home.open(shape=SMALL, clock=home.clock)


@pytest.fixture
def tree(repo):
    return repo.worktree()


def put(repo, branch, changes, **options):
    """Commit changes on a branch through a worktree of its own (None deletes); the commit's id."""
    worktree = repo.worktree(branch, create=True)
    for key, value in changes.items():
        if value is None:
            del worktree[key]
        else:
            worktree[key] = value
    return worktree.commit(**options).commit


def fork(repo, base, ours, theirs):
    """Branch "main" with base and ours, branch "side" with base and theirs; a worktree of main."""
    put(repo, "main", base)
    repo.branches.create("side")
    put(repo, "main", ours)
    put(repo, "side", theirs)
    return repo.worktree()


# --- as a mapping

KEYS = st.sampled_from(["a", "b", "dir/a", "dir/b", "dir/sub/a", "é", "", "a/", "dir//x", "x" * 300])
VALUES = st.none() | st.integers(-3, 3) | st.binary(max_size=90) | st.lists(st.integers(0, 9), max_size=3)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), KEYS, VALUES),
        st.tuples(st.sampled_from(["del", "pop", "get", "in", "commit_one"]), KEYS, st.none()),
        st.tuples(st.just("setdefault"), KEYS, VALUES),
        st.tuples(st.just("update"), st.dictionaries(KEYS, VALUES, max_size=4), st.none()),
        st.tuples(st.sampled_from(["clear", "commit", "popitem", "discard"]), st.none(), st.none()),
    ),
    max_size=25,
)


@settings(max_examples=60)
@given(data=st.data())
@pytest.mark.parametrize("kind", KINDS)
def test_a_worktree_is_a_mapping_as_dict_is(kind, tmp_path_factory, data):
    home = _shared_home(kind, tmp_path_factory)
    repo = home.open_once()
    home.count += 1
    worktree = repo.worktree(f"example-{home.count}", create=True)
    model, committed = {}, {}
    for step, first, second in data.draw(STEPS):
        committed = _step(worktree, model, committed, (step, first, second))
        _assert_same(worktree, model)
    status = worktree.status()
    assert {key for key in status.updated if key not in committed} == set(model) - set(committed)
    assert status.removed == set(committed) - set(model)
    fresh = repo.snapshot(branch=worktree.branch)
    assert dict(fresh) == committed
    changes = {change.key: change for change in worktree.diff()}
    assert set(changes) == {key for key in {*model, *committed} if _side(model, key) != _side(committed, key)}
    for key, change in changes.items():
        assert (change.old, change.new) == (committed.get(key), model.get(key))


def _side(model, key):
    """A value as it is encoded: None differs from absent, True from 1."""
    return (key in model, repr(model.get(key)))


def _step(worktree, model, committed, step):
    name, first, second = step
    if name == "set":
        worktree[first] = model[first] = second
    elif name == "update":
        worktree.update(first)
        model.update(first)
    elif name == "setdefault":
        assert worktree.setdefault(first, second) == model.setdefault(first, second)
    elif name == "pop":
        assert worktree.pop(first, "none") == model.pop(first, "none")
    elif name == "get":
        assert worktree.get(first, "none") == model.get(first, "none")
    elif name == "in":
        assert (first in worktree) == (first in model)
    elif name == "del" and first in model:
        del worktree[first], model[first]
    elif name == "del":
        with pytest.raises(KeyError):
            del worktree[first]
    elif name == "popitem" and model:
        key, value = worktree.popitem()
        assert model.pop(key) == value
    elif name == "clear":
        worktree.clear()
        model.clear()
    elif name == "discard":
        worktree.discard()
        model.clear()
        model.update(committed)
    elif name == "commit":
        worktree.commit()
        return dict(model)
    elif name == "commit_one" and first in {*worktree.status().updated, *worktree.status().removed}:
        worktree.commit(keys=[first])
        out = {key: value for key, value in committed.items() if key != first}
        return {**out, **({first: model[first]} if first in model else {})}
    return committed


def _assert_same(worktree, model):
    assert len(worktree) == len(model)
    assert dict(worktree.items()) == model
    assert sorted(worktree) == sorted(model)
    assert worktree == model
    for prefix in ("", "dir/", "d", "dir/sub/", "a"):
        part = {key: value for key, value in model.items() if key.startswith(prefix)}
        assert dict(worktree.items(prefix)) == part
        assert set(worktree.keys(prefix)) == set(part)
        assert len(worktree.keys(prefix)) == len(worktree.items(prefix)) == len(part)
        assert len(list(worktree.values(prefix))) == len(part)
    assert worktree.get_many(["a", "dir/a", "none", "é"]) == {
        key: model[key] for key in ("a", "dir/a", "é") if key in model
    }


class _SharedHome(Home):
    count = 0
    repo = None

    def open_once(self):
        self.repo = self.repo or self.open(shape=SMALL)
        return self.repo


_shared = {}


def _shared_home(kind, tmp_path_factory):
    if kind not in _shared:
        _shared[kind] = _SharedHome(kind, tmp_path_factory.mktemp("mapping"))
    return _shared[kind]


def test_a_value_changed_after_it_was_set_does_not_count_until_it_is_set_again(tree):
    value = [1]
    tree["a"] = value
    value.append(2)
    assert tree["a"] == [1]
    tree["a"] = value
    assert tree["a"] == [1, 2]


def test_keys_that_look_alike_stay_different(tree):
    alike = {"é": 1, "e\u0301": 2, "E": 3, "\0": 4, "a\u200db": 5, "ab": 6, "🏳️‍🌈": 7, "\u202ea": 8, "": 9}
    tree.update(alike)
    tree.commit()
    assert dict(tree) == alike


def test_none_is_a_value_and_not_an_absence(tree):
    tree["a"] = None
    tree.commit()
    assert "a" in tree
    assert tree["a"] is None
    assert tree.get("a", 1) is None
    assert len(tree) == 1
    del tree["a"]
    assert "a" not in tree
    assert list(tree.diff()) == [("a", None, None, "removed")]


def test_iteration_goes_on_over_the_state_it_began_with(tree):
    tree.update({str(i): i for i in range(200)})
    tree.commit()
    seen = []
    for key in tree:
        seen.append(key)
        del tree[key]
    assert sorted(seen) == sorted(str(i) for i in range(200))
    assert len(tree) == 0


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 512, 513, 4_096, 70_000, 3 << 20])
def test_values_of_any_size_come_back(home, size):
    repo = home.open(codec="bytes")
    worktree = repo.worktree()
    data = random.Random(size).randbytes(size)
    worktree["a/value"] = data
    assert worktree["a/value"] == data
    worktree.commit()
    repo.close()
    again = home.open().snapshot()
    assert again["a/value"] == data
    assert again.byte_size == len("a/value") + size
    assert dict(again.items("a/")) == {"a/value": data}


def test_scans_of_deep_directories_see_exactly_their_keys(tree):
    rng = random.Random(5)
    names = ["/".join(rng.choice("abc") for _ in range(rng.randint(1, 9))) for _ in range(800)]
    model = {name: i for i, name in enumerate(names)}
    tree.update(model)
    tree.commit()
    tree["a/b/c/a/b/c/pending"] = "p"
    del tree[names[0]]
    model["a/b/c/a/b/c/pending"] = "p"
    del model[names[0]]
    for depth in range(1, 9):
        prefix = "/".join(rng.choice("abc") for _ in range(depth)) + "/"
        for part in (prefix, prefix[:-1]):
            assert dict(tree.items(part)) == {k: v for k, v in model.items() if k.startswith(part)}


def test_a_worktree_with_pending_edits_does_not_equal_what_was_committed(repo, tree):
    tree["a"] = 1
    tree.commit()
    head = repo.snapshot()
    assert tree == head
    assert head == tree
    tree["a"] = 2
    assert tree != head
    assert head != tree
    assert tree == {"a": 2}
    tree["a"] = 1
    assert tree == head


def test_size_and_samples_count_pending_edits(repo, tree):
    tree.update({f"key{i}": "v" * 100 * (i % 2) for i in range(50)})
    tree.commit()
    for i in range(0, 50, 3):
        del tree[f"key{i}"]
    tree.update({f"new{i}": i for i in range(20)})
    tree["key1"] = "changed"
    drawn = tree.sample(1000, seed=1)
    assert dict(drawn) == dict(tree)
    assert len(drawn) == len(tree)
    some = tree.sample(10, seed=1)
    assert some == tree.sample(10, seed=1)
    assert len(dict(some)) == 10
    assert dict(some).items() <= dict(tree).items()
    pending_size = tree.byte_size
    tree.commit()
    assert pending_size == tree.byte_size == repo.snapshot().byte_size


def test_clear_twice_is_clear(tree):
    tree.update({"a": 1, "b": 2})
    tree.commit()
    del tree["a"]
    tree["c"] = 3
    tree.clear()
    tree.clear()
    assert dict(tree) == {}
    assert tree.status().removed == {"a", "b"}
    tree.commit()
    assert len(tree) == 0


# --- pending edits


def test_status_and_diff_show_what_is_pending_and_discard_drops_it(tree):
    tree.update({"a": 1, "b": 2, "c": 3})
    tree.commit()
    assert not tree.status()
    tree.update({"a": 10, "d": 4})
    del tree["b"]
    assert tree.has_changes
    assert tree.status() == kvgit.Status(frozenset({"a", "d"}), frozenset({"b"}))
    assert list(tree.diff()) == [
        ("a", 1, 10, "modified"), ("b", 2, None, "removed"), ("d", None, 4, "added"),
    ]  # fmt: skip
    tree.discard(["a", "unknown"])
    assert tree["a"] == 1
    assert tree.status() == kvgit.Status(frozenset({"d"}), frozenset({"b"}))
    tree.discard()
    assert dict(tree) == {"a": 1, "b": 2, "c": 3}
    assert not tree.has_changes


def test_a_key_set_and_deleted_again_leaves_nothing_pending(tree):
    tree["a"] = 1
    del tree["a"]
    assert not tree.has_changes


def test_two_worktrees_of_a_branch_do_not_see_each_others_edits(repo, tree):
    other = repo.worktree()
    tree["a"] = 1
    assert "a" not in other
    tree.commit()
    assert "a" not in other
    assert other.refresh() == tree.base
    assert other["a"] == 1


def test_refresh_keeps_pending_edits_that_nobody_touched(repo, tree):
    put(repo, "main", {"a": 1, "b": 1, "gone": 1})
    tree.refresh()
    tree["mine"] = 1
    del tree["gone"]
    put(repo, "main", {"a": 2, "c": 3})
    tree.refresh()
    assert dict(tree) == {"a": 2, "b": 1, "c": 3, "mine": 1}
    assert len(tree) == 4
    assert tree.commit().strategy == "fast_forward"


def test_refresh_takes_an_edit_that_somebody_made_alike(repo, tree):
    tree.update({"a": 1, "big": "x" * 500})
    put(repo, "main", {"a": 1, "big": "x" * 500})
    tree.refresh()
    assert list(tree.diff()) == []
    assert tree.commit().strategy == "no_op"


def test_refresh_refuses_edits_that_clash_and_changes_nothing(repo, tree):
    put(repo, "main", {"a": 1, "b": 1, "c": 1})
    tree.refresh()
    base = tree.base
    tree["a"] = 2
    del tree["b"]
    tree["c"] = 2
    tree["new"] = None
    put(repo, "main", {"a": 3, "b": 3, "c": None, "new": 1})
    with pytest.raises(kvgit.MergeConflict) as caught:
        tree.refresh()
    assert caught.value.conflicting_keys == {"a", "b", "c", "new"}
    sides = {conflict.key: conflict for conflict in caught.value.conflicts}
    assert (sides["a"].base, sides["a"].ours, sides["a"].theirs) == (1, 2, 3)
    assert sides["b"].absent == {"ours"}
    assert sides["c"].absent == {"theirs"}
    assert sides["new"].absent == {"base"}
    assert tree.base == base
    assert tree.status() == kvgit.Status(frozenset({"a", "c", "new"}), frozenset({"b"}))
    tree.discard(["a", "b", "c", "new"])
    tree.refresh()
    assert tree["a"] == 3


# --- commit


def test_a_commit_moves_the_branch_and_leaves_nothing_pending(repo, tree):
    before = tree.base
    tree["a"] = 1
    result = tree.commit(info={"who": "me", "n": [1, {"x": None}]}, time=12.5)
    assert result.merged
    assert result.strategy == "fast_forward"
    assert result.commit == tree.base == repo.branches["main"]
    assert not tree.has_changes
    commit = repo.get_commit(result.commit)
    assert commit.parents == (before,)
    assert commit.info == {"who": "me", "n": [1, {"x": None}]}
    assert commit.time == datetime(1970, 1, 1, 0, 0, 12, 500_000, tzinfo=timezone.utc)
    assert commit.generation == 2
    assert commit.codec == "msgpack"


def test_a_commit_of_some_keys_leaves_the_others_pending(repo, tree):
    tree.update({"a": 1, "b": 2})
    tree.commit()
    tree.update({"a": 10, "c": 3})
    del tree["b"]
    tree.commit(keys=["a", "b"])
    assert dict(repo.snapshot()) == {"a": 10}
    assert dict(tree) == {"a": 10, "c": 3}
    assert tree.status() == kvgit.Status(frozenset({"c"}))
    assert len(tree) == 2
    tree.commit(keys=(key for key in ["c"]))
    assert dict(repo.snapshot()) == {"a": 10, "c": 3}


def test_a_commit_of_some_keys_does_not_hide_a_clash_of_the_others(repo, tree):
    tree.update({"a": 1, "b": "mine"})
    other = put(repo, "main", {"b": "theirs"})
    with pytest.raises(kvgit.MergeConflict) as caught:
        tree.commit(keys=["a"])
    assert caught.value.conflicting_keys == {"b"}
    assert repo.branches["main"] == other
    assert tree.status().updated == {"a", "b"}
    assert not tree.commit(keys=["a"], on_conflict="abandon")
    result = tree.commit(default_merge=OURS)
    assert result.strategy == "three_way"
    assert dict(repo.snapshot()) == {"a": 1, "b": "mine"}


def test_a_commit_of_some_keys_merges_where_the_others_do_not_clash(repo, tree):
    put(repo, "main", {"kept": 0})
    tree.refresh()
    tree.update({"a": 1, "b": 1, "same": "s", "big": "x" * 500})
    put(repo, "main", {"same": "s", "c": 2, "big": "x" * 500})
    assert tree.commit(keys=["a"]).strategy == "three_way"
    assert dict(repo.snapshot()) == {"kept": 0, "a": 1, "same": "s", "c": 2, "big": "x" * 500}
    assert [change.key for change in tree.diff()] == ["b"]


def test_a_commit_of_nothing_makes_none(repo, tree):
    tree["a"] = 1
    head = tree.commit().commit
    before = state_of(repo)
    assert tree.commit() == kvgit.MergeResult(True, head, "no_op")
    assert tree.commit(keys=[]).strategy == "no_op"
    tree["a"] = 1
    assert tree.commit().strategy == "no_op"
    assert not tree.has_changes
    assert state_of(repo) == before


def test_info_alone_makes_a_commit(repo, tree):
    first = tree.base
    result = tree.commit(info={"note": "nothing"})
    assert result.strategy == "fast_forward"
    assert repo.get_commit(result.commit).parents == (first,)
    assert repo.get_commit(result.commit).tree == repo.get_commit(first).tree
    assert tree.commit(info={}).strategy == "fast_forward"


def test_a_commit_without_time_has_an_id_that_follows_its_content(tmp_path):
    def history(kind, name):
        home = Home(kind, tmp_path / name)
        worktree = home.open(shape=SMALL).worktree()
        worktree.update({"a": 1, "b": [1.5, "x"], "c/d": {"y": None}})
        first = worktree.commit(time=None).commit
        worktree["big"] = b"z" * 1000
        second = worktree.commit(time=None, info={"b": 1, "a": 2}).commit
        home.close()
        return first, second

    ids = {history("memory", "1"), history("memory", "2"), history("lmdb", "3"), history("placed", "4")}
    assert ids == {(ids_one := next(iter(ids)))}
    assert ids_one[0] != ids_one[1]


def test_info_and_time_change_the_id(repo):
    ids = set()
    for number, options in enumerate([{"time": None}, {"time": 0}, {"time": 1}, {"time": None, "info": {}}]):
        repo.branches.create(f"b{number}", at="main")
        ids.add(put(repo, f"b{number}", {"a": 1}, **options))
    assert len(ids) == 4


def test_a_commit_on_a_moved_branch_merges_both(repo, tree):
    base = put(repo, "main", {"both": 0, "mine": 0, "theirs": 0, "gone": 0})
    tree.refresh()
    theirs = put(repo, "main", {"theirs": 1, "gone": None})
    tree.update({"mine": 1, "added": 1})
    result = tree.commit(info={"n": 1})
    assert result.strategy == "three_way"
    assert result.carried_keys == {"theirs", "gone"}
    assert result.auto_merged_keys == frozenset()
    merge = repo.get_commit(result.commit)
    assert merge.info == {"n": 1}
    assert merge.parents[0] == theirs
    ours = repo.get_commit(merge.parents[1])
    assert ours.parents == (base,)
    assert dict(repo.snapshot(commit=ours.id)) == {"both": 0, "mine": 1, "theirs": 0, "gone": 0, "added": 1}
    assert dict(tree) == dict(repo.snapshot()) == {"both": 0, "mine": 1, "theirs": 1, "added": 1}
    assert not tree.has_changes


def test_a_commit_on_a_moved_branch_can_be_told_to_raise(repo, tree):
    tree["a"] = 1
    head = put(repo, "main", {"b": 1})
    with pytest.raises(kvgit.BranchMovedError, match="refresh"):
        tree.commit(on_moved="raise")
    assert tree.status().updated == {"a"}
    assert repo.branches["main"] == head
    tree.refresh()
    assert tree.commit(on_moved="raise").strategy == "fast_forward"


def test_a_conflict_keeps_the_edits_and_the_branch(repo, tree):
    put(repo, "main", {"a": 0})
    tree.refresh()
    base = tree.base
    tree.update({"a": 1, "b": 1})
    head = put(repo, "main", {"a": 2})
    before = state_of(repo)
    with pytest.raises(kvgit.MergeConflict) as caught:
        tree.commit()
    assert caught.value.conflicts == (kvgit.Conflict("a", 0, 1, 2),)
    abandoned = tree.commit(on_conflict="abandon")
    assert not abandoned
    assert abandoned.conflicts == (kvgit.Conflict("a", 0, 1, 2),)
    assert tree.base == base
    assert tree.status().updated == {"a", "b"}
    assert repo.branches["main"] == head
    assert state_of(repo) == before
    assert tree.commit(merge_fns={"a": counter()}).auto_merged_keys == {"a"}
    assert dict(repo.snapshot()) == {"a": 3, "b": 1}


def test_a_commit_after_the_branch_was_reset_keeps_what_the_branch_says(repo, tree):
    first = put(repo, "main", {"a": 1})
    put(repo, "main", {"b": 1})
    tree.refresh()
    tree["c"] = 1
    repo.worktree().reset(first)
    assert tree.commit().strategy == "three_way"
    assert dict(repo.snapshot()) == {"a": 1, "b": 1, "c": 1}


def test_a_commit_to_a_deleted_branch_keeps_the_edits(repo):
    worktree = repo.worktree("side", create=True)
    worktree["a"] = 1
    repo.branches.delete("side")
    with pytest.raises(kvgit.BranchNotFoundError, match="create"):
        worktree.commit()
    assert worktree.status().updated == {"a"}
    repo.branches.create("side")
    worktree.commit()
    assert dict(repo.snapshot(branch="side")) == {"a": 1}


def test_commits_of_two_repositories_on_one_store_meet(home, repo, tree):
    other = home.open().worktree()
    tree["a"] = 1
    tree.commit()
    other["b"] = 2
    assert other.commit().strategy == "three_way"
    assert tree.refresh() == other.base
    assert dict(tree) == {"a": 1, "b": 2}


# --- merge


def test_a_merge_takes_a_branch_a_tag_or_a_commit(repo):
    for kind in ("branch", "tag", "commit"):
        worktree = fork(repo, {"base": kind}, {"ours": kind}, {"theirs": kind})
        repo.tags.create(f"tag-{kind}", at="side")
        name = {"branch": "side", "tag": f"tag-{kind}", "commit": repo.branches["side"][:12]}[kind]
        heads = (repo.branches["main"], repo.branches["side"])
        result = worktree.merge(**{kind: name}, info={"k": kind}, time=7)
        assert result.strategy == "three_way"
        assert result.carried_keys == {"theirs"}
        commit = repo.get_commit(result.commit)
        assert (commit.parents, commit.info, commit.time.timestamp()) == (heads, {"k": kind}, 7)
        assert dict(worktree) == dict(repo.snapshot()) == dict.fromkeys(("base", "ours", "theirs"), kind)
        assert worktree.merge(**{kind: name}).strategy == "no_op"
        repo.branches.delete("side")


def test_a_merge_of_a_descendant_moves_the_branch_unless_told_not_to(repo, tree):
    repo.branches.create("side")
    side = put(repo, "side", {"a": 1})
    start = tree.base
    result = tree.merge(branch="side")
    assert (result.strategy, result.commit) == ("fast_forward", side)
    assert result.carried_keys == {"a"}
    assert repo.branches["main"] == side == tree.base
    assert repo.reflog()[0].why == "merge: fast-forward"
    tree.reset(start)
    result = tree.merge(branch="side", fast_forward=False)
    assert result.strategy == "three_way"
    assert repo.get_commit(result.commit).parents == (start, side)
    assert tree == repo.snapshot(branch="side")


def test_a_dry_run_says_what_would_happen_and_changes_nothing(repo):
    worktree = fork(repo, {"a": 0, "b": 0}, {"a": 1}, {"b": 1, "big": "x" * 600})
    repo.branches.create("ahead")
    put(repo, "ahead", {"z": 1})
    before, base = state_of(repo), worktree.base
    result = worktree.merge(branch="side", dry_run=True)
    assert (result.merged, result.strategy, result.commit) == (True, "three_way", base)
    assert result.carried_keys == {"b", "big"}
    result = worktree.merge(branch="ahead", dry_run=True)
    assert (result.strategy, result.commit, result.carried_keys) == ("fast_forward", base, {"z"})
    put_side = worktree.merge(branch="side", dry_run=True, default_merge=OURS)
    assert put_side.merged
    assert state_of(repo) == before
    assert worktree.base == base
    assert "big" not in worktree


def test_a_dry_run_lists_conflicts_and_does_not_raise(repo):
    worktree = fork(repo, {"a": 0, "b": 0}, {"a": 1}, {"a": 2, "b": 2, "new": 2})
    before = state_of(repo)
    result = worktree.merge(branch="side", dry_run=True)
    assert not result
    assert result.conflicts == (kvgit.Conflict("a", 0, 1, 2),)
    assert result.carried_keys == {"b", "new"}  # what is taken over once the conflict is settled
    assert worktree.merge(branch="side", dry_run=True, merge_fns={"a": counter()}).auto_merged_keys == {"a"}
    assert state_of(repo) == before


def test_a_merge_that_fails_or_only_looks_leaves_the_worktree_at_its_commit(repo):
    worktree = fork(repo, {"a": 0}, {"a": 1}, {"a": 2})
    base = worktree.base
    put(repo, "main", {"later": 1})

    def stop(_):
        raise RuntimeError("stop")

    assert not worktree.merge(branch="side", dry_run=True)
    assert not worktree.merge(branch="side", on_conflict="abandon")
    with pytest.raises(kvgit.MergeConflict):
        worktree.merge(branch="side")
    with pytest.raises(RuntimeError):
        worktree.merge(branch="side", default_merge=OURS, post_check=stop)
    assert not worktree.cherry_pick("side", on_conflict="abandon")
    with pytest.raises(kvgit.MergeConflict):
        worktree.cherry_pick("side")
    assert worktree.base == base
    assert "later" not in worktree
    assert worktree.merge(branch="side", default_merge=THEIRS)
    assert dict(worktree) == {"a": 2, "later": 1}


def test_a_post_check_sees_the_merged_state_and_can_stop_it(repo):
    worktree = fork(repo, {"a": 0}, {"a": 5}, {"a": 7, "big": "x" * 600})
    before = state_of(repo)
    seen = []

    def check(snapshot):
        seen.append((dict(snapshot), len(snapshot), dict(snapshot.items("b")), snapshot.commit.parents))
        assert snapshot.get_many(["a", "big", "none"]) == dict(snapshot)
        assert repo.branches["main"] == before["branches"]["main"]
        if snapshot["a"] > limit:
            raise ValueError("too much")

    limit = 10
    with pytest.raises(ValueError, match="too much"):
        worktree.merge(branch="side", merge_fns={"a": counter()}, post_check=check)
    assert state_of(repo) == before
    limit = 20
    heads = (repo.branches["main"], repo.branches["side"])
    assert worktree.merge(branch="side", merge_fns={"a": counter()}, post_check=check)
    state = {"a": 12, "big": "x" * 600}
    assert seen == [(state, 2, {"big": "x" * 600}, heads)] * 2
    assert dict(repo.snapshot()) == state


def test_a_post_check_also_stops_a_fast_forward(repo, tree):
    repo.branches.create("side")
    put(repo, "side", {"a": 1})

    def check(snapshot):
        raise ValueError(str(dict(snapshot)))

    before = state_of(repo)
    with pytest.raises(ValueError, match=r"'a': 1"):
        tree.merge(branch="side", post_check=check)
    assert state_of(repo) == before


def test_a_post_check_that_raises_as_a_lost_race_does_is_not_run_for_ever(repo):
    worktree = fork(repo, {"a": 0}, {"b": 1}, {"c": 2})
    calls = []

    def check(_):
        calls.append(1)
        assert len(calls) < 5
        raise kvgit.BranchMovedError("heads/elsewhere")

    with pytest.raises(kvgit.BranchMovedError):
        worktree.merge(branch="side", post_check=check)
    assert len(calls) == 1


def test_a_merge_whose_branch_moves_meanwhile_is_run_again(repo):
    worktree = fork(repo, {"a": 0}, {"b": 1}, {"c": 2})
    calls = []

    def check(snapshot):
        calls.append(dict(snapshot))
        if len(calls) == 1:
            put(repo, "main", {"late": "x" * 300})

    assert worktree.merge(branch="side", post_check=check)
    assert calls == [{"a": 0, "b": 1, "c": 2}, {"a": 0, "b": 1, "c": 2, "late": "x" * 300}]
    assert dict(repo.snapshot()) == calls[1]


def test_records_that_another_writer_puts_during_a_merge_do_not_disturb_it(repo):
    many = {f"k{i}": i for i in range(60)}
    worktree = fork(
        repo, many, {f"k{i}": -1 for i in range(0, 60, 3)}, {f"k{i}": -2 for i in range(1, 60, 3)}
    )

    def check(snapshot):
        put(repo, "elsewhere", {f"e{i}": "x" * 90 for i in range(40)})

    assert worktree.merge(branch="side", post_check=check)
    want = {f"k{i}": i if i % 3 == 2 else -1 - i % 3 for i in range(60)}
    assert dict(worktree) == want
    worktree["after"] = 1
    worktree.commit()
    assert dict(repo.snapshot()) == {**want, "after": 1}


# --- policies


def test_the_most_specific_rule_is_asked(repo):
    keys = ("x/exact", "x/deep/a", "x/a", "other")
    worktree = fork(repo, dict.fromkeys(keys, 0), dict.fromkeys(keys, 1), dict.fromkeys(keys, 2))

    def named(name):
        return lambda old, ours, theirs: f"{name}:{old}{ours}{theirs}"

    result = worktree.merge(
        branch="side",
        merge_fns={"x/exact": named("exact")},
        merge_prefixes={"x/": named("short"), "x/deep/": named("long")},
        default_merge=named("default"),
    )
    assert result.auto_merged_keys == set(keys)
    assert dict(worktree) == {
        "x/exact": "exact:012", "x/deep/a": "long:012", "x/a": "short:012", "other": "default:012",
    }  # fmt: skip


@pytest.mark.parametrize("how", ["merge_fns", "merge_prefixes", "default_merge"])
def test_the_rules_of_a_call_stand_before_those_of_the_repository(home, how):
    def rules(value):
        def rule(*_):
            return value

        return {how: {"merge_fns": {"a": rule}, "merge_prefixes": {"a": rule}, "default_merge": rule}[how]}

    repo = home.open(**rules("repo"))
    worktree = fork(repo, {"a": 0}, {"a": 1}, {"a": 2})
    start = worktree.base
    worktree.merge(branch="side")
    assert worktree["a"] == "repo"
    worktree.reset(start)
    worktree.merge(branch="side", **rules("call"))
    assert worktree["a"] == "call"
    worktree.reset(start)
    worktree.cherry_pick("side", **rules("pick"))
    assert worktree["a"] == "pick"
    late = repo.worktree()
    late["a"] = 3
    put(repo, "main", {"a": 4})
    late.commit(**rules("commit"))
    assert late["a"] == "commit"


def test_a_more_specific_rule_of_an_outer_layer_stands(home):
    repo = home.open(merge_fns={"a": lambda *_: "repo"})
    worktree = fork(repo, {"a": 0, "b": 0}, {"a": 1, "b": 1}, {"a": 2, "b": 2})
    worktree.merge(branch="side", default_merge=lambda *_: "call")
    assert dict(worktree) == {"a": "repo", "b": "call"}


@pytest.mark.parametrize("choice", [OURS, THEIRS])
@pytest.mark.parametrize("how", ["merge", "commit", "pick"])
def test_a_standing_side_for_a_prefix_takes_all_of_it(repo, choice, how):
    names = ("cfg/ours-gone", "cfg/theirs-gone", "cfg/del", "x", *(f"cfg/{i}" for i in range(40)))
    base = dict.fromkeys(names, 0)
    ours = {"cfg/1": 1, "cfg/mine": 1, "cfg/ours-gone": None, "cfg/del": None, "y": 1}
    theirs = {"cfg/1": 2, "cfg/2": 2, "cfg/yours": "z" * 200, "cfg/theirs-gone": None, "cfg/del": 2, "x": 2}
    worktree = fork(repo, base, ours, theirs)
    policy = {"merge_prefixes": {"cfg/": choice}}
    if how == "merge":
        result = worktree.merge(branch="side", **policy)
    elif how == "pick":
        result = worktree.cherry_pick("side", **policy)
    else:  # ours is what is pending, theirs what the branch has
        worktree.reset(repo.merge_base("main", "side"))
        for key, value in ours.items():
            worktree[key] = value
            if value is None:
                del worktree[key]
        put(repo, "main", theirs)
        result = worktree.commit(**policy)
    side = {**base, **(ours if choice is OURS else theirs)}
    want = {key: value for key, value in side.items() if key.startswith("cfg/") and value is not None}
    assert dict(repo.snapshot()) == {**want, "x": 2, "y": 1}
    assert {"cfg/1", "cfg/del"} <= result.auto_merged_keys


def test_what_lies_beneath_a_standing_prefix_may_have_rules_of_its_own(repo):
    keys = ("cfg/a", "cfg/exact", "cfg/sub/a", "cfg/free/a")
    base = dict.fromkeys(keys, 0)
    worktree = fork(
        repo, base, dict.fromkeys(keys, 1), {**dict.fromkeys(keys, 2), "cfg/sub/new": 2, "cfg/new": 2}
    )
    worktree.merge(
        branch="side",
        merge_fns={"cfg/exact": counter()},
        merge_prefixes={"cfg/": OURS, "cfg/sub/": THEIRS, "cfg/free/": lambda *_: "asked"},
    )
    assert dict(worktree) == {
        "cfg/a": 1, "cfg/exact": 3, "cfg/sub/a": 2, "cfg/sub/new": 2, "cfg/free/a": "asked",
    }  # fmt: skip


def test_a_choice_for_a_key_or_as_default_leaves_uncontested_keys_alone(repo):
    worktree = fork(repo, {"a": 0, "b": 0, "c": 0}, {"a": 1, "c": 1}, {"a": 2, "b": 2, "c": None})
    worktree.merge(branch="side", default_merge=OURS, merge_fns={"b": OURS, "c": THEIRS})
    assert dict(worktree) == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("answer", "want"),
    [(OURS, {"a": 1}), (THEIRS, {"a": 2}), (DELETE, {}), (None, {"a": None}), (9, {"a": 9})],
)
def test_a_function_may_return_a_value_a_side_or_delete(repo, answer, want):
    worktree = fork(repo, {"a": 0, "keep": 0}, {"a": 1}, {"a": 2})
    result = worktree.merge(branch="side", merge_fns={"a": lambda *_: answer})
    assert dict(worktree) == {**want, "keep": 0}
    assert result.auto_merged_keys == {"a"}


def test_a_side_that_a_function_takes_may_be_a_deletion(repo):
    worktree = fork(repo, {"a": 0, "b": 0}, {"a": None, "b": 1}, {"a": 2, "b": None})
    worktree.merge(branch="side", merge_fns={"a": lambda *_: OURS, "b": lambda *_: THEIRS})
    assert dict(worktree) == {}


def test_a_function_gets_none_for_an_absent_side(repo):
    asked = {}

    def fn(old, ours, theirs):
        asked[len(asked)] = (old, ours, theirs)
        return "merged"

    worktree = fork(repo, {"a": 0, "b": 0}, {"a": None, "b": 1, "c": 1}, {"a": 2, "b": None, "c": 2})
    worktree.merge(branch="side", default_merge=fn)
    assert sorted(asked.values(), key=repr) == [(0, 1, None), (0, None, 2), (None, 1, 2)]
    assert dict(worktree) == {"a": "merged", "b": "merged", "c": "merged"}


def test_a_function_that_raises_is_a_conflict_that_carries_the_error(repo):
    worktree = fork(repo, {"a": 0, "b": 0}, {"a": 1, "b": 1}, {"a": 2, "b": 2})
    error = RuntimeError("no idea")

    def fn(*_):
        raise error

    before = state_of(repo)
    with pytest.raises(kvgit.MergeConflict) as caught:
        worktree.merge(branch="side", merge_fns={"a": fn, "b": counter()})
    assert caught.value.merge_errors == {"a": error}
    assert caught.value.conflicts == (kvgit.Conflict("a", 0, 1, 2, error),)
    assert state_of(repo) == before


def test_a_result_that_cannot_be_encoded_is_a_conflict_that_says_so(repo):
    worktree = fork(repo, {"a": 0}, {"a": 1}, {"a": 2})
    before = state_of(repo)
    with pytest.raises(kvgit.MergeConflict) as caught:
        worktree.merge(branch="side", merge_fns={"a": lambda *_: object()})
    assert isinstance(caught.value.merge_errors["a"], kvgit.EncodeError)
    assert "pickle" in str(caught.value.merge_errors["a"])
    assert state_of(repo) == before


def test_conflicts_carry_the_sides_and_tell_absent_from_none(repo):
    big = "x" * 500
    worktree = fork(
        repo,
        {"a": 0, "b": 0, "c": big},
        {"a": 1, "b": None, "c": big + "1", "d": 1},
        {"a": 2, "b": 5, "c": big + "2", "d": 2},
    )
    worktree["e"] = None
    worktree.commit()
    put(repo, "side", {"e": 5})
    result = worktree.merge(branch="side", on_conflict="abandon")
    assert result.conflicts == (
        kvgit.Conflict("a", 0, 1, 2),
        kvgit.Conflict("b", 0, None, 5, absent=frozenset({"ours"})),
        kvgit.Conflict("c", big, big + "1", big + "2"),
        kvgit.Conflict("d", None, 1, 2, absent=frozenset({"base"})),
        kvgit.Conflict("e", None, None, 5, absent=frozenset({"base"})),
    )
    assert result.strategy == "three_way"
    assert result.commit == repo.branches["main"]


def test_equal_bytes_never_conflict(repo):
    def never(*_):
        raise AssertionError("asked")

    same = {"a": 1, "dict": {"x": 1, "y": 2}, "big": "z" * 700, "new": 1, "gone": None}
    alike = {**same, "dict": {"y": 2, "x": 1}}
    worktree = fork(repo, {"a": 0, "dict": 0, "big": 0, "gone": 0}, same, {**alike, "more": 1})
    result = worktree.merge(branch="side", default_merge=never)
    assert result.auto_merged_keys == frozenset()
    assert dict(worktree) == {"a": 1, "dict": {"x": 1, "y": 2}, "big": "z" * 700, "new": 1, "more": 1}


def test_two_equal_increments_are_one_change_to_a_merge(repo):
    worktree = fork(repo, {"n": 5, "m": 5}, {"n": 6, "m": 6}, {"n": 6, "m": 7})
    worktree.merge(branch="side", default_merge=counter())
    assert dict(worktree) == {"n": 6, "m": 8}  # exact counts take on_moved="raise" and another try


def test_keys_that_both_sides_deleted_stay_deleted(repo):
    worktree = fork(repo, {"a": 0, "b": 0}, {"a": None}, {"a": None, "c": 1})
    assert worktree.merge(branch="side")
    assert dict(worktree) == {"b": 0, "c": 1}


@pytest.mark.parametrize("size", [5, 400])
def test_merges_do_as_a_model_of_dicts_does(repo, size):
    rng = random.Random(size)
    for round_number in range(6):
        names = [f"r{round_number}/{rng.choice('abc')}/{i}" for i in range(size)]
        base = {name: 0 for name in names if rng.random() < 0.7}
        sides = []
        for number in (1, 2):
            side = dict(base)
            for name in rng.sample(names, max(1, size // 8)):
                side[name] = rng.choice([number, 3, "x" * 80])
                if rng.random() < 0.3:
                    del side[name]
            sides.append(side)
        ours, theirs = sides
        main, other = f"main{round_number}", f"side{round_number}"
        worktree = repo.worktree(main, create=True)
        worktree.update(base)
        worktree.commit()
        repo.branches.create(other, at=main)
        right = repo.worktree(other)
        for view, side in ((worktree, ours), (right, theirs)):
            view.clear()
            view.update(side)
            view.commit(info={"side": other})
        worktree.merge(branch=other, default_merge=lambda *sides: repr(sides))
        want = {}
        for name in names:
            old, mine, other_value = base.get(name), ours.get(name), theirs.get(name)
            if mine == other_value or old == other_value:
                value = mine
            elif old == mine:
                value = other_value
            else:
                value = repr((old, mine, other_value))
            if value is not None:
                want[name] = value
        assert dict(worktree) == want


# --- apply, cherry-pick, revert


def test_apply_makes_the_changes_between_two_commits(repo):
    put(repo, "main", {"a": 1, "b": 1})
    first = repo.branches["main"]
    repo.branches.create("side")
    put(repo, "side", {"a": 2, "c": 3})
    last = put(repo, "side", {"b": None, "big": "x" * 600})
    worktree = repo.worktree()
    worktree["mine"] = 1
    head = worktree.commit().commit
    result = worktree.apply(first, "side", info={"from": "side"}, time=3)
    assert dict(worktree) == {"a": 2, "c": 3, "big": "x" * 600, "mine": 1}
    commit = repo.get_commit(result.commit)
    assert (commit.parents, commit.info, commit.time.timestamp()) == ((head,), {"from": "side"}, 3)
    assert result.carried_keys == {"a", "b", "c", "big"}
    assert worktree.apply(first, last).strategy == "no_op"
    worktree.apply("side", first)
    assert dict(worktree) == {"a": 1, "b": 1, "mine": 1}


def test_cherry_pick_makes_one_commits_changes_and_keeps_its_info(repo):
    worktree = fork(repo, {"a": 0, "b": 0}, {"a": 1}, {"b": 1})
    picked = put(repo, "side", {"c": 1}, info={"what": "c"})
    put(repo, "side", {"d": 1})
    result = worktree.cherry_pick(picked)
    assert dict(worktree) == {"a": 1, "b": 0, "c": 1}
    assert repo.get_commit(result.commit).info == {"what": "c"}
    assert worktree.cherry_pick(picked[:10]).strategy == "no_op"
    worktree.cherry_pick("side", info={"mine": 1})
    assert repo.get_commit(worktree.base).info == {"mine": 1}
    assert dict(worktree) == {"a": 1, "b": 0, "c": 1, "d": 1}


def test_revert_undoes_one_commit_and_says_which(repo, tree):
    put(repo, "main", {"a": 1, "b": 1})
    bad = put(repo, "main", {"a": 2, "b": None, "c": 1})
    put(repo, "main", {"d": 1})
    result = tree.revert(bad)
    assert dict(tree) == {"a": 1, "b": 1, "d": 1}
    assert repo.get_commit(result.commit).info == {"revert": bad}
    tree.revert("main")
    assert dict(tree) == {"a": 2, "c": 1, "d": 1}


def test_conflicts_of_picks_and_reverts_change_nothing(repo):
    worktree = fork(repo, {"a": 0}, {"a": 1}, {"a": 2})
    before = state_of(repo)
    with pytest.raises(kvgit.MergeConflict) as caught:
        worktree.cherry_pick("side")
    assert caught.value.conflicts == (kvgit.Conflict("a", 0, 1, 2),)
    result = worktree.revert("side", on_conflict="abandon")
    assert result.conflicts == (kvgit.Conflict("a", 2, 1, 0),)
    assert not result
    assert state_of(repo) == before
    assert worktree.cherry_pick("side", default_merge=THEIRS).auto_merged_keys == {"a"}
    assert worktree["a"] == 2


def test_merges_are_picked_and_reverted_against_the_parent_that_is_named(repo):
    worktree = fork(repo, {"base": 0}, {"ours": 1}, {"theirs": 1})
    merge = worktree.merge(branch="side").commit
    worktree.revert(merge, mainline=1)
    assert dict(worktree) == {"base": 0, "ours": 1}
    worktree.cherry_pick(merge, mainline=1)
    assert dict(worktree) == {"base": 0, "ours": 1, "theirs": 1}
    worktree.revert(merge, mainline=2)
    assert dict(worktree) == {"base": 0, "theirs": 1}
    with pytest.raises(kvgit.InvalidInputError, match="mainline"):
        worktree.revert(merge)
    for bad in (0, 3, -1):
        with pytest.raises(kvgit.InvalidInputError, match="1 to 2"):
            worktree.cherry_pick(merge, mainline=bad)
    initial = list(repo.log())[-1].id
    with pytest.raises(kvgit.InvalidInputError, match="initial commit"):
        worktree.cherry_pick(initial)


# --- reset


def test_reset_moves_the_branch_and_the_reflog_keeps_the_old_commit(repo, tree):
    first = put(repo, "main", {"a": 1})
    second = put(repo, "main", {"a": 2})
    tree.refresh()
    assert tree.reset(first[:8]) == second
    assert tree["a"] == 1
    assert repo.branches["main"] == first == tree.base
    entry = repo.reflog(limit=1)[0]
    assert (entry.old, entry.new, entry.why) == (second, first, f"reset: to {first[:8]}")
    tree.reset(repo.reflog()[0].old)
    assert tree["a"] == 2
    repo.tags.create("v1", at=first)
    tree.reset("v1")
    assert tree["a"] == 1
    before = state_of(repo)
    assert tree.reset(first) == first
    assert state_of(repo) == before


def test_reset_refuses_a_branch_that_moved_behind_its_back(repo, tree):
    first = put(repo, "main", {"a": 1})
    tree.refresh()
    second = put(repo, "main", {"a": 2})
    for target in (first, second, "main"):
        with pytest.raises(kvgit.BranchMovedError, match="refresh"):
            tree.reset(target)
    assert repo.branches["main"] == second
    tree.refresh()
    tree.reset(first)
    assert repo.branches["main"] == first


@pytest.mark.parametrize("how", ["reset", "merge"])
def test_a_branch_moves_only_to_a_commit_that_is_still_stored(repo, tree, monkeypatch, how):
    repo.branches.create("side")
    side = put(repo, "side", {"a": 1})
    required = []
    publish = repo.store.backend.publish

    def spy(batch):
        required.extend(batch.required)
        return publish(batch)

    monkeypatch.setattr(repo.store.backend, "publish", spy)
    if how == "reset":
        tree.reset("side")
    else:
        tree.merge(branch="side")
    assert bytes.fromhex(side) in required


# --- load


def test_a_load_is_one_commit_of_any_number_of_entries(home, repo, tree):
    tree.update({"old": 1, "n/5": "old", "n/6": "z" * 300})
    tree.commit()
    head = tree.base
    phases = set()

    def entries():
        for number in range(3000):
            yield f"n/{number}", number
        yield "blob", "b" * 5000
        yield "n/7", "last counts"

    result = tree.load(
        entries(), info={"n": 1}, time=9, memory_bytes=100_000, progress=lambda phase, *_: phases.add(phase)
    )
    want = {"old": 1, **{f"n/{i}": i for i in range(3000)}, "blob": "b" * 5000, "n/7": "last counts"}
    assert dict(tree) == dict(home.open().snapshot()) == want
    assert result.strategy == "fast_forward"
    commit = repo.get_commit(result.commit)
    assert (commit.parents, commit.info) == ((head,), {"n": 1})
    assert phases == {"read", "build"}
    plain = repo.worktree("plain", create=True)
    plain.update(want)
    plain.commit()
    assert repo.get_commit("plain").tree == commit.tree


def test_a_load_of_nothing_new_makes_no_commit(repo, tree):
    tree.update({"a": 1, "big": "x" * 700})
    tree.commit()
    before = dict(repo.branches)
    assert tree.load({"a": 1, "big": "x" * 700}).strategy == "no_op"
    assert tree.load({}).strategy == "no_op"
    assert dict(repo.branches) == before
    assert tree.load({}, info={"x": 1}).strategy == "fast_forward"


@pytest.mark.parametrize("fault", ["value", "key", "source", "info", "time"])
def test_a_load_that_fails_in_the_middle_leaves_everything_as_it_was(repo, tree, fault):
    tree["a"] = 1
    tree.commit()
    before, base = state_of(repo), tree.base

    def entries():
        for number in range(6000):
            yield f"k{number}", "x" * (number % 90)
        if fault == "value":
            yield "bad", object()
        if fault == "key":
            yield 5, 1
        if fault == "source":
            raise OSError("gone")

    options = {"info": {"info": object()}, "time": {"time": "soon"}}.get(fault, {})
    options = {fault: options[fault]} if options else {}
    errors = {"value": kvgit.EncodeError, "key": kvgit.KeyTypeError, "source": OSError}
    with pytest.raises(errors.get(fault, kvgit.InvalidInputError)):
        tree.load(entries(), memory_bytes=50_000, **options)
    after = state_of(repo)
    for name in ("record_count", "file_bytes", "blob_count", "node_count"):
        before.pop(name, None), after.pop(name, None)  # records that nothing names may stay, for gc
    assert after == before
    assert (tree.base, dict(tree)) == (base, {"a": 1})
    assert repo.store.backend.pending_floor() is None
    tree.load({"b": 2})
    assert dict(repo.snapshot()) == {"a": 1, "b": 2}


def test_a_load_gives_back_every_place_it_reserved(repo, tree, monkeypatch):
    monkeypatch.setattr(sys.modules["kvgit_hamt.store"], "RESERVE_COUNT", 50)
    want = {f"k{i}": "x" * (i % 90) for i in range(1500)}
    tree.load(want)
    assert dict(repo.snapshot()) == want
    assert repo.store.backend.pending_floor() is None
    assert tree.load(want).strategy == "no_op"
    assert repo.store.backend.pending_floor() is None


def test_a_load_into_a_branch_that_moves_is_refused(repo, tree):
    def entries():
        yield "a", 1
        put(repo, "main", {"b": 2})

    with pytest.raises(kvgit.BranchMovedError):
        tree.load(entries())
    assert dict(repo.snapshot()) == {"b": 2}
    assert repo.store.backend.pending_floor() is None


# --- the end


def test_calls_that_would_mix_in_pending_edits_are_refused(repo):
    worktree = fork(repo, {"a": 0}, {"b": 1}, {"c": 1})
    worktree["p"] = 1
    before = state_of(repo)
    for call in (
        lambda: worktree.merge(branch="side"),
        lambda: worktree.cherry_pick("side"),
        lambda: worktree.revert("side"),
        lambda: worktree.apply("main", "side"),
        lambda: worktree.reset("side"),
        lambda: worktree.load({"x": 1}),
    ):
        with pytest.raises(kvgit.PendingChangesError, match="commit or discard"):
            call()
    assert state_of(repo) == before
    assert worktree.status().updated == {"p"}


def test_a_closed_worktree_is_done_while_its_repository_goes_on(repo, tree):
    tree["a"] = 1
    with tree:
        pass
    for call in (
        lambda: tree["a"], lambda: len(tree), lambda: list(tree), lambda: tree.commit(), tree.refresh,
        lambda: tree.update({"b": 1}), lambda: tree.load({}), lambda: tree.merge(branch="main"),
        lambda: list(tree.diff()), lambda: tree.get_many(["a"]), lambda: tree.__setitem__("a", 1),
    ):  # fmt: skip
        with pytest.raises(kvgit.ClosedError):
            call()
    assert not tree.has_changes
    assert dict(repo.snapshot()) == {}


def test_a_worktree_that_open_made_closes_its_repository(tmp_path):
    with kvgit.open(tmp_path / "s") as worktree:
        worktree["a"] = 1
        worktree.commit()
        repo = worktree.repo
        assert "main" in repr(worktree)
        assert worktree.branch == "main"
    assert repo.is_closed
    with kvgit.open(tmp_path / "s", branch="new") as worktree:
        assert dict(worktree) == {}
        assert worktree.repo.snapshot()["a"] == 1


def test_what_a_merge_function_sets_during_the_commit_stays_pending():
    with kvgit.open() as work:
        other = work.repo.worktree()
        work["z"] = 1
        other["z"] = 2
        other.commit()

        def settle(old, ours, theirs):
            work["z"] = 99
            return ours

        work.commit(merge_fns={"z": settle})
        assert work["z"] == 99
        assert work.status().updated == {"z"}
        assert work.repo.snapshot()["z"] == 1


def test_the_very_same_commit_made_twice_is_one_commit():
    with kvgit.open() as work:
        other = work.repo.worktree()
        for tree in (work, other):
            tree["a"] = 1
        first = work.commit(time=None)
        second = other.commit(time=None)
        assert first.commit == second.commit == work.repo.branches["main"]
        assert len(list(work.repo.log())) == 2


def test_a_base_that_gc_took_leaves_a_way_out(tmp_path):
    path = tmp_path / "store"
    with kvgit.open(path) as work, kvgit.Repo(path) as elsewhere:
        start = work.base
        work["gone"] = 1
        work.commit()
        work["mine"] = 2
        elsewhere.worktree().reset(start)
        elsewhere.gc(keep_reflog=0)
        with pytest.raises(kvgit.StateError, match="refresh"):
            work.commit()
        work.refresh()
        work.commit()
        assert dict(elsewhere.snapshot()) == {"mine": 2}
