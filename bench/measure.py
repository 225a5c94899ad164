"""Clocks and meters: seconds, memory of a process and its children, bytes written, bytes on disk."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

POLL_S = 0.01  # between two looks at the memory of a running load


def seconds(work: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def repeated(work: Callable[[], object], most: int, budget_s: float) -> list[float]:
    """Seconds of each of up to ``most`` calls: as the budget allows, three if five budgets allow them."""
    samples: list[float] = []
    spent_s = 0.0
    while len(samples) < most and spent_s < (budget_s if len(samples) >= 3 else 5 * budget_s):
        samples.append(seconds(work))
        spent_s += samples[-1]
    return samples


def allocated_bytes(path: Path) -> int:
    """Bytes that the files at or under a path take on disk."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):  # a temporary file that has just gone
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return total


def written_bytes() -> int | None:
    """Bytes that this process and its finished children passed to write calls; None where not counted.

    The count of bytes that reach storage is no use here: it takes a small write for all of the large folio
    that it falls into. No rival writes through a memory map.
    """
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar"))


def anonymous_kib(pid: int | str = "self") -> int:
    """Memory of a process that is not a file's pages; its peak of all where /proc is missing."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak // 1024 if sys.platform == "darwin" else peak
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")), 0)


def _family(pid: int) -> list[int]:
    """A process and its living descendants."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            found += map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())
    return found


def run_watched(command: list[str], env: dict[str, str]) -> tuple[subprocess.CompletedProcess[str], int]:
    """Run a process to its end; what it said, and the peak of its and its children's anonymous KiB."""
    peak = 0
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None:
            if sys.platform == "linux":
                peak = max(peak, sum(map(anonymous_kib, _family(process.pid))))
            try:
                process.wait(POLL_S)
            except subprocess.TimeoutExpired:
                continue
        out, err = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, out, err), peak
