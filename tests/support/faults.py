"""File calls that fail, devices that fill up, and programs that live with them.

A case runs in a child process: the library that fails calls (faults.c) is loaded before it, and a file
system that is mounted for it goes away with its mount namespace.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from enum import IntFlag
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 900  # for a child that should be done in a minute; one that waits longer has hung


class Calls(IntFlag):
    """Which file calls a fault is for; see faults.c."""

    DATA = 1
    META = 2
    SYNC = 4
    COPY = 8
    SIDE = 16
    GROW = 32


class Faults:
    """The preloaded library, in the child that it was loaded into."""

    def __init__(self) -> None:
        library = ctypes.CDLL(None)
        self._arm = library.fault_arm
        self._arm.argtypes = [ctypes.c_int, ctypes.c_long, ctypes.c_int, ctypes.c_int]
        self._seen, self._failed = library.fault_seen, library.fault_failed
        self._seen.restype = self._failed.restype = ctypes.c_long

    def arm(self, calls: Calls, nth: int, code: int = 0, *, stays: bool = False) -> None:
        """Fail the n-th call from now on, or with ``stays`` all from there; ``code`` 0 cuts a write short."""
        self._arm(int(calls), nth, code, int(stays))

    def count(self, calls: Calls) -> None:
        """Count from now on, and let all pass."""
        self._arm(int(calls), 0, 0, 0)

    def disarm(self) -> tuple[int, int]:
        """Let all pass; how many calls there were, and how many of them failed."""
        found = int(self._seen()), int(self._failed())
        self._arm(0, 0, 0, 0)
        return found


def build(directory: Path) -> Path:
    """Compile the library; the test is skipped where there is no C compiler, or no Linux."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs Linux and a C compiler for the library that fails calls")
    library = directory / "libfaults.so"
    source = Path(__file__).with_name("faults.c")
    command = [compiler, "-O1", "-Wall", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True)
    return library


def run_child(
    module: str,
    *arguments: object,
    preload: Path | None = None,
    prefix: tuple[str, ...] = (),
    environment: Mapping[str, str] | None = None,
) -> Any:
    """Run ``python -m module arguments`` and return the JSON that it prints last.

    Raises:
        AssertionError: it failed or was killed, with what it said.
    """
    settings = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
    if preload is not None:
        settings["LD_PRELOAD"] = str(preload)
    command = [*prefix, sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(
        command, env=settings, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-4000:]}"
    return json.loads(done.stdout.splitlines()[-1])


def mount_namespace() -> tuple[str, ...]:
    """The prefix of a command whose mounts vanish with it; the test is skipped where there is none."""
    prefix = ("unshare", "--mount", "--propagation", "private")
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root, to mount a file system")
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to make a mount namespace")
    return prefix
