"""branch, tag, reset: output, JSON, error cases."""

from __future__ import annotations

import re

import pytest


def test_branches_are_listed(filled):
    assert filled("branch").lines == ["dev", "main"]
    assert [re.sub(r"[0-9a-f]{8}", "#", line) for line in filled("branch", "-v").lines] == [
        "dev   #  on dev", "main  #  third",
    ]  # fmt: skip
    dev, main = filled("branch", "--json").records
    assert (dev["name"], dev["message"], dev["time"]) == ("dev", "on dev", "2026-01-03T00:00:00+00:00")
    assert main["commit"] == filled.head()


def test_a_branch_is_made_at_any_revision(filled):
    first = filled("log", "--json").records[2]["id"]
    filled("branch", "old", "main~2")
    assert filled.head("old") == first
    filled("branch", "same")
    assert filled.head("same") == filled.head()
    filled("branch", "of-dev", "-b", "dev")
    assert filled.head("of-dev") == filled.head("dev")
    filled("branch", "by-id", first[:8])
    assert filled.head("by-id") == first


def test_a_branch_is_renamed_deleted_and_brought_back(filled):
    dev = filled.head("dev")
    filled("branch", "-m", "dev", "feature")
    assert filled("branch").lines == ["feature", "main"]
    assert f"was {dev[:8]}" in filled("branch", "-d", "feature").err
    filled("branch", "feature", "feature@{1}")
    assert filled.head("feature") == dev
    filled("branch", "-d", "feature", "main")
    assert filled("branch").lines == []


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        (["dev"], 4, "already"),
        (["new", "nothing"], 3, "no branch, tag or commit"),
        (["a b"], 2, "holds a space"),
        (["--delete", "nobody"], 3, "no branch 'nobody'"),
        (["-d"], 2, "branch -d NAME"),
        (["-m", "dev"], 2, "-m OLD NEW"),
        (["-m", "dev", "main"], 4, "already"),
        (["-m", "nobody", "x"], 3, "nobody"),
        (["a", "main", "c"], 2, "NAME [AT]"),
    ],
)
def test_what_cannot_be_done_with_branches(filled, given, code, words):
    before = filled("branch", "--json").out
    assert words in filled("branch", *given, code=code).err
    assert filled("branch", "--json").out == before


def test_tags_are_made_and_listed(filled):
    filled("tag", "plain", "main~1")
    assert filled("tag").lines == ["plain", "v1"]
    assert [re.sub(r"[0-9a-f]{8}", "#", line) for line in filled("tag", "-v").lines] == [
        "plain  #",
        "v1     #  a release",
    ]
    plain, v1 = filled("tag", "--json").records
    assert plain["commit"] == v1["commit"]
    assert (plain["info"], v1["info"]) == (None, {"message": "a release"})


def test_a_tag_is_renamed_and_deleted(filled):
    filled("tag", "--move", "v1", "v1.0")
    assert filled("tag", "--json").record["info"] == {"message": "a release"}
    filled("tag", "-d", "v1.0")
    assert filled("tag").lines == []


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        (["v1"], 4, "never move"),
        (["v2", "nothing"], 3, "no branch, tag or commit"),
        (["--bad"], 2, "No such option"),
        (["a..b"], 2, ".."),
        (["-d", "nobody"], 3, "no tag 'nobody'"),
        (["--move", "v1"], 2, "OLD NEW"),
    ],
)
def test_what_cannot_be_done_with_tags(filled, given, code, words):
    assert words in filled("tag", *given, code=code).err
    assert filled("tag").lines == ["v1"]


def test_reset_moves_the_branch_and_tells_where_it_was(filled):
    old = filled.head()
    done = filled("reset", "v1")
    assert f"was {old[:8]}" in done.err
    assert filled("get", "motd").text == "hello\n"
    assert "already" in filled("reset", "v1").err
    record = filled("reset", "@{1}", "--json").record
    assert record == {"branch": "main", "old": filled("tag", "--json").record["commit"], "new": old}
    filled("reset", "-b", "dev", "main")
    assert filled.head("dev") == old


def test_reset_to_nothing(filled):
    assert "hint:" in filled("reset", "nothing", code=3).err
    assert "3 first parents" in filled("reset", "main~9", code=3).err
    assert "no branch 'gone'" in filled("reset", "-b", "gone", "main", code=3).err
    assert "Missing argument" in filled("reset", code=2).err
