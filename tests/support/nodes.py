"""Strategies and builders of node bytes."""

from __future__ import annotations

import struct

from hypothesis import strategies as st

from kvgit_hamt import node
from kvgit_hamt.node import BLOB_VALUE, INLINE, BlobRef, Children, Entries, Value


def make_leaf(items: list[tuple[bytes, Value]], tags: bytes | None = None) -> bytes:
    """The body of a leaf of (key, value) in the order given; tags are 0 unless told."""
    records, lengths, kinds, locs = [], [], bytearray(), []
    for key, value in items:
        lengths.append(len(key))
        if isinstance(value, BlobRef):
            records.append(key + value.oid + struct.pack("<Q", value.length))
            kinds.append(BLOB_VALUE)
            locs.append(value.loc)
        else:
            records.append(key + value)
            kinds.append(INLINE)
            locs.append(b"")
    return node.leaf_encode(Entries(records, lengths, bytearray(tags or bytes(len(items))), kinds, locs))


def make_inner(
    runs: list[int], bits: int = 2, counts: list[int] | None = None, sizes: list[int] | None = None,
    extras: list[int] | None = None, placed: bool = False,
) -> bytes:  # fmt: skip
    """The body of an inner node of runs of slots, given by width; a negative width is empty."""
    table = bytearray()
    live = 0
    for width in runs:
        table += bytes((live if width > 0 else node.EMPTY_SLOT,)) * abs(width)
        live += width > 0
    assert len(table) == 1 << bits
    return node.inner_encode(
        Children(
            bytes(table),
            [bytes((n,)) * 32 for n in range(live)],
            [n.to_bytes(8, "little") if placed else b"" for n in range(live)],
            counts or [n + 1 for n in range(live)],
            sizes or [10 * n for n in range(live)],
            extras or [0] * live,
        )
    )


blob_refs = st.builds(BlobRef, st.binary(min_size=32, max_size=32), st.integers(0, 2**40), st.just(b""))
leaf_items = st.dictionaries(st.binary(max_size=6), st.binary(max_size=6) | blob_refs, max_size=6)
leaves = st.builds(
    lambda items, tags: make_leaf(list(items.items()), tags[: len(items)]),
    leaf_items,
    st.binary(min_size=6, max_size=6),
)


@st.composite
def inners(draw: st.DrawFn, bits: int = 2) -> bytes:
    """A canonical inner node with columns of any width."""

    def runs(width: int) -> list[int]:
        if width > 1 and draw(st.booleans()):
            return runs(width // 2) + runs(width // 2)
        return [width if draw(st.booleans()) else -width]

    chosen = runs(1 << bits)
    live = sum(width > 0 for width in chosen)
    if not live:
        chosen, live = [1 << bits], 1
    column = st.lists(
        st.integers(1, 2 ** draw(st.sampled_from([7, 8, 16, 32, 60]))), min_size=live, max_size=live
    )
    extras = draw(st.booleans())
    return make_inner(chosen, bits, draw(column), draw(column), draw(column) if extras else None)


@st.composite
def mutated(draw: st.DrawFn, payloads: st.SearchStrategy[bytes]) -> bytes:
    """A payload in which a few bytes were exchanged, cut out, doubled or added."""
    data = bytearray(draw(payloads))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        what = draw(st.sampled_from(["set", "bit", "cut", "insert", "truncate", "header"]))
        if what == "set":
            data[at : at + 1] = bytes((draw(st.integers(0, 255)),))
        elif what == "bit" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif what == "cut":
            del data[at : at + draw(st.integers(1, 8))]
        elif what == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=8))
        elif what == "truncate":
            del data[at:]
        elif what == "header" and len(data) >= 8:
            data[draw(st.integers(0, 7))] = draw(st.sampled_from([0, 1, 2, 3, 4, 6, 8, 63, 64, 255]))
    return bytes(data)
