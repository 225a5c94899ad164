"""M1: the machine of test_model.py with all that keeps a store in order among its rules.

gc, check, compact, bundles, copies and bulk loads come between any other calls. What they must not change is
compared with the model after each step; every twentieth step the whole store is checked.
"""

from __future__ import annotations

import io
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule, run_state_machine_as_test

from kvgit_hamt import KvgitHamtError, Repo, diff, gc, graph, hamt, merge
from kvgit_hamt.backend import memory
from tests.stateful import test_model as model
from tests.support.homes import SMALL
from tests.support.scale import pick, record

CHECK_EVERY = 20
STEPS = 50
counted = {"steps": 0, "checks": 0, "collections": 0, "bundles": 0, "loads": 0, "copies": 0}


class UpkeepMachine(model.RepoMachine):
    """The machine, with upkeep."""

    def __init__(self, kind: str, directory: Path) -> None:
        super().__init__(kind, directory)
        self.directory = directory
        self.step_count = 0

    def check(self, repo: Repo) -> None:
        """A deep check finds nothing, and has met every commit that refs reach."""
        checking = repo.check(deep=True)
        assert list(checking) == []
        result = checking.result()
        assert result.is_sound
        assert result.commit_count >= len(self.held(with_views=False))
        counted["checks"] += 1

    def held(self, with_views: bool = True) -> set[str]:
        """The commits that refs and open views reach."""
        tips = [*self.branches.values(), *self.tags.values()]
        if with_views:
            tips += [view.base for view in self.views]
        return self.model.ancestors(*tips)

    @rule(keeps_reflog=st.booleans())
    def collect(self, keeps_reflog):
        before = {name: self.repo.get_commit(name).tree for name in self.held()}
        self.repo.gc(keep_reflog=10**9 if keeps_reflog else 0)
        if not keeps_reflog:
            held = self.held()
            self.model.nodes = {name: node for name, node in self.model.nodes.items() if name in held}
        assert {name: self.repo.get_commit(name).tree for name in before} == before
        assert self.repo.gc(dry_run=True, keep_reflog=10**9 if keeps_reflog else 0).freed_count == 0
        counted["collections"] += 1

    @rule()
    def compact(self):
        before, after = self.repo.compact()
        assert after <= before

    @rule(number=model.PICK, items=st.dictionaries(model.KEYS, model.VALUES, max_size=12))
    def load(self, number, items):
        view = self._pick_view(number, clean=True)
        if view is None:
            return
        head = self._head(view)
        content = {**self._content(head), **items}
        if head != view.base:
            view.tree.refresh()
            view.base = head
        result = view.tree.load(items, time=None)
        if result.strategy == "no_op":
            assert content == self._content(head)
        else:
            self._moved(view, result.commit, content, (head,))
        counted["loads"] += 1

    @rule(history=st.booleans())
    def bundle(self, history):
        data = io.BytesIO()
        self.repo.bundle(data, history=history)
        with Repo(shape=SMALL) as other:
            for _ in range(2):  # loaded twice it is loaded once
                other.load_bundle(io.BytesIO(data.getvalue()), force=True)
                if history:
                    assert dict(other.branches) == self.branches
                    assert dict(other.tags) == self.tags
                for name, commit in self.branches.items():
                    snapshot = other.snapshot(branch=name)
                    assert dict(snapshot) == self._content(commit)
                    assert snapshot.commit.tree == self._root(commit)
            assert list(other.check()) == []
        counted["bundles"] += 1

    @rule()
    def copy(self):
        if self.home.kind != "lmdb":
            return
        target = self.directory / f"copy{self.step_count}"
        self.repo.copy(target)
        with Repo(target) as other:
            assert dict(other.branches) == self.branches
            self.check(other)
        counted["copies"] += 1

    @invariant()
    def the_whole_store_is_sound(self):
        counted["steps"] += 1
        self.step_count += 1
        if self.step_count % CHECK_EVERY == 0:
            self.check(self.repo)

    def teardown(self) -> None:
        if not sys.exc_info()[0] and self.branches:
            self.check(self.repo)
        super().teardown()


def run(kind: str, directory: Path, examples: int, steps: int = STEPS, **options: Any) -> None:
    numbers = itertools.count()

    def machine() -> UpkeepMachine:
        place = directory / str(next(numbers))
        place.mkdir()
        return UpkeepMachine(kind, place)

    run_state_machine_as_test(
        machine, settings=settings(max_examples=examples, stateful_step_count=steps, **options)
    )


@pytest.mark.parametrize("kind", ["memory", "lmdb"])
def test_upkeep_between_any_calls_changes_nothing_that_is_held(kind, tmp_path):
    run(kind, tmp_path, 8)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "ci", "soak"), [("memory", 240, 15_000), ("lmdb", 60, 5_000)])
def test_upkeep_between_any_calls_for_long(kind, ci, soak, tmp_path):
    for count in counted:
        counted[count] = 0
    examples, steps = pick(ci, soak), pick(STEPS, 100)
    run(kind, tmp_path, examples, steps)
    assert counted["steps"] > 20 * examples
    assert min(counted[each] for each in ("checks", "collections", "bundles", "loads")) > examples // 10
    record("M1", examples=examples, violations=0, **counted)


# --- negative controls: engines with one thing broken, which the machine must notice


def first_left_out(reader: Any, *given: Any) -> Any:
    return itertools.islice(whole_diff(reader, *given), 1, None)


def oldest_base(store: Any, one: Any, other: Any) -> Any:
    *_, last = graph.log(store, [one])
    return [last]


def blind_put(refs: dict[str, bytes], update: Any) -> None:
    if update.new is None:
        refs.pop(update.name, None)
    else:
        refs[update.name] = update.new


whole_diff = diff.diff
BROKEN: dict[str, tuple[ModuleType | type, str, Callable[..., Any]]] = {
    "a merge that takes ours": (merge, "merge", lambda writer, shape, trees, resolve: trees[1]),
    "a diff that leaves one out": (diff, "diff", first_left_out),
    "gc that forgets blobs": (gc.Marker, "_mark_blobs", lambda self, body: None),
    "gc that forgets a parent": (gc.Marker, "mark_commit", lambda self, oid: mark_alone(self, oid)),
    "a blind put for a compare-and-set": (memory, "_move", blind_put),
    "deletes that join no leaves": (hamt.Editor, "join", lambda self, segments: segments),
    "merges over the oldest ancestor": (graph, "merge_bases", oldest_base),
}


def mark_alone(marker: Any, oid: bytes) -> None:
    commit = marker.store.read_commit(oid)
    if marker.marks.add(commit.oid, commit.loc):
        marker.mark_tree(commit.tree)


@pytest.mark.parametrize("what", BROKEN)
def test_control_a_broken_engine_is_found_out(what, tmp_path, monkeypatch):
    owner, name, instead = BROKEN[what]
    monkeypatch.setattr(owner, name, instead)
    with pytest.raises((AssertionError, KvgitHamtError, pytest.fail.Exception)):
        run(
            "memory", tmp_path, 300, 30, derandomize=True, database=None, phases=(Phase.generate,),
            report_multiple_bugs=False,
        )  # fmt: skip
