"""Door B and kvgit 0.1.3 show a caller the same, on random programs (see programs.py).

kvgit is installed into a directory of its own, by pip; where that is not to be had the tests are skipped.
As a script, for any number of programs: ``python tests/classic/test_differential.py 2000``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(path) for path in (HERE, ROOT) if str(path) not in sys.path]
import programs  # noqa: E402 (beside this file; the reference's process runs it too)

FAST_COUNT, SLOW_COUNT = 50, 2_000


class Reference:
    """kvgit in a process of its own, serving traces."""

    def __init__(self, folder):
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "programs.py"), "kvgit"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": str(folder), "PYTHONIOENCODING": "utf-8"},
        )

    def trace(self, kind, seed):
        self.process.stdin.write(json.dumps({"kind": kind, "seed": seed}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=30)
        self.process.stdout.close()


def install(folder):
    """What pip says when it cannot install kvgit 0.1.3 into a folder; "" when it did."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), "kvgit==0.1.3"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stderr.strip().rpartition("\n")[2] or "pip failed" if done.returncode else ""


def compare(reference, count):
    """Counts by outcome, and the first differences found."""
    ours = programs.load("kvgit_hamt")
    kinds = list(programs.KINDS)
    outcomes, differences = Counter(), []
    for number in range(count):
        kind, seed = kinds[number % len(kinds)], number // len(kinds)
        expected = reference.trace(kind, seed)
        found = programs.first_difference(expected, programs.trace(ours, kind, seed))
        if found is not None:
            differences.append((kind, seed, *found))
        outcomes["different" if found else "cut short" if expected[-1] == "other base" else "equal"] += 1
        outcomes["steps"] += len(expected)
    return outcomes, differences


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kvgit")
    fault = install(folder)
    if fault:
        pytest.skip(f"kvgit 0.1.3 cannot be installed to compare with: {fault}")
    server = Reference(folder)
    yield server
    server.close()


def test_fifty_programs_show_the_same(reference):
    outcomes, differences = compare(reference, FAST_COUNT)
    assert not differences, differences[0]
    assert outcomes["equal"] > FAST_COUNT * 0.8


@pytest.mark.slow
def test_two_thousand_programs_show_the_same(reference):
    outcomes, differences = compare(reference, SLOW_COUNT)
    assert not differences, differences[0]
    assert outcomes["equal"] > SLOW_COUNT * 0.8


def main():
    with tempfile.TemporaryDirectory() as folder:
        fault = install(folder)
        if fault:
            sys.exit(f"kvgit 0.1.3 cannot be installed to compare with: {fault}")
        server = Reference(folder)
        outcomes, differences = compare(server, int(sys.argv[1]))
        server.close()
    sys.stdout.write(f"{dict(outcomes)}\n")
    for difference in differences[:5]:
        sys.stdout.write(f"{difference}\n")
    sys.exit(bool(differences))


if __name__ == "__main__":
    main()
