"""docs/cli.md is what the program says, and the JSON fields in it are those the commands print."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from kvgit_hamt.cli.reference import PARTS, RECORDS, document
from tests.support.cli import ROOT, TIMEOUT_S, environment

PATH = ROOT / "docs" / "cli.md"


def test_the_document_is_current():
    assert PATH.read_text(encoding="utf-8") == document(), (
        "run: python -m kvgit_hamt.cli.reference > docs/cli.md"
    )


def test_the_command_that_makes_it_does_so(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "kvgit_hamt.cli.reference"], capture_output=True, check=True,
        timeout=TIMEOUT_S, env=environment(tmp_path),
    )  # fmt: skip
    assert done.stdout.decode() == document()


def test_every_option_of_every_command_is_in_it():
    from tests.cli.test_program import COMMANDS

    sections = re.split(r"^### ", document(), flags=re.M)[1:]
    texts = {section.partition("\n")[0]: section for section in sections}
    for name, command in COMMANDS.items():
        for parameter in command.params:
            for option in parameter.opts:
                if option.startswith("-"):
                    assert option in texts[name], (name, option)


def test_the_lines_of_the_introduction_run(tmp_path, monkeypatch):
    done = run_block(tmp_path, document().split("```")[1])
    assert b'"Good morning" -> "Good evening"' in done.stdout


def test_the_lines_of_the_readme_run(tmp_path):
    (tmp_path / "people.csv").write_text("id,name\n7,Grace\n")
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("## From a shell")[2]
    done = run_block(tmp_path, text.split("```")[1])
    assert done.stdout.endswith(b'{"key": "user/1", "value": {"name": "Ada"}}\n')


GIT = (
    "git init -q -b main src/project; cd src/project; git config user.name A; git config user.email a@b; "
    "echo one > f; git add f; git commit -qm one; git tag v1.0; "
    "echo two > f; git commit -qam two; git tag v1.1; cd ../..\n"
)
PREPARED = {
    "bulk-import": "export KVGIT_HAMT_STORE=data\nkvh init\nprintf 'id,name\\n7,Grace\\n' > people.csv\n"
    """printf '{"host":"a","time":"1","x":2}\\n' | gzip > log.jsonl.gz\n""",
    "from-git": "export KVGIT_HAMT_STORE=data\nkvh init\nexport HOME=$PWD\nmkdir src\n" + GIT,
    "move-from-lmdb": f"""{sys.executable} -c "
import lmdb, msgpack
for path, name in (('old-env', None), ('other-env', b'users')):
    with lmdb.open(path, max_dbs=2) as env:
        db = env.open_db(name)
        with env.begin(write=True) as txn:
            txn.put(b'k', msgpack.packb(1), db=db)
"
""",
    "move-from-sqlite": f"""{sys.executable} -c "
import sqlite3
db = sqlite3.connect('app.db')
db.executescript('create table users(id integer primary key, name); insert into users values (7, 1);'
                 'create table settings(k text primary key, value); insert into settings values (1, 2);')
"
""",
}


@pytest.mark.parametrize("name", PREPARED)
def test_the_lines_for_a_shell_in_the_guides_run(tmp_path, name):
    text = (ROOT / f"docs/howto/{name}.md").read_text(encoding="utf-8")
    block = next(part for part in text.split("```") if part.strip().startswith(("kvh ", "export ")))
    run_block(tmp_path, PREPARED[name] + block + "\ntest $(kvh count) -gt 0\n")


def run_block(tmp_path, block):
    """What lines for a shell print; none of them may fail."""
    script = f'set -e\nkvh() {{ {sys.executable} -m kvgit_hamt "$@"; }}\n{block}'
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, check=False, timeout=TIMEOUT_S, cwd=tmp_path,
        env=environment(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    return done


CALLS = {
    "get": (["get", "motd"],),
    "ls": (["ls"], ["ls", "--long"]),
    "count": (["count"],),
    "sample": (["sample"],),
    "del": (["del", "motd"],),
    "apply": (["apply", "changes", "--dry-run"], ["apply", "changes"]),
    "import": (["import", "rows.jsonl"],),
    "export": (["export", "out.jsonl"], ["export", "out.git", "--format", "git", "--values", "json"]),
    "log": (["log"],),
    "show": (["show", "--values"], ["show", "--name-only"], ["show", "--stat"], ["show", "v1:motd"]),
    "reflog": (["reflog"],),
    "diff": (["diff", "dev", "--values"], ["diff", "dev", "--name-only"], ["diff", "dev", "--stat"]),
    "branch": (["branch"],),
    "tag": (["tag"],),
    "reset": (["reset", "v1"],),
    "merge": (["merge", "dev", "-X", "ours"], ["merge", "dev", "--dry-run"], ["merge", "clash"]),
    "cherry-pick": (["cherry-pick", "dev"], ["cherry-pick", "clash"]),
    "revert": (["revert", "main~2"], ["revert", "main"]),
    "gc": (["gc"], ["gc", "-n"]),
    "compact": (["compact"],),
    "du": (["du"],),
    "check": (["check"],),
    "stats": (["stats"], ["stats", "--store-only"]),
    "bundle create": (["bundle", "create", "b.kvb"],),
    "bundle verify": (["bundle", "verify", "all.kvb"],),
    "bundle load": (["bundle", "load", "all.kvb"],),
}
CONFLICTING = {("merge", "clash"), ("cherry-pick", "clash"), ("revert", "main~2")}


def test_every_command_with_records_is_called():
    assert set(CALLS) == set(RECORDS)


@pytest.mark.parametrize("name", CALLS)
def test_records_have_the_fields_that_the_document_lists(name, filled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    filled("branch", "clash", "v1")
    filled("set", "-b", "clash", "motd", "otherwise")
    filled("bundle", "create", "all.kvb")
    (tmp_path / "changes").write_text('{"key": "a", "value": 1}\n{"key": "motd", "delete": true}\n')
    (tmp_path / "rows.jsonl").write_text('{"key": "a", "value": 1}\n')
    shapes = [_fields(shape) for shape in RECORDS[name]]
    met = set()
    for arguments in CALLS[name]:
        code = 4 if tuple(arguments[:2]) in CONFLICTING else 0
        for record in filled(*arguments, "--json", code=code).records:
            fitting = [
                number
                for number, (needed, optional) in enumerate(shapes)
                if needed <= set(record) <= needed | optional
            ]
            assert len(fitting) >= 1, record
            met.update(fitting)
    unmet = {"check": {0}, "import": {1}}.get(name, set())  # faults: test_upkeep; of git: its own tests
    assert met == set(range(len(shapes))) - unmet


def test_maps_within_records_have_the_fields_that_the_document_lists(filled, tmp_path):
    filled("copy", str(tmp_path / "copy"))
    checked, stats = filled("check", "--json").record, filled("stats", "--json").record
    repaired = filled("check", "--repair-from", str(tmp_path / "copy"), "--json").record
    found = {
        "check": {"result": checked["result"], "result of a repair": repaired["result"]},
        "stats": {"store": stats["store"], "tree": stats["tree"], "levels": stats["tree"]["levels"][0]},
    }
    listed = {
        name: {part: set(shape.split(", ")) for part, shape in parts.items()} for name, parts in PARTS.items()
    }
    assert listed == {
        name: {part: set(each) for part, each in parts.items()} for name, parts in found.items()
    }


def _fields(shape):
    """(fields that are always there, those that may be)."""
    names = shape.split(", ")
    optional = {name.strip("[]") for name in names if name.startswith("[")}
    return {name for name in names if not name.startswith("[")}, optional
