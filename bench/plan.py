"""What is measured: the workloads, their units, and how often each is done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """How much of each workload is done in one run; a rival that is slow does less (``budget_s``).

    Attributes:
        budget_s: a repeated step ends after this many seconds, once it has been done three times.
        log_budget_s: the commits for the log are not made if they would take longer.
    """

    gets: int = 20_000
    cold_gets: int = 1_000
    many: int = 1_000
    commits: int = 50
    batch: int = 1_000
    batches: int = 10
    diffs: tuple[int, ...] = (1, 100, 10_000)
    log: int = 1_000
    small_repeats: int = 20
    merges: int = 3
    budget_s: float = 4.0
    log_budget_s: float = 60.0


FULL = Plan()
QUICK = Plan(
    gets=500,
    cold_gets=100,
    many=200,
    commits=5,
    batch=100,
    batches=3,
    diffs=(1, 10, 100),
    log=30,
    small_repeats=3,
    merges=1,
)


@dataclass(frozen=True)
class Workload:
    """One row of the table.

    Attributes:
        name: as in the samples.
        unit: of the samples. "keys/s" is better when larger, every other unit when smaller.
    """

    name: str
    title: str
    unit: str

    @property
    def larger_is_better(self) -> bool:
        """Whether it is a rate."""
        return self.unit == "keys/s"


RATE, MS, BYTES, KIB = "keys/s", "ms", "bytes", "KiB"

WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("load", "bulk load, pairs in random order", RATE),
        Workload("load_sorted", "bulk load, sorted by key first (sort included)", RATE),
        Workload("get_warm", "random get, warm", RATE),
        Workload("get_cold", "random get, first 1,000 after reopening", RATE),
        Workload("get_many", "get_many of 1,000", RATE),
        Workload("commit_1", "commit of 1 key, durable", MS),
        Workload("commit_1_fast", "commit of 1 key, not durable", MS),
        Workload("commit_1000", "commit of 1,000 keys, durable", RATE),
        Workload("diff_1_keys", "diff of 1 change, keys", MS),
        Workload("diff_100_keys", "diff of 100 changes, keys", MS),
        Workload("diff_10000_keys", "diff of 10,000 changes, keys", MS),
        Workload("diff_10000_first", "diff of 10,000 changes, keys, first after the commit", MS),
        Workload("diff_1_values", "diff of 1 change, values", MS),
        Workload("diff_100_values", "diff of 100 changes, values", MS),
        Workload("diff_10000_values", "diff of 10,000 changes, values", MS),
        Workload("merge", "three-way merge of 2 x 1,000 changes", MS),
        Workload("branch", "create a branch", MS),
        Workload("open_get", "open + first get, new process", MS),
        Workload("iterate", "iterate over all pairs", RATE),
        Workload("list_100", "list a directory of 100 keys", MS),
        Workload("log_1000_first", "log of 1,000 commits, first after opening", MS),
        Workload("log_1000", "log of 1,000 commits", MS),
        Workload("disk", "disk after load, a key", BYTES),
        Workload("disk_sorted", "disk after sorted load, a key", BYTES),
        Workload("growth_1", "file growth of a 1-key commit", BYTES),
        Workload("growth_1000", "file growth of a 1,000-key commit, a key", BYTES),
        Workload("written_1", "bytes written by a 1-key commit", BYTES),
        Workload("written_1000", "bytes written by a 1,000-key commit, a key", BYTES),
        Workload("load_memory", "peak memory of the load beyond the data", KIB),
        Workload("open_memory", "memory after open and first get", KIB),
        Workload("import", "import of the library", MS),
    )
}
