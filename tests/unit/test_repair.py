"""Repair: what it fetches, what it puts where, and what it leaves alone."""

from __future__ import annotations

import shutil

import pytest

from kvgit_hamt import Repo, node
from kvgit_hamt.backend.base import NewRecord
from kvgit_hamt.backend.kv import KvBackend
from kvgit_hamt.backend.lmdb import LmdbBackend
from kvgit_hamt.backend.memory import MemoryBackend
from kvgit_hamt.check_walk import Records
from kvgit_hamt.classic.kvstore import Memory
from kvgit_hamt.errors import CorruptionError, InvalidInputError, ReadOnlyError
from kvgit_hamt.oid import oid_of
from tests.support.damage import DamagedBackend
from tests.support.forge import Forge
from tests.support.homes import SMALL
from tests.support.placed import PlacedBackend
from tests.support.rawstore import raw_store

KEYS = {f"d{n % 5}/{n}": f"value {n} " * (1 + n % 12) for n in range(200)}


def fill(repo):
    work = repo.worktree()
    work.update(KEYS)
    work.commit()
    work["d1/1"] = "changed"
    work.commit()
    repo.tags.create("v1", info={"why": "first"})
    repo.branches.create("dev")
    dev = repo.worktree("dev")
    dev["dev"] = "x" * 300
    dev.commit()
    work["d2/2"] = "again"
    work.commit()
    work.merge(branch="dev")
    return repo


def contents(repo):
    return {name: dict(repo.worktree(name).items()) for name in repo.branches}


@pytest.fixture
def pair(tmp_path):
    """Two directories with the same store, and what it holds."""
    with fill(Repo(tmp_path / "store", shape=SMALL)) as repo:
        expected = contents(repo)
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    return tmp_path / "store", tmp_path / "copy", expected


def assert_healed(path, expected):
    with Repo(path) as repo:
        faults = list(repo.check())
        assert faults == [], [str(fault) for fault in faults]
        assert contents(repo) == expected
        work = repo.worktree()
        work["after"] = 1
        work.commit()
        repo.gc(keep_reflog=0)
        assert list(repo.check()) == []
        assert dict(work.items()) == {**expected["main"], "after": 1}


def places(raw, kind):
    return [place for place, body in raw.bodies().items() if body[0] == kind]


KINDS = {"leaf": node.LEAF, "inner": node.INNER, "commit": node.COMMIT, "blob": node.BLOB}


@pytest.mark.parametrize("how", ["gone", "payload", "places", "check", "forged"])
@pytest.mark.parametrize("kind", KINDS)
def test_one_bad_record_is_fetched_and_lies_where_it_lay(pair, kind, how):
    path, copy, expected = pair
    with raw_store(path) as raw:
        place = places(raw, KINDS[kind])[-1]
        stored = raw.get("records", place)
        at = {"payload": 4, "places": len(stored) - 9, "check": len(stored) - 1}.get(how, 0)
        if how == "gone":
            raw.delete("records", place)
        elif how == "forged":
            body = raw.bodies()[place]
            raw.put_sealed(place, _oid(kind, body), body[:-1] + bytes((body[-1] ^ 1,)))
        else:
            raw.put("records", place, stored[:at] + bytes((stored[at] ^ 4,)) + stored[at + 1 :])
    is_form = how == "forged" and kind != "blob"  # there a place was changed, not the payload
    with Repo(path) as repo, Repo(copy) as source:
        result = repo.repair(source)
        assert result
        assert result.unhealed == ()
        assert result.fetched_count == (0 if is_form else 1)
        assert is_form or int.from_bytes(place, "little") in {fault.place for fault in result.healed}
    with raw_store(path) as raw, raw_store(copy) as other:
        assert raw.get("records", place) == other.get("records", place)
    assert_healed(path, expected)


def _oid(kind, body):
    if kind == "leaf":
        return oid_of(body[: node.leaf_payload_length(body)])
    if kind == "inner":
        return oid_of(body[: node.inner_payload_length(body)])
    if kind == "commit":
        return oid_of(body[: len(body) - 8 * (1 + body[2] + 256 * body[3])])
    return oid_of(body)


def test_a_sound_store_is_left_alone_and_the_source_unread(pair):
    path, _, _ = pair

    class Source:
        def payload(self, oid):
            raise AssertionError("nothing is asked for")

    before = (path / "data.mdb").read_bytes()
    with Repo(path) as repo:
        result = repo.repair(Source())
    assert result
    assert (result.healed, result.fetched_count, result.fetched_bytes) == ((), 0, 0)
    assert (path / "data.mdb").read_bytes() == before


def test_nothing_below_a_bad_record_is_fetched(pair):
    path, copy, expected = pair
    with raw_store(path) as raw:
        root = places(raw, node.INNER)[-1]
        raw.delete("records", root)
    with Repo(path) as repo:
        result = repo.repair(copy)
        assert result.fetched_count == 1
        assert repo.stats()["record_count"] == Repo(copy).stats()["record_count"]
    assert_healed(path, expected)


def test_everything_can_be_fetched(pair):
    path, copy, expected = pair
    with raw_store(path) as raw:
        for place, _ in raw.rows("records"):
            raw.delete("records", place)
    with Repo(path) as repo:
        result = repo.repair(copy)
        assert result.unhealed == ()
        assert result.fetched_count > 100
    assert_healed(path, expected)


@pytest.mark.parametrize("table", ["commits", "blobs", "nodes"])
@pytest.mark.parametrize("how", ["gone", "elsewhere", "nowhere"])
def test_index_entries_are_put_right(pair, table, how):
    path, copy, expected = pair
    with raw_store(path) as raw:
        rows = raw.rows(table)
        leaf = places(raw, node.LEAF)[0]
        if how == "gone":
            raw.delete(table, rows[0][0])
        else:
            raw.put(table, rows[0][0], leaf if how == "elsewhere" else (1 << 40).to_bytes(8, "little"))
    with Repo(path) as repo:
        assert repo.repair(copy).unhealed == ()
    assert_healed(path, expected)


@pytest.mark.parametrize("name", ["heads/main", "heads/dev", "tags/v1"])
@pytest.mark.parametrize("how", ["row gone", "value", "name"])
def test_refs_come_back_from_their_reflog(pair, name, how):
    path, copy, expected = pair
    with raw_store(path) as raw:
        if how == "row gone":
            raw.drop_ref_row(name)
        elif how == "name":
            raw.rename_ref_row(name, name + "x")
        else:
            stored = raw.get("refs", name.encode())
            raw.put("refs", name.encode(), stored[:5] + b"?" + stored[6:])
    with Repo(path) as repo:
        result = repo.repair(copy)
        assert result.unhealed == (), [str(fault) for fault, _ in result.unhealed]
        assert [fault.kind for fault in result.healed] in (["ref"], ["ref", "ref"])
        assert repo.tags.info("v1") == {"why": "first"}
    assert_healed(path, expected)


def test_a_ref_whose_reflog_is_damaged_too_is_not_guessed(pair):
    path, copy, _ = pair
    with raw_store(path) as raw:
        stored = raw.get("refs", b"heads/dev")
        raw.put("refs", b"heads/dev", stored[:5] + b"?" + stored[6:])
        key, entry = [row for row in raw.rows("reflog") if row[0].startswith(b"heads/dev\0")][-1]
        raw.put("reflog", key, entry[:5] + b"?" + entry[6:])
    with Repo(path) as repo:
        result = repo.repair(copy)
        assert {fault.kind for fault, _ in result.unhealed} == {"ref", "reflog"}
        assert any("newest entry of its reflog" in reason for _, reason in result.unhealed)
        with pytest.raises(CorruptionError):
            repo.branches["dev"]
        assert repo.worktree()["d1/1"] == "changed"


# --- sources


class Payloads:
    """The tiny protocol, by hand."""

    def __init__(self, payloads):
        self.payloads = payloads
        self.asked = []

    def payload(self, oid):
        self.asked.append(oid)
        return self.payloads.get(oid)


def damaged_leaf(path):
    with raw_store(path) as raw:
        place = places(raw, node.LEAF)[-1]
        body = raw.bodies()[place]
        raw.delete("records", place)
        return place, body[: node.leaf_payload_length(body)]


def test_links_that_lead_to_wrong_places_are_put_right_without_the_source(pair):
    """Two children of a node change places in it; a record that others use lies at each."""
    path, _, expected = pair
    with raw_store(path) as raw:
        changed = 0
        for place, body in raw.bodies().items():
            if body[0] == node.INNER and body[3] > 1 and not changed % 3:
                payload = body[: node.inner_payload_length(body)]
                tail = body[len(payload) :]
                raw.put_sealed(place, oid_of(payload), payload + tail[8:16] + tail[:8] + tail[16:])
            changed += body[0] == node.INNER
    with Repo(path) as repo:
        result = repo.repair(fill(Repo(None, shape=SMALL)))
        assert result.unhealed == ()
    assert_healed(path, expected)


def test_any_source_that_knows_payloads_will_do_and_none_is_trusted(pair):
    path, _, expected = pair
    _, payload = damaged_leaf(path)
    with Repo(path) as repo:
        lying = Payloads({oid_of(payload): payload + b"!"})
        result = repo.repair(lying)
        assert not result
        assert lying.asked
        ((fault, reason),) = result.unhealed
        assert (fault.oid, reason) == (oid_of(payload).hex(), "the source does not hold it")
        assert repo.repair(Payloads({oid_of(payload): payload}))
    assert_healed(path, expected)


def test_a_bundle_is_a_source(pair, tmp_path):
    path, copy, expected = pair
    with Repo(copy) as source:
        source.bundle(tmp_path / "backup.bundle")
    damaged_leaf(path)
    with Repo(path) as repo:
        assert repo.repair(tmp_path / "backup.bundle")
    assert_healed(path, expected)


def test_a_source_of_another_kind_of_backend_will_do(pair):
    path, copy, expected = pair
    damaged_leaf(path)
    with raw_store(path) as raw:
        raw.delete("records", places(raw, node.INNER)[-1])
        raw.delete("records", places(raw, node.BLOB)[-1])
    memory = MemoryBackend()
    with Repo(copy) as source, Repo(path) as repo:
        for _, stored in source.store.backend.iterate_records():
            body = stored[:-8]
            payload = Records(source.store, True).payload_of(body)
            Repo(memory).store.backend._records[oid_of(payload)] = payload
        result = repo.repair(Payloads(memory._records))
        assert result
    assert_healed(path, expected)


def test_a_source_that_is_damaged_elsewhere_will_do(pair):
    path, copy, expected = pair
    damaged_leaf(path)
    with raw_store(copy) as raw:  # the way to that leaf is gone there, the leaf is not
        for other in places(raw, node.INNER):
            raw.delete("records", other)
    with Repo(path) as repo:
        result = repo.repair(copy)
        assert result, [reason for _, reason in result.unhealed]
    assert_healed(path, expected)


def test_what_the_source_lacks_is_told_and_the_rest_healed(pair):
    path, copy, _ = pair
    with raw_store(path) as raw:
        first, second = places(raw, node.LEAF)[-1], places(raw, node.BLOB)[-1]
        raw.delete("records", first)
        raw.delete("records", second)
    with raw_store(copy) as raw:
        raw.delete("records", first)
    with Repo(path) as repo:
        result = repo.repair(copy)
        assert [fault.place for fault in result.healed] == [int.from_bytes(second, "little")]
        assert [fault.place for fault, _ in result.unhealed] == [int.from_bytes(first, "little")]
        assert [fault.place for fault in repo.check()] == [int.from_bytes(first, "little")]


def test_a_wrong_form_cannot_be_healed_and_is_not_tried(pair):
    """An object whose oid is right is what it is, everywhere."""
    repo = fill(Repo(None, shape=SMALL))
    forge = Forge(repo)
    forge.commit(repo.read_head("main").tree[0], generation=77)
    result = repo.repair(fill(Repo(None, shape=SMALL)))
    assert [fault.kind for fault, _ in result.unhealed] == ["malformed"]
    assert result.unhealed[0][1] == "nothing to fetch would put it right"


@pytest.mark.parametrize("make", [DamagedBackend, MemoryBackend, lambda: KvBackend(Memory())])
def test_backends_without_places_are_repaired_too(make):
    source = fill(Repo(MemoryBackend(), shape=SMALL, clock=lambda: 5))
    backend = make()
    repo = fill(Repo(backend, shape=SMALL, clock=lambda: 5))
    assert dict(repo.branches).keys() == dict(source.branches).keys()
    lost = 0
    for oid, _ in list(repo.store.backend.iterate_records())[::7]:
        if isinstance(backend, KvBackend):
            backend.kvstore.remove("kvgit_hamt/o/" + oid.hex())
        else:
            del backend._records[oid]
        lost += 1
    payloads = {}
    for oid, stored in source.store.backend.iterate_records():
        payloads[oid] = stored[:-8]
    assert list(repo.check())
    result = repo.repair(Payloads(payloads))
    assert result.fetched_count <= lost
    assert list(repo.check()) == []


def test_what_cannot_be_repaired_or_read_is_refused(pair, tmp_path):
    path, copy, _ = pair
    for source in (7, b"x", object(), None):
        with Repo(path) as repo, pytest.raises(InvalidInputError):
            repo.repair(source)
    with Repo(path) as repo, pytest.raises(OSError, match="nowhere"):
        repo.repair(tmp_path / "nowhere")
    damaged_leaf(path)
    backend = LmdbBackend(path, readonly=True)
    with Repo(backend) as repo, pytest.raises(ReadOnlyError):
        repo.repair(copy)

    class Fixed(PlacedBackend):
        mend = None

    fixed = Repo(Fixed(), shape=SMALL)
    with pytest.raises(InvalidInputError, match="cannot be repaired"):
        fixed.repair(copy)


def test_who_repairs_reads_what_was_repaired(pair):
    """A record that names other places under its own one is not remembered as it was."""
    path, copy, expected = pair
    with Repo(path, shape=SMALL) as repo:
        oid, loc = repo.read_head("main").tree
        body = repo.store.read(oid, loc)
        links = node.inner_children(body)
        payload = body[: node.payload_length(body)]
        locs = [links.locs[1], *links.locs[1:]]
        wrong = NewRecord(oid, payload + b"".join(locs), len(locs), None)
        repo.store.backend.mend(lambda mender: mender.put_record(loc, wrong))
        repo.store.forget()
        now = repo.snapshot()
        assert {key: now.get(key) for key in KEYS if _is_readable(now, key)} != expected["main"]
        assert repo.repair(copy)
        assert contents(repo) == expected
        assert {key: now.get(key) for key in expected["main"]} == expected["main"]


def _is_readable(view, key):
    try:
        view.get(key)
    except CorruptionError:
        return False
    return True
