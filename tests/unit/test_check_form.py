"""What a node must be: sound trees of every shape pass, and each rule has a node that breaks it alone."""

from __future__ import annotations

import random
import re
import struct

import pytest

from kvgit_hamt import node, scan
from kvgit_hamt.check_faults import Fault
from kvgit_hamt.check_form import ROOT, Spot, inner_problems, leaf_problems, payload_of, readable_keys
from kvgit_hamt.check_walk import Context, TreeWalk
from kvgit_hamt.errors import CorruptionError
from kvgit_hamt.node import INNER, BlobRef
from kvgit_hamt.objects import CommitObject
from kvgit_hamt.path import Shape
from tests.support.nodes import make_inner, make_leaf
from tests.support.trees import SHAPES, change, empty_tree, memory_store

SHAPE = Shape(bits=2, leaf_max=100, inline_max=48)
NOBODY = CommitObject(bytes(32), b"", (bytes(32), b""), (), 1, None, None, "bytes")


class Report:
    """Keeps what a walk tells."""

    def __init__(self):
        self.faults = []

    def fault(self, kind, message, context, task):
        self.faults.append(Fault(len(self.faults) + 1, kind, message))
        return self.faults[-1]

    def reach(self, fault, context):
        pass

    def is_collected(self, name, oid, child):
        return False


def faults_of(store, *trees):
    report = Report()
    walk = TreeWalk(store, True, report)
    for tree in trees:
        for _ in walk.tree(tree, Context(NOBODY, "heads/main", 1, 1)):
            pass
    return report.faults, walk.counts


@pytest.mark.parametrize("name", SHAPES)
def test_trees_of_every_shape_are_sound_after_every_change(name):
    shape = SHAPES[name]
    store = memory_store(shape)
    rng = random.Random(name)
    tree = empty_tree(store)
    trees = [tree]
    keys = [f"d{n % 5}/{n}".encode() for n in range(150)] + [b"", b"/", "é/ü".encode()]
    for _ in range(12):
        changes = {}
        for key in rng.sample(keys, 20):
            changes[key] = None if rng.random() < 0.4 else rng.randbytes(rng.choice([0, 5, 40, 90]))
        tree = change(store, tree, changes)
        trees.append(tree)
    faults, counts = faults_of(store, *trees)
    assert faults == []
    met = {each.oid: each.body for tree in trees for each in scan.nodes(store, tree)}
    assert counts.nodes == len(met)
    assert counts.leaves == sum(body[0] != INNER for body in met.values())


# --- leaves


def tags_of(items):
    return bytes(SHAPE.hash(key) & 255 for key, _ in items)


def in_order(items):
    return sorted(items, key=lambda item: (SHAPE.hash(item[0]), SHAPE.tail(item[0]), item[0]))


def leaf(items, tags=None):
    return make_leaf(items, tags_of(items) if tags is None else tags)


ITEMS = in_order([(b"a", b"1"), (b"b", b"2"), (b"c", b"3")])
REF = BlobRef(bytes(32), 49, b"")


def problems(payload, spot=ROOT):
    return list(leaf_problems(SHAPE, payload, spot))


def test_a_sound_leaf_has_no_problem():
    assert problems(leaf(ITEMS)) == []
    assert problems(leaf(in_order([*ITEMS, (b"d", REF)]))) == []
    assert problems(node.EMPTY_LEAF) == []


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (leaf(ITEMS[::-1]), "out of order"),
        (leaf([ITEMS[0], *ITEMS]), "there twice"),
        (leaf(ITEMS, bytes(3)), "the tag of key"),
        (leaf([(b"\xff", b"")]), "is not UTF-8"),
        (leaf([(b"k" * 65_536, b"")]), "a key of 65536 bytes"),
        (leaf([(b"a", bytes(49))]), "and not a blob"),
        (leaf([(b"a", BlobRef(bytes(32), 48, b""))]), "a blob all the same"),
        (leaf(ITEMS) + b"\0", "canonical|malformed"),
        (leaf(ITEMS)[:-1], "malformed"),
        (
            struct.pack("<BBHI", 1, 1, 1, 1) + tags_of(ITEMS[:1]) + struct.pack("<II", 1, 2) + b"a1",
            "canonical",
        ),
        (
            struct.pack("<BBHI", 1, 1, 2, 1) + tags_of(ITEMS[:1]) + b"\0" + struct.pack("<HH", 1, 2) + b"a1",
            "canon",
        ),
        (struct.pack("<BBHI", 1, 1, 4, 0), "malformed"),
        (struct.pack("<BBHI", 1, 2, 0, 0), "unknown node kind or version"),
    ],
)
def test_each_rule_about_leaves_is_enforced(payload, message):
    found = problems(payload)
    assert len(found) >= 1
    assert any(re.search(message, problem) for problem in found), found


def test_a_leaf_without_entries_is_the_whole_tree_or_nothing():
    assert problems(node.EMPTY_LEAF, Spot(1, 4, 0, 0)) == [
        "a leaf without entries that is not the whole tree"
    ]


@pytest.mark.parametrize("bits", [1, 7, 64, 128, 129, 400, 636])
def test_a_key_belongs_where_its_path_leads_and_nowhere_else(bits):
    key = b"dir/some key"
    whole = SHAPE.hash(key) << 512 | SHAPE.tail(key)
    spot = Spot(1, 1, whole >> 640 - bits, bits)
    payload = leaf([(key, b"1")])
    assert problems(payload, spot) == []
    for bit in {0, bits // 2, bits - 1}:
        wrong = spot._replace(prefix=spot.prefix ^ 1 << bit)
        assert "does not belong here" in problems(payload, wrong)[0]


def test_spots_go_down_as_paths_do():
    shape = Shape(bits=6)
    key = b"Lu/0041"
    path = shape.hash(key)
    spot = ROOT
    for level in range(30):
        slot = shape.slot(key, path, level)
        for width in (1, 2, 16, 64):
            start = slot - slot % width
            assert spot.below(shape, start, width).holds(shape, key, path)
            other = (start + width) % shape.slots
            assert width == 64 or not spot.below(shape, other, width).holds(shape, key, path)
        spot = spot.below(shape, slot, 1)
    assert str(ROOT) == ""
    assert str(ROOT.below(shape, 5, 1)) == "000101"


# --- inner nodes


def inner(runs, counts, sizes, extras=None):
    return make_inner(runs, 2, counts, sizes, extras)


def inner_faults(payload, level=0):
    return list(inner_problems(SHAPE, payload, Spot(level, 1, 0, 0)))


SOUND = inner([2, 1, 1], [10, 10, 2], [40, 40, 50])


def test_a_sound_inner_node_has_no_problem():
    assert inner_faults(SOUND) == []
    assert inner_faults(SOUND, SHAPE.max_level) == []


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (inner([2, 2], [2, 2], [30, 30]), "light together"),
        (inner([1, 1, 2], [1, 1, 30], [9, 9, 40]), "light together"),
        (inner([2, -1, 1], [30, 1], [50, 9]), "light together"),
        (inner([1, -1, 2], [1, 10], [9, 50]), "light together"),
        (inner([4], [1], [9]), "a single child over all slots"),
        (inner([2, 2], [40, 2], [90, 50]), "too heavy for one over 2 slots"),
        (inner([2, 1, 1], [10, 10, 0], [40, 40, 50]), "canonical"),
        (SOUND + b"\0", "canonical|malformed"),
        (SOUND[:7] + b"\1" + SOUND[8:], "canonical"),
        (SOUND[:8] + bytes((1, 1, 0, 2)) + SOUND[12:], "canonical"),
        (SOUND[:8] + bytes((0, 1, 1, 2)) + SOUND[12:], "canonical"),
        (make_inner([2, 1, 1, -12], 4, [10, 10, 2], [40, 40, 50]), "an inner node of 4 bits"),
    ],
)
def test_each_rule_about_inner_nodes_is_enforced(payload, message):
    found = inner_faults(payload)
    assert any(re.search(message, problem) for problem in found), found


def test_an_inner_node_has_its_narrowest_columns():
    columns = node.inner_children(SOUND)
    wide = struct.pack("<8B", 2, 1, 2, 3, 2, 1, 0, 0) + columns.slots + b"".join(columns.oids)
    wide += struct.pack("<3H3B", *columns.counts, *columns.sizes)
    assert node.is_sound_inner(wide)
    assert "canonical" in inner_faults(wide)[0]


def test_no_inner_node_lies_below_the_deepest_level():
    assert "below the deepest" in inner_faults(SOUND, SHAPE.max_level + 1)[0]


# --- payloads, and keys that can be made out


def test_the_payload_of_a_body_ends_where_its_places_begin():
    placed = make_inner([2, 2], 2, [9, 9], [90, 90], placed=True)
    assert payload_of(placed) == placed[:-16]
    with_blob = make_leaf([(b"a", BlobRef(bytes(32), 99, b"\1" * 8))])
    assert payload_of(with_blob) == with_blob[:-8]
    assert payload_of(b"\4\1value") == b"\4\1value"
    for body in (b"", b"\0", b"\7\1", b"\2\1", placed[:-1], b"\1"):
        with pytest.raises(CorruptionError):
            payload_of(body)


def test_keys_of_a_damaged_leaf_are_named_only_if_they_belong_there():
    items = in_order([(f"key {n}".encode(), b"v") for n in range(8)])
    spot = ROOT.below(SHAPE, SHAPE.slot(items[0][0], SHAPE.hash(items[0][0]), 0), 1)
    mine = [key.decode() for key, _ in items if spot.holds(SHAPE, key, SHAPE.hash(key))]
    assert readable_keys(SHAPE, leaf(items), spot, 99) == mine
    assert readable_keys(SHAPE, leaf(items), ROOT, 3) == [key.decode() for key, _ in items[:3]]
    for body in (None, b"", b"\1\1\0", SOUND, b"\4\1blob", leaf(items)[:20]):
        assert readable_keys(SHAPE, body, ROOT, 9) == []
