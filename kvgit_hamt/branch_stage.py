"""Pending edits over a branch's head: commit, bulk load, refresh and reset."""

from __future__ import annotations

import itertools
import random
import time as clock
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from kvgit_hamt import bulk, hamt, history
from kvgit_hamt.codec import check_size, get_codec
from kvgit_hamt.errors import (
    BranchMovedError,
    CorruptionError,
    InvalidInputError,
    MergeConflict,
    PendingChangesError,
    StaleBatchError,
    StateError,
)
from kvgit_hamt.hamt import Editor, Tree
from kvgit_hamt.history import CommitMeta
from kvgit_hamt.kernel import make_run
from kvgit_hamt.node import BlobRef, Value
from kvgit_hamt.objects import CommitObject, RefValue, encode_ref
from kvgit_hamt.path import MAX_KEY_BYTES
from kvgit_hamt.policy import MergePolicy, MergeRule
from kvgit_hamt.refs import HEADS, to_us
from kvgit_hamt.results import Conflict, MergeResult, Side
from kvgit_hamt.snapshot import encode_key, encode_keys
from kvgit_hamt.stage import Stage
from kvgit_hamt.store import ObjectReader, Store, StoreWriter

if TYPE_CHECKING:
    from typing_extensions import Self

    from kvgit_hamt.repo import Repo

When = datetime | float | None | Literal["now"]
OnMoved = Literal["merge", "raise"]
OnConflict = Literal["raise", "abandon"]
_ABSENT: Final = object()
_BASE_GONE: Final = (
    "the commit that this worktree stands on was collected: its branch was moved away, and gc ran in another "
    "process. The edits are still pending; refresh() brings them over the branch's head"
)
LOAD_STEP: Final = 4_096  # entries encoded at a time in a bulk load


class BranchStage(Stage):
    """A stage over the head of a branch, which its commits move."""

    def __init__(self, repo: Repo, branch: str, head: CommitObject, policy: MergePolicy) -> None:
        super().__init__(repo.codec)
        self._repo = repo
        self._owner = repo
        self._store: Store = repo.store
        self.owns_repo = False
        self._branch = branch
        self._policy = policy
        self._set_base(head)

    # what it is

    @property
    def branch(self) -> str:
        """The name of its branch."""
        return self._branch

    @property
    def base(self) -> str:
        """The id of the commit that its pending edits are over."""
        return self._base.oid.hex()

    @property
    def pinned_oid(self) -> bytes:
        """The commit that gc must keep while this worktree is open."""
        return self._base.oid

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._branch} at {self.base[:8]}, {len(self._pending)} pending>"

    def _set_base(self, commit: CommitObject) -> None:
        self._base = commit
        self._set_tree(Tree(*commit.tree))

    @property
    def repo(self) -> Repo:
        """The repository it belongs to."""
        return self._repo

    def close(self) -> None:
        """Drop pending edits; closes the repository too if ``open`` made it for this worktree."""
        self._is_closed = True
        self._pending.clear()
        if self.owns_repo:
            self._repo.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def refresh(self) -> str:
        """Move to the branch's head as it is now, keeping pending edits; the head's id.

        Raises:
            MergeConflict: somebody changed a key that has a pending edit here; or gc in another process
                collected the base, and a pending key has another value in the head. Nothing was
                changed: commit (which merges, if the base is there) or discard those keys.
        """
        self._check_open()
        head = self._repo.read_head(self._branch)
        if head.oid == self._base.oid:
            self._set_base(head)
            return self.base
        if self._is_base_gone():
            clashes = self._differing(Tree(*head.tree))
        else:
            clashes = self._clashes(self._store, Tree(*head.tree), self._pending)
        if clashes:
            raise MergeConflict([clash.key for clash in clashes], conflicts=clashes)
        self._set_base(head)
        return self.base

    def _is_base_gone(self) -> bool:
        """Whether gc in another process has collected the base, since no ref reached it any more."""
        return self._store.backend.find("commit", self._base.oid) is None

    def _differing(self, tree: Tree) -> list[Conflict]:
        """The pending edits of keys that ``tree`` has otherwise: all that can be said without a base."""
        clashes = []
        for key, mine in sorted(self._pending.items()):
            found = hamt.get(self._store, self._store.shape, tree, key)
            theirs = None if found is None else self._store.load_value(found)
            if theirs is not None and theirs != mine:
                clashes.append(self._conflict(key, (None, mine, theirs)))
        return clashes

    def _clashes(
        self, reader: ObjectReader, tree: Tree, pending: Mapping[bytes, bytes | None]
    ) -> list[Conflict]:
        """The pending edits of keys that ``tree`` has otherwise than the base, and than the edit."""
        clashes = []
        for key, mine in pending.items():
            values = [hamt.get(reader, reader.shape, t, key) for t in (self._tree, tree)]
            if values[0] != values[1]:
                old, theirs = (None if v is None else reader.load_value(v) for v in values)
                if theirs != mine:
                    clashes.append(self._conflict(key, (old, mine, theirs)))
        return sorted(clashes, key=lambda clash: clash.key)

    def _conflict(self, key: bytes, sides: tuple[bytes | None, bytes | None, bytes | None]) -> Conflict:
        text = key.decode()
        decoded = [None if side is None else self._codec.decode_for(text, side) for side in sides]
        base, ours, theirs = decoded
        names: tuple[Side, ...] = ("base", "ours", "theirs")
        absent = frozenset(name for name, side in zip(names, sides, strict=True) if side is None)
        return Conflict(text, base, ours, theirs, absent=absent)

    # commit

    def commit(  # noqa: PLR0913 (the contract's names)
        self,
        *,
        keys: Iterable[str] | None = None,
        info: Mapping[str, Any] | None = None,
        time: When = "now",
        on_moved: OnMoved = "merge",
        on_conflict: OnConflict = "raise",
        merge_fns: Mapping[str, MergeRule] | None = None,
        merge_prefixes: Mapping[str, MergeRule] | None = None,
        default_merge: MergeRule | None = None,
    ) -> MergeResult:
        """Store the pending edits as a commit and move the branch to it.

        If the branch has moved since, the edits become a commit of their own and are merged with
        the new head (parents: that head, then ours); a race that is lost is run again.

        Args:
            keys: commit the pending edits of these keys only; the others stay pending. When the
                branch has moved, those that clash with what it has now are conflicts too.
            info: plain data kept in the commit; alone it makes a commit too.
            time: a datetime, seconds since 1970, or None for an id that follows the content alone.
            on_moved: "raise" gives BranchMovedError instead of merging.
            on_conflict: "abandon" returns a false result instead of raising.
            merge_fns, merge_prefixes, default_merge: rules before those of worktree and repo.

        Returns:
            MergeResult: "no_op" when there is nothing to store, "fast_forward", or "three_way".

        Raises:
            MergeConflict, BranchMovedError, BackendError: the edits are still pending.
            StateError: gc in another process collected the base; they are still pending, see ``refresh``.
            BranchNotFoundError: the branch was deleted meanwhile.

        Cost: reads and writes each node above a changed leaf once; one durable write.
        """
        self._check_open()
        check_choice("on_moved", on_moved, ("merge", "raise"))
        check_choice("on_conflict", on_conflict, ("raise", "abandon"))
        policy = MergePolicy.of(merge_fns, merge_prefixes, default_merge).over(self._policy)
        changes = self._selected(keys)
        meta = self._meta(time, info)
        if not changes and info is None:
            return MergeResult(True, self.base, "no_op")
        try:
            result = self._land(changes, meta, on_moved, policy)
        except CorruptionError as error:
            if self._is_base_gone():
                raise StateError(_BASE_GONE) from error
            raise
        if not result and on_conflict == "raise":
            raise conflict_error(result.conflicts)
        if result:
            for key in changes:
                if self._pending.get(key, _ABSENT) is changes[key]:  # not set anew by a merge function
                    del self._pending[key]
        return result

    def _land(
        self,
        changes: dict[bytes, bytes | None],
        meta: CommitMeta,
        on_moved: OnMoved,
        policy: MergePolicy,
    ) -> MergeResult:
        """Commit, again after each lost race, until it lands or must not."""
        for attempt in itertools.count(1):
            try:
                return self._try_commit(changes, meta, on_moved, policy)
            except (StaleBatchError, BranchMovedError) as error:
                if on_moved == "raise" and isinstance(error, BranchMovedError):
                    raise
            except CorruptionError:
                found = self._store.backend.find("commit", self._base.oid)
                if found is None or attempt >= ATTEMPTS or (found and found == self._base.loc):
                    raise  # else it was collected, and made again
            self._set_base(self._store.current(self._base))
            clock.sleep(random.random() * min(0.05, 0.001 * attempt))  # let others finish theirs
        raise AssertionError("unreachable")

    def _selected(self, keys: Iterable[str] | None) -> dict[bytes, bytes | None]:
        if keys is None:
            return dict(self._pending)
        wanted = encode_keys(keys)
        missing = [key.decode() for key in wanted if key not in self._pending]
        if missing:
            raise InvalidInputError(f"no edit is pending for {missing[0]!r}; nothing was committed")
        return {key: self._pending[key] for key in wanted}

    def _meta(self, when: When, info: Mapping[str, Any] | None) -> CommitMeta:
        if isinstance(when, str):
            check_choice("time", when, ("now",))
            time_us: int | None = self._repo.refs.clock()
        else:
            time_us = None if when is None else to_us(when)
        if info is not None and not isinstance(info, Mapping):
            raise InvalidInputError(f"info is a mapping, not {type(info).__name__}")
        return CommitMeta(time_us, None if info is None else dict(info), self._codec.name)

    def _try_commit(
        self,
        changes: dict[bytes, bytes | None],
        meta: CommitMeta,
        on_moved: OnMoved,
        policy: MergePolicy,
    ) -> MergeResult:
        head = self._head()
        has_moved = head.oid != self._base.oid
        if has_moved and on_moved == "raise":
            raise BranchMovedError(HEADS + self._branch)
        if not has_moved and head.loc != self._base.loc:  # collected, and made again
            self._set_base(head)
        base = self._merge_base(self._base, head) if has_moved else self._tree
        writer = self._store.writer()
        tree = self._apply(writer, changes)
        if tree.oid == self._tree.oid and meta.info is None:
            return MergeResult(True, self.base, "no_op")
        commit = history.put_commit(writer, tree, (self._base,), meta)
        if commit.oid == head.oid:  # somebody has made the very same commit
            self._set_base(head)
            return MergeResult(True, self.base, "fast_forward")
        if not has_moved:
            self._publish(writer, head, commit, "commit")
            return MergeResult(True, commit.oid.hex(), "fast_forward")
        trees = (base, tree, Tree(*head.tree))
        merged = history.merge_trees(writer, self._codec, policy, trees)
        if merged.conflicts:
            return self._abandoned(merged.conflicts)
        rest = {key: data for key, data in self._pending.items() if key not in changes}
        if clashes := self._clashes(writer, merged.tree, rest):
            return self._abandoned(tuple(clashes))  # else a later commit would undo theirs unseen
        final = history.put_commit(writer, merged.tree, (head, commit), meta)
        carried = history.carried_keys(self._store, (base, trees[2]), merged.auto_merged_keys)
        self._publish(writer, head, final, "commit: merge with moved branch")
        return MergeResult(True, final.oid.hex(), "three_way", merged.auto_merged_keys, carried_keys=carried)

    def _head(self) -> CommitObject:
        """The branch's head, which is read only if it is not the base."""
        data = self._store.backend.get_ref(HEADS + self._branch)
        return (
            self._base if data == encode_ref(RefValue(self._base.oid)) else self._repo.read_head(self._branch)
        )

    def _merge_base(self, ours: CommitObject, theirs: CommitObject) -> Tree:
        return history.base_tree(self._store, ours, theirs)

    def _abandoned(self, conflicts: tuple[Conflict, ...]) -> MergeResult:
        return MergeResult(False, self.base, "three_way", conflicts=conflicts)

    def _apply(self, writer: StoreWriter, changes: dict[bytes, bytes | None]) -> Tree:
        values: list[tuple[bytes, Value | None]] = [
            (key, None if data is None else writer.put_value(data)) for key, data in changes.items()
        ]
        return Editor(writer, self._store.shape).apply(self._tree, make_run(self._store.shape, values))

    def _publish(
        self,
        writer: StoreWriter,
        head: CommitObject,
        commit: CommitObject,
        why: str,
    ) -> None:
        """Move the branch from ``head`` to ``commit`` and make that the base."""
        update = self._repo.refs.update(HEADS + self._branch, RefValue(head.oid), RefValue(commit.oid), why)
        shift = writer.publish([update], [commit.oid])
        self._set_base(self._store.read_commit(commit.oid) if shift else commit)

    # the branch as a whole

    def reset(self, commit: str) -> str:
        """Move the branch, and this worktree, to another commit; the reflog keeps the old one.

        Args:
            commit: id, abbreviation, branch or tag.

        Returns:
            the id the branch had before.

        Raises:
            PendingChangesError: there are pending edits. BranchMovedError: somebody moved the
            branch since this worktree last saw it; refresh first.
        """
        self._check_clean("reset")
        target = self._repo.resolve_commit(commit)
        old = self._base
        if self._repo.read_head(self._branch).oid != old.oid:
            raise BranchMovedError(HEADS + self._branch)
        if target.oid != old.oid:
            self._publish(self._store.writer(), old, target, f"reset: to {target.oid.hex()[:8]}")
        return old.oid.hex()

    def load(
        self,
        items: Mapping[str, Any] | Iterable[tuple[str, Any]],
        *,
        info: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None,
        time: When = "now",
        memory_bytes: int = bulk.DEFAULT_MEMORY_BYTES,
        progress: bulk.Progress | None = None,
    ) -> MergeResult:
        """Put any number of entries into the branch as one commit, in bounded memory.

        Faster than ``update`` and ``commit`` for many entries, whatever their order; of equal keys
        the last counts. Nothing is visible before all of it is.

        Args:
            info: as for ``commit``; or a function that gives it, called once all entries are there.
            memory_bytes: about what sorting may use; the rest goes to a temporary file.
            progress: called with (phase, entries done, entries known) now and then.

        Raises:
            PendingChangesError: there are pending edits. KeyTypeError, InvalidKeyError,
            EncodeError: the branch is unchanged. BranchMovedError: somebody moved the branch
            during the load; it is unchanged by this call. StaleBatchError: gc collected something
            that the load was to share; load again.
        """
        self._check_clean("load")
        head = self._repo.read_head(self._branch)
        late = info if callable(info) else None
        meta = self._meta(time, None if callable(info) else info)
        history.check_meta(meta)
        seen = self._base
        writer = self._store.bulk_writer()
        try:
            self._set_base(head)
            return self._load(writer, items, (meta, late), (memory_bytes, progress))
        except BaseException:
            self._set_base(seen)
            raise
        finally:
            writer.release()

    def _load(
        self,
        writer: StoreWriter,
        items: Mapping[str, Any] | Iterable[tuple[str, Any]],
        said: tuple[CommitMeta, Callable[[], Mapping[str, Any]] | None],
        how: tuple[int, bulk.Progress | None],
    ) -> MergeResult:
        head = self._base
        meta, late = said
        pairs = items.items() if isinstance(items, Mapping) else items
        source = self._encoded(writer, pairs)
        tree = bulk.load(writer, self._store.shape, self._tree, source, *how)
        if late is not None:
            meta = replace(meta, info=dict(late()))
        if tree.oid == self._tree.oid and meta.info is None:
            return MergeResult(True, self.base, "no_op")
        commit = history.put_commit(writer, tree, (head,), meta)
        self._publish(writer, head, commit, "load")
        return MergeResult(True, commit.oid.hex(), "fast_forward")

    def _encoded(self, writer: StoreWriter, pairs: Iterable[tuple[str, Any]]) -> Iterator[bulk.Pairs]:
        limit = self._store.shape.inline_max
        encode = None if self._codec is get_codec("bytes") else self._codec.encode
        source = iter(pairs)

        def rest(chunk: list[tuple[str, Any]]) -> bulk.Columns:
            keys, values = self._encode_chunk(chunk)
            if max(map(len, values)) <= limit:
                return keys, cast("list[bytes | BlobRef]", values)
            both = zip(keys, values, strict=True)
            put = writer.put_blob
            return keys, [v if len(v) <= limit else put(check_size(k.decode(), v)) for k, v in both]

        while chunk := list(itertools.islice(source, LOAD_STEP)):
            yield bulk.Pairs(chunk, encode, limit, rest)

    def _encode_chunk(self, chunk: list[tuple[str, Any]]) -> tuple[list[bytes], list[bytes]]:
        """Keys and values as stored: in bulk, and one by one if that fails, to name what is wrong."""
        try:
            keys = [str.encode(key) for key, _ in chunk]
            values = [*map(self._codec.encode, [value for _, value in chunk])]
        except Exception:  # noqa: BLE001 (found again below, with its key)
            keys = []
        if not keys or max(map(len, keys)) > MAX_KEY_BYTES:
            keys = [encode_key(key) for key, _ in chunk]
            values = [self._codec.encode_for(key, value) for key, value in chunk]
        return keys, values

    def _check_clean(self, what: str) -> None:
        self._check_open()
        if self._pending:
            raise PendingChangesError(
                f"cannot {what} with {len(self._pending)} pending edit(s); commit or discard them first"
            )


ATTEMPTS = 8  # of a commit, where a backend without places cannot tell that its base was made again


def check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """InvalidInputError unless an option has one of its values."""
    if value not in allowed:
        raise InvalidInputError(f"{name} is one of {', '.join(map(repr, allowed))}, not {value!r}")


def conflict_error(conflicts: tuple[Conflict, ...]) -> MergeConflict:
    """The error that carries conflicts."""
    errors = {c.key: c.error for c in conflicts if c.error is not None}
    return MergeConflict([c.key for c in conflicts], errors, conflicts)
