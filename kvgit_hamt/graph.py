"""The graph of commits: the log, ancestors, and merge bases, by generation numbers.

Nothing here recurses and nothing walks the whole history: a commit's parents have smaller
generations, so a search stops where the generations say that nothing more can be found.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator

from kvgit_hamt.errors import CorruptionError
from kvgit_hamt.objects import COMMIT_KEPT_BYTES, CommitObject, Link
from kvgit_hamt.store import Store

_OURS, _THEIRS, _STALE = 1, 2, 4


def _rank(commit: CommitObject) -> tuple[int, int, bytes]:
    """Newest first: by generation, then time (none is oldest), then oid, which only breaks ties."""
    time_us = commit.time_us if commit.time_us is not None else -(1 << 63)
    return -commit.generation, -time_us, commit.oid


def log(store: Store, starts: Iterable[CommitObject], first_parent: bool = False) -> Iterator[CommitObject]:
    """Commits reachable from ``starts``, children before parents, newest first, each once.

    Cost: one commit read for each that is given out, and its parents; memory follows the width of
    the graph, not its length.
    """
    heap: list[tuple[tuple[int, int, bytes], CommitObject]] = []
    waiting: set[bytes] = set()

    def push(commit: CommitObject) -> None:
        if commit.oid not in waiting:
            waiting.add(commit.oid)
            heapq.heappush(heap, (_rank(commit), commit))

    for start in starts:
        push(start)
    while heap:
        _, commit = heapq.heappop(heap)
        waiting.discard(commit.oid)
        yield commit
        parents = commit.parents[:1] if first_parent else commit.parents
        while len(parents) == 1 and not heap:  # a line
            commit = read_parent(store, commit, parents[0])
            yield commit
            parents = commit.parents[:1] if first_parent else commit.parents
        for parent in parents:
            if parent[0] not in waiting:
                push(read_parent(store, commit, parent))


def read_parent(store: Store, commit: CommitObject, link: Link) -> CommitObject:
    """A parent of a commit; CorruptionError if it is not older, so that no walk goes round for ever."""
    parent = store.commits.get(link)
    if parent is None:
        parent, size = store.read_sized_commit(*link)
        if size <= COMMIT_KEPT_BYTES:
            store.commits.put(link, parent)
    if parent.generation >= commit.generation:
        raise CorruptionError(f"commit {commit.oid.hex()} has a parent of generation {parent.generation}")
    return parent


def merge_bases(store: Store, one: CommitObject, other: CommitObject) -> list[CommitObject]:
    """The best common ancestors of two commits: none of them is an ancestor of another.

    Returns:
        newest first by generation, then time, then oid. The first is the one that merges use;
        criss-cross histories have several. Empty for unrelated histories.

    Cost: reads the commits that are not older than the bases.
    """
    if one.oid == other.oid:
        return [one]
    flags = {one.oid: _OURS, other.oid: _THEIRS}
    heap = [(_rank(one), one), (_rank(other), other)]
    heapq.heapify(heap)
    found: list[CommitObject] = []
    fresh = 2  # queued commits that are not known to be below a base
    queued = {one.oid, other.oid}
    while heap and fresh:
        _, commit = heapq.heappop(heap)
        flag = flags[commit.oid]
        if not flag & _STALE:
            fresh -= 1
            if flag == _OURS | _THEIRS:
                found.append(commit)
                flag |= _STALE
        for link in commit.parents:
            fresh += _mark(flags, link, flag)
            if link[0] not in queued:
                queued.add(link[0])
                parent = read_parent(store, commit, link)
                heapq.heappush(heap, (_rank(parent), parent))
    # A commit has all its flags when it is popped, since children have larger generations; so what
    # was found is never below another that was found.
    return found


def _mark(flags: dict[bytes, int], link: Link, flag: int) -> int:
    """Add flags to a parent; by how much the number of fresh commits changes."""
    was = flags.get(link[0])
    now = (was or 0) | flag
    flags[link[0]] = now
    if was is None:
        return 0 if now & _STALE else 1
    return -1 if now & _STALE and not was & _STALE else 0


def is_ancestor(store: Store, ancestor: CommitObject, commit: CommitObject) -> bool:
    """Whether ``ancestor`` is ``commit`` or lies in its history."""
    if ancestor.generation > commit.generation:
        return False
    bases = merge_bases(store, ancestor, commit)
    return len(bases) == 1 and bases[0].oid == ancestor.oid
