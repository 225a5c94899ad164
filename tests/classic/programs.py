"""Random programs for the classic API, and what a caller sees of them.

The same seed gives the same program as long as it sees the same things, so two libraries are compared
by their traces. Run as a script it is the server of the differential test: a line ``{"kind": .., "seed":
..}`` in, the trace as a line of JSON out; the library is named by the first argument.

What the two libraries are known to do differently is kept out of the programs: values are never written
twice (0.1.3 compares who wrote a value, not its bytes), merge functions return new values and see no
deletion, and a handle is refreshed after a MergeConflict (0.1.3 leaves it on an unpublished commit).
A trace of kvgit ends where it merges against a commit that is not the one best common ancestor: 0.1.3
takes the first that a breadth-first search meets.
"""

from __future__ import annotations

import importlib
import json
import random
import sys
from typing import Any

KEYS = ["k0", "k1", "k2", "k3", "a/x", "a/y", "a/b/z", "a/b/w", "b/x", "__s__", "é/ß"]
NAMES = ["main", "dev", "topic"]
OPS = 40  # steps of a program
OTHER_BASE: list[bool] = []  # of each merge of the reference so far: whether its base was another


class Trace:
    """Runs one program and notes what each step shows."""

    def __init__(self, library: Any, seed: int) -> None:
        self.lib = library
        self.rng = random.Random(seed)
        self.store = library.kv.Memory() if hasattr(library, "kv") else library.Memory()
        self.handles: list[Any] = []
        self.commits: dict[str, int] = {}
        self.written = 0
        self.steps: list[Any] = []

    def name_of(self, commit: str | None) -> str | None:
        """A commit id as a name that does not depend on the library: by order of appearance."""
        return None if commit is None else f"c{self.commits.setdefault(commit, len(self.commits))}"

    def commit_at(self) -> str:
        """A commit id that was seen."""
        return self.rng.choice(list(self.commits))

    def value(self) -> Any:
        """A value that was never written before."""
        self.written += 1
        return self.written * 1_000_003 + self.rng.randrange(1000)

    def run(self, steps: dict[str, Any]) -> list[Any]:
        """The trace: (name of the step, what it showed)."""
        for _ in range(OPS):
            name = self.rng.choice(list(steps))
            shown = self.guarded(steps[name])
            if any(OTHER_BASE):
                self.steps.append("other base")
                break
            self.steps.append([name, shown])
        return self.steps

    def guarded(self, step: Any) -> Any:
        """What a step shows, or the kind of its error."""
        try:
            return step()
        except self.lib.MergeConflict as error:
            self.handle.refresh()
            return ["MergeConflict", sorted(error.conflicting_keys), sorted(error.merge_errors)]
        except self.lib.ConcurrencyError:
            return ["ConcurrencyError"]
        except (KeyError, ValueError, TypeError) as error:
            kinds = [kind.__name__ for kind in (KeyError, ValueError, TypeError) if isinstance(error, kind)]
            return ["error", *kinds]

    @property
    def handle(self) -> Any:
        """The handle of this step."""
        return self.handles[self.at]

    def pick(self) -> Any:
        """A handle."""
        self.at = self.rng.randrange(len(self.handles))
        return self.handles[self.at]

    def key(self) -> str:
        """A key."""
        return self.rng.choice(KEYS)

    def merged(self, result: Any) -> Any:
        """What a MergeResult shows."""
        return [
            result.merged, bool(result), result.strategy, self.name_of(result.commit),
            sorted(result.auto_merged_keys), sorted(result.carried_keys),
        ]  # fmt: skip

    def rules(self) -> dict[str, Any]:
        """Options of a commit."""
        options: dict[str, Any] = {}
        if self.rng.random() < 0.3:
            options["info"] = {"n": self.rng.randrange(3), "who": "é"}
        if self.rng.random() < 0.4:
            options["merge_fns"] = {self.key(): self.merge_fn() for _ in range(3)}
        if self.rng.random() < 0.4:
            options["default_merge"] = self.merge_fn()
        if self.rng.random() < 0.3:
            options["on_conflict"] = self.rng.choice(["raise", "abandon"])
        return options

    def merge_fn(self) -> Any:
        """A merge function on ints that returns what neither side has."""
        kind = self.rng.randrange(3)
        counter = self.lib.counter()

        def merge(old: Any, ours: Any, theirs: Any) -> Any:
            if kind == 0 or ours is None or theirs is None:
                raise ArithmeticError("no")
            return counter(old, ours, theirs) if kind == 1 else ours * 31 + theirs * 17 + 5

        return merge


class StagedTrace(Trace):
    """Programs over Staged, Namespaced, branches and concurrent handles."""

    def start(self) -> list[Any]:
        """Run the program."""
        self.handles.append(self.lib.Staged(self.lib.Versioned(self.store)))
        self.name_of(self.handles[0].current_commit)
        names = [name for name in dir(self) if name.startswith("do_")]
        often = ["do_set", "do_set", "do_commit", "do_commit", "do_open"]
        return self.run({f"{name}{n}": getattr(self, name) for n, name in enumerate(names + often)})

    def state(self, handle: Any) -> Any:
        """All that a handle shows at once."""
        return [
            sorted(handle.items()), len(handle), handle.has_changes, self.name_of(handle.current_commit),
            self.name_of(handle.base_commit), sorted(handle.keys()), sorted(handle),
        ]  # fmt: skip

    def do_open(self) -> Any:
        handle = self.lib.Staged(self.lib.Versioned(self.store, branch=self.rng.choice(NAMES)))
        self.handles = [*self.handles[-3:], handle]
        return self.state(handle)

    def do_set(self) -> Any:
        handle = self.pick()
        for _ in range(self.rng.randrange(1, 4)):
            handle[self.key()] = self.value()
        return self.state(handle)

    def do_delete(self) -> Any:
        handle, key = self.pick(), self.key()
        del handle[key]
        return self.state(handle)

    def do_mapping(self) -> Any:
        handle, key = self.pick(), self.key()
        choice = self.rng.randrange(6)
        if choice == 0:
            return [handle.pop(key, "none"), handle.is_staged(key)]
        if choice == 1:
            return handle.setdefault(key, self.value())
        if choice == 2:
            handle.update({key: self.value(), self.key(): self.value()})
            return self.state(handle)
        if choice == 3:
            return [handle.get(key), handle.get(key, 5), key in handle, handle.is_staged(key), 5 in handle]
        if choice == 4:
            return sorted(handle.get_many(key, self.key(), "absent").items())
        if self.rng.random() < 0.2:
            handle.clear()
        return handle[key]

    def do_commit(self) -> Any:
        handle = self.pick()
        shown = self.merged(handle.commit(**self.rules()))
        return [shown, self.state(handle), self.merged(handle.last_merge_result)]

    def do_set_merge_fn(self) -> Any:
        handle = self.pick()
        handle.set_merge_fn(self.key(), self.merge_fn())
        if self.rng.random() < 0.3:
            handle.set_default_merge(self.merge_fn())

    def do_reset(self) -> Any:
        handle = self.pick()
        handle.reset()
        return self.state(handle)

    def do_refresh(self) -> Any:
        handle = self.pick()
        handle.refresh()
        return self.state(handle)

    def do_reset_to(self) -> Any:
        handle = self.pick()
        if self.rng.random() < 0.2:
            return [handle.reset_to("nonexistent"), self.state(handle)]
        if self.rng.random() < 0.5:
            return [handle.reset_to(self.commit_at()), self.state(handle)]
        return None

    def do_checkout(self) -> Any:
        handle = self.pick()
        if self.rng.random() < 0.1:
            return handle.checkout("nonexistent") is None
        found = handle.checkout(self.commit_at(), branch=self.rng.choice([None, "dev", "ghost"]))
        self.handles = [*self.handles[-3:], found]
        return self.state(found)

    def do_branch(self) -> Any:
        found = self.pick().create_branch(self.rng.choice([*NAMES, "t1", "t2", "t3"]))
        self.handles = [*self.handles[-3:], found]
        return self.state(found)

    def do_look(self) -> Any:
        handle = self.pick().versioned
        chosen = self.rng.choice([None, self.commit_at()])
        return [
            handle.list_branches(), self.lib.Versioned.branches(self.store), self.name_of(handle.latest_head),
            [self.name_of(each) for each in handle.history(chosen)],
            [self.name_of(each) for each in handle.parents(chosen)], handle.commit_info(chosen),
            len(list(handle.history(chosen, all_parents=True))), self.name_of(handle.initial_commit),
        ]  # fmt: skip

    def do_diff(self) -> Any:
        found = self.pick().versioned.diff(self.commit_at(), self.commit_at())
        return [sorted(found.added), sorted(found.removed), sorted(found.modified)]

    def do_namespace(self) -> Any:
        handle = self.pick()
        space = self.lib.Namespaced(handle, self.rng.choice(["a", "b", "é"]))
        if self.rng.random() < 0.4:
            space = self.lib.Namespaced(space, "b")
        choice = self.rng.randrange(5)
        key = self.rng.choice(["x", "y", "z", "w", "b/z"])
        if choice == 0:
            space[key] = self.value()
        elif choice == 1:
            del space[key]
        elif choice == 2 and self.rng.random() < 0.3:
            space.clear()
        elif choice == 3:
            return [space.get(key), key in space, sorted(space.get_many(key, "x").items()), space.pop(key, 0)]
        shown = [space.namespace, sorted(space.items()), len(space), sorted(space.descendant_keys())]
        return [shown, sorted(space), sorted(space.values()), self.state(handle)]


class BytesTrace(Trace):
    """Programs over Versioned alone: values are bytes, changes are given with the commit."""

    def start(self) -> list[Any]:
        """Run the program."""
        self.handles.append(self.lib.Versioned(self.store))
        self.name_of(self.handles[0].current_commit)
        return self.run({name: getattr(self, name) for name in dir(self) if name.startswith("do_")})

    def state(self, handle: Any) -> Any:
        """All that a handle shows at once."""
        keys = sorted(handle.keys())
        values = [handle.get(key).decode() for key in keys]
        return [keys, values, self.name_of(handle.current_commit), self.name_of(handle.base_commit)]

    def do_open(self) -> Any:
        self.handles = [*self.handles[-2:], self.lib.Versioned(self.store, branch=self.rng.choice(NAMES[:2]))]
        return self.state(self.handles[-1])

    def do_commit(self) -> Any:
        handle = self.pick()
        updates = {self.key(): b"%d" % self.value() for _ in range(self.rng.randrange(4))}
        removals = {self.key() for _ in range(self.rng.randrange(3))}
        options = {key: value for key, value in self.rules().items() if not key.endswith(("fns", "merge"))}
        if self.rng.random() < 0.5:
            options["default_merge"] = lambda old, ours, theirs: ours + b"+" + theirs
        return [self.merged(handle.commit(updates, removals, **options)), self.state(handle)]

    do_commit_2 = do_commit_3 = do_commit

    def do_read(self) -> Any:
        handle = self.pick()
        found = handle.get_many(self.key(), self.key(), "absent")
        return [sorted(found), self.key() in handle, handle.get("absent"), repr(handle.get(self.key()))]

    def do_move(self) -> Any:
        handle = self.pick()
        if self.rng.random() < 0.5:
            handle.refresh()
        else:
            handle = handle.checkout(self.commit_at())
            self.handles = [*self.handles[-2:], handle]
        return self.state(handle)


class GcTrace(Trace):
    """Programs over one GCVersioned without protected keys: what is dropped, in which order, at what size."""

    def start(self) -> list[Any]:
        """Run the program."""
        gc = self.lib.gc.GCVersioned if hasattr(self.lib, "kv") else self.lib.GCVersioned
        low = self.rng.choice([None, 150, 5000])
        self.handles.append(gc(self.store, high_water_bytes=300, low_water_bytes=low))
        return self.run({name: getattr(self, name) for name in dir(self) if name.startswith("do_")})

    def key(self) -> str:
        return f"k{self.rng.randrange(12)}"

    def state(self) -> Any:
        """All that can be seen without a touch."""
        handle = self.handles[0]
        result = handle.last_rebase_result
        return [sorted(handle.keys()), handle.low_water, result and self.rebased(result)]

    def rebased(self, result: Any) -> Any:
        """What a RebaseResult shows."""
        return [
            result.performed, result.new_commit is None, list(result.dropped_keys), sorted(result.kept_keys),
            result.total_size_before, result.total_size_after,
        ]  # fmt: skip

    def do_commit(self) -> Any:
        handle = self.pick()
        self.written += 1
        updates = {self.key(): b"%d" % self.written * self.rng.randrange(1, 40) for _ in range(3)}
        result = handle.commit(updates, {self.key()} if self.rng.random() < 0.3 else None)
        return [result.merged, result.strategy, self.state()]

    do_commit_2 = do_commit

    def do_read(self) -> Any:
        handle = self.pick()
        if self.rng.random() < 0.5:
            return sorted(handle.get_many(self.key(), self.key()))
        return handle.get(self.key()) is None

    def do_rebase(self) -> Any:
        handle = self.pick()
        if self.rng.random() < 0.7:
            return [self.rebased(handle.maybe_rebase()), self.state()]
        result = handle.rebase(keep_keys={self.key() for _ in range(6)})
        return [sorted(result.dropped_keys), sorted(result.kept_keys), list(handle.parents()), self.state()]


KINDS = {"staged": StagedTrace, "bytes": BytesTrace, "gc": GcTrace}


def load(name: str) -> Any:
    """The library under test; kvgit keeps some names in modules of their own."""
    library = importlib.import_module(name)
    if name == "kvgit":
        importlib.import_module("kvgit.kv")
        importlib.import_module("kvgit.gc")
        _watch_bases(library.Versioned)
    return library


def _watch_bases(versioned: Any) -> None:
    """Note for each merge of kvgit whether its base is the one best common ancestor."""
    find = versioned._find_lca

    def watched(self: Any, one: str, other: str) -> Any:
        found = find(self, one, other)
        below = {id: set(self.history(id, all_parents=True)) for id in (one, other)}
        common = below[one] & below[other]
        best = [each for each in common if not any(
            each != later and each in set(self.history(later, all_parents=True)) for later in common
        )]  # fmt: skip
        OTHER_BASE.append(best != [found])
        return found

    versioned._find_lca = watched


def trace(library: Any, kind: str, seed: int) -> list[Any]:
    """What a caller sees of one program, as plain data."""
    OTHER_BASE.clear()
    steps: list[Any] = json.loads(json.dumps(KINDS[kind](library, seed).start()))
    return steps


def first_difference(reference: list[Any], ours: list[Any]) -> Any:
    """(step, what the reference shows, what we show) where two traces part; None if they agree."""
    for number, step in enumerate(reference):
        if step == "other base":
            return None
        if number >= len(ours) or ours[number] != step:
            return number, step, ours[number : number + 1]
    return None if len(ours) == len(reference) else (len(reference), None, ours[len(reference)])


if __name__ == "__main__":
    served = load(sys.argv[1])
    for line in sys.stdin:
        request = json.loads(line)
        sys.stdout.write(json.dumps(trace(served, request["kind"], request["seed"])) + "\n")
        sys.stdout.flush()
