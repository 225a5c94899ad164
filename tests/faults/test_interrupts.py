"""KeyboardInterrupt at any moment (E7): an operation is done or not done, and the lock is free at once."""

from __future__ import annotations

import pytest

import kvgit_hamt as kvgit
from tests.support.faults import run_child
from tests.support.faults_store import make, open_repo, small_steps, state_of
from tests.support.scale import pick, record

CHILD = "tests.support.faults_interrupts"


@pytest.mark.slow
def test_an_interrupt_at_any_moment_leaves_all_or_nothing_and_no_lock(tmp_path):
    found = run_child(CHILD, "points", tmp_path, pick(20, 2_000), 0)
    assert found["bad"] == 0, found["violations"]
    assert found["counts"]["interrupted"] > 200
    control = run_child(CHILD, "points", tmp_path / "control", 40, 1)
    assert control["bad"] > 0
    record("E7", **found["counts"], violations=found["bad"], control_failed=control["bad"])


@pytest.mark.slow
def test_a_storm_of_interrupts_leaves_all_or_nothing_and_no_lock(tmp_path):
    found = run_child(CHILD, "storm", tmp_path, pick(6, 300))
    assert found["bad"] == 0, found["violations"]
    assert found["counts"]["interrupted"] > 10
    record("E7 storm", **found["counts"], violations=found["bad"])


def test_a_few_interrupts(tmp_path):
    found = run_child(CHILD, "points", tmp_path, 3, 0)
    assert found["bad"] == 0, found["violations"]
    assert found["counts"]["cases"] > 30


def test_a_library_that_moved_refs_before_it_stored_commits_would_be_caught(tmp_path):
    """The control."""
    assert run_child(CHILD, "points", tmp_path, 20, 1)["bad"] > 0


# --- callbacks of the caller


class Countdown:
    """A callback that raises KeyboardInterrupt at its n-th call."""

    def __init__(self, nth):
        self.left = nth

    def __call__(self, *_):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt
        return 7


def merge_with(repo, callback):
    work = repo.worktree()
    work["k/2"] = "also on main"
    work.commit()
    return lambda: repo.worktree().merge(branch="side", merge_fns={"k/2": callback})


def check_with(repo, callback):
    return lambda: repo.worktree().merge(branch="side", post_check=callback)


def load_from(repo, callback):
    items = ((f"load/{number}", callback()) for number in range(400))
    return lambda: repo.worktree().load(items)


def load_with_progress(repo, callback):
    return lambda: repo.worktree().load({f"load/{n}": "x" * 50 for n in range(600)}, progress=callback)


def gc_with_progress(repo, callback):
    return lambda: repo.gc(keep_reflog=0, progress=callback)


@pytest.mark.parametrize("nth", [1, 2, 3, 150, 400])
@pytest.mark.parametrize("begin", [merge_with, check_with, load_from, load_with_progress, gc_with_progress])
def test_an_interrupt_in_a_callback_leaves_the_branches_and_no_lock(tmp_path, begin, nth):
    make(tmp_path / "store")
    with small_steps(), open_repo(tmp_path / "store") as repo:
        callback = Countdown(nth)
        call = begin(repo, callback)
        before = state_of(repo)
        try:
            call()
        except KeyboardInterrupt:
            assert callback.left == 0
            assert state_of(repo) == before
            kvgit.open(tmp_path / "store").close()  # while the exception is alive
            work = repo.worktree()
            work["after"] = 1
            work.commit()
            assert repo.store.backend.pending_floor() is None
        else:
            assert callback.left > 0  # it was not called so often
    with open_repo(tmp_path / "store") as repo:
        assert set(repo.branches) == {"main", "side"}
