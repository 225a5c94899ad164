"""A directory of files: the path below it is the key, the content the value."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from kvgit_hamt.errors import InvalidInputError, SourceError
from kvgit_hamt.interchange.base import (
    Progress,
    Row,
    Source,
    ValuesAs,
    bytes_of,
    reading,
    selected,
    text_of,
    value_decoder,
    value_encoder,
)
from kvgit_hamt.snapshot import TreeView

Links = Literal["refuse", "skip", "follow"]


class Files(Source):
    """All regular files below a directory, in the order of the bytes of their paths.

    Args:
        path: the directory.
        values: how a content becomes a value: "bytes", "text" (UTF-8), "json" or "msgpack".
        links: what to do with symbolic links: "refuse" the import, "skip" them, or take the files (not the
            directories) that they lead to as if they stood there.

    A name that is not UTF-8 is escaped, see ``text_of``. Empty directories, and rights and times of files,
    are not kept; what is neither file nor directory is refused. A file is in memory whole while it is read.
    """

    format = "files"
    unit = "files"

    def __init__(
        self, path: str | os.PathLike[str], *, values: ValuesAs = "bytes", links: Links = "refuse"
    ) -> None:
        if links not in ("refuse", "skip", "follow"):
            raise InvalidInputError(f'links is "refuse", "skip" or "follow", not {links!r}')
        self.name = os.fspath(path)
        self._root = os.fsencode(path)
        self._values: ValuesAs = values
        self._links: Links = links
        self._decode = value_decoder(values)
        self._last = b""
        self._count = 0
        if not os.path.isdir(self._root):
            raise SourceError(self.name, "", "is no directory")

    def options(self) -> dict[str, Any]:
        return {"values": self._values, "links": self._links}

    def position(self) -> dict[str, Any]:
        return {"after": self._last, "count": self._count}

    def done(self) -> int:
        return self._count

    def at(self) -> str:
        return os.fsdecode(self._last)

    def rows(self, after: Mapping[str, Any] | None = None) -> Iterator[Row]:
        self._last, self._count = b"", 0
        past: list[bytes] = []
        if after is not None:
            self._last, self._count = bytes(after["after"]), int(after["count"])
            past = self._last.split(b"/")
        for path in self._paths(past):
            self._last = path
            self._count += 1
            with reading(self.at()), open(os.path.join(self._root, path), "rb") as file:
                data = file.read()
            try:
                value = self._decode(data)
            except ValueError as error:
                raise self.fault(str(error)) from error
            yield text_of(path), value

    def _paths(self, past: list[bytes]) -> Iterator[bytes]:
        """Paths below the root, a directory before what follows it; only those after ``past`` (its parts)."""
        stack = [iter(self._entries(b"", past, 0))]
        while stack:
            entry = next(stack[-1], None)
            if entry is None:
                stack.pop()
                continue
            path, is_directory = entry
            if is_directory:
                depth = len(stack)
                below = past if past[:depth] == path.split(b"/") else []
                stack.append(iter(self._entries(path, below, depth)))
            else:
                yield path

    def _entries(self, directory: bytes, past: list[bytes], depth: int) -> list[tuple[bytes, bool]]:
        found = []
        with (
            reading(os.fsdecode(directory) or self.name),
            os.scandir(os.path.join(self._root, directory)) as entries,
        ):
            for entry in entries:
                path = directory + b"/" + entry.name if directory else entry.name
                kind = self._kind(entry, path)
                if kind is not None and _is_after(entry.name, past, depth, kind):
                    found.append((path, kind))
        return sorted(found)

    def _kind(self, entry: os.DirEntry[bytes], path: bytes) -> bool | None:
        """Whether an entry is a directory; None for one that is left out."""
        shown = os.fsdecode(path)
        if entry.is_symlink():
            if self._links == "skip":
                return None
            if self._links == "refuse":
                raise SourceError(self.name, shown, 'is a symbolic link; say links="skip" or links="follow"')
            mode = entry.stat().st_mode
            if stat.S_ISDIR(mode):
                raise SourceError(self.name, shown, "is a link to a directory, which is not followed")
        else:
            mode = entry.stat(follow_symlinks=False).st_mode
        if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
            raise SourceError(self.name, shown, "is neither a file nor a directory")
        return stat.S_ISDIR(mode)


def _is_after(name: bytes, past: list[bytes], depth: int, is_directory: bool) -> bool:
    if depth >= len(past) or name > past[depth]:
        return True
    return is_directory and name == past[depth] and depth + 1 < len(past)


def path_of(key: str) -> bytes:
    """The path that a key names, relative and inside.

    Raises:
        ValueError: it names none: a part is empty, "." or "..", or holds a NUL byte.
    """
    path = bytes_of(key)
    for part in path.split(b"/"):
        if part in (b"", b".", b"..") or b"\0" in part:
            raise ValueError("it is no path of a file: a part of it is empty, '.' or '..', or holds a NUL")
    return path


def write_files(
    view: TreeView,
    path: str | os.PathLike[str],
    *,
    prefix: str = "",
    strip: bool = False,
    values: ValuesAs = "bytes",
    progress: Progress | None = None,
) -> int:
    """Write a file for each key into a new directory, which is there whole or not at all; how many.

    Args:
        path: a directory that does not exist.
        strip: take the prefix off the keys.
        values: how values become contents: "bytes", "text", "json" or "msgpack".

    Raises:
        SourceError: a key is no path, two keys are one file here or one a file and a directory, a value does
            not fit; or the directory exists or cannot be written.
    """
    target = Path(path)
    if target.exists():
        raise SourceError(str(target), "", "exists; give the name of a new directory")
    encode = value_encoder(values)
    count = 0
    with reading(str(target)):
        scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        for key, value in selected(view, prefix, strip, progress):
            try:
                _write_file(os.fsencode(scratch), path_of(key), encode(value))
            except (ValueError, TypeError) as error:
                raise SourceError(str(target), f"key {key!r}", str(error)) from error
            count += 1
        os.chmod(scratch, 0o755)
        with reading(str(target)):
            os.rename(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return count


def _write_file(root: bytes, path: bytes, data: bytes) -> None:
    full = os.path.join(root, path)
    try:
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "xb") as file:  # a file system that knows no case must not lose one
            file.write(data)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise ValueError(
            "another key is the same file here, or a file where this needs a directory"
        ) from error
    except OSError as error:
        raise ValueError(f"cannot be written: {error.strerror}") from error
