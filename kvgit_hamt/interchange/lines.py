"""Reading binary files from a place in them, and the proof that the part before it is still the same."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final

from kvgit_hamt.errors import SourceError
from kvgit_hamt.interchange.base import Source, Where, reading

LINE_MAX_BYTES: Final = 64 << 20  # a longer line is a file of another kind; bounds memory
PROOF_BYTES: Final = 4_096  # before a position, whose digest tells whether it is still the same file
BLOCK_BYTES: Final = 1 << 20
BOM: Final = b"\xef\xbb\xbf"


class FileSource(Source):
    """A source that is one file, read from start to end: a path, or an open binary file such as a pipe.

    Only a path can be read again, and so continued.
    """

    def __init__(self, where: Where, name: str | None = None) -> None:
        self._where = where
        is_path = isinstance(where, (str, os.PathLike))
        self.name = name or (os.fspath(where) if isinstance(where, (str, os.PathLike)) else "standard input")
        self.can_resume = is_path
        self.total = 0
        if isinstance(where, (str, os.PathLike)):
            with reading(self.name):
                self.total = os.stat(where).st_size
        self._offset = 0
        self._count = 0

    def done(self) -> int:
        return self._offset

    def position(self) -> dict[str, Any]:
        return {"offset": self._offset, "count": self._count, "proof": self._proof(self._offset)}

    def _proof(self, offset: int) -> bytes:
        """A digest of what lies just before an offset."""
        if not self.can_resume:
            return b""
        with reading(self.name), Path(self._path()).open("rb") as file:
            start = max(0, offset - PROOF_BYTES)
            file.seek(start)
            return hashlib.sha256(file.read(offset - start)).digest()[:16]

    def _path(self) -> str | os.PathLike[str]:
        assert isinstance(self._where, (str, os.PathLike))
        return self._where

    def _open(self, after: Mapping[str, Any] | None) -> IO[bytes]:
        """The file, at the position; close it with ``_close``."""
        self._offset = self._count = 0
        if not isinstance(self._where, (str, os.PathLike)):
            return self._where
        with reading(self.name):
            file = Path(self._where).open("rb")  # noqa: SIM115 (closed by _close)
            if after is not None:
                self._offset, self._count = int(after["offset"]), int(after["count"])
                if not 0 <= self._offset <= self.total or self._proof(self._offset) != after["proof"]:
                    file.close()
                    raise SourceError(
                        self.name,
                        "",
                        "is not the file that an earlier import has begun; restart to load it anew",
                    )
                file.seek(self._offset)
            return file

    def _close(self, file: IO[bytes]) -> None:
        if file is not self._where:
            file.close()

    def _lines(self, file: IO[bytes]) -> Iterator[bytes]:
        """The lines from here on, with their ends; offset and count are those after the line."""
        readline = file.readline
        with reading(self.name):
            while line := readline(LINE_MAX_BYTES):
                self._count += 1
                if not self._offset and line.startswith(BOM):
                    self._offset = len(BOM)
                    line = line[len(BOM) :]
                self._offset += len(line)
                if len(line) == LINE_MAX_BYTES and not line.endswith(b"\n"):
                    raise self.fault(f"longer than {LINE_MAX_BYTES >> 20} MiB")
                yield line

    def at(self) -> str:
        return f"line {self._count:,}"
