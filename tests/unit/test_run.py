"""Batches in columns: sorting, cutting by path bits, spilling, and splicing into a leaf."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvgit_hamt import node as plain_node
from kvgit_hamt.bulk import Spill
from kvgit_hamt.kernel import Builder, flatten, make_run, run_of_leaf, splice
from kvgit_hamt.node import BlobRef
from kvgit_hamt.path import Shape
from kvgit_hamt.run import EMPTY_RUN, Piece, Pieces, Run, drop_deleted
from tests.support.kernels import InUse
from tests.support.trees import SHAPES, no_window


def as_path(key: bytes) -> int:
    """A key of 16 bytes is its own path: tests choose every bit."""
    return int.from_bytes(key[:16].ljust(16, b"\0"), "big")


def as_tail(key: bytes) -> int:
    """What follows 16 bytes of a key is its tail."""
    return int.from_bytes(key[16:80].ljust(64, b"\0"), "big")


node = InUse(plain_node)
OPEN = Shape(bits=6, leaf_max=64, hash=as_path, tail=as_tail, prefix=no_window)
REF = BlobRef(b"\xaa" * 32, 1_000, b"placed_1")
OTHER_REF = BlobRef(b"\xbb" * 32, 2_000, b"placed_2")


def key_of_bits(bits: str) -> bytes:
    return int(bits.ljust(640, "0"), 2).to_bytes(80, "big")


def listed(run: Run) -> list[tuple[bytes, node.Value | None]]:
    """(key, value) of a run, None for a deletion."""
    out: list[tuple[bytes, node.Value | None]] = []
    for index in range(len(run.hi)):
        stored = bytes(run.heap[run.ends[2 * index] : run.ends[2 * index + 1]])
        kind = run.kind(index)
        if kind == node.BLOB_VALUE:
            value = BlobRef(stored[:32], int.from_bytes(stored[32:], "little"), run.loc(index))
            out.append((run.key(index), value))
        else:
            out.append((run.key(index), None if kind == node.DELETED else stored))
    return out


def order(shape: Shape, key: bytes) -> tuple[int, int, bytes]:
    """What entries are sorted by."""
    return shape.hash(key), shape.tail(key), key


changes = st.lists(
    st.tuples(
        st.sampled_from([b"%d" % n for n in range(30)] + [b"", b"a/1", b"a/2"]),
        st.none() | st.binary(max_size=5) | st.sampled_from([REF, OTHER_REF]),
    ),
    max_size=40,
)


@pytest.mark.parametrize("name", SHAPES)
@settings(max_examples=12)
@given(changes=changes)
def test_a_run_is_sorted_by_path_tail_and_key_and_keeps_the_last_of_each_key(name, changes):
    shape = SHAPES[name]
    run = make_run(shape, changes)
    expected = dict(changes)
    found = listed(run)
    assert [key for key, _ in found] == sorted(expected, key=lambda key: order(shape, key))
    assert dict(found) == expected
    assert {k: v.loc for k, v in found if isinstance(v, BlobRef)} == {
        k: v.loc for k, v in expected.items() if isinstance(v, BlobRef)
    }
    assert [run.path(index) for index in range(len(found))] == [shape.hash(key) for key, _ in found]


def test_the_empty_run_holds_nothing():
    assert listed(EMPTY_RUN) == listed(make_run(OPEN, [])) == []
    assert EMPTY_RUN.weight(0, 0) == 0


def test_a_builder_takes_many_at_once_and_one_by_one_alike():
    keys = [b"%d" % n for n in range(50)]
    values = [b"v%d" % n for n in range(50)]
    many, single = Builder(OPEN), Builder(OPEN)
    many.extend(keys, values)
    for key, value in zip(keys, values, strict=True):
        single.add(key, value)
    assert many.finish() == single.finish()
    assert many.size == single.size == sum(map(len, keys + values))


def test_weight_is_bytes_and_five_an_entry():
    run = make_run(OPEN, [(b"a", b"123"), (b"b", b""), (b"c", b"1")])
    assert run.weight(0, 3) == 7 + 15
    assert run.weight(1, 2) == 1 + 5
    assert run.weight(2, 2) == 0


@pytest.mark.parametrize("bit", [0, 1, 11, 62, 63, 64, 65, 126, 127, 128, 129, 200, 638, 639])
def test_a_cut_is_where_the_bit_turns_on_on_either_side_of_bits_64_and_128(bit):
    above = "10" * 320
    zeros = [key_of_bits(above[:bit] + "0" + rest) for rest in ("", "01", "1") if bit + 3 <= 640 or not rest]
    ones = [key_of_bits(above[:bit] + "1" + rest) for rest in ("", "01", "1") if bit + 3 <= 640 or not rest]
    run = make_run(OPEN, [(key, b"") for key in zeros + ones])
    assert [key for key, _ in listed(run)] == sorted(zeros + ones)
    count = len(zeros) + len(ones)
    assert run.cut(OPEN, 0, count, bit) == len(zeros)
    assert run.cut(OPEN, 0, len(zeros), bit) == len(zeros)
    assert run.cut(OPEN, len(zeros), count, bit) == len(zeros)
    assert run.cut(OPEN, 1, 1, bit) == 1
    assert run.cut(OPEN, 0, 1, bit) == 1
    assert run.cut(OPEN, count, count, bit) == count


@pytest.mark.parametrize("bits", [2, 4, 6])
@pytest.mark.parametrize("near", [0, 30, 60, 64, 66, 120, 126, 128, 132, 600])
def test_a_bound_is_the_first_entry_at_or_past_a_slot(bits, near):
    shape = Shape(bits=bits, leaf_max=64, hash=as_path, tail=as_tail, prefix=no_window)
    level = min(near // bits, shape.max_level)
    above = ("1100" * 160)[: bits * level]
    rng = random.Random(near)
    slots = sorted(rng.randrange(shape.slots) for _ in range(20))
    keys = {
        key_of_bits((above + f"{slot:0{bits}b}" + f"{rng.getrandbits(9):09b}")[:640]): slot for slot in slots
    }
    run = make_run(shape, [(key, b"") for key in keys])
    held = [keys[key] for key, _ in listed(run)]
    assert held == sorted(held)
    assert [run.slot(shape, index, level) for index in range(len(held))] == held
    for slot in range(shape.slots + 1):
        expected = sum(other < slot for other in held)
        assert run.bound(shape, 0, len(held), level, slot) == expected
        if expected < len(held):
            assert run.bound(shape, expected, len(held), level, slot) == expected


@pytest.mark.parametrize("name", SHAPES)
def test_cuts_and_slots_agree_with_the_shape_at_every_level(name):
    shape = SHAPES[name]
    run = make_run(shape, [(b"%d" % n, b"") for n in range(60)])

    def descend(i: int, j: int, level: int) -> None:
        if j - i < 2 or level > shape.max_level:
            return
        keys = [run.key(index) for index in range(i, j)]
        slots = [shape.slot(key, shape.hash(key), level) for key in keys]
        assert [run.slot(shape, index, level) for index in range(i, j)] == slots == sorted(slots)
        middle = run.cut(shape, i, j, shape.bits * level)
        assert middle == run.bound(shape, i, j, level, shape.slots // 2)
        assert middle - i == sum(slot < shape.slots // 2 for slot in slots)
        for slot in sorted(set(slots)):
            first = run.bound(shape, i, j, level, slot)
            descend(first, run.bound(shape, first, j, level, slot + 1), level + 1)

    descend(0, 60, 0)


def test_a_leaf_of_a_run_is_that_of_its_entries():
    run = make_run(OPEN, [(b"a", b"1"), (b"b", b""), (b"c", REF), (b"d", b"4")])
    for i in range(5):
        for j in range(i, 5):
            assert run.leaf(i, j) == node.leaf_encode(run.entries(i, j))
            assert run.extra(i, j) == (960 if i <= 2 < j else 0)
    assert node.leaf_items(run.leaf(0, 4)) == listed(run)
    assert run.entries(0, 4).locs == [b"", b"", b"placed_1", b""]


def test_entries_leave_deletions_out():
    run = make_run(OPEN, [(b"a", b"1"), (b"b", None), (b"c", REF), (b"d", None)])
    assert run.entries(0, 4).key_lengths == [1, 1]
    kept = drop_deleted(run, 0, 4)
    assert listed(kept) == [(b"a", b"1"), (b"c", REF)]
    assert kept.loc(1) == b"placed_1"
    assert listed(drop_deleted(run, 1, 2)) == []


@pytest.mark.parametrize("name", SHAPES)
def test_a_leaf_becomes_the_run_it_came_of(name):
    shape = SHAPES[name]
    run = make_run(shape, [(b"%d" % n, REF if n % 5 == 0 else b"v%d" % n) for n in range(20)])
    again = run_of_leaf(shape, run.leaf(0, 20))
    assert listed(again) == listed(run)
    assert list(again.hi) == list(run.hi)
    assert list(again.lo) == list(run.lo)
    assert again.locs == run.locs


# Pieces


def test_of_equal_keys_in_several_runs_the_last_piece_counts():
    first = make_run(OPEN, [(b"a", b"1"), (b"b", b"2"), (b"c", REF)])
    second = make_run(OPEN, [(b"b", None), (b"c", OTHER_REF), (b"d", b"4")])
    pieces = Pieces((Piece(first, 0, 3), Piece(second, 0, 3)))
    assert pieces.count() == 6
    assert pieces.size() == len(first.heap) + len(second.heap)
    kept = flatten(pieces, OPEN, keep_deleted=True)
    assert listed(kept) == [(b"a", b"1"), (b"b", None), (b"c", OTHER_REF), (b"d", b"4")]
    done = flatten(pieces, OPEN, keep_deleted=False)
    assert listed(done) == [(b"a", b"1"), (b"c", OTHER_REF), (b"d", b"4")]
    assert kept.loc(2) == done.loc(1) == b"placed_2"


def test_a_piece_in_the_middle_of_a_run_is_flattened_alone():
    run = make_run(OPEN, [(b"a", REF), (b"b", b"2"), (b"c", OTHER_REF), (b"d", b"4")])
    flat = flatten(Pieces((Piece(run, 1, 3),)), OPEN, keep_deleted=True)
    assert listed(flat) == [(b"b", b"2"), (b"c", OTHER_REF)]
    assert flat.loc(1) == b"placed_2"


def test_pieces_of_nothing_are_the_empty_run():
    assert flatten(Pieces(()), OPEN, keep_deleted=True) == EMPTY_RUN
    assert Pieces(()).cut(OPEN, 5) == (Pieces(()), Pieces(()))


def test_a_cut_leaves_out_pieces_without_entries():
    low, high = key_of_bits("0"), key_of_bits("1")
    one = make_run(OPEN, [(low, b""), (high, b"")])
    other = make_run(OPEN, [(high, b"x")])
    left, right = Pieces((Piece(one, 0, 2), Piece(other, 0, 1))).cut(OPEN, 0)
    assert left == Pieces((Piece(one, 0, 1),))
    assert right == Pieces((Piece(one, 1, 2), Piece(other, 0, 1)))


# Spills


def test_runs_come_back_from_a_file_as_they_went():
    rng = random.Random(1)
    runs = [
        make_run(
            OPEN, [(rng.randbytes(rng.randrange(30)), rng.randbytes(rng.randrange(9))) for _ in range(n)]
        )
        for n in (1, 7, 100)
    ]
    runs.append(make_run(OPEN, [(b"a", REF), (b"b", None), (b"c", OTHER_REF)]))
    runs.append(make_run(OPEN, [(b"", b"")]))
    spill = Spill()
    try:
        for run in runs:
            spill.write(run)
        back = spill.runs()
        assert [listed(run) for run in back] == [listed(run) for run in runs]
        for run, read in zip(runs, back, strict=True):
            count = len(run.hi)
            assert read.leaf(0, count) == run.leaf(0, count) if node.DELETED not in run.kinds else True
            assert [read.path(n) for n in range(count)] == [run.path(n) for n in range(count)]
            for bit in (0, 3, 64, 127, 128, 130):
                assert read.cut(OPEN, 0, 1, bit) == run.cut(OPEN, 0, 1, bit)
            assert read.weight(0, count) == run.weight(0, count)
    finally:
        spill.close()


def test_a_spill_of_nothing_makes_no_file():
    spill = Spill()
    assert spill.runs() == []
    spill.close()
    spill.close()


# Splices


@pytest.mark.parametrize("name", SHAPES)
@settings(max_examples=15)
@given(before=changes, made=changes)
def test_a_splice_is_the_leaf_of_the_changed_entries(name, before, made):
    shape = SHAPES[name]
    entries = {key: value for key, value in before if value is not None}
    old = make_run(shape, list(entries.items())).leaf(0, len(entries))
    run = make_run(shape, made)
    new = splice(shape, old, run, 0, len(run.hi))
    after = dict(entries)
    for key, value in made:
        if value is None:
            after.pop(key, None)
        else:
            after[key] = value
    # of a key that was changed to and fro only the last change is in the run
    assert (new is None) == (after == entries)
    if new is not None:
        expected = make_run(shape, list(after.items())).leaf(0, len(after))
        assert new[: node.payload_length(new)] == expected[: node.payload_length(expected)]
        assert dict(node.leaf_items(new)) == after


def test_a_splice_of_what_is_there_changes_nothing():
    body = make_run(OPEN, [(b"a", b"1"), (b"b", REF)]).leaf(0, 2)
    same = make_run(OPEN, [(b"a", b"1"), (b"b", REF._replace(loc=b"elsewher")), (b"c", None)])
    assert splice(OPEN, body, same, 0, 3) is None


def test_a_splice_takes_only_its_span_of_the_run():
    body = make_run(OPEN, [(b"b", b"old")]).leaf(0, 1)
    run = make_run(OPEN, [(b"a", b"1"), (b"b", b"2"), (b"c", b"3")])
    assert node.leaf_items(splice(OPEN, body, run, 1, 2)) == [(b"b", b"2")]
    assert node.leaf_items(splice(OPEN, body, run, 2, 3)) == [(b"b", b"old"), (b"c", b"3")]


def test_a_key_that_continues_another_with_the_bytes_of_its_value_is_another_key():
    shape = Shape(hash=lambda key: 0, tail=lambda key: 0, prefix=no_window)
    body = make_run(shape, [(b"ab", b"cd")]).leaf(0, 1)
    run = make_run(shape, [(b"abc", b"d")])
    assert node.leaf_items(splice(shape, body, run, 0, 1)) == [(b"ab", b"cd"), (b"abc", b"d")]


def test_an_inline_value_of_the_bytes_of_a_reference_replaces_the_reference():
    body = make_run(OPEN, [(b"a", REF)]).leaf(0, 1)
    stored = REF.oid + REF.length.to_bytes(8, "little")
    spliced = splice(OPEN, body, make_run(OPEN, [(b"a", stored)]), 0, 1)
    assert node.leaf_items(spliced) == [(b"a", stored)]
    assert not spliced[2] & node.KINDS
