"""File systems of their own, on images, whose power can be cut: needs root, loop devices and mkfs programs.

Two ways: "shutdown" asks the mounted file system to stop at once, its journal unwritten (ext4 and xfs can);
then it is mounted again. "snapshot" clones the image, which lies on an outer xfs, while the file system works
(a clone is atomic), and mounts the clone in its place.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN
NO_LOG_FLUSH = 2
CLONE = 0x40049409  # FICLONE
IMAGE_BYTES = {"ext4": 256 << 20, "xfs": 320 << 20, "btrfs": 256 << 20}
OUTER_BYTES = 4 << 30  # sparse
MKFS = {
    "ext4": ("mkfs.ext4", "-q", "-F"),
    "xfs": ("mkfs.xfs", "-q", "-f"),
    "btrfs": ("mkfs.btrfs", "-q", "-f"),
}


def skip_unless_possible(file_system: str, way: str) -> None:
    """Skip a test, saying what it lacks."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("needs root, to mount a file system of its own")
    for name in {file_system, "xfs"} if way == "snapshot" else {file_system}:
        if shutil.which(MKFS[name][0]) is None:
            pytest.skip(f"needs {MKFS[name][0]}")
    if not Path("/dev/loop-control").exists():
        pytest.skip("needs loop devices")


class PowerDisk:
    """A file system on an image below ``home``, mounted at ``root``."""

    def __init__(self, home: Path, file_system: str, way: str) -> None:
        self.name = file_system
        self.root = home / "disk"
        self._way = way
        self._outer = home / "outer"
        self._mounted: list[Path] = []
        self._copies = 0
        folder = home
        try:
            if way == "snapshot":
                self._make(home / "outer.img", "xfs", OUTER_BYTES)
                self._mount(home / "outer.img", self._outer)
                folder = self._outer
            self._image = folder / "disk.img"
            self._make(self._image, file_system, IMAGE_BYTES[file_system])
            self._mount(self._image, self.root)
        except subprocess.CalledProcessError as error:
            self.close()
            pytest.skip(f"no file system can be mounted here: {error.stderr.decode().strip()}")

    def _make(self, image: Path, file_system: str, size: int) -> None:
        with image.open("wb") as file:
            file.truncate(size)
        _run(*MKFS[file_system], str(image))

    def _mount(self, image: Path, point: Path) -> None:
        point.mkdir(exist_ok=True)
        options = "loop,nouuid" if self.name == "xfs" and point == self.root else "loop"
        _run("mount", "-o", options, str(image), str(point))
        self._mounted.append(point)

    def _unmount(self, point: Path) -> None:
        _run("umount", str(point))
        self._mounted.remove(point)

    def cut(self) -> None:
        """Cut the power. Whoever has files open there gets errors, or goes on with what is lost."""
        if self._way == "shutdown":
            _ioctl(self.root, SHUTDOWN, struct.pack("=I", NO_LOG_FLUSH))
            return
        with self._image.open("rb") as image, self._image.with_suffix(".snapshot").open("wb") as snapshot:
            fcntl.ioctl(snapshot.fileno(), CLONE, image.fileno())

    def restore(self) -> None:
        """Mount what the cut left; nobody may have files open there."""
        self._unmount(self.root)
        if self._way == "snapshot":
            self._image.with_suffix(".snapshot").replace(self._image)
        self._mount(self._image, self.root)
        if self._way == "shutdown" and not self._is_alive():
            # A mount namespace that was made meanwhile holds the old mount, and with it the state of the cut.
            self._unmount(self.root)
            self._copies += 1
            image = self._image.with_name(f"disk {self._copies}.img")
            _run("cp", "--sparse=always", str(self._image), str(image))
            self._image.unlink()
            self._image = image
            self._mount(image, self.root)

    def _is_alive(self) -> bool:
        try:
            (self.root / "probe").touch()
            (self.root / "probe").unlink()
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Unmount all."""
        while self._mounted:
            with suppress(subprocess.CalledProcessError):
                _run("umount", "-l", str(self._mounted.pop()))


def _ioctl(path: Path, request: int, argument: bytes) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, request, argument)
    finally:
        os.close(descriptor)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
