"""A repository beside a model of plain dicts, through any sequence of calls."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import kvgit_hamt as kvgit
from kvgit_hamt import DELETE, OURS, THEIRS
from kvgit_hamt.codec import get_codec
from tests.support.history import ABSENT, Histories, changed_keys, three_way
from tests.support.homes import SMALL, Home
from tests.support.trees import naive_root

KEYS = st.sampled_from([f"{d}{k}" for d in ("", "a/", "a/b/", "c/") for k in ("1", "2", "3", "longer-key")])
VALUES = st.one_of(
    st.integers(0, 3), st.none(), st.sampled_from(["s", "text " * 8, "blob " * 30, "other blob " * 20])
)
PREFIXES = st.sampled_from(["", "a/", "a", "a/b/", "c/", "lo", "none/"])
PICK = st.sampled_from(range(60))
CHANGES = st.dictionaries(KEYS, st.just(ABSENT) | VALUES, min_size=1, max_size=5)
RULES = {
    "none": (None, None),
    "ours": (OURS, lambda old, ours, theirs: ours),
    "theirs": (THEIRS, lambda old, ours, theirs: theirs),
    "delete": (DELETE, lambda old, ours, theirs: ABSENT),
    "function": (lambda old, ours, theirs: "merged", lambda old, ours, theirs: "merged"),
}
RULE = st.sampled_from(sorted(RULES))


def _kind(key, old, new):
    if key not in old:
        return "added"
    return "modified" if key in new else "removed"


@dataclass
class View:
    """A worktree and what the model says of it."""

    tree: kvgit.Worktree
    base: str
    pending: dict[str, Any] = field(default_factory=dict)


class RepoMachine(RuleBasedStateMachine):
    def __init__(self, kind: str, directory: Path) -> None:
        super().__init__()
        self.home = Home(kind, directory)
        self.repo = self.home.open(shape=SMALL)
        self.model = Histories()
        self.branches: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.views: list[View] = []
        self.roots: dict[str, str] = {}

    def teardown(self) -> None:
        self.home.close()

    @initialize()
    def begin(self) -> None:
        initial = self.repo.branches["main"]
        self.model.add(initial, {}, ())
        self.branches["main"] = initial
        view = self._view("main")
        self._edit(view, {f"{d}{k}": 0 for d in ("", "a/", "a/b/") for k in "123"})
        self._commit(view)
        self.create_branch(1, "side")
        self._view("main")

    # the model's side

    def _view(self, branch: str) -> View:
        view = View(self.repo.worktree(branch), self.branches[branch])
        self.views.append(view)
        del self.views[:-4]
        return view

    def _content(self, name: str) -> dict[str, Any]:
        return dict(self.model.nodes[name].content)

    def _edited(self, base: dict[str, Any], pending: dict[str, Any]) -> dict[str, Any]:
        edited = {**base, **pending}
        return {key: value for key, value in edited.items() if value is not ABSENT}

    def _pick_view(self, number: int, clean: bool = False) -> View | None:
        views = [view for view in self.views if not (clean and view.pending)]
        return views[number % len(views)] if views else None

    def _pick_commit(self, number: int) -> str:
        """A head twice in three, else any commit."""
        heads = sorted(self.branches.values())
        names = heads if number % 3 else list(self.model.nodes)
        return names[number // 3 % len(names)]

    def _head(self, view: View) -> str:
        return self.branches[view.tree.branch]

    def _moved(self, view: View, commit: str, content: dict[str, Any], parents: tuple[str, ...]) -> None:
        stored = self.repo.get_commit(commit)
        assert stored.parents == parents
        self.model.add(commit, content, parents)
        assert stored.generation == self.model.nodes[commit].generation
        self.branches[view.tree.branch] = view.base = commit

    # edits

    @rule(number=PICK, changes=CHANGES)
    def edit(self, number, changes):
        self._edit(self._pick_view(number), changes)

    def _edit(self, view: View, changes: dict[str, Any]) -> None:
        base = self._content(view.base)
        for key, value in changes.items():
            if value is not ABSENT:
                view.tree[key] = view.pending[key] = value
            elif key not in self._edited(base, view.pending):
                with pytest.raises(KeyError):
                    del view.tree[key]
            else:
                del view.tree[key]
                view.pending[key] = ABSENT
                if key not in base:
                    del view.pending[key]

    @rule(number=PICK, keys=st.none() | st.lists(KEYS, max_size=3))
    def discard(self, number, keys):
        view = self._pick_view(number)
        view.tree.discard(keys)
        for key in list(view.pending) if keys is None else keys:
            view.pending.pop(key, None)

    # commits

    @rule(number=PICK, changes=CHANGES, part=st.booleans(), how=RULE, info=st.none() | st.just({"i": 1}))
    def commit(self, number, changes, part, how, info):
        view = self._pick_view(number)
        self._edit(view, changes)
        self._commit(view, part, number, how, info)

    @rule(number=PICK, how=RULE)
    def commit_what_is_pending(self, number, how):
        self._commit(self._pick_view(number), how=how)

    def _commit(self, view, part=False, seed=0, how="none", info=None):
        keys = None
        changes = dict(view.pending)
        if part and changes:
            keys = sorted(changes)[: 1 + seed % len(changes)]
            changes = {key: changes[key] for key in keys}
        chosen, merge = RULES[how]
        base, head = view.base, self._head(view)
        before = self._content(base)
        mine = self._edited(before, changes)
        result = view.tree.commit(
            keys=keys, info=info, time=None, default_merge=chosen, on_conflict="abandon"
        )
        if (not changes or mine == before) and info is None:
            assert (result.strategy, result.merged, result.commit) == ("no_op", True, base)
        elif head == base:
            assert result.strategy == "fast_forward"
            self._moved(view, result.commit, mine, (base,))
        elif not self._commit_moved(view, result, mine, merge, changes):
            return
        for key in changes:
            view.pending.pop(key, None)

    def _commit_moved(self, view, result, mine, merge, changes):
        base, head = view.base, self._head(view)
        before = self._content(base)
        common = self._content(self.model.merge_bases(base, head)[0])
        merged, conflicts = three_way(common, mine, self._content(head), merge)
        if not conflicts:
            rest = {key: value for key, value in view.pending.items() if key not in changes}
            moved = changed_keys(before, merged)
            conflicts = {key for key in rest if key in moved and rest[key] != merged.get(key, ABSENT)}
        assert {conflict.key for conflict in result.conflicts} == conflicts
        assert result.merged == (not conflicts)
        if conflicts:
            return False
        if result.strategy == "fast_forward":  # the very commit that somebody else made
            assert result.commit == head
            assert self.repo.get_commit(head).parents == (base,)
            assert self._content(head) == mine
            view.base = head
            return True
        assert result.strategy == "three_way"
        ours = self.repo.get_commit(result.commit).parents[1]
        self.model.add(ours, mine, (base,))
        assert dict(self.repo.snapshot(commit=ours)) == mine
        self._moved(view, result.commit, merged, (head, ours))
        return True

    @rule(number=PICK)
    def refresh(self, number):
        view = self._pick_view(number)
        old, new = self._content(view.base), self._content(self._head(view))
        moved = changed_keys(old, new)
        clashes = {k for k, v in view.pending.items() if k in moved and v != new.get(k, ABSENT)}
        if clashes:
            with pytest.raises(kvgit.MergeConflict) as caught:
                view.tree.refresh()
            assert caught.value.conflicting_keys == clashes
        else:
            assert view.tree.refresh() == self._head(view)
            view.base = self._head(view)

    @rule(number=PICK, index=PICK, how=RULE, fast_forward=st.booleans(), dry_run=st.booleans())
    def merge(self, number, index, how, fast_forward, dry_run):
        view = self._pick_view(number, clean=True)
        if view is None:
            return
        chosen, merge = RULES[how]
        head, theirs = self._head(view), self._pick_commit(index)
        result = view.tree.merge(
            commit=theirs, fast_forward=fast_forward, dry_run=dry_run, on_conflict="abandon",
            default_merge=chosen, time=None,
        )  # fmt: skip
        merged, conflicts = None, set()
        if self.model.is_ancestor(theirs, head):
            assert result.strategy == "no_op"
            merged = self._content(head)
        elif fast_forward and self.model.is_ancestor(head, theirs):
            assert result.strategy == "fast_forward"
            merged = self._content(theirs)
        else:
            assert result.strategy == "three_way"
            common = self._content(self.model.merge_bases(head, theirs)[0])
            merged, conflicts = three_way(common, self._content(head), self._content(theirs), merge)
            assert {conflict.key for conflict in result.conflicts} == conflicts
        assert result.merged == (not conflicts)
        if conflicts or dry_run:
            return
        if result.strategy == "three_way":
            self._moved(view, result.commit, merged, (head, theirs))
        else:
            assert result.commit == (head if result.strategy == "no_op" else theirs)
            self.branches[view.tree.branch] = view.base = result.commit

    @rule(number=PICK, index=PICK, how=RULE, revert=st.booleans(), seed=PICK)
    def replay(self, number, index, how, revert, seed):
        view = self._pick_view(number, clean=True)
        name = self._pick_commit(index)
        parents = self.model.nodes[name].parents
        if view is None or not parents:
            return
        mainline = 1 + seed % len(parents)
        chosen, merge = RULES[how]
        head = self._head(view)
        call = view.tree.revert if revert else view.tree.cherry_pick
        result = call(name, mainline=mainline, default_merge=chosen, on_conflict="abandon", time=None)
        steps = [self._content(parents[mainline - 1]), self._content(name)]
        if revert:
            steps.reverse()
        merged, conflicts = three_way(steps[0], self._content(head), steps[1], merge)
        assert {conflict.key for conflict in result.conflicts} == conflicts
        if conflicts:
            assert not result
        elif merged == self._content(head):
            assert result.strategy == "no_op"
            view.base = head
        else:
            self._moved(view, result.commit, merged, (head,))

    @rule(number=PICK, index=PICK)
    def reset(self, number, index):
        view = self._pick_view(number, clean=True)
        if view is None:
            return
        target = self._pick_commit(index)
        if self._head(view) != view.base:
            with pytest.raises(kvgit.BranchMovedError):
                view.tree.reset(target)
            return
        assert view.tree.reset(target) == view.base
        self.branches[view.tree.branch] = view.base = target

    # refs and handles

    @precondition(lambda self: len(self.branches) < 4)
    @rule(index=PICK, name=st.sampled_from(["side", "dev/x", "third"]))
    def create_branch(self, index, name):
        target = self._pick_commit(index)
        if name in self.branches:
            with pytest.raises(kvgit.BranchExistsError):
                self.repo.branches.create(name, at=target)
            return
        assert self.repo.branches.create(name, at=target) == target
        self.branches[name] = target
        self._view(name)

    @rule(name=st.sampled_from(["side", "dev/x", "third"]))
    def delete_branch(self, name):
        if name in self.branches:
            assert self.repo.branches.delete(name) == self.branches.pop(name)
            self.views = [view for view in self.views if view.tree.branch != name]
            if not self.views:
                self._view("main")

    @rule(old=st.sampled_from(["side", "dev/x"]), new=st.sampled_from(["third", "side"]))
    def rename_branch(self, old, new):
        if old in self.branches and new not in self.branches:
            self.repo.branches.rename(old, new)
            self.branches[new] = self.branches.pop(old)
            self.views = [view for view in self.views if view.tree.branch != old]
            self._view(new)

    @rule(index=PICK, name=st.sampled_from(["v1", "v2"]))
    def create_tag(self, index, name):
        target = self._pick_commit(index)
        if name in self.tags:
            with pytest.raises(kvgit.TagExistsError):
                self.repo.tags.create(name, at=target)
        else:
            self.repo.tags.create(name, at=target, info={"n": index})
            self.tags[name] = target

    @rule(number=PICK)
    def another_worktree(self, number):
        names = sorted(self.branches)
        self._view(names[number % len(names)])

    @rule()
    def reopen(self):
        self.repo.close()
        self.repo = self.home.open()
        branches = [view.tree.branch for view in self.views]
        self.views.clear()
        for branch in branches:
            self._view(branch)

    # reading

    @rule(one=PICK, other=PICK, prefix=PREFIXES)
    def diff(self, one, other, prefix):
        names = [self._pick_commit(one), self._pick_commit(other)]
        old, new = (self._content(name) for name in names)
        changed = {key for key in changed_keys(old, new) if key.startswith(prefix)}
        want = {key: (old.get(key), new.get(key), _kind(key, old, new)) for key in changed}
        found = {change.key: change[1:] for change in self.repo.diff(*names, prefix)}
        assert found == want
        kinds = [kind for _, _, kind in want.values()]
        stat = self.repo.diff_stat(*names, prefix)
        assert (stat.added, stat.removed, stat.modified) == tuple(
            kinds.count(kind) for kind in ("added", "removed", "modified")
        )

    @rule(index=PICK, prefix=PREFIXES)
    def scan(self, index, prefix):
        name = self._pick_commit(index)
        part = {key: value for key, value in self._content(name).items() if key.startswith(prefix)}
        snapshot = self.repo.snapshot(commit=name)
        assert dict(snapshot.items(prefix)) == part
        assert sorted(snapshot.keys(prefix)) == sorted(part)

    @rule(index=PICK, first_parent=st.booleans(), limit=st.none() | st.integers(0, 5), prefix=PREFIXES)
    def log(self, index, first_parent, limit, prefix):
        name = self._pick_commit(index)
        want = self.model.log(name, first_parent)
        found = [commit.id for commit in self.repo.log(name, first_parent=first_parent, limit=limit)]
        assert found == want[:limit]
        touching = [each for each in want if self.model.touches(each, lambda key: key.startswith(prefix))]
        found = [
            commit.id for commit in self.repo.log(name, first_parent=first_parent, limit=limit, prefix=prefix)
        ]
        assert found == touching[:limit]

    @rule(one=PICK, other=PICK)
    def merge_base(self, one, other):
        names = [self._pick_commit(one), self._pick_commit(other)]
        assert self.repo.merge_base(*names) == self.model.merge_bases(*names)[0]

    # what always holds

    @invariant()
    def branches_hold_what_the_model_says(self):
        assert dict(self.repo.branches) == self.branches
        assert dict(self.repo.tags) == self.tags
        for name, commit in self.branches.items():
            content = self._content(commit)
            snapshot = self.repo.snapshot(branch=name)
            assert dict(snapshot) == content
            assert len(snapshot) == len(content)
            assert snapshot.commit.tree == self._root(commit)

    @invariant()
    def worktrees_hold_what_the_model_says(self):
        for view in self.views:
            base = self._content(view.base)
            content = self._edited(base, view.pending)
            assert view.tree.base == view.base
            assert dict(view.tree) == content
            assert len(view.tree) == len(content)
            status = view.tree.status()
            assert status.removed == {key for key, value in view.pending.items() if value is ABSENT}
            assert status.updated | status.removed == set(view.pending)
            assert {change.key for change in view.tree.diff()} == changed_keys(base, content)

    def _root(self, commit: str) -> str:
        root = self.roots.get(commit)
        if root is None:
            encode = get_codec("msgpack").encode
            entries = {key.encode(): encode(value) for key, value in self._content(commit).items()}
            root = self.roots[commit] = naive_root(SMALL, entries).hex()
        return root


def run(kind, tmp_path, examples, steps):
    numbers = itertools.count()
    run_state_machine_as_test(
        lambda: RepoMachine(kind, tmp_path / str(next(numbers))),
        settings=settings(max_examples=examples, stateful_step_count=steps),
    )


@pytest.mark.parametrize(("kind", "examples"), [("memory", 120), ("placed", 70), ("lmdb", 70)])
def test_any_sequence_of_calls_agrees_with_dicts(kind, examples, tmp_path):
    run(kind, tmp_path, examples, 40)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "examples"), [("memory", 1_000), ("placed", 500), ("lmdb", 300)])
def test_any_long_sequence_of_calls_agrees_with_dicts(kind, examples, tmp_path):
    run(kind, tmp_path, examples, 60)
