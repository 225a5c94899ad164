"""M2: the same history in the library, in git (one blob for each key) and in sqlite (a copy for each commit).

Two programs that nobody here wrote say what a merge, a merge base, a diff and a state must be.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha1
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import kvgit_hamt as kvgit
from kvgit_hamt import diff, merge
from tests.support.homes import SMALL
from tests.support.scale import pick, record

GIT = shutil.which("git")
KEYS = [f"{directory}k{number}" for directory in ("", "a/", "a/b/", "c/") for number in range(5)]
COMMITS = 12
MERGES = 3
needs_git = pytest.mark.skipif(GIT is None, reason="compares with the git program")
Content = dict[str, str]


class Merged(NamedTuple):
    """What a merge of two commits gave: the content, or the keys in conflict."""

    content: Content | None
    conflicts: frozenset[str]


@dataclass
class History:
    """Random commits in a repository, and merges of them; what the library says of each."""

    seed: int
    ids: list[str] = field(default_factory=list)
    parents: dict[str, tuple[str, ...]] = field(default_factory=dict)
    steps: dict[str, tuple[Content, list[str]]] = field(
        default_factory=dict
    )  # sets and deletes over parent 1
    merges: list[tuple[str, str, str, Merged]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.repo = kvgit.Repo(codec=("text", str.encode, bytes.decode)[1:], shape=SMALL)
        self.rng = random.Random(self.seed)
        first = self.repo.branches["main"]
        self.note(first, ())
        for number in range(COMMITS):
            self.commit(number)
        for _ in range(MERGES):
            self.merge_two()

    def note(self, commit: str, parents: tuple[str, ...]) -> None:
        self.ids.append(commit)
        self.parents[commit] = parents

    def commit(self, number: int) -> None:
        """A commit over one or two others, as large as it likes."""
        rng = self.rng
        recent = self.ids[-rng.choice([2, 4, 100]) :]
        parents = list(dict.fromkeys(rng.choice(recent) for _ in range(rng.choice([1, 1, 2]))))
        self.repo.branches.create(f"b{number}", at=parents[0])
        work = self.repo.worktree(f"b{number}")
        if len(parents) == 2:
            merged = work.merge(commit=parents[1], fast_forward=False, default_merge=kvgit.OURS)
            if merged.strategy != "no_op":
                self.note_state(merged.commit, parents[0], parents)
                parents = [merged.commit]
            else:
                parents = parents[:1]
        before = dict(work)
        some = rng.sample(KEYS, rng.choice([1, 3, 8]))
        for key in some:
            if key in before and rng.random() < 0.35:
                del work[key]
            else:
                work[key] = f"{key}={rng.randint(0, 4)}"  # no two keys alike: git would take them for renamed
        result = work.commit(info={"n": number, "seed": self.seed}, time=None)
        self.note_state(result.commit, parents[0], parents)

    def note_state(self, commit: str, over: str, parents: list[str]) -> None:
        """What the new commit holds, as changes over its first parent, by the library's own diff."""
        sets: Content = {}
        deletes: list[str] = []
        for change in self.repo.diff(over, commit):
            if change.kind == "removed":
                deletes.append(change.key)
            else:
                sets[change.key] = change.new
        self.steps[commit] = (sets, deletes)
        self.note(commit, tuple(parents))

    def content(self, commit: str) -> Content:
        return dict(self.repo.snapshot(commit=commit))

    def merge_two(self) -> None:
        """Merge two commits with one best common ancestor, without any rule."""
        ours, theirs = self.rng.choice(self.ids), self.rng.choice(self.ids)
        base = self.repo.merge_base(ours, theirs)
        assert base is not None
        name = f"m{len(self.merges)}"
        self.repo.branches.create(name, at=ours)
        work = self.repo.worktree(name)
        result = work.merge(commit=theirs, fast_forward=False, on_conflict="abandon", time=None)
        keys = frozenset(conflict.key for conflict in result.conflicts)
        merged = Merged(dict(work) if result.merged else None, keys)
        self.merges.append((ours, theirs, base, merged))


# --- git


def git(directory: Path, *arguments: str, data: bytes = b"", may_fail: bool = False) -> bytes:
    done = subprocess.run(
        [str(GIT), "-C", str(directory), *arguments], input=data, capture_output=True, check=False
    )
    assert may_fail or done.returncode == 0, done.stderr
    return done.stdout


def fast_import(histories: list[History]) -> Iterator[bytes]:
    """The histories as a stream for git, a ref for each commit."""
    for history in histories:
        for commit in history.ids:
            yield b"commit refs/heads/%s\nmark :%d\n" % (ref(history, commit).encode(), mark(history, commit))
            yield b"committer a <a@b> 0 +0000\ndata 0\n"
            parents = history.parents[commit]
            for number, parent in enumerate(parents):
                yield b"%s :%d\n" % (b"merge" if number else b"from", mark(history, parent))
            sets, deletes = history.steps.get(commit, ({}, []))
            for key in deletes:
                yield b"D %s\n" % key.encode()
            for key, value in sets.items():
                yield b"M 100644 inline %s\ndata %d\n%s\n" % (key.encode(), len(value), value.encode())
            yield b"\n"


def ref(history: History, commit: str) -> str:
    return f"s{history.seed}/c{history.ids.index(commit)}"


def mark(history: History, commit: str) -> int:
    return history.seed * 1_000 + history.ids.index(commit) + 1


def blob(value: str) -> str:
    data = value.encode()
    return sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def tree_in_git(directory: Path, name: str) -> dict[str, str]:
    """path -> id of its blob."""
    listed = git(directory, "ls-tree", "-r", "-z", name).decode().split("\0")[:-1]
    return {line.partition("\t")[2]: line.split()[2].partition("\t")[0] for line in listed}


def merge_in_git(directory: Path, ours: str, theirs: str) -> tuple[dict[str, str] | None, frozenset[str]]:
    options = ("--write-tree", "--name-only", "--no-messages", "-z")
    out = git(directory, "merge-tree", *options, ours, theirs, may_fail=True)
    tree, *files = [part for part in out.decode().split("\0") if part]
    return (None if files else tree_in_git(directory, tree)), frozenset(files)


def differences_from_git(histories: list[History], directory: Path) -> list[str]:
    """Everything in which git disagrees."""
    git(directory.parent, "init", "-q", str(directory))
    git(directory, "fast-import", "--quiet", "--force", data=b"".join(fast_import(histories)))
    wrong = []
    for history in histories:
        for commit in history.ids[-3:]:
            held = {key: blob(value) for key, value in history.content(commit).items()}
            if tree_in_git(directory, ref(history, commit)) != held:
                wrong.append(f"state of {ref(history, commit)}")
        for ours, theirs, base, merged in history.merges:
            names = ref(history, ours), ref(history, theirs)
            bases = git(directory, "merge-base", "--all", *names).decode().split()
            if git(directory, "rev-parse", ref(history, base)).decode().strip() not in bases:
                wrong.append(f"base of {names}")
            if len(bases) > 1:
                continue  # git merges the bases first, the library takes the newest
            content, conflicts = merge_in_git(directory, *names)
            mine = (
                None
                if merged.content is None
                else {key: blob(value) for key, value in merged.content.items()}
            )
            if (content, conflicts) != (mine, merged.conflicts):
                wrong.append(f"merge of {names}")
    return wrong


# --- sqlite


class Copies:
    """A table that holds every commit in full."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.base = sqlite3.connect(":memory:")
        self.base.execute("CREATE TABLE entries (id TEXT, key TEXT, value TEXT, PRIMARY KEY (id, key))")
        for commit in history.ids[1:]:
            self.copy(commit)

    def copy(self, commit: str) -> None:
        """All rows of the first parent, then the changes."""
        parent = self.history.parents[commit][0]
        self.base.execute(
            "INSERT OR IGNORE INTO entries SELECT ?, key, value FROM entries WHERE id = ?", (commit, parent)
        )
        sets, deletes = self.history.steps[commit]
        self.base.executemany(
            "DELETE FROM entries WHERE id = ? AND key = ?", [(commit, key) for key in deletes]
        )
        self.base.executemany(
            "INSERT OR REPLACE INTO entries VALUES (?, ?, ?)", [(commit, *item) for item in sets.items()]
        )

    def content(self, commit: str) -> Content:
        return dict(self.base.execute("SELECT key, value FROM entries WHERE id = ?", (commit,)).fetchall())

    def diff(self, old: str, new: str) -> set[tuple[Any, ...]]:
        """(key, old, new) of the keys that differ."""
        return set(self.base.execute(
            """SELECT key, o.value, n.value FROM (SELECT DISTINCT key FROM entries WHERE id IN (:old, :new)) k
               LEFT JOIN entries o ON o.id = :old AND o.key = k.key
               LEFT JOIN entries n ON n.id = :new AND n.key = k.key
               WHERE o.value IS NOT n.value""".replace("SELECT key,", "SELECT k.key,"),
            {"old": old, "new": new},
        ).fetchall())  # fmt: skip

    def merge(self, base: str, ours: str, theirs: str) -> Merged:
        rows = self.base.execute(
            """SELECT k.key,
                      CASE WHEN o.value IS t.value OR t.value IS b.value THEN o.value ELSE t.value END,
                      o.value IS NOT t.value AND o.value IS NOT b.value AND t.value IS NOT b.value
               FROM (SELECT DISTINCT key FROM entries WHERE id IN (:b, :o, :t)) k
               LEFT JOIN entries b ON b.id = :b AND b.key = k.key
               LEFT JOIN entries o ON o.id = :o AND o.key = k.key
               LEFT JOIN entries t ON t.id = :t AND t.key = k.key""",
            {"b": base, "o": ours, "t": theirs},
        ).fetchall()
        conflicts = frozenset(key for key, _, is_contested in rows if is_contested)
        return Merged(
            None if conflicts else {key: value for key, value, _ in rows if value is not None}, conflicts
        )


def differences_from_sqlite(history: History) -> list[str]:
    """Everything in which sqlite disagrees."""
    copies = Copies(history)
    wrong = [
        f"state of {commit}" for commit in history.ids if copies.content(commit) != history.content(commit)
    ]
    rng = random.Random(history.seed)
    for _ in range(10):
        names = rng.choice(history.ids), rng.choice(history.ids)
        if copies.diff(*names) != {change[:3] for change in history.repo.diff(*names)}:
            wrong.append(f"diff of {names}")
    for ours, theirs, base, merged in history.merges:
        if copies.merge(base, ours, theirs) != merged:
            wrong.append(f"merge of {(ours, theirs)}")
    return wrong


# --- the tests


@needs_git
def test_git_agrees_on_some_histories(tmp_path):
    histories = [History(seed) for seed in range(10)]
    assert differences_from_git(histories, tmp_path / "git") == []


def test_sqlite_agrees_on_some_histories():
    assert [differences_from_sqlite(History(seed)) for seed in range(20)] == [[]] * 20


@pytest.mark.slow
@needs_git
def test_git_and_sqlite_agree_on_many_histories(tmp_path):
    count = pick(70, 1_700)
    merges = clean = 0
    for start in range(1_000, 1_000 + count, 100):
        histories = [History(seed) for seed in range(start, min(start + 100, 1_000 + count))]
        assert differences_from_git(histories, tmp_path / f"git{start}") == []
        for history in histories:
            assert differences_from_sqlite(history) == []
            merges += len(history.merges)
            clean += sum(merged.content is not None for *_, merged in history.merges)
        shutil.rmtree(tmp_path / f"git{start}")
    assert 0 < clean < merges
    record(
        "M2", histories=count, commits=count * COMMITS, merges=merges, without_conflict=clean, violations=0
    )


def ours_for_deleted(writer: Any, shape: Any, trees: Any, resolve: Any) -> Any:
    """A merge that takes a delete on one side for an older state of the other."""
    return whole_merge(writer, shape, (trees[1], trees[1], trees[2]), resolve)


whole_merge = merge.merge
whole_diff = diff.diff


@needs_git
def test_control_git_finds_a_merge_without_its_base(tmp_path, monkeypatch):
    monkeypatch.setattr(merge, "merge", ours_for_deleted)
    assert differences_from_git([History(seed) for seed in range(5)], tmp_path / "git")


def test_control_sqlite_finds_a_merge_without_its_base(monkeypatch):
    monkeypatch.setattr(merge, "merge", ours_for_deleted)
    assert any(differences_from_sqlite(History(seed)) for seed in range(5))


def test_control_sqlite_finds_a_diff_that_leaves_one_out(monkeypatch):
    history = History(1)
    monkeypatch.setattr(diff, "diff", lambda *given: list(whole_diff(*given))[1:])
    assert any(line.startswith("diff") for line in differences_from_sqlite(history))
