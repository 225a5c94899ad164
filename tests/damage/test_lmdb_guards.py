"""Damage that LMDB itself does not see, or dies of: cut files, flipped bits, old states, swapped files."""

from __future__ import annotations

import os
import random
import shutil
import signal
from pathlib import Path

import lmdb
import pytest

from kvgit_hamt.backend import lmdb_files
from kvgit_hamt.backend.base import Batch, NewRecord, RefUpdate
from kvgit_hamt.backend.lmdb import LmdbBackend
from kvgit_hamt.backend.lmdb_state import STATE_KEY, read_state
from kvgit_hamt.errors import (
    BackendError,
    CorruptionError,
    FormatVersionError,
    KvgitHamtError,
    StoreReplacedError,
    StoreRolledBackError,
)
from kvgit_hamt.oid import oid_of
from tests.support.rawstore import open_raw, raw_store

META_BYTES = 152


def record(payload, kind=None):
    return NewRecord(oid_of(payload), payload, 0, kind)


def commit(backend, number, size=700):
    rng = random.Random(number)
    new = [record(rng.randbytes(size)) for _ in range(6)] + [record(b"commit %d" % number, "commit")]
    update = RefUpdate("heads/main", backend.get_ref("heads/main"), b"%d" % number, b"log %d" % number)
    backend.publish(Batch(new, backend.next_place(), refs=[update]))


def contents(backend):
    return (
        backend.list_refs(""),
        backend.read_reflog("heads/main"),
        dict(backend.iterate_records()),
        backend.get_meta("m"),
    )


@pytest.fixture
def store(tmp_path):
    """A store of twelve commits and its contents."""
    path = tmp_path / "store"
    with LmdbBackend(path) as backend:
        backend.publish(Batch(meta={"m": b"value"}, refs=[RefUpdate("heads/other", None, b"x", None)]))
        for number in range(12):
            commit(backend, number)
        return path, contents(backend)


def in_child(work):
    """Run in a forked child, which may die; returns its exit code, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = work() or 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def raw(path):
    return lmdb.open(str(path), map_size=1 << 30, max_dbs=16)


def flip(path, bit):
    with open(path, "r+b") as file:
        file.seek(bit // 8)
        byte = file.read(1)[0]
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))


# --- cut files


def cuts(file_bytes):
    return [0, 1, 15, 151, 152, 4095, 4096, 4097, 8191, 8192, *range(8192, file_bytes, 4096), file_bytes - 1]


def test_a_file_cut_anywhere_is_refused_or_whole_and_never_kills_the_process(store):
    path, expected = store
    whole = (path / "data.mdb").read_bytes()

    def work():
        refused = 0
        for cut in cuts(len(whole)):
            (path / "data.mdb").write_bytes(whole[:cut])
            try:
                with LmdbBackend(path) as backend:
                    assert contents(backend) == expected
            except CorruptionError:
                refused += 1
        return 0 if refused > len(whole) // 4096 // 2 else 2

    assert in_child(work) == 0


def test_without_the_guard_a_cut_file_kills_the_process(store, monkeypatch):
    """The control: what the guard is for."""
    path, _ = store
    whole = (path / "data.mdb").read_bytes()
    (path / "data.mdb").write_bytes(whole[: len(whole) // 8192 * 4096])
    monkeypatch.setattr(lmdb_files, "_check_missing_tail", lambda *_: None)

    def work():
        with LmdbBackend(path, readonly=True) as backend:
            contents(backend)
        return 0

    assert in_child(work) == -signal.SIGBUS


def test_an_emptied_or_missing_data_file_is_damage_and_no_new_store(store):
    path, _ = store
    (path / "data.mdb").write_bytes(b"")
    for _ in range(2):
        with pytest.raises(CorruptionError, match=r"data\.mdb"):
            LmdbBackend(path)
        (path / "data.mdb").unlink(missing_ok=True)
    assert not (path / "data.mdb").exists()


def test_a_sound_file_that_ends_before_its_free_pages_opens(store):
    path, expected = store
    env = raw(path)
    with env.begin(write=True) as txn:
        for number in range(50):
            txn.put(b"!x%d" % number, bytes(9000))
        for number in range(50):
            txn.delete(b"!x%d" % number)
    used_bytes = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    env.close()
    assert (path / "data.mdb").stat().st_size < used_bytes
    for readonly in (True, False):
        with LmdbBackend(path, readonly=readonly) as backend:
            assert contents(backend) == expected
    assert (path / "data.mdb").stat().st_size == used_bytes


def test_a_commit_that_gives_pages_back_leaves_a_file_of_full_length(store):
    path, expected = store
    with LmdbBackend(path) as backend:

        def write(txn, tables, state):
            for number in range(50):
                txn.put(b"!x%d" % number, bytes(9000), db=tables.main)
            for number in range(50):
                txn.delete(b"!x%d" % number, db=tables.main)
            return state, None

        backend._write(write)
        assert backend.stats()["file_bytes"] == backend.stats()["used_bytes"]
        assert contents(backend) == expected


def test_garbage_behind_the_last_page_is_harmless(store):
    path, expected = store
    with open(path / "data.mdb", "ab") as file:
        file.write(os.urandom(5000))
    with LmdbBackend(path) as backend:
        assert contents(backend) == expected
        commit(backend, 99)


# --- meta pages


def outcomes_of_meta_flips(path, expected, bits):
    """How many opens were refused, were whole, or (a fault) showed something else."""
    whole = (path / "data.mdb").read_bytes()
    witness = (path / "WITNESS").read_bytes()
    refused = good = wrong = 0
    for bit in bits:
        (path / "data.mdb").write_bytes(whole)
        (path / "WITNESS").write_bytes(witness)
        flip(path / "data.mdb", bit)
        try:
            with LmdbBackend(path) as backend:
                if contents(backend) == expected:
                    good += 1
                else:
                    wrong += 1
        except KvgitHamtError:
            refused += 1
    return refused, good, wrong


def meta_bits():
    return [page * 4096 * 8 + bit for page in (0, 1) for bit in range(META_BYTES * 8)]


def check_meta_flips(store, bits):
    path, expected = store
    chunks = [bits[at : at + 50] for at in range(0, len(bits), 50)]
    for chunk in chunks:

        def work(chunk=chunk):
            return 3 if outcomes_of_meta_flips(path, expected, chunk)[2] else 0

        assert in_child(work) == 0, f"among bits {chunk}"


def test_a_flipped_bit_in_a_meta_page_never_shows_an_older_state(store):
    check_meta_flips(store, random.Random(5).sample(meta_bits(), 300))


@pytest.mark.slow
def test_no_flipped_bit_in_the_meta_pages_shows_an_older_state(store):
    check_meta_flips(store, meta_bits())


def test_without_the_witness_a_flipped_meta_bit_does_roll_back(store):
    """The control: what the witness is for."""
    path, expected = store
    whole = (path / "data.mdb").read_bytes()
    txn_id_bits = [page * 4096 * 8 + 144 * 8 + bit for page in (0, 1) for bit in range(8)]
    seen = set()
    for bit in txn_id_bits:
        (path / "data.mdb").write_bytes(whole)
        (path / "WITNESS").unlink(missing_ok=True)
        flip(path / "data.mdb", bit)
        try:
            with LmdbBackend(path) as backend:
                seen.add(contents(backend) == expected)
        except KvgitHamtError:
            continue
    assert False in seen


@pytest.mark.slow
def test_random_flips_anywhere_are_found_or_harmless(store):
    path, expected = store
    whole = (path / "data.mdb").read_bytes()
    rng = random.Random(8)

    def work():
        for _ in range(100):
            (path / "data.mdb").write_bytes(whole)
            flip(path / "data.mdb", rng.randrange(len(whole) * 8))
            try:
                with LmdbBackend(path) as backend:
                    refs, log, records, meta = contents(backend)
            except KvgitHamtError:
                continue
            # Records are verified by the caller; refs, reflog and meta by the backend.
            if (refs, meta) != (expected[0], expected[3]) or not set(log) <= set(expected[1]):
                return 4
            assert len(records) <= len(expected[2])
        return 0

    for _ in range(20):
        assert in_child(work) == 0


# --- values with a check


@pytest.mark.parametrize("table", ["refs", "reflog", "meta"])
def test_every_flipped_bit_of_a_ref_reflog_entry_or_meta_value_is_found(store, table):
    path, _ = store
    with raw_store(path) as tables:
        key, value = tables.rows(table)[0]
    readers = {
        "refs": lambda backend: (backend.list_refs(""), backend.get_ref("heads/main")),
        "reflog": lambda backend: backend.read_reflog("heads/main"),
        "meta": lambda backend: backend.get_meta("m"),
    }
    for bit in range(len(value) * 8):
        changed = bytearray(value)
        changed[bit // 8] ^= 1 << bit % 8
        replace(path, table, key, key, bytes(changed))
        with LmdbBackend(path) as backend, pytest.raises(CorruptionError):
            readers[table](backend)


def test_every_flipped_bit_of_the_state_is_found(store):
    """It holds the newest commits and reflog entries, too."""
    path, _ = store
    env, tables = open_raw(path)
    with env.begin(write=True) as txn:
        value = txn.get(STATE_KEY, db=tables.main)
        assert read_state(txn, tables).tail.log_count > 0
    env.close()
    for bit in range(len(value) * 8):
        changed = bytearray(value)
        changed[bit // 8] ^= 1 << bit % 8
        env, tables = open_raw(path)
        with env.begin(write=True) as txn:
            txn.put(STATE_KEY, bytes(changed), db=tables.main)
        env.close()
        with pytest.raises(CorruptionError):
            LmdbBackend(path)


def replace(path, table, old_key, key, value):
    with raw_store(path) as tables:
        tables.delete(table, old_key)
        tables.put(table, key, value)


@pytest.mark.parametrize("renamed", [b"heads/maiN", b"\xffeads/main", b"heads/main\x00"])
def test_a_ref_under_a_damaged_name_is_found_when_listing(store, renamed):
    path, _ = store
    with raw_store(path) as tables:
        value = tables.get("refs", b"heads/main")
    replace(path, "refs", b"heads/main", renamed, value)
    with LmdbBackend(path) as backend:
        with pytest.raises(CorruptionError):
            backend.list_refs("")
        assert backend.get_ref("heads/other") == b"x"


def test_a_ref_that_vanished_is_missed_when_listing(store):
    path, _ = store
    with raw_store(path) as tables:
        tables.delete("refs", b"heads/main")
    with LmdbBackend(path) as backend, pytest.raises(CorruptionError, match="missing"):
        backend.list_refs("")
    with LmdbBackend(path, accept_rollback=True) as backend:
        assert backend.list_refs("") == [("heads/other", b"x")]
    with LmdbBackend(path) as backend:
        assert backend.list_refs("") == [("heads/other", b"x")]


# --- older states and other files


def test_an_older_data_file_is_refused_until_the_rollback_is_accepted(store, tmp_path):
    path, expected = store
    shutil.copy(path / "data.mdb", tmp_path / "backup")
    with LmdbBackend(path) as backend:
        commit(backend, 50)
    shutil.copy(tmp_path / "backup", path / "data.mdb")
    for readonly in (False, True):
        with pytest.raises(StoreRolledBackError, match="accept_rollback=True"):
            LmdbBackend(path, readonly=readonly)
    with LmdbBackend(path, accept_rollback=True) as backend:
        assert contents(backend) == expected
    with LmdbBackend(path) as backend:
        commit(backend, 51)


def test_a_history_that_forked_from_a_backup_is_refused_at_an_equal_count(store, tmp_path):
    path, _ = store
    shutil.copytree(path, tmp_path / "copy")
    with LmdbBackend(path) as backend, LmdbBackend(tmp_path / "copy") as copy:
        commit(backend, 50)
        commit(copy, 51)
    shutil.copy(tmp_path / "copy" / "data.mdb", path / "data.mdb")
    with pytest.raises(StoreRolledBackError, match="other refs"):
        LmdbBackend(path)


def test_the_data_file_of_another_store_is_refused(store, tmp_path):
    path, _ = store
    with LmdbBackend(tmp_path / "other") as other:
        for number in range(30):
            commit(other, number)
    shutil.copy(tmp_path / "other" / "data.mdb", path / "data.mdb")
    with pytest.raises(StoreRolledBackError, match="another store"):
        LmdbBackend(path)


@pytest.mark.parametrize("damage", [b"", b"short", bytes(64), None], ids=["empty", "torn", "zero", "gone"])
def test_a_witness_that_cannot_be_read_is_ignored_and_made_anew(store, damage):
    path, expected = store
    before = (path / "WITNESS").read_bytes()
    if damage is None:
        (path / "WITNESS").unlink()
    else:
        (path / "WITNESS").write_bytes(damage)
    with LmdbBackend(path) as backend:
        assert contents(backend) == expected
    assert (path / "WITNESS").read_bytes() == before


def test_a_witness_that_lags_is_harmless(store):
    path, _ = store
    older = (path / "WITNESS").read_bytes()
    with LmdbBackend(path) as backend:
        for number in range(20, 25):
            commit(backend, number)
    (path / "WITNESS").write_bytes(older)
    with LmdbBackend(path) as backend:
        assert backend.get_ref("heads/main") == b"24"


def test_a_witness_that_cannot_be_written_does_not_fail_a_commit(store):
    path, _ = store
    (path / "WITNESS").unlink()
    (path / "WITNESS").mkdir()
    with LmdbBackend(path) as backend:
        commit(backend, 20)
        assert backend.get_ref("heads/main") == b"20"


def test_without_metasync_the_witness_stays_one_commit_behind(store):
    path, _ = store
    with LmdbBackend(path, sync="no_meta") as backend:
        commit(backend, 20)
        before = (path / "data.mdb").read_bytes()
        commit(backend, 21)
    (path / "data.mdb").write_bytes(before)  # as if the power went before the last meta page was out
    with LmdbBackend(path) as backend:
        assert backend.get_ref("heads/main") == b"20"


@pytest.mark.parametrize("how", ["unlink", "replace", "move"])
def test_a_store_that_is_replaced_while_open_refuses_to_write(store, tmp_path, how):
    path, expected = store
    shutil.copytree(path, tmp_path / "copy")
    backend = LmdbBackend(path)
    if how == "unlink":
        (path / "data.mdb").unlink()
    elif how == "replace":
        os.replace(tmp_path / "copy" / "data.mdb", path / "data.mdb")
    else:
        path.rename(tmp_path / "elsewhere")
        (tmp_path / "copy").rename(path)
    for _ in range(2):
        with pytest.raises(StoreReplacedError, match=r"data\.mdb"):
            commit(backend, 70)
    if how == "unlink":
        with pytest.raises(CorruptionError, match="missing"):
            LmdbBackend(path)
    else:
        with LmdbBackend(path) as again:
            assert contents(again) == expected
            commit(again, 71)
        with pytest.raises(StoreReplacedError):
            commit(backend, 72)
    backend.close()


# --- foreign directories and formats


def test_a_file_is_no_store(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(BackendError, match="is a file"):
        LmdbBackend(tmp_path / "file")


def test_a_directory_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(BackendError, match="not empty"):
        LmdbBackend(tmp_path)
    assert os.listdir(tmp_path) == ["letter.txt"]


@pytest.mark.parametrize("lib_version", [0, 1])
def test_an_lmdb_environment_of_something_else_is_left_alone(tmp_path, lib_version):
    env = lmdb.open(str(tmp_path / "env"), max_dbs=3, lib_version=lib_version)
    table = env.open_db(b"mine")
    with env.begin(table, write=True) as txn:
        txn.put(b"a", b"1")
    env.close()
    before = (tmp_path / "env" / "data.mdb").read_bytes()
    with pytest.raises(FormatVersionError):
        LmdbBackend(tmp_path / "env")
    assert (tmp_path / "env" / "data.mdb").read_bytes() == before
    assert sorted(os.listdir(tmp_path / "env")) == ["data.mdb", "lock.mdb"]


def test_a_file_that_is_no_lmdb_data_is_refused(store):
    path, _ = store
    (path / "data.mdb").write_bytes(b"not LMDB at all " * 1000)
    with pytest.raises(CorruptionError):
        LmdbBackend(path)


@pytest.mark.parametrize("text", ["kvgit_hamt store\nlayout 2\n", "", "something else"])
def test_a_marker_of_another_layout_is_refused(store, text):
    path, _ = store
    (path / "FORMAT").write_text(text)
    with pytest.raises(FormatVersionError):
        LmdbBackend(path)


def test_a_lost_marker_is_put_back(store):
    path, expected = store
    before = (path / "FORMAT").read_bytes()
    (path / "FORMAT").unlink()
    with LmdbBackend(path) as backend:
        assert contents(backend) == expected
    assert (path / "FORMAT").read_bytes() == before


def test_a_missing_table_is_another_format(store):
    path, _ = store
    env = raw(path)
    table = env.open_db(b"nodes")
    with env.begin(write=True) as txn:
        txn.drop(table)
    env.close()
    with pytest.raises(FormatVersionError, match="nodes"):
        LmdbBackend(path)


@pytest.mark.parametrize("leftover", [["data.mdb"], ["lock.mdb"], ["data.mdb", "lock.mdb"], []])
def test_a_creation_that_was_interrupted_is_completed(tmp_path: Path, leftover):
    path = tmp_path / "store"
    path.mkdir()
    if leftover == ["data.mdb", "lock.mdb"]:
        lmdb.open(str(path), lib_version=0).close()
    else:
        for name in leftover:
            (path / name).write_bytes(b"")
    with LmdbBackend(path) as backend:
        commit(backend, 1)
    with LmdbBackend(path) as backend:
        assert backend.get_ref("heads/main") == b"1"
