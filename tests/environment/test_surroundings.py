"""Odd surroundings of a program: variables, directories, streams, rights of new files (T4)."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

import pytest

import kvgit_hamt as kvgit
from tests.support.faults import ROOT

WORK = """
import sys
import kvgit_hamt as kvgit
with kvgit.open(sys.argv[1]) as work:
    work.update({f"schl\\u00fcssel/{n}": "w\\u00f6rter " * 50 for n in range(300)})
    work.commit(info={"by": "\\u00e9"})
    work.load({f"more/{n}": n for n in range(300)})
    work.repo.gc()
with kvgit.open(sys.argv[1]) as work:
    assert len(work) == 600
    assert work["schl\\u00fcssel/1"].startswith("w\\u00f6rter")
"""


def run(code, path, environment=None, **options):
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **(environment or {})}
    command = [sys.executable, "-c", code, str(path)]
    return subprocess.run(command, env=settings, capture_output=True, text=True, check=False, **options)


def worked(done, path):
    assert (done.returncode, done.stderr) == (0, "")
    with kvgit.open(path) as work:
        assert len(work) == 600
        assert work.repo.stats()["branch_count"] == 1


@pytest.mark.parametrize(
    "environment",
    [
        {"LMDB_DEFAULT_LIB_VERSION": "1"},
        {"TMPDIR": "/nonexistent", "TEMP": "/nonexistent", "TMP": "/nonexistent"},
        {"LANG": "C", "LC_ALL": "C"},
        {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii"},
        {"HOME": "/nonexistent", "XDG_CACHE_HOME": "/nonexistent"},
        {"PYTHONOPTIMIZE": "2"},
        {"PYTHONHASHSEED": "0", "PYTHONDEVMODE": "1"},
        {"TZ": "Nowhere/Land"},
    ],
    ids=lambda environment: ",".join(f"{name}={value}" for name, value in environment.items()),
)
def test_the_environment_changes_nothing(tmp_path, environment):
    worked(run(WORK, tmp_path / "store", environment), tmp_path / "store")


def test_an_environment_without_variables_is_enough(tmp_path):
    command = [
        sys.executable,
        "-c",
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{WORK}",
        str(tmp_path / "store"),
    ]
    done = subprocess.run(command, env={}, capture_output=True, text=True, check=False)
    worked(done, tmp_path / "store")


def test_a_name_that_is_not_utf8_and_a_long_one_are_paths_as_any_other(tmp_path):
    for name in (b"\xff\xfe store", "größe 日本".encode(), b"x" * 200):
        path = os.path.join(os.fsencode(tmp_path), name)
        done = run(WORK.replace("sys.argv[1]", "__import__('os').fsencode(sys.argv[1])"), os.fsdecode(path))
        assert done.returncode in (0, 1)
        with kvgit.open(os.fsdecode(path)) as work:
            work["a"] = 1
            work.commit()


@pytest.mark.parametrize("mask", [0o077, 0o022, 0o000])
def test_the_mask_of_the_process_decides_who_may_read_the_files(tmp_path, mask):
    done = run(f"import os; os.umask({mask})\n{WORK}", tmp_path / "store")
    worked(done, tmp_path / "store")
    for each in [tmp_path / "store", *(tmp_path / "store").iterdir()]:
        mode = stat.S_IMODE(each.stat().st_mode)
        assert mode & mask == 0, f"{each.name} has mode {mode:o}"
        assert mode & 0o400


@pytest.mark.parametrize("streams", [[1], [2], [0, 1, 2]], ids=str)
def test_closed_streams_never_become_files_of_the_store(tmp_path, streams):
    """What is then printed would be written into the file that got the number."""
    printing = "import os\nfor fd in (1, 2):\n  try: os.write(fd, b'x' * 5000)\n  except OSError: pass\n"
    code = f"import os\nfor fd in {streams}: os.close(fd)\n{WORK}"
    code = code.replace(
        '    work.commit(info={"by": "\\u00e9"})\n', "    work.commit()\n    exec(PRINTING)\n"
    )
    done = run(f"PRINTING = {printing!r}\n{code}", tmp_path / "store")
    assert done.returncode == 0, done.stderr
    with kvgit.open(tmp_path / "store") as work:
        assert len(dict(work)) == 600


def test_without_the_guard_what_is_printed_lands_in_the_store(tmp_path):
    """The control."""
    code = (
        "import os\nfrom kvgit_hamt.backend import lmdb_env\nlmdb_env.occupy_streams = lambda: None\n"
        "import kvgit_hamt as kvgit\nos.close(1)\n"
        "work = kvgit.open(__import__('sys').argv[1])\nwork['a'] = 1\nwork.commit()\n"
        "inside = os.readlink('/proc/self/fd/1')\nos.write(2, inside.encode())"
    )
    done = run(code, tmp_path / "store")
    assert str(tmp_path / "store") in done.stderr


def test_the_library_prints_nothing_and_leaves_signals_as_they_are(tmp_path):
    code = f"import signal; before = [signal.getsignal(s) for s in signal.valid_signals()]\n{WORK}\n"
    code += "assert before == [signal.getsignal(s) for s in signal.valid_signals()]"
    done = run(code, tmp_path / "store")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_nothing_is_left_beside_the_store_and_in_the_directory_for_temporary_files(tmp_path):
    (tmp_path / "temporary").mkdir()
    (tmp_path / "here").mkdir()
    done = run(WORK, tmp_path / "store", {"TMPDIR": str(tmp_path / "temporary")}, cwd=tmp_path / "here")
    worked(done, tmp_path / "store")
    assert os.listdir(tmp_path / "temporary") == os.listdir(tmp_path / "here") == []
    assert set(os.listdir(tmp_path / "store")) == {"FORMAT", "WITNESS", "data.mdb", "lock.mdb"}
