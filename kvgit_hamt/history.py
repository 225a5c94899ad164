"""Merging of commits: which trees to merge, under which policy, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from kvgit_hamt import diff, graph, merge
from kvgit_hamt.codec import Codec
from kvgit_hamt.errors import InvalidInputError, KvgitHamtError
from kvgit_hamt.hamt import Editor, Tree
from kvgit_hamt.kernel import make_run
from kvgit_hamt.node import EMPTY_LEAF, Value
from kvgit_hamt.objects import CommitObject, encode_commit
from kvgit_hamt.oid import oid_of
from kvgit_hamt.path import text_of
from kvgit_hamt.policy import DELETE, OURS, MergeChoice, MergePolicy, MergeRule
from kvgit_hamt.results import Conflict
from kvgit_hamt.store import Store, StoreWriter

Side = Literal["base", "ours", "theirs"]


class Merged(NamedTuple):
    """The outcome of a merge of three trees. With conflicts, ``tree`` is of no use."""

    tree: Tree
    conflicts: tuple[Conflict, ...]
    auto_merged_keys: frozenset[str]


@dataclass(frozen=True)
class CommitMeta:
    """What a new commit says beside its tree and parents."""

    time_us: int | None
    info: dict[str, Any] | None
    codec: str


class _Resolver:
    """Asks the policy for each contested key, and collects what it could not settle."""

    def __init__(self, writer: StoreWriter, codec: Codec, policy: MergePolicy) -> None:
        self.writer = writer
        self.codec = codec
        self.policy = policy
        self.conflicts: list[Conflict] = []
        self.settled: set[str] = set()

    def __call__(
        self, key: bytes, base: Value | None, ours: Value | None, theirs: Value | None
    ) -> Value | None:
        text = text_of(key)
        rule = self.policy.rule_for(text)
        if rule is None:
            self._conflict(text, (base, ours, theirs), None)
            return ours
        if isinstance(rule, MergeChoice):
            self.settled.add(text)
            return self._chosen(rule, ours, theirs)
        return self._ask(rule, text, (base, ours, theirs))

    def _chosen(self, choice: MergeChoice, ours: Value | None, theirs: Value | None) -> Value | None:
        if choice is DELETE:
            return None
        return ours if choice is OURS else theirs

    def _ask(
        self, rule: MergeRule, text: str, sides: tuple[Value | None, Value | None, Value | None]
    ) -> Value | None:
        assert not isinstance(rule, MergeChoice)
        values = [self._decode(text, side) for side in sides]
        try:
            answer = rule(*values)
        except Exception as error:  # noqa: BLE001 (the caller's function: a conflict)
            self._conflict(text, sides, error)
            return sides[1]
        if isinstance(answer, MergeChoice):
            self.settled.add(text)
            return self._chosen(answer, sides[1], sides[2])
        try:
            data = self.codec.encode_for(text, answer)
        except KvgitHamtError as error:
            self._conflict(text, sides, error)
            return sides[1]
        self.settled.add(text)
        return self.writer.put_value(data)

    def _decode(self, text: str, value: Value | None) -> Any:
        if value is None:
            return None
        return self.codec.decode_for(text, self.writer.load_value(value))

    def _conflict(
        self, text: str, sides: tuple[Value | None, Value | None, Value | None],
        error: Exception | None,
    ) -> None:  # fmt: skip
        names: tuple[Side, Side, Side] = ("base", "ours", "theirs")
        absent = frozenset(name for name, side in zip(names, sides, strict=True) if side is None)
        values = [self._decode(text, side) for side in sides]
        base, ours, theirs = values
        self.conflicts.append(Conflict(text, base, ours, theirs, error, absent))


def merge_trees(
    writer: StoreWriter, codec: Codec, policy: MergePolicy, trees: tuple[Tree, Tree, Tree]
) -> Merged:
    """Merge (base, ours, theirs) under a policy.

    Cost: see ``merge.merge``; a standing choice for a prefix also reads what the other side changed
    beneath it.
    """
    shape = writer.store.shape
    resolver = _Resolver(writer, codec, policy)
    tree = merge.merge(writer, shape, trees, resolver)
    if resolver.conflicts:
        ordered = tuple(sorted(resolver.conflicts, key=lambda conflict: conflict.key))
        return Merged(trees[1], ordered, frozenset(resolver.settled))
    for standing in policy.standing_prefixes():
        side = trees[1] if standing.choice is OURS else trees[2]
        changes = []
        for key, _, wanted in diff.diff(writer, shape, tree, side, standing.prefix.encode()):
            text = text_of(key)
            if policy.standing_for(text) is standing.choice:
                changes.append((key, wanted))
                resolver.settled.add(text)
        tree = Editor(writer, shape).apply(tree, make_run(shape, changes))
    return Merged(tree, (), frozenset(resolver.settled))


def carried_keys(
    store: Store, trees: tuple[Tree, Tree], settled: frozenset[str]
) -> Callable[[], frozenset[str]]:
    """Finds the keys that (base, theirs) changed and no function settled, when it is called."""

    def find() -> frozenset[str]:
        changed = diff.diff(store, store.shape, *trees)
        return frozenset(text_of(key) for key, _, _ in changed) - settled

    return find


def base_tree(store: Store, ours: CommitObject, theirs: CommitObject) -> Tree:
    """The tree to merge against: that of the newest best common ancestor.

    Raises:
        InvalidInputError: the histories have no commit in common.
    """
    bases = graph.merge_bases(store, ours, theirs)
    if not bases:
        raise InvalidInputError("these commits have no common history")
    return Tree(*bases[0].tree)


def initial_oid(codec: str) -> bytes:
    """The oid of the initial commit: an empty tree, no parents, no time."""
    return oid_of(encode_commit(oid_of(EMPTY_LEAF), (), 1, None, None, codec))


def check_meta(meta: CommitMeta) -> None:
    """Refuse, before any work, what ``put_commit`` would refuse: InvalidInputError."""
    encode_commit(oid_of(EMPTY_LEAF), (), 1, meta.time_us, meta.info, meta.codec)


def put_commit(
    writer: StoreWriter, tree: Tree, parents: tuple[CommitObject, ...], meta: CommitMeta
) -> CommitObject:
    """Keep a commit in a batch and return it as it will be stored, or as it is stored already."""
    generation = 1 + max((parent.generation for parent in parents), default=0)
    payload = encode_commit(
        tree.oid, tuple(parent.oid for parent in parents), generation, meta.time_us, meta.info, meta.codec
    )
    stored = writer.stored_commit(oid_of(payload))
    if stored is not None:
        return stored
    oid, loc = writer.put_commit(payload, tree, parents)
    links = tuple((parent.oid, parent.loc) for parent in parents)
    return CommitObject(
        oid, loc, (tree.oid, tree.loc), links, generation, meta.time_us, meta.info, meta.codec
    )
