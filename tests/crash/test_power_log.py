"""P1, P3 and P4: the power is cut at any write of a recorded run; some of what was not synced has arrived."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.crash_model import Plan, State
from tests.support.power import DIED, Found, Judge, states_of
from tests.support.power_log import MODES, WORDS, Disk, Note, build_library, record_run
from tests.support.power_work import LIFE
from tests.support.scale import pick, record

pytestmark = pytest.mark.slow

SEED = 5
STEPS = 4 * len(LIFE)
WHOLE_EVERY = 10  # images, of which one is checked from end to end
CONTROL_IMAGES = 100


class Run(NamedTuple):
    """A recorded run, and the states that it passed."""

    notes: list[Note]
    states: list[State]


def make_run(path: Path, sync: str, seed: int) -> Run:
    path.mkdir(exist_ok=True)
    notes = record_run(build_library(path), path / "store", str(seed), str(STEPS), sync)
    return Run(notes, states_of(Plan(seed, LIFE), STEPS))


def cuts(
    run: Run,
    directory: Path,
    count: int,
    *,
    is_honest: bool = True,
    modes: tuple[str, ...] = MODES,
    back: int = 0,
) -> Iterator[Found]:
    """Cut the power at ``count`` moments; the last acknowledged step or the next one must be found.

    Args:
        modes: what may have arrived of what was not synced; with WORDS the cuts fall into commit points.
        back: how many of the last acknowledged steps may be gone.
    """
    rng = random.Random(SEED)
    moments: Sequence[int] = range(len(run.notes) + 1)
    if modes == (WORDS,):
        moments = [number for number, note in enumerate(run.notes) if note.is_durable]
    disk = Disk(run.notes, is_honest=is_honest)
    judge = Judge()
    try:
        directory.mkdir(exist_ok=True)
        for number, moment in enumerate(sorted(rng.choices(moments, k=count))):
            disk.advance(moment)
            image = directory / "image"
            disk.cut(image, rng, rng.choice(modes))
            acked = disk.acked
            first = max(0, (acked or 0) - back)
            allowed = run.states[first : (acked or 0) + 2]
            found = judge.ask(
                image, allowed, is_acked=acked is not None, whole=number % WHOLE_EVERY == WHOLE_EVERY - 1
            )
            if found.problem:
                found = Found(f"cut {number} at note {moment}, acked {acked}: {found.problem}")
            yield found
    finally:
        judge.close()


def problems(found: Iterator[Found]) -> list[str]:
    return [each.problem for each in found if each.problem]


def test_p1_a_power_cut_at_any_write_loses_no_acknowledged_commit(tmp_path: Path) -> None:
    images = pick(400, 18_000)
    runs = pick(1, 10)  # of other contents each
    bad = []
    for number in range(runs):
        home = tmp_path / f"run{number}"
        run = make_run(home, "full", SEED + number)
        bad += problems(cuts(run, home, images // runs))
    lying = problems(cuts(run, tmp_path / "lying", CONTROL_IMAGES, is_honest=False))
    unsynced = problems(cuts(make_run(tmp_path / "off", "off", SEED), tmp_path / "off", CONTROL_IMAGES))
    record(
        "P1",
        runs=runs,
        writes_and_syncs=len(run.notes),
        images=images,
        violations=len(bad),
        control_images=CONTROL_IMAGES,
        control_syncs_ignored_bad=len(lying),
        control_sync_off_bad=len(unsynced),
    )
    assert bad == []
    assert len(lying) > CONTROL_IMAGES // 2
    assert len(unsynced) > CONTROL_IMAGES // 2


def test_p1_with_no_meta_what_is_left_is_whole_and_at_most_the_last_commit_is_gone(tmp_path: Path) -> None:
    images = pick(60, 2_000)
    run = make_run(tmp_path, "no_meta", SEED)
    bad = problems(cuts(run, tmp_path, images, back=1))
    gone = problems(cuts(run, tmp_path, images))  # control: the same cuts, held to what "full" promises
    record("P1 no_meta", images=images, violations=len(bad), last_commit_gone=len(gone))
    assert bad == []
    assert gone


def test_p4_a_power_cut_while_a_store_is_made_leaves_a_store_or_none(tmp_path: Path) -> None:
    images = pick(100, 1_000)
    run = make_run(tmp_path, "full", SEED)
    first = [note.op for note in run.notes].index("M")  # the store was made
    young = run._replace(notes=run.notes[: first + 8])  # and its first commit
    bad = problems(cuts(young, tmp_path, images))
    lying = problems(cuts(young, tmp_path, images, is_honest=False))
    record("P4 log", images=images, violations=len(bad), control_syncs_ignored_bad=len(lying))
    assert bad == []
    assert lying


def test_p3_a_medium_that_writes_no_sector_whole_gives_no_wrong_value(
    tmp_path: Path,
) -> None:
    images = pick(60, 300)
    run = make_run(tmp_path, "full", SEED)
    found = list(cuts(run, tmp_path, images, modes=(WORDS,), back=len(run.states)))
    outcomes = Counter(outcome(each) for each in found)
    lost = len(problems(cuts(run, tmp_path, images, modes=(WORDS,))))
    record(
        "P3",
        images=images,
        committed_states=outcomes[""],
        errors=outcomes["error"],
        deaths=outcomes["death"],
        faults_of_check=outcomes["fault"],
        older_than_acked=lost - (images - outcomes[""]),
    )
    assert set(outcomes) <= {"", "error", "death", "fault"}
    assert lost  # control: it is not what P1 promises


def outcome(found: Found) -> str:
    """LMDB ends the process where it finds its pages out of joint."""
    if DIED in found.problem:
        return "death"
    if re.search("acked [^:]*: [A-Za-z]*Error: ", found.problem):
        return "error"
    return "fault" if " faults, first: " in found.problem else found.problem
