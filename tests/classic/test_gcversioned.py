"""GCVersioned: what is dropped, in which order, and that nobody else loses anything."""

from __future__ import annotations

import pytest

import kvgit_hamt as kvgit
from kvgit_hamt import ConcurrencyError, Disk, GCVersioned, Memory, Versioned

DAY_S = 86_400


@pytest.fixture(params=["memory", "disk"])
def store(request, tmp_path):
    if request.param == "memory":
        yield Memory()
    else:
        with Disk(tmp_path / "s") as disk:
            yield disk


def aged(handle, seconds):
    """Let the reflog's clock run on."""
    refs = handle.repo.refs
    clock = refs.clock
    refs.clock = lambda: clock() + int(seconds * 1_000_000)


def test_the_coldest_go_first_down_to_low_water(store):
    v = GCVersioned(store, high_water_bytes=150, low_water_bytes=80)
    v.commit({"a": b"x" * 40, "b": b"y" * 40, "c": b"z" * 40})
    assert not v.last_rebase_result.performed
    v.get("a")
    v.get_many("c", "absent")
    v.commit({"d": b"w" * 40})
    result = v.last_rebase_result
    assert (result.performed, result.dropped_keys, result.kept_keys) == (True, ("b", "a"), ("c", "d"))
    assert (result.total_size_before, result.total_size_after) == (160, 80)
    assert v.parents() == () and list(v.history()) == [result.new_commit] == [v.latest_head]
    assert v.get("a") is None and v.get("c") == b"z" * 40


def test_a_commits_result_names_the_commit_of_the_changes_not_the_rebased_one(store):
    v = GCVersioned(store, high_water_bytes=10, low_water_bytes=5)
    v.commit({"__p": b"1"})
    before = v.current_commit
    result = v.commit({"a": b"x" * 100})
    assert result.commit != v.current_commit == v.latest_head == v.last_rebase_result.new_commit
    assert v.parents(result.commit) == (before,) and v.parents() == ()
    assert v.repo.snapshot(commit=result.commit)["a"] == b"x" * 100


def test_of_equally_cold_keys_the_largest_goes_first(store):
    Versioned(store).commit({"small": b"x" * 10, "big": b"y" * 50, "mid": b"z" * 30})
    v = GCVersioned(store, high_water_bytes=60, low_water_bytes=45)
    assert v.maybe_rebase().dropped_keys == ("big",)


def test_touches_outlive_the_handle_with_the_next_commit_and_change_no_id(store):
    v = GCVersioned(store, high_water_bytes=1000)
    plain = Versioned(Memory())
    changes = {"a": b"1" * 100, "b": b"2" * 100, "c": b"3" * 100}
    v.commit(changes)
    v.get("a")
    assert v.commit({"n": b""}).commit == (plain.commit(changes), plain.commit({"n": b""}))[1].commit
    reader = Versioned(store)
    reader.get("b")
    reader.commit({"m": b""})
    again = GCVersioned(store, high_water_bytes=250, low_water_bytes=100)
    assert again.maybe_rebase().dropped_keys == ("c", "a")


def test_a_branch_takes_the_touches_along(store):
    v = GCVersioned(store, high_water_bytes=1000)
    v.commit({"a": b"1" * 100, "b": b"2" * 100})
    v.get("a")
    v.commit({"n": b""})
    v.create_branch("dev").create_branch("deep")
    v.get("b")
    deep = GCVersioned(store, branch="deep", high_water_bytes=150, low_water_bytes=100)
    assert deep.maybe_rebase().dropped_keys == ("b",)
    dev = GCVersioned(store, branch="dev", high_water_bytes=150, low_water_bytes=100)
    assert dev.maybe_rebase().dropped_keys == ("b",)


def test_protected_keys_stay_and_do_not_count(store):
    v = GCVersioned(store, high_water_bytes=100, low_water_bytes=50)
    v.commit({"__system__": b"x" * 200, "ns/__deep__": b"y" * 200, "user": b"z" * 90})
    assert not v.last_rebase_result.performed
    assert v.last_rebase_result.total_size_before == 90
    v.commit({"more": b"w" * 40})
    assert v.last_rebase_result.dropped_keys == ("user",)
    assert v.keys() == {"__system__", "ns/__deep__", "more"}
    own = GCVersioned(store, high_water_bytes=10, is_protected=lambda key: key == "more")
    result = own.rebase(keep_keys=[])
    assert own.keys() == {"more"} and set(result.dropped_keys) == {"__system__", "ns/__deep__"}


def test_a_rebase_keeps_what_it_is_told_and_its_info(store):
    v = GCVersioned(store, high_water_bytes=10_000)
    v.commit({"a": b"1", "b": b"2", "c": b"3", "__p": b"4"})
    result = v.rebase(keep_keys={"a", "c", "absent"}, info={"why": "tidy"})
    assert (result.dropped_keys, result.kept_keys) == (("b",), ("__p", "a", "c"))
    assert v.commit_info() == {"why": "tidy"}


def test_the_total_is_kept_up_and_read_back(store):
    v = GCVersioned(store, high_water_bytes=10**6)
    v.commit({"a": b"1" * 100, "big": b"2" * 5000})
    v.commit({"a": b"1" * 10}, {"big"})
    other = Versioned(store)
    other.commit({"b": b"3" * 7})
    again = GCVersioned(store, high_water_bytes=10**6)
    assert again.maybe_rebase().total_size_before == 17
    again.reset_to(list(again.history())[2])
    assert again.maybe_rebase().total_size_before == 5100


@pytest.mark.parametrize(("high", "low", "expected"), [(1000, None, 800), (1000, 2000, 800), (1000, 0, 800),
                                                       (1000, -1, 800), (1000, 1000, 1000)])  # fmt: skip
def test_low_water_falls_back_to_80_percent(high, low, expected):
    assert GCVersioned(high_water_bytes=high, low_water_bytes=low).low_water == expected


@pytest.mark.parametrize("high", [0, -1])
def test_high_water_must_be_positive(high):
    with pytest.raises(ValueError, match="high_water_bytes must be > 0"):
        GCVersioned(high_water_bytes=high)


def test_a_rebase_that_loses_a_race_changes_nothing(store):
    v = GCVersioned(store, high_water_bytes=10_000)
    v.commit({"a": b"data"})
    before = v.current_commit
    Versioned(store).commit({"b": b"1"})
    with pytest.raises(ConcurrencyError, match="HEAD changed during rebase"):
        v.rebase(keep_keys=())
    assert v.current_commit == before and v.get("a") == b"data"


def test_a_commit_stands_though_its_rebase_loses_a_race(store, monkeypatch):
    v = GCVersioned(store, high_water_bytes=10)

    def lost(*args, **more):
        raise ConcurrencyError("moved")

    monkeypatch.setattr(v, "rebase", lost)
    assert v.commit({"a": b"x" * 100}).merged
    assert not v.last_rebase_result.performed and v.get("a") == b"x" * 100


@pytest.mark.parametrize("error", [kvgit.StoreFullError("full"), kvgit.CorruptionError("gone"), OSError("x")])
def test_a_commit_stands_whatever_stops_its_rebase(store, monkeypatch, error):
    v = GCVersioned(store, high_water_bytes=10, low_water_bytes=5)
    publish = v.repo.store.backend.publish
    calls = []

    def failing(batch):
        calls.append(batch)
        if len(calls) == 2:
            raise error
        return publish(batch)

    monkeypatch.setattr(v.repo.store.backend, "publish", failing)
    result = v.commit({"a": b"x" * 100})
    assert result.merged and result.commit == v.current_commit == v.latest_head
    assert v.get("a") == b"x" * 100 and v.last_rebase_error is error
    assert not v.last_rebase_result.performed and v.last_rebase_result.total_size_before == 100
    v.commit({"b": b"y"})
    assert v.last_rebase_result.dropped_keys == ("a",) and v.last_rebase_error is None


def test_a_rebase_stands_whatever_stops_its_collection(store, monkeypatch):
    v = GCVersioned(store, high_water_bytes=10, low_water_bytes=5, keep_reflog_s=60)
    v.commit({"a": b"1"})
    aged(v, 2 * 3600)

    def failing(**more):
        raise kvgit.CorruptionError("damaged")

    monkeypatch.setattr(v.repo, "gc", failing)
    result = v.commit({"b": b"x" * 100})
    assert result.merged and v.repo.snapshot(commit=result.commit)["b"] == b"x" * 100
    assert isinstance(v.last_rebase_error, kvgit.CorruptionError)
    assert v.last_rebase_result.performed and v.last_rebase_result.dropped_keys == ("a", "b")
    assert v.last_rebase_result.new_commit == v.current_commit == v.latest_head
    with pytest.raises(kvgit.CorruptionError):
        v.rebase(keep_keys=())
    assert v.current_commit == v.latest_head and list(v.keys()) == []


def test_a_rule_of_protection_that_raises_does_so_before_anything_is_written(store):
    def rule(key):
        if key == "bad":
            raise LookupError(key)
        return False

    v = GCVersioned(store, high_water_bytes=10, is_protected=rule)
    v.commit({"a": b"1"})
    before = v.current_commit, v.repo.stats()["record_count"]
    with pytest.raises(LookupError):
        v.commit({"bad": b"2"})
    assert (v.latest_head, v.repo.stats()["record_count"]) == before and v.current_commit == before[0]
    Versioned(store).commit({"bad": b"3"})
    head = v.latest_head
    with pytest.raises(LookupError):  # the merge would take it over
        v.commit({"c": b"4"})
    assert v.latest_head == head and v.current_commit == before[0]
    with pytest.raises(LookupError):
        GCVersioned(store, high_water_bytes=10, is_protected=rule).commit({"d": b"5"})
    assert v.latest_head == head


def test_a_rule_that_raises_later_leaves_the_commit(store):
    calls = []

    def rule(key):
        calls.append(key)
        if len(calls) > 1:
            raise LookupError(key)
        return False

    v = GCVersioned(store, high_water_bytes=10, is_protected=rule)
    assert v.commit({"a": b"x" * 100}).commit == v.latest_head == v.current_commit
    assert isinstance(v.last_rebase_error, LookupError) and not v.last_rebase_result.performed


def test_a_handle_from_before_a_rebase_has_no_common_history(store):
    v = GCVersioned(store, high_water_bytes=10_000)
    v.commit({"a": b"1", "b": b"2"})
    old = Versioned(store)
    v.rebase(keep_keys={"a"})
    with pytest.raises(ConcurrencyError):
        old.commit({"c": b"3"})
    assert not old.commit({"c": b"3"}, on_conflict="abandon")
    assert old.get("b") == b"2"
    old.refresh()
    assert old.commit({"c": b"3"}) and set(old.keys()) == {"a", "c"}


# what kvgit 0.1.3 lost


def test_a_rebase_on_one_branch_takes_nothing_from_another(store):
    v = GCVersioned(store, high_water_bytes=100, low_water_bytes=50)
    v.commit({"shared": b"s" * 40, "cold": b"c" * 40})
    kept = v.current_commit
    dev = v.create_branch("dev")
    v.repo.tags.create("release", kept)
    for number in range(5):
        v.commit({f"n{number}": b"n" * 40})
    assert v.get("cold") is None
    aged(v, 400 * DAY_S)
    v.clean_orphans(min_age=0)
    for handle in (dev, Versioned(store, branch="dev"), Versioned(store, commit_hash=kept)):
        assert dict(handle.items()) == {"shared": b"s" * 40, "cold": b"c" * 40}
    assert dev.commit({"more": b"1"}) and dev.get("shared") == b"s" * 40
    assert v.repo.snapshot(tag="release")["cold"] == b"c" * 40


def test_cleaning_orphans_takes_nothing_that_two_commits_share(store):
    v = GCVersioned(store, high_water_bytes=10**6)
    v.commit({"a": b"a" * 5000, "b": b"b" * 40})
    first = v.current_commit
    v.commit({"c": b"c" * 40})
    v.reset_to(first)
    aged(v, 400 * DAY_S)
    assert v.clean_orphans(min_age=0) > 0
    assert dict(v.items()) == {"a": b"a" * 5000, "b": b"b" * 40}
    assert dict(Versioned(store).items()) == dict(v.items())


def test_cleaning_orphans_spares_what_the_reflog_reaches(store):
    v = GCVersioned(store, high_water_bytes=10**6)
    v.commit({"a": b"a"})
    v.commit({"b": b"b" * 5000})
    lost = v.current_commit
    v.create_branch("gone").commit({"c": b"c"})
    gone = v.repo.branches.delete("gone")
    v.reset_to(list(v.history())[1])
    assert v.clean_orphans(min_age=0) == 0
    assert v.reset_to(lost) and v.get("b") == b"b" * 5000
    assert v.checkout(gone).get("c") == b"c"


def test_a_handle_goes_on_reading_a_commit_that_was_cleaned_away(store):
    v = GCVersioned(store, high_water_bytes=10**6)
    v.commit({"a": b"a"})
    first = v.current_commit
    v.commit({"b": b"b" * 5000})
    reader = v.checkout(v.current_commit)
    v.reset_to(first)
    aged(v, 400 * DAY_S)
    v.clean_orphans()
    assert reader.get("b") == b"b" * 5000
    del reader
    v.clean_orphans()
    assert v.checkout(first) is not None


def test_a_store_that_keeps_its_reflog_shortly_stays_small(store):
    v = GCVersioned(store, high_water_bytes=20_000, keep_reflog_s=60)
    counts = []
    for number in range(60):
        v.commit({f"k{number}": bytes([number]) * 3000})
        counts.append(v.repo.stats()["record_count"])
        aged(v, 61)
    v.clean_orphans(min_age=0)
    assert v.repo.stats()["record_count"] < 40
    assert v.maybe_rebase().total_size_after <= 20_000
    assert all(len(value) == 3000 for _, value in v.items())


def test_rebases_read_the_reflog_again_only_when_its_oldest_entry_has_expired(store, monkeypatch):
    v = GCVersioned(store, high_water_bytes=100, low_water_bytes=100, keep_reflog_s=2 * 3600)
    backend = v.repo.store.backend
    read, reads = backend.read_reflog, []
    monkeypatch.setattr(backend, "read_reflog", lambda *args: reads.append(args) or read(*args))
    collected = []
    clean = v.clean_orphans
    monkeypatch.setattr(v, "clean_orphans", lambda: collected.append(len(reads)) or clean())

    def rebases(count, start):
        for number in range(start, start + count):
            v.commit({f"k{number}": b"x" * 90})
            assert v.last_rebase_result.performed == (number > 0)

    rebases(20, 0)
    assert len(reads) == 1 and not collected
    aged(v, 3600)
    rebases(20, 20)
    assert len(reads) == 1 and not collected
    aged(v, 3700)
    del reads[:]
    rebases(1, 40)
    assert collected == [1] and len(v.repo.reflog("main")) < 45
    del reads[:]
    rebases(20, 41)  # what is left is younger: read once more to know its age
    assert len(reads) == 1 and len(collected) == 1
    aged(v, 7300)
    rebases(1, 61)
    assert len(collected) == 2


def test_a_rebase_does_not_collect_what_cleaning_would_spare(store, monkeypatch):
    v = GCVersioned(store, high_water_bytes=100, low_water_bytes=100, keep_reflog_s=0)
    monkeypatch.setattr(v, "clean_orphans", lambda: pytest.fail("in vain: its entries are too young"))
    aged(v, 60)
    for number in range(5):
        v.commit({f"k{number}": b"x" * 90})
    assert v.last_rebase_result.performed


def test_rebases_through_staged():
    s = kvgit.store(high_water_bytes=3000)
    for number in range(50):
        s[f"k{number}"] = "x" * 200
        s.commit()
        s.get("k0")
    assert "k0" in s and "k49" in s and "k1" not in s
