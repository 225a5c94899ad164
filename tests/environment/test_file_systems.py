"""File systems that are not local, or lie over another one (T5)."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings

import pytest

import kvgit_hamt as kvgit
from kvgit_hamt.backend import lmdb_env, lmdb_files
from tests.support.faults import ROOT, mount_namespace

REMOTE = [
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse", "fuse.sshfs", "fuse.glusterfs", "ceph", "lustre",
    "afs",
    "glusterfs", "beegfs", "gpfs", "ocfs2", "gfs2", "vboxsf", "virtiofs", "prl_fs", "drvfs", "vmhgfs", "coda",
    "orangefs",
]  # fmt: skip
LOCAL = ["ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs", "f2fs", "fuseblk", "ramfs", "bcachefs"]


def kind_at(tmp_path, kind):
    (tmp_path / "mounts").write_text(f"/dev/vda / ext4 rw 0 0\nwhat {tmp_path} {kind} rw 0 0\n")
    return lmdb_files.network_filesystem(str(tmp_path / "store"), str(tmp_path / "mounts"))


@pytest.mark.parametrize("kind", REMOTE)
def test_a_file_system_that_another_host_may_share_is_named_in_a_warning(tmp_path, monkeypatch, kind):
    assert kind_at(tmp_path, kind) == kind
    monkeypatch.setattr(lmdb_env, "network_filesystem", lambda directory: kind_at(tmp_path, kind))
    with pytest.warns(UserWarning, match=f"lies on {kind}"), kvgit.open(tmp_path / "store") as work:
        work["a"] = 1
        work.commit()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with kvgit.open(tmp_path / "store") as work:
            assert dict(work) == {"a": 1}


@pytest.mark.parametrize("kind", LOCAL)
def test_a_local_file_system_gets_no_warning(tmp_path, kind):
    """The control."""
    assert kind_at(tmp_path, kind) is None


OVERLAY = """
import json, subprocess, sys
from pathlib import Path
import kvgit_hamt as kvgit
from kvgit_hamt.backend.lmdb import LmdbBackend
base = Path(sys.argv[1])
lower, upper, merged, scratch = (base / name for name in ("lower", "upper", "merged", "scratch"))
(base / "top").mkdir()
subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(base / "top")], check=True)
upper, scratch = base / "top" / "upper", base / "top" / "work"
for each in (lower, upper, merged, scratch):
    each.mkdir()
with kvgit.open(lower / "store") as work:
    work["from the image"] = 1
    work.commit()
options = f"lowerdir={lower},upperdir={upper},workdir={scratch}"
done = subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(merged)], capture_output=True)
if done.returncode:
    print(json.dumps("no overlay"))
    sys.exit()
with kvgit.Repo(LmdbBackend(merged / "store", readonly=True)) as repo:
    first = dict(repo.snapshot().items())
with kvgit.open(merged / "store") as work:
    for number in range(20):
        work[f"{number}"] = number
        work.commit()
    work.repo.gc(keep_reflog=0)
    work.repo.compact()
with kvgit.open(merged / "store") as work:
    second = len(work)
with kvgit.open(lower / "store") as work:
    below = len(work)
print(json.dumps([first, second, below]))
"""


def test_a_store_of_an_image_goes_on_in_the_layer_above_it(tmp_path):
    prefix = mount_namespace()
    command = [
        *prefix,
        sys.executable,
        "-W",
        "error",
        "-c",
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{OVERLAY}",
    ]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    if found == "no overlay":
        pytest.skip("the system has no overlay file system")
    assert found == [{"from the image": 1}, 21, 1]
