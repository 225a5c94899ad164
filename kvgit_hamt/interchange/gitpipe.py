"""The git program as a source of objects: refs, commits with their changes, blobs; each through one pipe.

Only plumbing that runs nothing of the repository's: no hooks, filters, external diffs or fetches of what a
partial clone lacks. Replaced objects and grafts are seen as they are stored.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Final, NamedTuple

from kvgit_hamt.errors import MissingDependencyError, SourceError

ABSENT: Final = "000000"  # the mode of what is not there
LINK: Final = "120000"
SUBMODULE: Final = "160000"
WINDOW: Final = (
    256  # objects asked for at a time: their names fit in a pipe, so git never waits for us to read
)
AHEAD: Final = 1_000  # commits that the listing may be ahead of what is taken
_END: Final = ("", ())
Known = Callable[[str, Sequence[str]], bool]
"""Whether a commit, with its parents, is here already."""


class GitRef(NamedTuple):
    """A branch or tag.

    Attributes:
        name: full ("refs/heads/main"), as bytes.
        oid: what it holds: a commit, or a tag object.
        commit: the commit that it leads to, "" if it leads to something else.
    """

    name: bytes
    oid: str
    commit: str


class FileChange(NamedTuple):
    """A path that differs from the first parent's; ``mode`` is ABSENT where it was removed."""

    path: bytes
    mode: str
    oid: str


class GitCommit(NamedTuple):
    """A commit and what it changes against its first parent (of none: everything)."""

    oid: str
    parents: tuple[str, ...]
    changes: list[FileChange]


class Git:
    """The git program over one repository, bare or not. ``name`` is what messages call it.

    Raises:
        MissingDependencyError: there is no git program. SourceError: there is no repository.
    """

    def __init__(self, path: str | os.PathLike[str], check: bool = True, name: str = "") -> None:
        self.path = Path(path)
        self.name = name or os.fspath(path)
        program = shutil.which("git")
        if program is None:
            raise MissingDependencyError("the git program is not installed, or not on the PATH")
        self._program = program
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        self._environment.update(
            LC_ALL="C", GIT_NO_REPLACE_OBJECTS="1", GIT_GRAFT_FILE=os.devnull, GIT_NO_LAZY_FETCH="1",
            GIT_OPTIONAL_LOCKS="0", GIT_TERMINAL_PROMPT="0", GIT_FLUSH="1",
        )  # fmt: skip
        if not os.path.isdir(path):
            raise SourceError(self.name, "", "is no directory")
        if check:
            self.run("rev-parse", "--git-dir")

    def _arguments(self, arguments: Sequence[str]) -> list[str]:
        return [self._program, "-C", str(self.path), "-c", "core.fsmonitor=false", *arguments]

    def run(self, *arguments: str, given: bytes = b"") -> bytes:
        """The output of a command that ends by itself.

        Raises:
            SourceError: it failed, with what it said.
        """
        done = subprocess.run(
            self._arguments(arguments), input=given, capture_output=True, check=False, env=self._environment
        )
        if done.returncode:
            raise self.failed(arguments[0], done.stderr)
        return done.stdout

    def failed(self, command: str, said: bytes) -> SourceError:
        """The error for a command that failed."""
        text = said.decode(errors="replace").strip() or "without a word"
        return SourceError(self.name, "", f"git {command} failed: {text}")

    @contextlib.contextmanager
    def pipe(
        self, *arguments: str, stderr: int | IO[bytes] = subprocess.DEVNULL
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A command that is talked to; ended with the block."""
        process = subprocess.Popen(
            self._arguments(arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=stderr, env=self._environment,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.kill()
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    if stream is not None:
                        stream.close()
            process.wait()

    # refs

    def refs(self, *under: str) -> list[GitRef]:
        """Refs below some places ("refs/heads"), by name."""
        found = self.run("for-each-ref", "--format=%(objectname) %(refname)", *under).splitlines()
        names = [line.split(b" ", 1) for line in found]
        asked = b"".join(oid + b"^{commit}\n" for oid, _ in names)
        answers = self.run("cat-file", "--batch-check=%(objectname)", given=asked).splitlines()
        return [
            GitRef(name, oid.decode(), "" if b" " in answer else answer.decode())
            for (oid, name), answer in zip(names, answers, strict=True)
        ]

    # commits

    def count(self, tips: Iterable[str]) -> int:
        """How many commits some commits reach."""
        return int(self.run("rev-list", "--count", "--stdin", given=_lines(tips)))

    def history(self, tips: Sequence[str], is_known: Known) -> Iterator[GitCommit]:
        """Commits that some commits reach, parents first, but those that are known; with their changes.

        Cost: git's listing, and its comparison of two trees, a commit. Memory: the changes of one commit.
        """
        with (
            self.pipe("rev-list", "--topo-order", "--reverse", "--parents", "--stdin") as lister,
            self.pipe("diff-tree", "--stdin", "-r", "--raw", "-z", "--root", "--always", "--no-abbrev",
                      "--no-renames", "--ignore-submodules=none") as differ,
        ):  # fmt: skip
            waiting: queue.Queue[tuple[str, tuple[str, ...]]] = queue.Queue(AHEAD)
            stop = threading.Event()
            feeder = _Feeder(lister, differ, (waiting, stop), is_known)
            thread = threading.Thread(target=feeder.run, args=(_lines(tips),), daemon=True)
            thread.start()
            try:
                yield from self._commits(differ, waiting)
                thread.join()
            finally:
                stop.set()
                lister.kill()
                differ.kill()
                thread.join()
            if lister.wait() or feeder.error is not None:
                raise SourceError(self.name, "", "git rev-list broke off: `git fsck` tells what is damaged")

    def _commits(
        self, differ: subprocess.Popen[bytes], waiting: queue.Queue[tuple[str, tuple[str, ...]]]
    ) -> Iterator[GitCommit]:
        assert differ.stdout is not None
        tokens = _tokens(differ.stdout)
        token = next(tokens, None)
        while token is not None:
            oid, parents = waiting.get()
            if token.decode("ascii", "replace") != oid:
                raise self.failed("diff-tree", b"it spoke of " + token + b" instead of " + oid.encode())
            changes = []
            token = next(tokens, None)
            while token is not None and token.startswith(b":"):
                _, mode, _, blob, _ = token.decode().split(" ")
                changes.append(FileChange(next(tokens), mode, blob))
                token = next(tokens, None)
            yield GitCommit(oid, parents, changes)
        if waiting.get() != _END:
            raise SourceError(self.name, "", "git diff-tree broke off: `git fsck` tells what is damaged")


class _Feeder:
    """Hands what rev-list lists to diff-tree, in a thread of its own."""

    def __init__(
        self,
        lister: subprocess.Popen[bytes],
        differ: subprocess.Popen[bytes],
        to: tuple[queue.Queue[tuple[str, tuple[str, ...]]], threading.Event],
        is_known: Known,
    ) -> None:
        assert lister.stdin is not None
        assert lister.stdout is not None
        assert differ.stdin is not None
        self._asked, self._listed, self._wanted = lister.stdin, lister.stdout, differ.stdin
        self._waiting, self._stop = to
        self._is_known = is_known
        self.error: OSError | None = None

    def run(self, tips: bytes) -> None:
        try:
            self._asked.write(tips)
            self._asked.close()
            for line in self._listed:
                oid, *parents = line.decode().split()
                if self._is_known(oid, parents):
                    continue
                if not self._put((oid, tuple(parents))):
                    return
                # A second name on the line is taken as the one parent; merges are told against their first.
                self._wanted.write((" ".join([oid, *parents[:1]]) + "\n").encode())
                self._wanted.flush()
            self._wanted.close()
        except (OSError, ValueError) as error:  # git has ended, or the pipes were closed
            self.error = error if isinstance(error, OSError) else None
        self._put(_END)

    def _put(self, item: tuple[str, tuple[str, ...]]) -> bool:
        while not self._stop.is_set():
            with contextlib.suppress(queue.Full):
                self._waiting.put(item, timeout=0.2)
                return True
        return False


class Objects:
    """Contents of objects, through one ``git cat-file --batch``."""

    def __init__(self, git: Git, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._git = git
        self._asked: IO[bytes] = process.stdin
        self._told: IO[bytes] = process.stdout

    def read(self, oids: Sequence[str]) -> Iterator[bytes]:
        """The contents of objects, in order.

        Raises:
            SourceError: one is missing, as in a partial clone.
        """
        for at in range(0, len(oids), WINDOW):
            part = oids[at : at + WINDOW]
            try:
                self._asked.write(_lines(part))
                self._asked.flush()
            except OSError as error:
                raise self._git.failed("cat-file", str(error).encode()) from error
            for oid in part:
                yield self._one(oid)

    def _one(self, oid: str) -> bytes:
        head = self._told.readline().split()
        if len(head) != 3 or head[0] != oid.encode():
            raise SourceError(self._git.name, f"object {oid}", "is missing from the repository or damaged")
        size = int(head[2])
        data = self._told.read(size)
        if len(data) != size or self._told.read(1) != b"\n":
            raise SourceError(self._git.name, f"object {oid}", "git cat-file broke off")
        return data


@contextlib.contextmanager
def objects(git: Git) -> Iterator[Objects]:
    """A reader of objects, for the length of a block."""
    with git.pipe("cat-file", "--batch") as process:
        yield Objects(git, process)


def _lines(names: Iterable[str]) -> bytes:
    return "".join(f"{name}\n" for name in names).encode()


def _tokens(stream: IO[bytes]) -> Iterator[bytes]:
    """What stands between NUL bytes."""
    rest = b""
    while chunk := os.read(stream.fileno(), 1 << 16):
        parts = (rest + chunk).split(b"\0")
        rest = parts.pop()
        yield from parts
    if rest:
        yield rest
