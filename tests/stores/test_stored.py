"""The stores that were put aside when format version 1 was frozen: read by each run, and made again by it.

A failure here means that the bytes have changed: stores that people have would be read wrongly, or equal
contents would no longer have equal oids. Never mend it by making the stored files anew.
"""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import lmdb
import pytest

from kvgit_hamt import Repo, verify_bundle
from kvgit_hamt.backend.lmdb_state import NAMED, STATE_KEY, State, Tables, read_state
from tests.stores.contents import build

STORED = Path(__file__).parent / "v1"
BUNDLE = Path(__file__).parent / "v1.bundle"
MAIN_ID = "8d942aa094aea75a348cbde8545521c2b5e3e8ffcd1e5ade59d6b0f8e4982bc1"


@pytest.fixture
def stored(tmp_path):
    """A copy: opening writes the lock file, and may write more."""
    shutil.copytree(STORED, tmp_path / "stored")
    return tmp_path / "stored"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    where = tmp_path_factory.mktemp("made") / "store"
    return where, build(where)


def rows(where: Path) -> dict[str, dict[bytes, bytes]]:
    """Everything in a store's environment but the state, by database."""
    with lmdb.open(str(where), max_dbs=16, readonly=True, lock=False) as env:
        found = {}
        for name in NAMED:
            db = env.open_db(name.encode(), create=False, integerkey=name == "records")
            with env.begin() as txn:
                found[name] = dict(txn.cursor(db))
        with env.begin() as txn:
            names = {name.encode() for name in NAMED}
            found["main"] = {k: v for k, v in txn.cursor() if k not in names and k != STATE_KEY}
        return found


def state_of(where: Path) -> State:
    """The state, without what is drawn at random."""
    with lmdb.open(str(where), readonly=True, lock=False) as env, env.begin() as txn:
        tables = Tables(*[None] * len(NAMED), main=None)
        return read_state(txn, tables)._replace(store_id=b"", nonces=b"")


def test_it_opens_and_holds_what_was_stored(stored, made):
    with Repo(stored) as repo:
        for name, content in made[1].items():
            kind = "tag" if name == "v1" else "branch"
            with repo.snapshot(**{kind: name}) as snapshot:
                assert dict(snapshot.items()) == content
                assert snapshot.get_many(list(content)) == content
        assert repo.branches.head("main").oid.hex() == MAIN_ID
        assert len(list(repo.log())) == 45
        assert len(repo.reflog("gone")) == 2


def test_nothing_in_it_is_damaged_or_out_of_form(stored):
    with Repo(stored) as repo:
        check = repo.check(deep=True)
        assert list(check) == []
        result = check.result()
        assert result.is_sound
        assert result.deep
        assert result.key_count > 400


def test_it_can_be_written(stored, made):
    with Repo(stored) as repo:
        work = repo.worktree()
        work["one more"] = 1
        work.commit()
        assert repo.gc(keep_reflog=0).kept_count > 0
        assert dict(repo.snapshot().items()) == {**made[1]["main"], "one more": 1}


@pytest.mark.parametrize("database", [*NAMED, "main"])
def test_the_same_calls_make_the_same_bytes(made, database):
    assert rows(made[0])[database] == rows(STORED)[database]


def test_the_same_calls_make_the_same_state_and_marker(made):
    assert state_of(made[0]) == state_of(STORED)
    assert (made[0] / "FORMAT").read_bytes() == (STORED / "FORMAT").read_bytes()


def test_a_store_that_differs_is_noticed(made, tmp_path):
    """The comparison itself: a store that differs in one value differs in its records."""
    shutil.copytree(made[0], tmp_path / "other")
    with Repo(tmp_path / "other") as repo:
        work = repo.worktree()
        work["key 001"] = "else"
        work.commit()
    assert rows(tmp_path / "other")["records"] != rows(STORED)["records"]
    assert state_of(tmp_path / "other") != state_of(STORED)


def test_a_bundle_is_the_same_and_loads(made, tmp_path):
    out = io.BytesIO()
    with Repo(made[0]) as repo:
        repo.bundle(out)
    assert out.getvalue() == BUNDLE.read_bytes()
    assert verify_bundle(BUNDLE).commit_count == 45
    with Repo(tmp_path / "loaded") as repo:
        repo.load_bundle(BUNDLE)
        assert dict(repo.snapshot(branch="other").items()) == made[1]["other"]
