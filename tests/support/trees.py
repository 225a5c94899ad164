"""Trees in memory for tests, poor path hashes, and a builder straight from the definition."""

from __future__ import annotations

import struct
from hashlib import sha256

from xxhash import xxh3_64_intdigest, xxh3_128_intdigest

from kvgit_hamt import scan
from kvgit_hamt.backend.memory import MemoryBackend
from kvgit_hamt.hamt import Editor, Tree, put_empty
from kvgit_hamt.path import Shape
from kvgit_hamt.run import make_run
from kvgit_hamt.store import Store, StoreWriter


def four_bits(key: bytes) -> int:
    """A path of which only the first four bits tell keys apart."""
    return (xxh3_64_intdigest(key) & 15) << 124


def no_bits(key: bytes) -> int:
    """A path that tells nothing apart: all keys forged to share 128 bits."""
    return 0


def sixty_bits(key: bytes) -> int:
    """Paths equal in the first 60 bits."""
    return xxh3_128_intdigest(key) >> 60


def short_tail(key: bytes) -> int:
    """A tail of four bits, the last ones: the deepest trees there can be."""
    return xxh3_64_intdigest(key) & 15


def no_window(prefix: bytes) -> tuple[int, int]:
    """Prefixes give no path bits: goes with the hashes above, which know no directories."""
    return 0, 0


SHAPES = {
    "default": Shape(),
    "four_bits_a_level": Shape(bits=4, leaf_max=300, inline_max=64),
    "small_leaves": Shape(bits=6, leaf_max=120, inline_max=64, index_min=16),
    "two_bits_a_level": Shape(bits=2, leaf_max=100, inline_max=48, index_min=8),
    "path_of_four_bits": Shape(bits=4, leaf_max=120, inline_max=64, hash=four_bits, prefix=no_window),
    "path_without_bits": Shape(bits=6, leaf_max=120, inline_max=64, hash=no_bits, prefix=no_window),
    "equal_start": Shape(bits=6, leaf_max=120, inline_max=64, hash=sixty_bits, prefix=no_window),
    "poor_tail": Shape(bits=4, leaf_max=120, inline_max=64, hash=no_bits, prefix=no_window, tail=short_tail),
}


def memory_store(shape: Shape, cache_bytes: int = 1 << 20) -> Store:
    """A store in memory."""
    return Store(MemoryBackend(), shape, cache_bytes)


def empty_tree(store: Store) -> Tree:
    """The empty tree, stored."""
    writer = store.writer()
    tree = put_empty(writer)
    writer.publish()
    return tree


def change(store: Store, tree: Tree, changes: dict[bytes, bytes | None]) -> Tree:
    """The tree with changes made and stored (None deletes)."""
    writer = store.writer()
    listed = [(key, None if value is None else writer.put_value(value)) for key, value in changes.items()]
    result = Editor(writer, store.shape).apply(tree, make_run(store.shape, listed))
    writer.publish()
    return result


def contents(store: Store, tree: Tree, prefix: bytes = b"") -> dict[bytes, bytes]:
    """Everything in a tree, by iteration; a key that comes twice is an error."""
    out: dict[bytes, bytes] = {}
    for key, value in scan.items(store, store.shape, tree, prefix):
        assert key not in out
        out[key] = store.load_value(value)
    return out


def changes_of(writer: StoreWriter, changes: dict[bytes, bytes | None]):
    """Changes with large values put as blobs."""
    return [(k, None if v is None else writer.put_value(v)) for k, v in changes.items()]


# The definition of docs/format.md, written a second time without any of the library's tree code.


def naive_root(shape: Shape, entries: dict[bytes, bytes]) -> bytes:
    """The oid of the tree of these entries."""
    listed = []
    for key, value in entries.items():
        bits = f"{shape.hash(key):0128b}{shape.tail(key):0512b}"
        if len(value) > shape.inline_max:
            blob = sha256(b"\x04\x01" + value).digest()
            listed.append((bits, key, blob + struct.pack("<Q", len(value)), 1, len(value) - 40))
        else:
            listed.append((bits, key, value, 0, 0))
    listed.sort(key=lambda entry: (entry[0], entry[1]))
    return sha256(_naive_node(shape, listed, 0)).digest()


def _light(shape: Shape, entries: list) -> bool:
    weight = sum(len(key) + len(stored) + 5 for _, key, stored, _, _ in entries)
    return weight <= shape.leaf_max or len(entries) == 1


def _naive_node(shape: Shape, entries: list, depth: int) -> bytes:
    if _light(shape, entries):
        return _naive_leaf(entries)
    slots = 1 << shape.bits
    children: list = [None] * slots
    payloads: list = []
    stack = [(0, slots, entries)]
    while stack:
        start, width, part = stack.pop()
        deepest = depth == shape.max_level and width == 1
        if not part:
            continue
        if _light(shape, part) or deepest or width == 1:
            for slot in range(start, start + width):
                children[slot] = len(payloads)
            leaf = _light(shape, part) or deepest
            payload = _naive_leaf(part) if leaf else _naive_node(shape, part, depth + 1)
            payloads.append((start, payload, part))
        else:
            half = width // 2
            bit = shape.bits * (depth + 1) - width.bit_length() + 1
            zeros = [entry for entry in part if entry[0][bit] == "0"]
            ones = [entry for entry in part if entry[0][bit] == "1"]
            stack.append((start + half, half, ones))
            stack.append((start, half, zeros))
    return _naive_inner(shape, children, payloads)


def _naive_leaf(entries: list) -> bytes:
    heap = b""
    ends = []
    for _, key, stored, _, _ in entries:
        heap += key
        ends.append(len(heap))
        heap += stored
        ends.append(len(heap))
    wide = len(heap) > 65_535
    has_blobs = any(kind for _, _, _, kind, _ in entries)
    out = struct.pack("<BBHI", 1, 1, wide + 2 * has_blobs, len(entries))
    out += bytes(int(bits[120:128], 2) for bits, *_ in entries)
    if has_blobs:
        out += bytes(kind for _, _, _, kind, _ in entries)
    out += b"".join(struct.pack("<I" if wide else "<H", end) for end in ends)
    return out + heap


def _naive_inner(shape: Shape, slots: list, payloads: list) -> bytes:
    columns = [
        [len(part) for _, _, part in payloads],
        [sum(len(e[1]) + len(e[2]) for e in part) for _, _, part in payloads],
        [sum(e[4] for e in part) for _, _, part in payloads],
    ]
    widths = [next(w for w in (1, 2, 4, 8) if max(column) < 1 << 8 * w) for column in columns]
    if not any(columns[2]):
        widths[2] = 0
    out = struct.pack("<8B", 2, 1, shape.bits, len(payloads), *widths, 0)
    out += bytes(255 if child is None else child for child in slots)
    out += b"".join(sha256(payload).digest() for _, payload, _ in payloads)
    for column, width in zip(columns, widths, strict=True):
        out += b"".join(n.to_bytes(width, "little") for n in column if width)
    return out
