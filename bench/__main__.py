"""The benchmark: the same workloads on this library and its rivals, side by side.

For each size and repeat, every rival is run in turn, each phase of it in a process of its own. The raw
samples go to a JSON file; tables and plots are made of it as ``python -m bench.report`` does.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import machine, report
from bench.adapters import RIVALS, find
from bench.measure import run_watched
from bench.plan import FULL, QUICK

RESULTS = Path(__file__).parent / "results"
OPENS = 5  # new processes of open + get in one turn
ROOT = Path(__file__).parents[1]
PROBE = "import json; from bench.adapters import find; a = find({name!r}); print(json.dumps(a.versions()))"
IMPORT = "import time; t = time.perf_counter(); import {names}; print(time.perf_counter() - t)"


def size_of(text: str) -> int:
    """10k, 1m, 2_000 -> a number."""
    scale = {"k": 1_000, "m": 1_000_000}.get(text[-1:].lower(), 1)
    return int(text.rstrip("kKmM")) * scale


def env_of(rival: str) -> dict[str, str]:
    """The environment in which a rival runs: the kernel is chosen by it."""
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
    }
    env["KVGIT_HAMT_PURE"] = "0" if rival == "compiled" else "1"
    return env


def probe(rival: str) -> tuple[dict[str, str], str | None]:
    """Versions of a rival, or why it cannot be measured here."""
    command = [sys.executable, "-c", PROBE.format(name=rival)]
    done = subprocess.run(command, env=env_of(rival), capture_output=True, text=True, check=False)
    if done.returncode:
        return {}, done.stderr.strip().splitlines()[-1]
    found: dict[str, str] = json.loads(done.stdout)
    return found, None


def measure_import(rival: str) -> list[float]:
    """Milliseconds of importing what a rival needs, in new processes."""
    names = ", ".join(find(rival).modules)
    if not names:
        return []
    command = [sys.executable, "-c", IMPORT.format(names=names)]
    out = []
    for _ in range(OPENS):
        done = subprocess.run(command, env=env_of(rival), capture_output=True, text=True, check=True)
        out.append(float(done.stdout) * 1e3)
    return out


class Session:
    """One call of the benchmark: what it measures, and what it has found so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.samples: list[dict[str, Any]] = []
        self.unsupported: dict[str, dict[str, str]] = {}
        self.failures: list[dict[str, Any]] = []
        self.skipped: dict[str, str] = {}
        self.versions: dict[str, dict[str, str]] = {}
        self.limits = {name: limit for name, (_, _, limit) in RIVALS.items() if limit is not None}
        for text in options.limit:
            name, _, size = text.partition("=")
            self.limits[name] = size_of(size)
        self.started = time.time()
        self.once: dict[str, str] = {}
        self.head: dict[str, Any] = {}

    def say(self, text: str) -> None:
        """Progress."""
        print(f"[{time.time() - self.started:7.1f} s] {text}", file=sys.stderr, flush=True)

    def find_rivals(self) -> list[str]:
        """Those that are installed; the others are named."""
        out = []
        for name in self.options.rivals:
            versions, reason = probe(name)
            if reason is None:
                self.versions[name] = versions
                out.append(name)
            else:
                self.skipped[name] = reason
                self.say(f"{name} is skipped: {reason}")
        return out

    def phase(self, rival: str, count: int, turn: int, phase: str, path: Path) -> bool:
        """Run one phase; False if it failed, which ends the rival's turn."""
        command = [
            sys.executable,
            "-m",
            "bench.worker",
            rival,
            phase,
            "--keys",
            str(count),
            "--path",
            str(path),
        ]
        if self.options.quick:
            command.append("--quick")
        done, peak_kib = run_watched(command, env_of(rival))
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            self.failures.append({"rival": rival, "keys": count, "phase": phase, "reason": reason})
            self.say(f"{rival} failed in {phase}: {reason}")
            return False
        result = json.loads(done.stdout.splitlines()[-1])
        if phase == "load" and peak_kib:
            result["samples"]["load_memory"] = [max(0, peak_kib - result["baseline_kib"])]
        for workload, values in result["samples"].items():
            row = {"rival": rival, "keys": count, "turn": turn, "workload": workload}
            self.samples.append({**row, "samples": [round(value, 6) for value in values]})
        for workload, reason in result["unsupported"].items():
            self.unsupported.setdefault(rival, {})[f"{workload} at {count:,}"] = reason
        return True

    def turn(self, rival: str, count: int, turn: int, root: Path) -> None:
        """All phases of one rival, unless it was too slow for being repeated."""
        place = f"{rival} at {count:,}"
        if place in self.once:
            return
        path = root / rival
        start = time.time()
        steps = [("load_sorted", root / "sorted"), ("load", path), *[("open", path)] * OPENS]
        steps += [(phase, path) for phase in ("read", "write", "fast")]
        for phase, where in steps:
            good = self.phase(rival, count, turn, phase, where)
            if where != path:
                shutil.rmtree(where, ignore_errors=True)
            if not good and phase == "load":
                break
        shutil.rmtree(path, ignore_errors=True)
        taken = time.time() - start
        self.say(f"{count:>10,} keys, turn {turn + 1}, {rival}: {taken:.1f} s")
        if taken > self.options.slow_s and turn + 1 < self.options.repeats:
            self.once[place] = f"a turn takes {taken:.0f} s"

    def run(self, root: Path, out: Path) -> None:
        """Everything, in turn; the file is written after each size and turn."""
        rivals = self.find_rivals()
        self.head = {
            "format": 1,
            "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "revision": revision(),
            "machine": machine.describe(root, self.options.note),
            "plan": asdict(QUICK if self.options.quick else FULL),
            "repeats": self.options.repeats,
            "limits": self.limits,
            "versions": self.versions,
            "titles": {name: find(name).title for name in rivals},
            "how": {name: find(name).how for name in rivals},
            "skipped": self.skipped,
        }
        for rival in rivals:
            if times := measure_import(rival):
                row = {"rival": rival, "keys": 0, "turn": 0, "workload": "import"}
                self.samples.append({**row, "samples": [round(value, 6) for value in times]})
        for count in self.options.sizes:
            for turn in range(self.options.repeats):
                for rival in rivals:
                    if count <= self.limits.get(rival, count):
                        self.turn(rival, count, turn, root)
                self.save(out)

    def save(self, out: Path) -> None:
        """Write what was found so far."""
        tail = {
            "seconds": round(time.time() - self.started),
            "once": self.once,
            "unsupported": self.unsupported,
            "failures": self.failures,
            "samples": self.samples,
        }
        out.parent.mkdir(parents=True, exist_ok=True)
        fields = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in (self.head | tail).items()]
        fields[-1] = '"samples": [\n' + ",\n".join(map(json.dumps, self.samples)) + "\n]"
        out.write_text("{\n" + ",\n".join(fields) + "\n}\n")


def revision() -> str | None:
    """The commit of this checkout, with a + if files differ from it."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--exclude=*", "--dirty=+"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--sizes", type=size_of, nargs="+", default=[10_000, 100_000, 1_000_000], metavar="N")
    parser.add_argument("--rivals", nargs="+", choices=list(RIVALS), default=list(RIVALS), metavar="NAME")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="NAME=N",
        help="the most keys a rival is given; by default "
        + ", ".join(f"{name} {limit:,}" for name, (_, _, limit) in RIVALS.items() if limit),
    )
    parser.add_argument(
        "--slow-s", type=float, default=120.0, help="a rival whose turn takes longer is not repeated"
    )
    parser.add_argument("--quick", action="store_true", help="little of everything: does it run at all?")
    parser.add_argument("--note", default="", help="about the machine, kept with the samples")
    parser.add_argument(
        "--dir", type=Path, help="where the stores lie while they are measured (default: temporary)"
    )
    parser.add_argument("--out", type=Path, help="the JSON file (default: bench/results/, named by the date)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Measure, and write the samples."""
    options = parse(argv)
    session = Session(options)
    if options.quick and options.out is None:
        options.out = Path(tempfile.gettempdir()) / "kvgit-hamt-bench" / "quick.json"
    today = datetime.datetime.now(datetime.timezone.utc).date()
    out: Path = options.out or RESULTS / f"{today}.json"
    with tempfile.TemporaryDirectory(prefix="kvgit-hamt-bench-", dir=options.dir) as name:
        session.run(Path(name), out)
    session.say(f"{len(session.samples)} rows of samples, {len(session.failures)} failures: {out.name}")
    if any(row["keys"] for row in session.samples):
        report.main([str(out)])
    return 1 if session.failures else 0


if __name__ == "__main__":
    sys.exit(main())
