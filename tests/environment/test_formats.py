"""Stores of other versions are refused with both versions named, and are not touched (T2)."""

from __future__ import annotations

import shutil

import lmdb
import pytest

import kvgit_hamt as kvgit
from kvgit_hamt import Repo, wire
from kvgit_hamt.backend import lmdb_state
from kvgit_hamt.backend.base import Batch, RefUpdate
from kvgit_hamt.backend.lmdb import LmdbBackend
from kvgit_hamt.errors import FormatVersionError
from kvgit_hamt.objects import FORMAT_VERSION
from kvgit_hamt.refs import CONFIG
from kvgit_hamt.testing.steps import move


@pytest.fixture
def path(tmp_path):
    with kvgit.open(tmp_path / "store") as work:
        work["a"] = 1
        work.commit()
    return tmp_path / "store"


def files_of(path):
    return {each.name: each.read_bytes() for each in path.iterdir() if each.name != "lock.mdb"}


def change_config(path, change):
    with LmdbBackend(path) as backend:
        old = backend.get_ref(CONFIG)
        fields = wire.unpack(old, "config")
        change(fields)
        backend.publish(Batch(refs=[RefUpdate(CONFIG, old, wire.pack(fields), None)]))


def refused(path, *words):
    before = files_of(path)
    for where in (path, str(path)):
        with pytest.raises(FormatVersionError) as caught:
            Repo(where)
        for word in words:
            assert word in str(caught.value)
    with pytest.raises(FormatVersionError):
        Repo(LmdbBackend(path, readonly=True))
    assert files_of(path) == before


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, FORMAT_VERSION + 41, 0, "1"])
def test_a_store_of_another_format_version_is_refused_by_name(path, version):
    change_config(path, lambda fields: fields.update(format=version))
    refused(path, f"format version {version!r}", f"version {FORMAT_VERSION}")


@pytest.mark.parametrize(
    "change",
    [{"features": ["chunks"]}, {"hash": "blake3"}, {"bits": 99}, {"leaf_max": "big"}, {"inline_max": -1}],
    ids=str,
)
def test_a_feature_or_parameter_that_this_version_does_not_know_is_refused(path, change):
    change_config(path, lambda fields: fields.update(change))
    refused(path)


def test_a_feature_that_is_missing_is_refused_too(path):
    change_config(path, lambda fields: fields.pop("hash"))
    refused(path)


def test_a_newer_layout_of_the_tables_is_refused_by_name(path, monkeypatch):
    newer = lmdb_state.LAYOUT + 1
    text = (path / "FORMAT").read_text()
    (path / "FORMAT").write_text(text.replace(f"layout {lmdb_state.LAYOUT}", f"layout {newer}"))
    refused(path, f"layout {newer}", f"layout {lmdb_state.LAYOUT}")


def test_a_newer_layout_is_noticed_without_its_marker(path, monkeypatch):
    monkeypatch.setattr(lmdb_state, "LAYOUT", lmdb_state.LAYOUT + 1)
    with LmdbBackend(path.parent / "newer") as backend:
        move(backend, "heads/main", b"1")
    monkeypatch.undo()
    monkeypatch.setattr(lmdb_state, "_last", (b"", None))  # what this process wrote it knows without decoding
    (path.parent / "newer" / "FORMAT").unlink()
    with pytest.raises(
        FormatVersionError, match=f"layout {lmdb_state.LAYOUT + 1}.*layout {lmdb_state.LAYOUT}"
    ):
        LmdbBackend(path.parent / "newer")


def test_the_files_of_lmdb_1_are_refused_and_left_alone(path, tmp_path):
    env = lmdb.open(str(tmp_path / "one"), lib_version=1, max_dbs=12)
    with env.begin(env.open_db(b"records"), write=True) as txn:
        txn.put(b"a", b"1")
    env.close()
    shutil.copy(tmp_path / "one" / "data.mdb", path / "data.mdb")
    refused(path, "LMDB 1.0")


def test_this_version_opens_what_it_made(path):
    """The control: the same steps, with what was there."""
    change_config(path, lambda fields: fields.update(format=FORMAT_VERSION))
    with kvgit.open(path) as work:
        assert dict(work) == {"a": 1}
