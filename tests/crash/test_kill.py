"""K1 and K2: a process is killed at any moment of any operation; nothing acknowledged is lost.

Each kill is one SIGKILL. Then the store is opened and read whole: every branch must be at the last
acknowledged step or at the one that was being made.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.support.crash import Track, await_step, kill_after, measure
from tests.support.crash_model import Plan, make_bundle
from tests.support.scale import pick, record

pytestmark = pytest.mark.slow

LONGEST_S = 0.03  # from the start of a process to its end
KINDS = {
    "gc": ("commit", "fork", *["side"] * 6, "drop", "gc"),
    "compact": ("commit", "compact"),
    "load": ("load",),
    "merge": ("fork", "side", "commit", "merge", "drop"),
    "big": ("big",),
    "bundle": ("bundle", "commit", "drop", "commit", "gc"),
    "copy": ("load", "copy"),
}
FAULTS = {
    "gc": "greedy",
    "compact": "in place",
    "copy": "piece by piece",
}  # what is caught; for the others, "early"
FRESH_EVERY = {"big": 10}  # kills, after which another store is made: a map that has grown does so seldom
FRESH_ELSE = 40  # that the whole check of a long history does not take all the time
SEED = 1


def test_k1_a_killed_process_loses_no_acknowledged_commit(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    kills = pick(200, 5_000)
    problems, steps = [], 0
    for n in range(kills):
        if n % FRESH_ELSE == 0:
            track = Track(tmp_path / f"store {n}", Plan(SEED + n, ("commit",)))
        before = track.step
        problems.append(kill_after(track, rng.uniform(0, LONGEST_S), "commit" if n % 2 else ""))
        steps += track.step - before
    assert [problem for problem in problems if problem] == []
    assert steps > kills // 4  # it was at work, not only opened
    caught = [
        caught_by(tmp_path / f"{fault} {n}", rng, fault) for fault in ("early", "torn") for n in range(20)
    ]
    early, torn = caught[:20], caught[20:]
    record(
        "K1",
        kills=kills,
        steps=steps,
        violations=sum(map(bool, problems)),
        control_early_ack_caught=sum(early),
        control_torn_publish_caught=sum(torn),
        control_kills_each=20,
    )
    assert any(early), "no kill of a process that acknowledges first was caught"
    assert any(torn), "no kill of a process that publishes in two steps was caught"


@pytest.mark.parametrize("kind", list(KINDS))
def test_k2_nor_does_one_that_is_killed_in_the_middle_of(tmp_path: Path, kind: str) -> None:
    rng = random.Random(f"{SEED} {kind}")
    plan = Plan(SEED, KINDS[kind])
    make_bundle(tmp_path)
    longest = measure(Track(tmp_path / "measured", plan), kind, 3)
    kills = pick(50, 500)
    problems, inside, done = [], 0, 0
    for n in range(kills):
        if n % FRESH_EVERY.get(kind, FRESH_ELSE) == 0:
            track = Track(tmp_path / f"store {n}", plan)
        before = track.inside_count
        problems.append(kill_after(track, rng.uniform(0, longest * (0.5 if n % 2 else 2)), kind))
        inside += track.inside_count - before
        done += track.step > track.acked
    fault = FAULTS.get(kind, "early")
    caught = [caught_by(tmp_path / f"control {n}", rng, fault, (kind, longest)) for n in range(10)]
    record(
        f"K2 {kind}",
        kills=kills,
        killed_inside=inside,
        done_but_not_acked=done,
        violations=sum(map(bool, problems)),
        control=fault,
        control_caught=sum(caught),
        control_kills=len(caught),
    )
    assert [problem for problem in problems if problem] == []
    assert inside
    assert any(caught), f"no kill with the fault {fault!r} was caught"


def caught_by(
    path: Path, rng: random.Random, fault: str, at: tuple[str, float] = ("commit", LONGEST_S)
) -> bool:
    """Whether one kill of a process with a fault is caught."""
    kind, longest = at
    track = Track(path, Plan(SEED, KINDS.get(kind, (kind,))))
    process = track.start(fault=fault)
    step = await_step(track, process, kind)
    if fault in FAULTS.values():  # these err in the end of a step, or die in the middle of it
        while track.acked < step and (message := process.receive()):
            track.note(message)
    else:
        time.sleep(rng.uniform(0, 0.1 * longest))
    process.kill()
    track.drain(process)
    process.wait()
    return bool(track.judge())
