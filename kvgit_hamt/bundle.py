"""Bundles: commits with their whole trees as one file. Written, verified and read at random here.

Objects go children before parents, and commits oldest first: whoever loads them can give each its final
place at once, and what was loaded before an interruption stays of use. Loading is in ``bundle_load``.

Spec: docs/format.md, "Bundles".
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any, BinaryIO, Protocol, TypeAlias

from kvgit_hamt import bundle_check, graph, hamt, kernel, node, revision
from kvgit_hamt.bundle_format import OBJECT, FrameReader, FrameWriter, Head, Header, is_same
from kvgit_hamt.bundle_spill import SpillMap
from kvgit_hamt.errors import CorruptionError, InvalidInputError
from kvgit_hamt.hamt import Tree
from kvgit_hamt.node import INNER
from kvgit_hamt.objects import BLOB_HEADER, CommitObject, Link, encode_commit
from kvgit_hamt.oid import OID_BYTES, oid_of
from kvgit_hamt.refs import HEADS, TAGS, Refs, is_name
from kvgit_hamt.store import Store

CACHE_BYTES = 16 << 20  # inner nodes kept while walking
_WANTED, _EXCLUDED = 1, 2

Target: TypeAlias = Any  # a path, or a binary file
Progress = Callable[[str, int, int], None]
"""(phase, done, of how many): "write" counts objects, of an unknown number (0); "read" counts bytes, of 0
where the size is unknown."""


@dataclass(frozen=True, slots=True)
class BundleInfo:
    """What a bundle holds.

    Attributes:
        refs: "heads/NAME" or "tags/NAME" -> id of the commit.
        commits: ids of the commits that it is there for but that have no name in it.
        prerequisites: ids of commits that must be there where it is loaded.
        commit_count, object_count, byte_count: what is in the file.
        codec: name of the codec of the values.
    """

    refs: Mapping[str, str]
    commits: tuple[str, ...]
    prerequisites: tuple[str, ...]
    commit_count: int
    object_count: int
    byte_count: int
    codec: str


def info_of(header: Header, object_count: int, byte_count: int) -> BundleInfo:
    """What a header and two counts say."""
    return BundleInfo(
        {head.name: head.oid.hex() for head in header.heads if head.name is not None},
        tuple(head.oid.hex() for head in header.heads if head.name is None),
        tuple(oid.hex() for oid in header.prerequisites),
        header.commit_count, object_count, byte_count, header.codec,
    )  # fmt: skip


# choosing what goes in


@dataclass
class Plan:
    """What goes into a bundle.

    Attributes:
        header: all but the number of objects.
        commits: (oid, loc) of the commits, newest first, one after another.
        cut: payloads of commits made for the bundle, which are in no store, by their oid; with the tree.
    """

    header: Header
    commits: bytearray
    prerequisites: list[CommitObject]
    cut: dict[bytes, tuple[bytes, Link]]


def make_plan(
    refs: Refs, codec: str, names: Iterable[str], since: Iterable[str], history: bool
) -> tuple[Plan, list[CommitObject]]:  # fmt: skip
    """Decide what a bundle of some names holds; also the commits that must not be collected meanwhile.

    Args:
        names: branches, tags, other revisions, or ranges "a..b"; none for all branches and tags.
        since: revisions whose history is left out.
        history: False for the newest state alone: each commit is replaced by one without parents.

    Raises:
        InvalidInputError: nothing is left to bundle, or ``since`` without history.
        CommitNotFoundError and its kind: a name that names nothing.
    """
    store = refs.store
    excluded = [revision.resolve(refs, name) for name in since]
    heads: dict[str | bytes, tuple[Head, CommitObject]] = {}
    for name in names:
        start, dots, end = name.partition("..")
        if dots:
            if not start or not end or ".." in end:
                raise InvalidInputError(f"{name!r} is no range; give two revisions, as in 'v1..main'")
            excluded.append(revision.resolve(refs, start))
        head, commit = _head(refs, end if dots else name)
        heads[head.name or head.oid] = head, commit
    if not heads:
        for full, value in refs.named():
            heads[full] = Head(full, value.oid, value.info), store.read_commit(value.oid)
    if not heads:
        raise InvalidInputError("there is neither a branch nor a tag to bundle")
    if not history:
        if excluded:
            raise InvalidInputError("a bundle without history cannot begin after a commit")
        return _cut(store, codec, list(heads.values()))
    commits = bytearray()
    needed = _between(store, [commit for _, commit in heads.values()], excluded, commits)
    if not commits:
        raise InvalidInputError("the bundle would be empty: all of it is in what it begins after")
    count = len(commits) // _width(store)
    listed = sorted((head for head, _ in heads.values()), key=_by_name)
    needed.sort(key=lambda commit: commit.oid)
    header = Header(store.shape, codec, tuple(listed), tuple(each.oid for each in needed), count)
    return Plan(header, commits, needed, {}), [commit for _, commit in heads.values()] + needed


def _by_name(head: Head) -> tuple[bool, str, bytes]:
    return head.name is None, head.name or "", head.oid


def _head(refs: Refs, name: str) -> tuple[Head, CommitObject]:
    """The commit that a name names, as a head of a bundle."""
    for full in (HEADS + name, TAGS + name, name):
        value = refs.get(full) if full.startswith((HEADS, TAGS)) and is_name(full) else None
        if value is not None:
            return Head(full, value.oid, value.info), refs.store.read_commit(value.oid)
    commit = revision.resolve(refs, name)
    return Head(None, commit.oid, None), commit


def _cut(store: Store, codec: str, heads: list[tuple[Head, CommitObject]]) -> tuple[Plan, list[CommitObject]]:
    """Commits without parents in place of others: same tree, time and info, another id."""
    cut: dict[bytes, tuple[bytes, Link]] = {}
    listed = []
    for head, commit in heads:
        payload = encode_commit(commit.tree[0], (), 1, commit.time_us, commit.info, commit.codec)
        oid = oid_of(payload)
        cut[oid] = payload, commit.tree
        listed.append(head._replace(oid=oid))
    unique = {head.name or head.oid: head for head in listed}
    header = Header(store.shape, codec, tuple(sorted(unique.values(), key=_by_name)), (), len(cut))
    return Plan(header, bytearray(), [], cut), [commit for _, commit in heads]


def _width(store: Store) -> int:
    return OID_BYTES + (8 if store.backend.placed else 0)


def _between(
    store: Store, heads: list[CommitObject], excluded: list[CommitObject], out: bytearray
) -> list[CommitObject]:
    """Append to ``out`` the commits that heads reach and excluded ones do not, children before parents.

    Returns:
        the excluded ones that are parents of these, or heads.

    Cost: a commit read for each, and for excluded ones that are not older; memory follows the width of the
    graph, and 40 bytes for each commit found.
    """
    flags: dict[bytes, int] = {}
    heap: list[tuple[int, bytes, CommitObject]] = []
    wanted_count = 0

    def mark(oid: bytes, flag: int, read: Callable[[], CommitObject]) -> None:
        nonlocal wanted_count
        was = flags.get(oid)
        flags[oid] = (was or 0) | flag
        wanted_count += bool(flags[oid] & _WANTED) - bool((was or 0) & _WANTED)
        if was is None:
            found = read()
            heapq.heappush(heap, (-found.generation, oid, found))

    for flag, starts in ((_WANTED, heads), (_EXCLUDED, excluded)):
        for start in starts:
            mark(start.oid, flag, partial(_itself, start))
    needed = []
    while wanted_count:
        _, oid, commit = heapq.heappop(heap)
        flag = flags.pop(oid)  # final: children have larger generations
        wanted_count -= bool(flag & _WANTED)
        if flag == _WANTED:
            out += oid + commit.loc
        elif flag & _WANTED:
            needed.append(commit)
        for link in commit.parents:
            read = partial(graph.read_parent, store, commit, link)
            mark(link[0], _WANTED if flag == _WANTED else _EXCLUDED, read)
    return needed


def _itself(commit: CommitObject) -> CommitObject:
    return commit


# writing


class _Exporter:
    """Writes the objects of commits: each once, and none that a prerequisite has at the same place."""

    def __init__(self, store: Store, plan: Plan, frames: FrameWriter, progress: Progress) -> None:
        self.store = Store(store.backend, store.shape, CACHE_BYTES)
        self.frames = frames
        self.progress = progress
        self.bases = plan.prerequisites
        self.seen = SpillMap()
        self.opened = SpillMap()  # nodes of prerequisites that were pointed to

    def close(self) -> None:
        self.seen.close()
        self.opened.close()

    def put(self, oid: bytes, payload: bytes) -> None:
        """Write an object, unless its bytes are not those of its oid."""
        if not is_same(sha256(payload).digest(), oid):
            raise CorruptionError(f"object {oid.hex()} is damaged: it has another SHA-256")
        self.frames.object(oid, payload)
        self.seen.put(oid)

    def commit(self, oid: bytes, payload: bytes, tree: Link) -> None:
        """Write a commit, after what its tree has and neither an earlier one nor a prerequisite."""
        self.frames.commit(oid)
        self.tree(tree)
        self.put(oid, payload)
        self.progress("write", self.frames.object_count, 0)

    def tree(self, root: Link) -> None:
        """Write the new nodes of a tree, children first. No recursion: forged trees are deep."""
        sides = [(number, base.tree) for number, base in enumerate(self.bases)]
        if root[0] in self.seen or any(link[0] == root[0] for _, link in sides):
            return
        stack: list[tuple[bytes, bytes, Iterator[_Below]]] = []
        entered: _Below | None = _Below(root, b"", sides)
        while entered is not None or stack:
            if entered is not None:
                body = self.store.read(*entered.link)
                if body[0] == INNER:
                    payload = body[: node.inner_payload_length(body)]
                    stack.append((entered.link[0], payload, self.below(body, entered)))
                else:
                    self.leaf(entered.link[0], body)
            oid, payload, rest = stack[-1] if stack else (b"", b"", iter(()))
            entered = next((child for child in rest if child.link[0] not in self.seen), None)
            if entered is None and stack:
                stack.pop()
                self.put(oid, payload)

    def below(self, body: bytes, at: _Below) -> Iterator[_Below]:
        """Write the new leaves below an inner node; its new inner children."""
        children = node.inner_children(body)
        olds = [(number, link[0], self.store.read(*link)) for number, link in at.sides]
        olds = [old for old in olds if old[2][0] == INNER]
        had = set()
        for number, oid, old in olds:
            had.update(node.inner_children(old).oids)
            if oid not in self.opened and oid not in self.seen and not had.isdisjoint(children.oids):
                self.opened.put(oid)
                self.frames.base(number, at.slots)
        new = [n for n, oid in enumerate(children.oids) if oid not in had and oid not in self.seen]
        shape = self.store.shape
        is_deepest = len(at.slots) >= shape.max_level
        is_leaf = [is_deepest or shape.is_leaf(children.counts[n], children.sizes[n]) for n in new]
        links = [(children.oids[n], children.locs[n]) for n in new]
        leaves = [link for link, leaf in zip(links, is_leaf, strict=True) if leaf]
        for link, leaf_body in zip(leaves, self.store.read_many(leaves), strict=True):
            if link[0] not in self.seen:
                self.leaf(link[0], leaf_body)
        self.progress("write", self.frames.object_count, 0)
        for number, link, leaf in zip(new, links, is_leaf, strict=True):
            if not leaf:
                slot = children.slots.find(number)
                if slot < 0:
                    raise CorruptionError(node.BAD_INNER)
                steps = [(side, node.inner_step(old, slot)) for side, _, old in olds]
                sides = [(side, step) for side, step in steps if step is not None]
                yield _Below(link, at.slots + bytes((slot,)), sides)

    def leaf(self, oid: bytes, body: bytes) -> None:
        """Write a leaf, after those of its out-of-line values that are new."""
        for key, ref in bundle_check.blobs_of(body):
            if ref.oid not in self.seen and not self.is_had(key, ref):
                payload = kernel.unseal(ref.oid, self.store.backend.read(ref.oid, ref.loc))
                if payload[:2] != BLOB_HEADER or len(payload) != ref.length + len(BLOB_HEADER):
                    raise CorruptionError(f"object {ref.oid.hex()} is not the blob it should be")
                self.put(ref.oid, payload)
        self.put(oid, body[: kernel.leaf_payload_length(body)])

    def is_had(self, key: bytes, ref: node.BlobRef) -> bool:
        """Whether a prerequisite has this value at this key."""
        return any(
            hamt.get(self.store, self.store.shape, Tree(*base.tree), key) == ref for base in self.bases
        )


@dataclass(frozen=True, slots=True)
class _Below:
    """A node to write: its link, the slots that lead to it, and what prerequisites have there."""

    link: Link
    slots: bytes
    sides: list[tuple[int, Link]]


def write(store: Store, plan: Plan, target: Target, progress: Progress | None = None) -> BundleInfo:
    """Write a bundle to a path or a binary file.

    Raises:
        CorruptionError: something that goes into it is missing or damaged. OSError: of the file. A path holds
        what it held before, in both cases.

    Cost: reads what is written, and the inner nodes above it; memory is bounded (some 100 MB beside the
    largest value) but for 40 bytes a commit.
    """
    with _output(target) as file:
        frames = FrameWriter(file, plan.header)
        exporter = _Exporter(store, plan, frames, progress or (lambda phase, done, total: None))
        try:
            for oid, (payload, tree) in plan.cut.items():
                exporter.commit(oid, payload, tree)
            width = _width(store)
            for at in range(len(plan.commits) - width, -1, -width):
                link = (
                    bytes(plan.commits[at : at + OID_BYTES]),
                    bytes(plan.commits[at + OID_BYTES : at + width]),
                )
                commit = exporter.store.read_commit(*link)
                exporter.commit(commit.oid, _payload_of(commit), commit.tree)
            frames.end()
        finally:
            exporter.close()
    return info_of(plan.header, frames.object_count, frames.byte_count)


def _payload_of(commit: CommitObject) -> bytes:
    return encode_commit(
        commit.tree[0], tuple(oid for oid, _ in commit.parents), commit.generation, commit.time_us,
        commit.info, commit.codec,
    )  # fmt: skip


@contextmanager
def _output(target: Target) -> Iterator[BinaryIO]:
    """A file to write to; a path gets its new content whole and synced, or keeps the old one.

    A link is followed; what is there and no regular file, as a device or a pipe, is written, not replaced.
    """
    if hasattr(target, "write"):
        yield target
        return
    path = os.path.realpath(os.fspath(target))
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, "wb") as there:
            yield there
        return
    part = f"{path}.{os.urandom(6).hex()}.part"
    try:
        with open(part, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(part)
        raise
    if os.name != "nt":
        fd = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


# reading


@contextmanager
def open_bundle(source: Target) -> Iterator[FrameReader]:
    """The frames of a bundle at a path or in a binary file; see ``FrameReader`` for what is refused."""
    if hasattr(source, "read"):
        yield FrameReader(source)
        return
    with open(source, "rb", buffering=1 << 20) as file:
        yield FrameReader(file, os.fstat(file.fileno()).st_size)


def verify(source: Target, progress: Progress | None = None) -> BundleInfo:
    """Read a whole bundle and verify everything in it: every SHA-256, and that each tree is the one valid
    tree of its entries.

    Of a bundle with prerequisites what lies in these cannot be looked at; ``Repo.load_bundle`` does that.

    Raises:
        CorruptionError, FormatVersionError: it is damaged, no bundle, or of another version.
    """
    with open_bundle(source) as reader:
        checker = bundle_check.Checker(reader.header, is_open=True)
        try:
            bundle_check.visit(reader, checker, _Reporter(reader, progress))
        finally:
            checker.close()
        return info_of(reader.header, reader.object_count, reader.position)


class _Reporter(bundle_check.Visitor):
    def __init__(self, reader: FrameReader, progress: Progress | None) -> None:
        self.reader = reader
        self.progress = progress

    def put(self, oid: bytes, payload: bytes, below: list[bundle_check.Known]) -> bytes:
        if self.progress is not None:
            self.progress("read", self.reader.position, self.reader.size or 0)
        return super().put(oid, payload, below)


class PayloadSource(Protocol):
    """Anything that has payloads of objects by their oid: a bundle, another store."""

    def payload(self, oid: bytes) -> bytes | None:
        """The payload whose SHA-256 is ``oid``; None if it is not there."""


class BundlePayloads:
    """The objects of a bundle by their oid, in any order. Close it, or use ``with``.

    Raises:
        CorruptionError, FormatVersionError: the file is damaged. It is read whole when this is made.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._spans = SpillMap()
        self._file = open(path, "rb")  # noqa: SIM115 (closed by close)
        try:
            reader = FrameReader(self._file, os.fstat(self._file.fileno()).st_size)
            for frame in reader.frames():
                if frame.kind == OBJECT:
                    span = frame.offset, len(frame.payload)
                    self._spans.put(frame.oid, b"".join(n.to_bytes(8, "little") for n in span))
        except BaseException:
            self.close()
            raise

    def payload(self, oid: bytes) -> bytes | None:
        """The payload of an object, verified; None if it is not in the bundle."""
        span = self._spans.get(oid)
        if span is None:
            return None
        self._file.seek(int.from_bytes(span[:8], "little"))
        payload = self._file.read(int.from_bytes(span[8:], "little"))
        if not is_same(sha256(payload).digest(), oid):
            raise CorruptionError(f"object {oid.hex()} of the bundle has changed since it was opened")
        return payload

    def close(self) -> None:
        """Give the file back."""
        self._file.close()
        self._spans.close()

    def __enter__(self) -> BundlePayloads:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
