"""Bundles: what goes in, what comes out, and what it costs."""

from __future__ import annotations

import io
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import kvgit_hamt as kvgit
from kvgit_hamt import Repo, bundle, bundle_spill, verify_bundle
from kvgit_hamt.backend.kv import KvBackend
from kvgit_hamt.bundle import BundlePayloads
from kvgit_hamt.bundle_format import BASE, COMMIT, OBJECT, FrameReader
from kvgit_hamt.bundle_spill import SpillMap
from kvgit_hamt.classic.kvstore import Memory
from kvgit_hamt.errors import (
    BundlePrerequisiteError,
    CommitNotFoundError,
    CorruptionError,
    FormatVersionError,
    InvalidInputError,
    InvalidNameError,
    NotFastForwardError,
    NotFoundError,
    StateError,
    TagExistsError,
)
from kvgit_hamt.node import COMMIT as COMMIT_OBJECT
from kvgit_hamt.oid import oid_of
from kvgit_hamt.path import Shape
from tests.support.homes import KINDS, SMALL, Home, Lent, state_of
from tests.support.scale import pick

ALL_KINDS = [*KINDS, "placed"]


def fill(repo: Repo, commits: int = 12, seed: int = 1) -> None:
    """A history with branches, merges, blobs, deletions, a return to an older state, and tags."""
    rng = random.Random(seed)
    main = repo.worktree("main", create=True)
    main.update({f"user/{n}": n for n in range(150)})
    main.commit()
    repo.branches.create("dev")
    dev = repo.worktree("dev")
    for number in range(commits):
        work = (main, dev)[number % 2]
        prefix = ("user", "dev")[number % 2]
        for _ in range(4):
            work[f"{prefix}/{rng.randrange(400)}"] = "v" * rng.randrange(0, 150)
        for key in rng.sample(sorted(work.keys(prefix=prefix)), 2):
            del work[key]
        work.commit(info={"n": number})
        if number == commits // 2:
            repo.tags.create("v1", at="main", info={"release": 1})
            main.merge(branch="dev", default_merge=kvgit.THEIRS)
    main.update(dict(repo.snapshot(tag="v1").items()))
    main.commit()


def content(repo: Repo) -> dict[str, Any]:
    """Everything that a bundle carries."""
    names = {f"heads/{name}": commit for name, commit in repo.branches.items()}
    names |= {f"tags/{name}": commit for name, commit in repo.tags.items()}
    return {
        name: (
            [(c.id, c.info, c.time, c.parents) for c in repo.log(commit)],
            dict(repo.snapshot(commit=commit).items()),
        )
        for name, commit in names.items()
    } | {"infos": {name: repo.tags.info(name) for name in repo.tags}}


def faults(repo: Repo) -> list[object]:
    if isinstance(repo.store.backend, Lent) and repo.store.backend.placed:
        return []  # the placed stand-in lists no indexes
    return [*repo.check()]


@pytest.fixture(scope="module")
def source() -> Repo:
    repo = Repo(shape=SMALL)
    fill(repo)
    return repo


@pytest.fixture
def target(tmp_path: Path) -> Any:
    home = Home("lmdb", tmp_path / "target")
    yield home.open(shape=SMALL)
    home.close()


@pytest.mark.parametrize("there", ALL_KINDS)
@pytest.mark.parametrize("here", ALL_KINDS)
def test_a_bundle_of_all_brings_everything_to_another_store(here, there, tmp_path):
    ours, theirs = Home(here, tmp_path / "ours"), Home(there, tmp_path / "theirs")
    repo = ours.open(shape=SMALL, clock=ours.clock)
    fill(repo)
    made = repo.bundle(tmp_path / "all.kvb")
    assert made == verify_bundle(tmp_path / "all.kvb")
    assert made.byte_count == (tmp_path / "all.kvb").stat().st_size
    assert (made.prerequisites, made.commits, made.codec) == ((), (), "msgpack")
    assert set(made.refs) == {"heads/main", "heads/dev", "tags/v1"}
    other = theirs.open(shape=SMALL)
    loaded = other.load_bundle(tmp_path / "all.kvb")
    assert content(other) == content(repo)
    assert faults(other) == []
    assert dict(loaded.refs) == dict(made.refs)
    assert loaded.changed == ("heads/dev", "heads/main", "tags/v1")
    assert loaded.commit_count == made.commit_count - 1, "the initial commit was there"
    assert other.store.backend.pending_floor() is None
    again = other.load_bundle(tmp_path / "all.kvb")
    assert (again.changed, again.commit_count, again.written_count) == ((), 0, 0)
    if there != "placed":
        assert other.gc(keep_reflog=0).freed_count == 0, "nothing was stored that nothing reaches"
        assert content(other) == content(repo)
    ours.close()
    theirs.close()


def test_what_is_no_regular_file_is_written_not_replaced(source, tmp_path):
    source.bundle(tmp_path / "b")
    expected = (tmp_path / "b").read_bytes()
    (tmp_path / "link").symlink_to("b")
    (tmp_path / "b").write_bytes(b"old")
    source.bundle(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "b").read_bytes() == expected
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor(1) as reader:
        read = reader.submit((tmp_path / "pipe").read_bytes)
        source.bundle(tmp_path / "pipe")
        assert read.result(20) == expected
    assert (tmp_path / "pipe").is_fifo()


def test_a_store_of_the_user_s_own_gives_and_takes_bundles(source, tmp_path):
    with Repo(KvBackend(Memory()), shape=SMALL) as other:
        source.bundle(tmp_path / "b")
        other.load_bundle(tmp_path / "b")
        assert content(other) == content(source)
        other.bundle(tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == (tmp_path / "b").read_bytes()
        work = other.worktree()
        work["more"] = 1
        work.commit()
        other.bundle(tmp_path / "thin", since=["v1"])
        assert faults(other) == []
    target = Repo(shape=SMALL)
    target.load_bundle(tmp_path / "b")
    target.load_bundle(tmp_path / "thin")
    assert target.snapshot()["more"] == 1


def test_equal_stores_give_equal_bundles(source, target):
    first, second = io.BytesIO(), io.BytesIO()
    source.bundle(first)
    first.seek(0)
    target.load_bundle(first)
    target.bundle(second)
    assert first.getvalue() == second.getvalue()


def test_one_commit_carries_its_history(source, target, tmp_path):
    made = source.bundle(tmp_path / "one", "v1")
    assert dict(made.refs) == {"tags/v1": source.tags["v1"]}
    target.load_bundle(tmp_path / "one")
    assert [c.id for c in target.log("v1")] == [c.id for c in source.log("v1")]
    assert target.tags.info("v1") == {"release": 1}
    assert faults(target) == []


def test_a_commit_without_a_name_needs_one_where_it_is_loaded(source, target, tmp_path):
    commit = [c.id for c in source.log("main", limit=3)][-1]
    made = source.bundle(tmp_path / "one", commit[:12])
    assert (dict(made.refs), made.commits) == ({}, (commit,))
    with pytest.raises(InvalidInputError, match=commit):
        target.load_bundle(tmp_path / "one")
    target.load_bundle(tmp_path / "one", {commit: "found"})
    assert target.branches["found"] == commit
    assert verify_bundle(tmp_path / "one").commits == (commit,)


def test_without_history_the_newest_state_gets_an_id_of_its_own(source, target, tmp_path):
    made = source.bundle(tmp_path / "cut", "main", history=False)
    assert made.commit_count == 1
    assert made.refs["heads/main"] != source.branches["main"]
    target.load_bundle(tmp_path / "cut")
    assert dict(target.snapshot().items()) == dict(source.snapshot().items())
    (only,) = target.log()
    assert (only.parents, only.generation, only.info) == ((), 1, source.get_commit("main").info)
    assert faults(target) == []
    again = io.BytesIO()
    source.bundle(again, "main", history=False)
    assert again.getvalue() == (tmp_path / "cut").read_bytes()
    with pytest.raises(InvalidInputError, match="history"):
        source.bundle(io.BytesIO(), "v1..main", history=False)


# ranges


def test_a_range_needs_its_beginning_and_names_it(source, target, tmp_path):
    before = state_of(target)
    made = source.bundle(tmp_path / "thin", "v1..main")
    assert source.tags["v1"] in made.prerequisites
    assert verify_bundle(tmp_path / "thin") == made
    with pytest.raises(BundlePrerequisiteError) as raised:
        target.load_bundle(tmp_path / "thin")
    assert set(raised.value.commits) == set(made.prerequisites)
    assert source.tags["v1"] in str(raised.value)
    assert state_of(target) == before


@pytest.mark.parametrize("there", ALL_KINDS)
def test_a_range_completes_a_store_that_has_its_beginning(there, source, tmp_path):
    home = Home(there, tmp_path)
    other = home.open(shape=SMALL)
    source.bundle(tmp_path / "first", "v1", "dev~3")
    source.bundle(tmp_path / "rest", since=["v1", "dev~3"])
    other.load_bundle(tmp_path / "first", {"v1": "v1", source.resolve_commit("dev~3").oid.hex(): "dev"})
    other.load_bundle(tmp_path / "rest")
    assert content(other) == content(source)
    assert faults(other) == []
    home.close()


def test_a_range_costs_the_change():
    repo = Repo()
    work = repo.worktree()
    work.update({f"user/{n}": "x" * 40 for n in range(20_000)})
    work.commit()
    repo.tags.create("v1")
    work["user/7"] = "changed"
    work["user/big"] = "b" * 10_000
    work.commit()
    made = repo.bundle(io.BytesIO(), "v1..main")
    depth = 7  # four of them for the directory
    assert made.object_count <= 2 * depth + 2
    assert made.byte_count < 40_000
    whole = repo.bundle(io.BytesIO())
    assert whole.object_count > 300


def test_reads_of_a_range_do_not_depend_on_the_store(monkeypatch):
    reads = []
    exporter = bundle._Exporter
    monkeypatch.setattr(exporter, "close", lambda self: reads.append(self.store.counters.nodes_read))
    for size in (5_000, 40_000):
        repo = Repo()
        work = repo.worktree()
        work.update({f"user/{n}": "x" * 40 for n in range(size)})
        work.commit()
        repo.tags.create("v1")
        work["user/7"] = "changed"
        work.commit()
        repo.bundle(io.BytesIO(), "v1..main")
    assert reads[1] <= reads[0] + 4, reads


def test_unchanged_parts_of_a_changed_node_are_not_in_a_range(source):
    out = io.BytesIO()
    source.bundle(out, "main~1..main")
    out.seek(0)
    kinds = [frame.kind for frame in FrameReader(out).frames()]
    assert kinds.count(COMMIT) == 1
    assert kinds.count(BASE) >= 1
    whole = io.BytesIO()
    source.bundle(whole, "main")
    assert kinds.count(OBJECT) < verify_bundle(io.BytesIO(whole.getvalue())).object_count / 2


def test_an_empty_range_is_refused(source):
    with pytest.raises(InvalidInputError, match="empty"):
        source.bundle(io.BytesIO(), "main..main")
    with pytest.raises(InvalidInputError, match="empty"):
        source.bundle(io.BytesIO(), "v1", since=["main"])


@pytest.mark.parametrize("name", ["..main", "v1..", "a..b..c"])
def test_half_a_range_is_refused(source, name):
    with pytest.raises((InvalidInputError, CommitNotFoundError)):
        source.bundle(io.BytesIO(), name)


def test_a_head_that_the_range_excludes_is_a_prerequisite(source, target):
    out = io.BytesIO()
    made = source.bundle(out, "main", "v1", since=["v1"])
    assert source.tags["v1"] in made.prerequisites
    base = io.BytesIO()
    source.bundle(base, *made.prerequisites)
    base.seek(0)
    target.load_bundle(base, {oid: f"base/{n}" for n, oid in enumerate(made.prerequisites)} | {})
    out.seek(0)
    target.load_bundle(out)
    assert target.tags["v1"] == source.tags["v1"]
    assert target.branches["main"] == source.branches["main"]


@pytest.mark.parametrize(
    "seed", [*range(3), *(pytest.param(n, marks=pytest.mark.slow) for n in range(3, pick(12, 200)))]
)
def test_any_two_commits_make_a_range_that_loads(seed, tmp_path):
    rng = random.Random(seed)
    repo = Repo(shape=SMALL)
    fill(repo, commits=8, seed=seed)
    commits = sorted({c.id for name in repo.branches for c in repo.log(name)})
    homes = [Home(kind, tmp_path / kind) for kind in KINDS]
    for number in range(6):
        since = rng.sample(commits, rng.randrange(0, 3))
        heads = rng.sample(commits, rng.randrange(1, 3))
        try:
            made = repo.bundle(tmp_path / "b", *heads, since=since)
        except InvalidInputError:
            continue
        assert verify_bundle(tmp_path / "b") == made
        for home in homes:
            other = Repo(shape=SMALL) if home.kind == "memory" else home.open(shape=SMALL)
            if made.prerequisites:
                first = io.BytesIO()
                repo.bundle(first, *made.prerequisites)
                first.seek(0)
                other.load_bundle(first, {c: f"p/{number}/{c}" for c in made.prerequisites})
            other.load_bundle(tmp_path / "b", {c: f"h/{number}/{c}" for c in heads}, force=True)
            for commit in heads:
                assert dict(other.snapshot(commit=commit).items()) == dict(
                    repo.snapshot(commit=commit).items()
                )
            assert faults(other) == []
            other.close()


# names


def test_names_may_be_chosen_and_changed(source, target, tmp_path):
    source.bundle(tmp_path / "all")
    target.load_bundle(tmp_path / "all", {"main": "theirs/main", "v1": "theirs-v1", "heads/dev": "heads/d"})
    assert target.branches["theirs/main"] == source.branches["main"]
    assert target.branches["d"] == source.branches["dev"]
    assert target.tags["theirs-v1"] == source.tags["v1"]
    assert "dev" not in target.branches
    assert len(target.snapshot(branch="main")) == 0, "it was not asked for"


def test_all_branches_may_go_below_a_prefix(source, target, tmp_path):
    source.bundle(tmp_path / "all")
    target.load_bundle(tmp_path / "all", {"*": "backup/*"})
    assert {name for name in target.branches if name != "main"} == {"backup/main", "backup/dev"}
    assert len(target.tags) == 0


def test_some_names_of_a_bundle(source, target, tmp_path):
    source.bundle(tmp_path / "all")
    target.load_bundle(tmp_path / "all", ["dev"])
    assert set(target.branches) == {"main", "dev"}
    assert faults(target) == []


def test_names_that_cannot_be(source, target, tmp_path):
    source.bundle(tmp_path / "all")
    before = state_of(target)
    with pytest.raises(NotFoundError, match="heads/dev"):
        target.load_bundle(tmp_path / "all", ["nope"])
    with pytest.raises(InvalidNameError):
        target.load_bundle(tmp_path / "all", {"main": "a..b"})
    with pytest.raises(InvalidInputError, match="two things"):
        target.load_bundle(tmp_path / "all", {"main": "x", "dev": "x"})
    with pytest.raises(InvalidInputError, match="mapping"):
        target.load_bundle(tmp_path / "all", "main")
    with pytest.raises(CommitNotFoundError):
        source.bundle(tmp_path / "none", "nobody")
    assert not (tmp_path / "none").exists()
    assert state_of(target) == before


def test_a_branch_that_went_another_way_is_left_alone_unless_forced(source, target, tmp_path):
    source.bundle(tmp_path / "all", "main", "v1")
    work = target.worktree()
    work["ours"] = 1
    ours = work.commit().commit
    before = state_of(target)["branches"]
    with pytest.raises(NotFastForwardError) as raised:
        target.load_bundle(tmp_path / "all")
    assert (raised.value.name, raised.value.old, raised.value.new) == (
        "heads/main", ours, source.branches["main"],
    )  # fmt: skip
    assert state_of(target)["branches"] == before
    assert dict(target.tags) == {}, "no ref moves unless all do"
    loaded = target.load_bundle(tmp_path / "all", force=True)
    assert target.branches["main"] == source.branches["main"]
    assert target.reflog()[0].why == "bundle: forced"
    assert target.reflog()[0].old == ours
    assert set(loaded.changed) == {"heads/main", "tags/v1"}
    assert faults(target) == []


def test_a_branch_ahead_of_the_bundle_is_left_alone(source, target, tmp_path):
    source.bundle(tmp_path / "all", "main")
    target.load_bundle(tmp_path / "all")
    work = target.worktree()
    work["more"] = 1
    work.commit()
    with pytest.raises(NotFastForwardError):
        target.load_bundle(tmp_path / "all")


def test_a_tag_never_moves(source, target, tmp_path):
    source.bundle(tmp_path / "all", "v1")
    target.tags.create("v1", at="main")
    for force in (False, True):
        with pytest.raises(TagExistsError):
            target.load_bundle(tmp_path / "all", force=force)
    target.load_bundle(tmp_path / "all", {"v1": "v1-theirs"})
    assert target.tags["v1-theirs"] == source.tags["v1"]


def test_a_loaded_branch_can_be_merged_and_worked_on(source, target, tmp_path):
    work = target.worktree()
    work["ours"] = 1
    work.commit()
    source.bundle(tmp_path / "all", "main")
    target.load_bundle(tmp_path / "all", {"main": "theirs"})
    assert work.merge(branch="theirs", default_merge=kvgit.OURS)
    assert work["ours"] == 1
    assert len(work) == len(source.snapshot()) + 1
    assert faults(target) == []


def test_what_is_there_already_is_shared(source, target, tmp_path):
    source.bundle(tmp_path / "v1", "v1")
    source.bundle(tmp_path / "all")
    target.load_bundle(tmp_path / "v1")
    loaded = target.load_bundle(tmp_path / "all")
    whole = verify_bundle(tmp_path / "all").object_count
    assert 0 < loaded.written_count < whole
    assert content(target) == content(source)
    assert faults(target) == []
    assert target.gc(keep_reflog=0).freed_count == 0


# parameters, files, codecs


@pytest.mark.parametrize(
    ("shape", "codec", "word"),
    [
        (Shape(bits=2, leaf_max=120, inline_max=64), None, "bits"),
        (Shape(bits=4, leaf_max=121, inline_max=64), None, "leaf_max"),
        (Shape(bits=4, leaf_max=120, inline_max=65), None, "inline_max"),
        (SMALL, "bytes", "codec"),
    ],
)
def test_a_store_of_other_parameters_is_refused(source, shape, codec, word, tmp_path):
    source.bundle(tmp_path / "all")
    other = Repo(shape=shape, codec=codec)
    before = state_of(other)
    with pytest.raises(FormatVersionError, match=word):
        other.load_bundle(tmp_path / "all")
    assert state_of(other) == before


def test_index_min_is_no_such_parameter(source):
    out = io.BytesIO()
    source.bundle(out)
    out.seek(0)
    other = Repo(shape=Shape(SMALL.bits, SMALL.leaf_max, SMALL.inline_max, index_min=10_000))
    other.load_bundle(out)
    assert content(other) == content(source)


class Pipe(io.RawIOBase):
    """A stream that cannot seek and gives what it likes of what is asked for."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        part = bytes(self.data[: min(size, 777)])
        del self.data[: len(part)]
        return part

    def write(self, data: Any) -> int:
        part = bytes(data)[:999]
        self.data += part
        return len(part)


def test_pipes_will_do(source, target):
    out = Pipe()
    source.bundle(out)
    target.load_bundle(Pipe(bytes(out.data)))
    assert content(target) == content(source)


def test_a_file_holds_the_old_bundle_or_the_new_one(source, tmp_path, monkeypatch):
    path = tmp_path / "b"
    source.bundle(path, "v1")
    old = path.read_bytes()

    def fail(phase: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        source.bundle(path, progress=fail)
    assert path.read_bytes() == old
    assert [each.name for each in tmp_path.iterdir()] == ["b"]
    source.bundle(path)
    assert path.read_bytes() != old


def test_a_damaged_object_does_not_go_into_a_bundle(tmp_path, monkeypatch):
    repo = Repo(shape=SMALL)
    work = repo.worktree()
    work.update({f"k{n}": n for n in range(100)})
    work.commit()
    real = bundle.sha256

    class Other:
        def __init__(self, data: bytes) -> None:
            self.data = data

        def digest(self) -> bytes:
            return real(self.data + b"x").digest()

    monkeypatch.setattr(bundle, "sha256", Other)
    with pytest.raises(CorruptionError):
        repo.bundle(tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_progress_is_told(source, target, tmp_path):
    wrote: list[tuple[str, int, int]] = []
    made = source.bundle(tmp_path / "b", progress=lambda *step: wrote.append(step))
    assert wrote[-1] == ("write", made.object_count, 0)
    read: list[tuple[str, int, int]] = []
    target.load_bundle(tmp_path / "b", progress=lambda *step: read.append(step))
    assert {total for _, _, total in read} == {made.byte_count}
    assert [done for _, done, _ in read] == sorted(done for _, done, _ in read)
    assert read[-1][1] > made.byte_count * 0.9


def test_an_empty_store_makes_a_bundle():
    out = io.BytesIO()
    made = Repo().bundle(out)
    assert (made.commit_count, made.object_count) == (1, 2)
    out.seek(0)
    assert Repo().load_bundle(out).changed == ()


def test_a_closed_repository_refuses(tmp_path):
    repo = Repo()
    repo.close()
    for call in (lambda: repo.bundle(tmp_path / "b"), lambda: repo.load_bundle(tmp_path / "b")):
        with pytest.raises(StateError):
            call()


def test_gc_during_a_bundle_takes_nothing_that_goes_in(source, tmp_path):
    repo = Repo(tmp_path / "store", shape=SMALL)
    fill(repo, commits=6)
    expected = content(repo)["heads/dev"]
    done = []

    def collect(phase: str, count: int, total: int) -> None:
        if not done:
            done.append(1)
            repo.branches.delete("dev")
            repo.gc(keep_reflog=0)

    repo.bundle(tmp_path / "b", "dev", progress=collect)
    other = Repo(shape=SMALL)
    other.load_bundle(tmp_path / "b")
    assert content(other)["heads/dev"] == expected
    repo.close()


# random access


def test_payloads_are_found_by_their_oid(source, tmp_path):
    made = source.bundle(tmp_path / "b")
    with BundlePayloads(tmp_path / "b") as payloads:
        commit = bytes.fromhex(source.branches["main"])
        payload = payloads.payload(commit)
        assert payload is not None
        assert oid_of(payload) == commit
        assert payload[0] == COMMIT_OBJECT
        assert payloads.payload(bytes(32)) is None
    frames = FrameReader(io.BytesIO((tmp_path / "b").read_bytes())).frames()
    objects = [frame for frame in frames if frame.kind == OBJECT]
    assert len(objects) == made.object_count
    with BundlePayloads(tmp_path / "b") as payloads:
        random.Random(1).shuffle(objects)
        for frame in objects:
            assert payloads.payload(frame.oid) == frame.payload
        with (tmp_path / "b").open("r+b") as file:
            file.seek(objects[0].offset)
            file.write(bytes(len(objects[0].payload)))
        with pytest.raises(CorruptionError):
            payloads.payload(objects[0].oid)
    with pytest.raises(CorruptionError):
        BundlePayloads(tmp_path / "b")


# memory


def test_a_spill_map_is_a_map(monkeypatch):
    rng = random.Random(4)
    plain: dict[bytes, bytes] = {}
    spilled = SpillMap(young_count=7)
    for _ in range(500):
        key, value = rng.randbytes(1) * 32, rng.randbytes(rng.randrange(9))
        plain[key] = value
        spilled.put(key, value)
        assert len(spilled._young) < 7
        look = rng.randbytes(1) * 32
        assert spilled.get(look) == plain.get(look)
        assert (look in spilled) == (look in plain)
    spilled.close()


def test_a_load_with_little_memory_gives_the_same(source, target, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle_spill.SpillMap.__init__, "__defaults__", (5,))
    source.bundle(tmp_path / "b")
    target.load_bundle(tmp_path / "b")
    monkeypatch.undo()
    source.bundle(tmp_path / "c")
    assert (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()
    assert content(target) == content(source)
    assert faults(target) == []
