"""C2 and C3: the data file itself, bit by bit and cut anywhere, opened and read whole in forked children.

Allowed: all is as it was, or an error of the library. Never: an older or emptier state without a word,
another kind of error, a signal. The controls switch off one guard each and must see what it stands against.
"""

from __future__ import annotations

import faulthandler
import os
import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from kvgit_hamt import Repo
from kvgit_hamt.backend import lmdb_env, lmdb_files
from kvgit_hamt.errors import KvgitHamtError
from tests.support.homes import SMALL
from tests.support.scale import pick, record
from tests.support.verify import assert_sound_structure, structure_problems

META_BYTES = 176  # of each meta page: header and meta, and what lies behind it
PAGE = 4096
AT_ONCE = 100  # damaged files that one child opens
SAFETY_S = 120
OK, REFUSED, WRONG, STRANGE = "ok", "refused", "wrong", "strange"
Damage = Callable[[bytes], bytes]


@pytest.fixture
def store(tmp_path):
    """The directory of a store and what it holds."""
    path = tmp_path / "store"
    with Repo(path, shape=SMALL) as repo:
        work = repo.worktree()
        for number in range(5):
            work.update({f"d{n % 4}/{n}": f"{number} of {n}" for n in range(number * 10, number * 10 + 20)})
            work["d0/big"] = f"{number}" * 3_000
            work.commit(info={"number": number})
        repo.tags.create("v1")
        repo.branches.create("dev")
        repo.worktree("dev").commit(info={"on": "dev"})
    with Repo(path) as repo:
        expected = whole(repo), moves(repo)
    assert_sound_structure(path)
    return path, expected


def whole(repo: Repo) -> object:
    """All that a store holds, read by the ways that users take."""
    return (
        dict(repo.branches),
        dict(repo.tags),
        {name: dict(repo.worktree(name).items()) for name in ("main", "dev")},
        [commit.id for commit in repo.log()],
    )


def moves(repo: Repo) -> object:
    """The reflog, which a damaged name may make shorter: then the check must say so."""
    return [(entry.old, entry.new, entry.why) for entry in repo.reflog()]


def outcome(path: Path, expected: tuple[object, object]) -> str:
    """What opening and reading a damaged store comes to."""
    try:
        with Repo(path) as repo:
            is_right = whole(repo) == expected[0]
            is_told = moves(repo) == expected[1] or not repo.check(deep=False).result().is_sound
            return OK if is_right and is_told else WRONG
    except KvgitHamtError:
        return REFUSED
    except Exception:
        return STRANGE


def in_children(
    store: tuple[Path, object], damages: Iterable[Damage], patch: Callable[[], None] | None = None
):
    """Outcomes of damages to the data file, and what they were; a child that dies counts as its signal."""
    path, expected = store
    data = (path / "data.mdb").read_bytes()
    witness = (path / "WITNESS").read_bytes()
    counts: Counter[str] = Counter()
    bad: list[tuple[str, int]] = []
    listed = list(damages)
    for first in range(0, len(listed), AT_ONCE):
        part = listed[first : first + AT_ONCE]
        done = 0
        while done < len(part):
            results, died = one_child(path, data, witness, (part[done:], expected, patch))
            for number, each in enumerate(results, first + done):
                counts[each] += 1
                if each in (WRONG, STRANGE):
                    bad.append((each, number))
            done += len(results)
            if died:
                counts[died] += 1
                bad.append((died, first + done))
                done += 1
    (path / "data.mdb").write_bytes(data)
    (path / "WITNESS").write_bytes(witness)
    return counts, bad


def one_child(path: Path, data: bytes, witness: bytes, what: tuple) -> tuple[list[str], str]:
    """The outcomes that a child reached, and the signal it died of ("" if none)."""
    damages, expected, patch = what
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        faulthandler.disable()
        signal.alarm(SAFETY_S)
        code = 1
        try:
            if patch is not None:
                patch()
            for damage in damages:
                (path / "data.mdb").write_bytes(damage(data))
                (path / "WITNESS").write_bytes(witness)
                os.write(writer, outcome(path, expected)[:1].encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        codes = file.read().decode()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    names = {"o": OK, "r": REFUSED, "w": WRONG, "s": STRANGE}
    assert status <= 0, "the child itself failed"
    return [names[code] for code in codes], signal.Signals(-status).name if status else ""


def flip_of(bit: int) -> Damage:
    def damage(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed)

    return damage


def meta_bits() -> Iterator[int]:
    return (page * PAGE * 8 + bit for page in (0, 1) for bit in range(META_BYTES * 8))


def no_witness() -> None:
    lmdb_env.compare_witness = lambda *_: None  # type: ignore[assignment]


def no_size_check() -> None:
    lmdb_files._check_missing_tail = lambda *_: None  # type: ignore[assignment]


# --- C2


@pytest.mark.slow
def test_no_flipped_bit_of_the_meta_pages_shows_another_state(store):
    ids = [page * PAGE * 8 + 144 * 8 + bit for page in (0, 1) for bit in range(64)]  # of the last transaction
    every = list(meta_bits())
    bits = ids + random.Random(7).sample(every, min(len(every), pick(1_000, 20 * len(every))))
    counts, bad = in_children(store, map(flip_of, bits))
    assert not bad, [(what, bits[number]) for what, number in bad[:20]]
    assert sum(counts.values()) == len(bits)
    _, seen = in_children(store, map(flip_of, ids), no_witness)
    assert any(what == WRONG for what, _ in seen), "the control: without the witness older states come back"
    record("C2 meta", flips=len(bits), violations=len(bad), control_failed=len(seen), **counts)


@pytest.mark.slow
def test_flipped_bits_anywhere_in_the_file_are_found_or_harmless(store):
    path, _ = store
    rng = random.Random(2)
    size = (path / "data.mdb").stat().st_size
    bits = [rng.randrange(2 * PAGE * 8, size * 8) for _ in range(pick(1_000, 100_000))]
    counts, bad = in_children(store, map(flip_of, bits))
    assert not bad, [(what, bits[number]) for what, number in bad[:20]]
    assert counts[REFUSED] > len(bits) // 20
    record("C2 data", flips=len(bits), violations=len(bad), **counts)


def test_a_few_flipped_bits_are_found_or_harmless(store):
    """The fast part of the above."""
    rng = random.Random(5)
    size = (store[0] / "data.mdb").stat().st_size
    bits = rng.sample(list(meta_bits()), 100) + [rng.randrange(2 * PAGE * 8, size * 8) for _ in range(100)]
    _, bad = in_children(store, map(flip_of, bits))
    assert not bad, [(what, bits[number]) for what, number in bad]


# --- C3


def cuts(rng: random.Random, size: int, count: int) -> list[int]:
    fixed = [0, 1, 15, 16, 151, 152, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE - 1, 2 * PAGE, 2 * PAGE + 1, size - 1]
    pages = list(range(0, size, PAGE))
    near = [page + step for page in pages for step in (-1, 0, 1, 512) if 0 <= page + step < size]
    return fixed + rng.sample(near, min(len(near), count)) + [rng.randrange(size) for _ in range(count // 4)]


@pytest.mark.slow
def test_a_file_cut_anywhere_is_refused_or_whole(store):
    path, _ = store
    size = (path / "data.mdb").stat().st_size
    points = cuts(random.Random(3), size, pick(200, size // PAGE * 4))
    counts, bad = in_children(store, [lambda data, at=at: data[:at] for at in points])
    assert not bad, [(what, points[number]) for what, number in bad[:20]]
    assert counts[REFUSED] > len(points) * 3 // 4
    some = points[13:33]
    _, seen = in_children(store, [lambda data, at=at: data[:at] for at in some], no_size_check)
    assert {what for what, _ in seen} & {"SIGBUS", "SIGSEGV"}, "the control: an unchecked length kills"
    record("C3 cuts", cuts=len(points), violations=len(bad), control_failed=len(seen), **counts)


@pytest.mark.slow
def test_a_file_that_was_made_longer_or_overwritten_behind_its_end_is_whole(store):
    rng = random.Random(4)
    longer = [0, 1, 511, PAGE - 1, PAGE, PAGE + 1, 10 * PAGE, 1 << 20]
    damages = [lambda data, more=more: data + bytes(more) for more in longer]
    damages += [lambda data, more=more: data + rng.randbytes(more) for more in longer]
    counts, bad = in_children(store, damages)
    assert not bad
    assert counts == {OK: len(damages)}
    record("C3 extensions", files=len(damages), violations=len(bad), **counts)


@pytest.mark.slow
def test_pages_that_went_back_to_zero_or_to_another_are_found_or_free(store):
    """Whole pages: zeroed, or written over another one, as a lost or a misplaced write leaves them."""
    path, _ = store
    rng = random.Random(6)
    pages = (path / "data.mdb").stat().st_size // PAGE

    def zeroed(page: int) -> Damage:
        return lambda data: data[: page * PAGE] + bytes(PAGE) + data[(page + 1) * PAGE :]

    def misplaced(page: int, source: int) -> Damage:
        return lambda data: (
            data[: page * PAGE] + data[source * PAGE : (source + 1) * PAGE] + data[(page + 1) * PAGE :]
        )

    damages = [zeroed(page) for page in range(pages)]
    damages += [misplaced(rng.randrange(2, pages), rng.randrange(2, pages)) for _ in range(pick(200, 5_000))]
    counts, bad = in_children(store, damages)
    assert not bad, bad[:20]
    record("C3 pages", pages=len(damages), violations=len(bad), **counts)


# --- C6


def test_the_verifier_that_other_harnesses_use_sees_damage(store, tmp_path):
    path, _ = store
    assert structure_problems(path) == []
    copy = tmp_path / "copy"
    shutil.copytree(path, copy)
    data = bytearray((copy / "data.mdb").read_bytes())
    found = 0
    for page in range(2, len(data) // PAGE):
        data[page * PAGE] ^= 1
        (copy / "data.mdb").write_bytes(data)
        found += bool(structure_problems(copy / "data.mdb"))
        data[page * PAGE] ^= 1
    assert found > 5, "the control"
    (copy / "data.mdb").write_bytes(b"nothing")
    assert structure_problems(copy)
    with pytest.raises(AssertionError):
        assert_sound_structure(copy)
