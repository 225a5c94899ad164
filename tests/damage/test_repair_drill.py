"""C8: damage of every kind, alone and together, then repair from a copy, a bundle, or an older copy.

The control is a source that holds nothing: then the damage stays, is told, and is still found.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from kvgit_hamt import Repo, Shape
from kvgit_hamt.errors import CorruptionError
from tests.support.homes import SMALL
from tests.support.rawstore import RawStore, raw_store
from tests.support.scale import pick, record
from tests.support.verify import assert_sound_structure

DAMAGES = ("delete", "flip", "swap", "cut", "zero", "index", "ref")


class Nothing:
    """A source that has no object."""

    def payload(self, oid: bytes) -> bytes | None:
        return None


def fill(repo: Repo, rng: random.Random) -> None:
    """Some branches with merges, large values, deletions; reflogs of deleted branches."""
    work = repo.worktree()
    work.update({f"d{n % 9}/{n}": rng.randbytes(rng.choice([3, 20, 90])).hex() for n in range(250)})
    work["d1/big"], work["d2/big"] = "b" * 700, "c" * 900
    work.commit()
    for number in range(4):
        name = f"b{number}"
        repo.branches.create(name)
        side = repo.worktree(name)
        for key in rng.sample(list(side.keys()), 30):
            if rng.random() < 0.3:
                del side[key]
            else:
                side[key] = f"{name} {rng.random()}"
        side.commit(info={"name": name})
        if number % 2:
            work.merge(branch=name, default_merge=lambda old, ours, theirs: theirs)
    repo.tags.create("v1", info={"n": 1})
    repo.branches.delete("b3")


def contents(repo: Repo) -> object:
    return (
        {name: dict(repo.worktree(name).items()) for name in repo.branches},
        {name: (repo.tags[name], repo.tags.info(name)) for name in repo.tags},
        {name: [commit.id for commit in repo.log(name)] for name in repo.branches},
        {name: repo.reflog(name) for name in [*repo.branches, "b3"]},
    )


def harm(raw: RawStore, how: str, rng: random.Random) -> None:
    rows = raw.rows("records")
    place, stored = rng.choice([row for row in rows if row[1]])  # not one that was cut to nothing
    if how == "delete":
        raw.delete("records", place)
    elif how == "flip":
        bit = rng.randrange(8 * len(stored))
        changed = bytearray(stored)
        changed[bit // 8] ^= 1 << bit % 8
        raw.put("records", place, bytes(changed))
    elif how == "swap":
        other, second = rng.choice(rows)
        raw.put("records", place, second)
        raw.put("records", other, stored)
    elif how == "cut":
        raw.put("records", place, stored[: rng.randrange(len(stored))])
    elif how == "zero":
        raw.put("records", place, bytes(len(stored)))
    elif how == "index":
        table = rng.choice(["commits", "blobs"])
        entries = raw.rows(table)
        if not entries:
            return
        oid, _ = rng.choice(entries)
        if rng.random() < 0.5:
            raw.delete(table, oid)
        else:
            raw.put(table, oid, place)
    else:
        name, value = rng.choice([row for row in raw.rows("refs") if row[0] != b"config"])
        raw.put("refs", name, bytes((value[0] ^ 1,)) + value[1:])


def rounds(count: int) -> list[tuple[int, tuple[str, ...]]]:
    """Each damage alone, then several, then very many."""
    rng = random.Random(8)
    found: list[tuple[int, tuple[str, ...]]] = [(number, (how,)) for number, how in enumerate(DAMAGES)]
    while len(found) < count:
        many = rng.choice([2, 5, 30, 300])
        found.append((len(found), tuple(rng.choice(DAMAGES[:6]) for _ in range(many))))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("shape", [SMALL, Shape()], ids=["small", "default"])
def test_whatever_is_damaged_a_copy_puts_it_right(tmp_path: Path, shape: Shape) -> None:
    with Repo(tmp_path / "store", shape=shape) as repo:
        fill(repo, random.Random(1))
        expected = contents(repo)
        repo.bundle(tmp_path / "all.bundle")
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    damaged = unhealed = told = 0
    for number, hows in rounds(pick(20, 400)):
        rng = random.Random(number)
        path = tmp_path / f"round{number}"
        shutil.copytree(tmp_path / "copy", path)
        with raw_store(path) as raw:
            for how in hows:
                harm(raw, how, rng)
        with Repo(path) as repo:
            faults = list(repo.check())
            damaged += bool(faults)
            control = repo.repair(Nothing())
            told += bool(control.unhealed)
            result = repo.repair(tmp_path / "copy")
            left = list(repo.check())
            unhealed += bool(left) or not result
            assert not left, (number, hows, [str(fault) for fault in left])
            assert result, (number, hows, [(str(fault), reason) for fault, reason in result.unhealed])
            assert contents(repo) == expected
            repo.worktree()["after"] = 1
        assert_sound_structure(path)
        shutil.rmtree(path)
    assert damaged > pick(20, 400) // 2
    assert told > damaged // 2, "the control: without objects damage stays"
    name = "small" if shape is SMALL else "default"
    record(
        f"C8, {name} shape", rounds=pick(20, 400), damaged=damaged, violations=unhealed, control_failed=told
    )


@pytest.mark.slow
def test_a_bundle_and_an_older_copy_put_right_what_they_hold(tmp_path: Path) -> None:
    rng = random.Random(9)
    with Repo(tmp_path / "store", shape=SMALL) as repo:
        fill(repo, rng)
        repo.copy(tmp_path / "older")
        repo.bundle(tmp_path / "all.bundle")
        work = repo.worktree()
        work["newer"] = "x" * 400
        work.commit()
        expected = contents(repo)
        leaf = work.base
    for source in (tmp_path / "older", tmp_path / "all.bundle"):
        for number in range(pick(5, 100)):
            path = tmp_path / f"{source.name}{number}"
            shutil.copytree(tmp_path / "store", path)
            with Repo(tmp_path / "older") as older:
                old_oids = {oid for oid, _ in older.store.backend.list_index("commit", b"", 1_000)}
            with raw_store(path) as raw:
                places = [place for oid, place in raw.rows("commits") if oid in old_oids]
                raw.delete("records", rng.choice(places))
                blobs = raw.rows("blobs")
                held = [place for _, place in blobs if int.from_bytes(place, "little") < 100]
                raw.delete("records", rng.choice(held))
            with Repo(path) as repo:
                assert list(repo.check())
                with pytest.raises(CorruptionError):
                    repo.gc(dry_run=True)
                result = repo.repair(source)
                assert result, [(str(fault), reason) for fault, reason in result.unhealed]
                assert repo.check().result().is_sound
                assert contents(repo) == expected
                assert repo.worktree().base == leaf
            shutil.rmtree(path)
    record("C8, bundle and older copy", rounds=2 * pick(5, 100), violations=0)
