"""A git repository with its history: each of git's commits one commit, with the same parents in their order.

Paths are keys, contents are values; see ``gittext`` for what a commit's info holds and how modes are kept.
The cost of a commit is what it changes. Commits are published in batches under a branch of their own,
IN_PROGRESS; branches and tags come last, all in one step, and that branch goes. A run that was stopped is
continued by the next, and a later run takes what git has got since: which commits are here is read from
their info.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from kvgit_hamt import graph, history
from kvgit_hamt.backend.base import RefUpdate
from kvgit_hamt.errors import (
    BranchExistsError,
    InvalidInputError,
    InvalidNameError,
    KvgitHamtError,
    SourceError,
)
from kvgit_hamt.hamt import Editor, Tree, put_empty
from kvgit_hamt.history import CommitMeta
from kvgit_hamt.interchange.base import Progress, Step, text_of
from kvgit_hamt.interchange.gitpipe import (
    ABSENT,
    SUBMODULE,
    FileChange,
    Git,
    GitCommit,
    GitRef,
    Objects,
    objects,
)
from kvgit_hamt.interchange.gittext import GIT, body_of, info_of, submodule_of, value_of
from kvgit_hamt.kernel import make_run
from kvgit_hamt.node import Value
from kvgit_hamt.objects import CommitObject, RefValue
from kvgit_hamt.refs import HEADS, TAGS, check_name
from kvgit_hamt.repo import Repo
from kvgit_hamt.snapshot import encode_key
from kvgit_hamt.store import StoreWriter

IN_PROGRESS: Final = "git-import-in-progress"
BATCH_COMMITS: Final = 500  # published in one durable step
BATCH_BYTES: Final = 32 << 20  # of contents, likewise
RECENT: Final = 4_096  # commits kept as objects, since most parents are near


@dataclass(frozen=True, slots=True)
class GitImportResult:
    """What an import from git did.

    Attributes:
        commits: how many were made now.
        earlier: how many of the repository's were here already.
        branches, tags: name -> commit id, of those that were made or moved now.
        skipped: (git's name, why) of refs that are not here: tags of something else than commits or that
            exist with another commit, names that the rules forbid.
    """

    commits: int
    earlier: int
    branches: dict[str, str]
    tags: dict[str, str]
    skipped: tuple[tuple[str, str], ...]


def import_git(  # noqa: PLR0913 (options that users give by name)
    repo: Repo,
    path: str | os.PathLike[str],
    *,
    branches: Sequence[str] | None = None,
    tags: bool = True,
    into: str = "",
    force: bool = False,
    progress: Progress | None = None,
) -> GitImportResult:
    """Import the history of a git repository, or what was added to it since the last import.

    Args:
        path: a repository, bare or not.
        branches: names, or patterns such as "release-*"; None: all. (Those of remotes are
            "remotes/origin/main".)
        tags: whether to import tags, with the history that they lead to.
        into: put before the names of branches and tags here, as in "upstream/".
        force: also move branches that hold commits here that git's do not.

    Raises:
        SourceError: there is no such repository, an object of it is missing, or the store's codec cannot hold
            a file. What was published stays, and the next run goes on from there.
        MissingDependencyError: there is no git program.
        BranchExistsError: a branch here has commits that git's does not. No ref was moved.
        BranchMovedError: somebody else moved a ref meanwhile; run again.

    Cost: per commit, what it changes. Memory: the changed contents of a commit, and some 200 bytes a commit.
    """
    check_name(into + "x")
    repo.check_open()
    git = Git(path)
    refs = _wanted(git, branches, tags)
    work = _Import(repo, git, progress)
    tips = sorted({ref.commit for ref in refs if ref.commit})
    total = git.count(tips) if tips else 0
    if tips:
        with objects(git) as source:
            work.run(git.history(tips, work.is_known), source, total)
    publisher = _Publisher(repo, work, into, force)
    with objects(git) as source:
        for ref in refs:
            publisher.add(ref, source)
    publisher.publish()
    if progress is not None:
        progress(Step("publish", total, total, total, "commits"))
    return GitImportResult(
        work.made, total - work.made, publisher.branches, publisher.tags, tuple(publisher.skipped)
    )


def _wanted(git: Git, branches: Sequence[str] | None, tags: bool) -> list[GitRef]:
    """The refs to import.

    Raises:
        InvalidInputError: a name or pattern fits no branch.
    """
    if isinstance(branches, str):
        raise InvalidInputError("give a list of branches, not one str")
    heads = git.refs("refs/heads") if branches is None else git.refs("refs/heads", "refs/remotes")
    heads = [ref for ref in heads if not ref.name.endswith(b"/HEAD") or ref.name.startswith(b"refs/heads/")]
    if branches is not None:
        names = {ref.name: _short(ref.name) for ref in heads}
        for pattern in branches:
            if not any(fnmatchcase(name, pattern) for name in names.values()):
                shown = ", ".join(sorted(names.values())[:10]) or "none"
                raise InvalidInputError(f"git has no branch {pattern!r}; it has {shown}")
        heads = [ref for ref in heads if any(fnmatchcase(names[ref.name], each) for each in branches)]
    return heads + (git.refs("refs/tags") if tags else [])


def _short(name: bytes) -> str:
    """A ref's name without "refs/" and "heads/" or "tags/"."""
    text = name.decode("utf-8", "backslashreplace").removeprefix("refs/")
    return text.removeprefix("heads/").removeprefix("tags/")


class _Import:
    """Makes the commits."""

    def __init__(self, repo: Repo, git: Git, progress: Progress | None) -> None:
        self.repo = repo
        self.store = repo.store
        self.git = git
        self.progress = progress
        self.made = 0
        self.passed = 0  # commits of git's that were here already
        self._head = repo.refs.get(HEADS + IN_PROGRESS)
        self._known: dict[bytes, bytes] = {}  # git's id -> ours
        # git's id -> (our id, those of its parents): what says that it is this commit of git's. A commit that
        # was picked onto another says so too, but it has other parents.
        self._candidates: dict[bytes, list[tuple[bytes, tuple[bytes, ...]]]] = {}
        self._recent: dict[bytes, CommitObject] = {}
        self._open: dict[bytes, CommitObject] = {}  # of the batch, those without a child in it
        self._bytes = 0
        self._read_candidates()

    def _read_candidates(self) -> None:
        """Which of git's commits may be here, from all branches and tags."""
        heads = {value.oid for _, value in self.repo.refs.named()}
        starts = [self.store.read_commit(oid) for oid in heads]
        for commit in graph.log(self.store, starts):
            oid = _git_id(commit.info)
            if oid is not None:
                parents = tuple(parent for parent, _ in commit.parents)
                self._candidates.setdefault(oid, []).append((commit.oid, parents))

    def is_known(self, oid: str, parents: Sequence[str]) -> bool:
        """Whether a commit of git's is here, with the same parents; asked once of each, parents first."""
        wanted = tuple(self._known.get(bytes.fromhex(parent)) for parent in parents)
        for ours, links in self._candidates.pop(bytes.fromhex(oid), ()):
            if links == wanted:
                self._known[bytes.fromhex(oid)] = ours
                self.passed += 1
                return True
        return False

    def commit(self, oid: str) -> CommitObject:
        """The commit here that a commit of git's became."""
        found = self._recent.get(bytes.fromhex(oid))
        return found or self.store.read_commit(self._known[bytes.fromhex(oid)])

    def run(self, commits: Iterator[GitCommit], source: Objects, total: int) -> None:
        """Make all commits, in batches; the last one is published too."""
        waiting = next(commits, None)
        while waiting is not None:
            writer = self.store.bulk_writer()
            self._open.clear()
            self._bytes = 0
            try:
                last = self._make(writer, waiting, source)
                waiting = next(commits, None)
                count = 1
                while waiting is not None and count < BATCH_COMMITS and self._bytes < BATCH_BYTES:
                    last = self._make(writer, waiting, source)
                    waiting = next(commits, None)
                    count += 1
                self._publish(writer, last)
            finally:
                writer.release()
            self.made += count
            if self.progress is not None:
                done = min(total, self.passed + self.made)
                self.progress(Step("read", done, done, total, "commits"))

    def _make(self, writer: StoreWriter, given: GitCommit, source: Objects) -> CommitObject:
        """Put one commit into the batch."""
        parents = tuple(self.commit(parent) for parent in given.parents)
        tree = Tree(*parents[0].tree) if parents else put_empty(writer)
        wanted = [change.oid for change in given.changes if change.mode not in (ABSENT, SUBMODULE)]
        contents = source.read([given.oid, *wanted])
        body = body_of(next(contents))
        try:
            edits = [(encode_key(text_of(change.path)), self._value(writer, change, contents))
                     for change in given.changes]  # fmt: skip
        except SourceError:
            raise
        except KvgitHamtError as error:
            raise SourceError(self.git.name, f"commit {given.oid}", str(error)) from error
        tree = Editor(writer, self.store.shape).apply(tree, make_run(self.store.shape, edits))
        info, time_us = info_of(given.oid, body)
        commit = history.put_commit(writer, tree, parents, CommitMeta(time_us, info, self.repo.codec.name))
        self._bytes += len(body)
        self._note(given, commit)
        return commit

    def _value(self, writer: StoreWriter, change: FileChange, contents: Iterator[bytes]) -> Value | None:
        if change.mode == ABSENT:
            return None
        if change.mode == SUBMODULE:
            value = submodule_of(change.oid)
        else:
            data = next(contents)
            self._bytes += len(data)
            value = value_of(change.mode, data)
        return writer.put_value(self.repo.codec.encode_for(text_of(change.path), value))

    def _note(self, given: GitCommit, commit: CommitObject) -> None:
        oid = bytes.fromhex(given.oid)
        self._known[oid] = commit.oid
        self._recent[oid] = commit
        if len(self._recent) > RECENT:
            del self._recent[next(iter(self._recent))]
        for parent in commit.parents:
            self._open.pop(parent[0], None)
        self._open[commit.oid] = commit

    def _publish(self, writer: StoreWriter, last: CommitObject) -> None:
        """Store the batch, under a commit of our own that holds all of it together."""
        before = self._head
        held = [] if before is None else [self.store.read_commit(before.oid)]
        info = {"message": "an import from git is in progress", "import": {"format": "git"}}
        knot = history.put_commit(
            writer, Tree(*last.tree), (*held, *self._open.values()),
            CommitMeta(self.repo.refs.clock(), info, self.repo.codec.name),
        )  # fmt: skip
        self._head = RefValue(knot.oid)
        update = self.repo.refs.update(HEADS + IN_PROGRESS, before, self._head, "import: from git")
        writer.publish([update], [knot.oid])

    @property
    def head(self) -> RefValue | None:
        """Where the branch IN_PROGRESS is."""
        return self._head


def _git_id(info: Mapping[str, Any] | None) -> bytes | None:
    """Git's id of a commit that was imported."""
    said = (info or {}).get(GIT)
    oid = said.get("commit") if isinstance(said, dict) else None
    try:
        return bytes.fromhex(oid) if isinstance(oid, str) else None
    except ValueError:
        return None


class _Publisher:
    """Sets branches and tags, all in one step."""

    def __init__(self, repo: Repo, work: _Import, into: str, force: bool) -> None:
        self.repo = repo
        self.work = work
        self.into = into
        self.force = force
        self.branches: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.skipped: list[tuple[str, str]] = []
        self._updates: list[RefUpdate] = []
        self._required: set[bytes] = set()

    def add(self, ref: GitRef, source: Objects) -> None:
        """Take a ref in, or note why it cannot be."""
        is_tag = ref.name.startswith(b"refs/tags/")
        try:
            name = check_name(self.into + _short(ref.name), "tag" if is_tag else "branch")
            ref.name.decode()
        except (InvalidNameError, UnicodeDecodeError) as error:
            self.skipped.append((_short(ref.name), str(error)))
            return
        if not ref.commit:
            self.skipped.append((name, "it leads to no commit"))
        elif name == IN_PROGRESS and not is_tag:
            self.skipped.append((name, "the import itself uses this name; import into another prefix"))
        elif is_tag:
            self._tag(name, ref, source)
        else:
            self._branch(name, self.work.commit(ref.commit))

    def _tag(self, name: str, ref: GitRef, source: Objects) -> None:
        target = self.work.commit(ref.commit)
        there = self.repo.refs.get(TAGS + name)
        if there is not None:
            if there.oid != target.oid:
                self.skipped.append((name, f"the tag exists at {there.oid.hex()[:8]}; tags never move"))
            return
        info = None
        if ref.oid != ref.commit:
            (raw,) = source.read([ref.oid])
            head, _, message = raw.partition(b"\n\n")
            info = {"message": message.decode(errors="replace"), GIT: {"tag": ref.oid, "raw": raw}}
            for line in head.split(b"\n"):
                if line.startswith(b"tagger "):
                    info["tagger"] = line[7:].decode(errors="replace")
        self._set(TAGS + name, None, RefValue(target.oid, info))
        self.tags[name] = target.oid.hex()

    def _branch(self, name: str, target: CommitObject) -> None:
        there = self.repo.refs.get(HEADS + name)
        if there is not None and there.oid == target.oid:
            return
        if there is not None and not self.force and not self._may_go(there.oid, target):
            raise BranchExistsError(
                f"the branch {name!r} has commits here that git's does not: import under other names "
                "(into=..), or move it all the same (force=True). No branch or tag was changed"
            )
        self._set(HEADS + name, there, RefValue(target.oid))
        self.branches[name] = target.oid.hex()

    def _may_go(self, oid: bytes, target: CommitObject) -> bool:
        """Whether nothing is lost when a branch leaves a commit for another."""
        if oid == history.initial_oid(self.repo.codec.name):
            return True
        store = self.repo.store
        return graph.is_ancestor(store, store.read_commit(oid), target)

    def _set(self, full: str, old: RefValue | None, new: RefValue) -> None:
        self._updates.append(self.repo.refs.update(full, old, new, "import: from git"))
        self._required.add(new.oid)

    def publish(self) -> None:
        """Set all of them, and take IN_PROGRESS away."""
        head = self.work.head
        if head is not None:
            self._updates.append(
                self.repo.refs.update(HEADS + IN_PROGRESS, head, None, "import: from git is done")
            )
        if self._updates:
            self.repo.store.writer().publish(self._updates, sorted(self._required))
