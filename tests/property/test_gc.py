"""Random histories, collected: what is held stays as it was, the rest goes, and the figures are true."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvgit_hamt import THEIRS, gc
from kvgit_hamt.store import Store
from tests.support.homes import SMALL, Home

BRANCHES = ("main", "a", "b")
VALUES = st.sampled_from([0, 1, "text", "blob " * 30, "another blob " * 20])
CONTENT = st.dictionaries(st.sampled_from([f"{d}{n}" for d in ("", "x/", "y/") for n in range(14)]), VALUES)
STEPS = st.one_of(
    st.tuples(st.just("commit"), st.sampled_from(BRANCHES), CONTENT, st.booleans()),
    st.tuples(st.just("many"), st.sampled_from(BRANCHES), st.integers(0, 3)),
    st.tuples(st.just("load"), st.sampled_from(BRANCHES), CONTENT),
    st.tuples(st.just("merge"), st.sampled_from(BRANCHES), st.sampled_from(BRANCHES)),
    st.tuples(st.just("reset"), st.sampled_from(BRANCHES), st.integers(0, 30)),
    st.tuples(st.just("delete"), st.sampled_from(BRANCHES[1:])),
    st.tuples(st.just("tag"), st.sampled_from(BRANCHES), st.integers(0, 1)),
    st.tuples(st.just("gc"), st.booleans()),
)


class Program:
    """A store beside the contents of every commit that was ever made."""

    def __init__(self, kind, directory):
        self.home = Home(kind, directory)
        self.repo = self.home.open(shape=SMALL, clock=self.home.clock)
        self.contents = {self.repo.branches["main"]: {}}

    def note(self, worktree):
        found = dict(worktree)
        assert self.contents.setdefault(worktree.base, found) == found

    def work(self, branch):
        return self.repo.worktree(branch, create=True)

    def step(self, what, *given):
        getattr(self, what)(*given)

    def commit(self, branch, content, is_timeless):
        worktree = self.work(branch)
        worktree.update(content)
        worktree.commit(time=None if is_timeless else "now")
        self.note(worktree)

    def many(self, branch, number):
        self.commit(branch, {f"m/{n}": f"{number} {n}" for n in range(40)}, True)

    def load(self, branch, content):
        worktree = self.work(branch)
        worktree.load({**content, **{f"l/{n}": n for n in range(30)}}, time=None)
        self.note(worktree)

    def merge(self, branch, other):
        worktree = self.work(branch)
        if other in self.repo.branches:
            worktree.merge(branch=other, default_merge=THEIRS)
            self.note(worktree)

    def reset(self, branch, number):
        known = sorted(oid for oid in self.contents if self.is_there(oid))
        self.work(branch).reset(known[number % len(known)])

    def is_there(self, commit):
        return self.repo.store.backend.find("commit", bytes.fromhex(commit)) is not None

    def delete(self, branch):
        if branch in self.repo.branches:
            self.repo.branches.delete(branch)

    def tag(self, branch, number):
        name = f"t{number}"
        if name in self.repo.tags:
            self.repo.tags.delete(name)
        elif branch in self.repo.branches:
            self.repo.tags.create(name, at=branch)

    def held(self, is_with_reflog):
        """Commits that refs, and perhaps the reflog, reach."""
        tips = [*self.repo.branches.values(), *self.repo.tags.values()]
        if is_with_reflog:
            for name in BRANCHES:
                tips += [oid for entry in self.repo.reflog(name) for oid in (entry.old, entry.new) if oid]
            for name in ("t0", "t1"):
                entries = self.repo.refs.reflog("tags/" + name)
                tips += [oid for entry in entries for oid in (entry.old, entry.new) if oid]
        return {commit.id for tip in set(tips) for commit in self.repo.log(tip)}

    def gc(self, keeps_reflog):
        repo = self.repo
        keep = 10**9 if keeps_reflog else 0
        held = self.held(keeps_reflog)
        before = list(repo.store.backend.iterate_records())
        dry = repo.gc(dry_run=True, keep_reflog=keep)
        assert list(repo.store.backend.iterate_records()) == before
        real = repo.gc(keep_reflog=keep)
        figures = (real.kept_count, real.freed_count, real.kept_bytes, real.freed_bytes)
        assert figures == (dry.kept_count, dry.freed_count, dry.kept_bytes, dry.freed_bytes)
        assert repo.gc(keep_reflog=keep).freed_count == 0
        assert {oid for oid in self.contents if self.is_there(oid)} == held
        self.check(keeps_reflog)

    def check(self, keeps_reflog):
        for oid in self.held(keeps_reflog):
            assert dict(self.repo.snapshot(commit=oid)) == self.contents[oid]
        marker = gc.Marker(Store(self.repo.store.backend, SMALL, 0), lambda count: None)
        for oid in self.held(keeps_reflog):
            marker.mark_commit(bytes.fromhex(oid))
        records = list(self.repo.store.backend.iterate_records())
        assert self.repo.stats()["record_count"] == len(records) == marker.marks.count
        stats = self.repo.gc(dry_run=True, keep_reflog=0 if not keeps_reflog else 10**9)
        assert stats.kept_bytes == sum(len(record) for _, record in records)


def run(kind, tmp_path_factory, steps):
    program = Program(kind, tmp_path_factory.mktemp("store"))
    try:
        for step in steps:
            program.step(*step)
        program.gc(True)
        program.gc(False)
        usage_is_true(program.repo)
    finally:
        program.home.close()


def usage_is_true(repo):
    """What usage says that one ref holds alone is what gc frees once it is deleted."""
    for name in [*repo.branches, *(f"tags/{name}" for name in repo.tags)]:
        kind, _, short = name.rpartition("/")
        said = repo.usage()[name if kind else f"heads/{name}"]
        total = repo.gc(dry_run=True, keep_reflog=0).kept_bytes
        assert said.exclusive_bytes + said.shared_bytes <= total
        names = repo.tags if kind else repo.branches
        names.delete(short)
        freed = repo.gc(keep_reflog=0)
        assert freed.freed_bytes == said.exclusive_bytes
    assert repo.stats()["record_count"] == 0


@pytest.mark.parametrize("kind", ["memory", "lmdb"])
def test_random_histories_keep_what_is_held_and_nothing_else(kind, tmp_path_factory):
    @settings(max_examples=40, suppress_health_check=list(HealthCheck))
    @given(st.lists(STEPS, min_size=3, max_size=25))
    def check(steps):
        run(kind, tmp_path_factory, steps)

    check()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["memory", "lmdb"])
def test_random_histories_keep_what_is_held_at_length(kind, tmp_path_factory):
    @settings(max_examples=1_000, suppress_health_check=list(HealthCheck))
    @given(st.lists(STEPS, min_size=3, max_size=60))
    def check(steps):
        run(kind, tmp_path_factory, steps)

    check()


def test_usage_of_refs_at_one_commit_is_shared(tmp_path):
    home = Home("memory", tmp_path)
    repo = home.open(shape=SMALL, clock=home.clock)
    numbers = itertools.count()
    worktree = repo.worktree()
    worktree.update({f"k/{next(numbers)}": "v" * 30 for _ in range(100)})
    worktree.commit()
    assert repo.usage()["heads/main"].shared_bytes == 0
    repo.tags.create("same")
    usage = repo.usage()
    assert usage["heads/main"] == usage["tags/same"]
    assert usage["heads/main"].exclusive_bytes == 0
    assert usage["heads/main"].shared_bytes == repo.gc(dry_run=True).kept_bytes
