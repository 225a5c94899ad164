"""The facade: a repository, its branches and tags, snapshots, the log and diffs."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

from kvgit_hamt import diff, gc, graph, hamt, history, revision, scan, usage
from kvgit_hamt.backend.base import Backend, RefUpdate
from kvgit_hamt.backend.lmdb import LmdbBackend
from kvgit_hamt.backend.memory import MemoryBackend
from kvgit_hamt.codec import Codec, get_codec
from kvgit_hamt.errors import (
    BranchMovedError,
    BranchNotFoundError,
    ClosedError,
    CommitNotFoundError,
    CorruptionError,
    InvalidInputError,
    StaleBatchError,
)
from kvgit_hamt.hamt import Tree
from kvgit_hamt.history import CommitMeta
from kvgit_hamt.objects import CommitObject, Config, RefValue, decode_config, encode_config
from kvgit_hamt.path import Shape, text_of
from kvgit_hamt.policy import MergePolicy, MergeRule
from kvgit_hamt.refs import (
    CONFIG,
    HEADS,
    Branches,
    Clock,
    Refs,
    Tags,
    check_limit,
    check_name,
    describe,
    now_us,
    to_us,
)
from kvgit_hamt.results import Change, Commit, DiffStat, GcResult, ReflogEntry, Usage, make_change
from kvgit_hamt.snapshot import Snapshot, encode_key
from kvgit_hamt.store import DEFAULT_CACHE_BYTES, Store, StoreWriter
from kvgit_hamt.worktree import Worktree

if TYPE_CHECKING:  # the modules of single, rare calls are imported by these: most programs make none
    from typing_extensions import Self

    from kvgit_hamt.bundle import BundleInfo
    from kvgit_hamt.bundle import Progress as BundleProgress
    from kvgit_hamt.bundle import Target as BundleTarget
    from kvgit_hamt.bundle_load import LoadResult
    from kvgit_hamt.check import Check
    from kvgit_hamt.check import Progress as CheckProgress
    from kvgit_hamt.repair import RepairResult

CodecSpec: TypeAlias = Any  # a name, a Codec, or an (encoder, decoder) pair
MAIN = "main"
BUILT_IN = ("msgpack", "pickle", "bytes")


class Repo:
    """A versioned store: commits of maps from str to any value, on branches.

    Args:
        where: a directory (LMDB, made if it is not there), a backend, or None for memory.
        codec: "msgpack" (plain data), "pickle" (any object; reading runs code), "bytes", a Codec,
            or an (encoder, decoder) pair. Recorded when the store is made. None takes what the
            store says if that is msgpack or bytes, and msgpack for a new one.
        merge_fns, merge_prefixes, default_merge: rules for every merge, after those of a call.
        cache_bytes: bound on cached inner nodes.
        shape: parameters of the trees, for a store that is made now; the store's own count else.
        clock: microseconds since 1970, for commits and the reflog.

    Raises:
        FormatVersionError: a newer or foreign store; it was not touched.
        InvalidInputError: another codec than the store's. BackendError: see its kinds.
        CorruptionError, StoreRolledBackError: the files are damaged, or older than they were.
    """

    def __init__(  # noqa: PLR0913 (the contract's names)
        self,
        where: str | os.PathLike[str] | Backend | None = None,
        *,
        codec: CodecSpec = None,
        merge_fns: Mapping[str, MergeRule] | None = None,
        merge_prefixes: Mapping[str, MergeRule] | None = None,
        default_merge: MergeRule | None = None,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        shape: Shape | None = None,
        clock: Clock = now_us,
    ) -> None:
        self.policy = MergePolicy.of(merge_fns, merge_prefixes, default_merge)
        wanted = None if codec is None else get_codec(codec)
        if not isinstance(cache_bytes, int) or cache_bytes < 0:
            raise InvalidInputError(f"cache_bytes is 0 or more, not {cache_bytes!r}")
        self.is_closed = False
        backend = _backend_at(where)
        try:
            config = _config_of(backend, wanted, shape, clock)
            self.codec = _codec_of(config, wanted)
        except BaseException:
            if backend is not where:  # one that was handed over goes on without us
                backend.close()
            raise
        self.store = Store(backend, config.shape, cache_bytes)
        self.refs = Refs(self.store, clock)
        self.branches = Branches(self.refs)
        self.tags = Tags(self.refs)
        self._views: weakref.WeakValueDictionary[int, Snapshot | Worktree] = weakref.WeakValueDictionary()

    # lifetime

    def close(self) -> None:
        """Release the store; everything opened from it raises ClosedError afterwards."""
        if not self.is_closed:
            self.is_closed = True
            self.store.close()

    def check_open(self) -> None:
        """Raise ClosedError after ``close``."""
        if self.is_closed:
            raise ClosedError("the repository was closed; open it again")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # views

    def worktree(self, name: str = MAIN, create: bool = False) -> Worktree:
        """A writable view of a branch.

        Args:
            create: make the branch, at the store's initial (empty) commit, if there is none.

        Raises:
            BranchNotFoundError, InvalidNameError.

        Cost: one commit read, whatever the branch holds.
        """
        self.check_open()
        if create and name not in self.branches:
            check_name(name)
            self._create_empty(name)
        worktree = Worktree(self, name, self.read_head(name), self.policy)
        self._views[id(worktree)] = worktree
        return worktree

    def _create_empty(self, name: str) -> None:
        """Make a branch at the initial commit, which is stored again should gc have collected it."""
        while True:
            writer = self.store.writer()
            oid = history.initial_oid(self.codec.name)
            is_missing = self.store.backend.find("commit", oid) is None
            if is_missing:
                _put_initial(writer, self.codec.name)
            update = self.refs.update(HEADS + name, None, RefValue(oid), "branch: created")
            try:
                writer.publish([update], [oid])
                return
            except BranchMovedError:  # somebody else has just made it
                return
            except StaleBatchError:  # the initial commit has just come
                continue
            except CorruptionError:  # it has just gone
                if is_missing:
                    raise

    def snapshot(
        self,
        *,
        commit: str | None = None,
        branch: str | None = None,
        tag: str | None = None,
        as_of: datetime | float | None = None,
    ) -> Snapshot:
        """A read-only view of one commit: named, or a branch's ("main" if nothing is named).

        Args:
            as_of: the newest commit of the branch's first-parent history made at or before then.

        Raises:
            CommitNotFoundError, BranchNotFoundError, TagNotFoundError, InvalidInputError.
        """
        self.check_open()
        if commit is None and tag is None and branch is None:
            branch = MAIN
        found = self.find_commit(branch=branch, tag=tag, commit=commit)
        if as_of is not None:
            found = self._as_of(found, to_us(as_of))
        return self.view_of(found)

    def view_of(self, commit: CommitObject) -> Snapshot:
        """A snapshot of a commit that was read already; gc of this Repo keeps it."""
        snapshot = Snapshot(self.store, self.codec, commit, self)
        self._views[id(snapshot)] = snapshot
        return snapshot

    def _as_of(self, head: CommitObject, time_us: int) -> CommitObject:
        for commit in graph.log(self.store, [head], first_parent=True):
            if commit.time_us is not None and commit.time_us <= time_us:
                return commit
        raise CommitNotFoundError("no commit of this history is that old")

    # commits

    def get_commit(self, commit: str) -> Commit:
        """A commit by id, abbreviation (4 characters or more), branch, tag, ``main~2``: see ``revision``."""
        return describe(self.resolve_commit(commit))

    def resolve_commit(self, text: str) -> CommitObject:
        """The commit that a branch, tag, id or abbreviation names, or one of these with ``~n``, ``@{n}``."""
        self.check_open()
        return revision.resolve(self.refs, text)

    def find_commit(
        self, *, branch: str | None = None, tag: str | None = None, commit: str | None = None
    ) -> CommitObject:
        """The commit that exactly one of the three names."""
        self.check_open()
        if sum(name is not None for name in (branch, tag, commit)) != 1:
            raise InvalidInputError("name exactly one of branch, tag and commit")
        if branch is not None:
            return self.read_head(branch)
        if tag is not None:
            return self.store.read_commit(bytes.fromhex(self.tags[tag]))
        return self.store.read_commit(self.store.resolve_commit(commit or ""))

    def read_head(self, branch: str) -> CommitObject:
        """The commit a branch is at; BranchNotFoundError if there is no such branch."""
        self.check_open()
        return self.store.read_commit(self.branches.head(branch).oid)

    def log(
        self,
        start: str | Iterable[str] = MAIN,
        *,
        first_parent: bool = False,
        limit: int | None = None,
        key: str | None = None,
        prefix: str | None = None,
    ) -> Iterator[Commit]:
        """Commits from ``start`` back, newest first by generation and time, as a stream.

        Args:
            start: branch, tag, id or abbreviation, or several.
            first_parent: follow only the first parent of merges.
            limit: at most so many.
            key, prefix: only commits in which that key, or something under that prefix, differs
                from every parent.

        Cost: one commit read each; with ``key`` or ``prefix`` also the nodes on the way to it that
        differ from the parent's.
        """
        names = start if isinstance(start, Iterable) and not isinstance(start, (str, bytes)) else [start]
        found = [self.resolve_commit(name) for name in names]
        wanted = None if key is None else encode_key(key)
        under = None if prefix is None else encode_key(prefix)
        check_limit(limit)
        return self._log(found, first_parent, limit, (wanted, under))

    def _log(
        self,
        starts: list[CommitObject],
        first_parent: bool,
        limit: int | None,
        touching: tuple[bytes | None, bytes | None],
    ) -> Iterator[Commit]:
        left, show = limit, self.store.commits.show
        for commit in graph.log(self.store, starts, first_parent):
            if left == 0:
                return
            self.check_open()
            if touching == (None, None) or self._touches(commit, touching):
                yield show(commit, describe)
                left = None if left is None else left - 1

    def _touches(self, commit: CommitObject, touching: tuple[bytes | None, bytes | None]) -> bool:
        """Whether a commit changes a key, or something under a prefix, against every parent."""
        key, prefix = touching
        store = self.store
        tree = Tree(*commit.tree)
        if not commit.parents:  # the initial commit, or one that cut its history off
            if key is not None:
                return hamt.get(store, store.shape, tree, key) is not None
            return any(True for _ in scan.keys(store, store.shape, tree, prefix or b""))
        for link in commit.parents:
            old = Tree(*store.read_commit(*link).tree)
            if key is not None and not hamt.has_changed(store, store.shape, old, tree, key):
                return False
            if prefix is not None and not any(True for _ in diff.diff(store, store.shape, old, tree, prefix)):
                return False
        return True

    def merge_base(self, one: str, other: str) -> str | None:
        """The id of the best common ancestor of two commits, None if they share no history.

        Of several best ones (criss-cross histories) the newest by generation, then time, then id.
        """
        bases = graph.merge_bases(self.store, self.resolve_commit(one), self.resolve_commit(other))
        return bases[0].oid.hex() if bases else None

    # differences

    def diff(self, old: str, new: str, prefix: str | None = None, values: bool = True) -> Iterator[Change]:
        """The keys in which two commits differ, as a stream in tree order.

        Args:
            old, new: branches, tags, ids or abbreviations.
            prefix: only keys that start with it.
            values: False leaves old and new None, and reads no out-of-line value.

        Cost: node reads O(changes x depth); memory O(depth).
        """
        trees = [Tree(*self.resolve_commit(name).tree) for name in (old, new)]
        return self._diff(trees[0], trees[1], encode_key(prefix or ""), values)

    def _diff(self, old: Tree, new: Tree, prefix: bytes, values: bool) -> Iterator[Change]:
        load = self.store.load_value
        for key, before, after in diff.diff(self.store, self.store.shape, old, new, prefix, values):
            self.check_open()
            text = text_of(key)
            if values:
                sides = [None if side is None else load(side) for side in (before, after)]
                yield make_change(self.codec, text, *sides)
            else:
                kind = "added" if before is None else "removed" if after is None else "modified"
                yield Change(text, None, None, kind)  # type: ignore[arg-type]

    def diff_stat(self, old: str, new: str, prefix: str | None = None) -> DiffStat:
        """How many keys were added, removed and modified between two commits. Cost: as ``diff``."""
        counts = {"added": 0, "removed": 0, "modified": 0}
        for change in self.diff(old, new, prefix, values=False):
            counts[change.kind] += 1
        return DiffStat(**counts)

    # upkeep

    def reflog(self, branch: str = MAIN, limit: int | None = None) -> list[ReflogEntry]:
        """The moves of a branch, newest first; also of one that was deleted."""
        self.check_open()
        return self.refs.reflog(HEADS + check_name(branch), limit)

    def gc(
        self,
        dry_run: bool = False,
        keep_reflog: timedelta | float | None = None,
        progress: gc.Progress | None = None,
    ) -> GcResult:
        """Delete what nothing reaches: no branch, tag, unexpired reflog entry, nor an open view of this Repo.

        On LMDB it is safe beside readers and writers in other processes, and to be stopped at any moment.
        (On a user's key-value store nobody else may write meanwhile.) A snapshot or worktree of another
        Repo or process is kept by what still reaches its commit: keep reflog entries while those may live.

        Args:
            dry_run: delete nothing, say what would go.
            keep_reflog: age at which reflog entries expire (timedelta or seconds); 90 days if None. Until
                then resets and deleted branches can be undone.
            progress: called with (phase, done, of how many) now and then.

        Raises:
            CorruptionError: something reachable is missing or damaged; nothing was deleted.

        Cost: reads every reachable commit and inner node; memory one bit a record. Freed pages are used
        again; ``compact`` gives them back to the file system.
        """
        self.check_open()
        keep_us = None if keep_reflog is None else _duration_us(keep_reflog)
        pinned = [view.pinned_oid for view in list(self._views.values()) if not view.is_closed]
        return gc.collect(
            self.store, self.refs, dry_run=dry_run, keep_reflog_us=keep_us, pinned=pinned, progress=progress
        )

    def check(self, deep: bool = True, progress: CheckProgress | None = None) -> Check:
        """Verify everything that refs and reflogs reach; it runs while its faults are iterated over.

        ``list(repo.check())`` is every ``Fault``, ``repo.check().result()`` the ``CheckResult`` alone.
        Nothing is changed. For the arguments see ``Check``. Cost: reads every reachable record once.
        """
        from kvgit_hamt.check import Check

        self.check_open()
        return Check(self.store, deep=deep, progress=progress)

    def repair(self, from_: Any, progress: CheckProgress | None = None) -> RepairResult:
        """Put right what a deep check finds, from a copy: a Repo, a path, a bundle. See ``repair.repair``."""
        from kvgit_hamt.repair import repair

        self.check_open()
        return repair(self.store, from_.store if isinstance(from_, Repo) else from_, progress)

    def compact(self) -> tuple[int, int]:
        """Give what gc freed back to the file system: (bytes of the file before, and after).

        Raises:
            LockedError: another process has the store open. StoreFullError: no room for the copy that
                this takes. The store is as it was.

        Cost: writes what is stored once.
        """
        self.check_open()
        return self.store.backend.compact()

    def bundle(
        self,
        target: BundleTarget,
        *names: str,
        since: Iterable[str] = (),
        history: bool = True,
        progress: BundleProgress | None = None,
    ) -> BundleInfo:
        """Write commits with their trees and history to one file. See ``bundle.make_plan``, ``bundle.write``.

        Args:
            target: a path, which gets the whole bundle or stays as it is, or a binary file.
            names: branches, tags, revisions, or ranges "a..b"; all branches and tags if none.
            since: what these revisions reach is left out, and must be there where the bundle is loaded.
            history: False bundles each newest state as a commit without parents, of another id.
        """
        from kvgit_hamt import bundle

        self.check_open()
        plan, held = bundle.make_plan(self.refs, self.codec.name, names, since, history)
        views = [self.view_of(commit) for commit in held]  # gc of this Repo keeps them meanwhile
        try:
            return bundle.write(self.store, plan, target, progress)
        finally:
            views.clear()

    def load_bundle(
        self,
        source: BundleTarget,
        names: Mapping[str, str] | Iterable[str] | None = None,
        *,
        force: bool = False,
        progress: BundleProgress | None = None,
    ) -> LoadResult:
        """Bring in what a bundle holds: wholly, or nothing is visible. See ``bundle_load.load``."""
        from kvgit_hamt import bundle_load

        self.check_open()
        return bundle_load.load(self.refs, self.codec.name, source, names, (force, progress))

    def copy(self, directory: str | os.PathLike[str], *, compact: bool = False) -> None:
        """Copy the store as it is now, while it is in use, to a new directory. See ``LmdbBackend.copy``."""
        from kvgit_hamt import copy

        self.check_open()
        copy.copy(self.store.backend, directory, compact)

    def usage(self) -> dict[str, Usage]:
        """For each branch ("heads/NAME") and tag ("tags/NAME") the bytes it holds alone, and shares.

        Cost: a walk over the commits and inner nodes that each of them reaches.
        """
        self.check_open()
        heads = {name: value.oid for name, value in self.refs.named()}
        return usage.usage(self.store, heads)

    def stats(self) -> dict[str, int]:
        """Figures of the store: what the backend counts, and branches and tags."""
        self.check_open()
        figures = dict(self.store.backend.stats())
        figures["branch_count"] = len(self.branches)
        figures["tag_count"] = len(self.tags)
        return figures

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else f"{len(self.branches)} branches"
        return f"<Repo {type(self.store.backend).__name__}, {state}, codec {self.codec.name}>"


def open(  # noqa: PLR0913 (the contract's names)
    path: str | os.PathLike[str] | None = None,
    *,
    branch: str = MAIN,
    codec: CodecSpec = None,
    merge_fns: Mapping[str, MergeRule] | None = None,
    merge_prefixes: Mapping[str, MergeRule] | None = None,
    default_merge: MergeRule | None = None,
    cache_bytes: int = DEFAULT_CACHE_BYTES,
) -> Worktree:
    """A worktree of a branch, in one call: the store and the branch are made if they are missing.

    Args:
        path: a directory, or None for memory. (others: see Repo)

    ``worktree.repo`` is the repository; close it with ``worktree.close()``, or use ``with``.
    """
    check_name(branch)
    repo = Repo(
        path,
        codec=codec,
        merge_fns=merge_fns,
        merge_prefixes=merge_prefixes,
        default_merge=default_merge,
        cache_bytes=cache_bytes,
    )
    try:
        worktree = repo.worktree(branch, create=True)
    except BaseException:
        repo.close()
        raise
    worktree.owns_repo = True
    return worktree


def _duration_us(duration: timedelta | float) -> int:
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else duration
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < 1e12:
        raise InvalidInputError(f"keep_reflog is a timedelta or seconds, 0 or more; not {duration!r}")
    return round(seconds * 1_000_000)


def _backend_at(where: str | os.PathLike[str] | Backend | None) -> Backend:
    if where is None:
        return MemoryBackend()
    if isinstance(where, (str, os.PathLike)):
        if not os.fspath(where):
            raise InvalidInputError("the path of a store is empty; give a directory, or None for memory")
        return LmdbBackend(where)
    if not hasattr(where, "publish"):
        raise InvalidInputError(
            f"a store is a directory, a backend, or None for memory, not {type(where).__name__}"
        )
    return where


def _config_of(backend: Backend, wanted: Codec | None, shape: Shape | None, clock: Clock) -> Config:
    """The store's description; a new store is made with its initial commit and branch main."""
    data = backend.get_ref(CONFIG)
    if data is None and backend.list_refs(""):  # which finds a ref whose name was damaged
        data = backend.get_ref(CONFIG)  # another process has just made it
        if data is None:
            raise CorruptionError("the store's description is gone, but its branches are not")
    if data is None:
        codec = wanted or get_codec("msgpack")
        config = Config(shape or Shape(), codec.name)
        try:
            create_store(backend, config, clock)
        except (BranchMovedError, StaleBatchError):  # another process has just made it
            data = backend.get_ref(CONFIG)
        else:
            return config
    if data is None:
        raise BranchNotFoundError("the store's description vanished while it was opened")
    return decode_config(data)


def create_store(backend: Backend, config: Config, clock: Clock, branch: str | None = MAIN) -> None:
    """Write the description and the initial commit of a new store, and a branch (None: none) at it.

    Raises:
        BranchMovedError: there is a store already.
    """
    store = Store(backend, config.shape, 0)
    refs = Refs(store, clock)
    writer = store.writer()
    initial = _put_initial(writer, config.codec)
    updates = [RefUpdate(CONFIG, None, encode_config(config), None)]
    if branch is not None:
        updates.append(refs.update(HEADS + branch, None, RefValue(initial.oid), "store created"))
    writer.publish(updates)


def _put_initial(writer: StoreWriter, codec: str) -> CommitObject:
    """The commit that a store begins with: an empty tree, no parents, no time."""
    return history.put_commit(writer, hamt.put_empty(writer), (), CommitMeta(None, None, codec))


def _codec_of(config: Config, wanted: Codec | None) -> Codec:
    if wanted is None:
        if config.codec not in BUILT_IN:
            raise InvalidInputError(
                f"the store was made with a codec of its own, {config.codec!r}; "
                "open it with codec=(encoder, decoder), or a Codec of that name"
            )
        if config.codec == "pickle":
            raise InvalidInputError(
                "the store's values are pickles, and reading a pickle runs code; "
                "open it with codec='pickle' if you trust whoever wrote it"
            )
        return get_codec(config.codec)
    if wanted.name != config.codec:
        raise InvalidInputError(
            f"the store was made with codec {config.codec!r}, not {wanted.name!r}; "
            f"open it with codec={config.codec!r}"
        )
    return wanted
