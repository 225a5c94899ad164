"""The demo runs, checks itself, leaves a store, and is careful about where."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import unicodedata
from pathlib import Path

import pytest

import kvgit_hamt as kvgit
from kvgit_hamt import demo
from kvgit_hamt.__main__ import main
from kvgit_hamt.demo_data import ALL_COUNT, MIN_COUNT, changes, code_of, count_wrong, differing, key_of
from kvgit_hamt.demo_report import Progress, Report, bar, bytes_text, time_text

ROOT = Path(__file__).parents[2]
COUNT = 0x3000
OLD_TAG = "unicode-3.2.0"
NEW_TAG = f"unicode-{unicodedata.unidata_version}"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run(directory, count=COUNT, is_fresh=False, err=None):
    out, err = io.StringIO(), err or io.StringIO()
    return demo.run(str(directory), count, is_fresh, (out, err)), out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    directory = tmp_path_factory.mktemp("demo") / "store"
    return directory, *run(directory)


# what it prints


def test_every_check_holds_and_the_exit_code_is_zero(done):
    _, code, out, _ = done
    assert code == 0
    assert "FAILED" not in out
    claimed = int(re.search(r"All (\d+) checks hold", out)[1])
    assert out.count("   ok: ") == claimed >= 14


def test_the_report_has_every_step_with_its_figures(done):
    _, _, out, _ = done
    assert len(re.findall(r"^\d+\. ", out, re.M)) == 8
    assert out.count("   time ") == 8
    for word in ("keys ", "nodes written ", "bytes written ", "shared "):
        assert word in out


def test_the_report_shows_history_conflict_and_merge(done):
    _, _, out, _ = done
    assert "decimal: 2 before, None after" in out
    assert "theirs aliases ['LATIN CAPITAL LETTER GHA']" in out
    assert "aliases now ['GHA', 'LATIN CAPITAL LETTER GHA']" in out


def test_progress_is_a_few_plain_lines_where_there_is_no_terminal(done):
    _, _, _, err = done
    assert 1 <= len(err.splitlines()) <= 8
    assert "\r" not in err


def test_progress_is_a_bar_on_a_terminal_and_is_wiped():
    stream = Terminal()
    progress = Progress(stream)
    assert list(progress.over("counting", range(3), 3)) == [0, 1, 2]
    assert "counting" in stream.getvalue()
    assert stream.getvalue().endswith("\r\x1b[K")


def test_progress_may_go_by_a_position_in_the_items():
    stream = Terminal()
    assert list(Progress(stream).over("reading", [50], 100, lambda item: item)) == [50]
    assert " 50%" in stream.getvalue()


def test_what_a_stream_cannot_encode_does_not_stop_the_report():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="")
    Report(stream).line("A\u00e4")
    stream.seek(0)
    assert stream.read() == "A?\n"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1_000, "1.0 kB"), (999_949, "999.9 kB"), (999_950, "1.0 MB")],
)
def test_bytes_are_shown_in_units(count, text):
    assert bytes_text(count) == text


def test_times_are_shown_in_units():
    assert (time_text(0.0123), time_text(1.5)) == ("12.3 ms", "1.50 s")


def test_a_bar_shows_even_the_smallest_count():
    assert bar((1, 0, 1_000), 1_000) == "+" + "~" * 30


# what it leaves


def test_the_store_holds_both_databases_and_the_merge(done):
    directory, *_ = done
    with kvgit.Repo(directory) as repo:
        assert set(repo.branches) == {"main", "aliases"}
        assert set(repo.tags) == {"demo", OLD_TAG, NEW_TAG}
        old, new = repo.snapshot(tag=OLD_TAG), repo.snapshot(tag=NEW_TAG)
        assert count_wrong(old.items(), unicodedata.ucd_3_2_0, COUNT) == 0
        assert count_wrong(new.items(), unicodedata, COUNT) == 0
        head = repo.get_commit("main")
        assert head.parents[1] == repo.branches["aliases"]
        assert repo.snapshot()["Lu/01A2"]["aliases"] == ["GHA", "LATIN CAPITAL LETTER GHA"]
        assert new["Lu/0041"]["name"] == "LATIN CAPITAL LETTER A"


@pytest.mark.skipif(shutil.which("sh") is None, reason="the snippet is for a shell")
def test_what_it_says_to_try_next_works(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    code, out, _ = run("my store", MIN_COUNT)
    assert code == 0
    commands = out.partition("What to try next:\n")[2]
    snippet = commands.partition("\nAgain, in the same directory: ")[0]
    again = commands.partition("\nAgain, in the same directory: ")[2]
    for _ in range(2):
        shown = subprocess.run(["sh", "-c", snippet], capture_output=True, text=True, check=True).stdout
        assert "characters then" in shown
        assert shown.rstrip().endswith("DiffStat(added=0, removed=0, modified=1)")
    command = again.strip() + f" --code-points {MIN_COUNT}"
    assert subprocess.run(["sh", "-c", command], capture_output=True, check=False).returncode == 0


# where it goes


def test_a_directory_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    for is_fresh in (False, True):
        code, out, err = run(tmp_path, is_fresh=is_fresh)
        assert (code, out) == (demo.REFUSED, "")
        assert "name a new directory" in err
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_store_that_is_not_its_own_is_refused_even_with_fresh(tmp_path):
    with kvgit.open(tmp_path / "mine") as work:
        work["a"] = 1
        work.commit()
    for is_fresh in (False, True):
        assert run(tmp_path / "mine", is_fresh=is_fresh)[0] == demo.REFUSED
    with kvgit.open(tmp_path / "mine") as work:
        assert work["a"] == 1


def test_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    assert run(tmp_path / "file")[0] == demo.REFUSED


def test_its_own_earlier_store_is_replaced_only_with_fresh(tmp_path):
    assert run(tmp_path, MIN_COUNT)[0] == 0
    code, _, err = run(tmp_path, MIN_COUNT)
    assert code == demo.REFUSED
    assert "--fresh" in err
    assert run(tmp_path, MIN_COUNT, is_fresh=True)[0] == 0


def test_its_own_store_with_a_foreign_file_beside_is_not_removed(tmp_path):
    assert run(tmp_path, MIN_COUNT)[0] == 0
    (tmp_path / "notes").write_text("")
    assert run(tmp_path, MIN_COUNT, is_fresh=True)[0] == demo.REFUSED


@pytest.mark.parametrize("count", [0, MIN_COUNT - 1, ALL_COUNT + 1])
def test_too_few_or_too_many_code_points_are_refused(tmp_path, count):
    assert run(tmp_path / "store", count)[0] == demo.REFUSED
    assert not (tmp_path / "store").exists()


# that its checks check


def test_a_failed_check_makes_the_exit_code_one_and_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "count_wrong", lambda *_: 1)
    code, out, _ = run(tmp_path, MIN_COUNT)
    assert code == demo.FAILED
    assert "4 of" in out
    assert "checks FAILED" in out


def test_wrong_missing_and_surplus_keys_are_counted():
    full = dict(demo.entries(unicodedata, MIN_COUNT))
    assert count_wrong(full.items(), unicodedata, MIN_COUNT) == 0
    assert (
        count_wrong((full | {"Lu/0041": {}}).items(), unicodedata, MIN_COUNT) == 2
    )  # one wrong, one missing
    assert count_wrong((full | {"Xx/0041": full["Lu/0041"]}).items(), unicodedata, MIN_COUNT) == 1
    del full["Lu/0041"]
    assert count_wrong(full.items(), unicodedata, MIN_COUNT) == 1


def test_changes_lead_from_the_old_database_to_the_new_one():
    state = dict(demo.entries(unicodedata.ucd_3_2_0, COUNT))
    for key, record in changes(COUNT):
        if record is None:
            del state[key]
        else:
            state[key] = record
    assert state == dict(demo.entries(unicodedata, COUNT))


def test_keys_and_code_points_are_each_others_inverse():
    assert key_of("Lu", 0x41) == "Lu/0041"
    assert code_of(key_of("Co", 0x10FFFD)) == 0x10FFFD


def test_differing_names_what_only_one_side_has():
    assert differing({"a": 1, "b": 2}, {"b": 3, "c": 4}) == [("a", 1, None), ("b", 2, 3), ("c", None, 4)]


# the command line


def test_the_command_line_makes_demo_store_where_one_is(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--code-points", str(MIN_COUNT)]) == 0
    assert (tmp_path / "demo-store" / "data.mdb").exists()
    assert "checks hold" in capsys.readouterr().out


def test_an_error_of_the_store_is_one_line(tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise kvgit.StoreFullError("no space left")

    monkeypatch.setattr(demo, "run", fail)
    assert main(["demo", str(tmp_path)]) == demo.FAILED
    assert capsys.readouterr().err == "demo: no space left\n"


def test_an_interrupt_ends_it_without_a_traceback(tmp_path, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run", interrupt)
    assert main(["demo", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "\ndemo: interrupted\n"


@pytest.mark.slow
def test_the_whole_database(tmp_path):
    code, out, _ = run(tmp_path / "store", ALL_COUNT)
    assert code == 0, out
    assert "234,737 keys; No/00B2 has decimal 2" in out
