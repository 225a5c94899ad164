"""A store's history as a new git repository: each commit one of git's.

``git fast-import`` makes the trees, as those of a scratch history; then the commits are written over these
trees, to the byte. So what came from git goes back as it was: commits and tags get their ids again, signed
ones too.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import stat
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any, Final, Literal

from kvgit_hamt import diff, graph, hamt, scan
from kvgit_hamt.errors import BranchNotFoundError, SourceError
from kvgit_hamt.hamt import Tree
from kvgit_hamt.interchange.base import Progress, Step, encode_json
from kvgit_hamt.interchange.files import path_of
from kvgit_hamt.interchange.gitpipe import LINK, SUBMODULE, WINDOW, Git, objects
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
_KEPT: Final = (b"author", b"committer", b"encoding")
_HEADER = re.compile(rb"^(author|committer|encoding) (.*)$", re.M)
_WHO = re.compile(rb"[^<>\n\0]*<[^<>\n\0]*> -?\d+ [+-]\d{4}")
_OID = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
PACK_VERSION: Final = 2
COMMIT_TYPE: Final = 1  # of an object in a pack


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
        branches: names, or patterns such as ``release-*``; None: all.
        values: "files": values are bytes, text, or maps as ``import_git`` makes them; "json": others are
            written as a line of JSON.

    The author is the info's "author" ("Name <address>"), the date its "date" or the commit's time, the
    message its "message".

    Raises:
        BranchNotFoundError: a name or pattern fits none.
        SourceError: a key or a value is none that git can hold, or the directory exists or cannot be written.
        MissingDependencyError: there is no git program.

    Cost: per commit, what it changes. Memory: the largest value, and some 200 bytes a commit.
    """
    target = Path(path).absolute()  # git is run in another directory
    if target.exists():
        raise SourceError(str(target), "", "exists; give the name of a new directory")
    names = _heads(repo, branches)
    if tags:
        names.update((TAGS + name, value) for name, value in repo.refs.under(TAGS))
    try:
        scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    except OSError as error:
        raise SourceError(str(target), "", f"cannot be written: {error.strerror}") from error
    try:
        git = Git(scratch, check=False, name=str(target))
        git.run("init", "--quiet", "--bare", "--template=", "--object-format=sha1")
        export = _Export(repo, git, values, progress)
        ids = export.run({value.oid for value in names.values()})
        refs = {f"refs/{name}": export.ref(value, ids) for name, value in sorted(names.items())}
        _set_refs(git, refs)
        for tidy in (("repack", "-a", "-d", "-q"), ("prune", "--expire=now")):  # the scratch history goes
            git.run(*tidy)
        os.chmod(scratch, 0o755)
        os.rename(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return GitExportResult(len(ids), export.same, refs)


def _heads(repo: Repo, wanted: Sequence[str] | None) -> dict[str, RefValue]:
    """The branches that are named, or fit a pattern; all for None."""
    found = repo.refs.under(HEADS)
    for pattern in wanted or ():
        if not any(fnmatchcase(name, pattern) for name, _ in found):
            if not set(pattern) & set("*?["):
                repo.branches.head(pattern)  # tells of one that was lost
            raise BranchNotFoundError(f"there is no branch {pattern!r}")
    return {
        HEADS + name: value
        for name, value in found
        if wanted is None or any(fnmatchcase(name, pattern) for pattern in wanted)
    }


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
        if not oids:
            return {}
        trees = self._write_trees(oids)
        ids: dict[bytes, str] = {}
        with self._talk("index-pack", "--stdin") as to, objects(self.git) as source:
            pack = _Pack(to, len(oids))
            for at in range(0, len(oids), WINDOW):
                part = oids[at : at + WINDOW]
                for oid, scratch in zip(part, source.read([trees[each] for each in part]), strict=True):
                    tree, _, _ = scratch.partition(b"\n")
                    ids[oid] = self._write_commit(pack, tree, self.store.read_commit(oid), ids)
            pack.end()
        return ids

    def _write_commit(self, pack: _Pack, tree: bytes, commit: CommitObject, ids: dict[bytes, str]) -> str:
        """Write a commit as git had it, if that gives the id it had; else without what was signed."""
        head = tree + b"\n" + b"".join(f"parent {ids[oid]}\n".encode() for oid, _ in commit.parents)
        info = commit.info or {}
        said = info.get(GIT)
        wanted = said.get("commit") if isinstance(said, dict) else None
        raw = said.get("raw") if isinstance(said, dict) else None
        body = raw if isinstance(raw, bytes) else text_of_info(info)
        if body is not None and _id_of(head + body) == wanted:
            self.same += 1
        else:
            body = _body_for(commit, info, body or b"")
        return pack.add(head + body)

    def _write_trees(self, oids: list[bytes]) -> dict[bytes, str]:
        """A scratch commit with the right tree for each commit; their ids."""
        marks = {oid: number for number, oid in enumerate(oids, 1)}
        file = self.git.path / "export.marks"
        with self._talk("fast-import", "--quiet", "--done", f"--export-marks={file}") as to:
            self._write_all(to, marks)
        trees = dict(_read_marks(file, oids))
        file.unlink()
        return trees

    @contextlib.contextmanager
    def _talk(self, *arguments: str) -> Iterator[IO[bytes]]:
        """A command of git's that is written to.

        Raises:
            SourceError: it failed, with what it said.
        """
        log = self.git.path / "export.log"
        with open(log, "wb") as said, self.git.pipe(*arguments, stderr=said) as process:
            assert process.stdin is not None
            try:
                yield process.stdin
                process.stdin.close()
            except OSError:  # it has ended; its words tell more
                process.kill()
            if process.wait():
                raise self.git.failed(arguments[0], log.read_bytes())
        log.unlink()

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
        to.write(f"commit {SCRATCH_REF}\nmark :{marks[commit.oid]}\n".encode())
        to.write(f"committer {_NOBODY} 0 +0000\ndata 0\n".encode())
        for parent, _ in commit.parents[:1]:
            to.write(f"from :{marks[parent]}\n".encode())

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
        try:
            path = path_of(text)
        except ValueError as error:
            raise ValueError(f"key {text!r}: {error}") from error
        if b".git" in path.lower().split(b"/"):
            raise ValueError(f"{text!r}: git has no files below .git")
        check()
        mode, data = self._content(text, self.repo.codec.decode_for(text, self.store.load_value(stored)))
        if isinstance(data, str):
            if not _OID.fullmatch(data):
                raise ValueError(f"{text!r}: {data!r:.60} is no id of a commit")
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


class _Pack:
    """Writes objects as a stream that ``git index-pack`` takes."""

    def __init__(self, to: IO[bytes], count: int) -> None:
        self._to = to
        self._sum = hashlib.sha1(usedforsecurity=False)
        self._write(b"PACK" + struct.pack(">II", PACK_VERSION, count))

    def _write(self, data: bytes) -> None:
        self._sum.update(data)
        self._to.write(data)

    def add(self, commit: bytes) -> str:
        """Write a commit; its id."""
        size = len(commit)
        head = [COMMIT_TYPE << 4 | size & 15]
        size >>= 4
        while size:  # seven bits a byte, the lowest first; the top bit says that more follow
            head[-1] |= 128
            head.append(size & 127)
            size >>= 7
        self._write(bytes(head) + zlib.compress(commit))
        return _id_of(commit)

    def end(self) -> None:
        """Write the sum over all of it."""
        self._to.write(self._sum.digest())


def _id_of(commit: bytes) -> str:
    return hashlib.sha1(b"commit %d\0" % len(commit) + commit, usedforsecurity=False).hexdigest()


def _body_for(commit: CommitObject, info: dict[str, Any], known: bytes) -> bytes:
    """The body of a commit that git did not have so: ``known`` without its signature, or a new one."""
    head, _, message = known.partition(b"\n\n")
    headers = {found[1]: found[2] for found in _HEADER.finditer(head)}
    if all(_WHO.fullmatch(headers.get(who, b"")) for who in (b"author", b"committer")):
        lines = [b"%s %s\n" % (name, headers[name]) for name in _KEPT if name in headers]
        return b"".join(lines) + b"\n" + message
    author = info.get("author")
    if not isinstance(author, str) or not re.fullmatch(r"[^<>\n\0]*<[^<>\n\0]*>", author):
        name = re.sub(r"[<>\n\0]", " ", author).strip() if isinstance(author, str) else ""
        author = f"{name} <>" if name else _NOBODY
    date = raw_date(to_datetime(commit.time_us or 0))
    text = info.get("message")
    shown = text if isinstance(text, str) else ""
    return f"author {author} {date}\ncommitter {author} {date}\n\n{shown}".encode()


def _read_marks(path: Path, oids: list[bytes]) -> Iterator[tuple[bytes, str]]:
    with open(path, "rb") as lines:
        for line in lines:
            mark, oid = line.split()
            yield oids[int(mark[1:]) - 1], oid.decode()


_SAFE: Final = frozenset(range(0x20, 0x7F)) - {0x22, 0x5C}


def _quoted(path: bytes) -> bytes:
    return b'"' + b"".join(b"%c" % byte if byte in _SAFE else b"\\%03o" % byte for byte in path) + b'"'
