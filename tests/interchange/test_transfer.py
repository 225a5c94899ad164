"""kvh import and export: what they take, say and refuse, on every format."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from pathlib import Path

import lmdb
import pytest

from kvgit_hamt import Repo
from tests.support.cli import PROGRAM, ROOT, Kvh
from tests.support.gitrepos import History, git, new_repository

PEOPLE = "id,name,age\n1,Ada,36\n2,Grace,\n3,Linus,54\n"


@pytest.fixture
def kvh(tmp_path: Path) -> Kvh:
    call = Kvh(tmp_path / "store")
    call("init", str(call.directory))
    return call


@pytest.fixture
def people(tmp_path: Path) -> str:
    path = tmp_path / "people.csv"
    path.write_text(PEOPLE)
    return str(path)


def rows(kvh: Kvh, **how: str) -> dict[str, object]:
    return {row["key"]: row["value"] for row in kvh("export", *how.values()).records}


def test_csv_in_and_json_lines_out(kvh, people):
    done = kvh("import", people, "--key", "id", "--typed", "--prefix", "person/", "-m", "The people")
    assert done.out == b""
    assert "imported 3 row(s), 3 new key(s)" in done.err
    assert rows(kvh) == {
        "person/1": {"name": "Ada", "age": 36}, "person/2": {"name": "Grace", "age": None},
        "person/3": {"name": "Linus", "age": 54},
    }  # fmt: skip
    assert kvh("log", "--json", "-n", "1").record["info"] == {
        "message": "The people", "import": {"format": "csv", "source": people, "rows": 3},
    }  # fmt: skip


def test_what_import_says_as_json(kvh, people):
    record = kvh("import", people, "--key", "id", "--every", "2", "--json").record
    commit = record.pop("commit")
    assert record == {"branch": "main", "rows": 3, "added": 3, "earlier_rows": 0, "commits": 2}
    again = kvh("import", people, "--key", "id", "--every", "2", "--json").record
    assert again == {
        "branch": "main", "commit": commit, "rows": 0, "added": 0, "earlier_rows": 3, "commits": 0,
    }  # fmt: skip
    assert kvh("import", people, "--key", "id", "--every", "2", "--restart", "--json").record["rows"] == 3
    note = kvh("import", people, "--key", "id", "--every", "2").err
    assert "imported 0 row(s) in 0 commits after 3 of earlier runs" in note


def test_pipes(kvh):
    kvh("import", "-", "--format", "jsonl", input='{"key": "a", "value": {"$bytes": "/w=="}}\n')
    out = kvh("export")
    assert out.out == b'{"key":"a","value":{"$bytes":"/w=="}}\n'
    assert out.err == ""
    packed = kvh("export", "-", "--format", "msgpack")
    kvh("branch", "other")
    kvh("import", "-b", "other", "-", "--format", "msgpack", input=packed.out)
    assert kvh("diff", "main", "other", "--exit-code").out == b""
    records = '{"h": "x", "t": 1, "v": 2}\n{"h": "y", "t": 1, "v": 3}\n'
    kvh("import", "-", "--format", "jsonl", "--key", "h", "--key", "t", "--value", "v", input=records)
    assert kvh("get", "x/1", "y/1").lines == ["2", "3"]


@pytest.mark.parametrize(
    ("name", "out", "back"),
    [
        ("a.jsonl", [], []), ("a.msgpack", [], []), ("a.csv", [], ["--key", "key", "--typed"]),
        ("a.tsv", [], ["--key", "key", "--typed"]),
        ("a.lmdb", ["--values", "msgpack"], ["--values", "msgpack"]),
        ("a.db", ["--table", "t"], ["--table", "t"]), ("dir", ["--values", "json"], ["--values", "json"]),
        ("dir/", ["--values", "msgpack"], ["--values", "msgpack"]),
    ],
)  # fmt: skip
def test_every_format_there_and_back(kvh, tmp_path, people, name, out, back):
    kvh("import", people, "--key", "id", "--typed", "--prefix", "p/")
    target = str(tmp_path / name) + ("/" if name.endswith("/") else "")
    said = kvh("export", target, *out)
    assert "exported 3 key(s)" in said.err
    assert said.out == b""
    kvh("branch", "other", "main~1")
    kvh("import", "-b", "other", target, *back)
    assert kvh("diff", "main", "other", "--exit-code").out == b""


def test_exports_of_a_part_and_of_an_old_state(kvh, tmp_path, people):
    kvh("import", people, "--key", "id", "--prefix", "p/")
    kvh("set", "p/1", "changed")
    kvh("set", "other", "x")
    record = kvh(
        "export", str(tmp_path / "a.jsonl"), "--prefix", "p/", "--strip", "--at", "main~2", "--json"
    ).record
    assert {**record, "commit": ""} == {
        "path": str(tmp_path / "a.jsonl"), "format": "jsonl", "rows": 3, "commit": "",
    }  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert sorted(line["key"] for line in lines) == ["1", "2", "3"]
    assert kvh("export", "--format", "csv", "--prefix", "oth", "--key", "k", "--columns", "value").text == (
        "k,value\nother,x\n"
    )


def test_databases_of_others(kvh, tmp_path):
    with sqlite3.connect(tmp_path / "app.sqlite3") as db:
        db.executescript(
            "CREATE TABLE users (id INTEGER PRIMARY KEY, name); INSERT INTO users VALUES (7, 'Ada');"
        )
    db.close()
    kvh("import", str(tmp_path / "app.sqlite3"), "--table", "users", "--value", "name")
    assert kvh("get", "7").text == "Ada\n"
    env = lmdb.open(str(tmp_path / "env"), max_dbs=1)
    with env.begin(write=True) as txn:
        txn.put(b"\xff", b'{"a": 1}', db=env.open_db(b"things", txn=txn))
    env.close()
    kvh("import", str(tmp_path / "env"), "--db", "things", "--hex-keys", "--values", "json")
    assert kvh("get", "ff").text == '{"a": 1}\n'


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.csv"], 3, "there is no"), (["people.csv"], 2, "no column was said to be the key"),
        (["people.csv", "--key", "nope"], 6, "line 1: there is no column 'nope'"),
        (["people.csv", "--format", "jsonl"], 6, "line 1: no JSON"),
        (["pairs.jsonl"], 6, "say which field is the key (--key ..)"),
        (["linked"], 6, "say --links skip or --links follow"),
        (["people.csv", "--key", "id", "--links", "skip"], 2, "--links means nothing for csv"),
        (["people.csv", "--key", "id", "--table", "t"], 2, "--table means nothing for csv"),
        (["people.csv", "--key", "id", "--restart"], 2, "--restart goes with --every"),
        (["people.csv", "--key", "id", "--every", "0"], 2, "0 is not in the range"),
        (["people.csv", "--key", "id", "-b", "none"], 3, "no branch"),
        (["people.csv", "--key", "id", "--delimiter", "::"], 2, "one ASCII character"),
        (["a.txt"], 2, "does not tell its format"), (["-"], 2, "does not tell its format"),
        (["-", "--format", "sqlite"], 2, "not read from stdin"), (["a.db"], 2, "no table was named"),
        (["a.txt", "--format", "jsonl", "--value", "x"], 2, "--value goes with --key"),
        (["a.db", "--table", "t"], 6, "file is not a database"),
    ],
)  # fmt: skip
def test_import_refuses(kvh, tmp_path, people, monkeypatch, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "pairs.jsonl").write_text('{"a": 1}')
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/link").symlink_to("nowhere")
    (tmp_path / "a.db").write_text("no database " * 100)
    before = kvh("log", "--json").lines
    done = kvh("import", *arguments, code=code)
    assert message in done.err
    assert done.out == b""
    assert "Traceback" not in done.err
    assert kvh("log", "--json").lines == before


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["a.db"], 2, "no table was named"), (["-", "--format", "lmdb"], 2, "not written to stdout"),
        (["a.csv", "--at", "none"], 3, "none"), (["there"], 6, "exists"),
        (["a.csv", "--table", "t"], 2, "--table"),
        (["a.weird"], 2, "does not tell its format"), (["a.csv"], 6, "key 'deep': a value of type"),
        (["a.lmdb"], 6, "say --values text"), (["no/where.jsonl"], 3, "cannot be written"),
        (["a.git", "--at", "main~1"], 2, "not one state"),
        (["-", "--format", "git"], 2, "not written to stdout"),
        (["a.git", "--values", "text"], 2, "means nothing for git"), (["a.git"], 6, "is no file"),
    ],
)  # fmt: skip
def test_export_refuses_and_leaves_nothing(kvh, tmp_path, monkeypatch, arguments, code, message):
    place = tmp_path / "place"
    (place / "there").mkdir(parents=True)
    monkeypatch.chdir(place)
    kvh("set", "--json", "deep", "[[1]]")
    done = kvh("export", *arguments, code=code)
    assert message in done.err
    assert done.out == b""
    assert [entry.name for entry in place.iterdir()] == ["there"]


def test_a_repository_with_its_history(kvh, tmp_path):
    path = new_repository(tmp_path / "there")
    history = History()
    one = history.commit((), {b"a": ("100644", b"1")}, b"one\n")
    history.ref("refs/heads/main", history.commit([one], {b"a": ("100644", b"2")}, b"two\n"))
    history.ref("refs/heads/side", one)
    history.tag("v1", one, b"x")
    history.write(path)
    done = kvh("import", str(path))
    assert "imported 2 commit(s), 0 were here; set 2 branch(es) and 1 tag(s)" in done.err
    assert kvh("get", "a", "--at", "v1", "--raw").out == b"1"
    assert [row["info"]["message"] for row in kvh("log", "--json").records] == ["two\n", "one\n"]
    record = kvh("import", str(path), "--json").record
    assert record == {"commits": 0, "earlier": 2, "branches": {}, "tags": {}, "skipped": []}
    kvh("import", str(path), "--into", "up/", "--git-branch", "si*", "--no-tags")
    assert "up/side" in kvh("branch").text
    back = kvh("export", str(tmp_path / "back.git"), "--json").record
    assert (back["commits"], back["same"]) == (2, 2)
    assert git(tmp_path / "back.git", "rev-parse", "v1") == git(path, "rev-parse", "v1")
    kvh("set", "mine", "x")
    refused = kvh("import", str(path), code=4)
    assert "has commits here that git's does not" in refused.err
    assert "(--into ..)" in refused.err
    assert "(--force)" in refused.err
    kvh("import", str(path), "--force")
    assert kvh("get", "mine", code=3).out == b""
    assert "brings its own messages" in kvh("import", str(path), "-m", "x", code=2).err
    assert "no branch 'nope'" in kvh("import", str(path), "--git-branch", "nope", code=2).err


def test_stores_of_pickles_and_of_bytes(kvh, tmp_path, people):
    Repo(tmp_path / "pickled", codec="pickle").close()
    pickled = Kvh(tmp_path / "pickled")
    assert "--unpickle" in pickled("import", people, "--key", "id", code=2).err
    pickled("import", people, "--key", "id", "--unpickle")
    stored = pickled("export").out
    assert b"$stored" in stored
    Repo(tmp_path / "again", codec="pickle").close()
    again = Kvh(tmp_path / "again")
    again("import", "-", "--format", "jsonl", input=stored)
    assert sorted(again("export", "--unpickle").lines) == sorted(pickled("export", "--unpickle").lines)
    Repo(tmp_path / "bytes", codec="bytes").close()
    assert "codec 'bytes' cannot hold" in Kvh(tmp_path / "bytes")("import", people, "--key", "id", code=6).err


def test_an_export_into_head_ends_quietly(kvh, tmp_path):
    lines = "".join(f'{{"key":"{n}","value":"{"x" * 200}"}}\n' for n in range(20_000))
    kvh("import", "-", "--format", "jsonl", input=lines)
    command = " ".join([*PROGRAM, "export", "--store", str(kvh.directory)])
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -n 1; echo ${{PIPESTATUS[0]}}"], capture_output=True, text=True,
        check=True, cwd=ROOT,
    )  # fmt: skip
    assert done.stdout.splitlines()[0].startswith('{"key"')
    assert done.stdout.splitlines()[1] == "141"
    assert done.stderr == ""


def test_branches_that_go_to_git_are_named_or_fit_a_pattern(kvh, tmp_path):
    kvh("set", "a", "text")
    for name in ("release-1", "release-2", "other"):
        kvh("branch", name)
    done = kvh(
        "export", str(tmp_path / "o.git"), "--format", "git", "--git-branch", "rel*", "--git-branch", "main",
        "--json",
    ).record  # fmt: skip
    assert sorted(done["refs"]) == ["refs/heads/main", "refs/heads/release-1", "refs/heads/release-2"]
    for name in ("x*", "x"):
        target = str(tmp_path / "p.git")
        assert "no branch" in kvh("export", target, "--format", "git", "--git-branch", name, code=3).err
