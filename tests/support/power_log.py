"""Crash images out of a record of what a process wrote.

``record_run`` runs a program with a library before it (power_log.c) that notes each change of the files in
a store's directory. ``Disk`` plays the notes back up to the moment of a power cut, and makes directories as
they may be found afterwards:

- What a sync covered is there. Of what was written to a file since its last sync, any part is: nothing, all,
  or any of its pages or sectors of 512 bytes.
- New names, renames and removals are there up to the last sync of the directory; of those since, the first
  ones (file systems journal names in order).
"""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEADER = struct.Struct("<cB6xQQQ")
SECTOR_BYTES = 512
PAGE_BYTES = 4096
MODES = ("none", "all", "pages", "sectors", "sectors")
WORDS = "words"  # pieces of 8 bytes: a medium that does not write sectors whole
WORD_BYTES = 8
PATIENCE_S = 300


class Note(NamedTuple):
    """One change; see power_log.c."""

    op: str
    is_durable: bool
    file: int
    at: int
    data: bytes


class Piece(NamedTuple):
    """A part of an unsynced change of a file: bytes at a place, or (None) a size of at least ``at``."""

    at: int
    data: bytes | None


def build_library(directory: Path) -> Path:
    """Compile the recorder; the test is skipped where there is no C compiler, or no Linux."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs Linux and a C compiler for the library that records writes")
    library = directory / "libpower.so"
    source = Path(__file__).with_name("power_log.c")
    command = [compiler, "-O1", "-Wall", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True)
    return library


def record_run(library: Path, store: Path, *arguments: str) -> list[Note]:
    """Run tests.support.power_work on a store that is yet to be made, and read what it wrote."""
    log = store.with_name(store.name + ".log")
    environment = {"LD_PRELOAD": str(library), "POWER_DIR": str(store.resolve()), "POWER_LOG": str(log)}
    command = [sys.executable, "-m", "tests.support.power_work", str(store.resolve()), *arguments]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, **environment}, timeout=PATIENCE_S)
    return list(read_notes(log))


def read_notes(log: Path) -> Iterator[Note]:
    """The notes of a file, in order."""
    with log.open("rb") as file:
        while head := file.read(HEADER.size):
            op, is_durable, number, at, count = HEADER.unpack(head)
            data = file.read(count)
            assert len(data) == count, "the record breaks off"
            yield Note(op.decode(), bool(is_durable), number, at, data)


@dataclass
class File:
    """What of a file is on the medium for certain, and what was written since."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[Note] = field(default_factory=list)

    def sync(self) -> None:
        for note in self.pending:
            _apply(self.durable, Piece(note.at, note.data if note.op == "W" else None), note.op == "T")
        self.pending.clear()


class Disk:
    """The medium under one directory, moved on note by note.

    Args:
        is_honest: False plays a medium (or a library) that knows no syncs.
    """

    def __init__(self, notes: list[Note], *, is_honest: bool = True) -> None:
        self.notes = notes
        self.at = 0
        self.acked: int | None = None
        self._is_honest = is_honest
        self._files: dict[int, File] = {}
        self._names: dict[str, int] = {}
        self._name_changes: list[tuple[str, str, int]] = []  # old, new, file

    def advance(self, until: int) -> None:
        """Let the notes before ``until`` happen."""
        for note in self.notes[self.at : until]:
            self._happen(note)
        self.at = until

    def _happen(self, note: Note) -> None:
        if note.op == "M":
            self.acked = note.file
        elif note.op == "C":
            self._files[note.file] = File()
            self._name_changes.append(("", note.data.decode(), note.file))
        elif note.op == "R":
            old, new = note.data.decode().split("\0")
            self._name_changes.append((old, new, 0))
        elif note.op == "U":
            self._name_changes.append((note.data.decode(), "", 0))
        elif note.op == "W" and note.is_durable and self._is_honest:
            _apply(self._files[note.file].durable, Piece(note.at, note.data), False)
        elif note.op in "WTA":
            self._files[note.file].pending.append(note)
        elif note.op == "S" and self._is_honest:
            self._files[note.file].sync()
        elif note.op == "D" and self._is_honest:
            for change in self._name_changes:
                _rename(self._names, change)
            self._name_changes.clear()

    def cut(self, directory: Path, rng: random.Random, mode: str) -> None:
        """Write the directory as it may be found after a cut now, with the next write under way."""
        names = dict(self._names)
        changes = self._name_changes
        kept = {"none": 0, "all": len(changes)}.get(mode, rng.randint(0, len(changes)))
        for change in changes[:kept]:
            _rename(names, change)
        under_way = self.notes[self.at] if self.at < len(self.notes) else None
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        for name, number in names.items():
            file = self._files[number]
            pending = list(file.pending)
            if under_way is not None and under_way.op == "W" and under_way.file == number:
                pending.append(under_way)
            (directory / name).write_bytes(_torn(file.durable, pending, rng, mode))


def _rename(names: dict[str, int], change: tuple[str, str, int]) -> None:
    old, new, number = change
    if old:
        number = names.pop(old)
    if new:
        names[new] = number


def _torn(durable: bytearray, pending: list[Note], rng: random.Random, mode: str) -> bytes:
    """The bytes of a file of which only some unsynced changes arrived."""
    data = bytearray(durable)
    if mode == "all":
        for note in pending:
            _apply(data, Piece(note.at, note.data if note.op == "W" else None), note.op == "T")
    elif mode != "none":
        unit = {"pages": PAGE_BYTES, "sectors": SECTOR_BYTES, WORDS: WORD_BYTES}[mode]
        for piece in (piece for note in pending for piece in _pieces(note, unit)):
            if rng.random() < 0.5:  # of several writes to one place, the last that arrived is found
                _apply(data, piece, False)
    return bytes(data)


def _pieces(note: Note, unit: int) -> Iterator[Piece]:
    if note.op != "W":
        yield Piece(note.at, None)
        return
    at, end = note.at, note.at + len(note.data)
    while at < end:
        stop = min((at // unit + 1) * unit, end)
        yield Piece(at, note.data[at - note.at : stop - note.at])
        at = stop


def _apply(data: bytearray, piece: Piece, is_exact: bool) -> None:
    """Change the bytes of a file; ``is_exact``: a size is cut down to as well."""
    end = piece.at + len(piece.data or b"")
    if len(data) < end:
        data.extend(bytes(end - len(data)))
    if piece.data is not None:
        data[piece.at : end] = piece.data
    elif is_exact:
        del data[piece.at :]
