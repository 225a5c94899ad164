"""git by its command line: keys are files in 65,536 directories, written by fast-import."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.adapters.base import Adapter, Pair

WHO = b"bench <bench@localhost> "
FLAT = "user:"


class Git(Adapter):
    """A bare repository."""

    title = "git (cli)"
    how = (
        "a bare repository, a key at xx/yy/KEY by its CRC (one with a / at its own path); "
        "one fast-import a commit; cat-file --batch kept running for gets; diff-tree; "
        "merge-tree --write-tree; durable: core.fsync=committed,reference, else none"
    )
    modules = ()
    takes_bytes = True

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._durable = True
        self._reader: Any = None
        self._clock = itertools.count(1_700_000_000)

    @classmethod
    def versions(cls) -> dict[str, str]:
        """Of the program; without merge-tree --write-tree (before 2.38) it is not measured."""
        if shutil.which("git") is None:
            raise ImportError("git is not on the path")
        text = subprocess.run(["git", "--version"], capture_output=True, text=True, check=True).stdout
        version = text.split()[2]
        if tuple(map(int, version.split(".")[:2])) < (2, 38):
            raise ImportError(f"git {version} has no merge-tree --write-tree")
        return {"git": version}

    def _command(self, *words: str) -> list[str]:
        sync = "committed,reference" if self._durable else "none"
        return ["git", "-c", f"core.fsync={sync}", "-C", str(self.path), *words]

    def _run(self, *words: str, data: bytes | None = None) -> bytes:
        return subprocess.run(self._command(*words), input=data, capture_output=True, check=True).stdout

    # paths

    @staticmethod
    def _path(key: bytes) -> bytes:
        if b"/" in key:
            return key
        code = zlib.crc32(key)
        return b"%02x/%02x/%s" % (code & 255, code >> 8 & 255, key)

    @staticmethod
    def _key(path: bytes) -> bytes:
        name = path.rpartition(b"/")[2]
        return name if name.startswith(FLAT.encode()) else path

    # writes

    def _stream(self, branch: str, parent: str | None, pairs: Iterable[Pair]) -> Iterator[bytes]:
        when = next(self._clock)
        yield b"commit refs/heads/%s\ncommitter %s%d +0000\ndata 4\nedit\n" % (branch.encode(), WHO, when)
        if parent is not None:
            yield b"from %s\n" % parent.encode()
        for key, value in pairs:
            yield b"M 644 inline %s\ndata %d\n%s\n" % (self._path(key), len(value), value)
        yield b"done\n"

    def _import(self, branch: str, parent: str | None, pairs: Iterable[Pair]) -> None:
        command = self._command("fast-import", "--quiet", "--done", "--date-format=raw")
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
            assert process.stdin is not None
            process.stdin.writelines(self._stream(branch, parent, pairs))
            process.stdin.close()
            assert process.wait() == 0

    def load(self, pairs: list[Pair]) -> None:
        """Sorted by path, so that each tree is written once."""
        self.path.mkdir()
        self._run("init", "-q", "--bare", "-b", "main")
        self._import("main", None, sorted(pairs, key=lambda pair: self._path(pair[0])))

    def open(self, durable: bool = True) -> None:
        """Nothing is kept open but a reader, from the first get on."""
        self._durable = durable
        self._clock = itertools.count(int(self._run("log", "-1", "--format=%ct", "main") or 0) + 1)

    def close(self) -> None:
        """End the reader."""
        if self._reader is not None:
            self._reader.stdin.close()
            self._reader.wait()
            self._reader = None

    def commit(self, pairs: list[Pair]) -> str:
        """One fast-import."""
        self._import("main", "refs/heads/main^0", pairs)
        return self._run("rev-parse", "main").decode().strip()

    # reads

    def first_get(self, key: bytes) -> bytes | None:
        """One process."""
        return self._run("cat-file", "blob", f"main:{self._path(key).decode()}")

    def _pipe(self) -> Any:
        if self._reader is None:
            self._reader = subprocess.Popen(
                self._command("cat-file", "--batch"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        return self._reader

    def getter(self) -> Callable[[bytes], bytes | None]:
        """A running cat-file."""
        pipe = self._pipe()
        put, flush = pipe.stdin.write, pipe.stdin.flush
        readline, read = pipe.stdout.readline, pipe.stdout.read

        def get(key: bytes) -> bytes | None:
            put(b"main:%s\n" % self._path(key))
            flush()
            head = readline()
            if head.endswith(b"missing\n"):
                return None
            value: bytes = read(int(head.rsplit(b" ", 1)[1]) + 1)
            return value[:-1]

        return get

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """One cat-file for all of them."""
        asked = b"".join(b"main:%s\n" % self._path(key) for key in keys)
        return dict(zip(keys, _blobs(self._run("cat-file", "--batch", "--buffer", data=asked)), strict=True))

    def items(self) -> Iterable[Pair]:
        """ls-tree, and one cat-file for all its blobs."""
        rows = self._run("ls-tree", "-r", "-z", "main").split(b"\0")[:-1]
        names = [self._key(row.partition(b"\t")[2]) for row in rows]
        asked = b"\n".join(row[12:52] for row in rows) + b"\n"
        return zip(names, _blobs(self._run("cat-file", "--batch", "--buffer", data=asked)), strict=True)

    def list_directory(self, prefix: str) -> list[bytes]:
        """ls-tree."""
        return self._run("ls-tree", "-z", "--name-only", "main", prefix).split(b"\0")[:-1]

    # versions

    def diff_keys(self, old: str, new: str) -> list[bytes]:
        """diff-tree."""
        rows = self._run("diff-tree", "-r", "-z", "--no-renames", "--name-only", old, new)
        return [self._key(path) for path in rows.split(b"\0")[:-1]]

    def diff_values(self, old: str, new: str) -> list[tuple[bytes, bytes | None, bytes | None]]:
        """diff-tree, and one cat-file for the blobs of both sides."""
        rows = self._run("diff-tree", "-r", "-z", "--no-renames", old, new).split(b"\0")[:-1]
        asked = b"".join(b"%s\n%s\n" % tuple(row.split(b" ")[2:4]) for row in rows[::2])
        values = list(_blobs(self._run("cat-file", "--batch", "--buffer", data=asked)))
        names = map(self._key, rows[1::2])
        return list(zip(names, values[::2], values[1::2], strict=True))

    def branch(self, name: str) -> None:
        """A ref."""
        self._run("branch", name, "main")

    def diverge(self, name: str, ours: list[Pair], theirs: list[Pair]) -> None:
        """Two imports."""
        self._import(name, "refs/heads/main^0", theirs)
        self.commit(ours)

    def merge(self, name: str) -> None:
        """merge-tree, commit-tree, update-ref; no work tree is touched."""
        tree = self._run("merge-tree", "--write-tree", "main", name).decode().strip()
        who = ("-c", "user.name=bench", "-c", "user.email=bench@localhost")
        made = self._run(*who, "commit-tree", tree, "-p", "main", "-p", name, "-m", "merge")
        self._run("update-ref", "refs/heads/main", made.decode().strip())

    def log(self, count: int) -> list[Any]:
        """One process."""
        rows = self._run("log", f"-{count}", "--format=%H %ct %s", "main").splitlines()
        return [row.split(b" ", 2) for row in rows]


def _blobs(stream: bytes) -> Iterator[bytes | None]:
    """The blobs in the output of cat-file --batch."""
    at = 0
    while at < len(stream):
        end = stream.index(b"\n", at)
        head = stream[at:end]
        at = end + 1
        if head.endswith(b"missing"):
            yield None
            continue
        size = int(head.rsplit(b" ", 1)[1])
        yield stream[at : at + size]
        at += size + 1
