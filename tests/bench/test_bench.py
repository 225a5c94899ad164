"""The benchmark runs, checks what it measures, and makes its tables and plots."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from bench import report
from bench.__main__ import main, size_of
from bench.adapters import RIVALS, find
from bench.adapters.base import Unsupported
from bench.adapters.raw_lmdb import RawLmdb
from bench.data import key_of, listed_key, value_of
from bench.measure import allocated_bytes, repeated
from bench.plan import QUICK, WORKLOADS
from bench.results_file import Results, figure_text
from bench.worker import Run, WrongResultError, run_load, run_read

KEYS = 2_000


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """A quick run of those that need nothing installed."""
    out = tmp_path_factory.mktemp("bench") / "samples.json"
    rivals = ["plain", "lmdb", "sqlite3"]
    assert main(["--quick", "--sizes", "2k", "--repeats", "1", "--rivals", *rivals, "--out", str(out)]) == 0
    return out


def test_every_workload_is_measured_on_this_library(samples):
    results = Results.read(samples)
    missing = {
        name for name in WORKLOADS if results.median("plain", 0 if name == "import" else KEYS, name) is None
    }
    assert missing <= {"load_sorted", "disk_sorted", "written_1", "written_1000", "load_memory"}


def test_a_store_without_versions_says_what_it_lacks(samples):
    data = json.loads(samples.read_text())
    for rival in ("lmdb", "sqlite3"):
        lacks = data["unsupported"][rival]
        assert lacks[f"merge at {KEYS:,}"] == lacks[f"diff_1_keys at {KEYS:,}"] == "no versions"
    assert data["failures"] == []


def test_tables_and_plots_are_made_of_the_samples(samples, tmp_path, capsys):
    assert report.main([str(samples), "--out", str(tmp_path)]) == 0
    table = (tmp_path / "table.md").read_text()
    assert capsys.readouterr().out == table == (samples.parent / "table.md").read_text()
    assert table.startswith(report.START) and table.rstrip().endswith(report.END)
    assert "(loss)" in table  # plain Python does not get keys as fast as raw LMDB
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1
    for name in ("compare.svg", "growth.svg"):
        ElementTree.parse(tmp_path / name)


def test_a_rival_that_is_not_installed_is_skipped_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(RIVALS, "sqlite3", ("not_there", "Nobody", None))
    monkeypatch.setattr("bench.__main__.PROBE", "import bench.adapters.not_there # {name}")
    out = tmp_path / "samples.json"
    assert main(["--quick", "--sizes", "2k", "--repeats", "1", "--rivals", "sqlite3", "--out", str(out)]) == 0
    assert "sqlite3 is skipped: ModuleNotFoundError" in capsys.readouterr().err
    assert "sqlite3" in json.loads(out.read_text())["skipped"]


def test_a_rival_that_returns_something_else_is_not_measured(tmp_path):
    class Forgetful(RawLmdb):
        def load(self, pairs):
            super().load([(key, b"" if key == b"user:000000007" else value) for key, value in pairs])

    run_load(Run(Forgetful(tmp_path), 50, QUICK, "load"))
    with pytest.raises(WrongResultError):
        run_read(Run(Forgetful(tmp_path), 50, QUICK, "read"))


def test_keys_have_14_bytes_and_values_64():
    for make in (key_of, listed_key):
        assert len(make(0).encode()) == len(make(99_999_999).encode()) == 14
    assert len(value_of(1)) == 64
    assert len({value_of(1), value_of(2), value_of(1, 1)}) == 3


def test_sizes_and_figures_are_read_and_written():
    assert [size_of(text) for text in ("10k", "1M", "2_000", "7")] == [10_000, 1_000_000, 2_000, 7]
    assert figure_text(1_234_567, "keys/s") == "1.23 M/s"
    assert figure_text(0.0123, "ms") == "12.3 µs"
    assert figure_text(109.3, "bytes") == "109 B"
    assert figure_text(2048, "KiB") == "2 MiB"
    assert figure_text(0, "KiB") == "0"


def test_a_slow_step_is_repeated_less():
    assert len(repeated(lambda: None, 20, 1.0)) == 20
    assert len(repeated(lambda: None, 20, 0.0)) == 0


def test_every_adapter_says_how_it_is_run():
    for name in RIVALS:
        try:
            adapter = find(name)
        except ImportError:
            continue
        assert adapter.title and adapter.how and isinstance(adapter.modules, tuple)


def test_bytes_on_disk_are_those_of_all_files(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_bytes(b"x" * 10_000)
    assert 8_192 <= allocated_bytes(tmp_path) <= 65_536


def test_versions_are_what_the_base_lacks(tmp_path):
    store = RawLmdb(tmp_path)
    for call in (lambda: store.log(1), lambda: store.branch("b"), lambda: store.diff_keys(None, None)):
        with pytest.raises(Unsupported):
            call()


def test_runs_of_one_machine_are_put_together_once(samples, tmp_path):
    data = json.loads(samples.read_text())
    for row in data["samples"]:
        row["keys"] *= 10
    other = tmp_path / "other.json"
    other.write_text(json.dumps(data))
    both = Results.read(samples, other)
    assert both.sizes == [KEYS, 10 * KEYS]
    assert both.main_size == 10 * KEYS
    for keys in both.sizes:
        assert both.median("plain", keys, "load") == Results.read(samples).median("plain", KEYS, "load")
    assert both.median("plain", 0, "import") == Results.read(samples).median("plain", 0, "import")
    with pytest.raises(SystemExit, match="measured twice"):
        Results.read(samples, samples)
