"""The worked example of a bundle in docs/format.md, field by field: the library writes what it shows."""

from __future__ import annotations

import io
import re
import struct
from hashlib import sha256
from pathlib import Path

from kvgit_hamt import Repo, verify_bundle, wire
from kvgit_hamt.history import initial_oid
from kvgit_hamt.node import EMPTY_LEAF
from kvgit_hamt.objects import encode_commit
from kvgit_hamt.path import Shape

DOCUMENT = Path(__file__).parents[2] / "docs" / "format.md"
_BLOCK = re.compile(r"^```bundle smallest\n(.*?)^```$", re.MULTILINE | re.DOTALL)
Fields = list[tuple[str, bytes]]


def documented() -> Fields:
    """The fields that the document shows."""
    fields: Fields = []
    found = _BLOCK.search(DOCUMENT.read_text(encoding="utf-8"))
    assert found is not None
    for line in found[1].splitlines():
        shown = line.partition(";")[0].rstrip()
        if shown.startswith(" "):
            name, more = fields.pop()
            fields.append((name, more + bytes.fromhex(shown)))
        elif shown:
            name, _, data = shown.partition("  ")
            fields.append((name, bytes.fromhex(data)))
    return fields


def expected() -> Fields:
    """The same, put together from plain numbers."""
    shape = Shape()
    commit = encode_commit(sha256(EMPTY_LEAF).digest(), (), 1, None, None, "msgpack")
    head = sha256(commit).digest()
    assert head == initial_oid("msgpack")
    header = [
        ("map of 8", b"\x88"),
        ("bits", wire.pack("bits") + wire.pack(shape.bits)),
        ("codec", wire.pack("codec") + wire.pack("msgpack")),
        ("commits", wire.pack("commits") + wire.pack(1)),
        ("hash", wire.pack("hash") + wire.pack("xxh3")),
        ("heads", wire.pack("heads") + wire.pack([["heads/main", head, None]])),
        ("inline_max", wire.pack("inline_max") + wire.pack(shape.inline_max)),
        ("leaf_max", wire.pack("leaf_max") + wire.pack(shape.leaf_max)),
        ("prerequisites", wire.pack("prerequisites") + wire.pack([])),
    ]
    leaf = sha256(EMPTY_LEAF).digest()
    fields = [
        ("magic", b"KVHBUNDL"),
        ("version", struct.pack("<I", 1)),
        ("length", struct.pack("<I", sum(len(data) for _, data in header))),
        *header,
        ("commit frame", b"\x01" + head),
        ("object frame", b"\x03" + leaf + struct.pack("<Q", len(EMPTY_LEAF))),
        ("leaf", EMPTY_LEAF),
        ("object frame", b"\x03" + head + struct.pack("<Q", len(commit))),
        ("commit", commit),
        ("end", b"\x00" + struct.pack("<Q", 2)),
    ]
    return [*fields, ("sha-256", sha256(b"".join(data for _, data in fields)).digest())]


def test_the_document_shows_each_field():
    shown, right = documented(), expected()
    assert [name for name, _ in shown] == [name for name, _ in right]
    for (name, data), (_, computed) in zip(shown, right, strict=True):
        assert data.hex() == computed.hex(), name


def test_the_library_writes_and_reads_what_the_document_shows():
    out = io.BytesIO()
    Repo().bundle(out)
    data = b"".join(each for _, each in documented())
    assert out.getvalue().hex() == data.hex()
    assert verify_bundle(io.BytesIO(data)).commit_count == 1
    assert f"`{initial_oid('msgpack').hex()}`" in DOCUMENT.read_text(encoding="utf-8")
