"""The bytes of nodes: leaves, inner nodes, and what is refused."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kvgit_hamt import node as plain_node
from kvgit_hamt.errors import CorruptionError
from kvgit_hamt.node import EMPTY_SLOT, BlobRef
from tests.support.kernels import InUse
from tests.support.nodes import inners, leaf_items, leaves, make_inner, make_leaf, mutated

node = InUse(plain_node)
PLACE = bytes(range(8))
REF = BlobRef(b"\xaa" * 32, 1_000, b"")
PLACED_REF = BlobRef(b"\xbb" * 32, 2_000, PLACE)


# Leaves


def test_the_empty_leaf_is_a_header():
    assert node.EMPTY_LEAF == make_leaf([]) == bytes.fromhex("0101000000000000")
    assert node.leaf_items(node.EMPTY_LEAF) == node.leaf_keys(node.EMPTY_LEAF) == []
    assert node.leaf_stats(node.EMPTY_LEAF) == (0, 0, 0)
    assert node.leaf_find(node.EMPTY_LEAF, 0, b"") is None
    node.check_node(node.EMPTY_LEAF)


def test_a_leaf_gives_back_what_it_was_made_of():
    items = [(b"", b""), (b"a", b""), (b"bc", b"value"), (b"d", b"d")]
    body = make_leaf(items, b"\x07\x01\x07\x02")
    assert node.leaf_items(body) == items
    assert node.leaf_keys(body) == [key for key, _ in items]
    assert node.leaf_count(body) == 4
    assert node.leaf_stats(body) == (4, 10, 0)
    assert node.leaf_encode(node.leaf_entries(body)) == body


def test_a_key_is_found_among_clashing_tags():
    items = [(b"k%d" % n, b"v%d" % n) for n in range(40)]
    body = make_leaf(items, bytes(n % 2 for n in range(40)))
    for n, (key, value) in enumerate(items):
        assert node.leaf_find(body, n % 2, key) == value
    assert node.leaf_find(body, 0, b"k40") is None
    assert node.leaf_find(body, 3, b"k4") is None


def test_a_tag_in_the_columns_behind_is_not_taken_for_one():
    body = make_leaf([(b"key", b"\x03\x03\x03")], b"\x09")  # 3 is a byte of the ends and of the heap
    assert node.leaf_find(body, 3, b"key") is None
    assert node.leaf_find(body, 9, b"key") == b"\x03\x03\x03"


def test_a_key_is_not_found_by_its_beginning_or_its_continuation():
    body = make_leaf([(b"abc", b"def")])
    assert node.leaf_find(body, 0, b"ab") is None
    assert node.leaf_find(body, 0, b"abcd") is None


def test_absent_and_empty_are_two_things():
    body = make_leaf([(b"k", b"")])
    assert node.leaf_find(body, 0, b"k") == b""
    assert node.leaf_find(body, 0, b"") is None


@pytest.mark.parametrize(("size", "is_wide"), [(65_534, False), (65_535, True), (200_000, True)])
def test_ends_are_wide_once_the_heap_is_over_64_kib(size, is_wide):
    items = [(b"k", b"x" * size), (b"", b"")]
    body = make_leaf(items, b"\x01\x02")
    assert bool(body[2] & node.WIDE) is is_wide
    assert len(body) == 8 + 2 + (16 if is_wide else 8) + size + 1
    assert node.leaf_items(body) == items
    assert node.leaf_find(body, 1, b"k") == b"x" * size
    assert node.leaf_find(body, 2, b"") == b""
    assert node.leaf_find(body, 2, b"no") is None
    assert node.leaf_stats(body) == (2, size + 1, 0)
    node.check_node(body)


def test_a_leaf_may_have_more_than_65_535_entries():
    items = [(b"%06d" % n, b"") for n in range(70_000)]
    body = make_leaf(items)
    assert node.leaf_count(body) == 70_000
    assert node.leaf_find(body, 0, b"069999") == b""
    node.check_node(body)


@pytest.mark.parametrize("ref", [REF, PLACED_REF])
def test_a_blob_is_found_with_its_place_if_there_is_one(ref):
    body = make_leaf([(b"a", b"inline"), (b"b", ref)])
    found = node.leaf_find(body, 0, b"b")
    assert found == ref
    assert found.length == ref.length
    assert found.loc == ref.loc
    assert node.leaf_find(body, 0, b"a") == b"inline"
    assert node.leaf_items(body) == [(b"a", b"inline"), (b"b", ref)]
    assert node.leaf_keys(body) == [b"a", b"b"]
    assert node.leaf_stats(body) == (2, 8 + 40, ref.length - 40)
    assert node.leaf_encode(node.leaf_entries(body)) == body


def test_places_are_no_part_of_what_a_leaf_is():
    placed = make_leaf([(b"a", PLACED_REF)])
    bare = make_leaf([(b"a", PLACED_REF._replace(loc=b""))])
    assert placed[: node.payload_length(placed)] == bare == placed[:-8]
    assert node.place_count(placed) == 1
    assert node.place_count(bare) == 0


def test_each_blob_has_its_own_place():
    refs = [BlobRef(bytes((n,)) * 32, 100 + n, bytes((n,)) * 8) for n in range(3)]
    items = [(b"a", refs[0]), (b"b", b"x"), (b"c", refs[1]), (b"d", b""), (b"e", refs[2])]
    found = node.leaf_items(make_leaf(items))
    assert found == items
    assert [value.loc for _, value in found if isinstance(value, BlobRef)] == [r.loc for r in refs]


def test_references_are_equal_by_oid_alone():
    assert REF._replace(loc=PLACE) == REF
    assert hash(REF) == hash(REF._replace(loc=PLACE))
    assert REF != PLACED_REF
    assert REF.oid != REF
    assert tuple(REF) != REF


def test_a_wide_leaf_with_blobs_gives_all_back():
    items = [(b"a", b"x" * 70_000), (b"b", PLACED_REF)]
    body = make_leaf(items)
    assert body[2] == node.WIDE | node.KINDS
    assert node.leaf_items(body) == items
    node.check_node(body[: node.payload_length(body)])


def test_leaves_join_in_order_with_their_blobs():
    parts = [[(b"a", b"1")], [], [(b"b", PLACED_REF), (b"c", b"")]]
    joined = node.leaf_join([make_leaf(part, b"\x01\x02"[: len(part)]) for part in parts])
    assert joined == make_leaf(parts[0] + parts[2], b"\x01\x01\x02")


def test_the_join_of_two_leaves_is_wide_when_it_must_be():
    half = [(b"a", b"x" * 40_000)]
    other = [(b"b", b"y" * 40_000)]
    assert node.leaf_join([make_leaf(half), make_leaf(other)]) == make_leaf(half + other)


def test_a_diff_names_what_was_added_changed_and_removed():
    old = make_leaf([(b"same", b"1"), (b"changed", b"2"), (b"gone", b""), (b"blob", REF)])
    new = make_leaf([(b"new", b""), (b"same", b"1"), (b"changed", b"3"), (b"blob", PLACED_REF)])
    assert sorted(node.leaf_diff(old, new)) == [
        (b"blob", REF, PLACED_REF), (b"changed", b"2", b"3"), (b"gone", b"", None), (b"new", None, b""),
    ]  # fmt: skip


def test_a_blob_at_another_place_is_no_change():
    moved = make_leaf([(b"a", PLACED_REF._replace(loc=bytes(8)))])
    assert node.leaf_diff(make_leaf([(b"a", PLACED_REF)]), moved) == []


def test_an_inline_value_of_the_bytes_of_a_reference_is_a_change():
    inline = make_leaf([(b"a", REF.oid + struct.pack("<Q", REF.length))])
    blob = make_leaf([(b"a", REF)])
    assert len(node.leaf_diff(inline, blob)) == 1
    assert inline != blob


@settings(max_examples=60)
@given(leaf_items)
def test_any_leaf_decodes_to_what_it_was(items):
    body = make_leaf(list(items.items()))
    assert dict(node.leaf_items(body)) == items
    for key, value in items.items():
        assert node.leaf_find(body, 0, key) == value
    node.check_node(body)
    assert node.payload_length(body) == len(body)


@settings(max_examples=60)
@given(leaf_items, leaf_items)
def test_any_leaf_diff_equals_that_of_dicts(old, new):
    found = node.leaf_diff(make_leaf(list(old.items())), make_leaf(list(new.items())))
    assert {key: (a, b) for key, a, b in found} == {
        key: (old.get(key), new.get(key)) for key in old.keys() | new.keys() if old.get(key) != new.get(key)
    }
    assert len({key for key, _, _ in found}) == len(found)


# Inner nodes


@pytest.mark.parametrize("placed", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 6])
def test_a_step_leads_to_the_child_that_stands_over_the_slot(bits, placed):
    quarter = 1 << bits - 2
    body = make_inner([quarter, -quarter, 2 * quarter], bits, placed=placed)
    place = (lambda n: n.to_bytes(8, "little")) if placed else lambda n: b""
    for slot in range(1 << bits):
        number = {0: 0, 1: None}.get(slot // quarter, 1)
        expected = None if number is None else (bytes((number,)) * 32, place(number))
        assert node.inner_step(body, slot) == expected
    assert node.is_sound_inner(body)
    assert node.place_count(body) == (2 if placed else 0)
    node.check_node(body[: node.payload_length(body)])


@pytest.mark.parametrize("placed", [False, True])
@pytest.mark.parametrize("extra", [0, 1, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**63])
@pytest.mark.parametrize("count", [1, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32])
def test_columns_are_as_wide_as_their_largest_number(count, extra, placed):
    size = 3 * count
    body = make_inner([2, 1, 1], 2, [1, count, 2], [size, 0, 1], [0, 0, extra], placed)

    def width(number):
        return next(w for w in (1, 2, 4, 8) if number < 1 << 8 * w)

    # a count of 1 beside one of 2 still takes a byte
    assert tuple(body[4:7]) == (width(count), width(size), width(extra) if extra else 0)
    assert node.inner_stats(body) == (count + 3, size + 1, extra)
    children = node.inner_children(body)
    assert children.counts == [1, count, 2]
    assert children.sizes == [size, 0, 1]
    assert children.extras == [0, 0, extra]
    assert node.inner_encode(children) == body
    assert node.inner_step(body, 3) == (b"\x02" * 32, b"\x02" + bytes(7) if placed else b"")
    node.check_node(body[: node.payload_length(body)])


def test_runs_are_those_of_children_and_the_largest_aligned_empty_ones():
    slots = bytes((255, 255, 255, 0)) + bytes((1, 1, 255, 255)) + b"\xff" * 8
    assert node.inner_runs(slots) == [
        (0, 2, EMPTY_SLOT), (2, 1, EMPTY_SLOT), (3, 1, 0), (4, 2, 1), (6, 2, EMPTY_SLOT), (8, 8, EMPTY_SLOT),
    ]  # fmt: skip


def test_the_empty_run_around_a_slot_is_the_largest_aligned_one():
    slots = bytes((255, 255, 255, 0)) + bytes((1, 1, 255, 255)) + b"\xff" * 8
    assert [node.empty_run(slots, slot) for slot in (0, 1, 2, 6, 7, 8, 15)] == [
        (0, 2), (0, 2), (2, 1), (6, 2), (6, 2), (8, 8), (8, 8),
    ]  # fmt: skip
    assert node.empty_run(b"\xff" * 4, 3) == (0, 4)


@settings(max_examples=60)
@given(inners(4))
def test_runs_cover_every_slot_once_and_agree_with_steps(body):
    children = node.inner_children(body)
    at = 0
    for start, width, child in node.inner_runs(children.slots):
        assert start == at
        for slot in range(start, start + width):
            step = node.inner_step(body, slot)
            assert step == (None if child == EMPTY_SLOT else (children.oids[child], b""))
            if child == EMPTY_SLOT:
                assert node.empty_run(children.slots, slot) == (start, width)
        at += width
    assert at == 16


# What is refused


def canonical(payload: bytes) -> bool:
    """Whether a payload is accepted; if it is, it must be what would be written."""
    try:
        node.check_node(payload)
    except CorruptionError:
        return False
    if payload[0] == node.LEAF:
        again = node.leaf_encode(node.leaf_entries(payload))
        assert len(node.leaf_items(payload)) == node.leaf_count(payload)
    else:
        again = node.inner_encode(node.inner_children(payload))
        assert payload[2] in (2, 4, 6)
        assert node.is_sound_inner(payload)
    assert again == payload
    assert node.payload_length(payload) == len(payload)
    return True


@settings(max_examples=300)
@given(
    st.binary(max_size=80)
    | st.binary(max_size=60).map(lambda rest: b"\x01\x01" + rest)
    | st.binary(max_size=120).map(lambda rest: b"\x02\x01" + rest)
)
@example(b"")
@example(b"\x02\x01\xff\x01\x01\x01\x00\x00" + bytes(40))
@example(b"\x01\x01\x00\x00\xff\xff\xff\xff" + bytes(40))
@example(b"\x01\x01\x03\x00\xff\xff\xff\xff" + bytes(40))
def test_any_bytes_are_canonical_or_damage(payload):
    canonical(payload)


@settings(max_examples=300)
@given(mutated(leaves | inners()))
def test_a_node_with_altered_bytes_is_canonical_or_damage(payload):
    canonical(payload)


@settings(max_examples=40)
@given(inners() | leaves)
def test_every_node_that_is_written_is_canonical(payload):
    assert canonical(payload)


@pytest.mark.parametrize("bits", [0, 1, 3, 5, 7])
def test_a_number_of_slots_that_no_store_has_is_damage(bits):
    payload = bytearray(make_inner([1, 1, 1, 1]))
    payload[2] = bits
    payload[8:12] = b"\0" * (1 << bits)
    payload[3] = 1
    del payload[8 + (1 << bits) + 32 :]
    payload += b"\x01\x01"
    assert not canonical(bytes(payload))
    assert not node.is_sound_inner(bytes(payload))


@pytest.mark.parametrize(
    "slots",
    [
        "ffffffff", "00000000", "01000203", "00010003", "00020103", "00ff0102",
        "00000102", "ff000001", "00010102", "00010104",
    ],
)  # fmt: skip
def test_a_slot_table_that_is_no_sequence_of_aligned_runs_is_damage(slots):
    payload = bytearray(make_inner([1, 1, 1, 1]))
    payload[8:12] = bytes.fromhex(slots)
    assert not canonical(bytes(payload))


def test_a_leaf_with_a_heap_longer_or_shorter_than_its_ends_is_damage():
    payload = make_leaf([(b"a", b"b")])
    assert not canonical(payload + b"x")
    assert not canonical(payload[:-1])


def test_ends_out_of_order_are_damage():
    payload = make_leaf([(b"ab", b"cd"), (b"ef", b"gh")], b"\x01\x02")
    at = 8 + 2
    for ends in ((4, 2, 6, 8), (2, 6, 4, 8), (2, 4, 8, 6), (0, 9, 6, 8)):
        assert not canonical(payload[:at] + struct.pack("<4H", *ends) + payload[at + 8 :])


@pytest.mark.parametrize("flags", [1, 2, 3, 4, 128])
def test_flags_that_the_entries_do_not_need_are_damage(flags):
    payload = bytearray(make_leaf([(b"a", b"b")]))
    payload[2] = flags
    assert not canonical(bytes(payload))


def test_wide_ends_over_a_small_heap_are_damage():
    payload = struct.pack("<BBHI", 1, 1, node.WIDE, 1) + b"\0" + struct.pack("<II", 1, 2) + b"kv"
    assert node.leaf_items(payload) == [(b"k", b"v")]
    assert not canonical(payload)


@pytest.mark.parametrize("kind", [node.DELETED, 3, 255])
def test_an_unknown_kind_of_value_is_damage(kind):
    payload = bytearray(make_leaf([(b"a", REF), (b"b", REF)]))
    payload[8 + 2] = kind
    assert not canonical(bytes(payload))


def test_a_reference_of_another_length_is_damage():
    payload = bytearray(make_leaf([(b"a", b"short"), (b"b", REF)]))
    payload[8 + 2] = node.BLOB_VALUE
    assert not canonical(bytes(payload))


@pytest.mark.parametrize(("kind", "version"), [(0, 1), (3, 1), (4, 1), (9, 1), (1, 0), (1, 2), (2, 2)])
def test_an_unknown_kind_or_version_is_damage(kind, version):
    payload = bytes((kind, version)) + make_leaf([])[2:]
    with pytest.raises(CorruptionError, match="unknown node kind or version"):
        node.check_node(payload)


def test_a_column_wider_than_needed_is_damage():
    payload = bytearray(make_inner([2, 2]))
    at = 8 + 4 + 64
    wide = payload[:4] + b"\x02" + payload[5:at] + b"\x01\0\x02\0" + payload[at + 2 :]
    assert node.inner_stats(bytes(wide)) == node.inner_stats(bytes(payload))
    assert not canonical(bytes(wide))


def test_a_column_of_zero_extras_is_damage():
    payload = bytearray(make_inner([2, 2]))
    payload[6] = 1
    assert not canonical(bytes(payload) + b"\0\0")


def test_a_child_without_entries_is_damage():
    assert not canonical(make_inner([2, 2], counts=[0, 1]))


def test_places_are_no_part_of_a_payload():
    assert not canonical(make_inner([2, 2], placed=True))
    assert not canonical(make_leaf([(b"a", PLACED_REF)]))


# Steps never leave a node that passed as sound


def walk_everywhere(body: bytes) -> None:
    """Take every step and decode every column; all must lie inside."""
    slots = 1 << body[2]
    count = body[3]
    for slot in range(slots):
        step = node.inner_step(body, slot)
        if step is not None:
            assert len(step[0]) == 32
            assert len(step[1]) in (0, 8)
    children = node.inner_children(body)
    assert len(children.slots) == slots
    assert {len(column) for column in children[1:]} == {count}
    assert {len(oid) for oid in children.oids} == {32}
    assert len(set(map(len, children.locs))) == 1
    assert sum(width for _, width, _ in node.inner_runs(children.slots)) >= slots
    assert node.inner_stats(body) == (sum(children.counts), sum(children.sizes), sum(children.extras))


@settings(max_examples=400)
@given(
    mutated(inners())
    | mutated(inners(4))
    | st.binary(max_size=120).map(lambda rest: b"\x02\x01\x02" + rest)
    | st.binary(max_size=60).map(lambda rest: b"\x02\x01" + rest)
)
@example(b"")
@example(b"\x02\x01\x02\x00\x01\x01\x00\x00" + b"\xff" * 4)
@example(b"\x02\x01\x02\x00\x01\x01\x00\x00" + b"\x00" * 4)
def test_no_step_leaves_a_sound_inner_node(body):
    if node.is_sound_inner(body):
        walk_everywhere(body)


def test_soundness_sees_lengths_widths_and_child_numbers():
    good = make_inner([1, 1, -2], placed=True)
    assert node.is_sound_inner(good)
    assert node.is_sound_inner(good[:-16])
    for bad in (
        good[:-1],
        good + b"\0",
        good[:-8],
        good[:7],
        b"\x02\x02" + good[2:],
        good[:8] + b"\x02" + good[9:],  # child 2 of 2
        good[:8] + b"\xff" * 4 + good[12:],  # no child at all
        good[:4] + b"\x03" + good[5:],
        good[:6] + b"\x05" + good[7:],
    ):
        assert not node.is_sound_inner(bad)
