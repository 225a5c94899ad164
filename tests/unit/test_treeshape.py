"""The measured shape of a tree is that of the tree."""

from __future__ import annotations

import pytest

import kvgit_hamt as kvgit
from kvgit_hamt import scan, treeshape
from kvgit_hamt.hamt import Tree
from kvgit_hamt.node import INNER
from kvgit_hamt.treeshape import IS_INNER, IS_LEAF


def measured(items, width=72, shape=None):
    repo = kvgit.Repo(shape=shape)
    work = repo.worktree()
    work.update(items)
    work.commit()
    tree = Tree(*repo.resolve_commit("main").tree)
    return repo, tree, treeshape.measure(repo.store, tree, width)


@pytest.mark.parametrize("count", [0, 1, 7, 300, 5_000])
def test_counts_are_those_of_a_walk(count):
    repo, tree, found = measured({f"d{i % 7}/{i}": "x" * (i % 90) for i in range(count)})
    nodes = list(scan.nodes(repo.store, tree))
    inner = [each for each in nodes if each.body[0] == INNER]
    assert found.key_count == count == len(repo.snapshot())
    assert (found.inner_count, found.leaf_count) == (len(inner), len(nodes) - len(inner))
    assert found.depth == 1 + max(each.level for each in nodes)
    assert sum(level.inner_count + level.leaf_count for level in found.levels) == len(nodes)
    assert sum(level.entry_count for level in found.levels) == count
    assert sum(found.fill) == found.leaf_count
    assert sum(level.child_count for level in found.levels) == len(nodes) - 1
    assert found.node_bytes == sum(level.byte_count for level in found.levels)
    assert 0 <= found.mean_fill <= 1
    assert 1 <= found.mean_depth <= found.depth


def test_out_of_line_values_are_counted():
    _, _, found = measured({"small": "x", "large": "y" * 5_000, "other": "z" * 6_000})
    assert (found.blob_count, found.key_count) == (2, 3)
    assert found.blob_bytes > 11_000


def test_a_leaf_that_cannot_be_split_is_in_the_last_bin():
    _, _, found = measured({"a" * 60_000: 1})
    assert found.fill[-1] == 1
    assert found.largest_leaf == 1


def test_the_root_spans_the_picture_and_the_columns_below_are_covered():
    _, _, found = measured({str(i): i for i in range(20_000)}, width=40)
    assert bytes(found.levels[0].columns) == bytes([IS_INNER]) * 40
    assert found.levels[0].edges == {0}
    for column in range(40):
        assert any(level.columns[column] == IS_LEAF for level in found.levels)


def test_a_tree_of_one_leaf_is_a_picture_of_one_row():
    _, _, found = measured({"a": 1}, width=10)
    assert [bytes(level.columns) for level in found.levels] == [bytes([IS_LEAF]) * 10]
