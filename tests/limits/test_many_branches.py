"""Ten thousand branches: made, listed, opened and written at the price of ten."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest

from kvgit_hamt import Repo, verify_bundle
from kvgit_hamt.backend.lmdb import LmdbBackend
from tests.support.longline import create_branches
from tests.support.scale import pick, record

pytestmark = pytest.mark.slow

BRANCHES = pick(10_000, 100_000)
NAMES = [f"team-{number % 10}/b{number}" for number in range(BRANCHES)]


class Counting(LmdbBackend):
    """Counts the refs that are read one by one and those that are listed."""

    listed = got = 0

    def list_refs(self, prefix: str) -> list[tuple[str, bytes]]:
        found = super().list_refs(prefix)
        self.listed += len(found)
        return found

    def get_ref(self, name: str) -> bytes | None:
        self.got += 1
        return super().get_ref(name)

    def costs(self, repo: Repo, call: Any) -> tuple[int, int, int, int]:
        """(refs listed, refs read, nodes read, records written) of a call."""
        self.listed = self.got = 0
        before = repo.store.counters.copy()
        records = self.stats()["record_count"]
        call()
        done = repo.store.counters.since(before)
        return self.listed, self.got, done.nodes_read, self.stats()["record_count"] - records


def made(path: Any, names: list[str]) -> Repo:
    repo = Repo(Counting(path))
    work = repo.worktree()
    work.update({f"key/{number}": number for number in range(1_000)})
    work.commit()
    create_branches(repo, names)
    return repo


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repo]:
    with made(tmp_path_factory.mktemp("wide") / "store", NAMES) as repo:
        yield repo


def acts(repo: Repo) -> dict[str, Any]:
    """What users do with one branch."""
    name = "team-3/b3"

    def commit() -> None:
        work = repo.worktree(name)
        work["more"] = work.get("more", 0) + 1
        work.commit()
        work.close()

    def rename() -> None:
        repo.branches.rename(name, "other/name")
        repo.branches.rename("other/name", name)

    def create() -> None:
        repo.branches.create("one-more")
        repo.branches.delete("one-more")

    return {
        "open": lambda: repo.worktree(name).close(),
        "look up": lambda: repo.branches[name],
        "commit": commit,
        "create and delete": create,
        "rename": rename,
        "merge": lambda: repo.worktree("team-4/b4").merge(branch=name),
        "log": lambda: list(repo.log(name, limit=2)),
        "reflog": lambda: repo.reflog(name),
    }


def test_each_act_costs_what_it_costs_with_ten_branches(wide, tmp_path):
    with made(tmp_path / "ten", NAMES[:10]) as ten:
        few, many = ten.store.backend, wide.store.backend
        assert isinstance(few, Counting)
        assert isinstance(many, Counting)
        for act in acts(ten):
            cheap, dear = few.costs(ten, acts(ten)[act]), many.costs(wide, acts(wide)[act])
            assert dear == cheap, act
            assert dear[0] == 0, act


def test_an_act_that_lists_the_branches_would_be_found(wide):
    """The control."""
    backend = wide.store.backend
    assert isinstance(backend, Counting)
    assert backend.costs(wide, lambda: "x" in dict(wide.branches))[0] > BRANCHES


def test_they_are_listed_whole_and_by_prefix(wide):
    assert set(wide.branches) == {*NAMES, "main"}
    assert len(wide.branches) == BRANCHES + 1
    backend = wide.store.backend
    assert isinstance(backend, Counting)
    listed = backend.costs(wide, lambda: wide.refs.under("heads/team-3/"))[0]
    assert listed == BRANCHES // 10
    assert [name for name, _ in wide.refs.under("heads/team-3/b33")] == sorted(
        name.removeprefix("team-3/b33") for name in NAMES if name.startswith("team-3/b33")
    )


def test_upkeep_of_them_all(wide):
    for number in range(0, BRANCHES, BRANCHES // 100):
        work = wide.worktree(NAMES[number])
        work[f"mine/{number}"] = number
        work.commit()
        work.close()
    assert wide.gc(keep_reflog=0).kept_count > 200
    assert [*wide.check()] == []
    usage = wide.usage()
    assert len(usage) == BRANCHES + 1
    assert usage[f"heads/{NAMES[0]}"].exclusive_bytes > 0
    assert usage[f"heads/{NAMES[1]}"].exclusive_bytes == 0
    assert wide.stats()["branch_count"] == BRANCHES + 1


def test_a_bundle_of_them_all(wide):
    out = io.BytesIO()
    info = wide.bundle(out)
    assert len(info.refs) == BRANCHES + 1
    out.seek(0)
    assert verify_bundle(out) == info
    out.seek(0)
    other = Repo()
    assert len(other.load_bundle(out, {"*": "theirs/*"}).changed) == BRANCHES + 1
    assert {f"theirs/{name}": commit for name, commit in wide.branches.items()}.items() <= dict(
        other.branches
    ).items()
    record("LIM1 branches", branches=BRANCHES)
