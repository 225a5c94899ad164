"""What a store must hold after each step of a sequence that follows from a seed alone.

The harnesses of crashes and power cuts run such a sequence in a process that dies, count the steps that were
acknowledged, and compare the store that is left with plain dicts.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeAlias

from kvgit_hamt import Repo

Content: TypeAlias = dict[str, str]
State: TypeAlias = dict[str, Content]
"""Branches and what they hold."""

MAIN, SIDE = "main", "side"
START: State = {MAIN: {}}  # of a store that was just made
KEY_COUNT = 200  # of each of the two branches
SIZES = (0, 5, 40, 40, 40, 90, 90, 200, 700, 3_000)  # of values: some are out of line
BIG_BYTES = 1_500_000
BIG_KEYS = 3
BUNDLE = "commits.bundle"
BUNDLE_STEPS = 20  # commits in the bundle
LOAD_COUNT = 400


class Plan(NamedTuple):
    """A sequence without end: step ``n`` (from 1) is of the n-th kind, over and over.

    Kinds: "commit" (to main), "fork" (side at main), "side" (a commit there), "merge" (side into main),
    "drop" (side), "load", "big" (a commit that makes the map grow), "gc", "compact",
    "bundle" (loaded as side; ``make_bundle`` puts it beside the store), "copy" (beside the store).
    """

    seed: int
    kinds: tuple[str, ...]

    def kind(self, n: int) -> str:
        return self.kinds[(n - 1) % len(self.kinds)]

    def changes(self, n: int) -> dict[str, str | None]:
        """What step ``n`` puts and deletes in its branch."""
        kind = self.kind(n)
        rng = random.Random(f"{self.seed} {n}")
        if kind == "load":
            return {f"load/{rng.randrange(3 * LOAD_COUNT)}": _value(rng, n) for _ in range(LOAD_COUNT)}
        if kind == "big":
            return {f"big/{n % BIG_KEYS}": f"{n}" * (BIG_BYTES // len(f"{n}"))}
        changes: dict[str, str | None] = {"side/n" if kind == "side" else "n": f"{n}"}
        for _ in range(rng.randint(1, 12)):
            key = f"{'side' if kind == 'side' else 'd'}/{rng.randrange(KEY_COUNT)}"
            changes[key] = None if rng.random() < 0.25 else _value(rng, n)
        return changes

    def after(self, state: State, n: int) -> State:
        """The state after step ``n``, of the one before it. Nothing that is given is changed."""
        kind = self.kind(n)
        if kind in ("commit", "load", "big"):
            return {**state, MAIN: _changed(state[MAIN], self.changes(n))}
        if kind == "side":
            return {**state, SIDE: _changed(state[SIDE], self.changes(n))}
        if kind == "bundle":
            return {**state, SIDE: bundle_content()}
        if kind == "fork":
            return {**state, SIDE: state[MAIN]}
        if kind == "drop":
            return {name: content for name, content in state.items() if name != SIDE}
        if kind == "merge":  # keys of the one side are never changed on the other
            mine = {key: value for key, value in state[MAIN].items() if not key.startswith("side/")}
            theirs = {key: value for key, value in state[SIDE].items() if key.startswith("side/")}
            return {**state, MAIN: {**mine, **theirs}}
        assert kind in ("gc", "compact", "copy")
        return state

    def run(self, repo: Repo, n: int) -> None:
        """Do step ``n`` in a store that is in the state before it."""
        _STEPS[self.kind(n)](self, repo, n)


def _value(rng: random.Random, n: int) -> str:
    return f"{n}:" + rng.choice("abcdef") * rng.choice(SIZES)


def _changed(content: Content, changes: dict[str, str | None]) -> Content:
    merged = {**content, **changes}
    return {key: value for key, value in merged.items() if value is not None}


def make_bundle(directory: Path) -> None:
    """Write the bundle that steps of kind "bundle" load from a store below ``directory``."""
    with Repo() as repo:
        for n in range(1, BUNDLE_STEPS + 1):
            _BUNDLE.run(repo, n)
        repo.bundle(directory / BUNDLE)


@functools.cache
def bundle_content() -> Content:
    """What the branch in the bundle holds."""
    state = START
    for n in range(1, BUNDLE_STEPS + 1):
        state = _BUNDLE.after(state, n)
    return state[MAIN]


def copy_path(store: Path, n: int) -> Path:
    """Where step ``n``, of kind "copy", puts the copy of a store."""
    return store.with_name(f"{store.name} copy {n}")


def _store_of(repo: Repo) -> Path:
    return Path(repo.store.backend.path)  # type: ignore[attr-defined]


def _bundle(plan: Plan, repo: Repo, n: int) -> None:
    repo.load_bundle(_store_of(repo).parent / BUNDLE, {MAIN: SIDE})


def _copy(plan: Plan, repo: Repo, n: int) -> None:
    repo.copy(copy_path(_store_of(repo), n), compact=n % 4 == 0)


def _commit(plan: Plan, repo: Repo, n: int, branch: str = MAIN) -> None:
    worktree = repo.worktree(branch)
    for key, value in plan.changes(n).items():
        if value is not None:
            worktree[key] = value
        else:
            worktree.pop(key, None)
    worktree.commit(info={"n": n}, time=float(n))


def _side(plan: Plan, repo: Repo, n: int) -> None:
    _commit(plan, repo, n, SIDE)


def _fork(plan: Plan, repo: Repo, n: int) -> None:
    repo.branches.create(SIDE, repo.branches[MAIN])


def _drop(plan: Plan, repo: Repo, n: int) -> None:
    repo.branches.delete(SIDE)


def _merge(plan: Plan, repo: Repo, n: int) -> None:
    repo.worktree(MAIN).merge(branch=SIDE, info={"n": n}, time=float(n), fast_forward=False)


def _load(plan: Plan, repo: Repo, n: int) -> None:
    items = [(key, value) for key, value in plan.changes(n).items() if value is not None]
    repo.worktree(MAIN).load(items, info={"n": n}, time=float(n))


def _gc(plan: Plan, repo: Repo, n: int) -> None:
    repo.gc(keep_reflog=0)


def _compact(plan: Plan, repo: Repo, n: int) -> None:
    repo.compact()


_STEPS: dict[str, Callable[[Plan, Repo, int], None]] = {
    "commit": _commit,
    "big": _commit,
    "side": _side,
    "fork": _fork,
    "drop": _drop,
    "merge": _merge,
    "load": _load,
    "gc": _gc,
    "compact": _compact,
    "bundle": _bundle,
    "copy": _copy,
}
_BUNDLE = Plan(99, ("commit",))
