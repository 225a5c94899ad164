"""Versioned: a handle on one commit of a branch, with values as bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from typing import Any, NamedTuple

from kvgit_hamt import diff, graph, hamt, history
from kvgit_hamt.backend.base import Touch
from kvgit_hamt.branch_stage import check_choice, conflict_error
from kvgit_hamt.classic.engine import BYTES, backend_of, engine_of
from kvgit_hamt.classic.kvstore import Memory
from kvgit_hamt.classic.results import DiffResult
from kvgit_hamt.classic.touches import Header, TouchLog, encode_header, read_header
from kvgit_hamt.errors import (
    BranchExistsError,
    BranchMovedError,
    BranchNotFoundError,
    CommitNotFoundError,
    ConcurrencyError,
    EncodeError,
    InvalidInputError,
    StaleBatchError,
)
from kvgit_hamt.hamt import Editor, Tree
from kvgit_hamt.history import CommitMeta
from kvgit_hamt.kernel import make_run
from kvgit_hamt.objects import CommitObject, RefValue
from kvgit_hamt.policy import MergePolicy
from kvgit_hamt.refs import CONFIG, HEADS, check_name
from kvgit_hamt.repo import Repo
from kvgit_hamt.results import MergeResult, MergeStrategy
from kvgit_hamt.snapshot import Keys, encode_key
from kvgit_hamt.store import StoreWriter

BytesMergeFn = Callable[[bytes | None, bytes | None, bytes | None], Any]
"""(old, ours, theirs) -> bytes, or OURS, THEIRS, DELETE; None where a side has no such key."""


class NoHeadError(BranchNotFoundError, ValueError):
    """The handle's branch does not exist, or no longer."""


class _Request(NamedTuple):
    """What a commit was asked to do; ``remade`` are keys that are both removed and set."""

    changes: dict[bytes, bytes | None]
    remade: frozenset[bytes]
    info: dict[str, Any] | None
    policy: MergePolicy


class Versioned:
    """A commit log over a key-value store. Values are bytes; ``Staged`` encodes above it.

    A handle stands at one commit and sees that until it commits, refreshes or resets; any number of
    handles may share a store and a branch. A handle belongs to one thread at a time.

    Args:
        store: a KVStore; a new Memory if not given.
        commit_hash: the commit to stand at (id or abbreviation); the branch's head if not given.
        branch: where commits go; made at the empty initial commit if missing.

    Raises:
        CommitNotFoundError, InvalidNameError; TypeError for a store that is no KVStore.

    Cost: opening reads one commit, whatever the branch holds.
    """

    def __init__(self, store: Any = None, *, commit_hash: str | None = None, branch: str = "main") -> None:
        if commit_hash is not None and not isinstance(commit_hash, str):
            raise TypeError(f"commit_hash must be str, got {type(commit_hash).__name__}")
        self.store = Memory() if store is None else store
        self._branch = check_name(branch)
        self._engine = engine_of(self.store)
        repo = self._engine.repo
        if commit_hash is None:
            if branch not in repo.branches:
                repo.worktree(branch, create=True)
            commit = repo.read_head(branch)
        else:
            commit = self._find(commit_hash)
        self._merge_fns: dict[str, BytesMergeFn] = {}
        self._default_merge: BytesMergeFn | None = None
        self.last_merge_result: MergeResult | None = None
        header = read_header(repo.store.backend, branch)
        self._touches = None if header is None else TouchLog(branch, header)
        self._stand_at(commit)

    def _stand_at(self, commit: CommitObject) -> None:
        self._commit = commit
        self._view = self.repo.view_of(commit)

    def _find(self, commit_hash: str) -> CommitObject:
        store = self.repo.store
        return store.read_commit(store.resolve_commit(commit_hash))

    def _given(self, commit_hash: str | None) -> CommitObject:
        return self._commit if commit_hash is None else self._find(commit_hash)

    # where it stands

    @property
    def repo(self) -> Repo:
        """The repository below, with all that the main API offers. Values there are bytes."""
        return self._engine.repo

    @property
    def branch(self) -> str:
        """The branch that commits go to."""
        return self._branch

    @property
    def current_commit(self) -> str:
        """Id of the commit it reads from."""
        return self._commit.oid.hex()

    @property
    def base_commit(self) -> str:
        """Id of the commit the next one builds on; always ``current_commit``."""
        return self._commit.oid.hex()

    @property
    def latest_head(self) -> str | None:
        """Id of the branch's head now, whoever moved it; None if there is no such branch."""
        head = self._head()
        return None if head is None else head.oid.hex()

    @property
    def initial_commit(self) -> str:
        """Id of the oldest commit of this history. Cost: reading all of it."""
        return list(self.history())[-1]

    def __repr__(self) -> str:
        where = f"branch={self._branch!r}, commit={self.current_commit[:8]}..."
        return f"{type(self).__name__}({where}, keys={len(self._view)})"

    def _head(self) -> RefValue | None:
        return self.repo.refs.get(HEADS + self._branch)

    # reading

    def get(self, key: str) -> bytes | None:
        """The value of a key, None if it is absent. A touch.

        Raises:
            KeyTypeError, InvalidKeyError: this can be no key.
            CorruptionError: something on the way is missing or damaged; never read as absent.
        """
        value: bytes | None = self._view.get(key)
        if value is not None and self._touches is not None:
            self._touches.touch(key)
        return value

    def get_many(self, *keys: str) -> dict[str, bytes]:
        """The values of those keys that are present. Touches them. Cost: each node once."""
        found: dict[str, bytes] = self._view.get_many(keys)
        if self._touches is not None:
            for key in found:
                self._touches.touch(key)
        return found

    def keys(self, prefix: str = "") -> Keys:
        """A set-like view of the keys that start with ``prefix``, of the commit it stands at now.

        Cost: for a prefix with a "/", the nodes of that directory.
        """
        return self._view.keys(prefix)

    def items(self, prefix: str = "") -> Iterator[tuple[str, bytes]]:
        """(key, value) of the keys that start with ``prefix``, as a stream. Touches them."""
        touches = self._touches
        for key, value in self._view.items(prefix):
            if touches is not None:
                touches.touch(key)
            yield key, value

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and key in self._view

    # merge functions

    def set_merge_fn(self, key: str, fn: BytesMergeFn) -> None:
        """Merge a key with a function in every commit of this handle."""
        MergePolicy.of({key: fn})
        self._merge_fns[key] = fn

    def set_default_merge(self, fn: BytesMergeFn | None) -> None:
        """Merge keys that have no function of their own with this one; None: they conflict."""
        MergePolicy.of(None, None, fn)
        self._default_merge = fn

    # writing

    def commit(
        self,
        updates: Mapping[str, bytes] | None = None,
        removals: Iterable[str] | None = None,
        *,
        on_conflict: str = "raise",
        merge_fns: Mapping[str, BytesMergeFn] | None = None,
        default_merge: BytesMergeFn | None = None,
        info: Mapping[str, Any] | None = None,
    ) -> MergeResult:
        """Store changes as a commit and move the branch to it; merge if the branch has moved.

        Args:
            updates: keys to set. A key in both is set.
            removals: keys to remove; absent ones are ignored.
            on_conflict: what a lost race for the branch does: "raise", or "abandon" for a false result.
            merge_fns, default_merge: functions that stand before those of this handle.
            info: plain data kept in the commit (the merge commit, if there is one); alone it makes a
                commit too.

        Returns:
            MergeResult: "no_op" when nothing was given, "fast_forward", or "three_way".

        Raises:
            MergeConflict: keys that both sides changed and no function settled.
            ConcurrencyError: the branch moved meanwhile, or has no history in common with this handle.
            NoHeadError: the branch is gone. InvalidInputError, KeyTypeError, EncodeError.
            Whatever it raises, and when it abandons, branch and handle are as before.

        Cost: reads and writes each node above a changed leaf once; one durable write.
        """
        check_choice("on_conflict", on_conflict, ("raise", "abandon"))
        if info is not None and not isinstance(info, Mapping):
            raise InvalidInputError(f"info is a mapping, not {type(info).__name__}")
        own = MergePolicy.of(self._merge_fns or None, None, self._default_merge)
        policy = MergePolicy.of(merge_fns or None, None, default_merge).over(own)
        request = _Request(*_changes(updates, removals), None if info is None else dict(info), policy)
        if not request.changes and info is None:
            result = MergeResult(True, self.current_commit, "no_op")
        else:
            result = self._commit_request(request, on_conflict)
        self.last_merge_result = result
        return result

    def _commit_request(self, request: _Request, on_conflict: str) -> MergeResult:
        while True:
            try:
                return self._commit_once(request, on_conflict)
            except StaleBatchError:  # gc took something that the new tree was to share
                continue

    def _commit_once(self, request: _Request, on_conflict: str) -> MergeResult:
        head = self._head()
        if head is None:
            raise NoHeadError(f"Branch {self._branch!r} has no HEAD: there is no such branch")
        self._find_again()
        strategy: MergeStrategy = "fast_forward" if head.oid == self._commit.oid else "three_way"
        try:
            if strategy == "fast_forward":
                auto: frozenset[str] = frozenset()
                self._forward(head, request)
            else:
                auto = self._merge(head, request)
        except ConcurrencyError:
            if on_conflict == "abandon":
                return MergeResult(False, None, strategy)
            raise
        repo, commit = self.repo, self.current_commit

        def carried() -> frozenset[str]:
            # By its id, so that a result that is kept does not keep a whole history from gc.
            return frozenset(repo.snapshot(commit=commit)) - auto

        return MergeResult(True, commit, strategy, auto, carried)

    def _forward(self, head: RefValue, request: _Request) -> None:
        writer = self.repo.store.writer()
        commit = self._put(writer, request, request.info)
        self._publish(writer, head, commit, request)

    def _put(self, writer: StoreWriter, request: _Request, info: dict[str, Any] | None) -> CommitObject:
        """The changes as a commit on the one it stands at."""
        shape = writer.shape
        values = [
            (key, None if data is None else writer.put_value(data)) for key, data in request.changes.items()
        ]
        tree = Editor(writer, shape).apply(Tree(*self._commit.tree), make_run(shape, values))
        return history.put_commit(writer, tree, (self._commit,), CommitMeta(None, info, BYTES.name))

    def _merge(self, head: RefValue, request: _Request) -> frozenset[str]:
        """Merge with a branch that has moved; the keys that we changed or a function settled."""
        store = self.repo.store
        theirs = store.read_commit(head.oid)
        writer = store.writer()
        ours = self._put(writer, request, None)
        bases = graph.merge_bases(store, ours, theirs)
        if not bases:
            raise ConcurrencyError(
                f"branch {self._branch!r} has no history in common with this handle (was it rebased?). "
                "Refresh and retry"
            )
        trees = (Tree(*bases[0].tree), Tree(*ours.tree), Tree(*theirs.tree))
        merged = history.merge_trees(writer, BYTES, request.policy, trees)
        if merged.conflicts:
            raise conflict_error(merged.conflicts)
        meta = CommitMeta(None, request.info, BYTES.name)
        final = history.put_commit(writer, merged.tree, (theirs, ours), meta)
        auto = merged.auto_merged_keys | _changed_by_us_only(writer, trees)
        self._publish(writer, head, final, request)
        return auto

    def _publish(
        self, writer: StoreWriter, head: RefValue | None, commit: CommitObject, request: _Request
    ) -> None:
        """Move the branch from ``head`` to ``commit`` and stand there."""
        if self._touches is not None:
            tree = Tree(*self._commit.tree)
            for key, data in request.changes.items():
                is_new = key in request.remade or hamt.get(writer.store, writer.shape, tree, key) is None
                if data is not None and is_new:
                    self._touches.touch(key.decode())
        self._move(writer, head, commit, "commit")

    def _move(
        self,
        writer: StoreWriter,
        head: RefValue | None,
        commit: CommitObject,
        why: str,
        dropped: Iterable[str] = (),
    ) -> None:
        """One durable step: records, branch, touches. ConcurrencyError if the branch had moved."""
        repo = self.repo
        update = repo.refs.update(HEADS + self._branch, head, RefValue(commit.oid), why)
        header = self._next_header(writer, commit)
        meta = {} if header is None else encode_header(self._branch, header)
        rows: list[Touch] = [] if self._touches is None else self._touches.rows(dropped)
        required = [oid for oid, _ in commit.parents]
        try:
            shift = writer.publish([update], required, meta, rows)
        except BranchMovedError as error:
            raise ConcurrencyError(
                f"HEAD changed during {why}: branch {self._branch!r} was moved by somebody else. "
                "Refresh and retry"
            ) from error
        if self._touches is not None and header is not None:
            self._touches.written(header)
        self._stand_at(repo.store.read_commit(commit.oid) if shift else commit)

    def _next_header(self, writer: StoreWriter, commit: CommitObject) -> Header | None:
        """What the table of touches will say of itself with ``commit``; None without a table."""
        touches = self._touches
        return None if touches is None else touches.header._replace(counter=touches.counter)

    def _find_again(self) -> None:
        """Stand at the same commit where it lies now, should gc have collected it and somebody remade it."""
        found = self.repo.store.current(self._commit)
        if found is not self._commit:
            self._stand_at(found)

    # moving

    def refresh(self) -> None:
        """Stand at the branch's head. NoHeadError, a ValueError, if the branch is gone."""
        head = self._head()
        if head is None:
            raise NoHeadError(f"No HEAD commit found for branch {self._branch!r}: there is no such branch")
        self._stand_again(self.repo.store.read_commit(head.oid))

    def _stand_again(self, commit: CommitObject) -> None:
        """Stand somewhere else; touches that were not committed are forgotten."""
        if self._touches is not None:
            header = read_header(self.repo.store.backend, self._branch)
            self._touches = TouchLog(self._branch, header or Header())
        self._stand_at(commit)

    def checkout(self, commit_hash: str, *, branch: str | None = None) -> Versioned | None:
        """A new handle at a commit; None if there is no such commit.

        Args:
            branch: where its commits go; this handle's branch if not given.
        """
        found = self._known(commit_hash)
        if found is None:
            return None
        return Versioned(self.store, commit_hash=found.oid.hex(), branch=branch or self._branch)

    def _known(self, commit_hash: str) -> CommitObject | None:
        """A commit by id or abbreviation, None if nothing can have that id."""
        try:
            return self._find(commit_hash)
        except CommitNotFoundError:
            return None

    def create_branch(self, name: str) -> Versioned:
        """Make a branch at the commit it stands at; a handle on it.

        Raises:
            BranchExistsError, a ValueError. InvalidNameError.

        Cost: no node is read or written.
        """
        check_name(name)
        touches = self._touches
        meta = {}
        if touches is not None:
            fork = Header(touches.counter, self._branch, touches.counter)
            meta = encode_header(name, fork)
        update = self.repo.refs.update(HEADS + name, None, RefValue(self._commit.oid), "branch: created")
        try:
            self.repo.store.writer().publish([update], [self._commit.oid], meta)
        except BranchMovedError as error:
            raise BranchExistsError(f"Branch {name!r} already exists") from error
        return Versioned(self.store, commit_hash=self.current_commit, branch=name)

    def reset_to(self, commit_hash: str) -> bool:
        """Move the branch, wherever it is, and this handle to a commit; False if there is none.

        The reflog keeps where the branch was.
        """
        target = self._known(commit_hash)
        if target is None:
            return False
        why = f"reset: to {target.oid.hex()[:8]}"
        while True:
            head = self._head()
            if head is not None and head.oid == target.oid:
                break
            try:
                self.repo.refs.move(HEADS + self._branch, head, RefValue(target.oid), why)
                break
            except BranchMovedError:
                continue
        self._stand_again(target)
        return True

    # history

    @staticmethod
    def branches(store: Any) -> list[str]:
        """The names of all branches in a KVStore, sorted; nothing is made in it."""
        backend = backend_of(store)
        try:
            if backend.get_ref(CONFIG) is None:
                return []
            return [name[len(HEADS) :] for name, _ in backend.list_refs(HEADS)]
        finally:
            backend.close()

    def list_branches(self) -> list[str]:
        """The names of all branches, sorted."""
        return list(self.repo.branches)

    def history(self, commit_hash: str | None = None, *, all_parents: bool = False) -> Iterator[str]:
        """Ids of the commits from one (the current) back, newest first, as a stream.

        Args:
            all_parents: every commit it descends from, children before parents; else only the first
                parent of each.
        """
        log = graph.log(self.repo.store, [self._given(commit_hash)], first_parent=not all_parents)
        return (commit.oid.hex() for commit in log)

    def parents(self, commit_hash: str | None = None) -> tuple[str, ...]:
        """Ids of a commit's parents: none of a root, two of a merge (theirs, ours)."""
        return tuple(oid.hex() for oid, _ in self._given(commit_hash).parents)

    def commit_info(self, commit_hash: str | None = None) -> dict[str, Any] | None:
        """The info a commit was made with, None if it has none."""
        return self._given(commit_hash).info

    def diff(self, commit_a: str, commit_b: str) -> DiffResult:
        """The keys in which two commits differ. Cost: follows the differences."""
        kinds: dict[str, set[str]] = {"added": set(), "removed": set(), "modified": set()}
        for change in self.repo.diff(commit_a, commit_b, values=False):
            kinds[change.kind].add(change.key)
        return DiffResult(**{kind: frozenset(keys) for kind, keys in kinds.items()})

    def close(self) -> None:
        """Close the repository for every handle on this store object."""
        self.repo.close()


def _changes(
    updates: Mapping[str, bytes] | None, removals: Iterable[str] | None
) -> tuple[dict[bytes, bytes | None], frozenset[bytes]]:
    """Checked changes by encoded key, and the keys that are both removed and set."""
    if isinstance(removals, (str, bytes)):
        raise InvalidInputError("removals is a set of keys, not one key")
    removed = {encode_key(key) for key in removals or ()}
    changes: dict[bytes, bytes | None] = {}
    for key, value in (updates or {}).items():
        if not isinstance(value, bytes):
            raise EncodeError(
                f"Expected bytes for {key!r}, got {type(value).__name__}; Staged takes any value"
            )
        changes[encode_key(key)] = bytes(value)
    remade = frozenset(removed.intersection(changes))
    changes.update(dict.fromkeys(sorted(removed - remade)))
    return changes, remade


def _changed_by_us_only(writer: StoreWriter, trees: tuple[Tree, Tree, Tree]) -> Set[str]:
    """The keys of ours that differ from base while theirs does not. Cost: follows our changes."""
    base, ours, theirs = trees
    return {
        key.decode()
        for key, _, new in diff.diff(writer, writer.shape, base, ours)
        if new is not None and not hamt.has_changed(writer, writer.shape, base, theirs, key)
    }
