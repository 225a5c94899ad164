"""What a single node must be, beyond what every read verifies: pure functions over its payload.

``docs/format.md`` says that no other tree is valid; each sentence of its section "Trees" has its check here,
as far as it can be told from one node and from where its parent says that it stands.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from kvgit_hamt import node
from kvgit_hamt.errors import CorruptionError
from kvgit_hamt.node import Segment, segments_of
from kvgit_hamt.path import MAX_KEY_BYTES, PATH_BITS, TAIL_BITS, TOTAL_BITS, Shape


class Spot(NamedTuple):
    """Where in its tree a node stands.

    Attributes:
        level: its own, were it an inner node: one more than its parent's; 0 for the root.
        width: slots of its parent that it covers; 0 for the root.
        prefix, bits: the leading path bits that every key below it has, and how many.
    """

    level: int
    width: int
    prefix: int
    bits: int

    def below(self, shape: Shape, start: int, width: int) -> Spot:
        """The spot of a child over a run of slots of the inner node that stands here."""
        free = width.bit_length() - 1
        own = shape.bits - free
        return Spot(self.level + 1, width, self.prefix << own | start >> free, self.bits + own)

    def holds(self, shape: Shape, key: bytes, path: int) -> bool:
        """Whether a key belongs below this spot."""
        if self.bits <= PATH_BITS:
            return path >> PATH_BITS - self.bits == self.prefix
        whole = path << TAIL_BITS | shape.tail(key)
        return whole >> TOTAL_BITS - self.bits == self.prefix

    def __str__(self) -> str:
        return format(self.prefix, f"0{self.bits}b") if self.bits else ""


ROOT = Spot(0, 0, 0, 0)


def leaf_problems(shape: Shape, payload: bytes, spot: Spot) -> Iterator[str]:
    """What is wrong with a leaf: its form, the order and the place of its keys, its values.

    Cost: hashes every key.
    """
    try:
        node.check_node(payload)
        entries = node.leaf_entries(payload)
    except CorruptionError as error:
        yield str(error)
        return
    if not entries.records and spot.width:
        yield "a leaf without entries that is not the whole tree"
    last_path, last_key = -1, b""
    for number, (record, length) in enumerate(zip(entries.records, entries.key_lengths, strict=True)):
        key = record[:length]
        path = shape.hash(key)
        yield from _entry_problems(shape, entries, number, key, path)
        if not spot.holds(shape, key, path):
            yield f"key {_shown(key)} does not belong here: its path is {path:032x}"
        if path < last_path or (
            path == last_path and (shape.tail(last_key), last_key) >= (shape.tail(key), key)
        ):
            yield f"key {_shown(key)} is out of order, or there twice"
        last_path, last_key = path, key


def _entry_problems(shape: Shape, entries: node.Entries, number: int, key: bytes, path: int) -> Iterator[str]:
    if entries.tags[number] != path & 255:
        yield f"the tag of key {_shown(key)} is not that of its path"
    if len(key) > MAX_KEY_BYTES:
        yield f"a key of {len(key)} bytes"
    try:
        key.decode()
    except UnicodeDecodeError:
        yield f"key {_shown(key)} is not UTF-8"
    stored = entries.records[number][len(key) :]
    if entries.kinds[number] == node.INLINE:
        if len(stored) > shape.inline_max:
            yield f"the value of key {_shown(key)} is {len(stored)} bytes long and not a blob"
    elif int.from_bytes(stored[32:40], "little") <= shape.inline_max:
        yield f"the value of key {_shown(key)} is short, and a blob all the same"


def inner_problems(shape: Shape, payload: bytes, spot: Spot) -> Iterator[str]:
    """What is wrong with an inner node: its form, and the division of its slots by weight."""
    try:
        node.check_node(payload)
        segments = segments_of(payload)
    except CorruptionError as error:
        yield str(error)
        return
    if payload[2] != shape.bits:
        yield f"an inner node of {payload[2]} bits in a store of {shape.bits}"
        return
    if spot.level > shape.max_level:
        yield f"an inner node at level {spot.level}, below the deepest one"
    for segment in segments:
        if segment.width > 1 and not shape.is_leaf(segment.entry_count, segment.size):
            yield f"the child at slot {segment.start} is too heavy for one over {segment.width} slots"
        if segment.width == shape.slots:
            yield "a single child over all slots: it must stand in the node's place"
    yield from _join_problems(shape, segments)


def _join_problems(shape: Shape, segments: list[Segment]) -> Iterator[str]:
    """Neighbours that are light together and so must be one leaf (or one empty run), up to the whole node."""
    stack: list[tuple[int, int, int, int]] = []  # (start, width, count, size)
    for segment in segments:
        right = (segment.start, segment.width, segment.entry_count, segment.size)
        while stack:
            start, width, count, size = stack[-1]
            if width != right[1] or start & (2 * width - 1):
                break
            count, size = count + right[2], size + right[3]
            if not shape.is_leaf(count, size):
                break
            if count:
                yield f"the runs at slots {start} and {right[0]} are light together and must be joined"
            stack.pop()
            right = (start, 2 * width, count, size)
        stack.append(right)


def is_leaf_spot(shape: Shape, spot: Spot, count: int, size: int) -> bool:
    """Whether the node at a spot must be a leaf, by the entries below it."""
    is_last = spot.width == 1 and spot.level > shape.max_level
    return is_last or shape.is_leaf(count, size)


def payload_of(body: bytes) -> bytes:
    """The part of a stored body that its oid is the SHA-256 of, whatever kind of object it is.

    Raises:
        CorruptionError: unknown kind, or too short to tell.
    """
    kind = body[0] if body else 0
    if kind == node.BLOB:
        return body
    if kind == node.LEAF:
        return body[: node.leaf_payload_length(body)]
    if kind == node.INNER:
        if not node.is_sound_inner(body):
            raise CorruptionError(node.BAD_INNER)
        return body[: node.inner_payload_length(body)]
    raise CorruptionError(f"an object of unknown kind {kind}")


def _shown(key: bytes) -> str:
    return repr(key.decode("utf-8", "backslashreplace"))[:80]


def readable_keys(shape: Shape, body: bytes | None, spot: Spot, limit: int) -> list[str]:
    """Keys that can still be made out in a damaged leaf and belong where it stands."""
    try:
        keys = node.leaf_keys(body or b"")
    except (CorruptionError, ValueError, IndexError):
        return []
    found = []
    for key in keys:
        if len(key) <= MAX_KEY_BYTES and spot.holds(shape, key, shape.hash(key)):
            text = key.decode("utf-8", "replace")
            if "\ufffd" not in text:
                found.append(text)
        if len(found) == limit:
            break
    return found
