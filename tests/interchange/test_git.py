"""Git repositories in and out: what files, commits, refs and runs that were stopped become."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from kvgit_hamt import BranchExistsError, Memory, Repo
from kvgit_hamt.backend.kv import KvBackend
from kvgit_hamt.errors import InvalidInputError, MissingDependencyError, SourceError
from kvgit_hamt.interchange import Step, export_git, import_git
from kvgit_hamt.interchange import gitimport as module
from kvgit_hamt.interchange.gitimport import IN_PROGRESS
from kvgit_hamt.interchange.gitpipe import Git
from tests.support.gitrepos import History, compare, git, make_repository, new_repository

PLAIN, EXECUTABLE, LINK, SUBMODULE = "100644", "100755", "120000", "160000"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return new_repository(tmp_path / "there")


@pytest.fixture
def repo(tmp_path: Path) -> Any:
    with Repo(tmp_path / "store") as opened:
        yield opened


def linear(path: Path, count: int, branch: str = "main") -> None:
    """So many commits, one after the other, with one file each."""
    history = History()
    made = None
    for number in range(count):
        made = history.commit(
            [made] if made else [], {b"f%d" % number: (PLAIN, b"%d" % number)}, b"%d" % number
        )
    assert made is not None
    history.ref(f"refs/heads/{branch}", made)
    history.write(path)


def test_files_are_values_and_what_is_no_plain_file_is_a_map_with_its_mode(path, repo):
    history = History()
    module_id = b"12" * 20
    made = history.commit((), {
        b"dir/plain": (PLAIN, b"text\n"), b"empty": (PLAIN, b""), b"run": (EXECUTABLE, b"#!/bin/sh\n"),
        b"link": (LINK, b"dir/\xff"), b"module": (SUBMODULE, module_id), b"caf\xe9": (PLAIN, b"latin"),
    })  # fmt: skip
    history.ref("refs/heads/main", made)
    history.write(path)
    import_git(repo, path)
    assert dict(repo.snapshot(branch="main").items()) == {
        "dir/plain": b"text\n", "empty": b"", "run": {"mode": EXECUTABLE, "data": b"#!/bin/sh\n"},
        "link": {"mode": LINK, "data": b"dir/\xff"},
        "module": {"mode": SUBMODULE, "commit": module_id.decode()}, "caf\0e9": b"latin",
    }  # fmt: skip


def test_a_commit_keeps_author_dates_message_and_parents(path, repo):
    history = History()
    one = history.commit((), {b"a": (PLAIN, b"1")}, b"one\n\nwhy\n", "Jörg <j@x> 1700000000 +0530".encode())
    two = history.commit([one], {}, b"")
    three = history.commit([one], {b"b": (PLAIN, b"2")}, b"caf\xe9")
    four = history.commit([three, two, one], {}, b"octopus")
    history.ref("refs/heads/main", four)
    history.write(path)
    import_git(repo, path)
    last, *others = repo.log("main")
    by_message = {(commit.info or {})["message"]: commit for commit in others}
    first = by_message["one\n\nwhy\n"]
    assert last.parents == (by_message["caf\ufffd"].id, by_message[""].id, first.id)
    assert first.parents == ()
    assert first.time == datetime(2023, 11, 14, 22, 13, 20, tzinfo=timezone.utc)
    assert first.info == {
        "message": "one\n\nwhy\n", "author": "Jörg <j@x>", "date": "2023-11-15T03:43:20+05:30",
        "committer": "Jörg <j@x>", "commit_date": "2023-11-15T03:43:20+05:30",
        "git": {"commit": git(path, "rev-list", "--max-parents=0", "main").decode().strip()},
    }  # fmt: skip
    assert "raw" in (by_message["caf\ufffd"].info or {})["git"]  # whose bytes the text does not give again


def test_headers_that_are_not_shown_are_kept(path, repo):
    tree = git(path, "mktree").decode().strip()
    body = (b"author A <a@x> 1700000000 +0000\ncommitter A <a@x> 1700000000 +0000\nencoding ISO-8859-1\n"
            b"gpgsig -----BEGIN PGP SIGNATURE-----\n \n abc\n -----END PGP SIGNATURE-----\n"
            b"\ncaf\xe9\n")  # fmt: skip
    raw = f"tree {tree}\n".encode() + body
    oid = git(path, "hash-object", "-t", "commit", "-w", "--stdin", given=raw).decode().strip()
    git(path, "update-ref", "refs/heads/main", oid)
    import_git(repo, path)
    (commit,) = repo.log("main")
    assert commit.info is not None
    assert commit.info["message"] == "café\n"
    assert commit.info["git"] == {"commit": oid, "raw": body}


def test_branches_and_tags_with_what_annotated_ones_say(path, repo):
    linear(path, 3)
    tag = b"tag v1\nfrom refs/heads/main^0\ntagger B <b@x> 1700000000 +0000\ndata 4\nwhy\n\n"
    git(path, "fast-import", "--quiet", given=tag)
    git(path, "tag", "light", "main~1")
    git(path, "tag", "of-tag", "v1")
    git(path, "branch", "topic/x", "main~2")
    result = import_git(repo, path)
    assert set(result.branches) == {"main", "topic/x"}
    assert set(result.tags) == {"v1", "light", "of-tag"}
    assert result.skipped == ()
    assert repo.tags["v1"] == repo.tags["of-tag"] == repo.branches["main"]
    info = repo.tags.info("v1")
    assert info is not None
    assert (info["message"], info["tagger"]) == ("why\n", "B <b@x> 1700000000 +0000")
    assert repo.tags.info("light") is None
    assert IN_PROGRESS not in repo.branches


def test_refs_that_cannot_be_are_told(path, repo):
    linear(path, 2)
    blob = git(path, "hash-object", "-w", "--stdin", given=b"x").decode().strip()
    git(path, "tag", "of-blob", blob)
    git(path, "branch", "z" * 220)
    git(path, "branch", IN_PROGRESS)
    os.makedirs(os.fsencode(path) + b"/refs/heads", exist_ok=True)
    (path / "refs/heads" / os.fsdecode(b"caf\xe9")).write_bytes(git(path, "rev-parse", "main"))
    repo.worktree("main").commit(info={"message": "ours"})
    git(path, "tag", "v1", "main")
    repo.tags.create("v1", at="main")
    result = import_git(repo, path, force=True)
    why = dict(result.skipped)
    assert set(why) == {"of-blob", "z" * 220, "caf\\xe9", "v1", IN_PROGRESS}
    assert "leads to no commit" in why["of-blob"]
    assert "never move" in why["v1"]
    assert set(result.branches) == {"main"}


def test_a_second_import_takes_what_is_new_and_costs_that(path, repo):
    history = History()
    base = history.commit((), {b"d%d/f%d" % (n % 50, n): (PLAIN, b"%d" % n) for n in range(3_000)}, b"all")
    history.ref("refs/heads/main", base)
    history.write(path)
    assert import_git(repo, path).commits == 1
    more = History()
    more.out.append(b"commit refs/heads/main\ncommitter A <a@x> 1700000000 +0000\ndata 1\nx\n"
                    b"from refs/heads/main^0\nM 644 inline d7/f7\ndata 3\nnew\n\n")  # fmt: skip
    git(path, "fast-import", "--quiet", given=b"".join(more.out))
    before = repo.store.counters.copy()
    result = import_git(repo, path)
    spent = repo.store.counters.since(before)
    assert (result.commits, result.earlier) == (1, 1)
    assert spent.nodes_written < 12
    assert spent.leaves_read < 12
    assert repo.snapshot(branch="main")["d7/f7"] == b"new"
    again = import_git(repo, path)
    assert (again.commits, again.earlier, again.branches, again.tags) == (0, 2, {}, {})


@pytest.mark.parametrize("backend", ["memory", "key-value"])
def test_other_backends_hold_a_history_too(tmp_path, backend, monkeypatch):
    monkeypatch.setattr(module, "BATCH_COMMITS", 9)
    path = make_repository(tmp_path / "history", 60, seed=3)
    with Repo(KvBackend(Memory()) if backend == "key-value" else None) as repo:
        assert import_git(repo, path).commits == 60
        assert compare(repo, path).faults == []
        assert import_git(repo, path).earlier == 60
        repo.gc(keep_reflog=0)
        assert compare(repo, path).faults == []


class Stopped(Exception):
    pass


def stop_after(commits: int) -> Any:
    def see(step: Step) -> None:
        if step.phase == "read" and step.rows >= commits:
            raise Stopped

    return see


def test_a_run_that_was_stopped_is_continued_even_after_gc(tmp_path, repo, monkeypatch):
    monkeypatch.setattr(module, "BATCH_COMMITS", 7)
    path = make_repository(tmp_path / "history", 60)
    with pytest.raises(Stopped):
        import_git(repo, path, progress=stop_after(20))
    assert set(repo.branches) == {"main", IN_PROGRESS}
    assert len(repo.tags) == 0
    repo.gc(keep_reflog=0)
    result = import_git(repo, path)
    assert (result.earlier, result.commits) == (21, 39)
    assert IN_PROGRESS not in repo.branches
    assert compare(repo, path).faults == []
    with Repo() as whole:
        import_git(whole, path)
        assert dict(whole.branches.items()) == dict(repo.branches.items())
        assert dict(whole.tags.items()) == dict(repo.tags.items())


KILLED = """
import sys
from kvgit_hamt import Repo
from kvgit_hamt.interchange import gitimport
gitimport.BATCH_COMMITS = 5
with Repo(sys.argv[1]) as repo:
    gitimport.import_git(repo, sys.argv[2], progress=lambda step: print(step.rows, flush=True))
"""


def test_a_killed_import_is_continued_by_another_process(tmp_path, repo):
    path = make_repository(tmp_path / "history", 150)
    repo.close()
    arguments = [sys.executable, "-c", KILLED, str(tmp_path / "store"), str(path)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 40:
                os.kill(process.pid, signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    with Repo(tmp_path / "store") as again:
        assert set(again.branches) == {"main", IN_PROGRESS}
        result = import_git(again, path)
        assert result.earlier >= 40
        assert result.earlier + result.commits == 150
        assert compare(again, path).faults == []


def test_the_batch_ends_with_its_bytes_too(path, repo, monkeypatch):
    monkeypatch.setattr(module, "BATCH_BYTES", 10)
    linear(path, 20)
    steps: list[int] = []
    import_git(repo, path, progress=lambda step: steps.append(step.rows))
    assert len(steps) > 3
    assert steps == sorted(steps)
    assert len(list(repo.log("main"))) == 20


def test_a_branch_with_commits_of_its_own_stays(path, repo):
    linear(path, 2)
    work = repo.worktree("main")
    work["mine"] = b"1"
    mine = work.commit().commit
    with pytest.raises(BranchExistsError, match="into="):
        import_git(repo, path)
    assert dict(repo.branches.items())["main"] == mine
    result = import_git(repo, path, into="upstream/")
    assert set(result.branches) == {"upstream/main"}
    assert result.commits == 0  # the first try had made them
    moved = import_git(repo, path, force=True)
    assert moved.branches["main"] == repo.branches["upstream/main"] == repo.branches["main"]
    assert repo.reflog("main")[0].old == mine


def test_a_commit_that_was_picked_is_not_taken_for_the_one_of_git(path, repo):
    linear(path, 3)
    import_git(repo, path)
    other = repo.worktree("other", create=True)
    other.cherry_pick("main~1")  # keeps the info, git's id in it
    repo.branches.delete("main")
    repo.gc(keep_reflog=0)
    result = import_git(repo, path)
    assert (result.earlier, result.commits) == (0, 3)
    assert compare_main(repo, path) == []
    again = import_git(repo, path)
    assert (again.earlier, again.commits) == (3, 0)


def compare_main(repo: Repo, path: Path) -> list[str]:
    """The faults of an import beside which there are other branches."""
    with Repo() as alone:
        import_git(alone, path)
        same = [commit.id for commit in alone.log("main")] == [commit.id for commit in repo.log("main")]
    return [] if same else ["main is not what an import alone gives"]


def test_a_clone_that_is_no_longer_shallow_is_imported_anew(path, repo, tmp_path):
    linear(path, 5)
    git(tmp_path, "clone", "-q", "--depth", "2", f"file://{path}", "shallow")
    import_git(repo, tmp_path / "shallow")
    git(tmp_path / "shallow", "fetch", "-q", "--unshallow")
    with pytest.raises(BranchExistsError):
        import_git(repo, tmp_path / "shallow")
    assert import_git(repo, tmp_path / "shallow", force=True).commits == 0
    assert len(list(repo.log("main"))) == 5


def test_only_some_branches(path, repo):
    linear(path, 2)
    linear(path, 3, "release-1")
    git(path, "update-ref", "refs/remotes/origin/far", "main")
    git(path, "symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/far")
    assert set(import_git(repo, path, branches=["release-*", "remotes/*"]).branches) == {
        "release-1", "remotes/origin/far",
    }  # fmt: skip
    with pytest.raises(InvalidInputError, match="no branch 'nope'; it has main"):
        import_git(repo, path, branches=["nope"])
    with pytest.raises(InvalidInputError, match="not one str"):
        import_git(repo, path, branches="main")


def test_what_is_no_repository(tmp_path, repo, monkeypatch):
    with pytest.raises(SourceError, match="is no directory"):
        import_git(repo, tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="not a git repository"):
        import_git(repo, tmp_path / "empty")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match="git program"):
        import_git(repo, tmp_path / "empty")


def test_an_empty_repository(path, repo):
    result = import_git(repo, path)
    assert (result.commits, result.branches, result.tags) == (0, {}, {})


@pytest.mark.parametrize("what", ["blob", "tree", "commit"])
def test_a_missing_object_is_an_error_and_no_branch_comes(path, repo, what):
    linear(path, 5)
    git(path, "-c", "gc.auto=0", "repack", "-adq")
    name = {"blob": "main:f0", "tree": "main~2^{tree}", "commit": "main~2"}[what]
    oid = git(path, "rev-parse", name).decode().strip()
    packs = list((path / "objects/pack").glob("*.pack"))
    data = [pack.read_bytes() for pack in packs]
    for pack in path.glob("objects/pack/*"):
        pack.unlink()
    for pack in data:
        git(path, "unpack-objects", "-q", given=pack)
    (path / "objects" / oid[:2] / oid[2:]).unlink()
    with pytest.raises(SourceError):
        import_git(repo, path)
    assert dict(repo.branches.items()).keys() <= {"main", IN_PROGRESS}
    assert len(repo.snapshot(branch="main")) == 0


def test_a_codec_that_cannot_hold_a_map_is_told(path, tmp_path):
    history = History()
    first = history.commit((), {b"plain": (PLAIN, b"x")})
    history.ref("refs/heads/plain", first)
    history.ref("refs/heads/linked", history.commit([first], {b"link": (LINK, b"x")}))
    history.write(path)
    with Repo(codec="bytes") as repo:
        import_git(repo, path, branches=["plain"])
        assert repo.snapshot(branch="plain")["plain"] == b"x"
        with pytest.raises(SourceError, match=r"commit [0-9a-f]{40}: key 'link'"):
            import_git(repo, path)


def test_nothing_of_the_repository_is_run(path, repo, tmp_path):
    linear(path, 3)
    trap = tmp_path / "trap"
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\ntouch {trap}\n")
    script.chmod(0o755)
    for name in ("core.fsmonitor", "diff.external", "diff.x.textconv", "core.pager", "core.sshCommand",
                 "core.gitProxy", "filter.x.smudge", "filter.x.clean"):  # fmt: skip
        git(path, "config", name, str(script))
    git(path, "config", "core.hooksPath", str(tmp_path))
    (path / "info").mkdir(exist_ok=True)
    (path / "info/attributes").write_text("* diff=x filter=x\n")
    import_git(repo, path)
    assert not trap.exists()
    git(path, "-c", f"diff.external={script}", "diff", "--ext-diff", "main~1", "main")
    assert trap.exists()  # the trap works


def test_replaced_commits_and_a_callers_environment_change_nothing(path, repo, monkeypatch, tmp_path):
    linear(path, 3)
    git(path, "replace", "main~1", "main~2")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_OBJECT_DIRECTORY", str(tmp_path / "elsewhere"))
    import_git(repo, path)
    assert [(commit.info or {})["message"] for commit in repo.log("main")] == ["2", "1", "0"]


def test_a_shallow_clone_begins_at_its_border(path, repo, tmp_path):
    linear(path, 5)
    git(tmp_path, "clone", "-q", "--depth", "2", f"file://{path}", "shallow")
    import_git(repo, tmp_path / "shallow")
    commits = list(repo.log("main"))
    assert len(commits) == 2
    assert commits[-1].parents == ()
    assert set(repo.snapshot(branch="main")) == {"f0", "f1", "f2", "f3", "f4"}


def test_repositories_with_sha256(tmp_path, repo):
    path = tmp_path / "sha256"
    path.mkdir()
    git(path, "init", "-q", "--bare", "--object-format=sha256", "--initial-branch=main")
    history = History()
    made = history.commit((), {b"a": (PLAIN, b"1"), b"b": (EXECUTABLE, b"2")})
    history.ref("refs/heads/main", history.commit([made], {b"a": None}))
    history.write(path)
    import_git(repo, path)
    report = compare(repo, path)
    assert report.faults == []
    assert report.commits == 2


def test_a_working_copy_and_paths_in_the_environment_do(tmp_path, repo):
    git(tmp_path, "init", "-q", "--initial-branch=main", "work")
    (tmp_path / "work/a").write_text("1")
    git(tmp_path / "work", "add", "a")
    git(tmp_path / "work", "commit", "-qm", "one")
    import_git(repo, tmp_path / "work")
    assert repo.snapshot(branch="main")["a"] == b"1"


def test_every_process_of_git_ends(path, repo, monkeypatch):
    linear(path, 50)
    started: list[Any] = []
    honest = Git.pipe

    def pipe(self: Git, *arguments: str, **how: Any) -> Any:
        manager = honest(self, *arguments, **how)
        enter = manager.__enter__

        class Spy:
            def __enter__(self) -> Any:
                process = enter()
                started.append(process)
                return process

            def __exit__(self, *exc: Any) -> Any:
                return manager.__exit__(*exc)

        return Spy()

    monkeypatch.setattr(Git, "pipe", pipe)
    monkeypatch.setattr(module, "BATCH_COMMITS", 5)
    with pytest.raises(Stopped):
        import_git(repo, path, progress=stop_after(5))
    assert len(started) >= 3
    assert all(process.returncode is not None for process in started)


# export


def native(repo: Repo) -> None:
    work = repo.worktree("main")
    work.update({"dir/a": b"1", "text": "héllo", "gone": b"x"})
    when = datetime(2026, 1, 31, 12, tzinfo=timezone(timedelta(hours=1)))
    work.commit(info={"message": "first", "author": "Ada <ada@x>"}, time=when)
    del work["gone"]
    work["gone/below"] = b"y"
    work.commit(info={"message": "a file gives way", "author": "Bob"}, time=when)


def test_commits_of_ones_own_become_gits(repo, tmp_path):
    native(repo)
    repo.tags.create("v1", at="main", info={"why": "x"})
    target = tmp_path / "out.git"
    result = export_git(repo, target)
    assert (result.commits, result.same) == (3, 0)
    assert git(target, "log", "--format=%an <%ae> %aI %s", "main").decode().splitlines() == [
        "Bob <> 2026-01-31T11:00:00+00:00 a file gives way", "Ada <ada@x> 2026-01-31T11:00:00+00:00 first",
        "kvgit_hamt <> 1970-01-01T00:00:00+00:00 ",
    ]  # fmt: skip
    assert git(target, "ls-tree", "-r", "--name-only", "main").decode().split() == [
        "dir/a",
        "gone/below",
        "text",
    ]
    assert git(target, "show", "main:text").decode() == "héllo"
    assert git(target, "rev-parse", "v1") == git(target, "rev-parse", "main")
    assert git(target, "symbolic-ref", "HEAD") == b"refs/heads/main\n"
    assert {entry.name for entry in tmp_path.iterdir()} == {"store", "out.git"}


@pytest.mark.parametrize(
    ("items", "why"),
    [
        ({"a": b"1", "a/b": b"2"}, "is a key, and a directory of"),
        ({"a/../b": b"1"}, "no path"), ({"": b"1"}, "no path"), ({"a/": b"1"}, "no path"),
        ({"x/.GIT/config": b"1"}, "below .git"), ({"n": 1}, "values=\"json\""),
        ({"m": {"mode": "100755"}}, "no file"),
        ({"m": {"mode": "160000", "commit": "x\nreset refs/heads/main"}}, "no id of a commit"),
        ({"m": {"mode": "rwx", "data": b""}}, "invalid literal"),
    ],
)  # fmt: skip
def test_what_git_cannot_hold_is_named_and_nothing_is_left(repo, tmp_path, items, why):
    work = repo.worktree("main")
    work.update(items)
    work.commit()
    with pytest.raises(SourceError, match=why):
        export_git(repo, tmp_path / "out.git")
    assert {entry.name for entry in tmp_path.iterdir()} == {"store"}


SIGNED = (
    b"author A <a@x> 1700000000 +0000\ncommitter A <a@x> 1700000000 +0000\n"
    b"gpgsig -----BEGIN PGP SIGNATURE-----\n \n abc\n -----END PGP SIGNATURE-----\n"
    b"\nsigned\n"
)


def test_signatures_go_back_where_they_hold_and_are_left_out_where_not(path, repo, tmp_path):
    linear(path, 1)
    tree = git(path, "rev-parse", "main^{tree}").decode().strip()
    first = git(path, "rev-parse", "main").decode().strip()
    raw = f"tree {tree}\nparent {first}\n".encode() + SIGNED
    oid = git(path, "hash-object", "-t", "commit", "-w", "--stdin", given=raw).decode().strip()
    git(path, "update-ref", "refs/heads/main", oid)
    import_git(repo, path)
    (signed, _) = repo.log("main")
    work = repo.worktree("other", create=True)
    work["f0"] = b"0"
    work.commit(info={**(signed.info or {}), "message": "picked"})
    result = export_git(repo, tmp_path / "out.git")
    assert result.same == 2
    assert result.refs["refs/heads/main"] == oid
    assert git(tmp_path / "out.git", "cat-file", "commit", "main") == raw
    assert b"gpgsig" not in git(tmp_path / "out.git", "cat-file", "commit", "other")
    assert b"error" not in git(tmp_path / "out.git", "fsck", "--full", "--strict")
    packed = git(tmp_path / "out.git", "cat-file", "--batch-all-objects", "--batch-check=%(objecttype)")
    assert packed.split().count(b"commit") == 4  # nothing of the scratch history is left


@pytest.mark.parametrize(
    "info",
    [
        {"author": "A <a@x>\nparent 0", "date": "2026-01-01T00:00:00+00:00", "committer": "x <y>",
         "commit_date": "2026-01-01T00:00:00+00:00", "message": "m"},
        {"author": "x", "message": 5}, {"git": {"commit": 5, "raw": b"tree x\nparent y\n\n"}}, {"git": 7},
        {"author": "a\nb <c>", "message": "\0"}, {"author": "<<>>"},
        {"git": {"raw": b"author x\ncommitter y\n\n"}},
    ],
)  # fmt: skip
def test_an_odd_info_makes_a_sound_commit(repo, tmp_path, info):
    work = repo.worktree("main")
    work["a"] = b"1"
    work.commit(info=info)
    export_git(repo, tmp_path / "out.git")
    lines = git(tmp_path / "out.git", "cat-file", "commit", "main").split(b"\n\n")[0].splitlines()
    assert [line.split(b" ")[0] for line in lines] == [b"tree", b"parent", b"author", b"committer"]
    assert git(tmp_path / "out.git", "rev-list", "--count", "main") == b"2\n"


def test_nothing_to_export(repo, tmp_path):
    result = export_git(repo, tmp_path / "out.git", branches=[])
    assert (result.commits, result.refs) == (0, {})
    assert git(tmp_path / "out.git", "rev-list", "--all") == b""


def test_other_values_as_json(repo, tmp_path):
    work = repo.worktree("main")
    work.update({"n": 1, "m": {"b": [1, None], "a": "x"}, "plain": b"\xff"})
    work.commit()
    export_git(repo, tmp_path / "out.git", values="json")
    assert git(tmp_path / "out.git", "show", "main:m") == b'{"a":"x","b":[1,null]}\n'
    assert git(tmp_path / "out.git", "show", "main:plain") == b"\xff"


def test_relative_paths_are_those_of_the_caller(repo, path, tmp_path, monkeypatch):
    linear(path, 2)
    monkeypatch.chdir(tmp_path)
    import_git(repo, path.name)
    assert export_git(repo, "out.git").same == 2
    assert git(tmp_path / "out.git", "rev-parse", "main~1") == git(path, "rev-parse", "main~1")


def test_a_target_that_is_there_stays_as_it_is(repo, tmp_path):
    (tmp_path / "out.git").mkdir()
    with pytest.raises(SourceError, match="exists"):
        export_git(repo, tmp_path / "out.git")
    with pytest.raises(SourceError, match="cannot be written"):
        export_git(repo, tmp_path / "none/out.git")
    assert os.listdir(tmp_path / "out.git") == []


def test_a_round_trip_of_an_odd_history(tmp_path, repo):
    path = make_repository(tmp_path / "history", 80, seed=5)
    imported = import_git(repo, path)
    exported = export_git(repo, tmp_path / "back.git", branches=sorted(imported.branches))
    assert exported.same == exported.commits == imported.commits
    listed = "for-each-ref", "--format=%(objectname) %(refname)"
    assert git(tmp_path / "back.git", *listed) == git(path, *listed)


def test_an_import_beside_other_branches_leaves_them(path, repo):
    linear(path, 3)
    work = repo.worktree("data", create=True)
    work["k"] = 1
    kept = work.commit().commit
    import_git(repo, path)
    assert repo.branches["data"] == kept
    shutil.rmtree(path)
    assert set(repo.snapshot(branch="main")) == {"f0", "f1", "f2"}  # nothing is read from git any more
