"""log, show, reflog, diff: output, JSON, error cases."""

from __future__ import annotations

import re

import pytest

import kvgit_hamt as kvgit

ID = re.compile(r"\b[0-9a-f]{8}\b")


@pytest.fixture
def merged(filled):
    """dev merged into main."""
    filled("merge", "dev", "--time", "2026-01-05")
    return filled


def without_ids(lines):
    return [ID.sub("########", line) for line in lines]


# log


def test_log_in_full(filled):
    head, v1 = filled.head(), filled("tag", "--json").record["commit"]
    lines = filled("log", "-n", "2").lines
    assert lines == [
        f"commit {head} (main)", "Date:   2026-01-04 00:00:00 UTC", "", "    third", "",
        f"commit {v1} (tag: v1)", "Author: Bo", "Date:   2026-01-02 00:00:00 UTC", "", "    second", "",
    ]  # fmt: skip


def test_log_on_a_line_each(filled):
    assert without_ids(filled("log", "--oneline").lines) == [
        "######## (main) third", "######## (tag: v1) second", "######## first", "######## (initial commit)",
    ]  # fmt: skip


def test_log_as_json_is_what_the_library_says(merged):
    records = merged("log", "--json").records
    with kvgit.Repo(merged.directory) as repo:
        commits = list(repo.log())
    assert [record["id"] for record in records] == [commit.id for commit in commits]
    for record, commit in zip(records, commits, strict=True):
        assert record == {
            "id": commit.id, "parents": list(commit.parents), "generation": commit.generation,
            "time": commit.time and commit.time.isoformat(), "info": commit.info, "codec": "msgpack",
            "tree": commit.tree, "names": record["names"],
        }  # fmt: skip
    assert [record["names"] for record in records] == [["main"], ["dev"], [], ["tag: v1"], [], []] or [
        record["names"] for record in records
    ] == [["main"], [], ["dev"], ["tag: v1"], [], []]


def test_log_as_a_graph(merged):
    assert without_ids(merged("log", "--graph", "--oneline").lines) == [
        "* ######## (main) Merge dev into main",
        "|\\",
        "* | ######## third",
        "| * ######## (dev) on dev",
        "|/",
        "* ######## (tag: v1) second",
        "* ######## first",
        "* ######## (initial commit)",
    ]
    full = merged("log", "--graph", "-n", "1").lines
    assert full[1].startswith("| Merge:  ")
    assert "|     Merge dev into main" in full


def test_log_of_all_branches_and_of_several(filled):
    assert len(filled("log", "--all", "--oneline").lines) == 5
    assert len(filled("log", "main", "dev", "--oneline").lines) == 5
    assert len(filled("log", "dev", "--oneline").lines) == 4
    assert len(filled("log", "-b", "dev", "--oneline").lines) == 4
    assert without_ids(filled("log", "--all", "--graph", "--oneline").lines)[:3] in (
        ["* ######## (main) third", "| * ######## (dev) on dev", "|/"],
        ["* ######## (dev) on dev", "| * ######## (main) third", "|/"],
    )


def test_log_of_a_key_and_of_a_prefix(merged):
    assert [r["info"]["message"] for r in merged("log", "--key", "motd", "--json").records] == [
        "third",
        "first",
    ]
    assert [r["info"]["message"] for r in merged("log", "--prefix", "user/", "--json").records] == [
        "on dev", "second",
    ]  # fmt: skip
    assert without_ids(merged("log", "--prefix", "user/", "--graph", "--oneline").lines) == [
        "* ######## (dev) on dev",
        "* ######## (tag: v1) second",
    ]
    assert merged("log", "--key", "nobody").out == b""


def test_log_between_times(merged):
    def messages(*how):
        return [record["info"]["message"] for record in merged("log", "--json", *how).records]

    assert messages("--since", "2026-01-04") == ["Merge dev into main", "third"]
    assert messages("--until", "2026-01-02") == ["second", "first"]
    assert messages("--since", "2026-01-02", "--until", "2026-01-03T12:00Z") == ["on dev", "second"]
    assert messages("--since", "yesterday") == []
    assert "no time" in merged("log", "--since", "soon", code=2).err


def test_log_stops_early_and_follows_first_parents(merged):
    assert len(merged("log", "-n", "2", "--json").records) == 2
    assert merged("log", "-n", "0").out == b""
    assert len(merged("log", "--first-parent", "--oneline").lines) == 5
    assert without_ids(merged("log", "--first-parent", "--graph", "--oneline").lines)[1][0] == "*"


def test_log_of_nothing_and_graph_with_json(filled):
    assert "named 'nothing'" in filled("log", "nothing", code=3).err
    assert "no branch" in filled("log", "-b", "gone", code=3).err
    assert "--graph" in filled("log", "--graph", "--json", code=2).err


def test_messages_that_control_a_terminal_are_shown_escaped(kvh):
    kvh("set", "a", "1", "-m", "red \x1b[31m\nsecond\tline \u202e", "--info", "x=\x07")
    for arguments in (["log"], ["log", "--oneline"], ["show"], ["log", "--json"], ["branch", "-v"]):
        text = kvh(*arguments).text
        assert all(char.isprintable() or char in "\n\t" for char in text)
        assert "\\u001b" in text


# show


def test_show_a_commit_and_its_changes(filled):
    lines = filled("show").lines
    assert lines[0].startswith("commit ")
    assert lines[-1] == "~ motd"
    assert filled("show", "v1", "--values").lines[-1] == '+ user/1  {"name": "Ada"}'
    assert filled("show", "v1", "--name-only").lines[-1] == "user/1"
    assert filled("show", "v1", "--stat").lines[-1] == " 1 added, 0 removed, 0 modified"
    assert "(initial commit)" in filled("show", "main~3").text


def test_show_as_json_is_the_commit_and_then_its_changes(merged):
    commit, *changes = merged("show", "--json", "--values").records
    assert commit["info"] == {"message": "Merge dev into main"}
    assert changes == [{"key": "user/2", "kind": "added", "new": "Grace"}]


def test_show_a_value_of_a_revision(filled):
    assert filled("show", "v1:motd").text == "hello\n"
    assert filled("show", ":motd").text == "bye\n"
    assert "no key nobody in v1" in filled("show", "v1:nobody", code=3).err
    assert "named 'nothing'" in filled("show", "nothing", code=3).err


# reflog


def test_reflog_lists_moves_and_takes_them_back(filled):
    before = filled.head()
    filled("reset", "v1")
    lines = filled("reflog").lines
    assert lines[0].split()[1] == "main@{0}"
    assert "reset: to" in lines[0]
    first = filled("reflog", "-n", "1", "--json").record
    assert (first["old"], first["number"], first["branch"]) == (before, 0, "main")
    assert filled("reflog", "-n", "0").out == b""
    filled("reset", "main@{1}")
    assert filled.head() == before


def test_reflog_of_a_branch_that_was_deleted_and_of_none(filled):
    filled("branch", "-d", "dev")
    assert "branch: deleted" in filled("reflog", "dev").lines[0]
    assert "no reflog" in filled("reflog", "nobody", code=3).err


# diff


def test_diff_of_two_states(filled):
    assert sorted(filled("diff", "v1", "dev").lines) == ["+ user/2"]
    assert sorted(filled("diff", "dev", "main").lines) == ["- user/2", "~ motd"]
    assert filled("diff", "dev").out == filled("diff", "dev", "main").out == filled("diff", "dev..main").out
    assert filled("diff", "main...dev").lines == ["+ user/2"]
    assert filled("diff", "main~1..").lines == ["~ motd"]


def test_diff_with_values_counts_and_names(filled):
    assert filled("diff", "v1", "--values").lines == ['~ motd  "hello" -> "bye"']
    assert sorted(filled("diff", "dev", "--name-only").lines) == ["motd", "user/2"]
    assert filled("diff", "dev", "--prefix", "user/").lines == ["- user/2"]
    stat = filled("diff", "dev", "--stat").lines
    assert stat == [" .     |       1 ~", " user/ |       1 -", " 0 added, 1 removed, 1 modified"]


def test_diff_as_json(filled):
    assert sorted(filled("diff", "dev", "--json", "--values").records, key=str) == [
        {"key": "motd", "kind": "modified", "old": "hello", "new": "bye"},
        {"key": "user/2", "kind": "removed", "old": "Grace"},
    ]
    assert filled("diff", "v1", "--json").record == {"key": "motd", "kind": "modified"}
    assert filled("diff", "v1", "--json", "--name-only").record == {"key": "motd"}
    assert filled("diff", "v1", "--json", "--stat").record == {
        "added": 0, "removed": 0, "modified": 1,
        "directories": {".": {"added": 0, "removed": 0, "modified": 1}},
    }  # fmt: skip


def test_a_stored_null_is_told_from_an_absent_key(kvh):
    kvh("set", "a", "--json", "null")
    assert kvh("diff", "main~1", "--json", "--values").record == {"key": "a", "kind": "added", "new": None}


def test_diff_tells_by_its_exit_code(filled):
    filled("diff", "v1", "--exit-code", code=1)
    filled("diff", "v1", "--exit-code", "--prefix", "user/")
    filled("diff", "main", "main", "--exit-code")
    filled("diff", "v1", "--stat", "--exit-code", code=1)


def test_diff_of_nothing(filled):
    assert "named 'v9'" in filled("diff", "v9", code=3).err
    assert "compares two" in filled("diff", "a", "b", "c", code=2).err
    assert "Missing argument" in filled("diff", code=2).err


def test_a_stat_of_many_directories_stays_bounded(kvh):
    kvh("apply", "-", input="".join(f'{{"key": "d{i}/x", "value": 1}}\n' for i in range(1_100)))
    found = kvh("diff", "main~1", "--stat", "--json").record
    assert len(found["directories"]) == 1_001
    assert found["directories"]["(others)"]["added"] == 100
