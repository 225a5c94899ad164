"""The child of tests/faults/test_devices.py: a store on a device that is full, or read-only.

    python -m tests.support.faults_devices full tmpfs|ext4 DIRECTORY CONTROL
    python -m tests.support.faults_devices readonly tmpfs|ext4 DIRECTORY

It runs in a mount namespace of its own, so that what it mounts goes away with it.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lmdb.verify import verify

import kvgit_hamt as kvgit
from kvgit_hamt import Repo
from kvgit_hamt.backend.lmdb import LmdbBackend
from kvgit_hamt.errors import ReadOnlyError, StoreFullError
from tests.support.faults_calls import ignore_failed_commits

TMPFS_MIB, EXT4_MIB = 2, 12
BALLAST_BYTES = 200_000  # of a file that is removed when not even a branch can be dropped


def mount(kind: str, directory: Path) -> Path:
    """A small file system; where it is mounted."""
    point = directory / "mount"
    point.mkdir()
    if kind == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_MIB}m", "kvgit", str(point)]
    else:
        image = directory / "image"
        with image.open("wb") as file:
            file.truncate(EXT4_MIB << 20)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True, capture_output=True)
        command = ["mount", "-o", "loop", str(image), str(point)]
    subprocess.run(command, check=True, capture_output=True)
    return point


def body_of(number: int) -> bytes:
    """Bytes that no file system makes smaller."""
    return random.Random(number).randbytes(30_000)


class Filler:
    """Commits until the device is full, on branch main and on one that can be dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.acked: dict[str, bytes] = {}
        self.violations: list[str] = []
        self.number = 0

    def fill(self, branch: str, count: int | None = None) -> None:
        """Commit so often, or until StoreFullError; keep what was acknowledged."""
        with Repo(self.path, codec="bytes") as repo:
            work = repo.worktree(branch, create=True)
            for _ in range(count or 10_000):
                self.number += 1
                key, body = f"{branch}/{self.number}", body_of(self.number)
                work[key] = body
                try:
                    work.commit()
                except StoreFullError:
                    self.after_the_last(work, key)
                    return
                self.acked[key] = body
        if count is None:
            self.violations.append("the device never became full")

    def after_the_last(self, work: kvgit.Worktree, key: str) -> None:
        """The edit is pending, nothing of it is stored, and all else can be read by the same handle."""
        if key not in work.status().updated:
            self.violations.append("the edit that did not fit is no longer pending")
        work.discard()
        self.check(work.repo)

    def check(self, repo: Repo) -> None:
        """Every acknowledged key is there, and no other."""
        found: dict[str, bytes] = {}
        for name in repo.branches:
            found.update(repo.snapshot(branch=name).items())
        if found != self.acked:
            missing = len(self.acked.keys() - found.keys())
            self.violations.append(f"{missing} of {len(self.acked)} acknowledged keys are missing")


def full(kind: str, directory: Path) -> dict[str, Any]:
    """Fill a device, look, drop a branch and collect it on the full device, and go on."""
    point = mount(kind, directory)
    path, ballast = point / "store", point / "ballast"
    ballast.write_bytes(os.urandom(BALLAST_BYTES))
    filler = Filler(path)
    filler.fill("scratch", 10)
    filler.fill("main")
    at_first = len(filler.acked)
    with Repo(path, codec="bytes") as repo:
        filler.check(repo)
        needed_room = False
        try:
            freed = drop_scratch(repo)
        except StoreFullError:  # not even a few new pages fit
            filler.check(repo)
            ballast.unlink()
            needed_room = True
            freed = drop_scratch(repo)
        filler.acked = {key: body for key, body in filler.acked.items() if key.startswith("main/")}
        filler.check(repo)
    kept = len(filler.acked)
    filler.fill("main")
    with Repo(path, codec="bytes") as repo:
        filler.check(repo)
    problems = verify(str(path))  # type: ignore[no-untyped-call]
    return {"acked": at_first, "freed": freed, "more": len(filler.acked) - kept, "needed_room": needed_room,
            "violations": filler.violations + problems}  # fmt: skip


def drop_scratch(repo: Repo) -> int:
    """Drop the branch and collect it; records freed."""
    if "scratch" in repo.branches:
        repo.branches.delete("scratch")
    return repo.gc(keep_reflog=0).freed_count


def lying(kind: str, directory: Path) -> dict[str, Any]:
    """The control: the same with a library that does not look at what a commit returns."""
    ignore_failed_commits()
    path = mount(kind, directory) / "store"
    filler = Filler(path)
    try:
        filler.fill("main")
        with Repo(path, codec="bytes") as repo:
            filler.check(repo)
    except kvgit.KvgitHamtError as error:
        filler.violations.append(repr(error))
    return {"acked": len(filler.acked), "violations": filler.violations}


def readonly(kind: str, directory: Path) -> dict[str, Any]:
    """What a store on a file system that is mounted read-only answers."""
    point = mount(kind, directory)
    path = point / "store"
    with kvgit.open(path) as work:
        work.update({f"{number}": number for number in range(100)})
        work.commit()
    subprocess.run(["mount", "-o", "remount,ro", str(point)], check=True, capture_output=True)
    answers: dict[str, Any] = {}
    for name, at in (("store", path), ("new", point / "new")):
        try:
            Repo(at).close()
        except ReadOnlyError as error:
            answers[name] = str(at) in str(error)
    with Repo(LmdbBackend(path, readonly=True)) as repo:
        answers["read"] = len(dict(repo.snapshot().items()))
        answers["log"] = len(list(repo.log()))
        answers["writes"] = [type(error).__name__ for error in refused_writes(repo)]
    return answers


def refused_writes(repo: Repo) -> list[BaseException]:
    """What each kind of write raises."""
    work = repo.worktree()
    work["a"] = 1
    calls: list[Callable[[], object]] = [
        work.commit,
        lambda: repo.branches.create("b"),
        lambda: repo.tags.create("t"),
        repo.gc,
        repo.compact,
        lambda: repo.worktree().load({"a": 2}),
    ]
    found: list[BaseException] = []
    for call in calls:
        try:
            call()
        except kvgit.KvgitHamtError as error:
            found.append(error)
    return found


WORKS: dict[str, Callable[[str, Path], dict[str, Any]]] = {"full": full, "lying": lying, "readonly": readonly}


def main(arguments: list[str]) -> dict[str, Any]:
    return WORKS[arguments[0]](arguments[1], Path(arguments[2]))


if __name__ == "__main__":
    result = json.dumps(main(sys.argv[1:]))
    os.write(1, result.encode() + b"\n")
