"""What each branch and tag holds alone, and what it shares with others."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping

from kvgit_hamt import kernel, node
from kvgit_hamt.node import INNER
from kvgit_hamt.objects import BLOB_HEADER, Link
from kvgit_hamt.path import ENTRY_BYTES
from kvgit_hamt.results import Usage
from kvgit_hamt.store import Store
from kvgit_hamt.wire import CHECK_BYTES

_NOBODY = 0
_SEVERAL = -1
_BLOCK = 1_024  # places


class _Owners:
    """For every record the one ref (from 1) that reaches it, or that several do. 4 bytes a record."""

    def __init__(self, is_placed: bool) -> None:
        self._blocks: dict[int, array[int]] = {}  # by place; made where a record is reached
        self._by_oid: dict[bytes, int] | None = None if is_placed else {}

    def get(self, link: Link) -> int:
        """The owner of a record."""
        if self._by_oid is not None:
            return self._by_oid.get(link[0], _NOBODY)
        place = int.from_bytes(link[1], "little")
        block = self._blocks.get(place // _BLOCK)
        return _NOBODY if block is None else block[place % _BLOCK]

    def set(self, link: Link, owner: int) -> None:
        """Change the owner of a record."""
        if self._by_oid is not None:
            self._by_oid[link[0]] = owner
            return
        place = int.from_bytes(link[1], "little")
        block = self._blocks.get(place // _BLOCK)
        if block is None:
            block = self._blocks[place // _BLOCK] = array("i", bytes(4 * _BLOCK))
        block[place % _BLOCK] = owner


class _Walk:
    """Walks from one ref after another; each record changes hands at most twice."""

    def __init__(self, store: Store) -> None:
        self.store = Store(store.backend, store.shape, 0)
        self.owners = _Owners(store.backend.placed)
        self.exclusive: dict[int, int] = {}

    def claim(self, link: Link, ref: int) -> bool:
        """Note that a ref reaches a record; whether what lies below it changes hands too."""
        owner = self.owners.get(link)
        if owner in (ref, _SEVERAL):
            return False
        self.owners.set(link, ref if owner == _NOBODY else _SEVERAL)
        return True

    def count(self, size: int, ref: int, before: int) -> None:
        """Add the bytes of a record that changed hands."""
        if before == _NOBODY:
            self.exclusive[ref] = self.exclusive.get(ref, 0) + size
        else:
            self.exclusive[before] -= size

    def take(self, link: Link, size: int, ref: int) -> bool:
        """Claim a record of known size."""
        before = self.owners.get(link)
        if not self.claim(link, ref):
            return False
        self.count(size, ref, before)
        return True

    def ref(self, oid: bytes, ref: int) -> None:
        """Walk everything that a ref reaches."""
        start = self.store.read_commit(oid)
        stack: list[Link] = [(start.oid, start.loc)]
        while stack:
            link = stack.pop()
            before = self.owners.get(link)
            if not self.claim(link, ref):
                continue
            commit, size = self.store.read_sized_commit(*link)
            self.count(size, ref, before)
            stack.extend(commit.parents)
            self.tree(commit.tree, ref)

    def tree(self, root: Link, ref: int) -> None:
        """Walk a tree. Leaves without blobs are not read: their parent's figures give their size."""
        body = self.store.read(*root)
        if not self.take(root, len(body) + CHECK_BYTES, ref):
            return
        stack = [(body, 0)]
        while stack:
            body, level = stack.pop()
            if body[0] != INNER:
                self.blobs(body, ref)
                continue
            for link, size, is_plain in self.below(body, level):
                if is_plain:
                    self.take(link, size, ref)
                elif self.owners.get(link) not in (ref, _SEVERAL):
                    child = self.store.read(*link)
                    self.take(link, len(child) + CHECK_BYTES, ref)
                    stack.append((child, level + 1))

    def below(self, body: bytes, level: int) -> list[tuple[Link, int, bool]]:
        """(link, bytes, whether it is a leaf without blobs) of an inner node's children."""
        children = node.inner_children(body)
        shape = self.store.shape
        out = []
        for oid, loc, count, size, extra in zip(
            children.oids, children.locs, children.counts, children.sizes, children.extras, strict=True
        ):
            is_leaf = shape.is_leaf(count, size) or level >= shape.max_level
            stored = node.HEADER_BYTES + size + ENTRY_BYTES * count + CHECK_BYTES
            if size > 0xFFFF:
                stored += 4 * count  # wide ends
            out.append(((oid, loc), stored, is_leaf and not extra))
        return out

    def blobs(self, body: bytes, ref: int) -> None:
        """Count the out-of-line values of a leaf."""
        if node.has_blobs(body):
            for _, value in kernel.leaf_items(body):
                if isinstance(value, node.BlobRef):
                    size = len(BLOB_HEADER) + value.length + CHECK_BYTES
                    self.take((value.oid, value.loc), size, ref)


def usage(store: Store, heads: Mapping[str, bytes]) -> dict[str, Usage]:
    """For each named commit the bytes that only it reaches, and those that others of them reach too.

    Cost: reads every commit and inner node that a name reaches, for each name anew; 4 bytes of memory a
    record (placed backends).
    """
    walk = _Walk(store)
    numbers: dict[bytes, int] = {}
    for oid in heads.values():
        if oid not in numbers:
            numbers[oid] = len(numbers) + 1
            walk.ref(oid, numbers[oid])
    alone = {oid for oid, count in Counter(heads.values()).items() if count == 1}
    totals = reach_bytes(store, list(numbers))
    out = {}
    for name, oid in heads.items():
        exclusive = walk.exclusive.get(numbers[oid], 0) if oid in alone else 0
        out[name] = Usage(exclusive, totals[oid] - exclusive)
    return out


def reach_bytes(store: Store, oids: list[bytes]) -> dict[bytes, int]:
    """The stored bytes that each commit reaches, by a walk each."""
    out = {}
    for oid in oids:
        walk = _Walk(store)
        walk.ref(oid, 1)
        out[oid] = walk.exclusive.get(1, 0)
    return out
