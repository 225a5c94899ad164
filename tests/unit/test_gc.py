"""Garbage collection: what stays, what goes, and every way in which others may come in between."""

from __future__ import annotations

import contextlib
import sys
import threading

import pytest

import kvgit_hamt as kvgit
from kvgit_hamt import gc, history, node
from kvgit_hamt.backend.base import Batch
from kvgit_hamt.backend.kv import KvBackend
from kvgit_hamt.backend.lmdb import LmdbBackend
from kvgit_hamt.classic.kvstore import Memory
from kvgit_hamt.errors import CorruptionError, StaleBatchError
from kvgit_hamt.hamt import Editor, put_empty
from kvgit_hamt.node import INNER
from kvgit_hamt.objects import decode_log_entry
from kvgit_hamt.refs import CONFIG
from kvgit_hamt.run import make_run
from kvgit_hamt.store import Store
from tests.support.homes import KINDS, SMALL, Home

DAY = 86_400
MANY = {f"d{n % 7}/{n}": f"value {n}" * (1 + n % 5) for n in range(300)}
OTHER = {f"o/{n}": "x" * n for n in range(200)}


class Hooked:
    """A backend that runs a callback once, before the n-th call of a method."""

    def __init__(self, inner):
        self._inner = inner
        self._hooks = {}
        self.fired = []

    def before(self, name, action, call=1):
        self._hooks.setdefault(name, []).append([call, action])

    def __getattr__(self, name):
        found = getattr(self._inner, name)
        return (lambda *given: self._call(name, found, given)) if name in self._hooks else found

    def _call(self, name, method, given):
        for hook in self._hooks[name]:
            hook[0] -= 1
            if hook[0] == 0:
                self.fired.append(name)
                hook[1]()
        return method(*given)


@pytest.fixture(params=KINDS)
def home(request, tmp_path):
    home = Home(request.param, tmp_path)
    yield home
    home.close()


@pytest.fixture
def lmdb_home(tmp_path):
    home = Home("lmdb", tmp_path)
    yield home
    home.close()


def make(home, **content):
    return home.open(shape=SMALL, clock=home.clock, **content)


def hooked(home):
    """A repository of its own whose backend can be hooked."""
    backend = Hooked(home.backend())
    repo = kvgit.Repo(backend, clock=home.clock)
    home._handles.append(repo)
    return repo, backend


def commit(repo, branch="main", time=None, **entries):
    return put(repo, entries, branch, time)


def put(repo, entries, branch="main", time=None):
    worktree = repo.worktree(branch, create=True)
    worktree.update(entries)
    return worktree.commit(time=time).commit


def reachable(repo, keep_after_us=None):
    """Records that refs and reflogs reach, written a second time: (oid, loc) of each."""
    store, backend = repo.store, repo.store.backend
    oids = [value.oid for _, value in repo.refs.named()]
    for name in backend.reflog_names():
        for data in backend.read_reflog(name):
            entry = decode_log_entry(name, data)
            if keep_after_us is None or entry.time_us > keep_after_us:
                oids += [oid for oid in (entry.old, entry.new) if oid is not None]
    found = set()
    left = [("commit", (oid, backend.find("commit", oid))) for oid in oids]
    while left:
        what, link = left.pop()
        assert link[1] is not None, f"commit {link[0].hex()} is not in the index"
        if link in found:
            continue
        found.add(link)
        if what == "commit":
            read = store.read_commit(*link)
            left.append(("node", read.tree))
            for parent in read.parents:
                assert backend.find("commit", parent[0]) == parent[1], "a reachable commit has no index entry"
                left.append(("commit", parent))
        else:
            body = Store(backend, store.shape, 0).read(*link)
            if body[0] == INNER:
                columns = node.inner_children(body)
                left += [("node", pair) for pair in zip(columns.oids, columns.locs, strict=True)]
            else:
                for _, value in node.leaf_items(body):
                    if isinstance(value, node.BlobRef):
                        store.read_blob(value)
                        found.add((value.oid, value.loc))
    return found


def check(repo):
    """Everything that is held can be read, and is named by the indexes; how many records that is."""
    fresh = Store(repo.store.backend, repo.store.shape, 0)
    count = len(reachable(repo))
    for name in repo.branches:
        for entry in repo.log(name):
            dict(repo.snapshot(commit=entry.id))
    for kind in ("commit", "node"):
        after = b""
        while chunk := repo.store.backend.list_index(kind, after, 100):
            after = chunk[-1][0]
            for oid, loc in chunk:
                assert closed(fresh, kind, oid, loc), f"{kind} {oid.hex()} is named, but not all there"
    return count


def closed(store, kind, oid, loc):
    try:
        marker = gc.Marker(store, lambda count: None)
        if kind == "commit":
            marker.mark_commit(oid)
        else:
            marker.mark_tree((oid, loc))
    except CorruptionError:
        return False
    return True


def collect(repo, keep=0):
    result = repo.gc(keep_reflog=keep)
    assert check(repo) <= repo.stats()["record_count"]
    return result


# What stays and what goes


def test_what_nothing_reaches_goes_and_the_rest_stays(home):
    repo = make(home)
    first = put(repo, MANY)
    gone = put(repo, OTHER, "side")
    repo.branches.delete("side")
    before = repo.stats()["record_count"]
    result = collect(repo)
    assert result.freed_count > 0
    assert result.kept_count == repo.stats()["record_count"] == before - result.freed_count
    assert repo.stats()["record_count"] == len(reachable(repo))
    assert dict(repo.snapshot(commit=first)) == MANY
    with pytest.raises(kvgit.CommitNotFoundError):
        repo.snapshot(commit=gone)
    again = collect(repo)
    assert (again.freed_count, again.freed_bytes) == (0, 0)
    assert (again.kept_count, again.kept_bytes) == (result.kept_count, result.kept_bytes)


def test_a_dry_run_says_exactly_what_would_go_and_changes_nothing(home):
    repo = make(home)
    put(repo, MANY)
    put(repo, {"blob": "b" * 500, **OTHER}, "side")
    repo.branches.delete("side")
    before = list(repo.store.backend.iterate_records()), repo.reflog("side")
    dry = repo.gc(dry_run=True, keep_reflog=0)
    assert dry.dry_run
    assert (list(repo.store.backend.iterate_records()), repo.reflog("side")) == before
    real = repo.gc(keep_reflog=0)
    assert (dry.kept_count, dry.freed_count, dry.kept_bytes, dry.freed_bytes) == (
        real.kept_count, real.freed_count, real.kept_bytes, real.freed_bytes,
    )  # fmt: skip
    assert real.freed_count > 0


def test_the_reflog_keeps_what_was_reset_until_it_expires(home):
    repo = make(home)
    first = put(repo, MANY)
    second = commit(repo, more=1)
    repo.worktree().reset(first)
    collect(repo, keep=1_000)
    repo.worktree().reset(second)  # the undo
    assert repo.snapshot()["more"] == 1
    repo.worktree().reset(first)
    home.ticks += 10 * DAY
    assert collect(repo, keep=11 * DAY).freed_count == 0
    assert collect(repo, keep=9 * DAY).freed_count > 0
    assert repo.reflog() == []
    with pytest.raises(kvgit.CommitNotFoundError):
        repo.get_commit(second)


def test_a_deleted_branch_and_a_deleted_tag_come_back_from_the_reflog(home):
    repo = make(home)
    tip = put(repo, MANY, "side")
    repo.tags.create("v1", at="side")
    repo.branches.delete("side")
    repo.tags.delete("v1")
    collect(repo, keep=DAY)
    repo.branches.create("again", at=tip)
    assert dict(repo.snapshot(branch="again")) == MANY
    repo.branches.delete("again")
    collect(repo)
    with pytest.raises(kvgit.CommitNotFoundError):
        repo.branches.create("late", at=tip)


def test_a_tag_and_an_annotated_tag_hold_their_commits(home):
    repo = make(home)
    put(repo, MANY, "side")
    repo.tags.create("v1", at="side", info={"by": "me"})
    repo.branches.delete("side")
    collect(repo)
    assert dict(repo.snapshot(tag="v1")) == MANY


def test_open_views_of_the_repository_are_kept(home):
    repo = make(home)
    put(repo, MANY, "side")
    snapshot, worktree = repo.snapshot(branch="side"), repo.worktree("side")
    repo.branches.delete("side")
    collect(repo)
    assert dict(snapshot) == dict(worktree) == MANY
    snapshot.close()
    assert collect(repo).freed_count == 0  # the worktree is still open
    worktree.close()
    assert collect(repo).freed_count > 0


def test_views_that_were_dropped_keep_nothing(home):
    repo = make(home)
    put(repo, MANY, "side")
    keys = repo.snapshot(branch="side").keys()
    repo.branches.delete("side")
    assert collect(repo).freed_count == 0  # the view of its keys still has it
    assert len(list(keys)) == len(MANY)
    del keys
    assert collect(repo).freed_count > 0


def test_what_another_process_collected_stops_no_gc(home):
    """The other process knows nothing of this one's open worktree; it is of no use any more."""
    mine, other = make(home), make(home)
    put(mine, MANY, "side")
    worktree = mine.worktree("side")
    other.branches.delete("side")
    assert collect(other).freed_count > 0
    assert worktree.base not in [entry.id for entry in mine.log()]
    assert collect(mine).freed_count == 0


def test_gc_of_a_fresh_store_frees_nothing(home):
    repo = make(home)
    assert collect(repo).freed_count == 0


def test_a_store_whose_initial_commit_went_still_makes_branches(home):
    repo = make(home)
    writer = repo.store.writer()
    tree = a_tree(writer, repo)
    root = history.put_commit(writer, tree, (), history.CommitMeta(None, {"root": True}, "msgpack"))
    head = repo.branches.head("main")
    writer.publish([repo.refs.update("heads/main", head, type(head)(root.oid), "rebase")])
    assert collect(repo).freed_count > 0
    assert len(repo.worktree("fresh", create=True)) == 0
    assert commit(repo, "fresh", a=1)


def a_tree(writer, repo):
    entries = [(key.encode(), repo.codec.encode(value)) for key, value in MANY.items()]
    return Editor(writer, writer.shape).apply(put_empty(writer), make_run(writer.shape, entries))


# The reflog's clock


def test_moves_made_while_the_clock_stood_still_are_all_seen(home):
    """Equal entries: the newest says nothing about what came before it."""
    home.clock = lambda: 1_000_000
    repo = make(home)
    one, two = commit(repo, n=1), commit(repo, n=2)
    repo.worktree().reset(one)
    repo.worktree().reset(two)
    collector, backend = hooked(home)
    lost = []

    def others():
        worktree = repo.worktree()
        lost.append(put(repo, MANY))
        worktree = repo.worktree()
        worktree.reset(one)
        worktree.reset(two)  # as the newest entry was before

    put(repo, OTHER, "side")
    repo.branches.delete("side")
    repo.store.backend.sweep(lambda sweep: sweep.trim_reflog("heads/side", 0))
    backend.before("sweep", others)
    assert collector.gc(keep_reflog=DAY).freed_count > 0
    assert dict(repo.snapshot(commit=lost[0])).items() >= MANY.items()
    collect(repo, keep=DAY)


def test_a_move_at_a_wrong_time_lets_no_other_expire(home):
    repo = make(home)
    home.ticks = 100 * DAY
    first = put(repo, MANY)
    home.ticks = 0  # as if it were 1970 again
    second = commit(repo, n=1)
    home.ticks = 100 * DAY + 60
    repo.worktree().reset(first)
    repo.worktree().reset(repo.log().__next__().parents[0])
    home.ticks = 0
    commit(repo, n=2)
    home.ticks = 100 * DAY + 3_600
    assert collect(repo, keep=DAY).freed_count == 0
    assert dict(repo.snapshot(commit=second)).items() >= MANY.items()


def test_a_clock_that_went_back_lets_nothing_expire(home):
    repo = make(home)
    home.ticks = 100 * DAY
    put(repo, MANY, "side")
    repo.branches.delete("side")
    home.ticks = 0
    assert collect(repo, keep=0).freed_count == 0


# Damage


def damage_of(repo, what):
    """An inner node, a leaf root or a commit that is reachable."""
    store = repo.store
    head = store.read_commit(repo.branches.head("main").oid)
    if what == "commit":
        return head.oid, head.loc
    if what == "parent":
        return head.parents[0]
    body = store.read(*head.tree)
    if what == "root":
        return head.tree
    columns = node.inner_children(body)
    inner = [
        (oid, loc)
        for oid, loc, count, size in zip(
            columns.oids, columns.locs, columns.counts, columns.sizes, strict=True
        )
        if not SMALL.is_leaf(count, size)
    ]
    return inner[0]


@pytest.mark.parametrize("how", ["missing", "altered"])
@pytest.mark.parametrize("what", ["commit", "parent", "root", "inner"])
def test_a_fault_in_what_is_reachable_stops_gc_before_it_deletes(home, what, how):
    repo = make(home)
    commit(repo, one=1)
    put(repo, MANY)
    put(repo, OTHER, "side")
    repo.branches.delete("side")
    oid, loc = damage_of(repo, what)
    repo.store.cache.clear()
    backend = repo.store.backend
    record = backend.read(oid, loc)
    backend.sweep(lambda sweep: sweep.delete_record(loc or oid))
    if how == "altered":
        place(home, backend, oid, loc, bytes([record[0] ^ 1]) + record[1:])
    before = list(backend.iterate_records()), backend.reflog_names()
    for dry_run in (True, False):
        with pytest.raises(CorruptionError):
            repo.gc(keep_reflog=0, dry_run=dry_run)
    assert (list(backend.iterate_records()), backend.reflog_names()) == before


def place(home, backend, oid, loc, record):
    if home.kind == "memory":
        backend._inner._records[oid] = record
        return
    env, tables = backend._session
    with env.begin(write=True) as txn:
        txn.put(loc, record, db=tables.records)


def test_a_leaf_root_that_is_missing_stops_gc(home):
    repo = make(home)
    commit(repo, one=1)
    head = repo.store.read_commit(repo.branches.head("main").oid)
    oid, loc = head.tree
    repo.store.backend.sweep(lambda sweep: sweep.delete_record(loc or oid))
    with pytest.raises(CorruptionError):
        repo.gc(keep_reflog=0)


# Others come in between


STEPS = ["version", "next_place", "pending_floor", "list_refs", "reflog_names", "list_index", "list_records"]


@pytest.fixture(params=STEPS + [f"sweep {n}" for n in (1, 2, 3, 4, 5, 6)])
def moment(request):
    name, _, number = request.param.partition(" ")
    return name, int(number or 1)


def garbage(repo):
    """Unreachable: a branch with blobs and large nodes, and its head's id."""
    tip = put(repo, {**MANY, "blob": "b" * 900}, "side")
    repo.branches.delete("side")
    return tip


def test_a_commit_in_between_is_kept(home, moment):
    repo = make(home)
    put(repo, OTHER)
    garbage(repo)
    collector, backend = hooked(home)
    backend.before(moment[0], lambda: put(repo, MANY), moment[1])
    collector.gc(keep_reflog=0)
    if moment[0] in backend.fired:  # not every store takes so many steps
        assert dict(repo.snapshot()) == {**OTHER, **MANY}
    check(repo)


def attempt(call):
    """Whether it worked: garbage may be refused, or used whole."""
    try:
        call()
    except (kvgit.CommitNotFoundError, CorruptionError, kvgit.BranchNotFoundError):
        return False
    return True


USES = {
    "branch": lambda repo, tip: repo.branches.create("used", at=tip),
    "tag": lambda repo, tip: repo.tags.create("used", at=tip),
    "reset": lambda repo, tip: repo.worktree("work").reset(tip),
    "merge": lambda repo, tip: repo.worktree("work").merge(commit=tip, on_conflict="abandon"),
    "no fast forward": lambda repo, tip: repo.worktree("work").merge(commit=tip, fast_forward=False),
    "cherry-pick": lambda repo, tip: repo.worktree("work").cherry_pick(tip),
    "the same again": lambda repo, tip: put(repo, {**MANY, "blob": "b" * 900}, "work"),
    "the blob again": lambda repo, tip: commit(repo, "work", other="b" * 900),
    "load": lambda repo, tip: repo.worktree("work").load({**MANY, "more": 1}, time=None),
}


@pytest.mark.parametrize("moment", [("list_refs", 1), *[("sweep", number) for number in (1, 2, 3, 5)]])
@pytest.mark.parametrize("use", USES)
def test_garbage_that_is_taken_up_again_in_between_is_whole_or_refused(home, moment, use):
    repo = make(home)
    put(repo, OTHER)
    tip = garbage(repo)
    repo.worktree("work", create=True)
    collector, backend = hooked(home)
    backend.before(moment[0], lambda: attempt(lambda: USES[use](repo, tip)), moment[1])
    collector.gc(keep_reflog=0)
    check(repo)
    collect(repo)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("died_at", [2, 4])
def test_after_a_gc_that_died_garbage_is_whole_or_refused(home, died_at, use):
    repo = make(home)
    for n in range(3):
        commit(repo, "side", **{f"n{n}": n})
    tip = garbage(repo)
    repo.worktree("work", create=True)
    collector, backend = hooked(home)
    backend.before("sweep", die, died_at)
    with contextlib.suppress(Death):
        collector.gc(keep_reflog=0)
    attempt(lambda: USES[use](repo, tip))
    check(repo)
    collect(repo)


@pytest.mark.parametrize("died_at", range(1, 9))
def test_after_a_gc_of_a_key_value_store_that_died_garbage_is_whole_or_refused(
    died_at, monkeypatch, tmp_path
):
    """There the record is its own index entry, so it must lose its name before any record goes."""
    monkeypatch.setattr(gc, "STEP", 5)
    kv = Memory()
    home = Home("memory", tmp_path)
    repo = kvgit.Repo(KvBackend(kv), shape=SMALL, clock=home.clock)
    repo.worktree("work", create=True)
    tips = [commit(repo, "side", **{f"{n}/{i}": i for i in range(30)}) for n in range(4)]
    repo.branches.delete("side")
    backend = Hooked(repo.store.backend)
    backend.before("sweep", die, died_at)
    with contextlib.suppress(Death):
        kvgit.Repo(backend, clock=home.clock).gc(keep_reflog=0)
    for number, tip in enumerate(tips):
        attempt(lambda tip=tip, number=number: repo.branches.create(f"back{number}", at=tip))
    check(repo)
    collect(repo)


class Death(BaseException):
    pass


def die():
    raise Death


def test_commits_go_before_their_parents(home, monkeypatch):
    """Else a branch made at the child in between would have a history that nobody can name."""
    monkeypatch.setattr(gc, "STEP", 1)
    repo = make(home)
    tips = [commit(repo, "side", **{f"n{n}": n}) for n in range(12)]
    repo.branches.delete("side")
    collector, backend = hooked(home)
    backend.before("sweep", lambda: attempt(lambda: repo.branches.create("back", at=tips[5])), 8)
    collector.gc(keep_reflog=0)
    check(repo)
    for tip in tips[:6]:
        assert repo.get_commit(tip)
    assert not attempt(lambda: repo.get_commit(tips[8]))


def test_two_gcs_at_once_with_different_mercy_fail_nobody(home, moment):
    """One sees a reset commit in the reflog; the other, which keeps none, takes it away meanwhile."""
    repo = make(home)
    first = put(repo, OTHER)
    put(repo, MANY)
    repo.worktree().reset(first)
    patient, backend = hooked(home)
    hasty = make(home)
    backend.before(moment[0], lambda: hasty.gc(keep_reflog=0), moment[1])
    patient.gc(keep_reflog=1_000)
    check(repo)
    assert dict(repo.snapshot()) == OTHER


@pytest.mark.parametrize("call", [1, 4, 8, 16, 32, 64, 90])
def test_a_gc_inside_the_mark_of_another_fails_nobody(home, call):
    """It takes what the first has seen held, and is about to read."""
    repo = make(home)
    first = commit(repo, one=1)
    put(repo, {**MANY, **OTHER})
    repo.worktree().reset(first)
    hasty = make(home)
    patient, backend = hooked(home)
    backend.before("read", lambda: hasty.gc(keep_reflog=0), call)
    patient.gc(keep_reflog=1_000)
    assert backend.fired
    check(repo)
    assert dict(repo.snapshot()) == {"one": 1}


def test_real_damage_is_reported_though_others_write(home):
    repo = make(home)
    put(repo, MANY)
    oid, loc = damage_of(repo, "inner")
    repo.store.backend.sweep(lambda sweep: sweep.delete_record(loc or oid))
    collector, backend = hooked(home)
    backend.before("read", lambda: commit(repo, "side", a=1), 2)
    with pytest.raises(CorruptionError):
        collector.gc(keep_reflog=0)


def test_what_was_freed_counts_only_what_this_gc_deleted(home):
    repo = make(home)
    put(repo, OTHER)
    garbage(repo)
    collector, backend = hooked(home)
    other = make(home)
    freed = []
    backend.before("list_records", lambda: None, 1)
    backend.before("sweep", lambda: freed.append(other.gc(keep_reflog=0)), 3)
    result = collector.gc(keep_reflog=0)
    assert freed[0].freed_count > 0
    assert result.freed_count == 0 == result.freed_bytes


def test_progress_is_told_and_may_write_or_stop(home):
    repo = make(home)
    put(repo, OTHER)
    garbage(repo)
    seen = []

    def progress(phase, done, total):
        seen.append((phase, done, total))
        commit(repo, "busy", n=len(seen))  # under the write lock it would be lost or wait for ever

    repo.gc(keep_reflog=0, progress=progress)
    assert {phase for phase, _, _ in seen} == {"mark", "sweep"}
    check(repo)

    def stop(phase, done, total):
        if phase == "sweep":
            raise KeyboardInterrupt

    garbage(repo)
    with pytest.raises(KeyboardInterrupt):
        repo.gc(keep_reflog=0, progress=stop)
    check(repo)
    collect(repo)


# Places: a commit that was collected and made again lies elsewhere


def test_a_worktree_over_a_commit_that_was_made_again_goes_on(home):
    """With time=None equal commits have equal ids, so the branch seems not to have moved."""
    repo, other = make(home), make(home)
    start = repo.branches["main"]
    tip = put(repo, MANY)
    mine = repo.worktree()
    other.worktree().reset(start)
    assert collect(other).freed_count > 0
    assert put(other, MANY) == tip
    mine["more"] = 1
    mine.commit()
    check(repo)
    assert dict(mine) == {**MANY, "more": 1}
    collect(other)
    assert dict(repo.snapshot()) == {**MANY, "more": 1}


def test_a_commit_made_twice_is_stored_once(home):
    repo, other = make(home), make(home)
    start = repo.branches["main"]
    tip = put(repo, MANY)
    mine, snapshot = repo.worktree(), repo.snapshot()
    other.worktree().reset(start)
    assert put(other, MANY) == tip
    collect(other, keep=1_000)
    assert dict(mine) == dict(snapshot) == MANY
    mine["more"] = 1
    mine.commit()
    check(repo)
    collect(other)
    assert dict(repo.snapshot()) == {**MANY, "more": 1}


def test_a_refresh_finds_the_commit_where_it_lies_now(home):
    repo, other = make(home), make(home)
    start = repo.branches["main"]
    put(repo, MANY)
    mine = repo.worktree()
    other.worktree().reset(start)
    collect(other)
    put(other, MANY)
    mine.refresh()
    assert dict(mine) == MANY


def test_of_two_writers_that_make_the_same_commit_at_once_both_are_served(lmdb_home):
    repo = make(lmdb_home)
    other, backend = hooked(lmdb_home)
    backend.before("publish", lambda: put(repo, MANY, "twin", time=5))
    put(repo, {}, "twin")
    repo.branches.create("second", at="main")
    tip = put(other, MANY, "second", time=5)
    assert repo.branches["twin"] == tip
    collect(repo)
    assert repo.stats()["commit_count"] == 2


# Loads


def small_loads(monkeypatch):
    monkeypatch.setattr(sys.modules[Store.__module__], "FLUSH_BYTES", 2_000)


def with_gc(items, repo, at, keep=0):
    """The items, with a collection in the middle."""
    for number, item in enumerate(items):
        if number == at:
            repo.gc(keep_reflog=keep)
        yield item


def big(start, count=400):
    return [(f"k/{n}", f"{n} " * 100) for n in range(start, start + count)]


def test_a_load_is_spared_while_it_writes(home, monkeypatch):
    small_loads(monkeypatch)
    monkeypatch.setattr("kvgit_hamt.branch_stage.LOAD_STEP", 50)
    repo, other = make(home), make(home)
    put(repo, OTHER)
    garbage(repo)
    repo.worktree().load(with_gc(big(0), other, 200))
    check(repo)
    assert len(repo.snapshot()) == 400 + len(OTHER)


@pytest.mark.parametrize("step", ["next_place", "pending_floor", "stats", "version", "list_refs"])
def test_a_load_that_begins_with_the_mark_is_spared(home, monkeypatch, step):
    small_loads(monkeypatch)
    monkeypatch.setattr("kvgit_hamt.branch_stage.LOAD_STEP", 50)
    repo = make(home)
    put(repo, OTHER)
    garbage(repo)
    collector, backend = hooked(home)
    load = paused_load(repo, big(0), 200)
    backend.before(step, lambda: next(load))
    collector.gc(keep_reflog=0)
    for _ in load:
        pass
    check(repo)
    assert len(repo.snapshot()) == 400 + len(OTHER)


def paused_load(repo, items, at):
    """Begins a load in a thread, pauses it at an item, and ends it when asked again."""
    reached, go_on, faults = threading.Event(), threading.Event(), []

    def source():
        for number, item in enumerate(items):
            if number == at:
                reached.set()
                go_on.wait(60)
            yield item

    def work():
        try:
            repo.worktree().load(source())
        except BaseException as error:
            faults.append(error)
            reached.set()

    thread = threading.Thread(target=work)
    thread.start()
    reached.wait(60)
    yield
    go_on.set()
    thread.join(60)
    if faults:
        raise faults[0]


def test_a_load_that_failed_is_collected(lmdb_home, monkeypatch):
    small_loads(monkeypatch)
    monkeypatch.setattr("kvgit_hamt.branch_stage.LOAD_STEP", 50)
    repo = make(lmdb_home)
    put(repo, OTHER)
    count = repo.stats()["record_count"]

    def broken():
        yield from big(0)
        raise OSError("the source broke")

    with pytest.raises(OSError, match="source"):
        repo.worktree().load(broken())
    assert repo.stats()["record_count"] > count
    assert collect(repo).freed_count > 0
    assert repo.stats()["record_count"] == count == len(reachable(repo))


@pytest.mark.parametrize("part", [0.3, 0.6])
def test_what_a_failed_load_shared_is_not_found_through_it(lmdb_home, monkeypatch, part):
    """Its nodes were spared and those it shared were not: nobody may build on them by their oid."""
    small_loads(monkeypatch)
    monkeypatch.setattr("kvgit_hamt.branch_stage.LOAD_STEP", 20)
    repo, other = make(lmdb_home), make(lmdb_home)
    start = repo.branches["main"]
    data = {f"k/{n:04}": f"{n} " * 6 for n in range(3_000)}
    put(repo, data)
    repo.worktree().reset(start)  # garbage now, but found by oid until it is collected
    more = {**data, **{f"k/more{n}": "new" * 10 for n in range(60)}}
    freed = []

    def collecting(phase, done, total):
        if phase == "build" and not freed and done > part * len(more):
            assert repo.store.counters.nodes_shared > 0
            freed.append(other.gc(keep_reflog=0).freed_count)

    with pytest.raises(StaleBatchError):
        repo.worktree().load(more, memory_bytes=2_000, progress=collecting)
    assert freed[0] > 0
    repo.worktree().load(more)
    check(repo)
    assert dict(repo.snapshot()) == more
    collect(other)
    assert dict(repo.snapshot()) == more


def test_a_load_onto_a_branch_that_went_leaves_nothing_dangling(home, monkeypatch):
    small_loads(monkeypatch)
    monkeypatch.setattr("kvgit_hamt.branch_stage.LOAD_STEP", 20)
    repo, other = make(home), make(home)
    put(repo, {f"k/{n:04}": f"{n} " * 20 for n in range(600)}, "side")

    def source():
        for number, item in enumerate(big(300)):
            if number == 200:
                other.branches.delete("side")
                other.gc(keep_reflog=0)
            yield item

    worktree = repo.worktree("side")
    with pytest.raises((kvgit.BranchMovedError, CorruptionError)):
        worktree.load(source())
    check(repo)
    collect(repo)


# Forks, threads and handles


def test_a_worktree_in_another_handle_keeps_its_edits_when_its_base_went(home):
    mine, other = make(home), make(home)
    start = mine.branches["main"]
    put(mine, MANY)
    worktree = mine.worktree()
    worktree["mine"] = 1
    other.worktree().reset(start)
    collect(other)
    with pytest.raises(kvgit.StateError, match="collected"):
        worktree.commit()
    assert worktree["mine"] == 1
    check(other)
    worktree.refresh()
    assert worktree.commit()
    assert dict(other.snapshot()) == {"mine": 1}
    collect(other)


def test_marks_take_memory_for_what_lives_not_for_places_ever_given():
    marks = gc.Marks(True)
    for place in (1, 2, 10**12, 10**15):
        assert marks.add(b"", place.to_bytes(8, "little"))
        assert not marks.add(b"", place.to_bytes(8, "little"))
    assert marks.count == 4
    assert marks.holds((10**12).to_bytes(8, "little"))
    assert not marks.holds((10**12 + 1).to_bytes(8, "little"))
    assert sum(map(len, marks._blocks.values())) <= 4 * 1_024


def test_options_are_checked(home):
    repo = make(home)
    for wrong in (-1, "1", True, float("nan")):
        with pytest.raises(kvgit.InvalidInputError):
            repo.gc(keep_reflog=wrong)
    repo.close()
    with pytest.raises(kvgit.ClosedError):
        repo.gc()


def test_a_store_that_only_reads_can_be_asked_what_would_go(lmdb_home):
    repo = make(lmdb_home)
    put(repo, OTHER)
    garbage(repo)
    repo.close()
    with kvgit.Repo(LmdbBackend(lmdb_home.path, readonly=True), clock=lmdb_home.clock) as reader:
        assert reader.gc(dry_run=True, keep_reflog=0).freed_count > 0
        with pytest.raises(kvgit.ReadOnlyError):
            reader.gc(keep_reflog=0)


def test_the_description_of_the_store_stays(home):
    repo = make(home)
    repo.store.backend.publish(Batch(meta={"m": b"1"}))
    collect(repo)
    assert repo.store.backend.get_ref(CONFIG) is not None
    assert repo.store.backend.get_meta("m") == b"1"
