"""The merge of lines has diff3's laws and git's results."""

from __future__ import annotations

import random
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvgit_hamt.textmerge import merge_text

LABELS = ("ours", "theirs")
texts = st.lists(st.sampled_from(["a", "b", "c", "\r", "", "\x0c"]), max_size=8).map("\n".join)


def merge(base, ours, theirs):
    return merge_text(base, ours, theirs, LABELS)


@given(texts, texts)
def test_a_change_on_one_side_or_the_same_on_both_is_taken(base, changed):
    assert merge(base, changed, base) == (changed, 0)
    assert merge(base, base, changed) == (changed, 0)
    assert merge(base, changed, changed) == (changed, 0)


@given(texts, texts, texts)
def test_swapping_the_sides_swaps_only_what_stands_between_markers(base, ours, theirs):
    there, back = merge(base, ours, theirs), merge(base, theirs, ours)
    assert there.conflict_count == back.conflict_count
    if not there.conflict_count:
        assert there == back
    else:
        assert there.text.count("<<<<<<< ours") == there.conflict_count


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "merged"),
    [
        ("a", "b", "c", "<<<<<<< ours\nb\n=======\nc\n>>>>>>> theirs\n"),
        ("", "a\n", "a\nb\n", "a\n<<<<<<< ours\n=======\nb\n>>>>>>> theirs\n"),
        (
            "a\r\nb\r\n",
            "a\r\nx\r\n",
            "a\r\ny\r\n",
            "a\r\n<<<<<<< ours\r\nx\r\n=======\r\ny\r\n>>>>>>> theirs\r\n",
        ),
        ("1\n2\n", "1\nx\n2\n", "1\n2 too\n", "1\n<<<<<<< ours\nx\n2\n=======\n2 too\n>>>>>>> theirs\n"),
    ],
    ids=["no newline at the end", "shared lines stay outside", "CRLF", "touching changes conflict"],
)
def test_conflicts_are_drawn_as_git_draws_them(base, ours, theirs, merged):
    assert merge(base, ours, theirs) == (merged, 1)


def test_a_large_text_with_few_changes_is_merged_quickly():
    lines = [f"line {i % 50}" for i in range(50_000)]
    ours, theirs = lines.copy(), lines.copy()
    ours[25_000], theirs[25_100] = "ours", "theirs"
    merged = merge(*("\n".join(text) for text in (lines, ours, theirs)))
    expected = ours.copy()
    expected[25_100] = "theirs"
    assert merged == ("\n".join(expected), 0)


def _edited(lines, rng, mark):
    """Fresh lines put in, lines dropped and replaced; every line is unique, so a diff has one reading."""
    out = []
    for number, line in enumerate(lines):
        chance = rng.random()
        if chance < 0.08:
            out += [line, f"{mark} put in {number}"]
        elif chance < 0.16:
            out.append(f"{mark} changed {number}")
        elif chance >= 0.22:
            out.append(line)
    return out


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
@pytest.mark.parametrize("ending", ["\n", ""], ids=["newline at the end", "none"])
def test_git_merges_the_same_texts_to_the_same_result(tmp_path, ending):
    rng = random.Random(20261122)
    clean = conflicted = 0
    for _ in range(60):
        base = [f"line {i}" for i in range(rng.randrange(1, 25))]
        sides = [base, _edited(base, rng, "ours"), _edited(base, rng, "theirs")]
        texts = ["\n".join(lines) + (ending if lines else "") for lines in sides]
        for name, text in zip(("base", "ours", "theirs"), texts, strict=True):
            (tmp_path / name).write_text(text, newline="")
        names = ["-L", "ours", "-L", "base", "-L", "theirs", "ours", "base", "theirs"]
        git = subprocess.run(
            ["git", "merge-file", "-p", *names], cwd=tmp_path, capture_output=True, check=False
        )
        merged = merge(*texts)
        assert (git.returncode == 0) == (merged.conflict_count == 0), texts
        if git.returncode == 0:
            clean += 1
            assert merged.text == git.stdout.decode(), texts
        else:
            conflicted += 1
            assert _settled(merged.text, 0) == _settled(git.stdout.decode(), 0), texts
            assert _settled(merged.text, 1) == _settled(git.stdout.decode(), 1), texts
    assert clean > 10 and conflicted > 10


def _settled(text, side):
    """The text with every conflict settled for one side; git may draw its borders elsewhere."""
    out, taking = [], None
    for line in text.splitlines():
        if line.startswith("<<<<<<< "):
            taking = 0
        elif line == "=======":
            taking = 1
        elif line.startswith(">>>>>>> "):
            taking = None
        elif taking in (None, side):
            out.append(line)
    return out
