"""Opening, sharing and closing of LMDB environments."""

from __future__ import annotations

import errno
import gc
import os
import resource
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import lmdb
import pytest

from kvgit_hamt.backend import lmdb_env
from kvgit_hamt.backend.base import Batch, NewRecord, RefUpdate
from kvgit_hamt.backend.lmdb import LmdbBackend
from kvgit_hamt.backend.lmdb_errors import is_full, translate
from kvgit_hamt.backend.lmdb_files import network_filesystem
from kvgit_hamt.errors import (
    BackendError,
    CorruptionError,
    FormatVersionError,
    LockedError,
    ReadOnlyError,
    StoreFullError,
)
from kvgit_hamt.oid import oid_of

ROOT = Path(__file__).parents[2]


def set_ref(backend, value):
    backend.publish(Batch(refs=[RefUpdate("heads/main", backend.get_ref("heads/main"), value, None)]))


def in_python(code, *arguments, **environment):
    """Run code in a fresh interpreter; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- making


def test_a_store_is_made_with_its_parents_and_marked(tmp_path):
    with LmdbBackend(tmp_path / "a" / "b") as backend:
        assert backend.path == str(tmp_path / "a" / "b")
    assert sorted(os.listdir(tmp_path / "a" / "b")) == ["FORMAT", "WITNESS", "data.mdb", "lock.mdb"]
    assert "kvgit_hamt" in (tmp_path / "a" / "b" / "FORMAT").read_text()


@pytest.mark.parametrize("options", [{"create": False}, {"readonly": True}])
def test_a_missing_store_is_not_made_unasked(tmp_path, options):
    with pytest.raises(BackendError, match="no store"):
        LmdbBackend(tmp_path / "store", **options)
    assert os.listdir(tmp_path) == []


def test_an_unknown_sync_level_is_refused(tmp_path):
    with pytest.raises(BackendError, match="sync"):
        LmdbBackend(tmp_path / "store", sync="never")
    assert os.listdir(tmp_path) == []


def test_the_environment_variable_of_lmdb_does_not_choose_the_format(tmp_path):
    code = "import sys; from kvgit_hamt.backend.lmdb import LmdbBackend; LmdbBackend(sys.argv[1]).close()"
    in_python(code, tmp_path / "store", LMDB_DEFAULT_LIB_VERSION="1")
    with LmdbBackend(tmp_path / "store", create=False) as backend:
        assert backend._shared.open().env.lib_version()[0] == 0


def test_a_fresh_store_takes_little_space_for_a_large_map(tmp_path):
    with LmdbBackend(tmp_path / "store") as backend:
        stats = backend.stats()
    assert stats["map_bytes"] == 1 << 40
    assert stats["file_bytes"] < 1 << 17


def test_a_small_address_space_gets_a_smaller_map_and_says_when_it_is_full(tmp_path):
    code = """
import resource, sys, os
resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29))
from kvgit_hamt.backend.lmdb import LmdbBackend
from kvgit_hamt.backend.base import Batch, NewRecord
from kvgit_hamt.errors import StoreFullError
from kvgit_hamt.oid import oid_of
backend = LmdbBackend(sys.argv[1], sync="no_meta")
assert backend.stats()["map_bytes"] < 1 << 29
body = bytes(8 << 20)
count = 0
try:
    while count < 100:
        backend.publish(Batch([NewRecord(oid_of(b"%d" % count), body, 0, "blob")], backend.next_place()))
        count += 1
except StoreFullError as error:
    assert "may not grow" in str(error)
    assert backend.stats()["record_count"] == count
    backend.publish(Batch(meta={"small": b"1"}))
    print(count)
"""
    count = int(in_python(code, tmp_path / "store"))
    assert 5 < count < 100
    with LmdbBackend(tmp_path / "store") as backend:
        assert backend.stats()["record_count"] == count
        assert backend.get_meta("small") == b"1"


def remains(meta: bytes, page_bytes: int) -> dict[str, bytes]:
    """What a power cut may leave of the first, unsynced writes of creation."""
    zero = bytes(page_bytes)
    return {
        "nothing": zero,
        "no meta page": zero + zero + b"a table" * 99,
        "the first meta page": meta[:page_bytes],
        "the first meta page, and tables": meta[:page_bytes] + zero + b"a table" * 99,
        "the second meta page": zero + meta[page_bytes:],
    }


def test_a_store_whose_making_was_broken_off_by_a_power_cut_is_made_anew(tmp_path):
    lmdb.open(str(tmp_path / "raw"), lib_version=0).close()
    meta = (tmp_path / "raw" / "data.mdb").read_bytes()
    for name, data in remains(meta, len(meta) // 2).items():
        path = tmp_path / name
        path.mkdir()
        (path / "data.mdb").write_bytes(data)
        with pytest.raises(BackendError, match="no store"):
            LmdbBackend(path, create=False)
        assert (path / "data.mdb").read_bytes() == data
        with LmdbBackend(path) as backend:
            set_ref(backend, b"1")
        with LmdbBackend(path, create=False) as backend:
            assert backend.get_ref("heads/main") == b"1"


def test_no_data_file_is_taken_for_the_remains_of_one_that_was_never_finished(tmp_path):
    with LmdbBackend(tmp_path / "store") as backend:
        set_ref(backend, b"1")
    whole = (tmp_path / "store" / "data.mdb").read_bytes()
    page = os.sysconf("SC_PAGE_SIZE")
    files = {
        "a lost page beside a marker": (bytes(page) + whole[page:], True),
        "a lost page without one": (bytes(page) + whole[page:], False),
        "the other one": (whole[:page] + bytes(page) + whole[2 * page :], False),
        "of somebody else": (b"not ours" * 2000, False),
        "large": (bytes(page * 65), False),
    }
    for name, (data, is_marked) in files.items():
        path = tmp_path / name
        path.mkdir()
        (path / "data.mdb").write_bytes(data)
        if is_marked:
            (path / "FORMAT").write_bytes((tmp_path / "store" / "FORMAT").read_bytes())
        with pytest.raises(CorruptionError):
            LmdbBackend(path)
        assert (path / "data.mdb").read_bytes() == data


# --- read-only


def test_a_readonly_handle_reads_and_refuses_to_write(tmp_path):
    with LmdbBackend(tmp_path / "store") as backend:
        set_ref(backend, b"1")
    before = {name: (tmp_path / "store" / name).read_bytes() for name in ("data.mdb", "WITNESS", "FORMAT")}
    with LmdbBackend(tmp_path / "store", readonly=True) as backend:
        assert backend.get_ref("heads/main") == b"1"
        assert backend.pending_floor() is None
        for call in (lambda: set_ref(backend, b"2"), lambda: backend.reserve(1), lambda: backend.release(1)):
            with pytest.raises(ReadOnlyError):
                call()
    assert before == {name: (tmp_path / "store" / name).read_bytes() for name in before}


def test_a_readonly_handle_stays_so_beside_a_writing_one(tmp_path):
    LmdbBackend(tmp_path / "store").close()
    with LmdbBackend(tmp_path / "store", readonly=True) as reader:
        with LmdbBackend(tmp_path / "store") as writer:
            set_ref(writer, b"1")
            assert reader.get_ref("heads/main") == b"1"
            with pytest.raises(ReadOnlyError):
                set_ref(reader, b"2")
        assert reader.get_ref("heads/main") == b"1"


@pytest.fixture
def open_directory():
    """A directory that every user can look into, which pytest's own are not."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can take its own rights away and back")
def test_a_directory_without_write_permission_is_named(open_directory):
    with LmdbBackend(open_directory / "store") as backend:
        set_ref(backend, b"1")
    code = """
import os, sys
from kvgit_hamt.backend.lmdb import LmdbBackend
from kvgit_hamt.errors import ReadOnlyError
LmdbBackend(sys.argv[1]).close()  # what is imported late may lie where only root can look
os.setuid(65534)
for path in sys.argv[1:]:
    try:
        LmdbBackend(path)
    except ReadOnlyError as error:
        print(path in str(error))
"""
    assert in_python(code, open_directory / "store", open_directory / "new").split() == ["True", "True"]


# --- sharing


def test_handles_on_one_directory_share_one_environment(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "store")
    handles = [LmdbBackend(tmp_path / name) for name in ("store", "link", "../" + tmp_path.name + "/store")]
    assert len({id(handle._shared) for handle in handles}) == 1
    set_ref(handles[0], b"1")
    handles[0].close()
    assert handles[1].get_ref("heads/main") == b"1"
    set_ref(handles[2], b"2")
    for handle in handles:
        handle.close()
    lmdb.open(str(tmp_path / "store"), max_dbs=9).close()  # nobody holds it any more


def test_the_stronger_sync_level_wins(tmp_path):
    weak = LmdbBackend(tmp_path / "store", sync="no_meta")
    assert not weak._shared.open().env.flags()["metasync"]
    strong = LmdbBackend(tmp_path / "store")
    assert strong._shared.open().env.flags()["metasync"]
    set_ref(weak, b"1")
    assert strong.get_ref("heads/main") == b"1"
    weak.close()
    strong.close()


def test_a_handle_that_was_dropped_but_not_closed_does_not_keep_its_store_open_for_ever(tmp_path):
    backend = LmdbBackend(tmp_path / "store")
    set_ref(backend, b"1")
    del backend
    gc.collect()
    LmdbBackend(tmp_path / "other").close()
    lmdb.open(str(tmp_path / "store"), max_dbs=9).close()


def test_an_environment_that_is_open_elsewhere_in_the_process_is_refused(tmp_path):
    LmdbBackend(tmp_path / "store").close()
    env = lmdb.open(str(tmp_path / "store"), max_dbs=9)
    with pytest.raises(BackendError, match="already open"):
        LmdbBackend(tmp_path / "store")
    env.close()
    LmdbBackend(tmp_path / "store").close()


def test_a_failed_open_leaves_nothing_behind(tmp_path):
    LmdbBackend(tmp_path / "store").close()
    marker = (tmp_path / "store" / "FORMAT").read_text()
    (tmp_path / "store" / "FORMAT").write_text("foreign")
    with pytest.raises(FormatVersionError):
        LmdbBackend(tmp_path / "store")
    (tmp_path / "store" / "FORMAT").write_text(marker)
    LmdbBackend(tmp_path / "store").close()


def test_closing_one_handle_leaves_an_iteration_of_another_alone(tmp_path):
    first, second = LmdbBackend(tmp_path / "store"), LmdbBackend(tmp_path / "store")
    first.publish(Batch([NewRecord(oid_of(b"%d" % n), b"%d" % n, 0, None) for n in range(600)], 1))
    records = second.iterate_records()
    next(records)
    first.close()
    assert len(list(records)) == 599
    second.close()


def test_no_file_descriptor_outlives_the_handles(tmp_path):
    LmdbBackend(tmp_path / "store").close()
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with LmdbBackend(tmp_path / "store") as backend:
            set_ref(backend, b"1")
    assert sorted(os.listdir("/proc/self/fd")) == before


# --- file systems

MOUNTS = """\
/dev/vda / ext4 rw 0 0
server:/export /mnt/nfs nfs4 rw 0 0
//server/share /mnt/nfs/win\\040dows cifs rw 0 0
tmpfs /mnt/nfs/local tmpfs rw 0 0
sshfs /home/me/far fuse.sshfs rw 0 0
/dev/sdb /mnt/usb fuseblk rw 0 0
"""


@pytest.mark.parametrize(
    ("directory", "kind"),
    [
        ("/data/store", None),
        ("/mnt/nfs", "nfs4"),
        ("/mnt/nfs/store", "nfs4"),
        ("/mnt/nfsx/store", None),
        ("/mnt/nfs/win dows/store", "cifs"),
        ("/mnt/nfs/local/store", None),
        ("/home/me/far/store", "fuse.sshfs"),
        ("/mnt/usb/store", None),
    ],
)
def test_network_file_systems_are_recognised_by_the_innermost_mount(tmp_path, directory, kind):
    (tmp_path / "mounts").write_text(MOUNTS)
    assert network_filesystem(directory, str(tmp_path / "mounts")) == kind


def test_a_system_without_a_mount_table_gets_no_warning(tmp_path):
    assert network_filesystem(str(tmp_path), str(tmp_path / "none")) is None


def test_a_store_on_a_network_file_system_warns_at_the_callers_line(tmp_path, monkeypatch):
    monkeypatch.setattr(lmdb_env, "network_filesystem", lambda directory: "nfs4")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        LmdbBackend(tmp_path / "store").close()
    assert [(str(each.message).split(" lies on ")[1][:4], each.filename) for each in caught] == [
        ("nfs4", __file__)
    ]


# --- errors


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (lmdb.CorruptedError("x"), CorruptionError),
        (lmdb.PageNotFoundError("x"), CorruptionError),
        (lmdb.InvalidError("x"), CorruptionError),
        (lmdb.VersionMismatchError("x"), FormatVersionError),
        (lmdb.ReadonlyError("x"), ReadOnlyError),
        (lmdb.ReadersFullError("x"), LockedError),
        (lmdb.LockError("x"), LockedError),
        (lmdb.DiskError("x"), StoreFullError),
        (lmdb.MapFullError("x"), StoreFullError),
        (lmdb.TxnFullError("x"), BackendError),
        (lmdb.Error("x"), BackendError),
    ],
)
def test_each_error_of_lmdb_becomes_one_of_ours(tmp_path, error, kind):
    assert type(translate(error, str(tmp_path))) is kind


class CodedError(lmdb.Error):
    def __init__(self, code):
        super().__init__("x", code)
        self.code = code


@pytest.mark.parametrize(("free_bytes", "expected"), [(0, True), (1 << 30, False)])
def test_an_io_error_on_a_full_device_means_that_it_is_full(tmp_path, monkeypatch, free_bytes, expected):
    class Left:
        f_bavail = free_bytes
        f_frsize = 1

    monkeypatch.setattr(os, "statvfs", lambda path: Left)
    assert is_full(CodedError(errno.EIO), str(tmp_path)) is expected
    assert is_full(CodedError(errno.EFBIG), str(tmp_path))
    assert not is_full(CodedError(errno.EINVAL), str(tmp_path))


def test_too_many_readers_are_told_so(tmp_path, monkeypatch):
    monkeypatch.setattr(lmdb_env, "MAX_READERS", 2)
    backend = LmdbBackend(tmp_path / "store")
    env = backend._shared.open().env
    held = [env.begin(), env.begin()]
    with pytest.raises(LockedError, match="reader slots"):
        backend.get_ref("heads/main")
    with pytest.raises(LockedError, match="reader slots"):
        backend.read(b"", bytes(8))
    held.clear()
    assert backend.get_ref("heads/main") is None
    backend.close()


def test_few_file_descriptors_are_a_clear_error(tmp_path):
    code = """
import resource, sys
from kvgit_hamt.backend.lmdb import LmdbBackend
from kvgit_hamt.errors import BackendError
import os
top = max(map(int, os.listdir("/proc/self/fd")))
resource.setrlimit(resource.RLIMIT_NOFILE, (top + 1, top + 1))
try:
    LmdbBackend(sys.argv[1])
except BackendError as error:
    print(type(error).__name__)
"""
    assert in_python(code, tmp_path / "store").split() == ["BackendError"]
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 16
