"""GCVersioned: a Versioned that drops its coldest keys when it has grown too large."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from kvgit_hamt import diff, history, scan
from kvgit_hamt.classic.results import RebaseResult
from kvgit_hamt.classic.touches import Header, TouchLog, row_key
from kvgit_hamt.classic.versioned import BytesMergeFn, Versioned
from kvgit_hamt.errors import CorruptionError, InvalidInputError, StaleBatchError
from kvgit_hamt.gc import KEEP_REFLOG_US
from kvgit_hamt.hamt import Editor, Tree
from kvgit_hamt.history import CommitMeta
from kvgit_hamt.kernel import make_run
from kvgit_hamt.node import Value
from kvgit_hamt.objects import CommitObject, RefValue, decode_log_entry
from kvgit_hamt.path import text_of
from kvgit_hamt.refs import HEADS
from kvgit_hamt.results import MergeResult
from kvgit_hamt.store import ObjectReader, StoreWriter

MIN_AGE_S: Final = 3600  # what clean_orphans spares at least, unless it is told otherwise
LOW_PART: Final = 0.8  # of high water, where no usable low water is given


def is_system_key(key: str) -> bool:
    """The default rule of protection: the last segment of the key's path starts with ``__``."""
    return key.rpartition("/")[2].startswith("__")


class GCVersioned(Versioned):
    """A Versioned that keeps its branch below a size by dropping keys that were not used for long.

    After each commit that leaves more than ``high_water_bytes`` of values, ``rebase`` drops user keys,
    coldest first (oldest touch, then largest), down to ``low_water_bytes``, in a commit without
    parents. A touch is a read or the making of a key; touches are kept beside the tree and written with
    the next commit, so that reading changes no commit id. Other branches, tags and the reflog lose
    nothing: what they reach stays stored.

    Args:
        store, commit_hash, branch: see Versioned.
        low_water_bytes: 80 % of high water if not given, not positive, or above it.
        is_protected: keys that always stay and whose bytes do not count; by default those whose last
            path segment starts with ``__``.
        keep_reflog_s: for how long the store's reflogs keep what they name, when this handle collects;
            gc's own 90 days if not given.

    Attributes:
        last_rebase_result: what the rebase of the last commit did, None before the first.
        last_rebase_error: what stopped that rebase or its collection, None if nothing did.

    Raises:
        InvalidInputError: ``high_water_bytes`` is not positive. (others: see Versioned)
    """

    def __init__(  # noqa: PLR0913 (the contract's names)
        self,
        store: Any = None,
        *,
        commit_hash: str | None = None,
        branch: str = "main",
        high_water_bytes: int,
        low_water_bytes: int | None = None,
        is_protected: Callable[[str], bool] = is_system_key,
        keep_reflog_s: float | None = None,
    ) -> None:
        if high_water_bytes <= 0:
            raise InvalidInputError(f"high_water_bytes must be > 0, not {high_water_bytes}")
        self.high_water = high_water_bytes
        low = int(high_water_bytes * LOW_PART)
        is_usable = low_water_bytes is not None and 0 < low_water_bytes <= high_water_bytes
        self.low_water: int = low_water_bytes if is_usable and low_water_bytes is not None else low
        self.last_rebase_result: RebaseResult | None = None
        self.last_rebase_error: Exception | None = None
        self._rebased: RebaseResult | None = None  # of a rebase that moved the branch
        self._is_protected = is_protected
        self._keep_reflog_us = KEEP_REFLOG_US if keep_reflog_s is None else int(keep_reflog_s * 1_000_000)
        self._sized: tuple[Tree, int] | None = None  # a tree, and the bytes in it that count
        self._coming = 0  # such bytes in the tree that is about to be published
        self._oldest_us: int | None = None  # no entry of the branch's reflog is older; None: not known
        super().__init__(store, commit_hash=commit_hash, branch=branch)
        if self._touches is None:
            self._touches = TouchLog(branch, Header())

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
        """As ``Versioned.commit``, then ``maybe_rebase``, whose result is ``last_rebase_result``.

        The result's ``commit`` is the commit of the changes, as in kvgit 0.1.3. After a rebase the branch
        is not there: ``current_commit`` and ``last_rebase_result.new_commit`` name the commit without
        parents that it is at, and only the reflog (and whoever forked from it) keeps the other one.

        Once the commit has landed, no Exception of the rebase comes out: it is ``last_rebase_error``. If
        the rebase was stopped (somebody moved the branch, the store is full), the commit stands, the
        handle stands at it, and the next commit rebases; if only the collection after it was,
        ``last_rebase_result`` says performed.

        Raises:
            as ``Versioned.commit``; and what ``is_protected`` raises about a key of the change, or about
            any key where all must be counted, before anything is written.
        """
        result = super().commit(
            updates,
            removals,
            on_conflict=on_conflict,
            merge_fns=merge_fns,
            default_merge=default_merge,
            info=info,
        )
        if result:
            self.last_rebase_error = self._rebased = None
            try:
                self.last_rebase_result = self.maybe_rebase()
            except Exception as error:  # noqa: BLE001 - the commit has landed, whatever it is
                self.last_rebase_error = error
                total = 0 if self._sized is None else self._sized[1]
                self.last_rebase_result = self._rebased or self._nothing_done(total)
        return result

    # sizes

    def _size(self, key: bytes, value: Value | None) -> int:
        """Bytes of a value that count: none of an absent or protected one."""
        if value is None or self._is_protected(text_of(key)):
            return 0
        return len(value) if isinstance(value, bytes) else value.length

    def _total(self) -> int:
        """Bytes that count at the commit it stands at. Cost: follows the changes since it last knew."""
        store = self.repo.store
        tree = Tree(*self._commit.tree)
        if self._sized is None:
            self._sized = self._stored_total()
        if self._sized is None:
            entries = scan.items(store, store.shape, tree)
            self._sized = tree, sum(self._size(key, value) for key, value in entries)
        self._sized = tree, self._total_of(store, tree, self._sized)
        return self._sized[1]

    def _total_of(self, reader: ObjectReader, tree: Tree, known: tuple[Tree, int]) -> int:
        changes = diff.diff(reader, reader.shape, known[0], tree)
        return known[1] + sum(self._size(key, new) - self._size(key, old) for key, old, new in changes)

    def _stored_total(self) -> tuple[Tree, int] | None:
        """The total that the last commit of any handle wrote down, if it holds for this one."""
        header = self._touches.header if self._touches is not None else Header()
        if not header.commit or self._is_protected is not is_system_key:
            return None
        if self.repo.store.backend.find("commit", header.commit) is None:
            return None  # collected meanwhile
        try:
            return Tree(*self.repo.store.read_commit(header.commit).tree), header.total
        except CorruptionError:
            return None

    def _next_header(self, writer: StoreWriter, commit: CommitObject) -> Header | None:
        header = super()._next_header(writer, commit)
        self._total()
        assert self._sized is not None
        self._coming = self._total_of(writer, Tree(*commit.tree), self._sized)
        if header is None or self._is_protected is not is_system_key:
            return header
        return header._replace(commit=commit.oid, total=self._coming)

    def _move(
        self,
        writer: StoreWriter,
        head: RefValue | None,
        commit: CommitObject,
        why: str,
        dropped: Iterable[str] = (),
    ) -> None:
        super()._move(writer, head, commit, why, dropped)
        self._sized = Tree(*self._commit.tree), self._coming

    # rebase

    def maybe_rebase(self) -> RebaseResult:
        """Rebase if the values that count are above high water. Raises: as ``rebase``."""
        total = self._total()
        return self._nothing_done(total) if total <= self.high_water else self.rebase()

    def _nothing_done(self, total: int) -> RebaseResult:
        return RebaseResult(False, None, (), total, total, 0, self._kept_keys())

    def _kept_keys(self) -> Callable[[], tuple[str, ...]]:
        """Finds the keys of the commit it stands at, when it is called."""
        repo, commit = self.repo, self.current_commit
        return lambda: tuple(sorted(repo.snapshot(commit=commit)))

    def rebase(
        self, keep_keys: Collection[str] | None = None, *, info: Mapping[str, Any] | None = None
    ) -> RebaseResult:
        """Move the branch to a commit without parents that holds fewer keys.

        Args:
            keep_keys: keep these and the protected ones, whatever their size; if not given, drop the
                coldest until the rest fits low water.
            info: plain data kept in the commit.

        Raises:
            ConcurrencyError: somebody moved the branch; nothing was changed.
            What the collection raises: the branch has moved, the handle with it; nothing was deleted.

        Cost: a scan of the tree, then as any commit. The first of a handle also reads the branch's reflog,
        as does the first after its oldest entry has expired, which collects too.
        """
        store = self.repo.store
        before = self._total()
        dropped, after = self._choose(keep_keys, before)
        meta = CommitMeta(None, None if info is None else dict(info), self._commit.codec)
        while True:
            self._find_again()
            writer = store.writer()
            writer.require(self._commit)
            run = make_run(store.shape, [(key.encode(), None) for key in dropped])
            tree = Editor(writer, store.shape).apply(Tree(*self._commit.tree), run)
            commit = history.put_commit(writer, tree, (), meta)
            try:
                self._move(writer, RefValue(self._commit.oid), commit, "rebase", dropped)
                break
            except StaleBatchError:  # gc took something that the new tree was to share
                continue
        kept = self._kept_keys()
        done = RebaseResult(True, self.current_commit, tuple(dropped), before, after, 0, kept)
        self._rebased = done
        return replace(done, orphans_cleaned=self.clean_orphans()) if self._has_expired() else done

    def _choose(self, keep_keys: Collection[str] | None, total: int) -> tuple[list[str], int]:
        """The keys to drop, and the bytes that are left."""
        dropped = []
        if keep_keys is not None:
            kept = set(keep_keys)
            for key, size in self._user_keys():
                if key not in kept:
                    dropped.append(key)
                    total -= size
            return dropped, total
        assert self._touches is not None
        numbers = self._touches.numbers(self.repo.store.backend)
        coldest = sorted((numbers.get(row_key(key), 0), -size, key) for key, size in self._user_keys())
        for _, size, key in coldest:
            if total <= self.low_water:
                break
            dropped.append(key)
            total += size
        return dropped, total

    def _user_keys(self) -> Iterator[tuple[str, int]]:
        """(key, bytes of its value) of the keys that may be dropped."""
        store = self.repo.store
        for key, value in scan.items(store, store.shape, Tree(*self._commit.tree)):
            text = text_of(key)
            if not self._is_protected(text):
                yield text, len(value) if isinstance(value, bytes) else value.length

    def _has_expired(self) -> bool:
        """Whether the branch's reflog has entries that ``clean_orphans`` would let go.

        Cost: nothing before the entry that was the oldest when it last looked has expired; then the
        whole reflog. Entries only go from the old end, so none can have become older meanwhile.
        """
        name = HEADS + self._branch
        limit = self.repo.refs.clock() - max(self._keep_reflog_us, MIN_AGE_S * 1_000_000)
        if self._oldest_us is None or self._oldest_us < limit:
            entries = self.repo.store.backend.read_reflog(name)
            self._oldest_us = decode_log_entry(name, entries[-1]).time_us if entries else None
        return self._oldest_us is not None and self._oldest_us < limit

    def clean_orphans(self, min_age: float = MIN_AGE_S) -> int:
        """Delete what no branch, no tag and no unexpired reflog entry of the store reaches.

        Args:
            min_age: seconds for which reflog entries are kept at least, however soon they expire else.

        Returns:
            how many records (commits, nodes, out-of-line values) were deleted.

        Raises:
            CorruptionError: something reachable is missing or damaged; nothing was deleted.

        Cost: see ``gc.collect``.
        """
        return self.repo.gc(keep_reflog=max(self._keep_reflog_us / 1_000_000, min_age)).freed_count
