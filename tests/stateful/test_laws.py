"""M3: laws of the whole repository, over random contents; those of bare trees are in tests/property."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import kvgit_hamt as kvgit
from kvgit_hamt import Repo, diff, gc, hamt, merge
from kvgit_hamt.codec import get_codec
from tests.stateful.test_model import KEYS, VALUES
from tests.support.history import three_way
from tests.support.homes import SMALL
from tests.support.scale import pick, record
from tests.support.trees import naive_root

CONTENT = st.dictionaries(KEYS, VALUES, max_size=14)
EXAMPLES = pick(500, 50_000)
Content = dict[str, Any]


def repo_of(*contents: Content) -> tuple[Repo, list[str]]:
    """A repository with a branch c0, c1, .. for each content, all over one first commit; the commits."""
    repo = Repo(shape=SMALL)
    commits = []
    for number, content in enumerate(contents):
        work = repo.worktree(f"c{number}", create=True)
        put(work, content)
        commits.append(work.commit(info={"n": number}, time=None).commit)
    return repo, commits


def put(work: kvgit.Worktree, content: Content) -> None:
    """Make a worktree hold just this."""
    for key in set(work) - set(content):
        del work[key]
    work.update(content)


def tree_of(repo: Repo, name: str) -> str:
    return repo.get_commit(name).tree


def the_root_depends_on_the_content_alone(data: st.DataObject) -> None:
    contents = data.draw(st.lists(CONTENT, min_size=1, max_size=4))
    repo, commits = repo_of(*contents)
    work = repo.worktree("c0")
    for content in [*contents[1:], *reversed(contents)]:
        put(work, content)
        work.commit(info={}, time=None)
    assert tree_of(repo, "c0") == tree_of(repo, commits[0])
    encode = get_codec("msgpack").encode
    expected = {key.encode(): encode(value) for key, value in contents[0].items()}
    assert tree_of(repo, "c0") == naive_root(SMALL, expected).hex()


def a_diff_is_the_reverse_of_its_reverse_and_leads_from_one_to_the_other(data: st.DataObject) -> None:
    one, other = data.draw(CONTENT), data.draw(CONTENT)
    repo, commits = repo_of(one, other)
    there = {change.key: (change.old, change.new, change.kind) for change in repo.diff(*commits)}
    back = {change.key: (change.old, change.new, change.kind) for change in repo.diff(*reversed(commits))}
    opposite = {"added": "removed", "removed": "added", "modified": "modified"}
    assert back == {key: (new, old, opposite[kind]) for key, (old, new, kind) in there.items()}
    work = repo.worktree("c0")
    for key, (_, new, kind) in there.items():
        if kind == "removed":
            del work[key]
        else:
            work[key] = new
    work.commit(info={})
    assert dict(work) == other
    assert tree_of(repo, "c0") == tree_of(repo, commits[1])


def a_merge_is_that_of_dicts_and_does_not_ask_who_is_first(data: st.DataObject) -> None:
    base, ours, theirs = data.draw(CONTENT), data.draw(CONTENT), data.draw(CONTENT)
    repo, (first,) = repo_of(base)
    for name, content in (("ours", ours), ("theirs", theirs)):
        repo.branches.create(name, at=first)
        work = repo.worktree(name)
        put(work, content)
        work.commit(info={"by": name}, time=None)
    wanted, conflicts = three_way(base, ours, theirs, None)
    results = []
    for name, other in (("ours", "theirs"), ("theirs", "ours")):
        repo.branches.create(f"{name}-merged", at=name)
        work = repo.worktree(f"{name}-merged")
        result = work.merge(branch=other, fast_forward=False, on_conflict="abandon", time=None)
        assert {conflict.key for conflict in result.conflicts} == conflicts
        results.append(tree_of(repo, f"{name}-merged"))
        if result.merged:
            assert dict(work) == wanted
    if not conflicts:
        assert results[0] == results[1]
        again = repo.worktree("ours-merged").merge(branch="theirs", time=None)
        assert again.strategy == "no_op"


def reading_is_the_same_in_every_way(data: st.DataObject) -> None:
    content = data.draw(CONTENT)
    repo, (commit,) = repo_of(content)
    found = repo.snapshot(commit=commit)
    keys = list(found)
    assert len(keys) == len(set(keys)) == len(found) == len(content)
    assert dict(found.items()) == content == found.get_many([*content, "absent"])
    assert {key: found[key] for key in keys} == content
    assert dict(found.sample(len(content) + 3, seed=1)) == content
    assert {key: found.get(key) for key in keys} == content and "absent" not in found
    decode = get_codec("msgpack").decode
    assert {key: decode(value) for key, value in found.raw.items()} == content


def gc_changes_nothing_that_is_reached(data: st.DataObject) -> None:
    contents = data.draw(st.lists(CONTENT, min_size=2, max_size=5))
    repo, _ = repo_of(*contents)
    gone = data.draw(st.integers(0, len(contents) - 1))
    repo.branches.delete(f"c{gone}")
    left = {name: tree_of(repo, name) for name in repo.branches}
    repo.gc(keep_reflog=0)
    assert {name: tree_of(repo, name) for name in repo.branches} == left
    for number, content in enumerate(contents):
        if number != gone:
            assert dict(repo.snapshot(branch=f"c{number}")) == content
    assert repo.gc(keep_reflog=0).freed_count == 0


def a_bundle_brings_all_and_a_second_time_nothing(data: st.DataObject) -> None:
    contents = data.draw(st.lists(CONTENT, min_size=1, max_size=3))
    repo, _ = repo_of(*contents)
    file = io.BytesIO()
    repo.bundle(file)
    with Repo(shape=SMALL) as other:
        counts = []
        for _ in range(2):
            other.load_bundle(io.BytesIO(file.getvalue()), force=True)
            assert dict(other.branches) == dict(repo.branches)
            counts.append(other.stats()["record_count"])
        assert counts[0] == counts[1]
        for number, content in enumerate(contents):
            assert dict(other.snapshot(branch=f"c{number}")) == content
        back = io.BytesIO()
        other.bundle(back)
    repo.load_bundle(io.BytesIO(back.getvalue()))


LAWS: tuple[Callable[[st.DataObject], None], ...] = (
    the_root_depends_on_the_content_alone,
    a_diff_is_the_reverse_of_its_reverse_and_leads_from_one_to_the_other,
    a_merge_is_that_of_dicts_and_does_not_ask_who_is_first,
    reading_is_the_same_in_every_way,
    gc_changes_nothing_that_is_reached,
    a_bundle_brings_all_and_a_second_time_nothing,
)


def holds(law: Callable[[st.DataObject], None], examples: int, **options: Any) -> None:
    """Try a law."""
    settings(max_examples=examples, **options)(given(st.data())(law))()


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_a_law_holds(law):
    holds(law, 25)


@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_a_law_holds_for_many(law):
    holds(law, EXAMPLES)
    record("M3", examples=EXAMPLES, violations=0)


whole_diff = diff.diff
whole_merge = merge.merge
BROKEN: dict[str, tuple[Any, str, Any, int]] = {
    "leaves are not joined": (hamt.Editor, "join", lambda self, segments: segments, 0),
    "one is left out": (diff, "diff", lambda *given: itertools.islice(whole_diff(*given), 1, None), 1),
    "the base is not asked": (merge, "merge", lambda w, s, t, r: whole_merge(w, s, (t[1], *t[1:]), r), 2),
    "the last key is never told": (hamt, "get_many", lambda *given: {}, 3),
    "blobs are forgotten": (gc.Marker, "_mark_blobs", lambda self, body: None, 4),
    "children are forgotten": (gc.Marker, "_below", lambda self, body, level: iter(()), 4),
}


@pytest.mark.parametrize("what", BROKEN)
def test_control_a_broken_engine_breaks_its_law(what, monkeypatch):
    owner, name, instead, law = BROKEN[what]
    monkeypatch.setattr(owner, name, instead)
    with pytest.raises((AssertionError, kvgit.KvgitHamtError)):
        holds(
            LAWS[law],
            500,
            derandomize=True,
            database=None,
            phases=(Phase.generate,),
            report_multiple_bugs=False,
        )
