"""Listings, logs and diffs of many keys and commits are printed in bounded memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

import kvgit_hamt as kvgit
from tests.support.cli import TIMEOUT_S, environment

KEYS = 16_000
COMMITS = 500
OLDEST = f"main~{COMMITS + 1}"
BOUND_BYTES = 6 << 20  # of what Python holds at most; the keys alone are more
MEASURE = """\
import sys, tracemalloc
from kvgit_hamt import objects
from kvgit_hamt.cli import main
objects.COMMITS_KEPT = 64  # a cache with a bound of its own, in commits
tracemalloc.start()
code = main(sys.argv[1:])
sys.stderr.write(f"peak {tracemalloc.get_traced_memory()[1]}\\n")
sys.exit(code)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    where = tmp_path_factory.mktemp("large") / "store"
    with kvgit.open(where) as work:
        work.load({f"directory/{'x' * 450}/{number}": number for number in range(KEYS)})
        for number in range(COMMITS):
            work["n"] = number
            work.commit(info={"message": "y" * 16_000})
    return where


def peak_of(store, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        check=True, text=True, timeout=6 * TIMEOUT_S, env=environment(store),
    )  # fmt: skip
    return int(done.stderr.split()[-1])


SLOW = [
    ["ls", "-z", "directory/"],
    ["count", "directory/"],
    ["diff", OLDEST, "--stat"],
    ["export"],
    ["log", "--json"],
]


@pytest.mark.parametrize(
    "arguments",
    [
        ["ls"], ["diff", OLDEST, "--values"], ["log", "--graph", "--oneline"],
        *[pytest.param(arguments, marks=pytest.mark.slow) for arguments in SLOW],
    ],
    ids=" ".join,
)  # fmt: skip
def test_memory_does_not_follow_the_output(large, arguments):
    assert peak_of(large, *arguments) < BOUND_BYTES


def test_sorting_breaks_the_bound(large):
    """The control: the bound is one that a list of the keys breaks."""
    assert peak_of(large, "ls", "--sort") > BOUND_BYTES
