"""Histories written a second time: plain dicts, sets of ancestors, nothing clever."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Content = Mapping[str, Any]
ABSENT = object()


@dataclass(frozen=True)
class Node:
    """A commit of the model."""

    content: Content
    parents: tuple[str, ...]
    generation: int
    time: float = float("-inf")


@dataclass
class Histories:
    """Commits by id, as the main API's rules say they must be."""

    nodes: dict[str, Node] = field(default_factory=dict)

    def add(self, name: str, content: Content, parents: tuple[str, ...], time: float | None = None) -> str:
        generation = 1 + max((self.nodes[parent].generation for parent in parents), default=0)
        node = Node(dict(content), parents, generation, float("-inf") if time is None else time)
        assert self.nodes.setdefault(name, node) == node, "one id, one commit"
        return name

    def ancestors(self, *names: str) -> set[str]:
        """The commits reachable from some, themselves included."""
        found: set[str] = set()
        left = list(names)
        while left:
            name = left.pop()
            if name not in found:
                found.add(name)
                left.extend(self.nodes[name].parents)
        return found

    def is_ancestor(self, old: str, new: str) -> bool:
        return old in self.ancestors(new)

    def newest_first(self, names: Iterable[str]) -> list[str]:
        def rank(name: str) -> tuple[int, float, str]:
            return (-self.nodes[name].generation, -self.nodes[name].time, name)

        return sorted(names, key=rank)

    def merge_bases(self, one: str, other: str) -> list[str]:
        """Common ancestors that no other common ancestor descends from, newest first."""
        common = self.ancestors(one) & self.ancestors(other)
        below = {name for top in common for name in self.ancestors(*self.nodes[top].parents)}
        return self.newest_first(common - below)

    def log(self, start: str, first_parent: bool = False) -> list[str]:
        if not first_parent:
            return self.newest_first(self.ancestors(start))
        out = [start]
        while self.nodes[out[-1]].parents:
            out.append(self.nodes[out[-1]].parents[0])
        return out

    def touches(self, name: str, wanted: Callable[[str], bool]) -> bool:
        """Whether a commit changes such a key against every parent."""
        node = self.nodes[name]
        parents = [self.nodes[parent].content for parent in node.parents]
        return bool(parents) and all(
            any(wanted(key) for key in changed_keys(old, node.content)) for old in parents
        )


def changed_keys(old: Content, new: Content) -> set[str]:
    return {key for key in {*old, *new} if old.get(key, ABSENT) != new.get(key, ABSENT)}


def three_way(
    base: Content, ours: Content, theirs: Content, rule: Callable[[Any, Any, Any], Any] | None
) -> tuple[dict[str, Any], set[str]]:
    """The merge of dicts and the keys in conflict; ``rule`` gets None for absent and may return ABSENT."""
    merged: dict[str, Any] = {}
    conflicts: set[str] = set()
    for key in {*ours, *theirs}:
        old, mine, other = (side.get(key, ABSENT) for side in (base, ours, theirs))
        if mine == other or old == other:
            value = mine
        elif old == mine:
            value = other
        elif rule is None:
            conflicts.add(key)
            continue
        else:
            value = rule(old, mine, other)
        if value is not ABSENT:
            merged[key] = value
    return merged, conflicts
