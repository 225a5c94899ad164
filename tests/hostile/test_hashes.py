"""H2: bytes that share every xxh3 are different things, in values, in nodes and in blobs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from hashlib import sha256
from types import ModuleType

import pytest
from xxhash import xxh3_64_digest, xxh3_128_digest

import kvgit_hamt as kvgit
from kvgit_hamt import CorruptionError, node
from kvgit_hamt.path import Shape
from tests.support.forged import SECRET
from tests.support.homes import KINDS, Home
from tests.support.kernels import compiled

STORE: ModuleType = sys.modules["kvgit_hamt.store"]  # the package has a function of that name
WIDE = Shape(leaf_max=4_000, inline_max=3_000)
SIZE = 900


def pair(offset: int = 0) -> tuple[bytes, bytes]:
    """Two values of one length that share both xxh3, also behind ``offset`` bytes that are the same.

    As in tests/support/forged.py: one lane of two stripes, whose products are zero and whose sum is kept.
    """
    stripe = -(-offset // 64)
    at = 64 * stripe - offset
    lanes = SECRET[8 * stripe : 8 * stripe + 4], SECRET[8 * stripe + 8 : 8 * stripe + 12]
    values = []
    for number in (1_000, 2_000):
        value = bytearray(b"A" * SIZE)
        value[at : at + 8] = lanes[0] + number.to_bytes(4, "little")
        value[at + 64 : at + 72] = lanes[1] + (0x55555555 - number).to_bytes(4, "little")
        values.append(bytes(value))
    return values[0], values[1]


def leaf_of(value: bytes) -> bytes:
    """The leaf of one entry, as the library writes it."""
    tag = bytes((WIDE.hash(b"key") & 255,))
    return node.leaf_pack(tag, [3, 3 + len(value)], b"", b"key" + value, b"")


def leaf_pair() -> tuple[bytes, bytes]:
    """Two values whose whole leaves share both xxh3."""
    return pair(leaf_of(b"?" * SIZE).index(b"?"))


PAIRS: dict[str, tuple[Shape, Callable[[], tuple[bytes, bytes]]]] = {
    "blobs": (Shape(inline_max=64), lambda: pair(len(b"\x04\x01"))),
    "leaves": (WIDE, leaf_pair),
}
each_pair = pytest.mark.parametrize("what", PAIRS)


def is_told_apart(home: Home, what: str) -> bool:
    """Store both under two keys and in two commits; whether all of it reads back as it was."""
    shape, make = PAIRS[what]
    one, other = make()
    repo = home.open(codec="bytes", shape=shape)
    initial = repo.branches["main"]
    work = repo.worktree()
    commits = []
    for value in (one, other):
        work["key"] = value
        commits.append(work.commit().commit)
    for number, value in enumerate((one, other)):
        repo.branches.create(f"side{number}", at=initial)
        side = repo.worktree(f"side{number}")
        side["key"] = value
        side.commit()
    work["key2"] = one
    work.commit()
    fresh = home.open()
    found = [fresh.snapshot(commit=commit)["key"] for commit in commits]
    found += [fresh.snapshot(branch=f"side{number}")["key"] for number in range(2)]
    changes = [(change.old, change.new) for change in fresh.diff(*commits)]
    both = dict(fresh.snapshot())
    return (found, changes, both) == ([one, other] * 2, [(one, other)], {"key": other, "key2": one})


@each_pair
def test_the_pairs_share_every_xxh3(what):
    values = PAIRS[what][1]()
    payloads = [leaf_of(value) for value in values] if what == "leaves" else [b"\x04\x01" + v for v in values]
    assert values[0] != values[1]
    assert len({xxh3_128_digest(payload) for payload in payloads}) == 1
    assert len({xxh3_64_digest(payload) for payload in payloads}) == 1
    assert len({sha256(payload).digest() for payload in payloads}) == 2


@each_pair
@pytest.mark.parametrize("kind", KINDS)
def test_what_shares_every_xxh3_is_told_apart(kind, what, tmp_path):
    home = Home(kind, tmp_path)
    try:
        assert is_told_apart(home, what)
    finally:
        home.close()


def test_a_merge_of_both_is_a_conflict():
    one, other = pair(len(b"\x04\x01"))
    with kvgit.open(codec="bytes") as work:
        work["key"] = b"base"
        work.commit()
        work.repo.branches.create("side")
        side = work.repo.worktree("side")
        side["key"], work["key"] = one, other
        side.commit()
        work.commit()
        with pytest.raises(kvgit.MergeConflict):
            work.merge(branch="side")


def xxh3_oid(payload: bytes) -> bytes:
    return xxh3_128_digest(payload) * 2


def one_byte_oid(payload: bytes) -> bytes:
    return sha256(payload).digest()[:1] * 32


class Weak:
    """Stands for SHA-256 in the compiled kernel."""

    def __init__(self, payload: bytes) -> None:
        self.payload = payload

    def digest(self) -> bytes:
        return xxh3_oid(self.payload)


@each_pair
def test_control_with_xxh3_for_ids_one_reads_as_the_other(what, tmp_path, monkeypatch):
    monkeypatch.setattr(STORE, "oid_of", xxh3_oid)
    if compiled is not None:
        monkeypatch.setattr(compiled, "sha256", Weak, raising=False)
    home = Home("memory", tmp_path)
    assert not is_told_apart(home, what)
    home.close()


def test_control_ids_of_one_byte_are_found_out(tmp_path, monkeypatch):
    """The same harness notices any collision of ids; of SHA-256 none is known, and none is looked for."""
    monkeypatch.setattr(STORE, "oid_of", one_byte_oid)
    home = Home("memory", tmp_path)
    work = home.open(codec="bytes", shape=Shape(inline_max=64)).worktree()
    wanted = {f"k{number}": b"%d" % number * 100 for number in range(500)}
    with pytest.raises((AssertionError, CorruptionError)):
        work.update(wanted)
        work.commit()
        assert dict(work.items()) == wanted
    home.close()
