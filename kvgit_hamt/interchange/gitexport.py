"""A store's history as a new git repository: each commit one of git's, through ``git fast-import``.

What came from git goes back as it was: commits and annotated tags get their ids again, but for signed commits
and those after them, since fast-import writes no signatures.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal

from kvgit_hamt import diff, graph, hamt, scan
from kvgit_hamt.errors import SourceError
from kvgit_hamt.hamt import Tree
from kvgit_hamt.interchange.base import Progress, Step, encode_json
from kvgit_hamt.interchange.files import path_of
from kvgit_hamt.interchange.gitpipe import LINK, SUBMODULE, Git
from kvgit_hamt.interchange.gittext import GIT, PLAIN, file_of, raw_date, text_of_info
from kvgit_hamt.node import Value
from kvgit_hamt.objects import CommitObject, RefValue
from kvgit_hamt.refs import HEADS, TAGS, to_datetime
from kvgit_hamt.repo import MAIN, Repo

SCRATCH_REF: Final = "refs/export/scratch"
EXECUTABLE: Final = "100755"
REPORT_EVERY: Final = 100  # commits
_NOBODY: Final = "kvgit_hamt <>"
_MODES: Final = frozenset({PLAIN, EXECUTABLE, LINK, SUBMODULE})
_HEADER = re.compile(rb"^(author|committer|encoding) (.*)$", re.M)


@dataclass(frozen=True, slots=True)
class GitExportResult:
    """What an export to git did.

    Attributes:
        commits: how many were written.
        same: how many of them have the id that they had in git when they were imported.
        refs: git's name -> git's id, of each branch and tag.
    """

    commits: int
    same: int
    refs: dict[str, str]


def export_git(
    repo: Repo,
    path: str | os.PathLike[str],
    *,
    branches: Sequence[str] | None = None,
    tags: bool = True,
    values: Literal["files", "json"] = "files",
    progress: Progress | None = None,
) -> GitExportResult:
    """Write branches and tags, with their history, into a new bare git repository.

    Args:
        path: a directory that does not exist; it is there whole or not at all.
        branches: names; None: all.
        values: "files": values are bytes, text, or maps as ``import_git`` makes them; "json": others are
            written as a line of JSON.

    The author is the info's "author" ("Name <address>"), the date its "date" or the commit's time, the
    message its "message".

    Raises:
        SourceError: a key or a value is none that git can hold, or the directory exists or cannot be written.
        MissingDependencyError: there is no git program.

    Cost: per commit, what it changes. Memory: the largest value, and some 200 bytes a commit.
    """
    target = Path(path).absolute()  # git is run in another directory
    if target.exists():
        raise SourceError(str(target), "", "exists; give the name of a new directory")
    names = {HEADS + name: value for name, value in repo.refs.under(HEADS)}
    if branches is not None:
        names = {HEADS + name: repo.branches.head(name) for name in branches}
    if tags:
        names.update((TAGS + name, value) for name, value in repo.refs.under(TAGS))
    try:
        scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    except OSError as error:
        raise SourceError(str(target), "", f"cannot be written: {error.strerror}") from error
    try:
        git = Git(scratch, check=False, name=str(target))
        git.run("init", "--quiet", "--bare", "--template=")
        export = _Export(repo, git, values, progress)
        ids = export.run({value.oid for value in names.values()})
        refs = {f"refs/{name}": export.ref(value, ids) for name, value in sorted(names.items())}
        _set_refs(git, refs)
        os.chmod(scratch, 0o755)
        os.rename(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return GitExportResult(len(ids), export.same, refs)


def _set_refs(git: Git, refs: dict[str, str]) -> None:
    lines = [f"create {name}\0{oid}\0" for name, oid in refs.items()]
    lines.append(f"delete {SCRATCH_REF}\0\0")
    git.run("update-ref", "--stdin", "-z", given="".join(lines).encode())
    heads = [name for name in refs if name.startswith("refs/heads/")]
    main = f"refs/heads/{MAIN}"
    if heads:
        git.run("symbolic-ref", "HEAD", main if main in heads else heads[0])


class _Export:
    def __init__(
        self, repo: Repo, git: Git, values: Literal["files", "json"], progress: Progress | None
    ) -> None:
        self.repo = repo
        self.store = repo.store
        self.git = git
        self.is_json = values == "json"
        self.progress = progress
        self.same = 0

    def run(self, heads: Iterable[bytes]) -> dict[bytes, str]:
        """Write all commits that some reach; git's id of each."""
        starts = [self.store.read_commit(oid) for oid in heads]
        oids = [commit.oid for commit in graph.log(self.store, starts)]
        oids.reverse()  # parents first
        marks = {oid: number for number, oid in enumerate(oids, 1)}
        place = self.git.path
        with open(place / "export.log", "wb") as log:
            arguments = ["fast-import", "--quiet", "--done", "--date-format=raw-permissive",
                         f"--export-marks={place / 'export.marks'}"]  # fmt: skip
            with self.git.pipe(*arguments, stderr=log) as process:
                assert process.stdin is not None
                try:
                    self._write_all(process.stdin, marks)
                    process.stdin.close()
                except OSError:  # it has ended; its words tell more
                    process.kill()
                if process.wait():
                    raise self.git.failed("fast-import", (place / "export.log").read_bytes())
        ids = dict(_read_marks(place / "export.marks", oids))
        for name in ("export.log", "export.marks"):
            (place / name).unlink()
        self._count_same(ids)
        return ids

    def _count_same(self, ids: dict[bytes, str]) -> None:
        for oid, written in ids.items():
            said = (self.store.read_commit(oid).info or {}).get(GIT)
            self.same += isinstance(said, dict) and said.get("commit") == written

    def _write_all(self, to: IO[bytes], marks: dict[bytes, int]) -> None:
        for oid, mark in marks.items():
            commit = self.store.read_commit(oid)
            self._head(to, commit, marks)
            try:
                self._changes(to, commit)
            except (ValueError, TypeError) as error:
                at = f"commit {commit.oid.hex()[:8]}"
                raise SourceError(self.git.name, at, f"cannot be written to git: {error}") from error
            if self.progress is not None and mark % REPORT_EVERY == 0:
                self.progress(Step("write", mark, mark, len(marks), "commits"))
        to.write(b"done\n")

    def _head(self, to: IO[bytes], commit: CommitObject, marks: dict[bytes, int]) -> None:
        if not commit.parents:
            to.write(f"reset {SCRATCH_REF}\n\n".encode())
        headers, message = _text(commit)
        to.write(f"commit {SCRATCH_REF}\nmark :{marks[commit.oid]}\n".encode())
        for name in (b"author", b"committer", b"encoding"):
            if name in headers:
                to.write(name + b" " + headers[name] + b"\n")
        to.write(b"data %d\n%s\n" % (len(message), message))
        for at, (parent, _) in enumerate(commit.parents):
            to.write(f"{'merge' if at else 'from'} :{marks[parent]}\n".encode())

    def _changes(self, to: IO[bytes], commit: CommitObject) -> None:
        """What differs from the first parent: removals first, since a file may give way to a directory."""
        tree = Tree(*commit.tree)
        for key, _, new in self._diff(commit, tree):
            if new is None:
                to.write(b"D " + _quoted(path_of(key.decode())) + b"\n")
        for key, old, new in self._diff(commit, tree):
            if new is not None:
                self._file(to, key, new, (lambda: None) if old is not None else self._clash(tree, key))
        to.write(b"\n")

    def _diff(
        self, commit: CommitObject, tree: Tree
    ) -> Iterator[tuple[bytes, Value | None, Value | None]]:  # fmt: skip
        shape = self.store.shape
        if commit.parents:
            old = Tree(*self.store.read_commit(*commit.parents[0]).tree)
            yield from diff.diff(self.store, shape, old, tree, b"")
        else:
            for key, value in scan.items(self.store, shape, tree):
                yield key, None, value

    def _clash(self, tree: Tree, key: bytes) -> Callable[[], None]:
        """Refuses a key that is a file here and a directory there."""
        shape = self.store.shape

        def check() -> None:
            parts = key.split(b"/")
            for end in range(1, len(parts)):
                above = b"/".join(parts[:end])
                if hamt.get(self.store, shape, tree, above) is not None:
                    raise ValueError(f"{above.decode()!r} is a key, and a directory of {key.decode()!r}")
            for below in scan.keys(self.store, shape, tree, key + b"/"):
                raise ValueError(f"{key.decode()!r} is a key, and a directory of {below.decode()!r}")

        return check

    def _file(self, to: IO[bytes], key: bytes, stored: Value, check: Callable[[], None]) -> None:
        text = key.decode()
        path = path_of(text)
        if b".git" in path.lower().split(b"/"):
            raise ValueError(f"{text!r}: git has no files below .git")
        check()
        mode, data = self._content(text, self.repo.codec.decode_for(text, self.store.load_value(stored)))
        if isinstance(data, str):
            to.write(f"M {mode} {data} ".encode() + _quoted(path) + b"\n")
        else:
            to.write(f"M {mode} inline ".encode() + _quoted(path) + b"\ndata %d\n" % len(data))
            to.write(data)
            to.write(b"\n")

    def _content(self, key: str, value: Any) -> tuple[str, bytes | str]:
        try:
            mode, data = file_of(value)
        except TypeError as error:
            if not self.is_json:
                raise TypeError(f'key {key!r}: {error}; say values="json" to write such as JSON') from error
            return PLAIN, encode_json(value).encode() + b"\n"
        if mode not in _MODES:  # old repositories have some such
            mode = EXECUTABLE if int(mode, 8) & stat.S_IXUSR else PLAIN
        return mode, data

    def ref(self, value: RefValue, ids: dict[bytes, str]) -> str:
        """What a ref gets: the commit, or the tag object that it was imported with, if it names that."""
        oid = ids[value.oid]
        said = (value.info or {}).get(GIT)
        raw = said.get("raw") if isinstance(said, dict) else None
        if isinstance(raw, bytes) and raw.startswith(f"object {oid}\n".encode()):
            return self.git.run("hash-object", "-t", "tag", "-w", "--stdin", given=raw).decode().strip()
        return oid


def _text(commit: CommitObject) -> tuple[dict[bytes, bytes], bytes]:
    """(author, committer and encoding; message) as git has them."""
    info = commit.info or {}
    said = info.get(GIT)
    raw = said.get("raw") if isinstance(said, dict) else None
    body = raw if isinstance(raw, bytes) else text_of_info(info)
    if body is None:
        body = _body_for(commit, info)
    head, _, message = body.partition(b"\n\n")
    return {found[1]: found[2] for found in _HEADER.finditer(head)}, message


def _body_for(commit: CommitObject, info: dict[str, Any]) -> bytes:
    """A git commit's body for a commit that did not come from git."""
    author = info.get("author")
    if not isinstance(author, str) or not re.fullmatch(r"[^<>\n\0]*<[^<>\n\0]*>", author):
        name = re.sub(r"[<>\n\0]", " ", author).strip() if isinstance(author, str) else ""
        author = f"{name} <>" if name else _NOBODY
    date = raw_date(to_datetime(commit.time_us or 0))
    message = info.get("message")
    text = message if isinstance(message, str) else ""
    return f"author {author} {date}\ncommitter {author} {date}\n\n{text}".encode()


def _read_marks(path: Path, oids: list[bytes]) -> Iterator[tuple[bytes, str]]:
    with open(path, "rb") as lines:
        for line in lines:
            mark, oid = line.split()
            yield oids[int(mark[1:]) - 1], oid.decode()


_SAFE: Final = frozenset(range(0x20, 0x7F)) - {0x22, 0x5C}


def _quoted(path: bytes) -> bytes:
    return b'"' + b"".join(b"%c" % byte if byte in _SAFE else b"\\%03o" % byte for byte in path) + b'"'
