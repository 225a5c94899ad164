"""Loading a source: one commit or several, runs that were stopped, rows that are wrong, steps."""

from __future__ import annotations

import io
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvgit_hamt import BranchMovedError, PendingChangesError, Repo, Worktree
from kvgit_hamt.errors import InvalidInputError, SourceError
from kvgit_hamt.interchange import (
    Csv,
    Files,
    JsonLines,
    LmdbTable,
    Meter,
    MsgpackStream,
    Source,
    SqliteTable,
    Step,
    load,
    write_csv,
    write_files,
    write_jsonl,
    write_lmdb,
    write_msgpack,
    write_sqlite,
)
from tests.support.scale import pick, record

ROWS = {f"d{n % 7}/{n}": {"n": n, "text": f'a,"{n}\nb', "half": n / 2} for n in range(1_000)}


@pytest.fixture
def work() -> Iterator[Worktree]:
    with Repo() as repo:
        yield repo.worktree()


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same rows in every format."""
    place = tmp_path_factory.mktemp("rows")
    with Repo() as repo:
        full = repo.worktree()
        full.update(ROWS)
        full.commit()
        write_jsonl(full, place / "rows.jsonl")
        write_csv(full, place / "rows.csv")
        write_msgpack(full, place / "rows.msgpack")
        write_lmdb(full, place / "rows.lmdb", values="msgpack")
        write_sqlite(full, place / "rows.db", "rows")
        write_files(full, place / "rows", values="json")
    return place


SOURCES: dict[str, Any] = {
    "jsonl": lambda place: JsonLines(place / "rows.jsonl"),
    "csv": lambda place: Csv(place / "rows.csv", key="key", typed=True),
    "msgpack": lambda place: MsgpackStream(place / "rows.msgpack"),
    "lmdb": lambda place: LmdbTable(place / "rows.lmdb", values="msgpack"),
    "sqlite": lambda place: SqliteTable(place / "rows.db", "rows"),
    "files": lambda place: Files(place / "rows", values="json"),
}
each_format = pytest.mark.parametrize("form", SOURCES)


@each_format
def test_every_format_gives_its_rows_again(work, places, form):
    result = load(work, SOURCES[form](places))
    assert dict(work.items()) == ROWS
    assert (result.rows, result.added, result.commits, result.earlier_rows) == (1_000, 1_000, 1, 0)
    assert result.commit == work.base
    info = work.repo.get_commit(result.commit).info
    assert info is not None
    assert info["import"]["format"] == form
    assert info["import"]["rows"] == 1_000


class Stopped(Exception):
    pass


def stopping(source: Source, at: int) -> Source:
    """The source, which breaks off after some rows."""
    honest = source.rows

    def rows(after: Any = None) -> Iterator[tuple[str, Any]]:
        for number, row in enumerate(honest(after)):
            if number == at:
                raise Stopped
            yield row

    source.rows = rows  # type: ignore[method-assign]
    return source


@each_format
@pytest.mark.parametrize("at", [0, 299, 300, 301, 950])
def test_a_run_that_was_stopped_is_continued(work, places, form, at):
    with pytest.raises(Stopped):
        load(work, stopping(SOURCES[form](places), at), every=100)
    assert len(work) == at // 100 * 100
    result = load(work, SOURCES[form](places), every=100)
    assert (result.earlier_rows, result.rows) == (at // 100 * 100, 1_000 - at // 100 * 100)
    assert dict(work.items()) == ROWS
    assert len(list(work.repo.log())) == 11
    again = load(work, SOURCES[form](places), every=100)
    assert (again.earlier_rows, again.rows, again.commits, again.commit) == (1_000, 0, 0, result.commit)


@each_format
def test_without_every_a_run_that_was_stopped_leaves_nothing(work, places, form):
    before = work.base
    with pytest.raises(Stopped):
        load(work, stopping(SOURCES[form](places), 999))
    assert work.base == before == work.repo.branches["main"]
    assert len(work) == 0


@each_format
def test_a_continued_run_does_not_read_the_rows_before(work, places, form):
    with pytest.raises(Stopped):
        load(work, stopping(SOURCES[form](places), 950), every=900)
    given: list[str] = []
    source = SOURCES[form](places)
    honest = source.rows

    def rows(after: Any = None) -> Iterator[tuple[str, Any]]:
        for row in honest(after):
            given.append(row[0])
            yield row

    source.rows = rows
    load(work, source, every=900)
    assert len(given) == 100


def test_other_commits_in_between_do_not_hide_the_place(work, places):
    with pytest.raises(Stopped):
        load(work, stopping(SOURCES["jsonl"](places), 500), every=100, prefix="in/")
    work["mine"] = 1
    work.commit()
    result = load(work, SOURCES["jsonl"](places), every=100, prefix="in/")
    assert (result.earlier_rows, result.rows) == (500, 500)
    assert len(work.keys(prefix="in/")) == 1_000
    other = load(work, SOURCES["jsonl"](places), every=1_000, prefix="else/")
    assert (other.earlier_rows, other.rows) == (0, 1_000)


@pytest.mark.parametrize("form", ["jsonl", "csv", "lmdb", "sqlite", "files", "msgpack"])
@pytest.mark.parametrize("position", [{}, {"offset": "x"}, {"after": 5, "count": 1}, None])
def test_a_place_that_is_none_is_an_error_not_a_crash(work, places, form, position):
    source = SOURCES[form](places)
    said = {"format": form, "source": source.name, "prefix": "", "options": source.options(), "rows": 1}
    if position is None:  # the right fields, with other things in them
        wrong = {"offset": -5, "count": -1, "proof": b"", "columns": [5], "after": b"\0"}
        position = {name: wrong.get(name) for name in source.position()}
        position["after"] = [{}] if form == "sqlite" else position.get("after")
        position = {name: position[name] for name in source.position()}
    work.commit(info={"import": {**said, "position": position}})
    if form in ("lmdb", "files") and position.get("after") == b"\0":
        load(work, source, every=100)  # a place like any other
        return
    with pytest.raises(SourceError):
        load(work, source, every=100)
    assert load(work, SOURCES[form](places), every=100, restart=True).rows == 1_000


def test_restart_reads_all_again(work, places):
    load(work, SOURCES["jsonl"](places), every=400)
    result = load(work, SOURCES["jsonl"](places), every=400, restart=True)
    assert (result.earlier_rows, result.rows, result.added) == (0, 1_000, 0)


def test_a_file_that_grew_is_read_on_and_another_one_is_refused(work, tmp_path):
    path = tmp_path / "log.jsonl"
    lines = [json.dumps({"key": str(n), "value": n}) + "\n" for n in range(30)]
    path.write_text("".join(lines[:20]))
    load(work, JsonLines(path), every=8)
    path.write_text("".join(lines))
    assert load(work, JsonLines(path), every=8).rows == 10
    path.write_text("".join(reversed(lines)) * 2)
    with pytest.raises(SourceError, match="not the file that an earlier import has begun"):
        load(work, JsonLines(path), every=8)
    path.write_text(lines[0])
    with pytest.raises(SourceError, match="not the file"):
        load(work, JsonLines(path), every=8)
    assert load(work, JsonLines(path), every=8, restart=True).rows == 1


def test_other_options_are_not_mixed_in(work, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n1,2\n3,4\n")
    load(work, Csv(path, key="a"), every=1)
    with pytest.raises(SourceError, match="other options"):
        load(work, Csv(path, key="b"), every=1)


def test_a_pipe_is_read_once_and_never_continued(work, tmp_path):
    data = b"".join(b'{"key":"%d","value":1}\n' % n for n in range(10))
    result = load(work, JsonLines(io.BytesIO(data)), every=4)
    assert (result.rows, result.commits) == (10, 3)
    assert load(work, JsonLines(io.BytesIO(data)), every=4).rows == 10
    with pytest.raises(SourceError, match=r"standard input, in the 4,096 rows from row 1: .*lone surrogate"):
        load(work, JsonLines(io.BytesIO(b'{"key":"\\ud800","value":1}\n')))


def test_info_time_and_prefix(work, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"key":"a","value":1}\n')
    load(work, JsonLines(path), prefix="p/", info={"message": "why"}, time=1.5)
    commit = work.repo.get_commit("main")
    assert work["p/a"] == 1
    assert commit.time is not None
    assert commit.time.timestamp() == 1.5
    assert commit.info == {
        "message": "why", "import": {"format": "jsonl", "source": str(path), "rows": 1},
    }  # fmt: skip


def test_pending_edits_and_other_writers(work, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"key":"a","value":1}\n')
    work["x"] = 1
    with pytest.raises(PendingChangesError):
        load(work, JsonLines(path))
    work.discard()
    other = work.repo.worktree()
    source = JsonLines(path)
    honest = source.rows

    def rows(after: Any = None) -> Iterator[tuple[str, Any]]:
        other["theirs"] = 1
        other.commit()
        yield from honest(after)

    source.rows = rows  # type: ignore[method-assign]
    with pytest.raises(BranchMovedError):
        load(work, source)
    load(work, JsonLines(path))  # takes the head as it is now
    assert set(work) == {"a", "theirs"}


def test_a_value_that_the_codec_cannot_hold_is_found_again(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"key":"a","value":1}\n\n{"key":"b","value":{"x":[99999999999999999999]}}\n')
    with Repo() as repo:
        work = repo.worktree()
        with pytest.raises(SourceError, match=r"a.jsonl, line 3: key 'b'.*beyond 64 bits") as caught:
            load(work, JsonLines(path))
        assert caught.value.at == "line 3"
        assert len(work) == 0
        path.write_text('{"key":"a","value":1}\n{"key":"%s","value":1}\n' % ("x" * 70_000))
        with pytest.raises(SourceError, match=r"line 2: .*70,000 bytes"):
            load(work, JsonLines(path), every=1)
        assert len(work) == 1
    with Repo(codec="bytes") as repo, pytest.raises(SourceError, match=r"line 1: .*codec 'bytes'"):
        load(repo.worktree(), JsonLines(path))


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "1"])
def test_every_is_a_number_of_rows(work, places, every):
    with pytest.raises(InvalidInputError, match="every"):
        load(work, SOURCES["jsonl"](places), every=every)


def test_steps_tell_bytes_then_rows(work, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"key":"{n}","value":{n}}}\n' for n in range(20_000)))
    steps: list[Step] = []
    load(work, JsonLines(path), progress=steps.append, memory_bytes=1 << 20)
    read = [step for step in steps if step.phase == "read"]
    build = [step for step in steps if step.phase == "build"]
    assert len(read) >= 4
    assert {step.unit for step in read} == {"bytes"}
    assert read[-1].done == read[-1].total == path.stat().st_size
    assert [step.done for step in read] == sorted(step.done for step in read)
    assert read[-1].rows == 20_000
    assert {step.unit for step in build} == {"rows"}
    assert build[-1].total == 20_000


def test_the_meter_tells_rate_and_remaining_time():
    times = iter([10.0, 10.0, 12.0, 14.0, 20.0, 21.0])
    meter = Meter(lambda: next(times))
    assert meter.see(Step("read", 0, 0, 100, "bytes")) == (None, None)
    assert meter.see(Step("read", 0, 10, 100, "bytes")) == (None, None)
    assert meter.see(Step("read", 0, 20, 100, "bytes")) == (10.0, 8.0)
    assert meter.see(Step("read", 0, 40, 0, "bytes")) == (10.0, None)
    assert meter.see(Step("build", 0, 50, 100, "rows")) == (None, None)
    assert meter.see(Step("build", 0, 60, 100, "rows")) == (10.0, 4.0)


KILLED = """
import sys
from kvgit_hamt import Repo
from kvgit_hamt.interchange import JsonLines, load
with Repo(sys.argv[1]) as repo:
    tell = lambda step: print(step.rows, flush=True)
    load(repo.worktree(), JsonLines(sys.argv[2]), every=50, progress=tell)
"""


def test_a_killed_import_is_continued_by_another_process(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"key":"{n}","value":{n}}}\n' for n in range(3_000)))
    with Repo(tmp_path / "store"):
        pass
    arguments = [sys.executable, "-c", KILLED, str(tmp_path / "store"), str(path)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 500:
                os.kill(process.pid, signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    with Repo(tmp_path / "store") as repo:
        work = repo.worktree()
        count = len(work)
        assert count % 50 == 0
        assert 450 <= count < 3_000
        result = load(work, JsonLines(path), every=1_000)
        assert result.earlier_rows == count
        assert dict(work.items()) == {str(n): n for n in range(3_000)}


MEASURED = """
import sys, threading, time
from kvgit_hamt import Repo
from kvgit_hamt.interchange import JsonLines, load
peak = 0
done = threading.Event()
def look():
    global peak
    while not done.wait(0.02):
        for line in open("/proc/self/status"):
            if line.startswith("RssAnon"):
                peak = max(peak, int(line.split()[1]))
watch = threading.Thread(target=look, daemon=True)
watch.start()
with Repo(sys.argv[1]) as repo:
    work = repo.worktree()
    if sys.argv[3] == "load":
        load(work, JsonLines(sys.argv[2]))
    else:
        work.update(JsonLines(sys.argv[2]).rows())
        work.commit()
    rows = len(work)
done.set()
watch.join()
# not ru_maxrss, which a process inherits from the one that started it
most = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(rows, peak * 1024, most * 1024)
"""


FEW = 700_000  # lines; enough that holding them all is over the bound


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc")
def test_the_memory_of_an_import_is_bounded(tmp_path):
    """10 M lines under `make soak`, fewer in CI: what is resident stays under 500 MB, whatever the number."""
    count = pick(FEW, 10_000_000)
    path = write_lines(tmp_path / "rows.jsonl", count)
    rows, anonymous, resident = measured(path, "load")
    assert rows == count
    assert anonymous < 300 << 20
    assert resident < 500 << 20
    control_rows, control, _ = measured(write_lines(tmp_path / "few.jsonl", FEW), "update")
    assert control_rows == FEW
    assert control > 300 << 20  # the bound is one that can be missed
    record(
        "IMPORT", rows=count, max_anonymous_bytes=anonymous, max_resident_bytes=resident, control_failed=True
    )


def write_lines(path: Path, count: int) -> Path:
    """So many pairs of about 90 bytes."""
    with path.open("w") as lines:
        for start in range(0, count, 10_000):
            lines.writelines(
                f'{{"key":"user/{n * 7919 % 100_003}/{n:08x}","value":{{"name":"name {n}","n":{n}}}}}\n'
                for n in range(start, start + 10_000)
            )
    return path


def measured(path: Path, how: str) -> tuple[int, int, int]:
    """(rows, peak of anonymous memory, peak of resident memory) of an import in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(path.with_name(f"store-{how}")), str(path), how],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    rows, anonymous, resident = map(int, done.stdout.split())
    return rows, anonymous, resident


def test_rows_of_equal_keys_count_once_and_the_last_wins(work, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("k,v\n" + "".join(f"{n % 3},{n}\n" for n in range(100)))
    result = load(work, Csv(path, key="k", value="v"))
    assert (result.rows, result.added) == (100, 3)
    assert dict(work.items()) == {"0": "99", "1": "97", "2": "98"}


def test_every_makes_the_same_branch_state_as_one_commit(places):
    roots = set()
    for every in (None, 1, 333, 1_000, 5_000):
        with Repo() as repo:
            work = repo.worktree()
            load(work, SOURCES["jsonl"](places), every=every)
            roots.add(repo.get_commit("main").tree)
    assert len(roots) == 1


def test_an_import_reads_no_row_twice_and_none_is_held(work):
    """A source far larger than what may be in memory at once is taken row by row."""
    alive = itertools.count()

    class Counted(Source):
        format = "counted"
        name = "counted"
        can_resume = False
        total = 0
        unit = "rows"

        def rows(self, after: Any = None) -> Iterator[tuple[str, Any]]:
            return ((f"{next(alive)}", b"x" * 100) for _ in range(50_000))

        def position(self) -> dict[str, Any]:
            return {}

        def done(self) -> int:
            return 0

        def at(self) -> str:
            return "somewhere"

    result = load(work, Counted(), memory_bytes=1 << 20)
    assert result.rows == next(alive) == len(work) == 50_000
