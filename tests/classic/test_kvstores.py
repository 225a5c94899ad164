"""Memory, Disk, Composite, and stores that users bring: as stores, and below Versioned."""

from __future__ import annotations

import threading

import pytest

import kvgit_hamt as kvgit
from kvgit_hamt import Composite, Disk, GCVersioned, KVStore, Memory, Staged, Versioned
from kvgit_hamt.backend.kv import ROOT_KEY
from tests.contract.test_kv_backends import DictStore, SqliteStore

KINDS = ["memory", "disk", "composite", "dict", "sqlite", "tiers"]


def make(kind, path):
    if kind == "disk":
        return Disk(path / "disk")
    if kind == "sqlite":
        return SqliteStore(path / "kv.sqlite")
    if kind == "composite":
        return Composite([Memory(), Memory()])
    if kind == "tiers":
        return Composite([DictStore(), Disk(path / "fast"), SqliteStore(path / "kv.sqlite")])
    return Memory() if kind == "memory" else DictStore()


@pytest.fixture(params=KINDS)
def store(request, tmp_path):
    made = make(request.param, tmp_path)
    yield made
    if hasattr(made, "close"):
        made.close()


def test_a_store_sets_gets_and_removes(store):
    assert store.get("k") is None and "k" not in store
    store.set("k", b"v")
    store.set_many(a=b"1", b=b"", **{"é/ \U0001d11e": b"3"})
    assert store.get("k") == b"v" and "b" in store and store.get("b") == b""
    assert store.get_many("a", "é/ \U0001d11e", "none") == {"a": b"1", "é/ \U0001d11e": b"3"}
    assert sorted(store.keys()) == sorted(["k", "a", "b", "é/ \U0001d11e"])
    assert dict(store.items())["a"] == b"1"
    store.remove("k")
    store.remove("k")
    store.remove_many("a", "none")
    assert set(store.keys()) == {"b", "é/ \U0001d11e"}
    store.clear()
    assert list(store.keys()) == [] and store.get("b") is None


def test_a_store_compares_and_sets(store):
    assert store.cas("k", b"1", None) and not store.cas("k", b"2", None)
    assert not store.cas("k", b"2", b"0") and store.get("k") == b"1"
    assert store.cas("k", b"2", expected=b"1") and store.get("k") == b"2"
    assert not store.cas("none", b"1", b"") and store.get("none") is None


@pytest.mark.parametrize("kind", ["memory", "disk", "composite"])
def test_values_that_are_not_bytes_are_refused(kind, tmp_path):
    store = make(kind, tmp_path)
    for call in (
        lambda: store.set("k", "text"),
        lambda: store.set_many(a=b"1", b=2),
        lambda: store.cas("k", None, None),
    ):
        with pytest.raises(TypeError, match="Expected bytes"):
            call()
    with pytest.raises(TypeError):
        store.set(5, b"v")
    assert list(store.keys()) == []


@pytest.mark.parametrize("kind", ["memory", "disk", "composite"])
def test_of_many_that_compare_and_set_one_wins(kind, tmp_path):
    store = make(kind, tmp_path)
    store.set("k", b"0")
    wins = []
    threads = [
        threading.Thread(target=lambda n=n: store.cas("k", b"%d!" % n, b"0") and wins.append(n))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1 and store.get("k") == b"%d!" % wins[0]


def test_a_disk_store_keeps_plain_keys_beside_its_versions(tmp_path):
    long = "long/" + "é" * 5000
    with Disk(str(tmp_path / "s"), size_limit=0) as disk:
        disk.set_many(**{long: b"1", "nul\0": b"2", "": b"3", "k": b"x" * 100_000})
        Versioned(disk).commit({"k": b"version"})
    with Disk(tmp_path / "s") as disk:
        assert dict(disk.items()) == {long: b"1", "nul\0": b"2", "": b"3", "k": b"x" * 100_000}
        assert disk.cas(long, b"4", b"1") and disk.get(long) == b"4"
        assert Versioned(disk).get("k") == b"version"
        disk.clear()
        assert list(disk.keys()) == [] and Versioned.branches(disk) == []
    with pytest.raises(kvgit.StateError):
        disk.get("k")


def test_a_disk_store_forgets_handles_that_were_closed(tmp_path):
    with Disk(tmp_path / "s") as disk:
        v = Versioned(disk)
        disk.set("k", b"v")
        for _ in range(50):
            assert Versioned.branches(disk) == ["main"]
        assert len(disk._opened) <= 4
        assert v.commit({"k": b"1"}) and disk.get("k") == b"v"
    for call in (lambda: v.get("k"), lambda: disk._plain.get_ref("k")):
        with pytest.raises(kvgit.StateError):
            call()


# below the engine


@pytest.mark.parametrize("kind", KINDS)
def test_the_engine_runs_on_any_store(kind, tmp_path):
    store = make(kind, tmp_path)
    s = Staged(Versioned(store))
    s.update({f"dir/{number}": "x" * number for number in range(300)})
    s.commit()
    first = s.current_commit
    s["big"] = "y" * 50_000
    s.commit(info={"n": 1})
    other = Staged(Versioned(store, commit_hash=first))
    other["mine"] = 1
    assert other.commit().strategy == "three_way"
    dev = other.create_branch("dev")
    del dev["big"]
    dev.commit()
    s.refresh()
    assert (len(s), len(dev), s["big"]) == (302, 301, "y" * 50_000)
    assert s.versioned.diff(s.current_commit, dev.current_commit).removed == {"big"}
    assert s.reset_to(first[:10]) and len(s) == 300
    assert Versioned.branches(store) == ["dev", "main"]
    assert [entry.new for entry in s.versioned.repo.reflog("main", 1)] == [first]
    gc = s.versioned.repo.gc(keep_reflog=0)
    assert dict(Staged(Versioned(store, branch="dev"))) == dict(dev)
    assert gc.kept_count == s.versioned.repo.stats()["record_count"]


def test_gc_of_a_users_store_leaves_only_what_is_reached():
    store = DictStore()
    v = GCVersioned(store, high_water_bytes=10**6)
    for number in range(30):
        v.commit({f"k{number % 7}": b"%d" % number * 1000})
    head = dict(v.items())
    v.rebase()
    before = len(store.data)
    result = v.repo.gc(keep_reflog=0)
    assert result.freed_count > 30 and len(store.data) < before / 3
    assert dict(Versioned(store).items()) == head and v.repo.reflog("main") == []
    v.commit({"new": b"1"})
    assert len(v.repo.reflog("main")) == 1


def test_what_a_users_store_raises_comes_out_as_a_backend_error_and_changes_nothing():
    class Broken(DictStore):
        fails = ""

        def set_many(self, **items):
            if self.fails == "set_many":
                raise OSError("disk on fire")
            super().set_many(**items)

        def cas(self, key, value, expected):
            if self.fails == "before":
                raise OSError("no answer")
            done = super().cas(key, value, expected)
            if self.fails == "after":
                raise OSError("lost the answer")
            return done

        def get(self, key):
            return "text" if self.fails == "get" else super().get(key)

    store = Broken()
    v = Versioned(store)
    v.commit({"k": b"1"})
    before = v.current_commit
    for fails in ("set_many", "before", "get"):
        store.fails = fails
        with pytest.raises(kvgit.BackendError):
            v.commit({"k": fails.encode()})
        store.fails = ""
        assert v.current_commit == before == v.latest_head and v.get("k") == b"1"
    store.fails = "after"  # the swap went through: reading back settles it
    assert v.commit({"k": b"2"}) and v.latest_head == v.current_commit
    store.fails = ""
    store.data[ROOT_KEY] = store.data[ROOT_KEY][:-1] + b"!"
    with pytest.raises(kvgit.CorruptionError):
        Versioned(store)


def test_a_lost_record_of_a_users_store_is_damage_not_absence():
    store = DictStore()
    v = Versioned(store)
    v.commit({f"k{number}": b"x" * 50 for number in range(500)})
    keys = [key for key in store.data if key.startswith("kvgit_hamt/o/")]
    for key in keys:
        value = store.data.pop(key)
        try:
            found = dict(Versioned(store).items())
        except kvgit.CorruptionError:
            found = None
        assert found is None or len(found) in (0, 500)
        store.data[key] = value


# tiers


def test_reading_fills_the_tiers_in_front():
    tiers = [Memory(), Memory(), Memory()]
    store = Composite(tiers)
    tiers[2].set("k", b"v")
    assert store.get("k") == b"v" and tiers[0].get("k") == tiers[1].get("k") == b"v"
    assert "k" in store and "none" not in store
    with pytest.raises(ValueError):
        Composite([])


class Failing(Memory):
    fails = True

    def _fail(self, *args, **more):
        raise OSError("down")

    def __getattribute__(self, name):
        if name in ("get_many", "set", "set_many", "remove_many", "cas") and Failing.fails:
            return object.__getattribute__(self, "_fail")
        return object.__getattribute__(self, name)


def test_a_cache_that_fails_is_passed_over_and_a_last_tier_that_fails_is_not():
    last = Memory()
    store = Composite([Failing(), last])
    store.set_many(a=b"1")
    assert store.get("a") == b"1" and last.get("a") == b"1"
    broken = Composite([Memory(), Failing()])
    for call in (lambda: broken.get("a"), lambda: broken.set("a", b"1"), lambda: broken.cas("a", b"1", None)):
        with pytest.raises(OSError, match="down"):
            call()


def test_branches_are_never_read_from_a_cache():
    last = Memory()
    one, two = (Composite([Memory(), last]) for _ in range(2))
    first, second = Versioned(one), Versioned(two)
    first.commit({"k": b"1"})
    second.refresh()
    assert second.get("k") == b"1"
    second.commit({"k": b"2"})
    first.refresh()
    assert first.get("k") == b"2"
    front = one._stores[0]
    assert ROOT_KEY not in front and ROOT_KEY in last
    front.set(ROOT_KEY, b"something old")
    assert Versioned(one).get("k") == b"2"


def tiers(last, is_nested):
    store = Composite([Memory(), last])
    return Composite([Memory(), store]) if is_nested else store


def collected_elsewhere(is_nested):
    """A handle over caches that keep a commit which gc through another object took from the last tier."""
    last = Memory()
    handle = Versioned(tiers(last, is_nested))
    base = handle.current_commit
    handle.commit({"big": b"X" * 5000, "dir/k": b"1"})
    gone = handle.current_commit
    handle.reset_to(base)
    assert Versioned(tiers(last, is_nested)).repo.gc(keep_reflog=0).freed_count > 0
    return last, handle, gone


@pytest.mark.parametrize("is_nested", [False, True])
def test_a_commit_over_caches_shares_nothing_that_the_last_tier_lost(is_nested):
    last, handle, _ = collected_elsewhere(is_nested)
    assert handle.commit({"big2": b"X" * 5000, "dir/k": b"1"})
    assert dict(Versioned(last).items()) == {"big2": b"X" * 5000, "dir/k": b"1"}
    assert Versioned(last).repo.gc(keep_reflog=0).kept_count > 0


@pytest.mark.parametrize("is_nested", [False, True])
def test_a_commit_that_only_caches_have_is_none(is_nested):
    last, handle, gone = collected_elsewhere(is_nested)
    assert handle.reset_to(gone) is False and handle.checkout(gone) is None
    assert handle.reset_to(gone[:12]) is False
    with pytest.raises(kvgit.CommitNotFoundError):
        handle.repo.branches.create("dev", gone)
    assert Versioned(last).get("big") is None and Versioned.branches(last) == ["main"]


def test_a_handle_at_a_commit_that_only_caches_have_cannot_build_on_it():
    last = Memory()
    base = Versioned(last).current_commit
    handle = Versioned(Composite([Memory(), last]))
    handle.commit({"k": b"1"})
    other = Versioned(last)
    other.reset_to(base)
    del other
    Versioned(Composite([Memory(), last])).repo.gc(keep_reflog=0)
    assert handle.get("k") == b"1"
    for call in (lambda: handle.commit({"l": b"2"}), lambda: handle.create_branch("dev")):
        with pytest.raises(kvgit.CorruptionError, match=r"missing|gone"):
            call()
    assert Versioned(last).latest_head == base and Versioned.branches(last) == ["main"]


def test_a_last_tier_that_is_no_store_counts_for_nothing():
    store = DictStore()
    store.last_tier = True
    assert Versioned(store).commit({"k": b"1"})


def test_a_disk_as_last_tier_holds_the_versions_itself(tmp_path):
    with Disk(tmp_path / "s") as disk:
        Versioned(disk).commit({"k": b"1"})
        behind = Versioned(Composite([Memory(), disk]))
        assert behind.get("k") == b"1"
        behind.commit({"k": b"2"})
        assert Versioned(disk).get("k") == b"2"


def test_a_kvstore_of_ones_own_must_have_every_method():
    class Half(KVStore):
        def get(self, key):
            return None

    with pytest.raises(TypeError):
        Half()
