"""Commits, refs, reflog entries and the store's description as bytes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvgit_hamt import objects, wire
from kvgit_hamt.errors import CorruptionError, FormatVersionError, InvalidInputError
from kvgit_hamt.objects import Config, LogEntry, RefValue
from kvgit_hamt.oid import oid_of
from kvgit_hamt.path import Shape

TREE, ONE, TWO = bytes(32), b"\x01" * 32, b"\x02" * 32
oids = st.binary(min_size=32, max_size=32)
infos = st.none() | st.dictionaries(st.text(max_size=4), st.integers(-9, 9) | st.text(max_size=3), max_size=3)


def commit_body(fields: object, parent_count: int = 0) -> bytes:
    return b"\x03\x01" + parent_count.to_bytes(2, "little") + wire.pack(fields)


@settings(max_examples=50)
@given(
    oids, st.lists(oids, max_size=3), st.integers(1, 2**40), st.none() | st.integers(-(2**50), 2**50), infos
)
def test_a_commit_comes_back_as_it_went(tree, parents, generation, time_us, info):
    payload = objects.encode_commit(tree, tuple(parents), generation, time_us, info, "msgpack")
    commit = objects.decode_commit(oid_of(payload), b"", payload)
    assert commit.tree == (tree, b"")
    assert commit.parents == tuple((parent, b"") for parent in parents)
    assert (commit.generation, commit.time_us, commit.info, commit.codec) == (
        generation,
        time_us,
        info,
        "msgpack",
    )


def test_a_placed_commit_names_the_places_of_its_tree_and_parents():
    payload = objects.encode_commit(TREE, (ONE, TWO), 3, None, None, "bytes")
    body = payload + b"".join(map(wire.place_of, (7, 8, 9)))
    commit = objects.decode_commit(oid_of(payload), wire.place_of(10), body)
    assert commit.tree == (TREE, wire.place_of(7))
    assert commit.parents == ((ONE, wire.place_of(8)), (TWO, wire.place_of(9)))
    assert commit.loc == wire.place_of(10)


def test_a_placed_commit_without_its_places_is_damage():
    payload = objects.encode_commit(TREE, (ONE,), 2, None, None, "bytes")
    for places in (b"", bytes(8), bytes(15), bytes(24)):
        with pytest.raises(CorruptionError):
            objects.decode_commit(oid_of(payload), wire.place_of(10), payload + places)


def test_equal_commits_have_equal_bytes_whatever_the_order_of_their_info():
    one = objects.encode_commit(TREE, (), 1, None, {"a": 1, "b": {"d": 1, "c": 2}}, "bytes")
    other = objects.encode_commit(TREE, (), 1, None, {"b": {"c": 2, "d": 1}, "a": 1}, "bytes")
    assert one == other


def test_the_order_of_parents_counts():
    one = objects.encode_commit(TREE, (ONE, TWO), 2, None, None, "bytes")
    assert one != objects.encode_commit(TREE, (TWO, ONE), 2, None, None, "bytes")


@pytest.mark.parametrize(
    "info", [{1: 2}, {"a": object()}, {"a": {2: 3}}, {"a": 2**70}, {"a": "\ud800"}, {"a": {1, 2}}]
)
def test_info_that_is_no_plain_data_is_refused(info):
    with pytest.raises(InvalidInputError, match="plain data"):
        objects.encode_commit(TREE, (), 1, None, info, "bytes")


def test_info_that_holds_itself_is_refused():
    info: dict = {}
    info["a"] = info
    with pytest.raises(InvalidInputError):
        objects.encode_commit(TREE, (), 1, None, info, "bytes")


@pytest.mark.parametrize(
    ("fields", "parent_count"),
    [
        (None, 0),
        ([], 0),
        ([TREE, [], 1, None, None], 0),
        ([TREE, [], 1, None, None, "c", 0], 0),
        ([TREE[1:], [], 1, None, None, "c"], 0),
        ([TREE.hex(), [], 1, None, None, "c"], 0),
        ([TREE, None, 1, None, None, "c"], 0),
        ([TREE, [ONE], 1, None, None, "c"], 0),
        ([TREE, [], 1, None, None, "c"], 1),
        ([TREE, [b"short"], 1, None, None, "c"], 1),
        ([TREE, [], 0, None, None, "c"], 0),
        ([TREE, [], True, None, None, "c"], 0),
        ([TREE, [], 1.0, None, None, "c"], 0),
        ([TREE, [], 1, 1.5, None, "c"], 0),
        ([TREE, [], 1, None, [], "c"], 0),
        ([TREE, [], 1, None, None, None], 0),
        ([TREE, [], 1, None, None, b"c"], 0),
    ],
)
def test_a_commit_with_malformed_fields_is_damage(fields, parent_count):
    body = commit_body(fields, parent_count)
    with pytest.raises(CorruptionError, match="commit"):
        objects.decode_commit(oid_of(body), b"", body)


@pytest.mark.parametrize("body", [b"", b"\x03", b"\x03\x01\x00", b"\x03\x02\0\0\xc0", b"\x01\x01\0\0\xc0"])
def test_what_has_no_header_of_a_commit_is_damage(body):
    with pytest.raises(CorruptionError, match="no commit"):
        objects.decode_commit(bytes(32), b"", body)


@settings(max_examples=150)
@given(st.binary(max_size=60), st.sampled_from([b"", bytes(8)]))
def test_any_bytes_are_a_commit_or_damage(data, loc):
    for body in (data, b"\x03\x01" + data, commit_body([TREE, [], 1, None, None, "c"])[:-2] + data):
        try:
            commit = objects.decode_commit(bytes(32), loc, body)
        except CorruptionError:
            continue
        again = objects.encode_commit(
            commit.tree[0], tuple(p for p, _ in commit.parents), commit.generation, commit.time_us,
            commit.info, commit.codec,
        )  # fmt: skip
        assert body.startswith(again)


# Refs and reflog entries


def test_a_ref_comes_back_as_it_went():
    for value in (RefValue(ONE), RefValue(TWO, {"why": "release"})):
        assert objects.decode_ref("heads/main", objects.encode_ref(value)) == value


@pytest.mark.parametrize(
    "fields", [None, [], [ONE], [ONE, None, None], [b"short", None], [None, None], [ONE, 1]]
)
def test_a_malformed_ref_is_damage_and_named(fields):
    with pytest.raises(CorruptionError, match="heads/main"):
        objects.decode_ref("heads/main", wire.pack(fields))


def test_a_reflog_entry_comes_back_as_it_went():
    for entry in (LogEntry(None, ONE, 5, "create"), LogEntry(ONE, None, -5, ""), LogEntry(ONE, TWO, 0, "é")):
        assert objects.decode_log_entry("heads/main", objects.encode_log_entry(entry)) == entry


@pytest.mark.parametrize(
    "fields",
    [None, [], [ONE, TWO, 1], [ONE, b"", 1, ""], [1, TWO, 1, ""], [ONE, TWO, None, ""], [ONE, TWO, 1, b""]],
)
def test_a_malformed_reflog_entry_is_damage_and_named(fields):
    with pytest.raises(CorruptionError, match="heads/main"):
        objects.decode_log_entry("heads/main", wire.pack(fields))


# The description of a store


@pytest.mark.parametrize("shape", [Shape(), Shape(bits=4, leaf_max=300, inline_max=64, index_min=7)])
def test_a_description_comes_back_as_it_went(shape):
    config = Config(shape, "msgpack")
    assert objects.decode_config(objects.encode_config(config)) == config


def described(**changes: object) -> bytes:
    fields = wire.unpack(objects.encode_config(Config(Shape(), "msgpack")), "")
    fields.update(changes)
    return wire.pack({name: value for name, value in fields.items() if value != "left out"})


def test_a_store_of_a_newer_format_is_refused_by_its_number():
    with pytest.raises(FormatVersionError, match="format version 2"):
        objects.decode_config(described(format=2))


@pytest.mark.parametrize(
    "changes",
    [
        {"hash": "sha256"}, {"codec": 1}, {"bits": 5}, {"bits": "6"}, {"bits": True}, {"leaf_max": 10},
        {"inline_max": 10}, {"index_min": None}, {"more": 1}, {"codec": "left out"}, {"format": "1"},
        {"format": None},
    ],
)  # fmt: skip
def test_a_store_of_parameters_that_nobody_knows_is_refused(changes):
    with pytest.raises(FormatVersionError):
        objects.decode_config(described(**changes))


@pytest.mark.parametrize("data", [b"", b"\xc0", b"\x90", b"\x80", wire.pack({"bits": 6})])
def test_what_is_no_description_is_damage(data):
    with pytest.raises(CorruptionError):
        objects.decode_config(data)
