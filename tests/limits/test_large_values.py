"""Values from no byte to the largest that a store can hold, and what is said of larger ones."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest

from kvgit_hamt import Repo, codec
from kvgit_hamt.bundle_format import MAX_OBJECT_BYTES
from kvgit_hamt.errors import CorruptionError, EncodeError
from kvgit_hamt.objects import BLOB_HEADER
from kvgit_hamt.path import Shape
from kvgit_hamt.wire import CHECK_BYTES
from tests.support.scale import pick, record

INLINE = Shape().inline_max
EDGES = [0, 1, INLINE - 1, INLINE, INLINE + 1, 2_009, 2_031, 4_079, 4_097, 65_535, 65_536, 1 << 20]
LARGEST_MIB = pick(64, 1_024)


def value_of(size: int) -> bytes:
    """Bytes that differ from place to place and from size to size."""
    block = hashlib.sha256(b"%d" % size).digest() * 2_048
    return (block * (size // len(block) + 1))[:size] if size > len(block) else block[:size]


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repo]:
    with Repo(tmp_path / "store", codec="bytes") as repo:
        yield repo


def test_values_at_each_edge_come_back(repo, tmp_path):
    work = repo.worktree()
    work.update({f"v/{size}": value_of(size) for size in EDGES})
    work.commit()
    repo.worktree("loaded", create=True).load((f"v/{size}", value_of(size)) for size in EDGES)
    repo.bundle(tmp_path / "b")
    repo.close()
    with Repo(tmp_path / "store", codec="bytes") as again, Repo(tmp_path / "two", codec="bytes") as two:
        two.load_bundle(tmp_path / "b")
        for found in (again, two):
            for branch in ("main", "loaded"):
                snapshot = found.snapshot(branch=branch)
                assert {key: len(value) for key, value in snapshot.items()} == {f"v/{n}": n for n in EDGES}
                assert all(snapshot[f"v/{size}"] == value_of(size) for size in EDGES)
            assert [*found.check()] == []


@pytest.mark.slow
def test_a_large_value_goes_through_everything(repo, tmp_path):
    size = LARGEST_MIB << 20
    value = value_of(size)
    digest = hashlib.sha256(value).digest()
    work = repo.worktree()
    work["large"] = value
    del value
    work.commit()
    work.discard()
    assert hashlib.sha256(work["large"]).digest() == digest
    work["twice"] = work["large"]
    work.commit()
    assert repo.stats()["blob_count"] == 1, "stored once"
    assert repo.stats()["file_bytes"] < 1.1 * size + (1 << 20)
    repo.bundle(tmp_path / "b", "main")
    work.close()
    repo.close()
    with Repo(tmp_path / "two", codec="bytes") as two:
        two.load_bundle(tmp_path / "b")
        os.unlink(tmp_path / "b")
        snapshot = two.snapshot()
        assert hashlib.sha256(snapshot["large"]).digest() == digest
        assert [*two.check(deep=False)] == []
        _damage(two, tmp_path)
        with pytest.raises(CorruptionError):
            two.snapshot()["large"]
    record("LIM3 values", max_mib=LARGEST_MIB, control_failed=True)


def _damage(repo: Repo, tmp_path: Path) -> None:
    """The control: one bit of a large value is flipped in the file."""
    backend: Any = repo.store.backend
    data = tmp_path / "two" / "data.mdb"
    with data.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        needle = value_of(LARGEST_MIB << 20)[:64]
        at = view.find(needle)
        assert at > 0
        view[at + 1_000_000] ^= 1
    assert backend.stats()["blob_count"] == 1


def test_what_no_store_can_hold_is_refused_at_once_with_its_key(repo, monkeypatch):
    monkeypatch.setattr(codec, "MAX_VALUE_BYTES", 1_000)
    work = repo.worktree()
    work["good"] = bytes(1_000)
    with pytest.raises(EncodeError, match=r"'bad'.*1,001 bytes.*1,000 at most"):
        work["bad"] = bytes(1_001)
    with pytest.raises(EncodeError, match="'bad'"):
        work.update({"fine": b"1", "bad": bytes(1_001)})
    assert set(work.status().updated) == {"good"}
    work.commit()
    with pytest.raises(EncodeError, match="'bad'"):
        work.load([("fine", b"1"), ("bad", bytes(1_001))])
    assert set(work.keys()) == {"good"}


def test_the_limit_is_lmdb_s(tmp_path):
    """A record of the largest value is the largest that LMDB takes; one byte more is refused before a byte of
    it is looked at. (A sparse file stands for the value.)"""
    assert codec.MAX_VALUE_BYTES + len(BLOB_HEADER) + CHECK_BYTES == 0xFFFF_FFFF
    assert MAX_OBJECT_BYTES == 0xFFFF_FFFF
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(1 << 32)
    with (
        sparse.open("rb") as file,
        mmap.mmap(file.fileno(), 1 << 32, access=mmap.ACCESS_READ) as view,
        lmdb.open(str(tmp_path / "env"), map_size=1 << 24, lib_version=0) as env,
        memoryview(view) as whole,
        whole[:0xFFFF_FFFF] as largest,
    ):
        for value, error in ((whole, lmdb.BadValsizeError), (largest, lmdb.MapFullError)):
            txn = env.begin(write=True)
            with pytest.raises(error):
                txn.put(b"key", value)
            txn.abort()
