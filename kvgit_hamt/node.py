"""The bytes of nodes: pure functions over bytes and ints, nothing else.

A *body* is a payload, which the oid names, followed by the places of what it refers to (children
of an inner node, blobs of a leaf); on backends addressed by oid there are no places and the body
is the payload. This module is the reference for a compiled twin: keep its interface narrow.

Spec: docs/format.md, "Leaf", "Inner node", "Blob".
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import accumulate, chain
from typing import NamedTuple

from kvgit_hamt.errors import CorruptionError

LEAF, INNER, COMMIT, BLOB = 1, 2, 3, 4
VERSION = 1
WIDE = 1  # leaf flag: ends are u32, for a heap over 64 KiB
KINDS = 2  # leaf flag: a kinds column is present, since some value is a blob
INLINE, BLOB_VALUE, DELETED = 0, 1, 2  # kinds of a value; DELETED only in batches of changes
EMPTY_SLOT = 255
REF_BYTES = 40  # stored value of a blob: oid and u64 length
PLACE_BYTES = 8
HEADER_BYTES = 8
INNER_BITS = (2, 4, 6)  # levels of the binary trie in an inner node, see path.Shape
_LEAF_HEADER = struct.Struct("<BBHI")
_INNER_HEADER = struct.Struct("<BBBBBBBB")
_HH = struct.Struct("<HH").unpack_from
_HHH = struct.Struct("<HHH").unpack_from
_WIDTH_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}
EMPTY_LEAF = _LEAF_HEADER.pack(LEAF, VERSION, 0, 0)
NOT_A_LEAF = "an inner node lies where its parent says that a leaf is"
BAD_LEAF = "malformed leaf: its columns do not fit its bytes"
BAD_INNER = "malformed inner node: its columns do not fit its bytes or its place"
LEAF_DISORDER = "malformed leaf: its entries are not in path order"


class BlobRef(NamedTuple):
    """A value that lies outside its leaf.

    Equality of two references is that of their oids; ``loc`` only says where the blob lies.
    """

    oid: bytes
    length: int
    loc: bytes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BlobRef) and self.oid == other.oid

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.oid)


Value = bytes | BlobRef


class Entries(NamedTuple):
    """The entries of a leaf in columns, in path order.

    Attributes:
        records: key and stored value of each entry, joined.
        key_lengths: length of the key in each record.
        tags: one byte an entry, the low byte of its path.
        kinds: INLINE or BLOB_VALUE, one an entry.
        locs: location of each entry's blob, b"" for inline values and when there are no places.
    """

    records: list[bytes]
    key_lengths: list[int]
    tags: bytearray
    kinds: bytearray
    locs: list[bytes]


def leaf_find(body: bytes, tag: int, key: bytes) -> Value | None:
    """The value of ``key`` in a leaf, None if it is not there. ``tag``: low byte of its path.

    Raises:
        CorruptionError: what it looks at lies outside the body or out of order.
    """
    if len(body) < HEADER_BYTES or body[2] or body[3] or body[6] or body[7]:
        return _find_general(body, key)
    count = body[4] | body[5] << 8
    tags_end = HEADER_BYTES + count
    heap = tags_end + 4 * count
    room = len(body) - heap
    if room < 0:
        raise CorruptionError(BAD_LEAF)
    at = body.find(tag, HEADER_BYTES, tags_end)
    while at >= 0:
        index = at - HEADER_BYTES
        if index:
            start, middle, end = _HHH(body, tags_end + 4 * index - 2)
        else:
            start = 0
            middle, end = _HH(body, tags_end)
        if not start <= middle <= end <= room:
            raise CorruptionError(BAD_LEAF)
        if body[heap + start : heap + middle] == key:
            return body[heap + middle : heap + end]
        at = body.find(tag, at + 1, tags_end)
    return None


def _find_general(body: bytes, key: bytes) -> Value | None:
    entries = leaf_entries(body)
    size = len(key)
    for index, record in enumerate(entries.records):
        if entries.key_lengths[index] == size and record[:size] == key:
            return _value(entries, index)
    return None


def _value(entries: Entries, index: int) -> Value:
    stored = entries.records[index][entries.key_lengths[index] :]
    if entries.kinds[index] == INLINE:
        return stored
    return BlobRef(stored[:32], int.from_bytes(stored[32:40], "little"), entries.locs[index])


def leaf_count(body: bytes) -> int:
    """Entries in a leaf."""
    return _leaf_layout(body)[1]


def _leaf_layout(body: bytes) -> tuple[int, int, tuple[int, ...], int]:
    """(flags, count, flat ends, offset of the heap). CorruptionError if they do not fit the body."""
    if len(body) < HEADER_BYTES or body[0] != LEAF:
        raise CorruptionError(NOT_A_LEAF)
    _, version, flags, count = _LEAF_HEADER.unpack_from(body)
    code, width = ("I", 4) if flags & WIDE else ("H", 2)
    at = HEADER_BYTES + count * (2 if flags & KINDS else 1)
    heap = at + 2 * count * width
    if version != VERSION or flags & ~(WIDE | KINDS) or heap > len(body):
        raise CorruptionError(BAD_LEAF)
    ends = struct.unpack_from(f"<{2 * count}{code}", body, at)
    rest = len(body) - heap - (ends[-1] if count else 0)
    if rest < 0 or [*ends] != sorted(ends):
        raise CorruptionError(BAD_LEAF)
    if rest or flags & KINDS:
        kinds = body[HEADER_BYTES + count : HEADER_BYTES + 2 * count] if flags & KINDS else b""
        blobs = [index for index, kind in enumerate(kinds) if kind == BLOB_VALUE]
        are_known = len(blobs) + kinds.count(INLINE) == len(kinds)
        are_refs = all(ends[2 * index + 1] - ends[2 * index] == REF_BYTES for index in blobs)
        if not are_known or not are_refs or rest not in (0, PLACE_BYTES * len(blobs)):
            raise CorruptionError(BAD_LEAF)
    return flags, count, ends, heap


def leaf_entries(body: bytes) -> Entries:
    """Decode a leaf into columns of entries."""
    flags, count, ends, heap = _leaf_layout(body)
    starts = (0, *ends[1:-1:2]) if count else ()
    records = [body[heap + a : heap + b] for a, b in zip(starts, ends[1::2], strict=True)]
    key_lengths = [k - a for a, k in zip(starts, ends[0::2], strict=True)]
    tags = bytearray(body[HEADER_BYTES : HEADER_BYTES + count])
    if not flags & KINDS:
        return Entries(records, key_lengths, tags, bytearray(count), [b""] * count)
    kinds = bytearray(body[HEADER_BYTES + count : HEADER_BYTES + 2 * count])
    places = heap + (ends[-1] if count else 0)
    locs = []
    for kind in kinds:
        if kind == BLOB_VALUE:
            locs.append(body[places : places + PLACE_BYTES])
            places += PLACE_BYTES
        else:
            locs.append(b"")
    return Entries(records, key_lengths, tags, kinds, locs)


def leaf_keys(body: bytes) -> list[bytes]:
    """The keys of a leaf, in path order."""
    _, count, ends, heap = _leaf_layout(body)
    starts = (0, *ends[1:-1:2]) if count else ()
    return [body[heap + a : heap + k] for a, k in zip(starts, ends[0::2], strict=True)]


def has_blobs(body: bytes) -> bool:
    """Whether some value of a leaf lies outside it."""
    if len(body) < HEADER_BYTES:
        raise CorruptionError(BAD_LEAF)
    return bool(body[2] & KINDS)


def leaf_items(body: bytes) -> list[tuple[bytes, Value]]:
    """(key, value) of a leaf, in path order."""
    if len(body) > 2 and not body[2] & KINDS:
        return leaf_inline_items(body)  # type: ignore[return-value]
    entries = leaf_entries(body)
    return [
        (record[:length], _value(entries, index))
        for index, (record, length) in enumerate(zip(entries.records, entries.key_lengths, strict=True))
    ]


def leaf_inline_items(body: bytes) -> list[tuple[bytes, bytes]]:
    """(key, value) of a leaf without blobs, in path order."""
    flags, count, ends, heap = _leaf_layout(body)
    if flags & KINDS:
        raise CorruptionError(BAD_LEAF)
    ends = tuple([heap + end for end in ends])
    starts = (heap, *ends[1:-1:2]) if count else ()
    return [(body[a:k], body[k:b]) for a, k, b in zip(starts, ends[0::2], ends[1::2], strict=True)]


def leaf_payload_length(body: bytes) -> int:
    """Length of the part of a leaf's body that its oid names."""
    if len(body) > 2 and not body[2] & KINDS:
        return len(body)
    _, count, ends, heap = _leaf_layout(body)
    return heap + (ends[-1] if count else 0)


def leaf_stats(body: bytes) -> tuple[int, int, int]:
    """(count, size, extra) of a leaf: entries, bytes of keys and stored values, and the bytes by
    which blobs are longer than their references."""
    flags, count, ends, _ = _leaf_layout(body)
    size = ends[-1] if count else 0
    if not flags & KINDS:
        return count, size, 0
    entries = leaf_entries(body)
    extra = sum(
        int.from_bytes(record[-8:], "little") - REF_BYTES
        for record, kind in zip(entries.records, entries.kinds, strict=True)
        if kind == BLOB_VALUE
    )
    return count, size, extra


def leaf_encode(entries: Entries) -> bytes:
    """The body of a leaf from columns of entries (already in path order)."""
    ends: list[int] = []
    total = 0
    for record, length in zip(entries.records, entries.key_lengths, strict=True):
        ends.append(total + length)
        total += len(record)
        ends.append(total)
    return leaf_pack(
        bytes(entries.tags), ends, bytes(entries.kinds), b"".join(entries.records),
        b"".join(entries.locs),
    )  # fmt: skip


def leaf_pack(tags: bytes, ends: Sequence[int], kinds: bytes, heap: bytes, locs: bytes) -> bytes:
    """The body of a leaf from raw columns.

    Args:
        ends: for each entry the end of its key and of its value in ``heap``.
        kinds: one byte an entry, or b"" when all are inline.
    """
    count = len(tags)
    flags = 0
    code = "H"
    if len(heap) > 0xFFFF:
        flags = WIDE
        code = "I"
    if BLOB_VALUE in kinds:
        flags |= KINDS
    else:
        kinds = b""
    return b"".join((
        _LEAF_HEADER.pack(LEAF, VERSION, flags, count), tags, kinds,
        struct.pack(f"<{2 * count}{code}", *ends), heap, locs,
    ))  # fmt: skip


def leaf_join(bodies: Sequence[bytes]) -> bytes:
    """One leaf of the entries of several neighbours, given in path order."""
    parts = [leaf_entries(body) for body in bodies]
    return leaf_encode(
        Entries(
            list(chain.from_iterable(part.records for part in parts)),
            list(chain.from_iterable(part.key_lengths for part in parts)),
            bytearray().join(part.tags for part in parts),
            bytearray().join(part.kinds for part in parts),
            list(chain.from_iterable(part.locs for part in parts)),
        )
    )


def leaf_diff(old: bytes, new: bytes) -> list[tuple[bytes, Value | None, Value | None]]:
    """(key, old value, new value) of each key in which two leaves differ; None where absent."""
    before = dict(leaf_items(old))
    changes: list[tuple[bytes, Value | None, Value | None]] = []
    take = before.pop
    for key, value in leaf_items(new):
        was = take(key, None)
        if was is None or was != value:
            changes.append((key, was, value))
    changes.extend((key, value, None) for key, value in before.items())
    return changes


class Children(NamedTuple):
    """The columns of an inner node.

    Attributes:
        slots: slot -> child number, EMPTY_SLOT where there is none; 2^bits bytes.
        oids, locs: of each child; locs is all b"" when there are no places.
        counts, sizes, extras: entries, bytes and blob bytes of each child's subtree.
    """

    slots: bytes
    oids: list[bytes]
    locs: list[bytes]
    counts: list[int]
    sizes: list[int]
    extras: list[int]


def inner_step(body: bytes, slot: int) -> tuple[bytes, bytes] | None:
    """(oid, loc) of the child at a slot, None where the run is empty."""
    child = body[HEADER_BYTES + slot]
    if child == EMPTY_SLOT:
        return None
    count = body[3]
    oids = HEADER_BYTES + (1 << body[2])
    at = oids + 32 * child
    end = oids + count * (32 + body[4] + body[5] + body[6])
    place = end + PLACE_BYTES * child
    return body[at : at + 32], body[place : place + PLACE_BYTES]


def inner_step_placed(body: bytes, slot: int) -> tuple[bytes, bytes] | None:
    """``inner_step`` for a body that has places: they are found from its end, which is faster."""
    child = body[HEADER_BYTES + slot]
    if child == EMPTY_SLOT:
        return None
    at = HEADER_BYTES + (1 << body[2]) + 32 * child
    place = len(body) + PLACE_BYTES * (child - body[3])
    return body[at : at + 32], body[place : place + PLACE_BYTES]


def is_sound_inner(body: bytes) -> bool:
    """Whether the lengths and child numbers of an inner node's body are such that every step
    stays inside it. (Canonical form is more: see ``check_node``.)"""
    if len(body) < HEADER_BYTES or body[0] != INNER or body[1] != VERSION or body[2] not in INNER_BITS:
        return False
    count = body[3]
    widths_known = body[4] in _WIDTH_CODES and body[5] in _WIDTH_CODES
    if not widths_known or not (body[6] == 0 or body[6] in _WIDTH_CODES):
        return False
    length = inner_payload_length(body)
    slots = body[HEADER_BYTES : HEADER_BYTES + (1 << body[2])]
    numbers = slots.replace(b"\xff", b"")
    return len(body) in (length, length + PLACE_BYTES * count) and bool(numbers) and max(numbers) < count


def inner_payload_length(body: bytes) -> int:
    """Length of the part of an inner node's body that its oid names."""
    return HEADER_BYTES + (1 << body[2]) + body[3] * (32 + body[4] + body[5] + body[6])


def inner_stats(body: bytes) -> tuple[int, int, int]:
    """(count, size, extra) of the subtree under an inner node."""
    count = body[3]
    at = HEADER_BYTES + (1 << body[2]) + 32 * count
    totals = []
    for width in body[4:7]:
        totals.append(sum(struct.unpack_from(f"<{count}{_WIDTH_CODES[width]}", body, at)) if width else 0)
        at += width * count
    return totals[0], totals[1], totals[2]


def inner_slots(body: bytes) -> bytes:
    """The slot table of an inner node."""
    return body[HEADER_BYTES : HEADER_BYTES + (1 << body[2])]


def inner_children(body: bytes) -> Children:
    """Decode an inner node into columns."""
    kind, _, bits, count, count_width, size_width, extra_width, _ = _INNER_HEADER.unpack_from(body)
    if kind != INNER:
        raise CorruptionError("a leaf lies where its parent says that an inner node is")
    at = HEADER_BYTES + (1 << bits)
    slots = body[HEADER_BYTES:at]
    oids = [body[i : i + 32] for i in range(at, at + 32 * count, 32)]
    at += 32 * count
    columns = []
    for width in (count_width, size_width, extra_width):
        if width:
            columns.append(list(struct.unpack_from(f"<{count}{_WIDTH_CODES[width]}", body, at)))
            at += width * count
        else:
            columns.append([0] * count)
    if len(body) > at:
        locs = [body[i : i + 8] for i in range(at, at + 8 * count, 8)]
    else:
        locs = [b""] * count
    return Children(slots, oids, locs, *columns)


def inner_encode(children: Children) -> bytes:
    """The body of an inner node from its columns."""
    count = len(children.oids)
    columns = [children.counts, children.sizes]
    widths = [_width(children.counts), _width(children.sizes), 0]
    if any(children.extras):
        columns.append(children.extras)
        widths[2] = _width(children.extras)
    bits = len(children.slots).bit_length() - 1
    packed = [
        struct.pack(f"<{count}{_WIDTH_CODES[width]}", *column)
        for column, width in zip(columns, widths, strict=False)
    ]
    return b"".join(
        (_INNER_HEADER.pack(INNER, VERSION, bits, count, *widths, 0), children.slots,
         *children.oids, *packed, *children.locs)
    )  # fmt: skip


class Segment(NamedTuple):
    """What stands in an aligned run of slots: an empty run, a leaf, or an inner node.

    Attributes:
        start, width: the run of slots in the parent.
        entry_count, size, extra: entries, bytes, and blob bytes beyond the references.
        oid, loc: of a stored node; b"" while it is a leaf not yet put (or empty).
        body: of a leaf not yet put, else b"".
    """

    start: int
    width: int
    entry_count: int
    size: int
    extra: int
    oid: bytes
    loc: bytes
    body: bytes


def empty_segment(start: int, width: int) -> Segment:
    """A run of slots without entries."""
    return Segment(start, width, 0, 0, 0, b"", b"", b"")


def segment_at(children: Children, number: int) -> Segment:
    """One child of an inner node; CorruptionError if it has no slot."""
    slots, oids, locs, counts, sizes, extras = children
    start = slots.find(number)
    if start < 0:
        raise CorruptionError(BAD_INNER)
    return Segment(
        start, slots.count(number), counts[number], sizes[number], extras[number],
        oids[number], locs[number], b"",
    )  # fmt: skip


def segments_of(body: bytes) -> list[Segment]:
    """The runs of an inner node, in slot order."""
    slots, oids, locs, counts, sizes, extras = inner_children(body)
    out = []
    for start, width, child in inner_runs(slots):
        if child == EMPTY_SLOT:
            out.append(empty_segment(start, width))
        else:
            out.append(Segment(
                start, width, counts[child], sizes[child], extras[child], oids[child], locs[child], b""
            ))  # fmt: skip
    return out


def _width(column: Sequence[int]) -> int:
    top = max(column)
    if top < 1 << 8:
        return 1
    if top < 1 << 16:
        return 2
    return 4 if top < 1 << 32 else 8


def inner_runs(slots: bytes) -> list[tuple[int, int, int]]:
    """(start, width, child) of each run of slots, in order; child EMPTY_SLOT for an empty one.

    A child's run is as wide as its number is repeated; an empty run is the largest aligned one.
    """
    runs = []
    at = 0
    while at < len(slots):
        child = slots[at]
        width = empty_width(slots, at) if child == EMPTY_SLOT else slots.count(child)
        runs.append((at, width, child))
        at += width
    return runs


def empty_width(slots: bytes, at: int) -> int:
    """Width of the largest aligned run of empty slots that starts at ``at``."""
    width = 1
    while (
        not at & (2 * width - 1)
        and at + 2 * width <= len(slots)
        and slots.count(EMPTY_SLOT, at, at + 2 * width) == 2 * width
    ):
        width *= 2
    return width


def empty_run(slots: bytes, slot: int) -> tuple[int, int]:
    """(start, width) of the largest aligned empty run that holds ``slot``."""
    width = 1
    while width < len(slots):
        start = slot & ~(2 * width - 1)
        if slots.count(EMPTY_SLOT, start, start + 2 * width) < 2 * width:
            break
        width *= 2
    return slot & ~(width - 1), width


def payload_length(body: bytes) -> int:
    """Length of the payload of a node's body: what its oid is the SHA-256 of."""
    if body[0] == INNER:
        return inner_payload_length(body)
    return leaf_payload_length(body)


def place_count(body: bytes) -> int:
    """How many places end a node's body."""
    return (len(body) - payload_length(body)) // PLACE_BYTES


def check_node(payload: bytes) -> None:
    """Refuse any payload that this module would not itself have written.

    Raises:
        CorruptionError: unknown kind, version or flag, bad lengths, ends out of order, trailing
            bytes, a slot table that is no sequence of aligned runs, wider columns than needed.
    """
    try:
        if payload[:2] == bytes((LEAF, VERSION)):
            rebuilt = leaf_encode(_without_locs(leaf_entries(payload)))
            _, _, ends, _ = _leaf_layout(payload)
            sound = list(ends) == sorted(ends) and _kinds_sound(payload)
        elif payload[:2] == bytes((INNER, VERSION)):
            children = inner_children(payload)
            rebuilt = inner_encode(children)
            sound = payload[2] in INNER_BITS and not any(children.locs) and _slots_sound(children)
        else:
            raise CorruptionError(f"unknown node kind or version {payload[:2].hex()!r}")
    except (struct.error, IndexError, ValueError, KeyError, OverflowError) as error:
        raise CorruptionError(f"malformed node: {error}") from error
    if rebuilt != payload or not sound:
        raise CorruptionError("node is not in canonical form")


def _without_locs(entries: Entries) -> Entries:
    return entries._replace(locs=[])


def _kinds_sound(payload: bytes) -> bool:
    entries = leaf_entries(payload)
    return all(
        kind == INLINE or (kind == BLOB_VALUE and len(record) - length == REF_BYTES)
        for kind, record, length in zip(entries.kinds, entries.records, entries.key_lengths, strict=True)
    )


def _slots_sound(children: Children) -> bool:
    """Children numbered in slot order, each over one aligned run; each holds something."""
    at = 0
    expected = 0
    for start, width, child in inner_runs(children.slots):
        if start != at or start % width or width & (width - 1):
            return False
        if child != EMPTY_SLOT:
            if child != expected or children.slots[start : start + width] != bytes((child,)) * width:
                return False
            expected += 1
        at += width
    return expected == len(children.oids) and all(children.counts)


def accumulate_ends(key_lengths: Sequence[int], value_lengths: Sequence[int]) -> list[int]:
    """Flat ends (key end, value end, ..) of entries laid one after another."""
    lengths = [0] * (2 * len(key_lengths))
    lengths[0::2] = key_lengths
    lengths[1::2] = value_lengths
    return list(accumulate(lengths))
