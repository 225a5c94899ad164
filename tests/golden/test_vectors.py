"""The worked examples of docs/format.md, field by field: what the document shows is what the code writes.

A block of the document that opens with ```vector NAME has one field a line: its name, two spaces or
more, its bytes in hex (which may go on in the next line, indented), and perhaps a remark after a semicolon.
The fields in order are all bytes of the example. Here each example is put together a second time from
plain numbers, compared with the document field by field, and as a whole with what the library writes.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from xxhash import xxh3_64_digest, xxh3_64_intdigest, xxh3_128_intdigest

from kvgit_hamt import node, objects, path, scan, wire
from kvgit_hamt.node import BlobRef, Children
from kvgit_hamt.objects import Config, LogEntry, RefValue
from kvgit_hamt.oid import oid_of
from kvgit_hamt.path import Shape
from kvgit_hamt.run import make_run
from tests.support.trees import change, empty_tree, memory_store, naive_root

DOCUMENT = Path(__file__).parents[2] / "docs" / "format.md"
Fields = list[tuple[str, bytes]]
_BLOCK = re.compile(r"^```vector (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def read_block(text: str) -> Fields:
    """The fields of one block."""
    fields: Fields = []
    for line in text.splitlines():
        shown = line.partition(";")[0].rstrip()
        if shown.startswith(" "):
            name, more = fields.pop()
            fields.append((name, more + bytes.fromhex(shown)))
        elif shown:
            name, _, data = shown.partition("  ")
            fields.append((name, bytes.fromhex(data)))
    return fields


def documented() -> dict[str, Fields]:
    """All blocks of the document by name."""
    return {name: read_block(text) for name, text in _BLOCK.findall(DOCUMENT.read_text(encoding="utf-8"))}


def u16(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}H", *numbers)


def u64(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def joined(fields: Fields) -> bytes:
    return b"".join(data for _, data in fields)


# The inputs, as the document names them

RED, ADA = (b"apple", b"red"), (b"users/42/name", b"Ada")
LARGE = b"x" * 600
LARGE_OID = sha256(b"\x04\x01" + LARGE).digest()
SMALL_SHAPE = Shape(bits=4, leaf_max=64, inline_max=40, index_min=4_096)
FRUIT = {
    key: key * 2 for key in (b"apple", b"banana", b"cherry", b"date", b"elder", b"fig", b"grape", b"hazel")
}
TREE_OID = bytes(range(32))
PARENT_OID = bytes(range(32, 64))
TIME_US = 1_700_000_000_000_000
INFO = {"author": "Ada", "n": 7}
STORE_ID = bytes(range(0xA0, 0xB0))
NONCES = bytes(range(64))


def in_order(entries: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return sorted(entries, key=lambda entry: path.path_of(entry[0]))


def tag(key: bytes) -> int:
    return path.path_of(key) & 255


def leaf_fields(entries: list[tuple[bytes, bytes]]) -> Fields:
    """A leaf of inline entries."""
    ends = []
    at = 0
    for key, value in entries:
        ends += [at + len(key), at + len(key) + len(value)]
        at = ends[-1]
    return [
        ("kind", b"\x01"),
        ("version", b"\x01"),
        ("flags", u16(0)),
        ("count", struct.pack("<I", len(entries))),
        ("tags", bytes(tag(key) for key, _ in entries)),
        ("ends", u16(*ends)),
        ("heap", b"".join(key + value for key, value in entries)),
    ]


# Each example: its fields from plain numbers, and the same bytes from the library


def example_path() -> tuple[Fields, bytes]:
    key = b"users/42/name"
    one, two = (xxh3_64_intdigest(part) >> 48 for part in (b"users/", b"users/42/"))
    rest = xxh3_128_intdigest(key) >> 32
    fields = [
        ("directories", (one << 16 | two).to_bytes(4, "big")),
        ("rest", rest.to_bytes(12, "big")),
    ]
    return fields, path.path_of(key).to_bytes(16, "big")


def example_msgpack() -> tuple[Fields, bytes]:
    fields = [
        ("map of 2", b"\x82"),
        ("key a", b"\xa1a"),
        ("list of 4", b"\x94"),
        ("nil", b"\xc0"),
        ("true", b"\xc3"),
        ("str", b"\xa2\xc3\xa9"),
        ("bin", b"\xc4\x01\x00"),
        ("key b", b"\xa1b"),
        ("1.5", b"\xcb" + struct.pack(">d", 1.5)),
    ]
    return fields, wire.pack({"b": 1.5, "a": [None, True, "é", b"\x00"]})


def example_leaf() -> tuple[Fields, bytes]:
    entries = in_order([RED, ADA])
    shape = Shape()
    return leaf_fields(entries), make_run(shape, entries).leaf(0, 2)


def example_leaf_record() -> tuple[Fields, bytes]:
    body = example_leaf()[1]
    oid = sha256(body).digest()
    seed = int.from_bytes(oid[:8], "little")
    fields = [("body", body), ("check", xxh3_64_digest(body, seed))]
    return fields, wire.seal(oid_of(body), body)


def example_leaf_with_blob() -> tuple[Fields, bytes]:
    place = u64(258)
    stored = [(b"big", LARGE_OID + u64(600), 1), (*RED, 0)]
    stored.sort(key=lambda entry: path.path_of(entry[0]))
    fields = leaf_fields([(key, value) for key, value, _ in stored])
    fields[2] = ("flags", u16(2))
    fields.insert(5, ("kinds", bytes(kind for _, _, kind in stored)))
    fields.append(("places", place))
    run = make_run(Shape(), [(b"big", BlobRef(LARGE_OID, 600, place)), RED])
    return fields, run.leaf(0, 2)


def example_blob() -> tuple[Fields, bytes]:
    fields = [("kind", b"\x04"), ("version", b"\x01"), ("value", b"hello")]
    return fields, objects.BLOB_HEADER + b"hello"


def example_inner() -> tuple[Fields, bytes]:
    """The root of FRUIT, its runs found by hand: see the table in the document."""
    store = memory_store(SMALL_SHAPE)
    tree = change(store, empty_tree(store), FRUIT)
    body = store.read(tree.oid, b"")
    runs, leaves = fruit_runs()
    slots = bytearray(b"\xff" * 16)
    for number, (start, width, _) in enumerate(runs):
        slots[start : start + width] = bytes((number,)) * width
    fields = [
        ("kind", b"\x02"),
        ("version", b"\x01"),
        ("bits", b"\x04"),
        ("children", bytes((len(runs),))),
        ("count width", b"\x01"),
        ("size width", b"\x01"),
        ("extra width", b"\x00"),
        ("zero", b"\x00"),
        ("slots", bytes(slots)),
        *((f"oid {number}", sha256(leaf).digest()) for number, leaf in enumerate(leaves)),
        ("counts", bytes(len(entries) for _, _, entries in runs)),
        ("sizes", bytes(sum(len(k) + len(v) for k, v in entries) for _, _, entries in runs)),
    ]
    assert tree.oid == naive_root(SMALL_SHAPE, FRUIT)
    return fields, body


def fruit_runs() -> tuple[list[tuple[int, int, list[tuple[bytes, bytes]]]], list[bytes]]:
    """(first slot, slots, entries) of each leaf below the root, and their payloads."""
    runs = []

    def divide(start: int, width: int, entries: list[tuple[bytes, bytes]]) -> None:
        weight = sum(len(key) + len(value) + 5 for key, value in entries)
        if not entries:
            return
        if weight <= 64 or len(entries) == 1:
            runs.append((start, width, in_order(entries)))
            return
        assert width > 1, "choose other fruit: this needs a second inner node"
        half = width // 2
        for first in (start, start + half):
            chosen = [e for e in entries if first <= path.path_of(e[0]) >> 124 < first + half]
            divide(first, half, chosen)

    divide(0, 16, list(FRUIT.items()))
    return runs, [joined(leaf_fields(entries)) for _, _, entries in runs]


def commit_fields() -> Fields:
    return [
        ("kind", b"\x03"),
        ("version", b"\x01"),
        ("parents", u16(1)),
        ("list of 6", b"\x96"),
        ("tree", b"\xc4\x20" + TREE_OID),
        ("parent oids", b"\x91\xc4\x20" + PARENT_OID),
        ("generation", b"\x02"),
        ("time", b"\xcf" + struct.pack(">Q", TIME_US)),
        ("info", b"\x82\xa6author\xa3Ada\xa1n\x07"),
        ("codec", b"\xa7msgpack"),
    ]


def example_commit() -> tuple[Fields, bytes]:
    payload = objects.encode_commit(TREE_OID, (PARENT_OID,), 2, TIME_US, INFO, "msgpack")
    assert objects.decode_commit(oid_of(payload), b"", payload).time_us == TIME_US
    return commit_fields(), payload


def example_commit_record() -> tuple[Fields, bytes]:
    payload = joined(commit_fields())
    places = u64(258, 7)
    seed = int.from_bytes(sha256(payload).digest()[:8], "little")
    fields = [
        ("payload", payload),
        ("place of tree", places[:8]),
        ("place of parent", places[8:]),
        ("check", xxh3_64_digest(payload + places, seed)),
    ]
    body = payload + wire.place_of(258) + wire.place_of(7)
    commit = objects.decode_commit(oid_of(payload), wire.place_of(300), body)
    assert (commit.tree[1], commit.parents[0][1]) == (places[:8], places[8:])
    return fields, wire.seal(oid_of(payload), body)


def example_branch() -> tuple[Fields, bytes]:
    fields = [("list of 2", b"\x92"), ("commit", b"\xc4\x20" + TREE_OID), ("info", b"\xc0")]
    return fields, objects.encode_ref(RefValue(TREE_OID))


def example_tag() -> tuple[Fields, bytes]:
    fields = [("list of 2", b"\x92"), ("commit", b"\xc4\x20" + TREE_OID), ("info", b"\x81\xa1v\x01")]
    return fields, objects.encode_ref(RefValue(TREE_OID, {"v": 1}))


def example_reflog_entry() -> tuple[Fields, bytes]:
    fields = [
        ("list of 4", b"\x94"),
        ("old", b"\xc0"),
        ("new", b"\xc4\x20" + TREE_OID),
        ("time", b"\xcf" + struct.pack(">Q", TIME_US)),
        ("why", b"\xa6create"),
    ]
    return fields, objects.encode_log_entry(LogEntry(None, TREE_OID, TIME_US, "create"))


def example_description() -> tuple[Fields, bytes]:
    fields = [
        ("map of 7", b"\x87"),
        ("bits", b"\xa4bits\x04"),
        ("codec", b"\xa5codec\xa7msgpack"),
        ("format", b"\xa6format\x01"),
        ("hash", b"\xa4hash\xa4xxh3"),
        ("index_min", b"\xa9index_min\xcd\x04\x00"),
        ("inline_max", b"\xaainline_max\xcd\x02\x00"),
        ("leaf_max", b"\xa8leaf_max\xcd\x07\x9e"),
    ]
    shape = Shape(bits=4, leaf_max=1_950, inline_max=512, index_min=1_024)
    return fields, objects.encode_config(Config(shape, "msgpack"))


def example_lmdb_ref() -> tuple[Fields, bytes]:
    from kvgit_hamt.backend.lmdb_state import protect

    value = example_branch()[1]
    check = xxh3_64_digest(value, xxh3_64_intdigest(b"@heads/main"))
    return [("value", value), ("check", check)], protect(b"@heads/main", value)


def example_lmdb_state() -> tuple[Fields, bytes]:
    from kvgit_hamt.backend.lmdb_state import State
    from kvgit_hamt.backend.lmdb_tail import Tail

    entry = example_reflog_entry()[1]
    fields = [
        ("magic", b"KVST"),
        ("layout", struct.pack("<I", 1)),
        ("counter", u64(5)),
        ("next place", u64(300)),
        ("sum of refs", u64(0x1122334455667788)),
        ("next log number", u64(9)),
        ("store id", STORE_ID),
        ("nonces", NONCES),
        ("tail commits", u16(1)),
        ("tail entries", u16(1)),
        ("oid", TREE_OID),
        ("place", u64(299)),
        ("name length", u16(10)),
        ("entry length", u16(len(entry))),
        ("name", b"heads/main"),
        ("entry", entry),
    ]
    fields.append(("check", xxh3_64_digest(joined(fields), xxh3_64_intdigest(b"state"))))
    tail = Tail().with_commit(TREE_OID, u64(299)).with_log(b"heads/main", entry)
    return fields, State(5, 300, 0x1122334455667788, 9, STORE_ID, NONCES, tail).encode()


def example_lmdb_reservation() -> tuple[Fields, bytes]:
    from kvgit_hamt.backend.lmdb_state import Holder, protect

    fields = [
        ("pid", u64(4_242)),
        ("start", u64(1_000)),
        ("namespace", u64(4_026_531_836)),
        ("boot", u64(77)),
        ("places", u64(65_536)),
    ]
    key = b"+" + struct.pack(">Q", 300)
    fields.append(("check", xxh3_64_digest(joined(fields), xxh3_64_intdigest(key))))
    return fields, protect(key, Holder(4_242, 1_000, 4_026_531_836, 77, 65_536).encode())


EXAMPLES: dict[str, Callable[[], tuple[Fields, bytes]]] = {
    "path": example_path,
    "msgpack": example_msgpack,
    "leaf": example_leaf,
    "leaf-record": example_leaf_record,
    "leaf-with-blob": example_leaf_with_blob,
    "blob": example_blob,
    "inner": example_inner,
    "commit": example_commit,
    "commit-record": example_commit_record,
    "branch": example_branch,
    "tag": example_tag,
    "reflog-entry": example_reflog_entry,
    "description": example_description,
    "lmdb-ref": example_lmdb_ref,
    "lmdb-state": example_lmdb_state,
    "lmdb-reservation": example_lmdb_reservation,
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_document_shows_each_field_of_an_example(name):
    shown = documented()[name]
    expected, _ = EXAMPLES[name]()
    assert [field for field, _ in shown] == [field for field, _ in expected]
    for (field, data), (_, computed) in zip(shown, expected, strict=True):
        assert data.hex() == computed.hex(), f"{name}: {field}"


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_library_writes_what_the_document_shows(name):
    _, written = EXAMPLES[name]()
    assert joined(documented()[name]).hex() == written.hex()


def test_every_example_of_the_document_is_asserted():
    assert set(documented()) == set(EXAMPLES)


@pytest.mark.parametrize("name", ["leaf", "blob", "inner", "commit"])
def test_the_document_names_the_oid_of_an_object(name):
    text = DOCUMENT.read_text(encoding="utf-8")
    oid = sha256(joined(documented()[name])).hexdigest()
    assert f"`{oid}`" in text, f"the oid of {name}"


def test_the_document_names_the_oids_of_the_empty_tree_and_of_a_large_blob():
    text = DOCUMENT.read_text(encoding="utf-8")
    assert f"`{node.EMPTY_LEAF.hex()}`" in text
    assert f"`{sha256(node.EMPTY_LEAF).hexdigest()}`" in text
    assert naive_root(Shape(), {}) == sha256(node.EMPTY_LEAF).digest()
    assert f"`{LARGE_OID.hex()}`" in text


def test_the_table_of_the_example_tree_is_right():
    """The rows | key | first bits | leaf | of the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    runs, _ = fruit_runs()
    for number, (start, width, entries) in enumerate(runs):
        where = f"{start}" if width == 1 else f"{start} to {start + width - 1}"
        for key, _ in entries:
            row = f"| `{key.decode()}` | `{path.path_of(key) >> 120:08b}` | {number} | {where} |"
            assert row in text, row


def test_the_nodes_of_the_examples_are_canonical():
    for name in ("leaf", "inner"):
        node.check_node(joined(documented()[name]))
    blobbed = joined(documented()["leaf-with-blob"])
    node.check_node(blobbed[:-8])
    children = node.inner_children(joined(documented()["inner"]))
    assert isinstance(children, Children)
    store = memory_store(SMALL_SHAPE)
    tree = change(store, empty_tree(store), FRUIT)
    assert [v.oid for v in scan.nodes(store, tree)][1:] == children.oids


def test_the_examples_decode_to_what_they_were_made_of():
    shown = {name: joined(fields) for name, fields in documented().items()}
    assert objects.decode_ref("heads/main", shown["branch"]) == RefValue(TREE_OID)
    assert objects.decode_ref("tags/v1", shown["tag"]) == RefValue(TREE_OID, {"v": 1})
    assert objects.decode_log_entry("heads/main", shown["reflog-entry"]).why == "create"
    assert objects.decode_config(shown["description"]).codec == "msgpack"
    assert dict(node.leaf_items(shown["leaf"])) == dict([RED, ADA])
    commit = objects.decode_commit(bytes(32), b"", shown["commit"])
    assert (commit.tree[0], commit.parents[0][0], commit.info) == (TREE_OID, PARENT_OID, INFO)
