"""init, get, ls, count, sample, set, del, apply: output, JSON, error cases."""

from __future__ import annotations

import json

import pytest

import kvgit_hamt as kvgit
from kvgit_hamt import Codec

# init


def test_init_makes_a_store_once(tmp_path, kvh):
    where = tmp_path / "new"
    assert "made a store" in kvh("init", str(where), "--codec", "bytes").err
    assert "there was a store" in kvh("init", str(where), "--codec", "bytes").err
    with kvgit.Repo(where, codec="bytes") as repo:
        assert list(repo.branches) == ["main"]


def test_init_takes_the_directory_one_is_in_or_the_store_option(tmp_path, kvh, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    kvh("init", KVGIT_HAMT_STORE="")
    assert kvh("ls", KVGIT_HAMT_STORE="").out == b""
    kvh("init", "--store", str(tmp_path / "there"))
    assert kvh("--store", str(tmp_path / "there"), "count").text == "0\n"


def test_init_refuses_another_codec_and_a_directory_of_something_else(tmp_path, kvh, monkeypatch):
    assert (
        "a store of codec 'msgpack', not 'bytes'"
        in kvh("init", str(kvh.directory), "--codec", "bytes", code=2).err
    )
    kvh("init", str(tmp_path / "bytes"), "--codec", "bytes")
    assert "there was a store" in kvh("init", str(tmp_path / "bytes")).err
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("x")
    assert "not empty" in kvh("init", str(tmp_path / "other"), code=7).err
    monkeypatch.chdir(tmp_path / "other")
    assert "hint: name a directory" in kvh("init", code=7, KVGIT_HAMT_STORE="").err


# set and get: how values go in and out


@pytest.mark.parametrize(
    ("given", "value"),
    [
        (["text"], "text"),
        (["5"], "5"),
        (["--json", "5"], 5),
        (["--json", "null"], None),
        (["--json", '"5"'], "5"),
        (["--json", '{"b": [1, 2.5], "a": {"$bytes": "AP8="}}'], {"a": b"\0\xff", "b": [1, 2.5]}),
        (["--json", '{"$float": "-inf"}'], float("-inf")),
        (["--json", '{"$map": [[1, "one"], ["$x", null]]}'], {1: "one", "$x": None}),
        (["--bytes", "raw"], b"raw"),
        ([""], ""),
    ],
)
def test_values_are_set_as_text_json_or_bytes_and_come_back(kvh, given, value):
    kvh("set", "key", *given)
    with kvgit.Repo(kvh.directory) as repo:
        found = repo.snapshot()["key"]
    assert (type(found), found) == (type(value), value)
    shown = kvh("get", "key", "--json").record
    assert shown["key"] == "key"
    kvh("set", "again", "--json", json.dumps(shown["value"]))
    with kvgit.Repo(kvh.directory) as repo:
        assert repo.snapshot().raw["again"] == repo.snapshot().raw["key"]


def test_a_value_comes_from_a_file_or_stdin_as_bytes_unless_told(kvh, tmp_path):
    path = tmp_path / "value"
    path.write_bytes(b"a\0\xff\n")
    kvh("set", "file", "--file", str(path))
    kvh("set", "stdin", input=b"a\0\xff\n")
    kvh("set", "dash", "--file", "-", "--text", input="dash\n")
    kvh("set", "json", "--file", "-", "--json", input="[1]\n")
    assert kvh("get", "file").out == kvh("get", "stdin").out == b"a\0\xff\n"
    assert kvh("get", "dash", "--json").record["value"] == "dash\n"
    assert kvh("get", "json", "--json").record["value"] == [1]


def test_get_prints_text_bytes_and_json_and_raw_has_no_line_end(kvh):
    kvh("set", "text", "two\nlines\x1b[1m")
    kvh("set", "number", "--json", "[1, 2]")
    kvh("set", "bytes", "--bytes", "xy")
    assert kvh("get", "text").out == b"two\nlines\x1b[1m\n"  # no terminal: as it is
    assert kvh("get", "text", "--raw").out == b"two\nlines\x1b[1m"
    assert kvh("get", "number").out == b"[1, 2]\n"
    assert kvh("get", "number", "--raw").out == b"[1, 2]"
    assert kvh("get", "bytes").out == b"xy"
    assert kvh("get", "number", "bytes").out == b"[1, 2]\nxy"


def test_get_names_what_is_absent_and_prints_the_rest(filled):
    done = filled("get", "nobody", "motd", code=3)
    assert done.text == "bye\n"
    assert "there is no key nobody in main" in done.err
    assert "hint:" in done.err


def test_get_of_an_older_state_and_another_branch(filled):
    assert filled("get", "motd", "--at", "v1").text == "hello\n"
    assert filled("get", "motd", "--at", "main~1").text == "hello\n"
    assert filled("get", "motd", "--at", "@{1}").text == "hello\n"
    assert filled("get", "-b", "dev", "user/2").text == "Grace\n"
    assert filled("get", "user/2", KVGIT_HAMT_BRANCH="dev").text == "Grace\n"
    assert "no branch, tag or commit is named 'v9'" in filled("get", "motd", "--at", "v9", code=3).err


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["key", "1", "--file", "x"], "given twice"),
        (["key", "--json", "{"], "no JSON"),
        (["key", "--json", "NaN"], "NaN is not JSON"),
        (["key", "--json", '{"$odd": 1}'], "is none of"),
        (["key", "--json", '{"$repr": "x"}'], "not the object"),
        (["key", "--json", str(1 << 70)], "beyond 64 bits"),
        (["k" * 70_000, "x"], "65,535"),
    ],
)
def test_values_and_keys_that_cannot_be_are_refused(kvh, given, words):
    assert words in kvh("set", *given, code=2).err
    assert kvh("count").text == "0\n"


def test_what_looks_like_an_option_goes_behind_two_dashes(kvh):
    assert "put -- before" in kvh("set", "n", "-5", code=2).err
    kvh("set", "n", "--json", "--", "-5")
    assert kvh("get", "n").text == "-5\n"


def test_a_file_that_is_not_there_is_told(kvh):
    assert "No such file" in kvh("set", "key", "--file", "/nowhere/x", code=3).err


def test_set_on_a_branch_that_is_not_there(kvh):
    done = kvh("set", "-b", "dev", "key", "1", code=3)
    assert "no branch 'dev'" in done.err
    assert "hint: `kvh branch`" in done.err


def test_set_says_nothing_on_stdout_and_nothing_at_all_when_quiet(kvh):
    done = kvh("set", "a", "1")
    assert (done.out, done.err[:5]) == (b"", "main ")
    assert kvh("set", "a", "2", "-q").err == ""
    assert "nothing to commit" in kvh("set", "a", "2").err


def test_message_info_and_time_are_kept_in_the_commit(kvh):
    kvh("set", "a", "1", "-m", "why", "--info", "author=Ada", "--info", "x=a=b", "--time", "2026-01-31 12:00")
    commit = kvh("log", "-n", "1", "--json").record
    assert commit["info"] == {"message": "why", "author": "Ada", "x": "a=b"}
    assert commit["time"] == "2026-01-31T12:00:00+00:00"
    kvh("set", "a", "2", "--time", "none")
    assert kvh("log", "-n", "1", "--json").record["time"] is None
    assert "NAME=VALUE" in kvh("set", "a", "3", "--info", "author", code=2).err
    assert "no time" in kvh("set", "a", "3", "--time", "soon", code=2).err


# codecs


def test_a_store_of_bytes_takes_text_as_utf8(tmp_path, kvh):
    kvh("init", str(tmp_path / "bytes"), "--codec", "bytes")
    at = ("--store", str(tmp_path / "bytes"))
    kvh("set", *at, "a", "é")
    kvh("set", *at, "b", "--file", "-", input=b"\0\1")
    assert kvh("get", *at, "a").out == "é".encode()
    assert kvh("get", *at, "b", "--json").record["value"] == {"$bytes": "AAE="}
    assert "cannot hold this int" in kvh("set", *at, "c", "--json", "1", code=2).err


class Trap:
    """A pickle of it fails the test when it is read."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was read",)


def test_pickles_are_read_only_when_asked_for(tmp_path, kvh):
    where = tmp_path / "pickles"
    with kvgit.open(where, codec="pickle") as work:
        work["plain"] = ("a", 1)
        work.commit()
        work["trap"] = Trap()
        work.commit()
    at = ("--store", str(where))
    assert kvh("ls", *at).lines
    assert "not decoded" in kvh("get", *at, "plain").text
    assert set(kvh("get", *at, "trap", "--json").record["value"]) == {"$stored"}
    for command in (["ls", "--long"], ["diff", "main~1", "--values"], ["show", "--values"], ["sample"]):
        assert "not decoded" in kvh(command[0], *at, *command[1:]).text
    assert "--unpickle" in kvh("set", *at, "x", "1", code=2).err
    assert kvh("get", *at, "plain", "--unpickle", "--json").record["value"] == {"$repr": "('a', 1)"}
    kvh("set", *at, "x", "text", "--unpickle")
    assert kvh("get", *at, "x", "--unpickle").text == "text\n"
    line = kvh("get", *at, "plain", "--json").text  # stored bytes pass through, undecoded
    kvh("apply", *at, "-", input=line.replace("plain", "copy"))
    with kvgit.Repo(where, codec="pickle") as repo:
        assert repo.snapshot()["copy"] == ("a", 1)


def test_a_codec_of_ones_own_is_looked_at_but_not_written(tmp_path, kvh):
    where = tmp_path / "own"
    with kvgit.open(where, codec=Codec("rot", lambda text: text.encode()[::-1], bytes)) as work:
        work["a"] = "abc"
        work.commit()
    assert kvh("get", "--store", str(where), "a", "--raw").out == b"cba"
    assert "'rot'" in kvh("set", "--store", str(where), "b", "1", code=2).err


# ls, count, sample


def test_ls_lists_keys_and_prefixes(filled):
    assert sorted(filled("ls").lines) == ["motd", "user/1"]
    assert filled("ls", "--sort", "--at", "dev").lines == ["motd", "user/1", "user/2"]
    assert filled("ls", "user/").lines == ["user/1"]
    assert filled("ls", "nothing/").lines == []
    assert filled("ls", "user/", "--json").record == {"key": "user/1"}
    assert filled("ls", "-z", "user/").out == b"user/1\0"


def test_ls_long_shows_size_type_and_value(filled):
    assert filled("ls", "--long", "--sort").lines == [
        '        4  text    motd  "bye"',
        '       10  map     user/1  {"name": "Ada"}',
    ]
    assert filled("ls", "--long", "user/", "--json").record == {
        "key": "user/1", "size_bytes": 10, "type": "map", "value": {"name": "Ada"},
    }  # fmt: skip
    filled("set", "long", "x" * 1_000)
    (line,) = [line for line in filled("ls", "--long").lines if "long" in line]
    assert line.endswith("…")
    assert len(line) < 120


HOSTILE = [
    "line\nend",
    "tab\t",
    "\x1b[31mred",
    "\u202eright",
    '"quoted"',
    " space ",
    "",
    "\x85",
    "\x00nul",
    "é",
    "日",
]


def test_hostile_keys_and_values_are_shown_escaped(kvh):
    lines = [json.dumps({"key": key, "value": key}) for key in HOSTILE]
    kvh("apply", "-", input="\n".join(lines))
    for arguments in (
        ["ls"],
        ["ls", "--long"],
        ["diff", "main~1", "--values"],
        ["show", "--values"],
        ["sample", "100"],
    ):
        text = kvh(*arguments).text
        assert all(char.isprintable() or char == "\n" for char in text), arguments
        assert '"line\\nend"' in text
        assert "é" in text
    assert {record["key"] for record in kvh("ls", "--json").records} == set(HOSTILE)
    assert {record["value"] for record in kvh("ls", "--long", "--json").records} == set(HOSTILE)
    assert set(kvh("ls", "-z").out.decode().split("\0")[:-1]) == set(HOSTILE) - {"\x00nul"} | {"", "nul"}
    assert len(kvh("ls").lines) == len(HOSTILE)


def test_count(filled):
    assert filled("count").text == "2\n"
    assert filled("count", "user/", "--at", "dev").text == "2\n"
    assert filled("count", "user/", "--json").record == {"prefix": "user/", "count": 1}
    assert "named 'v9'" in filled("count", "--at", "v9", code=3).err


def test_sample_draws_by_a_seed(kvh):
    kvh("apply", "-", input="".join(f'{{"key": "k{i}", "value": {i}}}\n' for i in range(100)))
    first = kvh("sample", "5", "--seed", "1", "--json")
    assert len(first.records) == 5
    assert first.out == kvh("sample", "5", "--seed", "1", "--json").out
    assert first.out != kvh("sample", "5", "--seed", "2", "--json").out
    assert len(kvh("sample").lines) == 10
    assert len(kvh("sample", "1000").lines) == 100
    assert "not in the range" in kvh("sample", "--", "-1", code=2).err


# del


def test_del_is_one_commit_and_nothing_if_a_key_is_absent(filled):
    before = filled.head()
    done = filled("del", "motd", "nobody", code=3)
    assert "no key nobody on main; nothing was changed" in done.err
    assert filled.head() == before
    assert "deleted 2 key(s)" in filled("del", "motd", "--prefix", "user/", "-m", "gone").err
    assert filled("count").text == "0\n"
    assert filled("log", "-n", "1", "--json").record["info"] == {"message": "gone"}
    assert filled("get", "motd", "--at", "main~1").text == "bye\n"
    assert filled("del", "nobody", "--force", "--json").record["removed"] == 0
    assert "no key was named" in filled("del", code=2).err


# apply


def test_apply_makes_one_commit_of_a_file(filled, tmp_path):
    path = tmp_path / "changes.jsonl"
    path.write_text(
        '{"key": "a", "value": [1]}\n\n{"key": "motd", "delete": true}\n{"key": "user/1", "value": 2}\n'
    )
    dry = filled("apply", str(path), "--dry-run")
    assert dry.lines == ["+ a  [1]", '- motd  "bye"', '~ user/1  {"name": "Ada"} -> 2']
    assert "would be 1 added, 1 removed, 1 modified" in dry.err
    before = filled.head()
    done = filled("apply", str(path), "-m", "all", "--json").record
    assert (done["added"], done["removed"], done["modified"]) == (1, 1, 1)
    assert filled("log", "-n", "1", "--json").record["parents"] == [before]
    assert "nothing to commit" in filled("apply", str(path), "-m", "again").err


def test_a_diff_can_be_applied_elsewhere(filled):
    patch = filled("diff", "v1", "dev", "--json", "--values").out
    filled("apply", "-", input=patch)
    assert filled("get", "user/2").text == "Grace\n"
    assert filled("diff", "dev", "--name-only").lines == ["motd"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "no JSON"),
        ("[1]", "a change is a map"),
        ('{"key": 1, "value": 1}', "a change is a map"),
        ('{"key": "a"}', "either"),
        ('{"key": "a", "value": 1, "delete": true}', "either"),
        ('{"key": "a", "kind": "modified"}', "--values"),
        ('{"key": "a", "valeu": 1}', "unknown field 'valeu'"),
        ('{"key": "a", "value": {"$odd": 1}}', "is none of"),
        ('{"key": "a", "value": NaN}', "not JSON"),
        ('{"key": "\\ud800", "value": 1}', "lone surrogate"),
        ("[" * 100_000, "nested too deep"),
    ],
)
def test_a_malformed_line_is_named_and_nothing_is_changed(filled, line, words):
    before = filled.head()
    done = filled("apply", "-", input='{"key": "fine", "value": 1}\n' + line, code=6)
    assert "line 2" in done.err
    assert words in done.err
    assert filled.head() == before


def test_apply_of_a_file_that_is_not_there(filled):
    assert "No such file" in filled("apply", "/nowhere/x", code=3).err


@pytest.mark.parametrize(
    "arguments",
    [
        ["set", "a", "b"],
        ["del", "motd"],
        ["apply", "-"],
        ["import", "-", "--format", "jsonl"],
        ["import", "-", "--format", "jsonl", "--every", "1"],
        ["merge", "dev"],
        ["cherry-pick", "dev"],
        ["revert", "main"],
    ],
)
def test_every_command_that_commits_takes_a_time(filled, arguments):
    """A time may be a word that needs the store's clock, before anything else has opened the store."""
    for when in ("2026-03-04", "none", "yesterday"):
        filled(*arguments, "--time", when, input='{"key": "x", "value": 1}\n')
        made = filled("log", "-n", "1", "--json").record["time"]
        assert (made is None) == (when == "none")
        assert when != "2026-03-04" or made.startswith("2026-03-04")
        filled("reset", "main@{1}")
