"""K3: a process dies at a named point between two steps of an operation; nothing acknowledged is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvgit_hamt import killpoints
from tests.support.crash import Track
from tests.support.crash_model import Plan, make_bundle
from tests.support.scale import pick, record

pytestmark = pytest.mark.slow

SIDE = ("fork", "side", "side", "side")
LIFE = (
    "commit",
    "load",
    *SIDE,
    "commit",
    "merge",
    "drop",
    *SIDE,
    "drop",
    "gc",
    "compact",
    "bundle",
    "drop",
    "copy",
)
PLANS = {"grow": Plan(3, ("commit", "big"))}
PASSINGS = {"create": 1, "publish": 40, "write": 40}  # of which one is taken
PATIENCE_STEPS = 20 * len(LIFE)


def die(track: Track, point: str, number: int, fault: str = "") -> str:
    """Let a process die the ``number``-th time it passes a point; the judgement of what it leaves."""
    process = track.start(kill_at=f"{point}:{number}", fault=fault)
    while (message := process.receive()) and track.acked < track.step + PATIENCE_STEPS:
        track.note(message)
    if message:
        process.kill()
    assert process.wait() == killpoints.EXIT_CODE, f"{point} was not reached"
    return track.judge()


def test_k3_a_process_that_dies_at_any_named_point_loses_no_acknowledged_commit(tmp_path: Path) -> None:
    rounds = pick(5, 50)
    make_bundle(tmp_path)
    problems = {}
    died = 0
    for point in killpoints.POINTS:
        kind = point.partition(".")[0]
        for turn in range(rounds):
            if turn == 0 or kind in ("create", "grow"):  # a file that has grown does so seldom again
                track = Track(tmp_path / f"{point} {turn}", PLANS.get(kind, Plan(3, LIFE)))
            number = 1 + turn * 7 % PASSINGS.get(kind, 3)
            if problem := die(track, point, number):
                problems[point, number] = problem
            died += 1
    assert problems == {}
    # Control: with refs in a transaction of their own, every death between the two is caught.
    caught = [
        die(Track(tmp_path / f"control {number}", Plan(3, ("commit",))), "write.committed", number, "torn")
        for number in range(1, 21, 2)
    ]
    record(
        "K3",
        points=len(killpoints.POINTS),
        deaths=died,
        violations=len(problems),
        control_torn_publish_caught=sum(map(bool, caught)),
        control_deaths=len(caught),
    )
    assert all(caught), caught
