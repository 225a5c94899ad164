"""C4: nodes, commits and links that are wrong while every checksum (and mostly every oid) is right.

Only a deep check can see most of them. Each is built to break one rule; the control is the quick check, which
must not see those that are a matter of form alone: so it is the deep part that found them.
"""

from __future__ import annotations

import random
import shutil
import struct
from contextlib import suppress

import pytest

from kvgit_hamt import Repo, node, scan
from kvgit_hamt.errors import CorruptionError, KvgitHamtError
from kvgit_hamt.hamt import Tree
from kvgit_hamt.node import INNER, BlobRef
from kvgit_hamt.objects import encode_commit
from kvgit_hamt.oid import oid_of
from kvgit_hamt.wire import pack
from tests.support.forge import Forge, stats_of
from tests.support.homes import SMALL
from tests.support.nodes import make_leaf
from tests.support.rawstore import raw_store
from tests.support.scale import pick, record
from tests.support.trees import naive_root

KEYS = {f"d{n % 5}/{n}": "v" * (n % 50) for n in range(300)}
KEY = "d3/143"


@pytest.fixture
def forge():
    repo = Repo(None, shape=SMALL)
    work = repo.worktree()
    work.update(KEYS)
    work.commit()
    assert list(repo.check()) == []
    return Forge(repo)


def path_hash(shape, key):
    return shape.hash(key) & 255


def leaf_of(shape, items):
    ordered = sorted(items, key=lambda item: (shape.hash(item[0]), item[0]))
    return make_leaf(ordered, bytes(path_hash(shape, key) for key, _ in ordered))


def items_at(forge, slots):
    return node.leaf_items(forge.way(slots)[-1])


def check(forge, deep=True):
    return list(forge.repo.check(deep))


def kinds(faults):
    return {fault.kind for fault in faults}


# --- leaves


def unsorted(shape, items):
    items = items[::-1]
    return make_leaf(items, bytes(path_hash(shape, key) for key, _ in items))


def tagged(shape, items):
    tags = bytearray(path_hash(shape, key) for key, _ in items)
    tags[0] ^= 1
    return make_leaf(items, bytes(tags))


def doubled(shape, items):
    items = [items[0], *items]
    return make_leaf(items, bytes(path_hash(shape, key) for key, _ in items))


TRAILING = "do not fit its bytes"
LEAVES = {
    "out of order": unsorted,
    "the tag of key": tagged,
    "there twice": doubled,
    "does not belong here": lambda shape, items: leaf_of(shape, [*items, (b"zz/9", b"1")]),
    "is not UTF-8": lambda shape, items: leaf_of(shape, [*items, (b"d3/\xff", b"1")]),
    "and not a blob": lambda shape, items: leaf_of(shape, [(items[0][0], bytes(65))]),
    TRAILING: lambda shape, items: leaf_of(shape, items) + b"\0",
    "without entries": lambda shape, items: node.EMPTY_LEAF,
}


@pytest.mark.parametrize("message", LEAVES)
def test_a_forged_leaf_is_found_by_the_deep_check_alone(forge, message):
    slots = forge.slots_of(KEY)
    assert len(items_at(forge, slots)) > 1 or message != "out of order"
    payload = LEAVES[message](forge.repo.store.shape, items_at(forge, slots))
    forge.replace(slots, payload, stats_of(forge.way(slots)[-1]) if message == TRAILING else None)
    faults = check(forge)
    assert any(message in fault.message for fault in faults), [str(fault) for fault in faults]
    fault = next(fault for fault in faults if message in fault.message)
    assert fault.kind == "malformed"
    assert fault.slots == tuple(slots)
    assert fault.heads == ("heads/main",)
    if message != TRAILING:  # which reads refuse as well
        assert "malformed" not in kinds(check(forge, deep=False)), "the control: the deep check's alone"


def test_a_blob_of_a_short_value_is_found(forge):
    slots = forge.slots_of(KEY)
    oid = forge.put(b"\4\1" + bytes(50))
    key = items_at(forge, slots)[0][0]
    forge.replace(slots, leaf_of(forge.repo.store.shape, [(key, BlobRef(oid, 50, b""))]))
    assert any("a blob all the same" in fault.message for fault in check(forge))


@pytest.mark.parametrize("wrong", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_figures_that_are_not_the_childs_are_found(forge, wrong):
    slots = forge.slots_of(KEY)
    payload = forge.way(slots)[-1]
    claim = tuple(a + b for a, b in zip(stats_of(payload), wrong, strict=True))
    forge.replace(slots, payload, claim)
    for deep in (True, False):
        (fault,) = [fault for fault in check(forge, deep) if fault.slots == tuple(slots)]
        assert fault.kind == "mismatch"
        assert "its parent says" in fault.message


# --- inner nodes


def test_a_leaf_that_was_divided_without_need_is_found(forge):
    shape = forge.repo.store.shape
    slots = forge.slots_of(KEY)[:-1]
    body = forge.way(slots)[-1]
    columns = node.inner_children(body)
    wide = next(slot for slot in range(0, 16, 2) if columns.slots[slot] == columns.slots[slot + 1] != 255)
    number = columns.slots[wide]
    width = columns.slots.count(number)
    items = node.leaf_items(forge.repo.store.read(columns.oids[number], b""))
    start = columns.slots.index(number)
    halves = [[], []]
    for key, value in items:
        slot = shape.slot(key, shape.hash(key), len(slots))
        halves[slot >= start + width // 2].append((key, value))
    table = bytearray(slot + (slot != 255 and slot > number) for slot in columns.slots)
    leaves = [leaf_of(shape, half) if half else None for half in halves]
    lists = [list(column) for column in columns[1:]]
    live = [leaf for leaf in leaves if leaf is not None]
    for at, leaf in enumerate(live):
        row = (forge.put(leaf), b"", *stats_of(leaf))
        for column, value in zip(lists, row, strict=True):
            if at:
                column.insert(number + at, value)
            else:
                column[number] = value
    at = number
    for half, leaf in enumerate(leaves):
        first = start + half * width // 2
        table[first : first + width // 2] = bytes((255 if leaf is None else at,)) * (width // 2)
        at += leaf is not None
    if len(live) == 1:
        table = bytearray(slot - (slot != 255 and slot > number) for slot in table)
    forge.replace(slots, node.inner_encode(node.Children(bytes(table), *lists)))
    faults = check(forge)
    assert [fault.kind for fault in faults] == ["malformed"]
    assert "light together" in faults[0].message
    assert check(forge, deep=False) == [], "the control"
    work = forge.repo.worktree()
    assert {key: work[key] for key in KEYS} == KEYS


def test_a_leaf_where_an_inner_node_belongs_is_found(forge):
    slots = forge.slots_of(KEY)[:1]
    body = forge.way(slots)[-1]
    assert body[0] == INNER
    work = forge.repo.worktree()
    shape = forge.repo.store.shape
    prefix = slots[0]
    items = [
        (key.encode(), work.raw[key])
        for key in KEYS
        if shape.slot(key.encode(), shape.hash(key.encode()), 0) == prefix and len(work.raw[key]) <= 64
    ]
    heavy = leaf_of(shape, items)
    assert not shape.is_leaf(*stats_of(heavy)[:2])
    forge.replace(slots, heavy)
    for deep in (True, False):
        faults = check(forge, deep)
        assert any("stands where an inner node belongs" in fault.message for fault in faults)


def test_an_inner_node_where_a_leaf_belongs_is_found(forge):
    slots = forge.slots_of(KEY)
    leaf = forge.way(slots)[-1]
    only = node.Children(bytes(16), [forge.put(leaf)], [b""], *[[number] for number in stats_of(leaf)])
    forge.replace(slots, node.inner_encode(only))
    for deep in (True, False):
        assert any("stands where a leaf belongs" in fault.message for fault in check(forge, deep))
    assert any("a single child over all slots" in fault.message for fault in check(forge))


@pytest.mark.parametrize("how", ["widths", "reserved", "trailing"])
def test_an_inner_node_in_another_form_is_found(forge, how):
    body = forge.way(())[0]
    if how == "reserved":
        payload = body[:7] + b"\1" + body[8:]
    elif how == "trailing":
        payload = body + b"\0" * 8 * body[3]  # places where there are none
    else:
        columns = node.inner_children(body)
        table = struct.pack("<8B", 2, 1, 4, body[3], 4, body[5], body[6], 0) + columns.slots
        rest = body[8 + 16 + (32 + body[4]) * body[3] :]
        payload = table + b"".join(columns.oids) + struct.pack(f"<{body[3]}I", *columns.counts) + rest
    forge.replace((), payload)
    faults = check(forge)
    assert kinds(faults) & {"malformed", "altered"}, [str(fault) for fault in faults]
    assert check(forge, deep=False) == [], "the control: reads do not care"


def test_a_node_that_is_its_own_child_ends_no_walk(forge):
    """Its oid cannot be right; quick as well as deep, the walk comes to an end."""
    oid = b"\x07" * 32
    body = forge.way(())[0]
    columns = node.inner_children(body)
    own = columns._replace(oids=[oid] * len(columns.oids))
    forge.put(node.inner_encode(own), oid)
    forge.commit(oid)
    deep = check(forge)
    assert kinds(deep) == {"altered"}
    quick = forge.repo.check(deep=False)
    assert len(list(quick)) > 0
    assert quick.result().node_count < 1_000
    work = forge.repo.worktree()
    with pytest.raises(KvgitHamtError):
        list(work.keys())


def test_a_tree_that_repeats_itself_is_walked_once(forge):
    """Sixteen children that are one, a dozen levels deep: 16 ** 12 paths, each oid right."""
    oid, stats = forge.put(forge.way(forge.slots_of(KEY))[-1]), (40, 4_000, 0)
    for _ in range(12):
        columns = [[oid] * 16, [b""] * 16, *[[number] * 16 for number in stats]]
        payload = node.inner_encode(node.Children(bytes(range(16)), *columns))
        oid, stats = forge.put(payload), stats_of(payload)
    forge.commit(oid)
    for deep in (True, False):
        run = forge.repo.check(deep)
        faults = list(run)
        assert any("two spots" in fault.message for fault in faults)
        assert len(faults) < 1_000


# --- wrong kinds, commits


def test_objects_of_another_kind_are_found(forge):
    head = forge.head()
    blob = forge.put(b"\4\1" + bytes(100))
    leaf = forge.way(forge.slots_of(KEY))[-1]
    for tree in (head.oid, blob):
        forge.commit(tree)
        assert any("where a node belongs" in fault.message for fault in check(forge, deep=False))
    forge.commit(head.tree[0], [oid_of(leaf)])
    assert any("where a commit belongs" in fault.message for fault in check(forge, deep=False))
    slots = forge.slots_of(KEY)
    key = items_at(forge, slots)[0][0]
    wrong = BlobRef(oid_of(leaf), 100, b"")
    forge.replace(slots, leaf_of(forge.repo.store.shape, [(key, wrong)]))
    assert any("where a blob belongs" in fault.message for fault in check(forge, deep=False))
    short = BlobRef(blob, 99, b"")
    forge.replace(slots, leaf_of(forge.repo.store.shape, [(key, short)]))
    faults = [fault for fault in check(forge, deep=False) if "its leaf says 99" in fault.message]
    assert faults[0].keys == (key.decode(),)


@pytest.mark.parametrize("generation", [1, 2, 4, 1_000])
def test_a_wrong_generation_is_found(forge, generation):
    assert forge.head().generation == 2
    forge.commit(forge.head().tree[0], generation=generation)
    messages = [fault.message for fault in check(forge, deep=False)]
    assert len(messages) == 1
    assert f"has generation {generation}" in messages[0]


def commit_fields(forge):
    head = forge.head()
    return [head.tree[0], [head.oid], head.generation + 1, None, None, forge.codec]


def as_commit(fields, parents=1, more=b""):
    return struct.pack("<BBH", 3, 1, parents) + pack(fields) + more


def test_a_commit_in_another_form_is_found(forge):
    fields = commit_fields(forge)
    packed = pack(fields)
    longer = packed.replace(pack(fields[2]), b"\xcd" + struct.pack(">H", fields[2]), 1)
    assert longer != packed
    head = struct.pack("<BBH", 3, 1, 1)
    forms = {
        "long integer": head + longer,
        "trailing byte": as_commit(fields, more=b"\0"),
        "one parent too many": as_commit(fields, parents=2),
        "a field too many": as_commit([*fields, 1]),
        "no generation": as_commit([*fields[:2], 0, *fields[3:]]),
        "short oid": as_commit([fields[0][:31], *fields[1:]]),
        "next version": b"\3\2" + as_commit(fields)[2:],
    }
    start = forge.repo.refs.get("heads/main")
    for name, payload in forms.items():
        forge.commit_bytes(payload)
        faults = check(forge)
        assert [fault.commit for fault in faults] == [oid_of(payload).hex()], name
        assert kinds(faults) <= {"malformed", "mismatch"}
        forge.repo.refs.move("heads/main", forge.repo.refs.get("heads/main"), start, "back")
        forge.backend.sweep(lambda sweep: sweep.trim_reflog("heads/main", 0))
    assert check(forge) == []


def test_missing_parents_and_trees_are_found_with_the_way_there(forge):
    lost = bytes(range(32))
    one = forge.commit(lost)
    (fault,) = check(forge)
    assert (fault.kind, fault.commit, fault.oid, fault.slots) == ("missing", one, lost.hex(), ())
    assert fault.heads == fault.refs == ("heads/main",)
    forge.commit(forge.repo.store.read_commit(forge.head().parents[0][0]).tree[0])
    (fault,) = check(forge)
    assert (fault.refs, fault.heads) == (("heads/main",), ())
    payload = encode_commit(forge.head().tree[0], (lost,), 2, None, None, forge.codec)
    forge.commit_bytes(payload)
    assert ("missing", lost.hex()) in [(fault.kind, fault.commit) for fault in check(forge)]


# --- in LMDB: places and tables


@pytest.fixture
def path(tmp_path):
    """A store of a few commits, and its expected contents."""
    with Repo(tmp_path / "store", shape=SMALL) as repo:
        work = repo.worktree()
        work.update(KEYS)
        work.commit()
        work["d1/1"] = "b" * 200
        work["d1/6"] = "c" * 200
        work.commit()
        repo.tags.create("v1")
    return tmp_path / "store"


def places_of_kinds(raw):
    found = {}
    for place, body in raw.bodies().items():
        found.setdefault(body[0], []).append(place)
    return found


def faults_at(path, deep=True):
    with Repo(path) as repo:
        return list(repo.check(deep))


def read_all(path):
    with Repo(path) as repo:
        work = repo.worktree()
        for key in KEYS:
            assert work.raw[key] is not None
        for _ in work.items():
            pass
        for _ in repo.log():
            pass


def test_two_records_that_were_swapped_are_found_and_never_read(path):
    with raw_store(path) as raw:
        leaves = places_of_kinds(raw)[node.LEAF]
        one, other = leaves[3], leaves[-3]
        first, second = raw.get("records", one), raw.get("records", other)
        raw.put("records", one, second)
        raw.put("records", other, first)
    for deep in (True, False):
        found = {fault.place: fault.kind for fault in faults_at(path, deep)}
        assert set(found.values()) == {"damaged"}
        assert int.from_bytes(other, "little") in found
    with pytest.raises(KvgitHamtError):
        read_all(path)


@pytest.mark.parametrize("kind", [node.LEAF, node.INNER, node.COMMIT, node.BLOB])
def test_a_deleted_record_of_each_kind_is_found_and_no_key_is_absent(path, kind):
    with raw_store(path) as raw:
        place = places_of_kinds(raw)[kind][-1]
        raw.delete("records", place)
    number = int.from_bytes(place, "little")
    for deep in (True, False):
        assert ("missing", number) in [(fault.kind, fault.place) for fault in faults_at(path, deep)]
    with pytest.raises(KvgitHamtError):
        read_all(path)


def test_a_record_that_lies_twice_is_garbage_and_no_fault(path):
    with raw_store(path) as raw:
        place, body = next((place, body) for place, body in raw.bodies().items() if body[0] == node.LEAF)
        raw.append(oid_of(body), body)
        assert raw.get("records", place)
    with Repo(path) as repo:
        result = repo.check().result()
    assert result.is_sound
    assert result.unreached_count == 1
    read_all(path)


def test_an_object_of_another_kind_under_a_right_checksum_is_found(path):
    with raw_store(path) as raw:
        bodies = raw.bodies()
        leaf = next(place for place, body in bodies.items() if body[0] == node.LEAF)
        raw.put_sealed(leaf, oid_of(bodies[leaf]), b"\4\1" + bodies[leaf])
    assert "altered" in kinds(faults_at(path))
    assert kinds(faults_at(path, deep=False)) == {"mismatch"}


def test_a_leaf_with_another_value_under_its_old_oid_is_seen_by_the_deep_check_alone(path):
    with raw_store(path) as raw:
        bodies = raw.bodies()
        place = next(place for place, body in bodies.items() if body[0] == node.LEAF and b"vvvvvvvv" in body)
        raw.put_sealed(place, oid_of(bodies[place]), bodies[place].replace(b"vvvvvvvv", b"vvvwvvvv"))
    assert kinds(faults_at(path)) == {"altered"}
    assert faults_at(path, deep=False) == [], "the control: a checksum is no oid"


def test_places_that_lead_to_another_record_are_found(path):
    with raw_store(path) as raw:
        bodies = raw.bodies()
        inner = [place for place, body in bodies.items() if body[0] == node.INNER and body[3] > 1][-1]
        body = bodies[inner]
        payload, places = body[: node.inner_payload_length(body)], body[node.inner_payload_length(body) :]
        raw.put_sealed(inner, oid_of(payload), payload + places[8:16] + places[:8] + places[16:])
    for deep in (True, False):
        assert {"damaged"} == kinds(faults_at(path, deep))


def test_an_inner_node_without_its_places_is_found(path):
    with raw_store(path) as raw:
        bodies = raw.bodies()
        inner = [place for place, body in bodies.items() if body[0] == node.INNER][-1]
        payload = bodies[inner][: node.inner_payload_length(bodies[inner])]
        raw.put_sealed(inner, oid_of(payload), payload)
    assert any("has no places" in fault.message for fault in faults_at(path, deep=False))


@pytest.mark.parametrize("table", ["commits", "blobs", "nodes"])
@pytest.mark.parametrize("how", ["elsewhere", "nowhere", "gone", "short"])
def test_index_entries_that_are_wrong_are_found(path, table, how):
    with raw_store(path) as raw:
        rows = raw.rows(table)
        oid, place = rows[0]
        if how == "elsewhere":
            raw.put(table, oid, rows[1][1])
        elif how == "nowhere":
            raw.put(table, oid, (1 << 40).to_bytes(8, "little"))
        elif how == "short":
            raw.put(table, oid, place[:4])
        else:
            raw.delete(table, oid)
    found = kinds(faults_at(path, deep=False))
    if how == "gone" and table != "commits":
        assert found == set()  # only more may be stored twice
    else:
        assert found & {"index", "damaged", "missing"}, found


def test_state_that_does_not_fit_the_tables_is_found(path):
    with raw_store(path) as raw:
        raw.put("records", (1 << 50).to_bytes(8, "little"), b"x" * 20)
        raw.put("reflog", b"heads/main\0" + (1 << 50).to_bytes(8, "big"), b"y" * 20)
        raw.put("meta", b"other", b"z" * 20)
        raw.put("touches", b"main\0" + bytes(16), bytes(16))
    faults = faults_at(path, deep=False)
    assert [fault.kind for fault in faults].count("row") == 2
    messages = " ".join(fault.message for fault in faults)
    for part in ("past the next", "reflog entry has number", "meta value", "table touches"):
        assert part in messages


def test_a_damaged_reservation_is_found(path):
    with Repo(path) as repo:  # opening a store looks at them too
        first = repo.store.backend.reserve(10)

        def damage(txn, tables, state):
            txn.put(b"+" + first.to_bytes(8, "big"), bytes(48), db=tables.main)
            return state, None

        repo.store.backend._write(damage)
        assert [fault.kind for fault in repo.check(deep=False)] == ["row"]


def test_damage_to_lmdbs_pages_is_found(path, tmp_path):
    data = bytearray((path / "data.mdb").read_bytes())
    found = 0
    for page in range(2, len(data) // 4096):
        copy = tmp_path / f"copy{page}"
        shutil.copytree(path, copy)
        broken = bytearray(data)
        broken[page * 4096] ^= 1  # its own number
        (copy / "data.mdb").write_bytes(broken)
        try:
            found += "structure" in kinds(faults_at(copy))
        except KvgitHamtError:
            found += 1
        shutil.rmtree(copy)
        if page > 40:
            break
    assert found > 10
    assert faults_at(path) == [], "the control: without damage none is found"


# --- anything


def altered(rng, payload):
    """A payload with something changed, cut out or put in."""
    data = bytearray(payload)
    for _ in range(rng.choice([1, 1, 1, 2])):
        at = rng.randrange(len(data)) if rng.random() < 0.6 else rng.randrange(min(40, len(data)))
        what = rng.randrange(5)
        if what == 0:
            data[at] = rng.randrange(256)
        elif what == 1:
            data[at] ^= 1 << rng.randrange(8)
        elif what == 2:
            data[at] = (data[at] + rng.choice([1, -1])) % 256
        elif what == 3:
            del data[at : at + rng.randrange(1, 5)]
        else:
            data[at:at] = rng.randbytes(rng.randrange(1, 5))
    return bytes(data)


def is_canonical(repo):
    """Whether main's tree is what the definition makes of its contents; False if they cannot be read."""
    store = repo.store
    tree = repo.read_head("main").tree
    try:
        found = list(scan.items(store, store.shape, Tree(*tree)))
        entries = {key: store.load_value(value) for key, value in found}
        are_keys = all(key.decode().encode() == key for key in entries)
    except (KvgitHamtError, UnicodeDecodeError):
        return False
    return are_keys and len(found) == len(entries) and naive_root(store.shape, entries) == tree[0]


@pytest.mark.slow
def test_the_deep_check_accepts_what_the_definition_makes_and_nothing_else():
    """The oracle is the definition of the format, written a second time."""
    rng = random.Random(44)
    repo = Repo(None, shape=SMALL)
    repo.worktree().commit()
    forge = Forge(repo)
    work = repo.worktree()
    work.update(dict(list(KEYS.items())[:60]) | {"d0/big": "b" * 100})
    work.commit()
    start = repo.refs.get("heads/main")
    count = pick(700, 100_000)
    found = sound = unseen = 0
    for _ in range(count):
        slots = forge.slots_of(rng.choice(list(KEYS)[:60]))
        slots = slots[: rng.randrange(len(slots) + 1)]
        payload = forge.way(slots)[-1]
        claim = stats_of(payload)
        changed = altered(rng, payload)
        with suppress(Exception):  # whatever bytes that are no node make of it
            new = stats_of(changed)
            claim = new if rng.random() < 0.5 and max(new) < 1 << 63 else claim
        try:
            forge.replace(slots, changed, claim)
        except (struct.error, CorruptionError):  # figures that no parent could say
            continue
        deep = check(forge)
        unseen += not check(forge, deep=False)
        if is_canonical(repo):
            assert not deep, (changed, payload, [str(fault) for fault in deep])
            sound += 1
        else:
            assert deep, (changed, payload)
            found += 1
        repo.refs.move("heads/main", repo.refs.get("heads/main"), start, "back")
        forge.backend.sweep(lambda sweep: sweep.trim_reflog("heads/main", 0))
    assert found > count // 2
    assert unseen > sound, "the control: the quick check misses some"
    record("C4", forged=found, sound=sound, violations=0, control_failed=unseen - sound)
