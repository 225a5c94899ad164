"""H5 to H8: sizes at every edge, texts that look alike, values that compare equal, names with a meaning."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import subprocess
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kvgit_hamt as kvgit
from kvgit_hamt import refs
from kvgit_hamt.path import MAX_KEY_BYTES
from tests.support.homes import KINDS, Home, raised_by
from tests.support.scale import pick, record

# --- H5: sizes

EDGES = (0, 1, 40, 41, 255, 256, 510, 511, 512, 513, 1_977, 1_978, 1_979)
KEY_SIZES = (*EDGES, 2_048, 4_096, 65_534, MAX_KEY_BYTES)
PAGES = (*EDGES, *range(2_005, 2_035), *range(4_070, 4_100), 8_192, 65_535, 65_536, 65_537, 1 << 20)


def of_size(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.mark.parametrize("kind", KINDS)
def test_values_and_keys_of_every_size_at_an_edge_come_back(kind, tmp_path):
    home = Home(kind, tmp_path)
    work = home.open(codec="bytes").worktree()
    wanted = {f"v{size}": of_size(size) for size in PAGES}
    wanted |= {"k" * size: b"%d" % size for size in KEY_SIZES}
    wanted |= {f"{'d/' * 3}{'n' * (size - 6)}": b"x" for size in KEY_SIZES if size > 6}
    work.update(wanted)
    work.commit()
    alone = home.open(codec="bytes").worktree("alone", create=True)
    for size in PAGES:  # and each as the only entry of a tree
        alone.clear()
        alone[""] = of_size(size)
        alone.commit()
        assert alone.refresh() and dict(alone) == {"": of_size(size)}
    found = dict(home.open().snapshot())
    assert found == wanted
    home.close()


@pytest.mark.parametrize("size", [MAX_KEY_BYTES + 1, 1 << 20, 16 << 20])
def test_keys_that_are_too_long_are_refused_before_anything_is_written(size, tmp_path):
    with kvgit.open(tmp_path / "store") as work:
        before = work.repo.stats()
        for key in ("k" * size, "é" * (size // 2 + 1)):
            error = raised_by(lambda key=key: work.__setitem__(key, 1))
            assert isinstance(error, kvgit.InvalidKeyError)
            assert "65,535" in str(error) and len(str(error)) < 300
        assert not work.has_changes
        assert work.repo.stats() == before


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_large_values_come_back(kind, tmp_path):
    sizes = [16 << 20, *([100 << 20] if pick(0, 10) else []), *([(2 << 30) + 1] if pick(0, 1) else [])]
    for size in sizes:
        home = Home(kind, tmp_path / str(size))
        (tmp_path / str(size)).mkdir()
        work = home.open(codec="bytes").worktree()
        value = of_size(1 << 20) * (size >> 20) + bytes(size & 0xFFFFF)
        work["large"], work["same"] = value, value
        work.commit()
        assert home.open().snapshot()["large"] == value
        assert home.open().stats()["blob_count" if kind == "lmdb" else "ref_count"] <= 2
        home.close()
        shutil.rmtree(tmp_path / str(size))
    record("H5", max_value_bytes=max(sizes), violations=0)


def test_control_a_value_cut_by_a_byte_would_be_seen(monkeypatch):
    """A codec that loses the last byte of a page: the comparison of sizes at the edges finds it."""
    cut = kvgit.Codec("cut", bytes, lambda data: data[:-1] if len(data) == 4_096 else data)
    with kvgit.open(codec=cut) as work:
        work.update({f"v{size}": of_size(size) for size in (4_095, 4_096, 4_097)})
        work.commit()
        wrong = [size for size in (4_095, 4_096, 4_097) if work[f"v{size}"] != of_size(size)]
    assert wrong == [4_096]


# --- H6: text

LOOK_ALIKE = [
    "é", "e\u0301", "É", "E\u0301", "ﬁ", "fi", "Å", "\u212b", "A\u030a", "ß", "ss", "ẞ", "İ",
    "i\u0307", "ı", "i",
    "a", "а", "A", "Α", "А", "\u200b", "", "\u200ba", "a\u200b", "\ufeffa", "a\u0000", "\u0000", "a\u0000b",
    "\u202ea", "a\u202e", "👩\u200d👩\u200d👧", "👩👩👧", "👍", "👍🏽", "\U0010ffff", "\ud7ff",
    "\ue000", "１", "1", "²", "2",
    " ", "\u00a0", "\u2003", "\t", "\n", "\r\n", "a/b", "a\u2215b", "a\uff0fb", "a//b", "a/", "/a",
    "a/./b", "a/../b",
]  # fmt: skip
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(LOOK_ALIKE)


@pytest.mark.parametrize("kind", KINDS)
def test_texts_that_look_alike_are_different_keys(kind, tmp_path):
    assert len(set(LOOK_ALIKE)) == len(LOOK_ALIKE)
    assert len({unicodedata.normalize("NFKC", text).casefold() for text in LOOK_ALIKE}) < len(LOOK_ALIKE) - 10
    home = Home(kind, tmp_path)
    work = home.open().worktree()
    for number, text in enumerate(LOOK_ALIKE):
        work[text] = number
        work.commit()
    found = home.open().snapshot()
    assert dict(found) == {text: number for number, text in enumerate(LOOK_ALIKE)}
    for prefix in LOOK_ALIKE:
        assert set(found.keys(prefix)) == {text for text in LOOK_ALIKE if text.startswith(prefix)}
    home.close()


@settings(max_examples=100)
@given(st.dictionaries(TEXTS, st.integers(0, 9), max_size=12), TEXTS, TEXTS)
def test_any_text_is_a_key_of_its_own(entries, prefix, other):
    with kvgit.open() as work:
        work.update(entries)
        work.commit()
        assert dict(work) == entries
        assert set(work.keys(prefix)) == {key for key in entries if key.startswith(prefix)}
        assert (other in work) is (other in entries)


def test_control_a_store_that_normalises_would_be_found_out():
    """The same comparison over a mapping that does."""
    normal = {unicodedata.normalize("NFC", text): number for number, text in enumerate(LOOK_ALIKE)}
    assert normal != {text: number for number, text in enumerate(LOOK_ALIKE)}


# --- H7: values that Python takes for equal, or that are none


class Float64(float):
    """As a numpy scalar is: a float by inheritance."""


class Flag(int):
    """As an enumeration with int values is."""


DISTINCT: list[Any] = [
    1, 1.0, True, "1", b"1", 0, 0.0, -0.0, False, "", b"", None, [], {}, [1], [1.0], [True], ["1"],
    {"1": 1}, {1: 1},
    {b"1": 1}, {True: 1}, {1.0: 1}, float("nan"), float("inf"), -1, (1 << 64) - 1, -(1 << 63),
    2.0**63, 1 << 63,
    [[]], [None], {"": None}, "\u0000", "é", "e\u0301",
]  # fmt: skip
NOT_PLAIN = [
    (1,), 1 << 64, -(1 << 63) - 1, {1, 2}, 1j, Float64(1.0), Flag(1), range(3), object(),
    bytearray(b"1"), memoryview(b"1"),
    ..., int, "\ud800", [(1,)], {"a": {1}}, {(1,): 1}, {Flag(1): 1},
]  # fmt: skip


def same(one: Any, other: Any) -> bool:
    """Equal, of the same types throughout; a nan equals itself, -0.0 is not 0.0."""
    return repr(one) == repr(other) and type(one) is type(other)


@pytest.mark.parametrize("kind", KINDS)
def test_values_of_different_types_are_different_values(kind, tmp_path):
    home = Home(kind, tmp_path)
    work = home.open().worktree()
    roots = []
    for value in DISTINCT:
        work["key"] = value
        result = work.commit(time=None)
        assert result.strategy == "fast_forward"  # what Python takes for equal is a change all the same
        assert same(work["key"], value)
        roots.append(work.repo.get_commit(result.commit).tree)
    assert len(set(roots)) == len(DISTINCT)
    home.close()


def test_a_merge_of_values_that_python_takes_for_equal_is_a_conflict():
    for one, other in itertools.combinations((1, 1.0, True), 2):
        with kvgit.open() as work:
            work["key"] = "base"
            work.commit()
            work.repo.branches.create("side")
            side = work.repo.worktree("side")
            work["key"], side["key"] = one, other
            work.commit()
            side.commit()
            with pytest.raises(kvgit.MergeConflict):
                work.merge(branch="side")
            assert [change.kind for change in work.repo.diff("main", "side")] == ["modified"]


@pytest.mark.parametrize("value", NOT_PLAIN, ids=lambda value: type(value).__name__)
def test_what_would_come_back_as_something_else_is_refused(value):
    with kvgit.open() as work:
        error = raised_by(lambda: work.__setitem__("key", value))
        assert isinstance(error, kvgit.EncodeError) and "'key'" in str(error)
        assert not work.has_changes


def test_control_by_python_s_own_equality_these_changes_are_missed():
    assert sum(one == other for one, other in itertools.combinations(DISTINCT, 2)) > 10


# --- H8: names

PIECES = (
    "a", "b", "..", ".", "/", "//", "~", "^", ":", "?", "*", "[", "\\", "@", "@{", "-", " ", "\t",
    "\x7f", "\x00", ".lock",
    "lock", "HEAD", "é", "refs", "heads", "CON", "nul", "C:", "%2e", "\u202e", "{", "}", "$(x)",
    "`", "'", '"', ";", "|", "\u2028",
)  # fmt: skip
HOSTILE_NAMES = [
    "../x", "../../etc/passwd", "/etc/passwd", "a/../b", "a/..", "..", ".", ".git", "a/.b",
    "x.lock", "x.lock/y", "a\\b",
    "a:b", "a?b", "a*b", "a[b", "a b", "a\nb", "a\rb", "a\x00b", "a\x1b[2Jb", "a~b", "a^b", "a..b",
    "@", "a@{b", "-rf", "a/", "a.",
    "x" * 10_000, "é" * 101,
]  # fmt: skip
FINE_NAMES = [
    "a", "a/b", "CON", "nul", "aux.txt", "com1", "$(x)", "`x`", "'", '"', ";", "|", "%2e%2e",
    "x" * 200, "refs/heads/main", "HEAD",
]  # fmt: skip
GIT = shutil.which("git")


def git_accepts(name: str) -> bool:
    """Whether git takes it as the name of a branch (as a ref; `git branch` also refuses a leading "-")."""
    if "\0" in name:
        return False
    done = subprocess.run(
        [str(GIT), "check-ref-format", f"refs/heads/{name}"], check=False, capture_output=True
    )
    return done.returncode == 0


def is_accepted(name: str) -> bool:
    try:
        refs.check_name(name)
    except kvgit.InvalidNameError:
        return False
    return True


def disagreements(count: int, seed: int) -> tuple[int, list[str]]:
    """How many random names both accept, and those on which we and git differ other than documented."""
    rng = random.Random(seed)
    both, wrong = 0, []
    for _ in range(count):
        name = "".join(rng.choice(PIECES) for _ in range(rng.randint(0, 4)))
        ours, theirs = is_accepted(name), git_accepts(name)
        both += ours and theirs
        stricter = name.startswith("-") or name == "@" or len(name.encode()) > refs.MAX_NAME_BYTES
        if ours != theirs and not (theirs and stricter):
            wrong.append(name)
    return both, wrong


needs_git = pytest.mark.skipif(GIT is None, reason="compares with the git program")


@needs_git
def test_names_are_those_that_git_allows():
    both, wrong = disagreements(150, 1)
    assert wrong == []
    assert both > 10


@pytest.mark.slow
@needs_git
def test_many_names_are_those_that_git_allows():
    count = pick(500, 20_000)
    both, wrong = disagreements(count, 2)
    record("H8", names=count, accepted_by_both=both, violations=len(wrong))
    assert wrong == []


@needs_git
def test_control_without_a_rule_git_disagrees(monkeypatch):
    monkeypatch.setattr(refs, "_FORBIDDEN", frozenset(" ~^?*[\\\x7f"))  # the colon is forgotten
    assert any(":" in name for name in disagreements(400, 1)[1])


@pytest.mark.parametrize("kind", KINDS)
def test_no_name_or_key_leads_out_of_the_store(kind, tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    home = Home(kind, inside)
    repo = home.open()
    for name in HOSTILE_NAMES:
        for call in (repo.branches.create, repo.tags.create, lambda n: repo.worktree(n, create=True)):
            error = raised_by(lambda call=call, name=name: call(name))
            assert isinstance(error, kvgit.InvalidNameError) and len(str(error)) < 300
    for name in FINE_NAMES:
        repo.branches.create(name)
        repo.tags.create(name)
    assert set(FINE_NAMES) <= set(repo.branches)
    work = repo.worktree()
    keys = [*HOSTILE_NAMES[:-2], *FINE_NAMES, "C:\\x", "\\\\host\\share", "file:///etc/passwd"]
    work.update({key: key for key in keys})
    work.commit()
    assert dict(home.open().snapshot()) == {key: key for key in keys}
    home.close()
    files = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert files <= {"data.mdb", "lock.mdb", "FORMAT", "WITNESS"}
    assert sorted(os.listdir(tmp_path)) == ["inside"]


def test_a_path_with_dots_is_the_caller_s_and_stays_where_it_leads(tmp_path):
    (tmp_path / "a").mkdir()
    with kvgit.open(tmp_path / "a" / ".." / "b") as work:
        work["x"] = 1
        work.commit()
    assert (tmp_path / "b" / "data.mdb").exists()
    assert Path(tmp_path / "a").is_dir() and not list((tmp_path / "a").iterdir())
