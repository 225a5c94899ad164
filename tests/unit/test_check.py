"""The check of a whole store: what it counts, how it streams, whom it names, what may happen beside it."""

from __future__ import annotations

import shutil
import sys

import pytest

from kvgit_hamt import CheckResult, Fault, Repo, node
from kvgit_hamt.backend.kv import KvBackend
from kvgit_hamt.check_faults import KINDS as FAULT_KINDS
from kvgit_hamt.check_walk import Seen, mark_of
from kvgit_hamt.classic.kvstore import Memory
from kvgit_hamt.errors import ClosedError
from tests.support.homes import KINDS, SMALL, Home
from tests.support.rawstore import raw_store

MANY = {f"d{n % 7}/{n}": f"value {n} " * (1 + n % 10) for n in range(300)}


@pytest.fixture(params=KINDS)
def home(request, tmp_path):
    home = Home(request.param, tmp_path)
    yield home
    home.close()


def put(repo, entries, branch="main"):
    work = repo.worktree(branch, create=True)
    work.update(entries)
    return work.commit().commit


def test_a_sound_store_has_no_fault_and_all_of_it_is_counted(home):
    repo = home.open(shape=SMALL, clock=home.clock)
    put(repo, MANY)
    run = repo.check()
    assert list(run) == []
    result = run.result()
    assert isinstance(result, CheckResult)
    assert result.is_sound
    assert result.deep
    assert (result.fault_count, result.counts, result.damaged_refs) == (0, {}, {})
    assert result.commit_count == 2
    assert result.key_count == len(MANY)
    assert result.unreached_count == 0
    total = result.commit_count + result.node_count + result.blob_count
    assert total == repo.stats()["record_count"]
    assert result.node_count > result.leaf_count > 10
    assert result.blob_count == len({value for value in MANY.values() if len(value) > 60})
    assert result.read_bytes > 0
    assert result.seconds >= 0
    assert result.not_checked, "there is always something"


def test_what_is_shared_is_read_once(home):
    repo = home.open(shape=SMALL, clock=home.clock)
    put(repo, MANY)
    one = repo.check().result()
    for number in range(20):
        repo.branches.create(f"b{number}")
        put(repo, {"d0/0": str(number)}, f"b{number}")
    many = repo.check().result()
    assert many.is_sound
    assert many.commit_count == one.commit_count + 20
    assert many.read_bytes < 3 * one.read_bytes + 100_000
    assert many.node_count < one.node_count + 20 * 8


def test_garbage_is_counted_and_not_looked_at(home):
    repo = home.open(shape=SMALL, clock=home.clock)
    put(repo, MANY)
    put(repo, {"x": "y" * 500}, "gone")
    repo.branches.delete("gone")
    assert repo.check().result().unreached_count == 0, "the reflog holds it"
    plan = repo.gc(dry_run=True, keep_reflog=0)
    assert plan.freed_count > 0
    repo.gc(keep_reflog=0)
    assert repo.check().result().is_sound


@pytest.mark.parametrize("deep", [True, False])
def test_progress_goes_from_nothing_to_all(home, deep):
    repo = home.open(shape=SMALL, clock=home.clock)
    put(repo, MANY)
    seen = []
    repo.check(deep, progress=lambda *told: seen.append(told)).result()
    walked = [(done, total) for phase, done, total in seen if phase == "walk"]
    assert walked == sorted(walked)
    assert walked[-1][0] == walked[-1][1] == repo.stats()["record_count"]
    assert all(done <= total for _, done, total in seen)


def test_the_check_is_lazy_and_takes_up_where_it_was(home):
    repo = home.open(shape=SMALL, clock=home.clock)
    put(repo, MANY)
    reads = []
    backend = repo.store.backend
    run = repo.check()
    run.walk.records.backend = Counted(backend, reads)
    assert reads == []
    assert next(run, None) is None
    assert len(reads) > 10
    count = len(reads)
    assert run.result().is_sound
    assert run.result() is run.result()
    assert len(reads) == count


class Counted:
    def __init__(self, inner, reads):
        self._inner = inner
        self._reads = reads

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def read(self, oid, loc):
        self._reads.append(oid)
        return self._inner.read(oid, loc)

    def read_many(self, links):
        self._reads.extend(oid for oid, _ in links)
        return self._inner.read_many(links)


def test_a_closed_repository_is_not_checked(home):
    repo = home.open(shape=SMALL)
    run = repo.check()
    repo.close()
    with pytest.raises(ClosedError):
        repo.check()
    with pytest.raises(ClosedError):
        list(run)


# --- whom a fault names


@pytest.fixture
def path(tmp_path):
    """main and dev share most; old is a branch at the first commit."""
    with Repo(tmp_path / "store", shape=SMALL) as repo:
        put(repo, MANY)
        repo.branches.create("old")
        put(repo, {"d1/1": "main's"})
        repo.branches.create("dev")
        put(repo, {"d2/2": "dev's"}, "dev")
        repo.tags.create("v1", at="old")
    return tmp_path / "store"


def way_of(repo, branch, key):
    """(oid, place) of the nodes that lead to a key of a branch."""
    store = repo.store
    link = repo.read_head(branch).tree
    data = key.encode()
    found = []
    while True:
        found.append(link)
        body = store.read(*link)
        if body[0] == node.LEAF:
            return found
        link = node.inner_step(body, store.shape.slot(data, store.shape.hash(data), len(found) - 1))


def break_leaf_of(path, branch, key, how="flip"):
    with Repo(path) as repo:
        place = way_of(repo, branch, key)[-1][1]
    with raw_store(path) as raw:
        stored = raw.get("records", place)
        if how == "flip":
            raw.put("records", place, stored[:-1] + bytes((stored[-1] ^ 1,)))
        else:
            raw.delete("records", place)
    return int.from_bytes(place, "little")


def only_fault(path):
    with Repo(path) as repo:
        run = repo.check()
        faults = list(run)
        assert len(faults) == 1, [str(fault) for fault in faults]
        return faults[0], run.result()


@pytest.mark.parametrize("how", ["flip", "gone"])
def test_a_fault_that_all_share_names_all(path, how):
    place = break_leaf_of(path, "old", "d5/75", how)
    fault, result = only_fault(path)
    assert isinstance(fault, Fault)
    assert fault.kind == ("damaged" if how == "flip" else "missing")
    assert fault.place == place
    assert set(fault.refs) == {"heads/main", "heads/dev", "heads/old", "tags/v1"}
    assert set(fault.heads) == set(fault.refs)
    assert result.damaged_refs == dict.fromkeys(sorted(fault.refs), "head")
    assert fault.key_count >= 1
    if how == "flip":
        assert "d5/75" in fault.keys
        assert len(fault.keys) == fault.key_count
    assert fault.ref in fault.refs
    assert fault.slots
    assert len(fault.path) > 3
    assert set(fault.path) <= {"0", "1"}


def test_a_fault_of_an_old_state_is_history_for_those_that_went_on(path):
    break_leaf_of(path, "old", "d1/1")
    fault, result = only_fault(path)
    assert set(fault.heads) == {"heads/old", "tags/v1"}
    assert set(fault.refs) == {"heads/old", "tags/v1", "heads/main", "heads/dev"}
    assert result.damaged_refs["heads/main"] == "history"
    assert result.damaged_refs["heads/old"] == "head"


def test_a_fault_of_one_branch_is_its_own(path):
    break_leaf_of(path, "dev", "d2/2")
    fault, result = only_fault(path)
    assert fault.refs == fault.heads == ("heads/dev",)
    assert result.damaged_refs == {"heads/dev": "head"}


def test_keys_of_a_lost_node_are_named_by_the_commit_before(path):
    break_leaf_of(path, "dev", "d2/2", "gone")
    fault, _ = only_fault(path)
    assert "d2/2" in fault.keys
    with Repo(path) as repo:
        place = way_of(repo, "main", "d1/1")[1][1]  # an inner node with many keys
    with raw_store(path) as raw:
        raw.delete("records", place)
    with Repo(path) as repo:
        fault = next(fault for fault in repo.check() if fault.place == int.from_bytes(place, "little"))
    assert fault.key_count > 20
    assert 0 < len(fault.keys) <= 20, "bounded"
    assert set(fault.keys) <= set(MANY)


def test_a_fault_can_be_read_by_people(path):
    break_leaf_of(path, "dev", "d2/2")
    fault, _ = only_fault(path)
    assert fault.where.startswith("heads/dev -> commit ")
    assert " -> slots " in fault.where
    assert "damaged: object" in str(fault)
    assert "'d2/2'" in str(fault)
    assert fault.kind in FAULT_KINDS


def test_all_faults_are_collected_and_none_twice(path):
    with raw_store(path) as raw:
        leaves = [place for place, body in raw.bodies().items() if body[0] == node.LEAF]
        for place in leaves[::2]:
            raw.delete("records", place)
    with Repo(path) as repo:
        run = repo.check()
        faults = list(run)
    assert {fault.place for fault in faults} == {int.from_bytes(place, "little") for place in leaves[::2]}
    assert len(faults) == len(leaves[::2])
    assert [fault.number for fault in faults] == list(range(1, len(faults) + 1))
    result = run.result()
    assert result.counts == {"missing": len(faults)}
    assert any("what lies behind" in note for note in result.not_checked)


def test_many_branches_are_told_apart(tmp_path):
    with Repo(tmp_path / "store", shape=SMALL) as repo:
        put(repo, MANY)
        for number in range(70):
            put(repo, {}, f"b{number}")
            repo.worktree(f"b{number}").reset(repo.branches["main"])
        put(repo, {"d2/2": "other"}, "b66")
    break_leaf_of(tmp_path / "store", "main", "d2/2")
    fault, _ = only_fault(tmp_path / "store")
    assert len(fault.heads) == 70
    assert "heads/b66" not in fault.heads
    assert "heads/b66" in fault.refs


# --- beside others


def test_a_collection_meanwhile_is_no_fault(home):
    repo = home.open(shape=SMALL, clock=home.clock)
    put(repo, MANY)
    put(repo, {key: value + "!" for key, value in MANY.items()}, "side")
    other = home.open(clock=home.clock)
    run = repo.check()
    run._steps.send(None)  # the refs were read
    other.branches.delete("side")
    other.gc(keep_reflog=0)
    faults = list(run)
    assert faults == [], [str(fault) for fault in faults]
    assert any("collected meanwhile" in note for note in run.result().not_checked)
    assert repo.check().result().is_sound


def test_commits_meanwhile_are_no_fault(home):
    repo = home.open(shape=SMALL, clock=home.clock)
    put(repo, dict(list(MANY.items())[:40]))
    other = home.open(clock=home.clock)
    run = repo.check()
    for number, _ in enumerate(iter(lambda: next(run._steps, "end"), "end")):
        assert number < 5_000, "it comes to an end although others go on"
        put(other, {f"new/{number}": "x" * number})
    assert list(run.faults_kept) == []
    assert any("after the check had begun" in note for note in run._unchecked(None))


def test_a_load_under_way_is_looked_at(path):
    with Repo(path) as repo:
        writer = repo.store.bulk_writer()
        for number in range(5):
            writer.put_leaf(node.leaf_pack(b"\0", [1, 2], b"", b"%d%d" % (number, number), b""))
        writer.flush()
        assert list(repo.check()) == []
        first = writer._base
        record = repo.store.backend.read(b"", first.to_bytes(8, "little"))

        def damage(txn, tables, state):
            txn.put(first.to_bytes(8, "little"), record[:-1] + b"?", db=tables.records)
            return state, None

        repo.store.backend._write(damage)
        faults = list(repo.check())
        assert [(fault.kind, fault.place) for fault in faults] == [("damaged", first)]
        assert "of a load under way" in faults[0].message
        assert list(repo.check(deep=False)) == []
        writer.release()
        assert list(repo.check()) == []


def test_a_long_history_is_walked_without_recursion(tmp_path):
    home = Home("memory", tmp_path)
    repo = home.open(shape=SMALL, clock=home.clock)
    work = repo.worktree()
    deep = sys.getrecursionlimit() * 2
    for number in range(deep):
        work["n"] = number
        work.commit()
    for each in (True, False):
        result = repo.check(each).result()
        assert result.is_sound
        assert result.commit_count == deep + 1


def test_the_user_s_own_store_is_checked_as_far_as_it_goes():
    store = Memory()
    repo = Repo(KvBackend(store), shape=SMALL)
    put(repo, MANY)
    result = repo.check().result()
    assert result.is_sound
    assert any("KvBackend keeps for itself" in note for note in result.not_checked)
    keys = [key for key in list(store.keys()) if key.startswith("kvgit_hamt/o/")]
    for key in keys[:3]:
        store.remove(key)
    entry = next(key for key in list(store.keys()) if key.startswith("kvgit_hamt/l/"))
    store.set(entry, b"?" + store.get(entry)[1:])
    kinds = [fault.kind for fault in repo.check()]
    assert kinds.count("missing") >= 1
    assert "reflog" in kinds


def test_a_copy_of_the_files_is_as_sound_as_the_store(path, tmp_path):
    shutil.copytree(path, tmp_path / "copy")
    with Repo(tmp_path / "copy") as repo:
        assert repo.check().result().is_sound


# --- what is remembered of records


@pytest.mark.parametrize("is_placed", [True, False])
def test_marks_are_kept_by_record(is_placed):
    seen = Seen(is_placed)
    links = [(bytes((n,)) * 32, (n * 100_000).to_bytes(8, "little")) for n in range(1, 50)]
    for number, link in enumerate(links):
        assert seen.get(link) == 0
        seen.set(link, mark_of(1, link[0], number))
        assert seen.get(link) == mark_of(1, link[0], number) != 0
    assert seen.count == len(links)
    seen.set(links[0], 0)
    assert (seen.get(links[0]), seen.count) == (0, len(links) - 1)


def test_equal_values_out_of_line_are_one_blob(home):
    repo = home.open(shape=SMALL, clock=home.clock)
    put(repo, {f"k{n}": "same" * 50 for n in range(30)})
    result = repo.check().result()
    assert (result.is_sound, result.blob_count) == (True, 1)
