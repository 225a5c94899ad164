"""Bundles that are damaged, or made by an enemy: refused, and the store stays as it was."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvgit_hamt import Repo, bundle_check, bundle_format, hamt, node, verify_bundle, wire
from kvgit_hamt.bundle_format import FrameReader, FrameWriter, Head, Header
from kvgit_hamt.errors import CorruptionError, FormatVersionError, KvgitHamtError
from kvgit_hamt.hamt import Editor
from kvgit_hamt.history import initial_oid
from kvgit_hamt.kernel import make_run
from kvgit_hamt.node import EMPTY_LEAF, Children
from kvgit_hamt.oid import oid_of
from kvgit_hamt.path import Shape
from tests.support.homes import SMALL, Home, state_of

SHAPE = Shape(bits=2, leaf_max=64, inline_max=40)


def small_bundle(**options: Any) -> bytes:
    repo = Repo(shape=SHAPE, clock=lambda: 1_700_000_000_000_000)
    work = repo.worktree()
    work.update({"a/1": 1, "a/2": "x" * 30, "a/3": "y" * 50, "b": 2, "c": "z" * 25})
    work.commit(info={"why": "first"})
    repo.tags.create("v1", info={"n": 1})
    work["b"] = "changed"
    work.commit()
    out = io.BytesIO()
    repo.bundle(out, **options)
    return out.getvalue()


DATA = small_bundle()


def refusal(call: Callable[[], object]) -> BaseException | None:
    try:
        call()
    except KvgitHamtError as error:
        return error
    return None


@pytest.fixture(params=["memory", "lmdb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    home = Home(request.param, tmp_path)
    repo = home.open(shape=SHAPE)
    work = repo.worktree()
    work["mine"] = 1
    work.commit()
    yield repo
    home.close()


def untouched(repo: Repo) -> dict[str, Any]:
    """All that must stay, records aside: what a refused load had stored is garbage."""
    state = state_of(repo)
    return {name: state[name] for name in ("branches", "tags", "reflogs", "commit_count", "ref_count")}


NAMES = {"main": "theirs", "v1": "v1"}


def test_the_bundle_is_sound(store):
    assert store.load_bundle(io.BytesIO(DATA), NAMES).changed == ("heads/theirs", "tags/v1")


@pytest.mark.parametrize("mask", [0x01, pytest.param(0x80, marks=pytest.mark.slow)])
def test_every_byte_that_is_altered_is_found(mask):
    repo = Repo(shape=SHAPE)
    before = state_of(repo)
    passed = []
    for at in range(len(DATA)):
        altered = DATA[:at] + bytes((DATA[at] ^ mask,)) + DATA[at + 1 :]
        for call in (
            lambda altered=altered: verify_bundle(io.BytesIO(altered)),
            lambda altered=altered: repo.load_bundle(io.BytesIO(altered), NAMES),
        ):
            error = refusal(call)
            if not isinstance(error, (CorruptionError, FormatVersionError)):
                # an altered name in the header is noticed before the trailer: there is no such name then
                passed.append((at, error))
    assert [each for each in passed if each[1] is None] == []
    assert len(passed) < 40
    assert state_of(repo) == before


@pytest.mark.slow
def test_altered_bytes_leave_a_store_in_files_alone(tmp_path):
    home = Home("lmdb", tmp_path)
    repo = home.open(shape=SHAPE)
    before = untouched(repo)
    for at in range(0, len(DATA), 7):
        altered = DATA[:at] + bytes((DATA[at] ^ 0x10,)) + DATA[at + 1 :]
        assert refusal(lambda altered=altered: repo.load_bundle(io.BytesIO(altered), NAMES)) is not None
    assert untouched(repo) == before
    assert repo.store.backend.pending_floor() is None
    repo.gc(keep_reflog=0)
    assert [*repo.check()] == []
    assert repo.stats()["record_count"] == 2
    home.close()


def test_without_the_comparison_of_digests_altered_values_pass_unseen(monkeypatch):
    """The control: what finds them is the comparison, and nothing else."""
    at = DATA.index(b"changed")
    altered = DATA[:at] + b"X" + DATA[at + 1 :]
    repo = Repo(shape=SHAPE)
    assert isinstance(refusal(lambda: repo.load_bundle(io.BytesIO(altered))), CorruptionError)
    monkeypatch.setattr(bundle_format, "is_same", lambda one, other: True)
    verify_bundle(io.BytesIO(altered))
    repo.load_bundle(io.BytesIO(altered))
    assert repo.snapshot()["b"] == "Xhanged"


@pytest.mark.parametrize("known_size", [pytest.param(True, marks=pytest.mark.slow), False])
def test_every_length_that_is_cut_is_refused(known_size, tmp_path):
    repo = Repo(shape=SHAPE)
    before = state_of(repo)
    path = tmp_path / "cut"
    path.write_bytes(DATA)
    for length in reversed(range(len(DATA))):
        os.truncate(path, length)
        for call in (verify_bundle, lambda source: repo.load_bundle(source, NAMES)):
            source: Any = path if known_size else io.BytesIO(DATA[:length])
            assert isinstance(refusal(lambda: call(source)), CorruptionError)  # noqa: B023 (called now)
    assert state_of(repo) == before


@pytest.mark.parametrize("more", [b"\0", b"x" * 100, DATA])
def test_what_follows_the_end_is_refused(store, more):
    before = untouched(store)
    with pytest.raises(CorruptionError, match="follows"):
        store.load_bundle(io.BytesIO(DATA + more), NAMES)
    with pytest.raises(CorruptionError, match="follows"):
        verify_bundle(io.BytesIO(DATA + more))
    assert untouched(store) == before


@pytest.mark.parametrize(
    "data", [b"", b"PK\x03\x04" * 20, b"\0" * 1_000, b"KVHBUNDL", b"# v2 git bundle\n" * 9]
)
def test_other_files_are_refused(store, data):
    for call in (lambda: verify_bundle(io.BytesIO(data)), lambda: store.load_bundle(io.BytesIO(data))):
        with pytest.raises(CorruptionError):
            call()


def test_another_version_is_refused(store):
    newer = DATA[:8] + struct.pack("<I", 2) + DATA[12:]
    with pytest.raises(FormatVersionError, match="version 2"):
        store.load_bundle(io.BytesIO(newer))


# made by an enemy: sound frames, sound digests, and something wrong inside


class Forge:
    """A bundle whose every digest is right."""

    def __init__(self, **changes: Any) -> None:
        self.objects: list[tuple[str, Any]] = []
        self.changes = changes
        self.tree = oid_of(EMPTY_LEAF)

    def put(self, payload: bytes) -> bytes:
        self.objects.append(("object", payload))
        return oid_of(payload)

    def commit(self, tree: bytes = b"", **fields: Any) -> bytes:
        known: dict[str, Any] = {
            "tree": tree, "parents": (), "generation": 1, "time_us": 5, "info": {"by": "enemy"},
            "codec": "msgpack",
        }  # fmt: skip
        values = list({**known, **fields}.values())
        values[1] = list(values[1])
        payload = struct.pack("<BBH", 3, 1, len(values[1])) + wire.pack(values)
        self.objects.append(("commit", payload))
        self.head = oid_of(self.objects[-1][1])
        return self.head

    def data(self, head: bytes | None = None) -> bytes:
        fields: dict[str, Any] = {
            "shape": SHAPE, "codec": "msgpack", "heads": (Head("heads/x", head or self.head, None),),
            "prerequisites": (), "commit_count": sum(kind == "commit" for kind, _ in self.objects),
        }  # fmt: skip
        out = io.BytesIO()
        frames = FrameWriter(out, Header(**{**fields, **self.changes}))
        group: list[bytes] = []
        for kind, payload in self.objects:
            if kind == "commit":
                frames.commit(oid_of(payload))
                for each in (*group, payload):
                    frames.object(oid_of(each), each)
                group = []
            else:
                group.append(payload)
        frames.end()
        return out.getvalue()


def nodes_of(entries: dict[bytes, bytes], shape: Shape = SHAPE) -> tuple[bytes, dict[bytes, bytes]]:
    """(root, payloads by oid, children first) of the one valid tree of some entries."""
    repo = Repo(shape=shape)
    writer = repo.store.writer()
    tree = Editor(writer, shape).apply(hamt.put_empty(writer), make_run(shape, list(entries.items())))
    found: dict[bytes, bytes] = {}

    def walk(oid: bytes) -> None:
        payload = writer.read(oid, b"")
        if payload[0] == node.INNER:
            for child in node.inner_children(payload).oids:
                walk(child)
        found[oid] = payload

    walk(tree.oid)
    return tree.oid, found


ENTRIES = {b"k%d" % number: b"v" * 20 for number in range(12)}


def refused(forged: bytes, match: str) -> None:
    repo = Repo(shape=SHAPE)
    before = state_of(repo)
    with pytest.raises(CorruptionError, match=match):
        verify_bundle(io.BytesIO(forged))
    with pytest.raises(CorruptionError, match=match):
        repo.load_bundle(io.BytesIO(forged))
    assert state_of(repo) == before


def test_a_forged_bundle_that_is_right_is_loaded():
    """The control of the tests below: the forge is refused for what is wrong, not for being one."""
    forge = Forge()
    root, payloads = nodes_of(ENTRIES)
    for payload in payloads.values():
        forge.put(payload)
    forge.commit(root)
    repo = Repo(shape=SHAPE, codec="msgpack")
    repo.load_bundle(io.BytesIO(forge.data()))
    assert set(repo.snapshot(branch="x")) == {key.decode() for key in ENTRIES}
    assert [*repo.check()] == []


def with_nodes(change: Callable[[bytes, bytes], bytes | None]) -> Forge:
    """A forge whose nodes were changed, and those above them along with it, so that each oid is right."""
    forge = Forge()
    root, payloads = nodes_of(ENTRIES)
    now: dict[bytes, bytes] = {}
    for oid, payload in payloads.items():
        if payload[0] == node.INNER:
            children = node.inner_children(payload)
            payload = node.inner_encode(children._replace(oids=[now.get(c, c) for c in children.oids]))
        changed = change(payload, oid)
        if changed is not None:
            now[oid] = forge.put(changed)
    forge.commit(now.get(root, root))
    return forge


def last_leaf() -> bytes:
    return next(oid for oid, p in reversed(nodes_of(ENTRIES)[1].items()) if p[0] == node.LEAF)


def altered_leaf(change: Callable[[node.Entries], node.Entries]) -> Forge:
    target = last_leaf()

    def apply(payload: bytes, oid: bytes) -> bytes:
        return node.leaf_encode(change(node.leaf_entries(payload))) if oid == target else payload

    return with_nodes(apply)


def altered_inner(change: Callable[[Children], Children]) -> Forge:
    done: list[int] = []

    def apply(payload: bytes, oid: bytes) -> bytes:
        if payload[0] != node.INNER or done:
            return payload
        done.append(1)
        return node.inner_encode(change(node.inner_children(payload)))

    return with_nodes(apply)


def swap_slots(children: Children) -> Children:
    order = [1, 0, *range(2, len(children.oids))]
    columns = [[column[n] for n in order] for column in children[1:]]
    return Children(children.slots, *columns)  # type: ignore[arg-type]


WRONG_LEAVES = {
    "tag": lambda e: e._replace(tags=bytearray(b"\0" * len(e.tags))),
    "key is no text": lambda e: e._replace(records=[b"\xff" + e.records[0][1:], *e.records[1:]]),
    "value too long for a leaf": lambda e: e._replace(records=[e.records[0] + b"v" * 50, *e.records[1:]]),
    "key elsewhere": lambda e: e._replace(
        records=[b"zz" + e.records[0][2:], *e.records[1:]],
        tags=bytearray(SHAPE.packed_paths([b"zz" + e.records[0][2 : e.key_lengths[0]]])[0][-1:] + e.tags[1:]),
    ),
}
WRONG_INNER = {
    "count": lambda c: c._replace(counts=[c.counts[0] + 1, *c.counts[1:]]),
    "size": lambda c: c._replace(sizes=[c.sizes[0] + 1, *c.sizes[1:]]),
    "extra": lambda c: c._replace(extras=[7, *c.extras[1:]]),
    "children of each other's slots": swap_slots,
}


@pytest.mark.parametrize("what", WRONG_LEAVES)
def test_a_wrong_leaf_is_refused(what):
    refused(altered_leaf(WRONG_LEAVES[what]).data(), "leaf|figures|elsewhere")


@pytest.mark.parametrize("what", WRONG_INNER)
def test_a_wrong_inner_node_is_refused(what):
    refused(altered_inner(WRONG_INNER[what]).data(), "figures|elsewhere")


def test_a_missing_node_is_refused():
    target = last_leaf()
    refused(with_nodes(lambda payload, oid: None if oid == target else payload).data(), "not in the bundle")


def test_a_child_before_which_its_parent_stands_is_refused():
    forge = with_nodes(lambda payload, oid: payload)
    forge.objects.insert(0, forge.objects.pop(-2))
    refused(forge.data(), "not in the bundle")


def test_leaves_that_belong_in_one_are_refused():
    one, other = nodes_of({b"k1": b"v"})[0], nodes_of({b"k2": b"v"})[0]
    paths = [SHAPE.packed_paths([key])[0][0] >> 6 for key in (b"k1", b"k2")]
    pair = [one, other] if paths[0] < paths[1] else [other, one]
    slots = bytearray(b"\xff" * 4)
    for number, slot in enumerate(sorted(paths)):
        slots[slot] = number
    forge = Forge()
    for entries in ({b"k1": b"v"}, {b"k2": b"v"}):
        forge.put(next(iter(nodes_of(entries)[1].values())))
    assert paths[0] != paths[1]
    inner = node.inner_encode(Children(bytes(slots), pair, [b"", b""], [1, 1], [3, 3], [0, 0]))
    forge.commit(forge.put(inner))
    refused(forge.data(), "belong in one")


def test_a_tower_of_nodes_is_refused_without_recursion():
    forge = Forge()
    root, payloads = nodes_of(ENTRIES)
    for payload in payloads.values():
        forge.put(payload)
    top = node.inner_stats(payloads[root])
    for _ in range(5_000):
        columns = ([number] for number in top)
        root = forge.put(node.inner_encode(Children(b"\0\xff\xff\xff", [root], [b""], *columns)))
    forge.commit(root)
    refused(forge.data(), "elsewhere|deeper")


def test_a_root_of_a_subtree_is_no_root():
    forge = Forge()
    entries = {b"k%d" % number: b"v" * 20 for number in range(60)}
    root, payloads = nodes_of(entries)
    below = [oid for oid, payload in payloads.items() if payload[0] == node.INNER and oid != root]
    for payload in payloads.values():
        forge.put(payload)
    forge.commit(below[0])
    refused(forge.data(), "root")


WRONG_COMMITS: dict[str, tuple[dict[str, Any], str]] = {
    "generation": ({"generation": 2}, "generation"),
    "codec": ({"codec": "pickle"}, "codec"),
    "time": ({"time_us": 1 << 62}, "malformed"),
    "parent": ({"parents": (bytes(32),), "generation": 2}, "not in the bundle"),
    "tree": ({"tree": bytes(32)}, "not in the bundle"),
}


@pytest.mark.parametrize("what", WRONG_COMMITS)
def test_a_wrong_commit_is_refused(what):
    fields, match = WRONG_COMMITS[what]
    forge = Forge()
    forge.commit(**{"tree": forge.put(EMPTY_LEAF), **fields})
    refused(forge.data(), match)


def test_a_tree_that_is_a_commit_is_refused():
    forge = Forge()
    first = forge.commit(forge.put(EMPTY_LEAF))
    forge.commit(first, info=None)
    refused(forge.data(), "another kind")


def test_a_head_that_is_not_there_is_refused():
    forge = Forge()
    forge.commit(forge.put(EMPTY_LEAF))
    refused(forge.data(bytes(32)), "lacks commit")
    refused(forge.data(forge.tree), "lacks commit")


def test_a_wrong_number_of_commits_is_refused():
    forge = Forge(commit_count=2)
    forge.commit(forge.put(EMPTY_LEAF))
    refused(forge.data(), "1 of 2 commits")


@pytest.mark.parametrize(
    "payload",
    [b"", b"\x09\x01junk", b"\x04\x02" + b"x" * 99, b"\x04\x01short", EMPTY_LEAF + b"\0", b"\x01\x01"],
)
def test_an_object_that_is_none_is_refused(payload):
    forge = Forge()
    forge.put(EMPTY_LEAF)
    forge.put(payload)
    forge.commit(forge.tree)
    refused(forge.data(), "object|node|leaf|blob|commit")


def test_a_value_of_another_length_is_refused():
    entries = node.Entries(
        [b"key" + oid_of(b"\x04\x01" + b"x" * 50) + struct.pack("<Q", 51)], [3],
        bytearray(SHAPE.packed_paths([b"key"])[0][-1:]), bytearray((node.BLOB_VALUE,)), [],
    )  # fmt: skip
    forge = Forge()
    forge.put(b"\x04\x01" + b"x" * 50)
    forge.commit(forge.put(node.leaf_encode(entries)))
    refused(forge.data(), "not what a leaf says")


# lengths and headers that lie


def opened(header: bytes, rest: bytes = b"") -> bytes:
    return struct.pack("<8sII", b"KVHBUNDL", 1, len(header)) + header + rest


def test_a_length_that_lies_costs_no_memory():
    header = Header(SHAPE, "msgpack", (Head("heads/x", bytes(32), None),), (), 1).encode()
    start = opened(header, b"\x01" + bytes(32) + b"\x03" + bytes(32))
    tracemalloc.start()
    for length in (1 << 31, 0xFFFF_FFFF, 1 << 32, (1 << 64) - 1):
        with pytest.raises(CorruptionError):
            verify_bundle(io.BytesIO(start + struct.pack("<Q", length) + b"x" * 1_000))
    with pytest.raises(CorruptionError):
        FrameReader(io.BytesIO(struct.pack("<8sII", b"KVHBUNDL", 1, 0xFFFF_FFFF) + b"x" * 1_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def fields(**changes: Any) -> bytes:
    known: dict[str, Any] = {
        "bits": 2, "leaf_max": 64, "inline_max": 40, "hash": "xxh3", "codec": "msgpack", "commits": 1,
        "heads": [["heads/x", bytes(32), None]], "prerequisites": [],
    }  # fmt: skip
    merged = {**known, **changes}
    return wire.pack({name: value for name, value in merged.items() if value is not Ellipsis})


@pytest.mark.parametrize(
    "header",
    [
        fields(extra=1), fields(codec=...), fields(codec=1), fields(commits=-1), fields(commits=True),
        fields(heads=[]), fields(heads=None), fields(heads=[["x", bytes(32), None]]),
        fields(heads=[["heads/a..b", bytes(32), None]]), fields(heads=[["heads/x", bytes(31), None]]),
        fields(heads=[["heads/x", bytes(32), {}]]), fields(heads=[["tags/x", bytes(32), 5]]),
        fields(heads=[[None, bytes(32), {}]]), fields(heads=[["heads/x", bytes(32), None]] * 2),
        fields(heads=[["config", bytes(32), None]]), fields(heads=[[7, bytes(32), None]]),
        fields(prerequisites=[b"x"]), fields(prerequisites=[bytes(32)] * 2), fields(prerequisites=None),
        fields(prerequisites=[b"\x01" * 32, bytes(32)]), wire.pack([1]), b"\xc1", b"", b"\x81" * 4_000,
        fields()[:-1], fields() + b"\0",
    ],
)  # fmt: skip
def test_a_malformed_header_is_refused(header):
    with pytest.raises(CorruptionError):
        FrameReader(io.BytesIO(opened(header)))


@pytest.mark.parametrize(
    "header",
    [fields(bits=3), fields(leaf_max=1), fields(inline_max="x"), fields(hash="md5"), fields(bits=True)],
)
def test_unknown_parameters_are_refused(header):
    with pytest.raises(FormatVersionError):
        FrameReader(io.BytesIO(opened(header)))


@pytest.mark.parametrize(
    "frames",
    [
        b"\x07",
        b"\x02" + struct.pack("<IH", 0, 0),
        b"\x03" + oid_of(b"x") + struct.pack("<Q", 1) + b"x",
        b"\x01" + bytes(32) + b"\x01" + bytes(32),
        b"\x01" + bytes(32) + b"\x00" + struct.pack("<Q", 0) + bytes(32),
    ],
)
def test_frames_in_no_order_are_refused(frames):
    refused(opened(fields(), frames), "the bundle")


@pytest.mark.parametrize("slots", [b"\0" * 9, b"\x7f", b"\xff" * 1_024, b"\0"])
def test_a_base_that_is_not_there_is_refused(slots):
    repo = Repo(shape=SHAPE)
    out = io.BytesIO()
    header = Header(
        SHAPE, "msgpack", (Head("heads/x", bytes(32), None),), (initial_oid("msgpack"),), 1
    )  # fmt: skip
    frames = FrameWriter(out, header)
    frames.commit(bytes(32))
    frames.base(0, slots)
    with pytest.raises(CorruptionError, match="points to"):
        repo.load_bundle(io.BytesIO(out.getvalue()))


def test_nothing_in_a_bundle_is_executed(monkeypatch):
    import sys

    events: list[str] = []
    sys.addaudithook(lambda name, args: events.append(name) if armed and name in WATCHED else None)
    armed = True
    verify_bundle(io.BytesIO(DATA))
    Repo(shape=SHAPE).load_bundle(io.BytesIO(DATA))
    armed = False
    assert events == []


WATCHED = {"pickle.find_class", "exec", "compile", "os.system", "subprocess.Popen", "marshal.loads"}


def test_thin_bundles_are_looked_through_as_well(tmp_path):
    repo = Repo(shape=SMALL, clock=lambda: 1_700_000_000_000_000)
    work = repo.worktree()
    work.update({f"k{n}": n for n in range(100)})
    work.commit()
    repo.tags.create("v1")
    work.update({f"k{n}": -n for n in range(0, 100, 9)})
    work.commit()
    whole, thin = io.BytesIO(), io.BytesIO()
    repo.bundle(whole, "v1")
    repo.bundle(thin, "v1..main")
    data = thin.getvalue()
    other = Repo(shape=SMALL)
    whole.seek(0)
    other.load_bundle(whole)
    before = state_of(other)
    for at in range(0, len(data), 3):
        altered = data[:at] + bytes((data[at] ^ 0x04,)) + data[at + 1 :]
        assert refusal(lambda altered=altered: other.load_bundle(io.BytesIO(altered))) is not None, at
    assert state_of(other) == before
    other.load_bundle(io.BytesIO(data))
    assert dict(other.snapshot().items()) == dict(work.items())


def test_a_checker_that_looks_at_nothing_lets_wrong_nodes_pass(monkeypatch):
    """The control of the forged nodes: what refuses them is the checker."""
    data = altered_inner(WRONG_INNER["count"]).data()
    monkeypatch.setattr(bundle_check.Checker, "_level", lambda *a: 0)
    inner = bundle_check.Checker.inner

    def lenient(self: Any, oid: bytes, payload: bytes) -> Any:
        children = node.inner_children(payload)
        found = [self.find(child) for child in children.oids]
        totals = sum(children.counts), sum(children.sizes), sum(children.extras)
        return bundle_check.Known(bytes(8), node.INNER, 0, 0, *totals), found

    monkeypatch.setattr(bundle_check.Checker, "inner", lenient)
    verify_bundle(io.BytesIO(data))
    monkeypatch.setattr(bundle_check.Checker, "inner", inner)
