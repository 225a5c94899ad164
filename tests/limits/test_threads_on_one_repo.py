"""Eight threads on one Repo: everything at once, also while it is closed under them."""

from __future__ import annotations

import io
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

import kvgit_hamt as kvgit
from kvgit_hamt import Repo, refs
from kvgit_hamt.backend.base import Batch
from kvgit_hamt.backend.lmdb import LmdbBackend
from kvgit_hamt.backend.memory import MemoryBackend
from kvgit_hamt.errors import (
    BranchMovedError,
    ClosedError,
    CommitNotFoundError,
    ExistsError,
    KvgitHamtError,
    NotFastForwardError,
    NotFoundError,
    StateError,
)
from kvgit_hamt.mergefns import counter
from tests.support.scale import pick, record

THREADS = 8
ROUNDS = pick(25, 400)
PATIENCE_S = 300


@dataclass
class Tally:
    """What threads did and what went wrong."""

    wrong: list[BaseException] = field(default_factory=list)
    added: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, count: int) -> None:
        with self.lock:
            self.added += count


Act = Callable[[Repo, random.Random, Tally], None]


def count_up(repo: Repo, rng: random.Random, tally: Tally) -> None:
    work = repo.worktree()
    step = rng.getrandbits(40)  # two who add the same to the same would agree, and be one change
    work["hits"] = work.get("hits", 0) + step
    assert work.commit(merge_fns={"hits": counter()})
    tally.add(step)
    work.close()


def own_keys(repo: Repo, rng: random.Random, tally: Tally) -> None:
    name = threading.current_thread().name
    work = repo.worktree()
    done = work.get(f"{name}/done", 0) + 1
    work.update({f"{name}/done": done, f"{name}/{done}": "x" * rng.randrange(1_200)})
    assert work.commit()
    assert repo.snapshot(commit=work.base)[f"{name}/done"] == done
    work.close()


def branch_off(repo: Repo, rng: random.Random, tally: Tally) -> None:
    name = f"b{rng.randrange(4)}"
    kind = rng.randrange(4)
    if kind == 0:
        repo.branches.create(name)
    elif kind == 1:
        repo.branches.delete(name)
    elif kind == 2:
        work = repo.worktree(name)
        work[f"branch/{rng.randrange(50)}"] = rng.randrange(9)
        work.commit(default_merge=kvgit.OURS)
        work.close()
    else:
        repo.branches.rename(name, f"b{rng.randrange(4)}")


def merge_in(repo: Repo, rng: random.Random, tally: Tally) -> None:
    work = repo.worktree()
    work.merge(branch=f"b{rng.randrange(4)}", merge_fns={"hits": counter()}, default_merge=kvgit.THEIRS)
    work.close()


def look(repo: Repo, rng: random.Random, tally: Tally) -> None:
    snapshot = repo.snapshot()
    first = dict(snapshot.items())
    assert dict(snapshot.items()) == first
    assert len(snapshot) == len(first)
    commits = list(repo.log(snapshot.id, limit=20))
    assert [c.generation for c in commits] == sorted((c.generation for c in commits), reverse=True)
    list(repo.diff(commits[-1].id, snapshot.id))
    assert set(repo.branches) >= {"main"}


def collect(repo: Repo, rng: random.Random, tally: Tally) -> None:
    repo.gc(keep_reflog=0 if rng.randrange(2) else None)
    repo.stats()
    repo.reflog(limit=5)


def carry(repo: Repo, rng: random.Random, tally: Tally) -> None:
    out = io.BytesIO()
    info = repo.bundle(out, "main")
    out.seek(0)
    with Repo() as other:
        other.load_bundle(out)
        assert other.branches["main"] == info.refs["heads/main"]
    out.seek(0)
    try:
        repo.load_bundle(out, {"main": f"b{rng.randrange(4)}"}, force=True)
    except StateError as error:
        if "another thread" not in str(error):
            raise


def tag(repo: Repo, rng: random.Random, tally: Tally) -> None:
    name = f"v{rng.randrange(5)}"
    if rng.randrange(2):
        repo.tags.create(name, info={"n": 1})
    else:
        repo.tags.delete(name)


ACTS: tuple[Act, ...] = (count_up, own_keys, branch_off, merge_in, look, collect, carry, tag)
EXPECTED = (ExistsError, NotFoundError, BranchMovedError, NotFastForwardError)


def run(repo: Repo, tally: Tally, rounds: int, acts: tuple[Act, ...], is_closing: bool = False) -> None:
    """Eight threads, each of which does each act about so many times, in an order of its own."""
    start = threading.Barrier(THREADS)
    may_be = (*EXPECTED, ClosedError, StateError) if is_closing else EXPECTED

    def work(number: int) -> None:
        rng = random.Random(number)
        start.wait(PATIENCE_S)
        for _ in range(rounds):
            for act in rng.sample(acts, len(acts)):
                try:
                    act(repo, rng, tally)
                except may_be as error:
                    if isinstance(error, ClosedError):
                        return
                except BaseException as error:
                    tally.wrong.append(error)
                    return

    threads = [threading.Thread(target=work, args=(n,), name=f"t{n}") for n in range(THREADS)]
    for thread in threads:
        thread.start()
    if is_closing:
        time.sleep(0.05)
        repo.close()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "a thread hangs"


def seeded(where: Any) -> Repo:
    repo = Repo(where)
    work = repo.worktree()
    work["hits"] = 0
    work.commit()
    work.close()
    for number in range(4):
        repo.branches.create(f"b{number}")
    return repo


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["memory", "lmdb"])
def test_everything_at_once(kind, tmp_path):
    repo = seeded(None if kind == "memory" else tmp_path / "store")
    tally = Tally()
    run(repo, tally, max(3, ROUNDS // 5), ACTS)
    assert tally.wrong == []
    assert [*repo.check()] == []
    found = repo.snapshot()
    for number in range(THREADS):
        done = found[f"t{number}/done"]
        assert done == max(3, ROUNDS // 5)
        assert all(f"t{number}/{n}" in found for n in range(1, done + 1))
    record("LIM5 threads", rounds=THREADS * max(3, ROUNDS // 5) * len(ACTS), wrong=len(tally.wrong))
    repo.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["memory", "lmdb"])
def test_no_count_is_lost(kind, tmp_path):
    repo = seeded(None if kind == "memory" else tmp_path / "store")
    tally = Tally()
    run(repo, tally, ROUNDS, (count_up, look))
    assert tally.wrong == []
    assert repo.snapshot()["hits"] == tally.added > 0
    repo.close()


class Blind(LmdbBackend):
    """Moves refs without comparing."""

    def publish(self, batch: Batch) -> int:
        time.sleep(0.001)
        refs = [replace_old(update, self.get_ref(update.name)) for update in batch.refs]
        return super().publish(replace(batch, refs=refs))


def replace_old(update: Any, old: bytes | None) -> Any:
    return update._replace(old=old)


@pytest.mark.slow
def test_without_compare_and_set_counts_are_lost(tmp_path):
    """The control."""
    seeded(tmp_path / "store").close()
    repo = Repo(Blind(tmp_path / "store"))
    tally = Tally()
    run(repo, tally, 10, (count_up,))
    assert repo.snapshot()["hits"] != tally.added
    repo.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["memory", "lmdb"])
def test_closing_under_them_raises_only_what_is_documented(kind, tmp_path):
    for number in range(pick(6, 60)):
        path = tmp_path / f"store{number}"
        repo = seeded(None if kind == "memory" else path)
        tally = Tally()
        run(repo, tally, 10_000, ACTS, is_closing=True)
        assert tally.wrong == []
        if kind == "lmdb":
            with Repo(path) as again:
                assert [*again.check()] == []
                assert again.snapshot()["hits"] >= 0


def test_what_was_opened_from_it_is_closed_with_it(tmp_path: Path):
    repo = seeded(tmp_path / "store")
    work, snapshot = repo.worktree(), repo.snapshot()
    walk = iter(snapshot.items())
    repo.close()
    calls: list[Callable[[], Any]] = [
        lambda: work["hits"], lambda: snapshot["hits"], lambda: next(walk), lambda: repo.branches["main"],
        lambda: repo.gc(), lambda: repo.bundle(io.BytesIO()), lambda: repo.copy(tmp_path / "copy"),
        lambda: work.commit(info={"x": 1}), lambda: list(repo.log()), lambda: repo.check(),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises((ClosedError, StopIteration)):
            call()
    assert issubclass(ClosedError, KvgitHamtError)


def test_what_is_read_while_the_store_is_closed_is_not_taken_for_missing():
    class Overtaken(MemoryBackend):
        is_overtaken = False

        def _check_open(self) -> None:
            super()._check_open()
            if self.is_overtaken:
                threading.Thread(target=self.close).start()
                time.sleep(0.01)

    backend = Overtaken()
    repo = Repo(backend)
    oid = repo.resolve_commit("main").oid
    backend.is_overtaken = True
    assert backend.read(oid, b"") is not None
    for call in (
        lambda: backend.read(oid, b""),
        lambda: backend.read_many([(oid, b"")]),
        lambda: backend.get_ref("heads/main"),
    ):
        with pytest.raises(ClosedError):
            call()


@pytest.mark.parametrize("how", ["create", "rename"])
def test_a_commit_that_is_collected_just_now_is_not_found(how, tmp_path, monkeypatch):
    repo = seeded(tmp_path / "store")
    work = repo.worktree("b1")
    work["x"] = 1
    commit = work.commit().commit
    work.close()
    real = refs.Refs.publish

    def publish(self: Any, *arguments: Any) -> None:
        monkeypatch.undo()
        repo.branches.delete("b1")
        repo.gc(keep_reflog=0)
        real(self, *arguments)

    monkeypatch.setattr(refs.Refs, "publish", publish)
    with pytest.raises(CommitNotFoundError, match="collected"):
        if how == "create":
            repo.branches.create("new", at=commit)
        else:
            repo.branches.rename("b1", "new")
    assert "new" not in repo.branches
    repo.close()
