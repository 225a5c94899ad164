"""C5: refs and reflogs: each damage is listed, none passes for absence, the rest stays readable."""

from __future__ import annotations

import random

import pytest

from kvgit_hamt import Repo
from kvgit_hamt.errors import CorruptionError
from kvgit_hamt.objects import LogEntry, RefValue, encode_log_entry, encode_ref
from kvgit_hamt.wire import pack
from tests.support.homes import SMALL
from tests.support.rawstore import raw_store
from tests.support.scale import pick, record

LOST = bytes(range(32))


@pytest.fixture
def path(tmp_path):
    """A store with the branches main, dev and old, and the tag v1."""
    with Repo(tmp_path / "store", shape=SMALL) as repo:
        work = repo.worktree()
        for number in range(3):
            work[f"k{number}"] = number
            work.commit()
        repo.tags.create("v1", info={"why": "first"})
        repo.branches.create("old", at=repo.reflog()[1].new)
        repo.branches.create("dev")
        dev = repo.worktree("dev")
        dev["dev"] = True
        dev.commit()
        repo.branches.create("gone")
        repo.branches.delete("gone")
        assert list(repo.check()) == []
    return tmp_path / "store"


def faults_of(path, deep=False):
    with Repo(path) as repo:
        return list(repo.check(deep))


def commit_of(path, name):
    with Repo(path) as repo:
        return bytes.fromhex(repo.branches[name])


def tree_of(path):
    with Repo(path) as repo:
        return repo.read_head("main").tree[0]


def assert_others_are_readable(path):
    with Repo(path) as repo:
        assert dict(repo.worktree("dev").items()) == {"k0": 0, "k1": 1, "k2": 2, "dev": True}
        assert repo.snapshot(branch="old")["k0"] == 0
        assert len(list(repo.log("dev"))) > 3


BAD_VALUES = {
    "garbage": b"\xc1\xff",
    "empty": b"",
    "no list": pack(7),
    "short oid": pack([LOST[:31], None]),
    "too many": pack([LOST, None, None]),
    "info no map": pack([LOST, 3]),
    "not canonical": b"\x92\xc5\0\x20" + LOST + b"\xc0",
}


@pytest.mark.parametrize("what", BAD_VALUES)
def test_a_malformed_value_under_a_right_checksum_is_listed(path, what):
    with raw_store(path) as raw:
        raw.set_ref("heads/main", BAD_VALUES[what])
    fault = next(fault for fault in faults_of(path) if fault.kind == "ref")
    assert (fault.ref, fault.refs) == ("heads/main", ("heads/main",))
    with Repo(path) as repo, pytest.raises(CorruptionError):
        repo.worktree()
    assert_others_are_readable(path)


@pytest.mark.parametrize("target", ["missing", "a leaf"])
def test_a_ref_to_what_is_no_commit_is_listed(path, target):
    oid = LOST if target == "missing" else tree_of(path)
    with raw_store(path) as raw:
        raw.set_ref("heads/main", encode_ref(RefValue(oid)))
    faults = faults_of(path)
    assert ("missing", "heads/main", oid.hex()) in [(fault.kind, fault.ref, fault.oid) for fault in faults]
    assert "reflog" in {fault.kind for fault in faults}, "its reflog does not know of this"
    with Repo(path) as repo, pytest.raises(CorruptionError):
        repo.worktree()
    assert_others_are_readable(path)


def test_a_ref_that_an_index_leads_to_no_commit_is_listed(path):
    oid = commit_of(path, "main")
    with raw_store(path) as raw:
        leaf = next(place for place, body in raw.bodies().items() if body[0] == 1)
        raw.put("commits", oid, leaf)
    assert {"damaged"} <= {fault.kind for fault in faults_of(path)}
    assert_others_are_readable(path)


def test_a_ref_that_is_neither_branch_nor_tag_is_listed(path):
    oid = commit_of(path, "main")
    with raw_store(path) as raw:
        raw.set_ref("notes/x", encode_ref(RefValue(oid)))
    assert any("neither a branch nor a tag" in fault.message for fault in faults_of(path))
    assert_others_are_readable(path)


def test_a_branch_that_vanished_is_missed_and_never_made_anew(path):
    with raw_store(path) as raw:
        raw.drop_ref_row("heads/main")
    kinds = {fault.kind for fault in faults_of(path)}
    assert {"state", "reflog"} <= kinds
    with Repo(path) as repo:
        for call in (
            lambda: repo.worktree(),
            lambda: repo.worktree(create=True),
            lambda: repo.branches["main"],
            lambda: "main" in repo.branches,
            lambda: repo.branches.get("main"),
            lambda: dict(repo.branches),
            lambda: list(repo.tags),
        ):
            with pytest.raises(CorruptionError):
                call()
        assert "never was" not in repo.branches
        with pytest.raises(CorruptionError):
            repo.gc(keep_reflog=0)
    assert_others_are_readable(path)


@pytest.mark.parametrize("name", [None, "confiG", "\x01onfig"])
def test_a_store_without_its_description_is_not_made_anew(path, name):
    with raw_store(path) as raw:
        raw.drop_ref_row("heads/main")
        if name is None:
            raw.drop_ref_row("config")
        else:
            raw.rename_ref_row("config", name)
    for _ in range(2):
        with pytest.raises(CorruptionError):
            Repo(path)
    with raw_store(path) as raw:
        assert raw.get("refs", b"config") is None
        assert raw.get("refs", b"heads/main") is None


@pytest.mark.parametrize("name", ["heads/maiN", "taws/v1", "Heads/main", "heads/main\x01"])
def test_a_ref_under_a_damaged_name_hides_nothing(path, name):
    was = "tags/v1" if "v1" in name else "heads/main"
    with raw_store(path) as raw:
        raw.rename_ref_row(was, name)
    assert "ref" in {fault.kind for fault in faults_of(path)}
    with Repo(path) as repo:
        for call in (lambda: dict(repo.branches), lambda: list(repo.tags)):
            with pytest.raises(CorruptionError):
                call()
        kind, _, short = was.partition("/")
        with pytest.raises(CorruptionError):
            (repo.branches if kind == "heads" else repo.tags)[short]
    assert_others_are_readable(path)


def test_branches_that_were_deleted_or_renamed_may_be_made_again(path):
    """What stands against damage must not stand in the way of this."""
    with Repo(path) as repo:
        assert "gone" not in repo.branches
        repo.worktree("gone", create=True)["x"] = 1
        repo.branches.rename("gone", "again")
        assert repo.branches.get("gone") is None
        repo.branches.create("gone")
        repo.tags.delete("v1")
        assert "v1" not in repo.tags
        repo.tags.create("v1")
        repo.gc(keep_reflog=0)
        repo.branches.delete("gone")
        repo.worktree("gone", create=True)
        assert list(repo.check()) == []


BAD_ENTRIES = {
    "garbage": b"\xc1",
    "no list": pack("x"),
    "short": pack([LOST, LOST, 1]),
    "no time": pack([LOST, LOST, "now", "why"]),
    "short oid": pack([LOST[:3], LOST, 1, "why"]),
}


@pytest.mark.parametrize("what", BAD_ENTRIES)
def test_reflog_garbage_under_a_right_checksum_is_listed(path, what):
    with raw_store(path) as raw:
        raw.add_log("heads/main", BAD_ENTRIES[what])
    faults = [fault for fault in faults_of(path) if fault.kind == "reflog"]
    assert faults
    assert faults[0].ref == "reflog of heads/main"
    with Repo(path) as repo:
        assert repo.worktree()["k0"] == 0
        with pytest.raises(CorruptionError):
            repo.reflog()
        with pytest.raises(CorruptionError):
            repo.gc(dry_run=True)


def test_a_reflog_entry_that_names_no_commit_is_listed(path):
    head = commit_of(path, "main")
    with raw_store(path) as raw:
        raw.add_log("heads/main", encode_log_entry(LogEntry(head, LOST, 1, "x")))
        raw.add_log("heads/main", encode_log_entry(LogEntry(LOST, head, 2, "y")))
    (fault,) = faults_of(path)
    assert (fault.kind, fault.ref, fault.oid) == ("missing", "reflog of heads/main", LOST.hex())
    assert fault.refs == (), "no branch reaches it"


def test_a_reflog_with_a_gap_is_listed(path):
    head = commit_of(path, "main")
    with raw_store(path) as raw:
        raw.add_log("heads/main", encode_log_entry(LogEntry(None, head, 1, "x")))
    faults = faults_of(path)
    assert [fault.kind for fault in faults] == ["reflog"]
    assert "an entry is missing" in faults[0].message


def test_a_reflog_that_ends_elsewhere_is_listed(path):
    head, old = commit_of(path, "main"), commit_of(path, "old")
    with raw_store(path) as raw:
        raw.add_log("heads/main", encode_log_entry(LogEntry(head, old, 1, "x")))
    faults = faults_of(path)
    assert [fault.kind for fault in faults] == ["reflog"]
    assert "does not say where" in faults[0].message


def test_a_store_that_cannot_list_its_refs_otherwise_is_checked_all_the_same(path):
    """Without an inspector (as a backend of one's own) the check goes as far as the interface does."""

    class Plain:
        def __init__(self, inner):
            self._inner = inner

        def __getattr__(self, name):
            if name in ("inspector", "mend", "door"):
                raise AttributeError(name)
            return getattr(self._inner, name)

    with Repo(path) as repo:
        plain = Repo(Plain(repo.store.backend))
        run = plain.check()
        assert list(run) == []
        assert any("keeps for itself" in note for note in run.result().not_checked)
    with raw_store(path) as raw:
        raw.add_log("heads/main", BAD_ENTRIES["garbage"])
        raw.rename_ref_row("heads/old", "heads/olD")
    with Repo(path) as repo:
        kinds = [fault.kind for fault in Repo(Plain(repo.store.backend)).check()]
    assert {"ref", "reflog"} <= set(kinds)


@pytest.mark.slow
def test_every_flipped_bit_of_refs_and_reflogs_is_listed_and_shows_nothing_else(path):
    """Keys and values alike."""
    rng = random.Random(7)
    with Repo(path) as repo:
        expected = dict(repo.branches), dict(repo.tags)
    with raw_store(path) as raw:
        rows = raw.ref_rows() + raw.log_rows()
    flips = wrong = unlisted = refused = 0
    bits = [(row, bit) for row in rows for bit in range(8 * (len(row.key) + len(row.value)))]
    for row, bit in rng.sample(bits, min(len(bits), pick(700, len(bits)))):
        data = bytearray(row.key + row.value)
        data[bit // 8] ^= 1 << bit % 8
        key, value = bytes(data[: len(row.key)]), bytes(data[len(row.key) :])
        if key != row.key and any(key == other.key for other in rows):
            continue  # it would be that row's place
        with raw_store(path) as raw:
            raw.replace_row(row.table, row.key, key, value)
        flips += 1
        try:
            with Repo(path) as repo:
                unlisted += not list(repo.check(deep=False))
                try:
                    wrong += (dict(repo.branches), dict(repo.tags)) != expected
                except CorruptionError:
                    refused += 1
        except CorruptionError:  # the store's own description
            refused += 1
        with raw_store(path) as raw:
            raw.replace_row(row.table, key, row.key, row.value)
    assert (wrong, unlisted) == (0, 0)
    assert refused > 0
    assert faults_of(path) == [], "what was put back is sound"
    unseen = 0
    for byte in range(4, 34):  # the control: the same with a check made anew over the flipped value
        with raw_store(path) as raw:
            value = raw.get("refs", b"heads/main")[:-8]
            raw.set_ref("heads/main", value[:byte] + bytes((value[byte] ^ 1,)) + value[byte + 1 :])
        with Repo(path) as repo:
            unseen += dict(repo.branches) != expected[0]
        with raw_store(path) as raw:
            raw.set_ref("heads/main", value)
    assert unseen > 0
    record("C5", flips=flips, violations=wrong + unlisted, control_failed=unseen)
