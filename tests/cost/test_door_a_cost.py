"""What calls of the main API cost does not depend on how much a store holds, apart from the depth."""

from __future__ import annotations

import pytest

import kvgit_hamt as kvgit
from kvgit_hamt import scan
from kvgit_hamt.hamt import Tree
from kvgit_hamt.store import Counters

SIZES = (1_000, 30_000, 100_000)
MOST_LEVELS = {"flat": 4, "directories": 10}  # from root to leaf at 100,000; a directory is up to four


@pytest.fixture(scope="module", params=["flat", "directories"])
def stores(request, tmp_path_factory):
    """A directory with one store for each size, each with a few commits and branches."""
    where = tmp_path_factory.mktemp("cost")
    for size in SIZES:
        with kvgit.open(where / str(size)) as worktree:
            worktree.load((key_of(request.param, i), {"id": i, "name": f"entry {i}"}) for i in range(size))
            worktree["one/changed"] = 0
            worktree.commit()
            worktree["one/changed"] = 1
            worktree.commit()
            for number in range(20):
                worktree.repo.branches.create(f"branch{number}")
    return where, request.param, {size: depth_of(where / str(size)) for size in SIZES}


def depth_of(path):
    """Nodes on the longest way from the root to a leaf."""
    with kvgit.Repo(path) as repo:
        root = repo.resolve_commit("main").tree
        return 1 + max(visited.level for visited in scan.nodes(repo.store, Tree(*root)))


def key_of(kind, number):
    return f"key-{number}" if kind == "flat" else f"dir{number % 300}/sub{number % 7}/key-{number}"


def cost_of(where, call, warm=None):
    """Counters over a call on a repository opened afresh (and used once, with ``warm``), by size."""
    found = {}
    for size in SIZES:
        with kvgit.Repo(where / str(size)) as repo:
            if warm is not None:
                warm(repo)
            before = repo.store.counters.copy()
            call(repo, size)
            found[size] = repo.store.counters.since(before)
    return found


def test_depth_grows_with_the_logarithm(stores):
    _, kind, depth = stores
    assert depth[1_000] <= depth[30_000] <= depth[100_000] <= MOST_LEVELS[kind]


def test_open_and_get_read_one_way_down(stores):
    where, kind, depth = stores
    opened = {}
    for size in SIZES:
        with kvgit.open(where / str(size)) as worktree:
            counters = worktree.repo.store.counters
            opened[size] = counters.copy()
            assert worktree[key_of(kind, size // 2)]["id"] == size // 2
            cost = counters.since(opened[size])
            assert cost.leaves_read == 1
            assert cost.nodes_read <= depth[size]
            assert worktree.get("none") is None
            assert cost.blobs_read == cost.nodes_written == 0
            before = counters.copy()
            worktree.get(key_of(kind, size // 2))
            assert counters.since(before).nodes_read == 1, "inner nodes are cached, the leaf is not"
    assert len({repr(cost) for cost in opened.values()}) == 1
    assert opened[1_000].nodes_read <= 1


def test_len_and_size_read_the_root_alone(stores):
    where, _, _ = stores

    def call(repo, size):
        snapshot = repo.snapshot()
        before = repo.store.counters.copy()
        assert len(snapshot) == size + 1
        assert snapshot.byte_size > size
        cost = repo.store.counters.since(before)
        assert (cost.nodes_read, cost.leaves_read) == (1, 0)

    cost_of(where, call)


def test_a_commit_of_one_key_reads_and_writes_one_way_down(stores):
    where, kind, depth = stores

    def call(repo, size):
        worktree = repo.worktree("branch1")
        worktree[key_of(kind, size // 3)] = "changed"
        worktree.commit(time=None)

    for size, cost in cost_of(where, call).items():
        # The way down is read once; at most one buddy of the leaf is read when they join.
        assert cost.nodes_read <= depth[size] + 6
        assert cost.nodes_written <= depth[size] + 3
        assert cost.leaves_written <= 2
        assert cost.bytes_written < 20_000


def test_len_of_a_worktree_with_edits_costs_the_edits(stores):
    where, kind, depth = stores

    def call(repo, size):
        worktree = repo.worktree()
        before = repo.store.counters.copy()
        worktree["new"] = 1
        del worktree[key_of(kind, 5)]
        assert len(worktree) == size + 1
        assert repo.store.counters.since(before).nodes_read <= 3 * (depth[size] + 1)

    cost_of(where, call)


def test_a_branch_or_tag_is_created_without_a_node(stores):
    where, _, _ = stores

    def call(repo, size):
        repo.branches.create("new", at="main")
        repo.tags.create("v1")
        repo.branches.delete("new")
        repo.tags.delete("v1")

    assert set(map(repr, cost_of(where, call).values())) == {repr(Counters())}


def test_a_diff_of_one_change_reads_two_ways_down(stores):
    where, _, depth = stores

    def call(repo, size):
        log = [commit.id for commit in repo.log(limit=2)]
        before = repo.store.counters.copy()
        assert [change.key for change in repo.diff(log[1], log[0])] == ["one/changed"]
        cost = repo.store.counters.since(before)
        assert cost.nodes_read <= 2 * (depth[size] + 1) + 2  # and the two commits
        assert cost.leaves_read <= 4
        assert cost.nodes_written == 0

    cost_of(where, call)


def test_a_merge_of_one_change_on_each_side_costs_the_changes(stores):
    where, kind, depth = stores

    def call(repo, size):
        for number in (1, 2):
            repo.branches.create(f"side{number}", at="main")
            worktree = repo.worktree(f"side{number}")
            worktree[key_of(kind, number * size // 5)] = number
            worktree.commit(time=None)
        worktree = repo.worktree("side1")
        repo.store.cache.clear()
        before = repo.store.counters.copy()
        assert worktree.merge(branch="side2", time=None).strategy == "three_way"
        cost = repo.store.counters.since(before)
        assert cost.nodes_read <= 5 * (depth[size] + 1) + 5
        assert cost.nodes_written <= depth[size] + 3
        for number in (1, 2):
            repo.branches.delete(f"side{number}")

    cost_of(where, call)


def test_a_scan_of_a_directory_reads_that_directory_alone(tmp_path):
    read = {}
    for size in (1_000, 30_000):
        with kvgit.open(tmp_path / str(size)) as worktree:
            worktree.load((f"dir{i}/k{i}" if i >= 100 else f"wanted/k{i}", "x" * 30) for i in range(size))
            before = worktree.repo.store.counters.copy()
            assert len(list(worktree.items("wanted/"))) == 100
            read[size] = worktree.repo.store.counters.since(before).nodes_read
    assert max(read.values()) <= 16


def test_the_log_of_a_key_reads_only_the_ways_that_differ(tmp_path):
    with kvgit.open(tmp_path / "s") as worktree:
        worktree.load((f"k{i}", i) for i in range(20_000))
        for number in range(60):
            worktree["hot" if number % 10 == 0 else f"k{number}"] = "new"
            worktree["n"] = number
            worktree.commit()
        repo = worktree.repo
        before = repo.store.counters.copy()
        assert len(list(repo.log(key="hot"))) == 1
        assert repo.store.counters.since(before).nodes_read <= 61 * 8
