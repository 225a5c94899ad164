"""A writable view of one branch: pending edits, commit, merge, cherry-pick and revert."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kvgit_hamt import graph, history, tables
from kvgit_hamt.branch_stage import BranchStage, OnConflict, When, check_choice, conflict_error
from kvgit_hamt.errors import BranchMovedError, InvalidInputError, StaleBatchError
from kvgit_hamt.hamt import Tree
from kvgit_hamt.history import CommitMeta
from kvgit_hamt.objects import CommitObject
from kvgit_hamt.policy import MergePolicy, MergeRule
from kvgit_hamt.results import MergeResult
from kvgit_hamt.snapshot import Snapshot
from kvgit_hamt.store import StoreWriter

PostCheck = Callable[[Snapshot], object]


class Worktree(BranchStage):
    """A mapping over a branch's head, with edits that stay pending until ``commit``.

    Several worktrees may hold one branch; each sees the head it opened at until it commits,
    merges, resets or refreshes. A worktree belongs to one thread at a time.
    """

    def from_arrow(self, data: Any, **options: Any) -> MergeResult:
        """Load a table of Arrow, as ``load`` does; see ``tables.from_arrow`` for the arguments."""
        return tables.from_arrow(self, data, **options)

    def from_pandas(self, frame: Any, **options: Any) -> MergeResult:
        """Load a frame of pandas, as ``load`` does; see ``tables.from_pandas`` for the arguments."""
        return tables.from_pandas(self, frame, **options)

    def merge(  # noqa: PLR0913 (the contract's names)
        self,
        *,
        branch: str | None = None,
        tag: str | None = None,
        commit: str | None = None,
        fast_forward: bool = True,
        dry_run: bool = False,
        post_check: PostCheck | None = None,
        info: Mapping[str, Any] | None = None,
        time: When = "now",
        on_conflict: OnConflict = "raise",
        merge_fns: Mapping[str, MergeRule] | None = None,
        merge_prefixes: Mapping[str, MergeRule] | None = None,
        default_merge: MergeRule | None = None,
    ) -> MergeResult:
        """Merge a branch, a tag or a commit into this branch.

        Args:
            fast_forward: False makes a merge commit even where the branch could just move.
            dry_run: change nothing; the result says what would happen, conflicts included.
            post_check: called with a snapshot of the merged state before the branch moves; if it
                raises, nothing is changed and the exception goes to the caller.

        Returns:
            MergeResult: "no_op" (all of it is here), "fast_forward" or "three_way".

        Raises:
            PendingChangesError: there are pending edits. MergeConflict: see ``on_conflict``.
            CommitNotFoundError, BranchNotFoundError, TagNotFoundError. Nothing was changed.

        Cost: what the two sides changed, not what they hold.
        """
        self._check_clean("merge")
        check_choice("on_conflict", on_conflict, ("raise", "abandon"))
        policy = MergePolicy.of(merge_fns, merge_prefixes, default_merge).over(self._policy)
        theirs = self._repo.find_commit(branch=branch, tag=tag, commit=commit)
        meta = self._meta(time, info)
        seen = self._base
        result = self._at_head(
            lambda: self._try_merge(theirs, meta, policy, (fast_forward, dry_run, post_check))
        )
        if dry_run:
            self._set_base(seen)
        elif not result and on_conflict == "raise":
            raise conflict_error(result.conflicts)
        return result

    def _at_head(self, step: Callable[[], MergeResult]) -> MergeResult:
        """Run a step over the branch's head, again when it loses a race; if it fails, nothing moves."""
        seen = self._base
        try:
            while True:
                head = self._repo.read_head(self._branch)
                self._set_base(head)
                try:
                    result = step()
                    break
                except StaleBatchError:
                    continue
                except BranchMovedError:
                    if self._repo.read_head(self._branch).oid == head.oid:
                        raise  # not of our branch: the caller's check raised it
        except BaseException:
            self._set_base(seen)
            raise
        if not result:
            self._set_base(seen)
        return result

    def _try_merge(
        self,
        theirs: CommitObject,
        meta: CommitMeta,
        policy: MergePolicy,
        how: tuple[bool, bool, PostCheck | None],
    ) -> MergeResult:
        fast_forward, dry_run, post_check = how
        head, theirs = self._base, self._store.current(theirs)
        if graph.is_ancestor(self._store, theirs, head):
            return MergeResult(True, self.base, "no_op")
        if fast_forward and graph.is_ancestor(self._store, head, theirs):
            return self._forward(theirs, (dry_run, post_check))
        base = self._merge_base(head, theirs)
        writer = self._store.writer()
        trees = (base, Tree(*head.tree), Tree(*theirs.tree))
        merged = history.merge_trees(writer, self._codec, policy, trees)
        settled = merged.auto_merged_keys
        if merged.conflicts and not dry_run:
            return self._abandoned(merged.conflicts)
        contested = frozenset(conflict.key for conflict in merged.conflicts)
        carried = history.carried_keys(self._store, (base, trees[2]), settled | contested)
        if dry_run:
            return MergeResult(not contested, self.base, "three_way", settled, carried, merged.conflicts)
        final = history.put_commit(writer, merged.tree, (head, theirs), meta)
        self._checked(writer, head, final, (post_check, "merge"))
        return MergeResult(True, final.oid.hex(), "three_way", settled, carried_keys=carried)

    def _forward(self, theirs: CommitObject, how: tuple[bool, PostCheck | None]) -> MergeResult:
        dry_run, post_check = how
        carried = history.carried_keys(self._store, (self._tree, Tree(*theirs.tree)), frozenset())
        if not dry_run:
            writer = self._store.writer()
            writer.require(theirs)
            self._checked(writer, self._base, theirs, (post_check, "merge: fast-forward"))
        commit = self.base if dry_run else theirs.oid.hex()
        return MergeResult(True, commit, "fast_forward", carried_keys=carried)

    def _checked(
        self,
        writer: StoreWriter,
        head: CommitObject,
        commit: CommitObject,
        how: tuple[PostCheck | None, str],
    ) -> None:
        """Publish after the caller's check has seen the result."""
        post_check, why = how
        if post_check is not None:
            post_check(Snapshot(writer, self._codec, commit, self._repo))
        self._publish(writer, head, commit, why)

    def apply(  # noqa: PLR0913 (the contract's names)
        self,
        base: str,
        target: str,
        *,
        info: Mapping[str, Any] | None = None,
        time: When = "now",
        on_conflict: OnConflict = "raise",
        merge_fns: Mapping[str, MergeRule] | None = None,
        merge_prefixes: Mapping[str, MergeRule] | None = None,
        default_merge: MergeRule | None = None,
    ) -> MergeResult:
        """Make the changes that lead from one commit to another on this branch, as one commit.

        Args:
            base, target: commit ids, abbreviations, branches or tags.

        Raises:
            as ``merge``.
        """
        self._check_clean("apply changes")
        repo = self._repo
        steps = (repo.resolve_commit(base), repo.resolve_commit(target))
        policy = MergePolicy.of(merge_fns, merge_prefixes, default_merge).over(self._policy)
        what = f"apply: {steps[0].oid.hex()[:8]}..{steps[1].oid.hex()[:8]}"
        return self._replay(steps, self._meta(time, info), policy, (on_conflict, what))

    def cherry_pick(self, commit: str, *, mainline: int | None = None, **options: Any) -> MergeResult:
        """Make the changes of one commit on this branch; its info is kept unless one is given.

        Args:
            mainline: for a merge commit, the parent (from 1) against which its changes count.
            options: info, time, on_conflict and merge rules as for ``apply``.
        """
        found = self._repo.resolve_commit(commit)
        parent = self._parent_of(found, mainline)
        if options.get("info") is None:
            options["info"] = found.info
        return self.apply(parent, found.oid.hex(), **options)

    def revert(self, commit: str, *, mainline: int | None = None, **options: Any) -> MergeResult:
        """Undo the changes of one commit on this branch, as a new commit. Arguments: ``cherry_pick``."""
        found = self._repo.resolve_commit(commit)
        parent = self._parent_of(found, mainline)
        if options.get("info") is None:
            options["info"] = {"revert": found.oid.hex()}
        return self.apply(found.oid.hex(), parent, **options)

    def _parent_of(self, commit: CommitObject, mainline: int | None) -> str:
        if not commit.parents:
            raise InvalidInputError("the initial commit has no changes to pick or revert")
        if mainline is None:
            if len(commit.parents) > 1:
                raise InvalidInputError(
                    f"{commit.oid.hex()[:8]} is a merge; say with mainline=1.. which parent counts"
                )
            mainline = 1
        if not 1 <= mainline <= len(commit.parents):
            raise InvalidInputError(f"mainline is 1 to {len(commit.parents)}, not {mainline}")
        return commit.parents[mainline - 1][0].hex()

    def _replay(
        self,
        steps: tuple[CommitObject, CommitObject],
        meta: CommitMeta,
        policy: MergePolicy,
        how: tuple[OnConflict, str],
    ) -> MergeResult:
        on_conflict, why = how
        check_choice("on_conflict", on_conflict, ("raise", "abandon"))
        result = self._at_head(lambda: self._try_replay(steps, meta, policy, why))
        if not result and on_conflict == "raise":
            raise conflict_error(result.conflicts)
        return result

    def _try_replay(
        self, steps: tuple[CommitObject, CommitObject], meta: CommitMeta, policy: MergePolicy, why: str
    ) -> MergeResult:
        head = self._base
        writer = self._store.writer()
        old, new = (self._store.current(step) for step in steps)
        writer.require(old)
        writer.require(new)
        trees = (Tree(*old.tree), Tree(*head.tree), Tree(*new.tree))
        merged = history.merge_trees(writer, self._codec, policy, trees)
        if merged.conflicts:
            return self._abandoned(merged.conflicts)
        if merged.tree.oid == head.tree[0]:
            return MergeResult(True, self.base, "no_op")
        commit = history.put_commit(writer, merged.tree, (head,), meta)
        settled = merged.auto_merged_keys
        carried = history.carried_keys(self._store, (trees[0], trees[2]), settled)
        self._publish(writer, head, commit, why)
        return MergeResult(True, commit.oid.hex(), "three_way", settled, carried_keys=carried)
