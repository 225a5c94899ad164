"""What the samples were taken on, without the names of machine, user or paths."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path


def _field(path: str, name: str) -> str | None:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), None)


def file_system_of(path: Path) -> str | None:
    """The kind of file system a path lies on."""
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return None
    best = ("", None)
    for mount in mounts:
        _, point, kind, *_ = mount.split()
        if path.resolve().is_relative_to(point) and len(point) > len(best[0]):
            best = (point, kind)
    return best[1]


def describe(path: Path, note: str) -> dict[str, object]:
    """The machine and the Python that measure, and the load on it as it begins."""
    memory = _field("/proc/meminfo", "MemTotal")
    return {
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor(),
        "cpus": os.cpu_count(),
        "memory_gib": round(int(memory.split()[0]) / 2**20, 1) if memory else None,
        "system": f"{platform.system()} {platform.release().split('-')[0]} {platform.machine()}",
        "file_system": file_system_of(path),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "free_threading": not getattr(sys, "_is_gil_enabled", lambda: True)(),
        "load_average": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "note": note,
    }
