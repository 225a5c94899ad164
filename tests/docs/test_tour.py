"""The tour is what a terminal shows when it is taken."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("a shell in a terminal", allow_module_level=True)

from tests.docs.tour import QUESTION, TOUR, blocks, play, stable, surroundings, take
from tests.support.terminal import Screen, Terminal

ROOT = Path(__file__).parents[2]
TEXT = TOUR.read_text(encoding="utf-8")
AGAIN = "the tour shows something else now; `python -m tests.docs.tour` writes it anew"


@pytest.fixture(scope="module")
def taken(tmp_path_factory):
    """(the recording, what a terminal shows), as one text each: ids lead from block to block."""
    pairs = take(TEXT, tmp_path_factory.mktemp("tour"))
    return "".join(block for block, _ in pairs), "".join(shown for _, shown in pairs)


def test_the_tour_is_what_a_terminal_shows(taken):
    told, shown = taken
    assert stable(shown).splitlines() == stable(told).splitlines(), AGAIN


def test_the_tour_goes_from_the_installation_to_a_conflict_that_is_settled_in_a_terminal(taken):
    assert "pip install" in blocks(TEXT)[0]
    assert re.search(r"^\[1/2\] .*\? for help: m$", taken[1], re.M)
    assert re.search(r"^main [0-9a-f]{8}: merged summer, 2 key\(s\) settled$", taken[1], re.M)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (r"Good morning, sunshine", "Good morning"),
        (r"2 key\(s\) settled", "3 key(s) settled"),
        (r"^\| \* ", "* | "),
        (r"(?m)^([0-9a-f]{8}) main@\{0\}", "0badc0de main@{0}"),  # an id that is not the one it was
        (r"(?m)^> END$", ""),
    ],
)
def test_another_recording_would_be_noticed(taken, old, new):
    """The control: what is taken as equal is not everything."""
    told, shown = taken
    other, count = re.subn(old, new, told, count=1, flags=re.M)
    assert count == 1
    assert stable(other) != stable(shown)


def test_a_question_the_tour_does_not_answer_is_an_error(tmp_path):
    with (
        Terminal(tmp_path, {**surroundings(), "QUESTION": QUESTION}) as terminal,
        pytest.raises(AssertionError, match="without an answer"),
    ):
        play(terminal, '$ read -p "$QUESTION"\n', "")


def test_the_screen_shows_what_is_left_of_what_was_written():
    screen = Screen()
    screen.write("one\r\ntwo\x1b[31m red\x1b[0m\r\nbar 10%\rbar 20%\r\x1b[2K\x1b[1A\rTWO\x1b]0;title\x07\r\n")
    screen.write("bar\x1b[?25l\b\bA")
    assert screen.text() == "one\nTWO red\nbAr"
    with pytest.raises(ValueError, match="does not know"):
        screen.write("\x1b[5@")


@pytest.mark.slow
def test_the_tour_can_be_taken_from_its_installation_on(tmp_path):
    """With all that a newcomer types, pip included: it needs a package index, as he does."""
    home = tmp_path / "checkout"
    home.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, home / name)
    leave_out = shutil.ignore_patterns("__pycache__", "*.so", "*.pyd", "*.c")
    shutil.copytree(ROOT / "kvgit_hamt", home / "kvgit_hamt", ignore=leave_out)
    # How this machine reaches a package index, and a python3 that the project supports.
    network = {
        name: value for name, value in os.environ.items() if re.match(r"(?i)pip_|ssl_|.*_proxy$", name)
    }
    settings = Path.home() / ".config/pip/pip.conf"
    if settings.exists():
        network.setdefault("PIP_CONFIG_FILE", str(settings))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python3").symlink_to(Path(sys.base_prefix) / "bin/python3")
    plain = {**surroundings(), **network, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    path = f"{tmp_path / 'bin'}:{plain['PATH']}"
    told = shown = ""
    with Terminal(home, {**plain, "PATH": path}) as terminal:
        for number, block in enumerate(blocks(TEXT)):
            after = play(terminal, block, told)
            if number == 0:  # pip may have something to say
                assert block.splitlines()[-2:] == after.splitlines()[-2:]
                continue
            told, shown = told + block, shown + after
    assert stable(shown).splitlines() == stable(told).splitlines(), AGAIN
