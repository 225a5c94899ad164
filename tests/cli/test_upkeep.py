"""gc, compact, du, check, stats, bundle, copy, bench, demo, completion: output, JSON, error cases."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

import kvgit_hamt as kvgit
from kvgit_hamt.cli import extras
from tests.support.cli import on_terminal
from tests.support.rawstore import raw_store


@pytest.fixture
def wasteful(filled):
    """A store with commits that only the reflog holds."""
    for number in range(5):
        filled("set", "motd", f"{number}" * 600)
    filled("reset", "v1")
    return filled


# gc and compact


def test_gc_says_what_would_go_and_then_frees_it(wasteful):
    dry = wasteful("gc", "--dry-run", "--keep-reflog", "0")
    assert dry.text.startswith("would free ")
    record = wasteful("gc", "--dry-run", "--keep-reflog", "0", "--json").record
    assert record["freed_count"] > 5
    assert record["dry_run"]
    done = wasteful("gc", "--keep-reflog", "0")
    assert (done.out, done.err[:6]) == (b"", "freed ")
    assert wasteful("gc", "--keep-reflog", "0", "--json").record["freed_count"] == 0
    assert wasteful("get", "motd").text == "hello\n"
    assert "range" in wasteful("gc", "--keep-reflog", "-1", code=2).err


def test_compact_gives_room_back(wasteful):
    wasteful("gc", "--keep-reflog", "0", "-q")
    before, after = wasteful("compact", "--json").record.values()
    assert before > after
    assert "now" in wasteful("compact").err


def test_compact_while_another_process_has_the_store_open(wasteful):
    program = (
        f"import kvgit_hamt as k; r = k.Repo({str(wasteful.directory)!r}); print(1, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:  # fmt: skip
        assert other.stdout is not None
        other.stdout.readline()
        done = wasteful("compact", code=7)
        assert "hint:" in done.err
        other.communicate(b"\n")


# du


def test_du_tells_what_each_name_holds(filled):
    records = {record["name"]: record for record in filled("du", "--json").records}
    assert set(records) == {"main", "dev", "v1"}
    assert records["v1"]["exclusive_bytes"] == 0
    assert records["main"]["exclusive_bytes"] > 0
    assert records["main"]["kind"] == "branch"
    with kvgit.Repo(filled.directory) as repo:
        usage = repo.usage()
    assert records["dev"]["shared_bytes"] == usage["heads/dev"].shared_bytes
    lines = filled("du", "--bytes").lines
    assert lines[0].split() == ["exclusive", "shared", "kind", "name"]
    assert len(lines) == 4
    assert filled("du").lines[-1].endswith("v1")


# check


def damage(store):
    """Spoil the root of main's tree, which is a leaf."""
    with kvgit.Repo(store) as repo:
        _, place = repo.resolve_commit("main").tree
    with raw_store(store) as raw:
        stored = raw.get("records", place)
        raw.put("records", place, stored[:4] + bytes([stored[4] ^ 4]) + stored[5:])


def test_check_of_a_sound_store(filled):
    done = filled("check")
    assert done.lines == ["sound: no fault in what was looked at"]
    assert "not looked at" in done.err
    result = filled("check", "--json").record["result"]
    assert result["is_sound"]
    assert result["deep"]
    assert not filled("check", "--quick", "--json").record["result"]["deep"]


def test_check_names_damage_and_heals_it_from_a_copy_or_a_bundle(filled, tmp_path):
    filled("copy", str(tmp_path / "copy"))
    filled("bundle", "create", str(tmp_path / "all.kvb"), "-q")
    for source in ("copy", "all.kvb"):
        damage(filled.directory)
        done = filled("check", code=5)
        assert done.lines[0].startswith("fault 1 damaged: ")
        assert "  heads/main: its present state" in done.lines
        fault, result = filled("check", "--json", code=5).records
        assert (fault["fault"], fault["kind"], fault["heads"]) == (1, "damaged", ["heads/main"])
        assert result["result"]["fault_count"] == 1
        assert filled("get", "motd", code=5).err.startswith("error: ")
        healed = filled("check", "--repair-from", str(tmp_path / source))
        assert healed.lines[0].startswith("healed damaged")
        filled("check")
    assert "deep" in filled("check", "--quick", "--repair-from", str(tmp_path / "copy"), code=2).err


def test_faults_on_a_terminal_stand_on_lines_of_their_own(filled):
    damage(filled.directory)
    code, text = on_terminal(filled.directory, "check")
    assert code == 5
    shown = [line.rpartition("\x1b[2K")[2].rpartition("\r")[2] for line in text.splitlines()]
    assert any(re.match(r"(\x1b\[\d*m)*fault 1(\x1b\[\d*m)* damaged", line) for line in shown), text


def test_damage_that_cannot_be_healed(filled, tmp_path, kvh):
    filled("init", str(tmp_path / "empty"))
    damage(filled.directory)
    done = filled("check", "--repair-from", str(tmp_path / "empty"), "--json", code=5)
    assert [record.get("healed") for record in done.records] == [False, None]
    assert "No such file" in filled("check", "--repair-from", "/nowhere/x", code=3).err


# stats


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A store whose tree has inner nodes."""
    where = tmp_path_factory.mktemp("wide") / "store"
    with kvgit.open(where) as work:
        work.load({f"d{i % 5}/{i}": i for i in range(5_000)})
    return str(where)


def test_stats_of_a_tree(filled, wide):
    record = filled("stats", "--store", wide, "--json").record
    tree = record["tree"]
    assert tree["key_count"] == 5_000 == sum(level["entry_count"] for level in tree["levels"])
    assert tree["depth"] == len(tree["levels"]) > 1
    assert sum(tree["fill"]) == tree["leaf_count"]
    assert record["store"]["branch_count"] == 1
    lines = filled("stats", "--store", wide).lines
    picture = lines[-tree["depth"] :]
    assert picture[0] == "|" + "=" * 71
    assert all(set(row) <= set("|=- ") for row in picture)
    assert any("5,000 key(s)" in line for line in lines)
    assert set(filled("stats", "--store-only", "--json").record) == {"store"}
    assert not any("tree" in line for line in filled("stats", "--store-only").lines)


def test_the_picture_as_svg(filled, wide, tmp_path):
    path = tmp_path / "shape.svg"
    filled("stats", "--store", wide, "--svg", str(path))
    root = ElementTree.fromstring(path.read_text())
    boxes = [each for each in root if each.tag.endswith("rect")]
    assert len(boxes) > 10
    rows = {}
    for each in boxes[1:]:
        rows.setdefault(int(each.get("y")), []).append((int(each.get("x")), int(each.get("width"))))
    assert rows[40] == [(10, 900)]  # the root, over the whole width
    for row in rows.values():
        assert all(left + width <= right for (left, width), (right, _) in itertools.pairwise(row))
        assert all(left >= 10 and left + width <= 910 for left, width in row)
    assert "5,000 keys" in path.read_text()
    first = path.read_bytes()
    filled("stats", "--store", wide, "--svg", str(path))
    assert path.read_bytes() == first
    filled("set", "x", "1")
    filled("stats", "--svg", str(path))


def test_stats_of_nothing(filled):
    assert "no branch, tag or commit" in filled("stats", "--at", "nothing", code=3).err
    assert filled("stats", "--at", "main~3", "--json").record["tree"]["key_count"] == 0
    assert "No such file" in filled("stats", "--svg", "/nowhere/x/y.svg", code=2).err


# bundles and copies


def test_bundles_are_written_verified_and_loaded(filled, tmp_path, kvh):
    path = str(tmp_path / "all.kvb")
    assert "wrote" in filled("bundle", "create", path).err
    record = filled("bundle", "verify", path, "--json").record
    assert set(record["refs"]) == {"heads/main", "heads/dev", "tags/v1"}
    assert filled("bundle", "verify", path).lines[-1].startswith("sound: ")
    other = ("--store", str(tmp_path / "other"))
    filled("init", other[1])
    done = filled("bundle", "load", *other, path, "--json").record
    assert done["refs"] == record["refs"]
    assert filled("get", *other, "motd", "--at", "v1").text == "hello\n"
    filled("bundle", "load", *other, path, "dev=theirs/dev")
    assert filled("branch", *other).lines == ["dev", "main", "theirs/dev"]


def test_a_bundle_goes_through_a_pipe_and_begins_after_a_commit(filled, tmp_path):
    data = filled("bundle", "create", "-", "v1..main").out
    assert filled("bundle", "verify", "-", input=data).lines[-2].endswith("is needed where it is loaded")
    filled("init", str(tmp_path / "other"))
    done = filled("bundle", "load", "--store", str(tmp_path / "other"), "-", input=data, code=3)
    assert "load the bundle first that holds them" in done.err


def test_bundles_that_are_damaged_or_not_there(filled, tmp_path):
    path = tmp_path / "all.kvb"
    filled("bundle", "create", str(path))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert filled("bundle", "verify", str(path), code=5).err.startswith("error: ")
    assert filled("bundle", "load", str(path), code=5).err.startswith("error: ")
    filled("bundle", "verify", str(tmp_path / "none"), code=3)
    assert "once more" in filled("bundle", "verify", str(path), code=5).err
    (tmp_path / "text").write_text("no bundle")
    for arguments in (("bundle", "verify"), ("bundle", "load"), ("check", "--repair-from")):
        assert "is no bundle" in filled(*arguments, str(tmp_path / "text"), code=6).err
        assert "No such file" in filled(*arguments, str(tmp_path / "none"), code=3).err
    filled("bundle", "create", str(path), "nothing", code=3)
    filled("bundle", "nonsense", code=2)
    assert "Usage" in filled("bundle", code=2).err


def test_a_branch_is_moved_by_force_only(filled, tmp_path):
    path = str(tmp_path / "main.kvb")
    filled("bundle", "create", path, "main")
    filled("reset", "v1")
    filled("set", "other", "1")
    assert "--force" in filled("bundle", "load", path, code=4).err
    filled("bundle", "load", path, "--force")
    assert filled("get", "motd").text == "bye\n"


def test_a_copy_is_a_store(filled, tmp_path):
    where = str(tmp_path / "copy")
    assert "copied" in filled("copy", where).err
    assert filled("log", "--store", where, "--json").out == filled("log", "--json").out
    filled("copy", where, code=4)
    filled("copy", "--compact", str(tmp_path / "small"), "-q")
    assert filled("count", "--store", str(tmp_path / "small")).text == "2\n"


# the rest


def test_bench_is_told_apart_from_the_package(kvh, monkeypatch, tmp_path):
    monkeypatch.setattr(extras, "ROOT", tmp_path)
    done = kvh("bench", code=7)
    assert "part of the repository" in done.err
    assert "make bench" in done.err
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "__init__.py").touch()
    (tmp_path / "bench" / "__main__.py").write_text("import sys; sys.exit(sys.argv[1:] != ['--quick', 'x'])")
    kvh("bench", "--", "--quick", "x")
    kvh("bench", code=1)


def test_the_demo_runs_and_refuses_what_is_not_its_own(kvh, tmp_path, capfd):
    where = str(tmp_path / "demo")
    kvh("demo", where, "--code-points", "2048")
    assert kvh("tag", "--store", where).lines
    kvh("demo", where, code=2)
    kvh("demo", where, "--fresh", "--code-points", "2048")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_serve_both_names(kvh, shell):
    text = kvh("completion", shell).text
    assert "kvh" in text
    assert "kvgit-hamt" in text
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=text.encode(), check=True)


def test_completion_of_an_unknown_shell(kvh):
    assert "is not one of" in kvh("completion", "tcsh", code=2).err
