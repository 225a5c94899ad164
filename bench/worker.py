"""One phase of one rival in a process of its own; writes what it measured to standard output as JSON.

A phase works on the store that the phase "load" of the same rival made.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import json
import random
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.adapters import RIVALS, find
from bench.adapters.base import Adapter, Pair, Unsupported
from bench.data import DIRECTORY, DIRECTORY_KEYS, key_of, listed_key, make_pairs, value_of
from bench.measure import allocated_bytes, anonymous_kib, repeated, seconds, written_bytes
from bench.plan import FULL, QUICK, WORKLOADS, Plan

DIFFS = ("diff_1", "diff_100", "diff_10000")


class WrongResultError(Exception):
    """A rival returned something else than what was stored."""


def check(holds: object, what: str) -> None:
    """Nobody is measured for doing nothing."""
    if not holds:
        raise WrongResultError(what)


class Run:
    """One rival's store, the samples taken from it, and what its keys should hold by now."""

    def __init__(self, adapter: Adapter, count: int, plan: Plan, phase: str) -> None:
        self.adapter = adapter
        self.count = count
        self.plan = plan
        self.samples: dict[str, list[float]] = {}
        self.unsupported: dict[str, str] = {}
        self.baseline_kib = 0
        self.rng = random.Random(phase)
        self._version = itertools.count(1 + 1_000_000 * sorted(PHASES).index(phase))
        self._expected: dict[Any, bytes] = {}

    def record(self, workload: str, values: list[float]) -> None:
        """Add samples, in the workload's unit."""
        assert workload in WORKLOADS, workload
        self.samples.setdefault(workload, []).extend(values)

    def record_ms(self, workload: str, times: list[float]) -> None:
        """Add samples that are in seconds."""
        self.record(workload, [time_s * 1e3 for time_s in times])

    def record_rate(self, workload: str, times: list[float], keys: int) -> None:
        """Add samples of so many keys each that are in seconds."""
        self.record(workload, [keys / time_s for time_s in times])

    @contextlib.contextmanager
    def may_lack(self, *workloads: str) -> Iterator[None]:
        """What the rival does not have is noted for these workloads."""
        try:
            yield
        except Unsupported as error:
            for workload in workloads:
                if workload not in self.samples:
                    self.unsupported[workload] = str(error)

    def numbers(self, how_many: int) -> list[int]:
        """Numbers of different keys."""
        return self.rng.sample(range(self.count), min(how_many, self.count))

    def edits(self, numbers: list[int]) -> list[Pair]:
        """New values for these keys."""
        version = next(self._version)
        pairs = [(self.adapter.key(key_of(number)), value_of(number, version)) for number in numbers]
        self._expected.update(pairs)
        return pairs

    def forget(self, pairs: list[Pair]) -> None:
        """These edits were not made after all."""
        for key, _ in pairs:
            self._expected.pop(key, None)

    def expected(self, key: Any) -> bytes | None:
        """The value that a key was given in this phase."""
        return self._expected.get(key)

    def check_edits(self) -> None:
        """What was written last is there after reopening."""
        self.adapter.open()
        get = self.adapter.getter()
        keys = list(self._expected)
        for key in self.rng.sample(keys, min(200, len(keys))):
            check(get(key) == self._expected[key], f"{key!r} after reopening")
        self.adapter.close()


# the phases


def run_load(run: Run) -> None:
    """Load the store, time it, add the directory that is listed."""
    _load(run, run.adapter.load, ("load", "disk"))
    adapter = run.adapter
    pairs = [(adapter.key(listed_key(number)), value_of(number)) for number in range(DIRECTORY_KEYS)]
    adapter.open()
    adapter.commit(pairs)
    adapter.close()


def run_load_sorted(run: Run) -> None:
    """The same with the pairs sorted, into a store that is not used further."""
    with run.may_lack("load_sorted", "disk_sorted"):
        _load(run, run.adapter.load_sorted, ("load_sorted", "disk_sorted"))


def _load(run: Run, load: Callable[[list[Pair]], None], names: tuple[str, str]) -> None:
    adapter = run.adapter
    pairs: list[Pair] = make_pairs(run.count)
    if adapter.takes_bytes:
        pairs = [(adapter.key(key), value) for key, value in pairs]
    adapter.import_library()
    gc.collect()
    run.baseline_kib = anonymous_kib()
    run.record_rate(names[0], [seconds(lambda: load(pairs))], run.count)
    run.record(names[1], [allocated_bytes(adapter.path) / run.count])


def run_open(run: Run) -> None:
    """Open, and look one key up."""
    adapter = run.adapter
    adapter.import_library()
    number = run.numbers(1)[0]
    key = adapter.key(key_of(number))
    gc.collect()
    before_kib = anonymous_kib()
    start = time.perf_counter()
    adapter.open()
    value = adapter.first_get(key)
    taken = time.perf_counter() - start
    run.record("open_memory", [max(0, anonymous_kib() - before_kib)])
    run.record_ms("open_get", [taken])
    check(value == value_of(number), f"first get of {key!r}")
    adapter.close()


def run_read(run: Run) -> None:
    """Gets, iteration, listing."""
    adapter, plan = run.adapter, run.plan
    adapter.open()
    numbers = run.numbers(plan.cold_gets)
    keys = [adapter.key(key_of(number)) for number in numbers]
    start = time.perf_counter()
    values = list(map(adapter.cold_getter(), keys))
    run.record_rate("get_cold", [time.perf_counter() - start], len(keys))
    check(values == list(map(value_of, numbers)), "values of the first gets")
    _read_warm(run)
    _read_all(run)
    listed: list[Any] = []
    run.record_ms(
        "list_100",
        repeated(lambda: listed.append(adapter.list_directory(DIRECTORY)), plan.small_repeats, plan.budget_s),
    )
    wanted = {adapter.key(listed_key(number)) for number in range(DIRECTORY_KEYS)}
    check(len(listed[0]) == DIRECTORY_KEYS and set(listed[0]) == wanted, "the directory's keys")
    adapter.close()


def _read_warm(run: Run) -> None:
    adapter, plan = run.adapter, run.plan
    numbers = [run.rng.randrange(run.count) for _ in range(plan.gets)]
    keys = [adapter.key(key_of(number)) for number in numbers]
    get = adapter.getter()

    def gets() -> None:
        for key in keys:
            get(key)

    gets()
    run.record_rate("get_warm", repeated(gets, 3, plan.budget_s), len(keys))
    check(list(map(get, keys)) == list(map(value_of, numbers)), "values of gets")
    many = run.numbers(plan.many)
    wanted = [adapter.key(key_of(number)) for number in many]
    found = adapter.get_many(wanted)
    check([found[key] for key in wanted] == list(map(value_of, many)), "values of get_many")
    batches = [[adapter.key(key_of(n)) for n in run.numbers(plan.many)] for _ in range(plan.small_repeats)]
    for batch in batches:
        adapter.get_many(batch)
    times = [seconds(lambda batch=batch: adapter.get_many(batch)) for batch in batches]  # type: ignore[misc]
    run.record_rate("get_many", times, len(wanted))


def _read_all(run: Run) -> None:
    last: list[Any] = []

    def walk() -> None:
        last[:] = deque(zip(run.adapter.items(), itertools.count(1), strict=False), maxlen=1)

    run.record_rate("iterate", repeated(walk, 3, run.plan.budget_s), run.count + DIRECTORY_KEYS)
    (key, value), count = last[0]
    check(count == run.count + DIRECTORY_KEYS, f"{count} pairs walked")
    text = key.decode() if isinstance(key, bytes) else key
    check(value == value_of(int(text[-9:])), f"value of {key!r} in a walk")


def run_write(run: Run) -> None:
    """Durable commits and what they add to the disk; diffs; merges; branches."""
    adapter, plan = run.adapter, run.plan
    _commits(run, plan.commits, 1)
    _commits(run, plan.batches, plan.batch)
    adapter.open()
    with run.may_lack(*(f"{name}_{what}" for name in DIFFS for what in ("keys", "values"))):
        for name, size in zip(DIFFS, plan.diffs, strict=True):
            _diff(run, name, size)
    with run.may_lack("merge"):
        for number in range(plan.merges):
            numbers = run.numbers(2 * plan.batch)
            half = len(numbers) // 2
            sides = run.edits(numbers[:half]), run.edits(numbers[half:])
            try:
                adapter.diverge(f"side{number}", *sides)
            except Unsupported:
                run.forget([*sides[0], *sides[1]])
                raise
            run.record_ms("merge", [seconds(lambda: adapter.merge(f"side{number}"))])  # noqa: B023
    with run.may_lack("branch"):
        numbers_left = iter(range(plan.small_repeats))
        run.record_ms(
            "branch",
            repeated(
                lambda: adapter.branch(f"branch{next(numbers_left)}"), plan.small_repeats, plan.budget_s
            ),
        )
    adapter.close()
    run.check_edits()


def _commits(run: Run, how_many: int, size: int) -> None:
    """Time commits of ``size`` keys; their growth and writes from closed store to closed store."""
    adapter, plan = run.adapter, run.plan
    name = "1" if size == 1 else "1000"
    adapter.open()
    adapter.commit(run.edits(run.numbers(size)))
    adapter.close()
    disk, written = allocated_bytes(adapter.path), written_bytes()
    batches = iter([run.edits(run.numbers(size)) for _ in range(how_many)])
    adapter.open()
    times = repeated(lambda: adapter.commit(next(batches)), how_many, plan.budget_s)
    adapter.close()
    for pairs in batches:
        run.forget(pairs)
    if size > 1:
        run.record_rate("commit_1000", times, size)
    elif adapter.syncs:
        run.record_ms("commit_1", times)
    else:
        run.unsupported["commit_1"] = "does not sync"
    total = size * len(times)
    run.record(f"growth_{name}", [(allocated_bytes(adapter.path) - disk) / total])
    now = written_bytes()
    if written is not None and now is not None:
        run.record(f"written_{name}", [(now - written) / total])


def _diff(run: Run, name: str, size: int) -> None:
    adapter, plan = run.adapter, run.plan
    old = adapter.commit(run.edits(run.numbers(1)))
    numbers = run.numbers(size)
    wanted = [adapter.key(key_of(number)) for number in numbers]
    before = {key: run.expected(key) for key in wanted}
    after = run.edits(numbers)
    new = adapter.commit(after)
    keys: list[str] = []
    first = seconds(lambda: keys.extend(adapter.diff_keys(old, new)))
    if name == DIFFS[-1]:
        run.record_ms(f"{name}_first", [first])
    check(sorted(keys) == sorted(key for key, _ in after), f"keys of {name}")
    values = {key: sides for key, *sides in adapter.diff_values(old, new)}
    for key, value in after:
        check(values[key][1] == value, f"new value of {key!r} in {name}")
        known = before[key]
        check(values[key][0] == known if known else len(values[key][0] or b"") == 64, f"old value in {name}")
    most = plan.small_repeats // 2 + 1
    run.record_ms(f"{name}_keys", repeated(lambda: adapter.diff_keys(old, new), most, plan.budget_s))
    run.record_ms(f"{name}_values", repeated(lambda: adapter.diff_values(old, new), most, plan.budget_s))


def run_fast(run: Run) -> None:
    """Commits that do not wait for the disk, and the log over them."""
    adapter, plan = run.adapter, run.plan
    adapter.open(durable=False)
    adapter.commit(run.edits(run.numbers(1)))
    batches = iter([run.edits(run.numbers(1)) for _ in range(plan.commits)])
    times = repeated(lambda: adapter.commit(next(batches)), plan.commits, plan.budget_s)
    run.record_ms("commit_1_fast", times)
    for pairs in batches:
        run.forget(pairs)
    with run.may_lack("log_1000", "log_1000_first"):
        adapter.log(1)
        missing = plan.log - len(times)
        if missing * sorted(times)[len(times) // 2] > plan.log_budget_s:
            raise Unsupported(f"{plan.log:,} commits take over {plan.log_budget_s:.0f} s")
        for _ in range(missing):
            adapter.commit(run.edits(run.numbers(1)))
        adapter.close()
        adapter.open()
        found: list[Any] = []
        run.record_ms("log_1000_first", [seconds(lambda: found.extend(adapter.log(plan.log)))])
        check(len(found) == plan.log and len({str(commit) for commit in found}) == plan.log, "the log")
        run.record_ms("log_1000", repeated(lambda: adapter.log(plan.log), plan.small_repeats, plan.budget_s))
    adapter.close()
    run.check_edits()


PHASES: dict[str, Callable[[Run], None]] = {
    "load": run_load,
    "load_sorted": run_load_sorted,
    "open": run_open,
    "read": run_read,
    "write": run_write,
    "fast": run_fast,
}


def main(argv: list[str] | None = None) -> int:
    """Run a phase."""
    parser = argparse.ArgumentParser(prog="python -m bench.worker", description=__doc__)
    parser.add_argument("rival", choices=list(RIVALS))
    parser.add_argument("phase", choices=list(PHASES))
    parser.add_argument("--keys", type=int, required=True)
    parser.add_argument("--path", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(argv)
    adapter = find(options.rival)(options.path)
    run = Run(adapter, options.keys, QUICK if options.quick else FULL, options.phase)
    PHASES[options.phase](run)
    result = {"samples": run.samples, "unsupported": run.unsupported, "baseline_kib": run.baseline_kib}
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
