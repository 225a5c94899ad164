"""The same contents have the same ids: for any hash seed, order of edits, kernel, backend and Python (T3)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from kvgit_hamt import Memory, Repo
from kvgit_hamt.backend.kv import KvBackend
from kvgit_hamt.path import Shape
from tests.support.faults import ROOT, run_child
from tests.support.same_ids import MOMENT_US, entries, history_of, ids
from tests.support.scale import pick, record

CHILD = "tests.support.same_ids"
PYTHONS = os.environ.get(
    "KVGIT_HAMT_PYTHONS", ""
)  # others that have the library's dependencies, by os.pathsep
VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14")


@pytest.mark.parametrize("orders", [6, pytest.param(0, marks=pytest.mark.slow)])
def test_every_order_of_edits_leads_to_the_same_ids(tmp_path, orders):
    orders = orders or pick(32, 1_000)
    found = {tuple(ids(order)) for order in range(orders)}
    assert len(found) == 1
    assert found == {tuple(ids(1, str(tmp_path / "store")))}
    record("T3 orders", orders=orders, different=len(found) - 1)


def test_every_backend_gives_the_same_ids(tmp_path):

    with Repo(KvBackend(Memory()), clock=lambda: MOMENT_US) as repo:
        found = history_of(repo, list(entries().items()), 0)
    assert found == ids(0) == ids(0, str(tmp_path / "store"))


def test_a_changed_value_or_other_parameters_change_the_ids():
    """The control."""
    items = list(entries().items())
    with Repo(None, clock=lambda: MOMENT_US) as repo:
        changed = history_of(repo, [*items[:-1], (items[-1][0], {"deep": False})], 0)
    with Repo(None, clock=lambda: MOMENT_US, shape=Shape(leaf_max=Shape().leaf_max // 2)) as repo:
        shaped = history_of(repo, items, 0)
    assert len({tuple(changed), tuple(shaped), tuple(ids(0))}) == 3


@pytest.mark.parametrize("seeds", [3, pytest.param(0, marks=pytest.mark.slow)])
def test_every_hash_seed_and_both_kernels_give_the_same_ids(tmp_path, seeds):
    wanted = ids(0)
    kernels = set()
    for seed in range(seeds or 21):
        pure = {"KVGIT_HAMT_PURE": "1"} if seed % 2 else {}
        found = run_child(CHILD, seed, environment={"PYTHONHASHSEED": str(seed), **pure})
        assert found["ids"] == wanted
        kernels.add(found["kernel"])
    assert "plain" in kernels
    record("T3 seeds", seeds=seeds or 21, different=0)


def others():
    """Other interpreters on this machine that could run the library."""
    named = [path for path in PYTHONS.split(os.pathsep) if path]
    found = [shutil.which(f"python{version}") for version in VERSIONS]
    return [path for path in [*named, *found] if path]


def version_of(path):
    """Its version, None where the library's dependencies are missing."""
    code = "import sys, lmdb, msgpack, xxhash; print(sys.version_info[:2])"
    done = subprocess.run([path, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def test_other_versions_of_python_give_the_same_ids():
    wanted, seen = ids(0), {str(sys.version_info[:2])}
    for path in others():
        version = version_of(path)
        if version is None or version in seen:
            continue
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [path, "-m", CHILD, "0"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT, check=False)
        assert done.returncode == 0, done.stderr
        assert f'"{wanted[0]}"' in done.stdout, version
        seen.add(version)
    record("T3 Pythons", versions=", ".join(sorted(seen)))
    if len(seen) == 1:
        pytest.skip("no other Python with lmdb, msgpack and xxhash here; name some in KVGIT_HAMT_PYTHONS")
