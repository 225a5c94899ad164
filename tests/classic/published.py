"""Runs the test files that kvgit 0.1.3 was published with against this package.

    python tests/classic/published.py [FOLDER OF THE SDIST] [pytest arguments]

Without a folder, pip downloads the sdist to a temporary directory. Nothing of it is kept.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = "kvgit==0.1.3"

# The modules that the published tests import names from, over ours. The last two names are storage
# internals of 0.1.3: they exist so that the files can be imported, and do nothing useful.
SHIM = """\
import sys
import types

import kvgit_hamt
from kvgit_hamt import *
from kvgit_hamt.classic import composite, disk, gcversioned, kvstore, versioned

__path__ = []


def _module(name, **names):
    module = sys.modules[name] = types.ModuleType(name)
    vars(module).update(names)
    return module


for _name in kvgit_hamt.__all__:
    globals()[_name] = getattr(kvgit_hamt, _name)
kv = _module("kvgit.kv", Memory=kvgit_hamt.Memory, Disk=kvgit_hamt.Disk, Composite=kvgit_hamt.Composite)
kv.__path__ = []
kv.memory = _module("kvgit.kv.memory", Memory=kvgit_hamt.Memory)
kv.disk = _module("kvgit.kv.disk", Disk=kvgit_hamt.Disk)
kv.composite = _module("kvgit.kv.composite", Composite=kvgit_hamt.Composite)
gc = _module("kvgit.gc", GCVersioned=kvgit_hamt.GCVersioned)
versioned = _module(
    "kvgit.versioned",
    Versioned=kvgit_hamt.Versioned,
    BRANCH_HEAD="__branch_head__%s",
    _to_bytes=lambda value: repr(value).encode(),
)
"""


def download(folder: Path) -> Path | None:
    """The unpacked sdist in ``folder``, None if pip cannot get it."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    done = subprocess.run(
        [*command, PROJECT, "-d", str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode:
        return None
    (archive,) = folder.glob("kvgit-*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder)  # from the index that pip trusts
    return folder / archive.name.removesuffix(".tar.gz")


def run(sdist: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the published tests under pytest, with the shim in place of kvgit."""
    with tempfile.TemporaryDirectory() as name:
        shim = Path(name, "kvgit.py")
        shim.write_text(SHIM)
        command = [sys.executable, "-m", "pytest", str(sdist / "tests"), "-p", "no:cacheprovider"]
        paths = f"import sys; sys.path[:0] = [{name!r}, {str(ROOT)!r}]; import pytest; "
        return subprocess.run(
            [*command[:1], "-c", paths + f"sys.exit(pytest.main({[*command[3:], *arguments]!r}))"],
            cwd=name,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )


def main() -> int:
    """Print pytest's report of one run."""
    given = Path(sys.argv[1]) if len(sys.argv) > 1 and Path(sys.argv[1]).is_dir() else None
    arguments = sys.argv[2:] if given else sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        sdist = given or download(Path(folder))
        if sdist is None:
            sys.stdout.write(f"pip cannot get the sdist of {PROJECT}\n")
            return 2
        done = run(sdist, *arguments)
        sys.stdout.write(done.stdout + done.stderr)
        return done.returncode


if __name__ == "__main__":
    sys.exit(main())
