"""Commits named as in git: steps back, parents, moves of a branch, times."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

import kvgit_hamt as kvgit
from kvgit_hamt import revision

DAY_US = 86_400 * 1_000_000
START_US = int(datetime(2026, 1, 1, tzinfo=timezone.utc).timestamp()) * 1_000_000


class Days:
    """A clock that stands still until it is told a day of January 2026."""

    def __init__(self):
        self.now = START_US

    def __call__(self):
        return self.now

    def set(self, day):
        self.now = START_US + (day - 1) * DAY_US


@pytest.fixture
def made():
    """main: initial, one (day 2), two (day 3), a merge (day 5) of dev (day 4), all at noon-less midnights."""
    clock = Days()
    repo = kvgit.Repo(clock=clock)
    work = repo.worktree()
    ids = {"initial": work.base}

    def commit(tree, name, day):
        clock.set(day)
        tree[name] = day
        ids[name] = tree.commit().commit

    commit(work, "one", 2)
    dev = repo.worktree("dev", create=True)
    dev.reset("main")
    commit(work, "two", 3)
    commit(dev, "side", 4)
    clock.set(5)
    ids["merge"] = work.merge(branch="dev").commit
    repo.tags.create("v1", at=ids["two"])
    clock.set(6)
    return repo, ids, clock


def at(repo, text, branch="main"):
    return revision.resolve(repo.refs, text, branch).oid.hex()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("main", "merge"), ("dev", "side"), ("v1", "two"), ("@", "merge"),
        ("heads/dev", "side"), ("tags/v1", "two"), ("tags/v1~1", "one"), ("heads/main^2", "side"),
        ("main~", "two"), ("main~1", "two"), ("main~2", "one"), ("main~3", "initial"), ("main~0", "merge"),
        ("main^", "two"), ("main^1", "two"), ("main^2", "side"), ("main^2^", "one"), ("main^0", "merge"),
        ("main^2~1^0~1", "initial"), ("@~1", "two"), ("~1", "two"), ("^2", "side"), ("v1~", "one"),
    ],
)  # fmt: skip
def test_steps_lead_to_ancestors(made, text, name):
    repo, ids, _ = made
    assert at(repo, text) == ids[name]
    assert repo.get_commit(text).id == ids[name]


def test_an_abbreviation_takes_steps(made):
    repo, ids, _ = made
    assert at(repo, ids["merge"][:8] + "~2") == ids["one"]


def test_at_means_the_branch_one_is_on(made):
    repo, ids, _ = made
    assert at(repo, "@", "dev") == ids["side"]
    assert at(repo, "@{1}", "dev") == ids["one"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("main@{0}", "merge"), ("main@{1}", "two"), ("main@{2}", "one"), ("main@{3}", "initial"),
        ("@{1}", "two"), ("@@{1}", "two"), ("main@{1}~1", "one"), ("heads/main@{1}", "two"),
        ("main@{2026-01-03}", "two"), ("main@{2026-01-04 23:59}", "two"), ("main@{2026-01-05}", "merge"),
        ("main@{2026-01-02T01:00+01:00}", "one"), ("main@{2026-01-02T00:30+01:00}", "initial"),
        ("main@{now}", "merge"), ("main@{yesterday}", "merge"), ("main@{2 days ago}", "two"),
        ("main@{2.days.ago}~1", "one"),
    ],
)  # fmt: skip
def test_a_branch_by_its_moves(made, text, name):
    repo, ids, _ = made
    assert at(repo, text) == ids[name]


def test_head_means_the_branch_one_is_on_unless_that_is_a_name(made):
    repo, ids, _ = made
    assert (at(repo, "HEAD"), at(repo, "HEAD~1"), at(repo, "HEAD@{1}")) == (
        ids["merge"],
        ids["two"],
        ids["two"],
    )
    assert at(repo, "HEAD", "dev") == ids["side"]
    repo.branches.create("HEAD", at="v1")
    assert at(repo, "HEAD~1") == ids["one"]


def test_before_the_reflog_the_times_of_the_commits_count():
    clock = Days()
    clock.set(20)
    repo = kvgit.Repo(clock=clock)
    work = repo.worktree()
    work["a"] = 1
    old = work.commit(time=datetime(2001, 5, 5)).commit
    work["a"] = 2
    work.commit(time=datetime(2003, 5, 5))
    assert at(repo, "main@{2002-01-01}") == old
    with pytest.raises(kvgit.CommitNotFoundError, match="as old as 2000"):
        at(repo, "main@{2000-01-01}")


def test_a_long_reflog_is_searched_to_its_end():
    clock = Days()
    repo = kvgit.Repo(clock=clock)
    work = repo.worktree()
    ids = []
    for number in range(200):
        clock.now += 60_000_000
        work["n"] = number
        ids.append(work.commit().commit)
    assert at(repo, "main@{2026-01-01 00:05}") == ids[4]
    assert at(repo, "main@{200}") == at(repo, ids[0] + "^")


def test_a_deleted_branch_is_found_by_its_reflog(made):
    repo, ids, _ = made
    repo.branches.delete("dev")
    assert at(repo, "dev@{1}") == ids["side"]
    with pytest.raises(kvgit.BranchNotFoundError, match=r"dev@\{1\}"):
        at(repo, "dev@{0}")
    with pytest.raises(kvgit.CommitNotFoundError, match="deleted"):
        at(repo, "dev@{now}")


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("", kvgit.InvalidInputError, "4 characters"),
        ("heads/\udc80", kvgit.CommitNotFoundError, "commit id"),
        ("main~4", kvgit.CommitNotFoundError, "only 3 first parents"),
        ("main^3", kvgit.CommitNotFoundError, "2 parent"),
        ("main~3^", kvgit.CommitNotFoundError, "0 parent"),
        ("nobody~1", kvgit.CommitNotFoundError, "nobody"),
        ("nobody@{1}", kvgit.BranchNotFoundError, "no reflog"),
        ("main@{4}", kvgit.CommitNotFoundError, r"back 3 move"),
        ("main~x", kvgit.InvalidInputError, "'x'"),
        ("main~1@{1}", kvgit.InvalidInputError, "right after"),
        ("main@{", kvgit.InvalidInputError, "cannot be read"),
        ("main@{when?}", kvgit.InvalidInputError, "no time"),
        ("main@{9999999 years ago}", kvgit.InvalidInputError, "no time"),
        ("ma:in@{1}", kvgit.InvalidNameError, "holds"),
    ],
)
def test_what_names_nothing_is_told_as_such(made, text, error, words):
    with pytest.raises(error, match=words):
        at(made[0], text)


def test_steps_back_do_not_recurse():
    repo = kvgit.Repo(clock=Days())
    work = repo.worktree()
    for number in range(3_000):
        work["n"] = number
        work.commit()
    assert at(repo, "main~3000") == repo.merge_base("main", "main~3000")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-31", "2026-01-31T00:00:00+00:00"),
        ("2026-01-31 12:30", "2026-01-31T12:30:00+00:00"),
        ("2026-01-31T12:30:15Z", "2026-01-31T12:30:15+00:00"),
        ("2026-01-31 12:30+02:00", "2026-01-31T10:30:00+00:00"),
        ("now", "2026-01-01T00:00:00+00:00"),
        ("yesterday", "2025-12-31T00:00:00+00:00"),
        ("90 seconds ago", "2025-12-31T23:58:30+00:00"),
        ("1 week", "2025-12-25T00:00:00+00:00"),
    ],
)
def test_times_are_read(text, expected):
    assert revision.parse_time(text, START_US).isoformat() == expected


@pytest.mark.parametrize("text", ["", "soon", "2026-13-01", "3 moons ago", "12:00"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(kvgit.InvalidInputError):
        revision.parse_time(text, START_US)
