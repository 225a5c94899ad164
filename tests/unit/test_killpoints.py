"""The points at which tests of crashes end a process: tests/crash/test_kill_points.py dies at each."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import kvgit_hamt
from kvgit_hamt import killpoints

PACKAGE = Path(kvgit_hamt.__file__).parent


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    killpoints.arm("")


def test_each_point_that_is_named_stands_once_in_the_code() -> None:
    found = [
        name
        for path in PACKAGE.rglob("*.py")
        for name in re.findall(r'killpoints\.reached\("([^"]*)"\)', path.read_text(encoding="utf-8"))
    ]
    assert sorted(found) == sorted(killpoints.POINTS)


def test_a_point_that_is_not_armed_does_nothing() -> None:
    killpoints.arm("gc.swept:1")
    killpoints.reached("gc.marked")
    killpoints.arm("")
    killpoints.reached("gc.swept")


@pytest.mark.parametrize("spec", ["gc.swept", "gc.swept:0", "gc.swept:-1", "gc.swept:x", "nowhere:1", ":1"])
def test_a_point_that_cannot_be_reached_is_refused(spec: str) -> None:
    with pytest.raises(ValueError, match="KVGIT_CRASH_AT"):
        killpoints.arm(spec)


def test_a_process_dies_the_nth_time_it_passes_its_point() -> None:
    program = (
        "from kvgit_hamt import killpoints\n"
        "for n in range(9):\n"
        "    print(n, flush=True)\n"
        "    killpoints.reached('gc.marked')\n"
        "    killpoints.reached('gc.swept')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "KVGIT_CRASH_AT": "gc.swept:3", "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.split(), done.stderr) == (killpoints.EXIT_CODE, ["0", "1", "2"], "")
