"""Stores on devices that are full (E2), read-only (E4), and that somebody may not touch (E5)."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import lmdb
import pytest

import kvgit_hamt as kvgit
from kvgit_hamt.backend.lmdb_errors import translate
from kvgit_hamt.errors import ReadOnlyError
from tests.support.faults import ROOT, mount_namespace, run_child
from tests.support.scale import pick, record

CHILD = "tests.support.faults_devices"
KINDS = ["tmpfs", "ext4"]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can take its own rights away")


def on(kind, what, directory):
    directory.mkdir(exist_ok=True)
    return run_child(CHILD, what, kind, directory, prefix=mount_namespace())


# --- full


@pytest.mark.parametrize("kind", KINDS)
def test_on_a_full_device_nothing_is_lost_reads_go_on_and_gc_makes_room(tmp_path, kind):
    found = on(kind, "full", tmp_path)
    assert found["violations"] == []
    assert found["acked"] > 20
    assert found["freed"] > 0
    assert found["more"] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_on_a_full_device_a_library_that_ignored_failed_commits_would_be_caught(tmp_path, kind):
    """The control."""
    assert on(kind, "lying", tmp_path)["violations"]


@pytest.mark.slow
def test_devices_are_filled_again_and_again(tmp_path):
    rounds = pick(3, 100)
    runs = [on(kind, "full", tmp_path / f"{kind}{number}") for kind in KINDS for number in range(rounds)]
    control = sum(bool(on(kind, "lying", tmp_path / f"lying-{kind}")["violations"]) for kind in KINDS)
    bad = [violation for run in runs for violation in run["violations"]]
    assert not bad
    assert control == len(KINDS)
    acked = sum(run["acked"] + run["more"] for run in runs)
    record("E2", full=len(runs) * 2, acked=acked, violations=len(bad), control_failed=control)


# --- read-only


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_on_a_read_only_file_system_can_be_read_and_says_why_it_cannot_be_written(tmp_path, kind):
    found = on(kind, "readonly", tmp_path)
    assert found["store"] is True  # opened for writing: ReadOnlyError, and the path in it
    assert found["new"] is True
    assert (found["read"], found["log"]) == (100, 2)
    assert (
        found["writes"] == ["ReadOnlyError"] * 5
    )  # commit, branch, tag, compact, load; gc finds nothing to do
    record("E4", cases=7, violations=0)


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_what_lmdb_may_not_touch_is_a_read_only_error(tmp_path, code):
    error = lmdb.Error("refused")
    error.code = code
    assert isinstance(translate(error, str(tmp_path)), ReadOnlyError)


# --- rights

AS_NOBODY = """
import json, os, sys
import kvgit_hamt as kvgit
from kvgit_hamt.backend.lmdb import LmdbBackend
kvgit.open().close()
LmdbBackend(sys.argv[1]).close()  # what is imported late may lie where only root can look
for line in os.environ["RIGHTS"].split():
    name, mode = line.split("=")
    os.chmod(os.path.join(sys.argv[1], name), int(mode, 8))
os.setgid(65534)
os.setuid(65534)
answers = {}
for name, options in (("write", {}), ("read", {"readonly": True})):
    try:
        with kvgit.Repo(LmdbBackend(sys.argv[1], **options)) as repo:
            answers[name] = dict(repo.snapshot().items())
    except kvgit.KvgitHamtError as error:
        answers[name] = [type(error).__name__, str(error)]
print(json.dumps(answers))
"""


@pytest.fixture
def open_directory():
    """A directory that every user can look into, which pytest's own are not."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def as_nobody(path, rights):
    with kvgit.open(path) as work:
        work["a"] = 1
        work.commit()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RIGHTS": rights, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", AS_NOBODY, str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


OPEN = ".=777 data.mdb=666 lock.mdb=666 WITNESS=666 FORMAT=644 "
DENIED = [
    ("", "whole", "whole"),  # the control
    ("data.mdb=000", "refused", "refused"),
    ("data.mdb=444", "refused", "whole"),
    ("lock.mdb=000", "refused", "refused"),
    ("FORMAT=000", "refused", "refused"),
    ("WITNESS=000", "whole", "whole"),  # it can be neither read nor written, and is not missed
    (".=555", "whole", "whole"),  # nothing new need be made there
    (".=000", "refused", "refused"),
    (".=444", "refused", "refused"),
    (".=755 data.mdb=644 lock.mdb=644 WITNESS=644", "refused", "refused"),  # as another user left it
]


@needs_root
@pytest.mark.parametrize(("rights", "write", "read"), DENIED)
def test_rights_that_are_missing_are_named_with_the_file(open_directory, rights, write, read):
    path = open_directory / "store"
    answers = as_nobody(path, OPEN + rights)
    for name, expected in (("write", write), ("read", read)):
        answer = answers[name]
        if expected == "whole":
            assert answer == {"a": 1}
        else:
            kind, message = answer
            assert kind in ("ReadOnlyError", "BackendError"), answer
            assert str(path) in message
            assert "ermission denied" in message
    path.chmod(stat.S_IRWXU)
    with kvgit.open(path) as work:
        assert dict(work) == {"a": 1}
    record("E5", cases=2, violations=0)
