"""Every operation while the n-th file call fails: the library's error, a usable store, and the truth (E1)."""

from __future__ import annotations

import pytest

from tests.support.faults import build, run_child
from tests.support.scale import pick, record

CHILD = "tests.support.faults_calls"


@pytest.mark.slow
def test_whichever_call_fails_the_caller_is_told_the_truth_and_nothing_is_lost(tmp_path):
    library = build(tmp_path)
    found = run_child(CHILD, tmp_path, pick(10, 60), 0, preload=library)
    assert found["bad"] == 0, found["violations"]
    counts = found["counts"]
    assert counts["failed calls"] >= counts["cases"]
    assert min(counts["refused"], counts["unknown"], counts["landed"]) > 0  # all three happen
    control = run_child(CHILD, tmp_path / "control", 1, 1, preload=library)
    assert control["bad"] >= control["counts"]["cases"]
    record("E1", **counts, violations=found["bad"], control_failed=control["bad"])


def test_a_library_that_ignored_a_failed_commit_would_be_caught(tmp_path):
    """The control: a commit that failed is taken for done."""
    found = run_child(CHILD, tmp_path, 1, 1, preload=build(tmp_path))
    assert found["counts"] == {"cases": 3, "failed calls": 3, "landed": 3}
    assert found["bad"] >= 3


def test_a_few_failing_calls(tmp_path):
    found = run_child(CHILD, tmp_path, 1, 0, preload=build(tmp_path))
    assert found["counts"]["cases"] > 60
    assert found["bad"] == 0, found["violations"]
