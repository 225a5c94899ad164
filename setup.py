"""Builds the compiled kernel if Cython and a C compiler are there; without them the package is plain Python.

Everything else is in pyproject.toml. ``KVGIT_HAMT_NO_EXTENSION=1`` leaves the kernel out on purpose.
"""

from __future__ import annotations

import os
import shlex
import sys
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCE = "kvgit_hamt/_kernel.pyx"
PARTS = [
    f"kvgit_hamt/_{part}.pxi"
    for part in ("leaf", "inner", "descent", "ways", "walks", "batch", "build", "edit", "pen")
]


def say_left_out(why: object) -> None:
    """The one line that says that there will be no compiled kernel."""
    sys.stderr.write(f"kvgit-hamt: the compiled kernel is left out, plain Python does its work ({why})\n")


class OptionalBuild(build_ext):
    """A build that goes on without the extension when it cannot be compiled."""

    def build_extensions(self) -> None:
        try:
            super().build_extensions()
        except Exception as error:  # noqa: BLE001 (whatever stands in the way, plain Python works)
            self.extensions = []
            say_left_out(str(error).splitlines()[0][:120])


def extensions() -> list[Any]:
    """The kernel, if there is something to make C of it; ``KVGIT_HAMT_CFLAGS`` is added to the flags."""
    if os.environ.get("KVGIT_HAMT_NO_EXTENSION"):
        say_left_out("KVGIT_HAMT_NO_EXTENSION is set")
        return []
    try:
        from Cython.Build import cythonize
    except ImportError:
        say_left_out("no Cython")
        return []
    flags = shlex.split(os.environ.get("KVGIT_HAMT_CFLAGS", ""))
    kernel = Extension(
        "kvgit_hamt._kernel", [SOURCE], depends=PARTS, extra_compile_args=flags, extra_link_args=flags
    )
    return list(cythonize([kernel], build_dir="build/cython", quiet=True))


setup(ext_modules=extensions(), cmdclass={"build_ext": OptionalBuild})
