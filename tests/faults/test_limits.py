"""Little memory, few files, small files: every operation under limits of the process (E6)."""

from __future__ import annotations

import pytest

from kvgit_hamt import wire
from tests.support.faults import run_child
from tests.support.faults_store import DEEDS, Stage, open_repo
from tests.support.scale import pick, record

CHILD = "tests.support.faults_limits"


@pytest.mark.slow
@pytest.mark.parametrize("what", ["memory", "files", "size"])
def test_under_a_limit_every_operation_is_done_or_refused_and_nothing_is_lost(tmp_path, what):
    found = run_child(CHILD, what, tmp_path, pick(1, 20))
    assert found["bad"] == 0, found["violations"]
    counts = found["counts"]
    assert counts["landed"] > 0
    assert counts.get("refused", 0) + counts.get("unknown", 0) > 0  # the limits were felt
    record("E6", **counts, violations=found["bad"])


def test_the_judge_sees_an_operation_that_was_done_and_said_to_be_refused(tmp_path):
    """The control."""
    stage = Stage(tmp_path)
    repo = open_repo(stage.fresh())
    DEEDS["commit"](repo)
    assert any("do not hold that" in fault for fault in stage.judge("commit", repo, "refused"))


def test_memory_that_runs_out_while_a_record_is_decoded_is_not_called_damage(monkeypatch):
    def fail(*_, **__):
        raise MemoryError("Unable to allocate internal buffer.")

    monkeypatch.setattr(wire, "_unpackb", fail)
    with pytest.raises(MemoryError):
        wire.unpack(b"\x01", "a ref")
