"""A long git history, imported: every commit has git's tree and git's differences, and a lie is noticed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kvgit_hamt import Repo
from kvgit_hamt.interchange import export_git, import_git
from kvgit_hamt.interchange.gitpipe import Objects
from tests.support.gitrepos import compare, git, make_repository
from tests.support.scale import pick, record

OTHER = "KVGIT_HAMT_GIT_REPOSITORY"  # a repository to compare instead of the one that is made


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if other := os.environ.get(OTHER):
        return Path(other)
    return make_repository(tmp_path_factory.mktemp("git") / "history", pick(1_050, 5_000))


def lie_once(monkeypatch: pytest.MonkeyPatch, at: int) -> list[str]:
    """Change one byte of one blob on its way from git; its id is in the list then."""
    lied: list[str] = []
    seen: list[str] = []
    honest = Objects._one

    def one(self: Objects, oid: str) -> bytes:
        data = honest(self, oid)
        seen.append(oid)
        if not lied and len(seen) > at and not data.startswith(b"tree ") and data:
            lied.append(oid)
            return data[:-1] + bytes([data[-1] ^ 1])
        return data

    monkeypatch.setattr(Objects, "_one", one)
    return lied


@pytest.mark.slow
def test_every_commit_of_a_long_history_is_gits(history, tmp_path, monkeypatch):
    with Repo(tmp_path / "store") as repo:
        result = import_git(repo, history)
        assert result.earlier == 0
        report = compare(repo, history)
        assert report.faults == []
        assert report.commits == result.commits >= 1_000
        assert report.changes > report.commits
    short = make_repository(tmp_path / "short", 60)
    with monkeypatch.context() as patched, Repo(tmp_path / "lie") as repo:
        lied = lie_once(patched, 100)
        import_git(repo, short)
        assert lied
        control = compare(repo, short)
    assert control.faults  # the comparison can fail
    record(
        "GIT", commits=report.commits, entries=report.entries, diffs=report.diffs, faults=0,
        control_faults=len(control.faults),
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(OTHER in os.environ, reason="it may have refs that are left out")
def test_a_long_history_goes_back_to_git_with_the_same_ids(history, tmp_path):
    with Repo(tmp_path / "store") as repo:
        imported = import_git(repo, history)
        exported = export_git(repo, tmp_path / "back.git", branches=sorted(imported.branches))
    assert exported.same == exported.commits == imported.commits
    wanted = git(history, "for-each-ref", "--format=%(objectname) %(refname)", "refs/heads", "refs/tags")
    found = git(tmp_path / "back.git", "for-each-ref", "--format=%(objectname) %(refname)")
    assert found == wanted
    assert b"error" not in git(tmp_path / "back.git", "fsck", "--full", "--no-dangling")
