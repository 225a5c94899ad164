"""Merging of three trees under a policy, and the commits that come of it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kvgit_hamt as kvgit
from kvgit_hamt import OURS, THEIRS, MergePolicy
from kvgit_hamt.errors import InvalidInputError
from kvgit_hamt.hamt import Tree
from kvgit_hamt.history import (
    CommitMeta,
    base_tree,
    carried_keys,
    check_meta,
    initial_oid,
    merge_trees,
    put_commit,
)
from tests.support.history import ABSENT, changed_keys, three_way
from tests.support.homes import SMALL
from tests.support.trees import contents, naive_root

KEYS = st.sampled_from([f"{d}{k}" for d in ("", "x/", "x/y/", "z/") for k in "abcd"])
SIDES = st.dictionaries(KEYS, st.integers(0, 3) | st.just("blob " * 20), max_size=16)


def tree_of(repo, content):
    """The tree of a dict, stored through a branch of its own."""
    worktree = repo.worktree(f"b{len(repo.branches)}", create=True)
    worktree.update(content)
    worktree.commit(info={})
    return Tree(*repo.resolve_commit(worktree.branch).tree)


def merged_content(repo, writer, tree):
    return {k.decode(): repo.codec.decode(v) for k, v in contents(writer, tree).items()}


@settings(max_examples=80)
@given(SIDES, SIDES, SIDES, st.sampled_from([None, OURS, THEIRS, "function"]))
def test_a_merge_of_trees_is_the_merge_of_dicts(base, ours, theirs, default):
    repo = kvgit.Repo(shape=SMALL)
    trees = tuple(tree_of(repo, content) for content in (base, ours, theirs))
    rules = {
        None: None,
        OURS: lambda old, mine, other: mine,
        THEIRS: lambda old, mine, other: other,
        "function": lambda old, mine, other: "merged",
    }
    policy = MergePolicy(default=(lambda *_: "merged") if default == "function" else default)
    writer = repo.store.writer()
    merged = merge_trees(writer, repo.codec, policy, trees)
    want, conflicts = three_way(base, ours, theirs, rules[default])
    assert [conflict.key for conflict in merged.conflicts] == sorted(conflicts)
    if conflicts:
        return
    assert merged_content(repo, writer, merged.tree) == want
    encoded = {key.encode(): repo.codec.encode(value) for key, value in want.items()}
    assert merged.tree.oid == naive_root(SMALL, encoded)
    contested = {
        key
        for key in changed_keys(base, ours) & changed_keys(base, theirs)
        if ours.get(key, ABSENT) != theirs.get(key, ABSENT)
    }
    assert merged.auto_merged_keys == contested
    carried = carried_keys(repo.store, (trees[0], trees[2]), merged.auto_merged_keys)
    assert carried() == changed_keys(base, theirs) - contested


@settings(max_examples=80)
@given(
    SIDES,
    SIDES,
    SIDES,
    st.dictionaries(
        st.sampled_from(["", "x/", "x/y/", "z", "a"]), st.sampled_from([OURS, THEIRS]), min_size=1
    ),
)
def test_standing_sides_take_their_prefixes_whole(base, ours, theirs, prefixes):
    repo = kvgit.Repo(shape=SMALL)
    trees = tuple(tree_of(repo, content) for content in (base, ours, theirs))
    policy = MergePolicy(prefixes=prefixes, default=OURS)
    writer = repo.store.writer()
    merged = merge_trees(writer, repo.codec, policy, trees)
    plain, _ = three_way(base, ours, theirs, lambda old, mine, other: mine)
    want = {}
    for key in {*base, *ours, *theirs}:
        rules = [(len(p), choice) for p, choice in prefixes.items() if key.startswith(p)]
        side = plain if not rules else ours if max(rules, key=lambda r: r[0])[1] is OURS else theirs
        if key in side:
            want[key] = side[key]
    assert merged_content(repo, writer, merged.tree) == want


@given(SIDES, SIDES)
def test_laws_of_merging(base, side):
    repo = kvgit.Repo(shape=SMALL)
    old, new = tree_of(repo, base), tree_of(repo, side)
    writer = repo.store.writer()

    def merge(*trees):
        result = merge_trees(writer, repo.codec, MergePolicy(), trees)
        assert not result.conflicts
        return result.tree.oid

    assert merge(old, old, old) == old.oid
    assert merge(old, new, old) == merge(old, old, new) == merge(old, new, new) == new.oid


def test_a_conflict_elsewhere_leaves_standing_sides_unread():
    repo = kvgit.Repo(shape=SMALL)
    sides = [{"a": n, "x/a": n} for n in range(3)]
    policy = MergePolicy(prefixes={"x/": THEIRS})
    merged = merge_trees(repo.store.writer(), repo.codec, policy, tuple(tree_of(repo, s) for s in sides))
    assert [conflict.key for conflict in merged.conflicts] == ["a"]


def test_many_conflicts_are_all_listed_in_order():
    repo = kvgit.Repo(shape=SMALL)
    sides = [{f"k{i}": n for i in range(300)} for n in range(3)]
    merged = merge_trees(
        repo.store.writer(), repo.codec, MergePolicy(), tuple(tree_of(repo, s) for s in sides)
    )
    assert [conflict.key for conflict in merged.conflicts] == sorted(f"k{i}" for i in range(300))
    error = kvgit.MergeConflict([c.key for c in merged.conflicts], conflicts=merged.conflicts)
    assert "300 key(s)" in str(error)
    assert len(str(error)) < 300


def test_the_initial_commit_follows_from_the_codec_alone():
    for codec in ("msgpack", "pickle", "bytes"):
        assert kvgit.Repo(codec=codec, shape=SMALL).branches["main"] == initial_oid(codec).hex()


def test_a_commit_is_one_above_its_highest_parent_and_reads_back():
    repo = kvgit.Repo()
    first = repo.resolve_commit("main")
    high = repo.resolve_commit(repo.worktree().commit(info={"n": 1}).commit)
    writer = repo.store.writer()
    commit = put_commit(writer, Tree(*first.tree), (first, high), CommitMeta(5, {"a": [1]}, "msgpack"))
    assert commit.generation == high.generation + 1
    writer.publish()
    assert repo.store.read_commit(commit.oid) == commit


def test_histories_without_a_common_commit_are_refused():
    repo = kvgit.Repo()
    writer = repo.store.writer()
    tree = Tree(*repo.resolve_commit("main").tree)
    alone = put_commit(writer, tree, (), CommitMeta(7, {"alone": True}, "msgpack"))
    writer.publish()
    assert repo.merge_base("main", alone.oid.hex()) is None
    with pytest.raises(InvalidInputError, match="no common history"):
        base_tree(repo.store, repo.resolve_commit("main"), alone)
    with pytest.raises(InvalidInputError, match="no common history"):
        repo.worktree().merge(commit=alone.oid.hex())


@pytest.mark.parametrize("info", [{"a": object()}, {1: 2}, {"a": 1 << 80}, {"a": {"b": {1, 2}}}])
def test_info_that_cannot_be_kept_is_refused_beforehand(info):
    with pytest.raises(InvalidInputError, match="plain data"):
        check_meta(CommitMeta(None, info, "msgpack"))
