"""merge, cherry-pick, revert: output, JSON, error cases; conflicts settled in a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import stat
import subprocess
import termios
import time

import pytest

import kvgit_hamt as kvgit
from tests.support.cli import PROGRAM, TIMEOUT_S, environment


@pytest.fixture
def contested(filled):
    """dev and main both changed motd; each also changed a directory of its own, and both one of lang/."""
    filled(
        "apply", "-", "-b", "dev", input='{"key": "motd", "value": "dev"}\n{"key": "lang/x", "value": 1}\n'
    )
    filled("apply", "-", input='{"key": "lang/x", "value": 2}\n{"key": "lang/y", "value": 3}\n')
    return filled


# merge


def test_a_merge_takes_over_what_the_other_side_changed(filled):
    before = [filled.head(), filled.head("dev")]
    assert "merged dev" in filled("merge", "dev").err
    commit = filled("log", "-n", "1", "--json").record
    assert commit["parents"] == before
    assert commit["info"] == {"message": "Merge dev into main"}
    assert filled("get", "user/2", "motd").text == "Grace\nbye\n"
    assert "nothing to do" in filled("merge", "dev").err


def test_a_merge_of_what_is_ahead_moves_the_branch_unless_told_otherwise(filled):
    filled("branch", "old", "v1")
    done = filled("merge", "-b", "old", "main", "--json").record
    assert (done["strategy"], done["commit"]) == ("fast_forward", filled.head())
    filled("reset", "-b", "old", "v1")
    filled("merge", "-b", "old", "main", "--no-ff", "-m", "kept apart")
    assert filled("log", "old", "-n", "1", "--json").record["info"] == {"message": "kept apart"}


def test_a_dry_run_tells_and_changes_nothing(filled, contested):
    before = contested.head()
    done = contested("merge", "dev", "--dry-run", code=4)
    assert done.lines == [
        "a merge commit: 1 key(s) taken over, 0 settled, 2 contested",
        "conflict lang/x", "  base    (no such key)", "  ours    2", "  theirs  1",
        "conflict motd", '  base    "hello"', '  ours    "bye"', '  theirs  "dev"',
    ]  # fmt: skip
    assert contested.head() == before
    assert contested("merge", "dev", "-n", "-X", "ours").lines == [
        "a merge commit: 1 key(s) taken over, 2 settled, 0 contested"
    ]
    contested("branch", "old", "v1")
    assert contested("merge", "-b", "old", "-n", "v1~0").lines == ["all of v1~0 is in old already"]
    assert contested("merge", "-b", "old", "-n", "dev").lines == [
        "the branch would just move: 3 key(s) taken over, 0 settled, 0 contested"
    ]
    assert contested("merge", "v1", "-n").lines == ["all of v1 is in main already"]
    record, *conflicts = contested("merge", "dev", "-n", "--json", code=4).records
    assert (record["dry_run"], record["conflicts"]) == (True, 2)
    assert conflicts[0] == {"conflict": "lang/x", "ours": 2, "theirs": 1}


def test_conflicts_change_nothing_and_are_listed(contested):
    before = contested.head()
    done = contested("merge", "dev", code=4)
    assert "conflict motd" in done.err
    assert "2 key(s) changed on both sides; nothing was changed" in done.err
    assert "hint: settle them" in done.err
    assert done.out == b""
    records = contested("merge", "dev", "--json", code=4).records
    assert [record["conflict"] for record in records] == ["lang/x", "motd"]
    assert contested.head() == before


def test_many_conflicts_are_cut_short_on_stderr(kvh):
    kvh("branch", "dev")
    for name in ("main", "dev"):
        kvh(
            "apply",
            "-",
            "-b",
            name,
            input="".join(f'{{"key": "k{i}", "value": "{name}"}}\n' for i in range(50)),
        )
    done = kvh("merge", "dev", code=4)
    assert done.err.count("conflict k") == 20
    assert "and 30 more" in done.err


def test_prefixes_and_favors_settle(contested):
    contested("merge", "dev", "--theirs", "lang/", "-X", "ours")
    assert contested("get", "lang/x", "motd").text == "1\nbye\n"
    assert contested("count", "lang/").text == "1\n"  # theirs has all that lies there: lang/y is gone
    contested("reset", "@{1}")
    done = contested("merge", "dev", "--ours", "lang/", "-X", "theirs", "--json").record
    assert done["settled"] == ["lang/x", "motd"]
    assert contested("get", "lang/x", "lang/y", "motd").text == "2\n3\ndev\n"


def test_merges_that_cannot_be(contested, tmp_path):
    assert "both sides" in contested("merge", "dev", "--ours", "a", "--theirs", "a", code=2).err
    assert "named 'nothing'" in contested("merge", "nothing", code=3).err
    assert "no branch 'gone'" in contested("merge", "-b", "gone", "dev", code=3).err


# cherry-pick and revert


def test_cherry_pick_carries_commits_over(contested):
    contested("cherry-pick", "dev~1", "--time", "none")
    commit = contested("log", "-n", "1", "--json").record
    assert commit["info"] == {"message": "on dev"}
    assert contested("get", "user/2").text == "Grace\n"
    assert "nothing to do" in contested("cherry-pick", "dev~1").err


def test_cherry_pick_stops_at_a_conflict(contested):
    done = contested("cherry-pick", "dev~1", "dev", code=4)
    assert "picked" in done.err
    assert "cherry-pick of dev on main" in done.err
    assert contested("get", "user/2").text == "Grace\n"
    contested("cherry-pick", "dev", "-X", "theirs", "-m", "taken")
    assert contested("get", "motd").text == "dev\n"
    assert contested("show", "--json").records[0]["info"] == {"message": "taken"}


def test_nothing_is_carried_over_if_one_is_not_there(contested):
    before = contested.head()
    contested("cherry-pick", "dev~1", "nothing", code=3)
    assert contested.head() == before


def test_revert_undoes_a_commit(filled):
    third = filled.head()
    record = filled("revert", "main", "--json").record
    assert record["commit"] == filled.head()
    assert filled("get", "motd").text == "hello\n"
    assert filled("log", "-n", "1", "--json").record["info"] == {"message": "Revert: third", "revert": third}


def test_merges_are_reverted_by_a_mainline(filled):
    filled("merge", "dev")
    assert "mainline" in filled("revert", "main", code=2).err
    filled("revert", "main", "--mainline", "1")
    assert filled("count", "user/").text == "1\n"
    assert "1 to 2" in filled("cherry-pick", "main~1", "--mainline", "3", code=2).err
    assert "initial commit" in filled("revert", "main~5", code=2).err


def test_a_revert_that_clashes(filled):
    filled("set", "motd", "again")
    done = filled("revert", "main~1", code=4)
    assert "conflict motd" in done.err
    assert filled("get", "motd").text == "again\n"


# in a terminal


class Terminal:
    """The program on a terminal of its own, talked to as a person would."""

    def __init__(self, store, *arguments, **env):
        self._near, far = pty.openpty()
        self._process = subprocess.Popen(
            [*PROGRAM, *arguments], stdin=far, stdout=far, stderr=far, env=environment(store, **env),
            start_new_session=True, preexec_fn=_take_terminal,
        )  # fmt: skip
        os.close(far)
        self.text = ""
        self._deadline = time.monotonic() + TIMEOUT_S
        self._again = b""
        self._pressed = 0.0

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._process.kill()
        self._process.wait()
        os.close(self._near)

    def wait_for(self, words, count=1):
        """Read until the words have come so often."""
        while self.text.count(words) < count:
            assert self._read(), f"it ended without {words!r}:\n{self.text}"

    def _read(self):
        """Read what has come; False when the program has ended."""
        while not select.select([self._near], [], [], 0.1)[0]:
            assert time.monotonic() < self._deadline, f"nothing more came:\n{self.text}"
            if self._process.poll() is not None and not select.select([self._near], [], [], 0)[0]:
                return False
            # A signal that comes just before a blocking read is seen only after it: press again.
            if self._again and time.monotonic() > self._pressed + 2:
                self._press()
        try:
            data = os.read(self._near, 4_096)
        except OSError:  # the other end is closed
            return False
        self.text += data.decode(errors="replace").replace("\r\n", "\n")
        return bool(data)

    def type(self, line):
        if line < " ":  # Ctrl-C and the like
            self._again = line.encode()
            self._press()
        else:
            os.write(self._near, line.encode() + b"\n")

    def _press(self):
        self._pressed = time.monotonic()
        os.write(self._near, self._again)

    def end(self):
        """The exit code, when it has ended."""
        while self._read():
            pass
        return self._process.wait(TIMEOUT_S)


def _take_terminal():
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C is a signal


def answers(store, *letters, arguments=("merge", "dev"), **env):
    with Terminal(store, *arguments, **env) as terminal:
        for number, letter in enumerate(letters, 1):
            terminal.wait_for("? for help", number)
            terminal.type(letter)
        code = terminal.end()
    assert "Traceback" not in terminal.text
    return code, terminal.text


def test_conflicts_are_settled_one_by_one_in_a_terminal(contested):
    code, text = answers(contested.directory, "t", "o")
    assert code == 0, text
    assert "[1/2]" in text
    assert "[2/2]" in text
    assert '  theirs  "dev"' in text
    assert contested("get", "lang/x", "motd").text == "1\nbye\n"
    assert contested("log", "-n", "1", "--json").record["info"] == {"message": "Merge dev into main"}


def test_one_answer_may_be_for_all_that_are_left(contested):
    code, text = answers(contested.directory, "T")
    assert code == 0, text
    assert contested("get", "lang/x", "motd").text == "1\ndev\n"


def test_base_and_delete(contested):
    code, text = answers(contested.directory, "d", "b")
    assert code == 0, text
    assert contested("get", "lang/x", "motd", code=3).text == "hello\n"


@pytest.mark.parametrize("letter", ["q", "\x03", "\x04"])
def test_stopping_changes_nothing(contested, letter):
    before = contested.head()
    code, text = answers(contested.directory, "o", letter)
    assert code == 4, text
    assert "nothing was changed" in text
    assert contested.head() == before


def test_help_view_and_nonsense_ask_again(contested):
    code, text = answers(contested.directory, "?", "v", "zzz", "m", "o", "o")
    assert code == 0, text
    assert "only two texts" in text
    assert text.count("t  theirs: as it is") == 2
    assert "--- base" in text


def script(path, body):
    path.write_text("#!/bin/sh\n" + body)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_a_value_is_written_in_an_editor(contested, tmp_path):
    editor = script(
        tmp_path / "editor", 'sleep 0.01; case "$1" in *.json) echo "[1, 2]" ;; *) echo both ;; esac > "$1"\n'
    )
    code, text = answers(contested.directory, "e", "e", EDITOR=editor)
    assert code == 0, text
    with kvgit.Repo(contested.directory) as repo:
        assert (repo.snapshot()["lang/x"], repo.snapshot()["motd"]) == ([1, 2], "both")


def test_what_an_editor_leaves_unusable_is_asked_again(contested, tmp_path):
    editor = script(
        tmp_path / "editor", 'case "$1" in *.json) echo "[1," > "$1" ;; *) echo >> "$1" ;; esac\n'
    )
    code, text = answers(contested.directory, "e", "o", "e", "t", EDITOR=editor)
    assert code == 0, text
    assert "no JSON" in text
    assert "still a conflict marker" in text
    assert contested("get", "lang/x", "motd").text == "2\ndev\n"


def test_two_texts_that_do_not_clash_are_merged_by_lines(kvh):
    kvh("set", "text", "a\nb\nc\nd\ne\n")
    kvh("branch", "dev")
    kvh("set", "text", "A\nb\nc\nd\ne\n")
    kvh("set", "-b", "dev", "text", "a\nb\nc\nd\nE\n")
    code, text = answers(kvh.directory, "m")
    assert code == 0, text
    assert kvh("get", "text", "--raw").text == "A\nb\nc\nd\nE\n"


def test_two_maps_are_merged_by_fields_unless_one_field_changed_on_both_sides(kvh):
    kvh("set", "--json", "a", '{"name": "tea", "price": 2, "old": 1}')
    kvh("set", "--json", "b", '{"name": "pie"}')
    kvh("branch", "dev")
    kvh("set", "--json", "a", '{"name": "tea", "price": 3, "old": 1}')
    kvh("set", "--json", "b", '{"name": "our pie"}')
    kvh("set", "-b", "dev", "--json", "a", '{"name": "iced tea", "price": 2, "cold": true}')
    kvh("set", "-b", "dev", "--json", "b", '{"name": "their pie"}')
    code, text = answers(kvh.directory, "m", "m", "t")
    assert code == 0, text
    assert "name" in text.partition("[2/2]")[2]  # which field clashes
    values = [record["value"] for record in kvh("get", "a", "b", "--json").records]
    assert values == [{"name": "iced tea", "price": 3, "cold": True}, {"name": "their pie"}]


def test_hostile_values_do_not_reach_the_terminal(kvh):
    kvh("branch", "dev")
    kvh("set", "key\x1b[2J", "ours\x1b[31m")
    kvh("set", "-b", "dev", "key\x1b[2J", "theirs\x07")
    code, text = answers(kvh.directory, "v", "o")
    assert code == 0, text
    assert "\x1b[2J" not in text
    assert "\x1b[31mours" not in text
    assert "\x07" not in text


def test_a_cherry_pick_asks_too_and_no_interactive_does_not(contested):
    code, text = answers(contested.directory, "T", arguments=("cherry-pick", "dev"))
    assert code == 0, text
    assert contested("get", "motd").text == "dev\n"
    contested("reset", "@{1}")
    code, text = answers(contested.directory, arguments=("merge", "dev", "--no-interactive"))
    assert code == 4, text


def test_an_answer_holds_only_for_what_was_shown(contested):
    """Somebody changes a contested key while the question stands: it is asked again."""
    with Terminal(contested.directory, "merge", "dev") as terminal:
        terminal.wait_for("? for help", 1)
        contested("set", "motd", "changed meanwhile")
        terminal.type("T")
        terminal.wait_for("? for help", 2)
        assert "changed meanwhile" in terminal.text
        terminal.type("o")
        assert terminal.end() == 0, terminal.text
    assert contested("get", "lang/x", "motd").text == "1\nchanged meanwhile\n"
