"""Branches and tags: names, compare-and-set moves, and the reflog that each move writes.

Spec: docs/format.md, "Refs".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

from kvgit_hamt.backend.base import RefUpdate
from kvgit_hamt.errors import (
    BranchExistsError,
    BranchMovedError,
    BranchNotFoundError,
    CommitNotFoundError,
    CorruptionError,
    InvalidInputError,
    InvalidNameError,
    TagExistsError,
    TagNotFoundError,
)
from kvgit_hamt.objects import (
    CommitObject,
    LogEntry,
    RefValue,
    decode_log_entry,
    decode_ref,
    encode_log_entry,
    encode_ref,
)
from kvgit_hamt.oid import MIN_ABBREVIATION
from kvgit_hamt.results import Commit, ReflogEntry
from kvgit_hamt.store import Store

HEADS = "heads/"
TAGS = "tags/"
CONFIG = "config"
MAX_NAME_BYTES = 200  # with its prefix and the reflog's counter inside LMDB's 511-byte key
_FORBIDDEN = frozenset(" ~^:?*[\\\x7f")
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MIN_US, _MAX_US = (
    (end.replace(tzinfo=timezone.utc) - _EPOCH) // timedelta(microseconds=1)
    for end in (datetime.min, datetime.max)
)
Clock = Callable[[], int]


def now_us() -> int:
    """Microseconds since 1970, UTC."""
    return time.time_ns() // 1_000


def to_datetime(time_us: int) -> datetime:
    """Stored microseconds since 1970 as an aware datetime in UTC; CorruptionError outside years 1 to 9999."""
    if not _MIN_US <= time_us <= _MAX_US:
        raise CorruptionError(f"a stored time of {time_us} microseconds since 1970 is out of range")
    return _EPOCH + timedelta(microseconds=time_us)


def to_us(when: datetime | float) -> int:
    """A datetime (naive ones are UTC) or seconds since 1970 as whole microseconds."""
    if isinstance(when, datetime):
        aware = when if when.tzinfo else when.replace(tzinfo=timezone.utc)
        return _check_range(when, (aware - _EPOCH) // timedelta(microseconds=1))
    if isinstance(when, bool) or not isinstance(when, (int, float)):
        raise InvalidInputError(f"a time is a datetime or seconds since 1970, not {type(when).__name__}")
    try:
        time_us = round(when * 1_000_000)
    except (OverflowError, ValueError) as error:
        raise InvalidInputError(f"{when!r} is no time in seconds since 1970") from error
    return _check_range(when, time_us)


def _check_range(when: datetime | float, time_us: int) -> int:
    """Refuse what could be stored but never shown again."""
    if not _MIN_US <= time_us <= _MAX_US:
        raise InvalidInputError(f"{when!r:.60} is out of range; give seconds since 1970, in years 1 to 9999")
    return time_us


def check_limit(limit: int | None) -> None:
    """Refuse a limit that is no count."""
    if limit is not None and (not isinstance(limit, int) or limit < 0):
        raise InvalidInputError(f"limit is 0 or more, not {limit!r}")


def check_name(name: str, what: str = "branch") -> str:
    """Return a branch or tag name if it is allowed; git's rules for ref names.

    Raises:
        InvalidNameError: with the rule that the name breaks.
    """
    reason = _fault_of(name)
    if reason:
        shown = repr(name if not isinstance(name, str) or len(name) < 60 else name[:57] + "...")
        raise InvalidNameError(f"{shown} is no {what} name: {reason}")
    return name


def _fault_of(name: object) -> str | None:
    if not isinstance(name, str):
        return f"it must be a str, not {type(name).__name__}"
    if not name:
        return "it is empty"
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "it holds a lone surrogate"
    if size > MAX_NAME_BYTES:
        return f"it is longer than {MAX_NAME_BYTES} bytes"
    if any(char in _FORBIDDEN or ord(char) < 32 for char in name):
        return "it holds a space, a control character or one of ~^:?*[\\"
    if name.startswith(("/", "-")) or name.endswith(("/", ".")):
        return "it may not start with / or -, nor end with / or ."
    if ".." in name or "@{" in name or "//" in name or name == "@":
        return "it may not hold .., @{ or //, nor be @"
    for part in name.split("/"):
        if part.startswith(".") or part.endswith(".lock"):
            return "a part of it starts with . or ends with .lock"
    return None


def is_name(name: object) -> bool:
    """Whether a branch or tag can have this name."""
    return _fault_of(name) is None


def describe(commit: CommitObject) -> Commit:
    """A commit as callers see it: hex ids and a datetime."""
    return Commit(
        commit.oid.hex(), tuple(oid.hex() for oid, _ in commit.parents), commit.generation,
        None if commit.time_us is None else to_datetime(commit.time_us), commit.info, commit.codec,
        commit.tree[0].hex(),
    )  # fmt: skip


class Refs:
    """The refs of a store, by full name ("heads/main", "tags/v1")."""

    def __init__(self, store: Store, clock: Clock = now_us) -> None:
        self.store = store
        self.clock = clock

    def get(self, full: str) -> RefValue | None:
        """The value of a ref, None if there is none. Cost: one backend read."""
        data = self.store.backend.get_ref(full)
        return None if data is None else decode_ref(full, data)

    def find(self, full: str) -> RefValue | None:
        """The value of a ref; None only if its reflog does not say otherwise. Cost: two reads more for None.

        Raises:
            CorruptionError: the ref is gone, but it was not deleted.
        """
        backend = self.store.backend
        while True:
            version = backend.version()
            value = self.get(full)
            if value is not None:
                return value
            newest = backend.read_reflog(full, 1)
            if not newest or decode_log_entry(full, newest[0]).new is None:
                return None
            if backend.version() == version:
                raise CorruptionError(f"{full} is gone, but its reflog does not say that it was deleted")

    def under(self, prefix: str) -> list[tuple[str, RefValue]]:
        """(name without the prefix, value) of all refs under a prefix, by name."""
        found = self.store.backend.list_refs(prefix)
        return [(name[len(prefix) :], decode_ref(name, data)) for name, data in found]

    def named(self) -> list[tuple[str, RefValue]]:
        """(full name, value) of every branch and tag."""
        found = self.store.backend.list_refs("")
        return [(name, decode_ref(name, data)) for name, data in found if name != CONFIG]

    def update(self, full: str, old: RefValue | None, new: RefValue | None, why: str) -> RefUpdate:
        """The compare-and-set of one ref with its reflog entry, for a batch."""
        entry = LogEntry(old.oid if old else None, new.oid if new else None, self.clock(), why)
        return RefUpdate(
            full,
            encode_ref(old) if old else None,
            encode_ref(new) if new else None,
            encode_log_entry(entry),
        )  # fmt: skip

    def move(self, full: str, old: RefValue | None, new: RefValue | None, why: str) -> None:
        """Move, create or delete one ref; BranchMovedError if it does not hold ``old``."""
        self.publish([self.update(full, old, new, why)], None if new is None else new.oid)

    def publish(self, updates: Sequence[RefUpdate], target: bytes | None) -> None:
        """Move refs to a commit.

        Raises:
            BranchMovedError: one did not hold its old value. CommitNotFoundError: the commit has just been
                collected. Nothing was changed.
        """
        try:
            self.store.writer().publish(updates, () if target is None else (target,))
        except CorruptionError as error:
            if target is None or self.store.backend.find("commit", target) is not None:
                raise
            raise CommitNotFoundError(
                f"commit {target.hex()} has just been collected; nothing was changed"
            ) from error

    def reflog(self, full: str, limit: int | None = None) -> list[ReflogEntry]:
        """Moves of a ref, newest first; kept after the ref is deleted."""
        check_limit(limit)
        out = []
        for data in self.store.backend.read_reflog(full, limit):
            entry = decode_log_entry(full, data)
            out.append(ReflogEntry(
                entry.old.hex() if entry.old else None, entry.new.hex() if entry.new else None,
                to_datetime(entry.time_us), entry.why,
            ))  # fmt: skip
        return out


class Branches(Mapping[str, str]):
    """A live mapping of branch names to commit ids.

    Every call reads the store: what other handles and processes do is seen at once.
    """

    def __init__(self, refs: Refs) -> None:
        self._refs = refs

    def __getitem__(self, name: str) -> str:
        """The commit id of a branch; BranchNotFoundError (a KeyError it is not) if there is none."""
        return self.head(name).oid.hex()

    def __iter__(self) -> Iterator[str]:
        return iter([name for name, _ in self._refs.under(HEADS)])

    def __len__(self) -> int:
        return len(self._refs.under(HEADS))

    def __contains__(self, name: object) -> bool:
        return not _fault_of(name) and self._refs.find(f"{HEADS}{name}") is not None

    def get(self, name: str, default: Any = None) -> Any:
        """The commit id of a branch, ``default`` if there is none."""
        value = self._refs.find(HEADS + check_name(name))
        return default if value is None else value.oid.hex()

    def items(self) -> Any:
        """(name, commit id) of all branches, by name, in one read."""
        return {name: value.oid.hex() for name, value in self._refs.under(HEADS)}.items()

    def head(self, name: str) -> RefValue:
        """The value of a branch's ref; BranchNotFoundError if there is none."""
        value = self._refs.find(HEADS + check_name(name))
        if value is None:
            raise BranchNotFoundError(f"there is no branch {name!r}; create it with branches.create")
        return value

    def create(self, name: str, at: str | None = None) -> str:
        """Make a branch at a commit id, abbreviation, branch or tag; at "main" if not given.

        Returns:
            the commit id.

        Raises:
            InvalidNameError, BranchExistsError; CommitNotFoundError for an unknown ``at``.

        Cost: no node is read or written.
        """
        check_name(name)
        oid = resolve(self._refs, "main" if at is None else at)
        try:
            self._refs.move(HEADS + name, None, RefValue(oid), "branch: created")
        except BranchMovedError as error:
            raise BranchExistsError(f"there is a branch {name!r} already") from error
        return oid.hex()

    def delete(self, name: str) -> str:
        """Delete a branch and return the commit id it had; its reflog and commits stay.

        Raises:
            BranchNotFoundError: there is none.
        """
        old = self.head(name)
        self._refs.move(HEADS + name, old, None, "branch: deleted")
        return old.oid.hex()

    def rename(self, old: str, new: str) -> None:
        """Rename a branch in one step; the old name's reflog stays under the old name.

        Raises:
            BranchNotFoundError, BranchExistsError, InvalidNameError: nothing was changed.
            BranchMovedError: somebody moved it at this moment; nothing was changed.
        """
        value = self.head(old)
        check_name(new)
        if not _rename(self._refs, HEADS, (old, new), value):
            raise BranchExistsError(f"there is a branch {new!r} already")


class Tags(Mapping[str, str]):
    """A live mapping of tag names to commit ids. A tag never moves; it can carry info."""

    def __init__(self, refs: Refs) -> None:
        self._refs = refs

    def __getitem__(self, name: str) -> str:
        """The commit id of a tag; TagNotFoundError if there is none."""
        return self._value(name).oid.hex()

    def __iter__(self) -> Iterator[str]:
        return iter([name for name, _ in self._refs.under(TAGS)])

    def __len__(self) -> int:
        return len(self._refs.under(TAGS))

    def __contains__(self, name: object) -> bool:
        return not _fault_of(name) and self._refs.find(f"{TAGS}{name}") is not None

    def get(self, name: str, default: Any = None) -> Any:
        """The commit id of a tag, ``default`` if there is none."""
        value = self._refs.find(TAGS + check_name(name, "tag"))
        return default if value is None else value.oid.hex()

    def info(self, name: str) -> dict[str, Any] | None:
        """The info a tag was created with."""
        return self._value(name).info

    def create(self, name: str, at: str | None = None, info: Mapping[str, Any] | None = None) -> str:
        """Make a tag at a commit id, abbreviation, branch or tag; at "main" if not given.

        Raises:
            InvalidNameError, TagExistsError; CommitNotFoundError for an unknown ``at``;
            InvalidInputError for info that is not plain data.
        """
        check_name(name, "tag")
        oid = resolve(self._refs, "main" if at is None else at)
        try:
            value = RefValue(oid, dict(info) if info is not None else None)
            encode_ref(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidInputError(f"a tag's info is plain data: {error}") from error
        try:
            self._refs.move(TAGS + name, None, value, "tag: created")
        except BranchMovedError as error:
            raise TagExistsError(f"there is a tag {name!r} already; tags never move") from error
        return oid.hex()

    def delete(self, name: str) -> str:
        """Delete a tag and return the commit id it had."""
        value = self._value(name)
        self._refs.move(TAGS + name, value, None, "tag: deleted")
        return value.oid.hex()

    def rename(self, old: str, new: str) -> None:
        """Rename a tag in one step; it stays at its commit, with its info.

        Raises:
            TagNotFoundError, TagExistsError, InvalidNameError: nothing was changed.
        """
        value = self._value(old)
        check_name(new, "tag")
        if not _rename(self._refs, TAGS, (old, new), value):
            raise TagExistsError(f"there is a tag {new!r} already; tags never move")

    def _value(self, name: str) -> RefValue:
        value = self._refs.find(TAGS + check_name(name, "tag"))
        if value is None:
            raise TagNotFoundError(f"there is no tag {name!r}")
        return value


def _rename(refs: Refs, prefix: str, names: tuple[str, str], value: RefValue) -> bool:
    """Move a ref's value to another name; False if that name is taken."""
    old, new = names
    kind = prefix[:-1].removesuffix("s").replace("head", "branch")
    try:
        refs.publish(
            [
                refs.update(prefix + new, None, value, f"{kind}: renamed from {old}"),
                refs.update(prefix + old, value, None, f"{kind}: renamed to {new}"),
            ],
            value.oid,
        )
    except BranchMovedError as error:
        if error.name == prefix + new:
            return False
        raise
    return True


def resolve(refs: Refs, text: str) -> bytes:
    """The oid that a branch, tag, commit id or abbreviation names, looked up in that order.

    Raises:
        CommitNotFoundError, AmbiguousCommitError, InvalidInputError (too short to be an id).
    """
    if isinstance(text, str) and not _fault_of(text):
        for prefix in (HEADS, TAGS):
            value = refs.get(prefix + text)
            if value is not None:
                return value.oid
        if len(text) < MIN_ABBREVIATION:
            raise InvalidInputError(
                f"{text!r} is no branch or tag, and too short for a commit id "
                f"({MIN_ABBREVIATION} characters or more)"
            )
    return refs.store.resolve_commit(text)
