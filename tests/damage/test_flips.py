"""C1: every bit of stored records, flipped one at a time. A read raises; the check names the record.

The control takes the checksums away, by making them anew over the flipped bytes: then reads must give wrong
values without a word, so it is the checksums that stopped them; the deep check still finds each.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from kvgit_hamt import Repo, Shape, node
from kvgit_hamt.backend.base import Backend
from kvgit_hamt.backend.lmdb import LmdbBackend
from kvgit_hamt.errors import CorruptionError, KvgitHamtError
from kvgit_hamt.hamt import Tree
from kvgit_hamt.node import BlobRef
from kvgit_hamt.scan import nodes
from kvgit_hamt.wire import CHECK_BYTES, seal
from tests.support.homes import SMALL
from tests.support.scale import pick, record

KINDS = ("root", "inner", "leaf", "blob", "commit")


class Flipping:
    """A backend that reads one record as a bad disk would. ``sealed``: with a checksum made anew."""

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self.target: tuple[bytes, bytes] | None = None
        self.instead = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @property
    def placed(self) -> bool:
        return self._inner.placed

    def read(self, oid: bytes, loc: bytes) -> bytes | None:
        if self.target is not None and loc == self.target[1]:
            return self.instead
        return self._inner.read(oid, loc)

    def read_many(self, links: Sequence[tuple[bytes, bytes]]) -> list[bytes | None]:
        return [self.read(*link) for link in links]


@dataclass
class Victim:
    """A record, and a key whose value cannot be read without it (None: all of the branch)."""

    kind: str
    oid: bytes
    loc: bytes
    record: bytes
    key: str


def value_of(number: int) -> str:
    return f"value {number} " * (1 + number % 9)


@contextmanager
def opened(path: Any, shape: Shape, count: int) -> Iterator[tuple[Repo, Flipping, dict[str, str]]]:
    backend = Flipping(LmdbBackend(path))
    with Repo(backend, shape=shape, cache_bytes=0) as repo:  # type: ignore[arg-type]
        work = repo.worktree()
        entries = {f"d{number % 3}/{number}": value_of(number) for number in range(count)}
        entries["d0/big"] = "b" * (shape.inline_max + 50)
        work.update(entries)
        work.commit()
        yield repo, backend, entries


def victims(repo: Repo, entries: dict[str, str]) -> dict[str, list[Victim]]:
    """The records of main's tree by kind, each with a key below it."""
    store = repo.store
    head = repo.read_head("main")
    found: dict[str, list[Victim]] = {kind: [] for kind in KINDS}

    def add(kind: str, oid: bytes, loc: bytes, key: str) -> None:
        stored = store.backend.read(oid, loc)
        assert stored is not None
        found[kind].append(Victim(kind, oid, loc, stored, key))

    add("commit", head.oid, head.loc, "d0/0")
    leaf_keys: dict[bytes, str] = {}
    for visited in nodes(store, Tree(*head.tree)):
        if visited.body[0] == node.LEAF:
            key = node.leaf_keys(visited.body)[0].decode()
            leaf_keys[visited.loc] = key
            add("leaf", visited.oid, visited.loc, key)
            for name, value in node.leaf_items(visited.body):
                if isinstance(value, BlobRef):
                    add("blob", value.oid, value.loc, name.decode())
        else:
            add("inner" if visited.level else "root", visited.oid, visited.loc, "")
    for victim in (*found["root"], *found["inner"]):
        victim.key = next(key for key in entries if victim.loc in way_of(repo, key))
    return found


def way_of(repo: Repo, key: str) -> list[bytes]:
    """The places of the nodes that lead to a key."""
    store = repo.store
    link: tuple[bytes, bytes] | None = repo.read_head("main").tree
    found = []
    data = key.encode()
    while link is not None:
        found.append(link[1])
        body = store.read(*link)
        if body[0] == node.LEAF:
            break
        link = node.inner_step(body, store.shape.slot(data, store.shape.hash(data), len(found) - 1))
    return found


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def attempts(repo: Repo, key: str) -> Any:
    """A read that needs the key's records, from the branch on."""
    return repo.worktree()[key]


def chosen(repo: Repo, entries: dict[str, str], count: int, rng: random.Random) -> list[Victim]:
    by_kind = victims(repo, entries)
    assert all(by_kind.values()), "records of every kind are there"
    picked = [rng.choice(by_kind[kind]) for kind in KINDS]
    rest = [victim for kind in ("inner", "leaf") for victim in by_kind[kind] if victim not in picked]
    return picked + rng.sample(rest, min(len(rest), max(0, count - len(picked))))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [SMALL, Shape()], ids=["small", "default"])
def test_a_read_never_survives_a_flipped_bit(tmp_path, shape):
    rng = random.Random(1)
    flips = undetected = 0
    unsealed_wrong = 0
    with opened(tmp_path / "store", shape, 300) as (repo, backend, entries):
        picked = chosen(repo, entries, pick(20, 500), rng)
        for victim in picked:
            for bit in range(8 * len(victim.record)):
                backend.target, backend.instead = (victim.oid, victim.loc), flipped(victim.record, bit)
                flips += 1
                try:
                    attempts(repo, victim.key)
                except CorruptionError:
                    continue
                undetected += 1
            for bit in rng.sample(range(8 * (len(victim.record) - CHECK_BYTES)), 100):
                body = flipped(victim.record, bit)[:-CHECK_BYTES]
                backend.instead = seal(victim.oid, body)
                try:
                    unsealed_wrong += attempts(repo, victim.key) != entries[victim.key]
                except (KvgitHamtError, ArithmeticError, LookupError, ValueError):
                    continue
            backend.target = None
            assert attempts(repo, victim.key) == entries[victim.key]
    assert undetected == 0
    assert unsealed_wrong > 0, "the control: without checksums a flipped bit is a wrong value"
    record(
        f"C1 reads, {'small' if shape is SMALL else 'default'} shape",
        records=len(picked), flips=flips, violations=undetected, control_failed=unsealed_wrong,
    )  # fmt: skip


@pytest.mark.slow
def test_iteration_never_survives_a_flipped_bit(tmp_path):
    rng = random.Random(2)
    flips = undetected = unsealed_wrong = 0
    with opened(tmp_path / "store", SMALL, 60) as (repo, backend, entries):
        for victim in chosen(repo, entries, pick(20, 100), rng):
            for bit in range(8 * len(victim.record)):
                backend.target, backend.instead = (victim.oid, victim.loc), flipped(victim.record, bit)
                flips += 1
                try:
                    found = dict(repo.worktree().items())
                except CorruptionError:
                    continue
                undetected += 1
                assert found != entries
            for bit in rng.sample(range(8 * (len(victim.record) - CHECK_BYTES)), 60):
                backend.instead = seal(victim.oid, flipped(victim.record, bit)[:-CHECK_BYTES])
                try:
                    unsealed_wrong += dict(repo.worktree().items()) != entries
                except (KvgitHamtError, ArithmeticError, LookupError, ValueError):
                    continue
            backend.target = None
    assert undetected == 0
    assert unsealed_wrong > 0, "the control: without checksums iteration gives wrong entries"
    record("C1 iteration", flips=flips, violations=undetected, control_failed=unsealed_wrong)


@pytest.mark.slow
def test_the_check_names_every_flipped_record_its_way_and_its_keys(tmp_path):
    rng = random.Random(3)
    flips = 0
    blind = 0
    with opened(tmp_path / "store", SMALL, 60) as (repo, backend, entries):
        for victim in chosen(repo, entries, pick(20, 200), rng):
            bits = range(8 * len(victim.record))
            backend.target = (victim.oid, victim.loc)
            for bit in rng.sample(bits, min(len(bits), pick(40, 4_000))):
                backend.instead = flipped(victim.record, bit)
                flips += 1
                for deep in (True, False):
                    assert_named(list(repo.check(deep)), victim, "damaged")
                if bit < 8 * (len(victim.record) - CHECK_BYTES - 8 * node.PLACE_BYTES):
                    # The control: with the checksum made anew the quick check may be content.
                    backend.instead = seal(victim.oid, backend.instead[:-CHECK_BYTES])
                    assert_found(list(repo.check()), victim)
                    blind += not list(repo.check(deep=False))
            backend.target = None
        assert list(repo.check()) == []
    assert blind > 0
    record("C1 check", flips=flips, violations=0, control_failed=blind)


def assert_found(faults: list[Any], victim: Victim) -> None:
    assert any(fault.oid == victim.oid.hex() for fault in faults), (victim.kind, list(map(str, faults)))


def assert_named(faults: list[Any], victim: Victim, kind: str) -> None:
    fault = next(each for each in faults if each.oid == victim.oid.hex() and each.kind != "index")
    assert fault.kind == kind
    assert fault.place == int.from_bytes(victim.loc, "little")
    assert fault.ref == "heads/main"
    assert fault.heads == ("heads/main",)
    assert fault.commit is not None
    if victim.kind == "blob":
        assert (fault.keys, fault.key_count) == ((victim.key,), 1)
    elif victim.kind in ("leaf", "inner"):
        assert fault.key_count and fault.slots


def test_every_bit_of_a_small_record_is_watched(tmp_path):
    """The fast part: one leaf, every bit, by reading and by the check."""
    with opened(tmp_path / "store", SMALL, 20) as (repo, backend, entries):
        victim = victims(repo, entries)["leaf"][0]
        backend.target = (victim.oid, victim.loc)
        for bit in range(8 * len(victim.record)):
            backend.instead = flipped(victim.record, bit)
            with pytest.raises(CorruptionError):
                attempts(repo, victim.key)
            if not bit % 16:
                assert_named(list(repo.check()), victim, "damaged")
