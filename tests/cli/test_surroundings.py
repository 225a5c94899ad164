"""Odd surroundings: streams that are closed, disks that are full, terminals that are not for bytes."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cli import PROGRAM, TIMEOUT_S, Kvh, environment, on_terminal


def in_shell(kvh: Kvh, ending: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """A call with redirections of a shell."""
    script = f'exec "$@" {ending}'
    words = ["sh", "-c", script, "sh", *PROGRAM, *arguments]
    return subprocess.run(
        words, capture_output=True, check=False, timeout=TIMEOUT_S, env=environment(kvh.directory)
    )


@pytest.mark.parametrize("arguments", [["ls"], ["export"], ["log"], ["get", "motd", "--raw"], ["--help"]])
def test_a_closed_stdout_is_none_that_is_read(filled, arguments):
    done = in_shell(filled, ">&-", *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_commands_run_without_any_stream(filled):
    assert in_shell(filled, "<&- >&- 2>&-", "set", "a", "b").returncode == 0
    assert filled("get", "a").text == "b\n"
    assert in_shell(filled, "<&- >&- 2>&-", "get", "absent").returncode == 3
    assert in_shell(filled, "<&-", "set", "a", "--text").returncode == 0
    assert filled("get", "a", "--raw").out == b""


def test_ctrl_c_while_the_program_is_loaded_leaves_no_trace(tmp_path):
    code = (
        "import kvgit_hamt.cli as cli\n"
        "def main(): raise KeyboardInterrupt\n"
        "cli.main = main\n"
        "cli.entry()"
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False, env=environment(tmp_path),
        timeout=TIMEOUT_S,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (130, b"")


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no /dev/full")
def test_a_full_device_is_the_environment_s_fault_and_stays_a_device(filled):
    for arguments in (
        ["export", "/dev/full", "--format", "jsonl"],
        ["export", "/dev/full", "--format", "csv", "--prefix", "user/"],
        ["bundle", "create", "/dev/full"],
    ):
        done = filled(*arguments, code=7)
        assert "No space left" in done.err
        assert "hint: see whether there is room" in done.err
    assert Path("/dev/full").is_char_device()


def limit() -> None:
    """No file may get larger than this, as on a device that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


@pytest.mark.parametrize("name", ["o.jsonl", "o.csv", "o.msgpack", "o.db", "o.kvb"])
def test_an_export_that_finds_no_room_leaves_nothing(kvh, tmp_path, name):
    rows = "".join(f'{{"key": "k{n}", "value": {{"text": "{n:0200}"}}}}\n' for n in range(1_000))
    kvh("import", "-", "--format", "jsonl", input=rows)
    before = sorted(tmp_path.iterdir())
    words = (
        ["bundle", "create"] if name == "o.kvb" else ["export", "--table", "t"][: 3 if name == "o.db" else 1]
    )
    call = [*PROGRAM, *words, str(tmp_path / name)]
    done = subprocess.run(
        call, capture_output=True, check=False, timeout=TIMEOUT_S, env=environment(kvh.directory),
        preexec_fn=limit,
    )  # fmt: skip
    assert done.returncode == 7, done.stderr
    assert b"rollback" not in done.stderr
    assert sorted(tmp_path.iterdir()) == before
    assert subprocess.run(call, check=False, env=environment(kvh.directory)).returncode == 0, "with room"


def test_a_file_that_may_not_be_read_or_is_not_there(filled, tmp_path):
    for name in ("absent.jsonl", "absent.csv"):
        done = filled("import", str(tmp_path / name), "--key", "id", code=3)
        assert "hint: see whether the path is right" in done.err
    (tmp_path / "loop.jsonl").mkdir()
    assert "hint" in filled("import", str(tmp_path / "loop.jsonl"), "--format", "jsonl", code=7).err
    assert "path is right" in filled("export", str(tmp_path / "absent" / "x.jsonl"), code=3).err


def test_bytes_are_kept_from_a_terminal(filled):
    for arguments in (["export", "-", "--format", "msgpack"], ["bundle", "create", "-"]):
        code, shown = on_terminal(filled.directory, *arguments, NO_COLOR="1")
        assert code == 2
        assert "not for a terminal" in shown
    code, shown = on_terminal(filled.directory, "export", NO_COLOR="1")
    assert code == 0
    assert sorted(shown.splitlines()) == sorted(filled("export").lines), "no bar between the lines"


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_an_export_to_a_terminal_holds_no_controls(kvh, form):
    kvh("set", "key", "\x9b31m\u202eé\x1b[2J")
    code, shown = on_terminal(kvh.directory, "export", "--format", form)
    assert code == 0
    assert not set(shown) & set("\x1b\x9b\u202e")
    assert "\\u009b31m\\u202eé\\u001b[2J" in shown
    assert "\x9b31m\u202eé" in kvh("export", "--format", form).text, "as it is, elsewhere"


def test_a_branch_that_is_not_there_is_named(filled):
    for arguments in (["ls"], ["log"], ["get", "motd"], ["show"], ["set", "a", "b"], ["reset", "main"]):
        done = filled(*arguments, "-b", "nope", code=3)
        assert "error: there is no branch 'nope'\n" in done.err
        assert "`kvh branch NAME [AT]` makes one" in done.err
    assert "no branch 'nope'" in filled("show", "@~1", "-b", "nope", code=3).err
    assert "is named 'nope'" in filled("show", "nope~1", code=3).err
    assert "go back" in filled("show", "main~99", code=3).err


def test_values_for_a_codec_that_is_not_in_use_need_it(tmp_path):
    kvh = Kvh(tmp_path / "pickles")
    kvh("init", "--codec", "pickle", str(kvh.directory))
    lines = '{"key": "a", "value": 1}\n'
    assert "give --unpickle" in kvh("import", "-", "--format", "jsonl", input=lines, code=2).err
    (tmp_path / "a.jsonl").write_text(lines)
    assert "give --unpickle" in kvh("import", str(tmp_path / "a.jsonl"), code=2).err
    kvh("import", str(tmp_path / "a.jsonl"), "--unpickle")
    kvh("import", "-", "--format", "jsonl", "--prefix", "b/", input=kvh("export").out)
    assert kvh("get", "b/a", "--unpickle").text == "1\n"


def test_what_a_format_cannot_hold_is_told_with_the_key(tmp_path):
    kvh = Kvh(tmp_path / "pickles")
    kvh("init", "--codec", "pickle", str(kvh.directory))
    kvh("set", "a//b", "x", "--unpickle")
    git = kvh("export", str(tmp_path / "o.git"), "--format", "git", "--values", "json", "--unpickle", code=6)
    assert "key 'a//b'" in git.err
    kvh("del", "a//b")
    kvh("set", "a/b", "x", "--unpickle")
    for name in ("o.csv", "o", "o.lmdb"):
        done = kvh("export", str(tmp_path / name), code=6)
        assert "key 'a/b'" in done.err
        assert "that was not decoded" in done.err
        assert "hint: JSON lines hold stored bytes" in done.err
    shown = kvh("export", str(tmp_path / "o"), "--unpickle", code=6).err
    assert "say --values text, json or msgpack" in shown


def test_errors_speak_of_options_not_of_calls(filled, tmp_path):
    assert filled("branch", "-d", "nope", code=3).err.startswith("error: there is no branch 'nope'\n")
    filled("merge", "dev")
    for verb in ("revert", "cherry-pick"):
        assert "say with --mainline N which parent counts" in filled(verb, "main", code=2).err
    filled("bundle", "create", str(tmp_path / "b"), "dev")
    filled("reset", "-b", "dev", "v1")
    filled("set", "-b", "dev", "x", "1")
    assert "or give --force" in filled("bundle", "load", str(tmp_path / "b"), code=4).err
