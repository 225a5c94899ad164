"""What a check finds: faults one by one, and the result that sums them up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

FaultKind = Literal[
    "missing", "damaged", "altered", "malformed", "mismatch", "ref", "reflog", "index", "row", "state",
    "structure",
]  # fmt: skip

KINDS: Mapping[FaultKind, str] = {
    "missing": "no record lies where a link says",
    "damaged": "a record fails its checksum, or cannot be read",
    "altered": "a record passes its checksum, but its SHA-256 is not its oid",
    "malformed": "an object is not what the format allows, although its oid is right",
    "mismatch": "an object is sound, but not what its parent says of it",
    "ref": "a branch, tag or other ref cannot be read, or names no commit",
    "reflog": "a reflog entry cannot be read, or names no commit",
    "index": "an index does not name the place of an object, or names another",
    "row": "another row of the backend fails its checksum",
    "state": "the backend's own state does not fit what is stored, or is older than it was",
    "structure": "the pages of the data file are not sound",
}
"""What each kind of fault means."""


@dataclass(slots=True, eq=False)
class Fault:
    """One thing that is wrong.

    Attributes:
        number: from 1, in the order of finding.
        kind: see ``KINDS``.
        message: what is wrong, in one sentence.
        oid: of the object, in hex; None where the fault is in no object.
        place: of its record, None where records have none.
        ref: the branch ("heads/main"), tag ("tags/v1") or reflog ("reflog of heads/main") it was found from.
        commit: the commit in whose tree, or as which, it was found, in hex.
        slots: the slots that lead to it from the root of that tree, one a level.
        path: the leading bits that the path of every key below it has, as text of 0 and 1.
        key_count: how many keys lie at or below it, as far as its parent tells.
        keys: the names of some of them, where they can be told: from what is left of the object, or from
            the same part of an earlier commit.
    """

    number: int
    kind: FaultKind
    message: str
    oid: str | None = None
    place: int | None = None
    ref: str | None = None
    commit: str | None = None
    slots: tuple[int, ...] = ()
    path: str = ""
    key_count: int | None = None
    keys: tuple[str, ...] = ()
    _names: Sequence[str] = field(default=(), repr=False)
    _mask: int = field(default=0, repr=False)
    _heads: int = field(default=0, repr=False)

    @property
    def refs(self) -> tuple[str, ...]:
        """The branches and tags that reach it, in their present state or their history.

        More may be added until the check has ended.
        """
        return _chosen(self._names, self._mask)

    @property
    def heads(self) -> tuple[str, ...]:
        """Those of ``refs`` whose present state is affected."""
        return _chosen(self._names, self._heads)

    def reach(self, names: Sequence[str], mask: int, heads: int) -> None:
        """Note that refs reach it: bits over ``names``."""
        self._names = names
        self._mask |= mask
        self._heads |= heads

    @property
    def where(self) -> str:
        """The way from a ref to it: ``heads/main -> commit 1f3c0a.. -> slots 27/41``."""
        steps = [self.ref] if self.ref else []
        if self.commit:
            steps.append(f"commit {self.commit[:12]}")
        if self.slots:
            steps.append(f"slots {'/'.join(map(str, self.slots))}")
        return " -> ".join(steps)

    def __str__(self) -> str:
        parts = [f"{self.kind}: {self.message}"]
        if self.where:
            parts.append(f"at {self.where}")
        if self.key_count is not None:
            shown = ", ".join(map(repr, self.keys[:3]))
            more = f" ({shown}, ..)" if shown and self.key_count > len(self.keys[:3]) else f" ({shown})"
            parts.append(f"{self.key_count} key(s)" + (more if shown else ""))
        return "; ".join(parts)


def _chosen(names: Sequence[str], mask: int) -> tuple[str, ...]:
    found = []
    while mask:
        low = mask & -mask
        found.append(names[low.bit_length() - 1])
        mask ^= low
    return tuple(found)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a whole check saw.

    Attributes:
        is_sound: nothing was wrong in what was looked at.
        deep: whether SHA-256, canonical form and the paths of keys were verified.
        fault_count: of all kinds; ``counts`` has them by kind.
        damaged_refs: for each branch and tag that reaches a fault: "head" if its present state is affected,
            "history" if only older commits are.
        commit_count, node_count, leaf_count, blob_count: distinct objects that were verified.
        key_count: entries of the leaves that were verified, each leaf once.
        read_bytes: of records.
        unreached_count: records that nothing reaches (garbage until ``gc``), None if not counted.
        not_checked: what was not looked at, a sentence each; it is never empty.
        seconds: how long it took.
    """

    is_sound: bool
    deep: bool
    fault_count: int
    counts: Mapping[FaultKind, int]
    damaged_refs: Mapping[str, Literal["head", "history"]]
    commit_count: int
    node_count: int
    leaf_count: int
    blob_count: int
    key_count: int
    read_bytes: int
    unreached_count: int | None
    not_checked: tuple[str, ...]
    seconds: float
