"""Bundles altered at random with all digests put right again: refused with one of our errors, or whole.

An altered object gets its new oid, and so does whatever refers to it, up to the heads: the enemy can compute
SHA-256 as well. What is accepted all the same must be a store in which a deep check finds nothing.
"""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest

from kvgit_hamt import Repo, bundle_check, verify_bundle
from kvgit_hamt.bundle_format import BASE, COMMIT, OBJECT, FrameReader, FrameWriter, Header
from kvgit_hamt.errors import CorruptionError, FormatVersionError, KvgitHamtError
from kvgit_hamt.path import Shape
from tests.support.scale import pick, record

pytestmark = pytest.mark.slow

SHAPE = Shape(bits=2, leaf_max=96, inline_max=40)
ROUNDS = pick(1_200, 200_000)
Parts = list[tuple[int, Any]]


def source() -> Repo:
    repo = Repo(shape=SHAPE, clock=lambda: 1_700_000_000_000_000)
    work = repo.worktree()
    work.update({f"dir{n % 3}/k{n}": "v" * (n * 7 % 70) for n in range(40)})
    work.commit(info={"n": 1})
    repo.tags.create("v1")
    work.update({f"dir1/k{n}": n for n in range(0, 40, 5)})
    del work["dir0/k3"]
    work.commit()
    return repo


def parts_of(data: bytes) -> tuple[Header, Parts]:
    reader = FrameReader(io.BytesIO(data))
    parts: Parts = []
    for frame in reader.frames():
        if frame.kind == OBJECT:
            parts.append((OBJECT, frame.payload))
        elif frame.kind == BASE:
            parts.append((BASE, (frame.prerequisite, frame.slots)))
        else:
            parts.append((COMMIT, None))
    return reader.header, parts


def rebuilt(header: Header, parts: Parts, altered: int, change: Callable[[bytes], bytes]) -> bytes:
    """The bundle with one object changed, and every reference to it, however far above."""
    now: dict[bytes, bytes] = {}
    new: Parts = []
    for number, (kind, value) in enumerate(parts):
        if kind != OBJECT:
            new.append((kind, value))
            continue
        payload = value
        for old, oid in now.items():
            payload = payload.replace(old, oid)
        if number == altered:
            payload = change(payload)
        if payload != value:
            now[sha256(value).digest()] = sha256(payload).digest()
        new.append((OBJECT, payload))
    heads = tuple(head._replace(oid=now.get(head.oid, head.oid)) for head in header.heads)
    out = io.BytesIO()
    frames = FrameWriter(
        out, Header(header.shape, header.codec, heads, header.prerequisites, header.commit_count)
    )
    for number, (kind, value) in enumerate(new):
        if kind == OBJECT:
            frames.object(sha256(value).digest(), value)
        elif kind == BASE:
            frames.base(*value)
        else:
            commit = next((v for k, v in new[number:] if k == OBJECT and v[:1] == b"\x03"), b"")
            frames.commit(sha256(commit).digest())
    frames.end()
    return out.getvalue()


def changes(rng: random.Random) -> Callable[[bytes], bytes]:
    """A random way to alter a payload."""

    def flip(payload: bytes) -> bytes:
        at = rng.randrange(len(payload))
        return payload[:at] + bytes((payload[at] ^ 1 << rng.randrange(8),)) + payload[at + 1 :]

    def cut(payload: bytes) -> bytes:
        at, count = rng.randrange(len(payload)), rng.randrange(1, 9)
        return payload[:at] + payload[at + count :]

    def add(payload: bytes) -> bytes:
        at = rng.randrange(len(payload) + 1)
        return payload[:at] + rng.randbytes(rng.randrange(1, 9)) + payload[at:]

    def put(payload: bytes) -> bytes:
        at = rng.randrange(len(payload))
        number = rng.choice([0, 1, 2, 127, 128, 255])
        return payload[:at] + bytes((number,)) * rng.randrange(1, 9) + payload[at + 1 :]

    def swap(payload: bytes) -> bytes:
        a, b = sorted(rng.randrange(len(payload) + 1) for _ in range(2))
        middle = (a + b) // 2
        return payload[:a] + payload[middle:b] + payload[a:middle] + payload[b:]

    return rng.choice([flip, flip, cut, add, put, swap])


def attack(rng: random.Random, header: Header, parts: Parts) -> bytes:
    objects = [number for number, (kind, _) in enumerate(parts) if kind == OBJECT]
    if rng.randrange(8) == 0:  # frames moved about, doubled or left out
        order = list(parts)
        at = rng.randrange(len(order))
        moved = order.pop(at) if rng.randrange(3) else order[at]
        if rng.randrange(2):
            order.insert(rng.randrange(len(order) + 1), moved)
        return rebuilt(header, order, -1, bytes)
    return rebuilt(header, parts, rng.choice(objects), changes(rng))


def outcome(data: bytes, repo: Repo) -> str:
    with contextlib.suppress(CorruptionError, FormatVersionError):
        verify_bundle(io.BytesIO(data))
    try:
        repo.load_bundle(io.BytesIO(data), {"*": "x/*"})
    except KvgitHamtError:
        return "refused"
    # It may lack what this store has already: then verify, which knows no store, has refused it.
    assert [*repo.check()] == []
    return "accepted"


@pytest.mark.parametrize("is_thin", [False, True])
def test_what_is_altered_with_all_digests_right_is_refused_or_sound(is_thin):
    repo = source()
    out, base = io.BytesIO(), io.BytesIO()
    repo.bundle(out, "v1..main") if is_thin else repo.bundle(out)
    repo.bundle(base, "v1")
    header, parts = parts_of(out.getvalue())
    assert rebuilt(header, parts, -1, bytes) == out.getvalue()
    counts = {"refused": 0, "accepted": 0}
    for seed in range(ROUNDS // 2):
        rng = random.Random(seed)
        other = Repo(shape=SHAPE)
        if is_thin:
            base.seek(0)
            other.load_bundle(base)
        counts[outcome(attack(rng, header, parts), other)] += 1
    assert counts["refused"] > ROUNDS // 4
    assert counts["accepted"] > 0, "a value may be any bytes"
    record("H4 altered bundles", rounds=ROUNDS // 2, violations=0, **counts)


def test_a_checker_that_trusts_nodes_lets_unsound_ones_in():
    """The control: without the check of canonical form and of entries, the deep check finds what came in."""
    repo = source()
    out = io.BytesIO()
    repo.bundle(out)
    header, parts = parts_of(out.getvalue())
    found = 0
    for seed in range(500):
        data = attack(random.Random(seed), header, parts)
        other = Repo(shape=SHAPE)
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Exception):
            patch.setattr(bundle_check.node, "check_node", lambda payload: None)
            patch.setattr(bundle_check.Checker, "_check_entry", lambda *arguments: None)
            other.load_bundle(io.BytesIO(data), {"*": "x/*"})
        found += [*other.check()] != []
    assert found > 0
