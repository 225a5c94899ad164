"""P2 and P4: the power of a real file system is cut while a process writes to a store on it."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.crash import Track
from tests.support.crash_model import Plan
from tests.support.crash_worker import DONE, FAILED, OPENED
from tests.support.power import Judge
from tests.support.power_disk import PowerDisk, skip_unless_possible
from tests.support.power_work import LIFE
from tests.support.scale import pick, record

pytestmark = pytest.mark.slow

SEED = 11
LONGEST_S = 0.1  # from the start of a process, or its first step, to the cut
SHORT_S = 0.02
WAYS = {"ext4": "shutdown", "xfs": "shutdown", "btrfs": "snapshot"}
CUTS = {"ext4": 40, "xfs": 15, "btrfs": 15}
FRESH_EVERY = 40  # cuts, after which another store is made
CONTROL_CUTS = 10


@pytest.fixture(params=list(WAYS))
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PowerDisk]:
    way = WAYS[request.param]
    skip_unless_possible(request.param, way)
    made = PowerDisk(tmp_path, request.param, way)
    yield made
    made.close()


def cut_power(disk: PowerDisk, track: Track, delay_s: float, until: int = -1, fault: str = "") -> bool:
    """Start a process on a store, and cut the power under it ``delay_s`` after its start or after a message;
    whether it had told that the store is open."""
    process = track.start(fault=fault, may_fail=True)
    told = {-1}
    while until not in told and (message := process.receive()):
        told.add(track.note(message))
    time.sleep(delay_s)
    while process.end.poll(0) and (message := process.receive()):
        told.add(track.note(message))
    acked, is_made = track.acked, OPENED in told
    disk.cut()
    process.kill()
    track.drain(process)
    track.acked = acked  # with a snapshot, the process goes on for a moment
    assert process.wait() in (FAILED, -signal.SIGKILL)
    disk.restore()
    return is_made


def test_p2_a_power_cut_loses_no_acknowledged_commit(disk: PowerDisk) -> None:
    rng = random.Random(SEED)
    cuts = pick(CUTS[disk.name], 1_000)
    problems, steps = [], 0
    for n in range(cuts):
        if n % FRESH_EVERY == 0:
            track = Track(disk.root / f"store {n}", Plan(SEED + n, LIFE))
        before = track.step
        cut_power(disk, track, rng.uniform(0, LONGEST_S), DONE if n % 2 else -1)
        problems.append(track.judge())
        steps += track.step - before
    lost = [lose(disk, rng, n) for n in range(CONTROL_CUTS)]
    record(
        f"P2 {disk.name}",
        cuts=cuts,
        steps=steps,
        violations=sum(map(bool, problems)),
        control_cuts=CONTROL_CUTS,
        control_sync_off_lost=sum(map(bool, lost)),
    )
    assert [problem for problem in problems if problem] == []
    assert steps >= cuts // 2  # it was at work, not only opened
    assert sum(map(bool, lost)) > CONTROL_CUTS // 2, lost


def lose(disk: PowerDisk, rng: random.Random, number: int) -> str:
    """What is wrong after a cut under a process that syncs nothing."""
    track = Track(disk.root / f"control {number}", Plan(SEED, ("commit",)))
    is_made = cut_power(disk, track, rng.uniform(SHORT_S, LONGEST_S), DONE, "no sync")
    return judge(track, is_made)


def judge(track: Track, is_made: bool) -> str:
    """In a process of its own: what is left may end it."""
    process = Judge()
    try:
        return process.ask(track.path, track.allowed(), is_acked=is_made).problem
    finally:
        process.close()


def test_p4_a_power_cut_while_a_store_is_made_leaves_a_store_or_none(disk: PowerDisk) -> None:
    rng = random.Random(SEED)
    cuts = pick(CUTS[disk.name] // 2, 200)
    problems, made = [], 0
    for n in range(cuts):
        track = Track(disk.root / f"a {n}" / "b" / "store", Plan(SEED, ("commit",)))
        is_made = cut_power(disk, track, rng.uniform(0, SHORT_S / (1 + n % 3)), OPENED if n % 2 else -1)
        made += is_made
        problems.append(judge(track, is_made))
    record(f"P4 {disk.name}", cuts=cuts, violations=sum(map(bool, problems)), stores_made=made)
    assert [problem for problem in problems if problem] == []
    assert made
