"""Each format: every value that it can hold comes back as it was, and what it cannot hold is named."""

from __future__ import annotations

import io
import json
import math
import os
import sqlite3
import string
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvgit_hamt import Repo, Worktree
from kvgit_hamt.codec import Undecoded
from kvgit_hamt.errors import InvalidInputError, SourceError
from kvgit_hamt.interchange import (
    Csv,
    Files,
    JsonLines,
    LmdbTable,
    MsgpackStream,
    SqliteTable,
    bytes_of,
    load,
    text_of,
    write_csv,
    write_files,
    write_jsonl,
    write_lmdb,
    write_msgpack,
    write_sqlite,
)
from kvgit_hamt.interchange.jsonl import tagged, untagged

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
NUMBERS = st.integers(-(1 << 63), (1 << 64) - 1) | st.floats(allow_nan=False)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS | st.binary(max_size=20)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            TEXTS | st.integers(-9, 9) | st.sampled_from(["$bytes", "$map", "$x"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)
ROWS = st.dictionaries(TEXTS, VALUES, max_size=8)


@pytest.fixture
def work() -> Iterator[Worktree]:
    with Repo() as repo:
        yield repo.worktree()


def loaded(source: Any, codec: str = "msgpack") -> dict[str, Any]:
    with Repo(codec=codec) as repo:
        tree = repo.worktree()
        load(tree, source)
        return dict(tree.items())


def holding(items: dict[str, Any]) -> Worktree:
    tree = Repo().worktree()
    tree.update(items)
    tree.commit()
    return tree


# bytes as text


@given(st.binary(max_size=30))
def test_any_bytes_have_a_text_that_gives_them_again(data):
    text = text_of(data)
    text.encode()
    assert bytes_of(text) == data


@given(st.text(st.sampled_from("\0f0eé/"), max_size=12))
def test_a_text_is_that_of_its_bytes_or_of_none(text):
    try:
        data = bytes_of(text)
    except ValueError:
        return
    assert text_of(data) == text


def test_texts_of_paths():
    assert text_of(b"dir/caf\xe9") == "dir/caf\0e9"
    assert text_of("dir/café".encode()) == "dir/café"
    assert text_of(b"\0") == "\x0000"
    assert text_of(b"\x00ff") == "\x0000ff" != text_of(b"\xff") == "\x00ff"
    for wrong in ("\0", "\0e", "\0E9", "a\x0061", "\x00c3\x00a9", "\ud800"):
        with pytest.raises(ValueError, match=r"text of no bytes|surrogates"):
            bytes_of(wrong)


# JSON lines


@settings(max_examples=60)
@given(ROWS)
def test_json_lines_hold_every_value(items):
    out = io.BytesIO()
    assert write_jsonl(holding(items), out) == len(items)
    for line in out.getvalue().splitlines():
        json.loads(line, parse_constant=pytest.fail)
    assert loaded(JsonLines(io.BytesIO(out.getvalue()))) == items


def test_json_lines_hold_numbers_that_json_lacks():
    items = {"nan": math.nan, "inf": [math.inf, -math.inf], "zero": -0.0}
    out = io.BytesIO()
    write_jsonl(holding(items), out)
    found = loaded(JsonLines(io.BytesIO(out.getvalue())))
    assert math.isnan(found["nan"])
    assert found["inf"] == items["inf"]
    assert math.copysign(1, found["zero"]) == -1


def test_tags():
    assert tagged({"$bytes": 1}) == {"$map": [["$bytes", 1]]}
    assert tagged({"$a": 1, "b": b"x"}) == {"$a": 1, "b": {"$bytes": "eA=="}}
    assert tagged({1: 2}) == {"$map": [[1, 2]]}
    assert untagged(tagged(Undecoded(b"\xff"))) == Undecoded(b"\xff")
    with pytest.raises(TypeError, match="no plain data"):
        tagged({"a": {1, 2}})
    for wrong in ({"$bytes": "?"}, {"$bytes": 1}, {"$float": "one"}, {"$map": 1}, {"$map": [[1]]}, {"$x": 1},
                  {"$map": [[[1], 2]]}):  # fmt: skip
        with pytest.raises(ValueError, match=r"does not hold|no meaning"):
            untagged(wrong)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{", "no JSON"), (b"nonsense", "no JSON: Expecting value .column 1"), (b'{"key":"a"}', "a line is"),
        (b'["a",1]', "a line is"), (b'{"key":"a","value":1,"more":2}', "a line is"),
        (b'{"key":null,"value":1}', "the key is null"), (b'{"key":1.5,"value":1}', "of type float"),
        (b'{"key":true,"value":1}', "of type bool"), (b'{"key":"a","value":NaN}', "NaN is not JSON"),
        (b'{"key":"\xff","value":1}', "no UTF-8: byte 0xff"), (b'{"key":"a","value":{"$x":1}}', "no meaning"),
        (b"[" * 100_000, "nested too deep"), (b'{"key":"a","value":1} x', "no JSON: Extra data"),
        (b'{"key":"a","value":' + b"9" * 5_000 + b"}", "line 3"),
    ],
)  # fmt: skip
def test_a_bad_line_of_json_is_told_by_its_number(work, line, why):
    data = b'{"key":"fine","value":1}\n\n' + line + b"\n"
    with pytest.raises(SourceError, match=why) as caught:
        load(work, JsonLines(io.BytesIO(data), name="x.jsonl"))
    assert caught.value.at == "line 3" or "rows" in caught.value.at
    assert len(work) == 0


def test_records_of_json(work):
    data = b'\xef\xbb\xbf{"id":7,"host":"a","x":1}\r\n  \n{"id":8,"host":"b","x":{"$bytes":"eA=="}}'
    load(work, JsonLines(io.BytesIO(data), key="id"))
    assert dict(work.items()) == {
        "7": {"host": "a", "x": 1}, "8": {"host": "b", "x": {"$bytes": "eA=="}},  # foreign data: no tags
    }  # fmt: skip
    assert loaded(JsonLines(io.BytesIO(data), key=("host", "id"))) == {
        "a/7": {"x": 1}, "b/8": {"x": {"$bytes": "eA=="}},
    }  # fmt: skip
    assert loaded(JsonLines(io.BytesIO(data), key="id", value="host")) == {"7": "a", "8": "b"}
    for options, why in [
        ({"key": "nope"}, "line 1: there is no field 'nope'; there are 'id', 'host', 'x'"),
        ({"key": "id", "value": "nope"}, "no field 'nope'"), ({"key": ("x", "id")}, "line 3: .*of type dict"),
    ]:  # fmt: skip
        with pytest.raises(SourceError, match=why):
            loaded(JsonLines(io.BytesIO(data), **options))
    with pytest.raises(SourceError, match="a record is an object, not an array"):
        loaded(JsonLines(io.BytesIO(b"[1]"), key="id"))
    with pytest.raises(SourceError, match="'a/b' holds a '/'"):
        loaded(JsonLines(io.BytesIO(b'{"a":"a/b","b":1}'), key=["a", "b"]))
    with pytest.raises(InvalidInputError, match="key is the name"):
        JsonLines(io.BytesIO(), key=())


def test_a_line_without_end_is_not_read_whole(work, monkeypatch):
    monkeypatch.setattr("kvgit_hamt.interchange.lines.LINE_MAX_BYTES", 1_000)
    with pytest.raises(SourceError, match="line 1: longer than"):
        load(work, JsonLines(io.BytesIO(b'{"key":"' + b"x" * 5_000 + b'","value":1}')))


def test_a_missing_file(tmp_path):
    for make in (JsonLines, MsgpackStream):
        with pytest.raises(SourceError, match="cannot be read: No such file"):
            make(tmp_path / "none")
    with pytest.raises(SourceError, match="cannot be read"):
        Csv(tmp_path / "none", key="a")
    with pytest.raises(SourceError, match="cannot be read: Is a directory"):
        loaded(JsonLines(tmp_path))


@pytest.mark.parametrize("write", [write_jsonl, write_msgpack, write_csv])
def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, write):
    path = tmp_path / "out"
    path.write_bytes(b"before")
    tree = holding({"a": 1})
    honest = tree.items

    def broken(prefix: str = "") -> Any:
        yield from honest(prefix)
        raise OSError(28, "No space left on device")

    tree.items = broken  # type: ignore[assignment, method-assign]
    with pytest.raises(SourceError, match="No space left"):
        write(tree, path, **({"columns": ["value"]} if write is write_csv else {}))
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["out"]
    tree.items = honest  # type: ignore[method-assign]
    assert write(tree, path) == 1
    assert path.read_bytes() != b"before"
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask()
    with pytest.raises(SourceError, match="cannot be written"):
        write(tree, tmp_path / "none/out")


def test_what_is_no_regular_file_is_written_into_and_links_stay(tmp_path):
    tree = holding({"a": 1})
    (tmp_path / "real").write_bytes(b"before")
    (tmp_path / "link").symlink_to("real")
    write_jsonl(tree, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b'{"key":"a","value":1}\n'
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_jsonl(tree, tmp_path / "pipe")
    assert os.read(reader, 100) == b'{"key":"a","value":1}\n'
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()
    with pytest.raises(SourceError, match="cannot be written: Is a directory"):
        write_jsonl(tree, tmp_path)


@settings(max_examples=150)
@given(
    st.binary(max_size=60)
    | st.lists(st.sampled_from([b'{"key":', b'"a"', b',"value":', b"1", b"}", b"\n", b",", b'"', b"\r", b"[",
                                b"\x92\xa1a", b"\xc1", b"\x01", b"\xff", b"\0", b'{"$bytes":', b"k,v"]),
               max_size=15)
    .map(b"".join),
)  # fmt: skip
def test_no_bytes_give_anything_but_rows_or_an_error_with_a_place(data):
    for source in (
        JsonLines(io.BytesIO(data)), JsonLines(io.BytesIO(data), key="key"), MsgpackStream(io.BytesIO(data)),
        MsgpackStream(io.BytesIO(data), key="key"), Csv(io.BytesIO(data), key="k"),
        Csv(io.BytesIO(data), key="k", columns=["k"], typed=True),
    ):  # fmt: skip
        try:
            rows = list(source.rows())
        except SourceError as error:
            assert error.source == "standard input"
            continue
        assert all(type(key) is str for key, _ in rows)


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("write", [write_jsonl, write_msgpack, write_csv])
def test_exports_of_a_prefix(tmp_path, write):
    tree = holding({"a/1": {"n": 1}, "a/2": {"n": 2}, "b/1": {"n": 3}})
    steps: list[Any] = []
    assert write(tree, tmp_path / "out", prefix="a/", strip=True, progress=steps.append) == 2
    source = {
        write_jsonl: lambda path: JsonLines(path), write_msgpack: lambda path: MsgpackStream(path),
        write_csv: lambda path: Csv(path, key="key", typed=True),
    }[write]  # fmt: skip
    assert loaded(source(tmp_path / "out")) == {"1": {"n": 1}, "2": {"n": 2}}
    assert steps[-1].rows == 2


# CSV

CELLS = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)


@settings(max_examples=60)
@given(st.dictionaries(CELLS.filter(bool), st.tuples(CELLS, CELLS), max_size=8))
def test_csv_holds_texts_of_any_sort(rows):
    items = {key: {"a": one, "b,\n": two} for key, (one, two) in rows.items()}
    out = io.BytesIO()
    if not items:
        return
    if sys.version_info < (3, 11) and any("\0" in cell for row in rows.items() for cell in (row[0], *row[1])):
        with pytest.raises(SourceError):  # the csv module of Python 3.10 has no NUL
            write_csv(holding(items), out)
            loaded(Csv(io.BytesIO(out.getvalue()), key="key"))
        return
    write_csv(holding(items), out)
    assert loaded(Csv(io.BytesIO(out.getvalue()), key="key")) == items


def test_csv_typed():
    data = (
        b"k,v\na,1\nb,-2.5\nc,\nd,true\ne,007\nf,1_000\ng,nan\nh,1e3\ni,+1\nj,TRUE\nk,99999999999999999999\n"
    )
    try:
        loaded(Csv(io.BytesIO(data), key="k", value="v", typed=True))
    except SourceError as error:
        assert "beyond 64 bits" in str(error)
    found = loaded(Csv(io.BytesIO(data[:-23]), key="k", value="v", typed=True))
    assert math.isnan(found.pop("g"))
    assert found == {"a": 1, "b": -2.5, "c": None, "d": True, "e": "007", "f": "1_000", "h": "1e3", "i": "+1",
                     "j": "TRUE"}  # fmt: skip


@settings(max_examples=40)
@given(
    st.dictionaries(
        st.text(string.ascii_letters, min_size=1), NUMBERS | st.booleans() | st.none(), max_size=6
    )
)
def test_csv_gives_numbers_back(fields):
    if not fields or "key" in fields:
        return
    out = io.BytesIO()
    write_csv(holding({"r": fields}), out)
    assert loaded(Csv(io.BytesIO(out.getvalue()), key="key", typed=True)) == {"r": fields}


@pytest.mark.parametrize(
    ("data", "options", "why"),
    [
        (b"", {}, "is empty"), (b"k,v\na\n", {}, "line 2: 1 fields where there are 2"),
        (b"k,v\na,1\nb,1,2\n", {}, "line 3: 3 fields where there are 2"),
        (b"k,v,v\n", {}, "two columns have the name 'v'"),
        (b"x,v\n", {}, "no column 'k'; there are 'x', 'v'"),
        (b'k,v\na,"1"2\n', {}, "line 2: no CSV"), (b'k,v\na,"1\n2\n', {}, "line 3: no CSV: unexpected end"),
        (b"k,v\na,\xff\n", {}, "line 2: no UTF-8"), (b"k,v\n", {"value": "w"}, "no column 'w'"),
        (b"k,v\na/b,1\n", {"key": ["k", "v"]}, "line 2: 'a/b' holds a '/'"),
    ],
)  # fmt: skip
def test_a_bad_row_of_csv_is_told(work, data, options, why):
    with pytest.raises(SourceError, match=why):
        load(work, Csv(io.BytesIO(data), **{"key": "k", **options}))
    assert len(work) == 0


def test_csv_of_other_forms():
    tabs = b"k\tv\r\na\t'x\ty'\r\n\r\n"
    assert loaded(Csv(io.BytesIO(tabs), key="k", delimiter="\t", quote="'")) == {"a": {"v": "x\ty"}}
    bare = b"a,1\nb,2\n"
    assert loaded(Csv(io.BytesIO(bare), key="k", columns=["k", "v"])) == {"a": {"v": "1"}, "b": {"v": "2"}}
    assert loaded(Csv(io.BytesIO(b"\xef\xbb\xbfk,v\na,1\n"), key="k", value="v")) == {"a": "1"}
    big = "x" * 300_000
    assert loaded(Csv(io.BytesIO(f'k,v\na,"{big}"\n'.encode()), key="k", value="v")) == {"a": big}
    for wrong in ({"delimiter": ",,"}, {"delimiter": "\n"}, {"quote": "é"}, {"key": []}, {"key": None}):
        with pytest.raises(InvalidInputError):
            Csv(io.BytesIO(), **{"key": "k", **wrong})


def test_csv_that_cannot_be_written(tmp_path):
    for items, why in [
        ({"a": {"b": b"x"}}, "key 'a': a value of type bytes"), ({"a": [1]}, "of type list"),
        ({"a": {"key": 1}}, "called 'key' too"), ({"a": {1: 2}}, "name is 1, no text"),
    ]:  # fmt: skip
        with pytest.raises(SourceError, match=why):
            write_csv(holding(items), tmp_path / "out.csv")
    assert os.listdir(tmp_path) == []
    out = io.BytesIO()
    write_csv(holding({"a": {"key": 1, "z": None}, "b": 7}), out, key="id", columns=["z", "key", "value"])
    assert sorted(out.getvalue().decode().splitlines()) == ["a,,1,", "b,,,7", "id,z,key,value"]


# msgpack


@settings(max_examples=60)
@given(ROWS)
def test_msgpack_holds_every_value(items):
    out = io.BytesIO()
    assert write_msgpack(holding(items), out) == len(items)
    assert loaded(MsgpackStream(io.BytesIO(out.getvalue()))) == items


def test_records_of_msgpack():
    data = b"".join(map(msgpack.packb, [{"id": 1, "x": b"a"}, {"id": "z", "x": None}]))
    assert loaded(MsgpackStream(io.BytesIO(data), key="id")) == {"1": {"x": b"a"}, "z": {"x": None}}
    assert loaded(MsgpackStream(io.BytesIO(data), key="id", value="x")) == {"1": b"a", "z": None}
    with pytest.raises(InvalidInputError, match="value goes with key"):
        MsgpackStream(io.BytesIO(data), value="x")


@pytest.mark.parametrize(
    ("data", "options", "why"),
    [
        (msgpack.packb(["a", 1]) + msgpack.packb(["b", "x"])[:-1], {}, "object 2, at byte 4: the file ends"),
        (msgpack.packb(["a", 1]) + b"\xc1", {}, "object 2, at byte 4: no msgpack"),
        (msgpack.packb(["a", msgpack.ExtType(5, b"")]), {}, "extension of type 5"),
        (msgpack.packb(["a", msgpack.Timestamp(0)]), {}, "Timestamp"),
        (msgpack.packb(["a"]), {}, "object 1: an object is an array of key and value"),
        (msgpack.packb({"a": 1}), {}, "is an array of key and value"),
        (msgpack.packb([None, 1]), {}, "key is null"),
        (msgpack.packb([b"a", 1]), {}, "of type bytes"),
        (msgpack.packb({"a": 1}), {"key": "b"}, "no field 'b'"),
        (msgpack.packb([1]), {"key": "b"}, "a record is a map"), (b"\x91" * 5_000, {}, "object 1"),
        (b"\xa1\xff", {}, "object 1"),
    ],
)  # fmt: skip
def test_a_bad_object_of_msgpack_is_told(work, data, options, why):
    with pytest.raises(SourceError, match=why):
        load(work, MsgpackStream(io.BytesIO(data), **options))
    assert len(work) == 0


def test_objects_over_block_borders(tmp_path, monkeypatch):
    monkeypatch.setattr("kvgit_hamt.interchange.msgpackfile.BLOCK_BYTES", 7)
    items = {str(n): "x" * n for n in range(50)}
    write_msgpack(holding(items), tmp_path / "a")
    assert loaded(MsgpackStream(tmp_path / "a")) == items


# LMDB


@settings(max_examples=25)
@given(st.dictionaries(TEXTS.filter(lambda text: text and "\0" not in text), VALUES, max_size=8))
def test_lmdb_holds_every_value_as_msgpack(tmp_path_factory, items):
    path = tmp_path_factory.mktemp("lmdb") / "env"
    assert write_lmdb(holding(items), path, values="msgpack") == len(items)
    assert loaded(LmdbTable(path, values="msgpack")) == items


def plain_lmdb(path: Path, db: bytes | None = None, **options: Any) -> Any:
    env = lmdb.open(str(path), max_dbs=4)
    return env, env.open_db(db, **options)


def test_an_lmdb_that_somebody_else_made(tmp_path):
    env, _ = plain_lmdb(tmp_path / "env")
    with env.begin(write=True) as txn:
        txn.put(b"a", b"\xff")
        txn.put(b"\xff\x00", b"odd")
        txn.put(b"caf\xc3\xa9", b"")
    env.close()
    assert loaded(LmdbTable(tmp_path / "env")) == {"a": b"\xff", "\0ff\x0000": b"odd", "café": b""}
    assert set(loaded(LmdbTable(tmp_path / "env" / "data.mdb", keys="hex"))) == {"61", "ff00", "636166c3a9"}
    with pytest.raises(SourceError, match=r"key b'a': .*invalid start byte"):
        loaded(LmdbTable(tmp_path / "env", values="text"))
    with pytest.raises(SourceError, match="there is no database of this name"):
        loaded(LmdbTable(tmp_path / "env", db="none"))


def test_named_databases_several_values_and_integer_keys(tmp_path):
    env, _ = plain_lmdb(tmp_path / "env", b"names", dupsort=True)
    with env.begin(write=True) as txn:
        for value in (b"2", b"1", b"3"):
            txn.put(b"k", value, db=env.open_db(b"names", txn=txn, dupsort=True))
        numbers = env.open_db(b"numbers", txn=txn, integerkey=True)
        txn.put((7).to_bytes(8, "little"), b"seven", db=numbers)
    env.close()
    assert loaded(LmdbTable(tmp_path / "env", db="names", values="json")) == {"k": [1, 2, 3]}
    assert loaded(LmdbTable(tmp_path / "env", db="numbers")) == {"7": b"seven"}
    with pytest.raises(SourceError, match=r"key b'names': is a database; name one"):
        loaded(LmdbTable(tmp_path / "env"))


def test_what_is_no_lmdb(tmp_path):
    with pytest.raises(SourceError, match="no LMDB environment"):
        loaded(LmdbTable(tmp_path))
    (tmp_path / "data.mdb").write_bytes(b"x" * 10_000)
    with pytest.raises(SourceError, match="cannot be opened"):
        loaded(LmdbTable(tmp_path))
    with Repo(tmp_path / "store"):
        pass
    with pytest.raises(SourceError, match="a store of this library"):
        loaded(LmdbTable(tmp_path / "store"))
    env, _ = plain_lmdb(tmp_path / "env")
    with env.begin(write=True) as txn:
        for number in range(500):
            txn.put(b"%d" % number, b"x" * 200)
    env.close()
    data = tmp_path / "env/data.mdb"
    os.truncate(data, data.stat().st_size // 2)
    with pytest.raises(SourceError, match="was cut"):  # to read on would end the process
        loaded(LmdbTable(tmp_path / "env"))
    for wrong in ({"keys": "int"}, {"values": "pickle"}):
        with pytest.raises(InvalidInputError):
            LmdbTable(tmp_path, **wrong)  # type: ignore[arg-type]


def test_an_lmdb_is_not_written_into(tmp_path):
    env, _ = plain_lmdb(tmp_path / "env")
    with env.begin(write=True) as txn:
        txn.put(b"a", b"1")
    env.close()
    before = (tmp_path / "env/data.mdb").read_bytes()
    loaded(LmdbTable(tmp_path / "env"))
    assert (tmp_path / "env/data.mdb").read_bytes() == before


def test_what_lmdb_cannot_hold(tmp_path):
    for items, why in [
        ({"": b"x"}, "1 to 511 bytes"), ({"x" * 512: b"x"}, "1 to 511 bytes"),
        ({"a": 1}, "key 'a': a value of type"),
        ({"\0zz": b"x"}, "the text of no bytes"),
    ]:  # fmt: skip
        with pytest.raises(SourceError, match=why):
            write_lmdb(holding(items), tmp_path / "env")
    assert os.listdir(tmp_path) == []
    with pytest.raises(SourceError, match=r"key 'zz': non-hexadecimal"):
        write_lmdb(holding({"zz": b"x"}), tmp_path / "env", keys="hex")
    with pytest.raises(SourceError, match="two keys have these bytes"):
        write_lmdb(holding({"aa": b"x", "AA": b"y"}), tmp_path / "env", keys="hex")
    (tmp_path / "env").mkdir()
    with pytest.raises(SourceError, match="exists"):
        write_lmdb(holding({}), tmp_path / "env")


def test_an_lmdb_larger_than_its_first_map(tmp_path, monkeypatch):
    monkeypatch.setattr("kvgit_hamt.interchange.lmdbfile.FIRST_MAP_BYTES", 1 << 20)
    items = {str(n): b"%d" % n * 3_000 for n in range(1_000)}
    write_lmdb(holding(items), tmp_path / "env", db="rows")
    assert loaded(LmdbTable(tmp_path / "env", db="rows")) == items


# SQLite

CELL = (
    st.none()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False)
    | TEXTS
    | st.binary(max_size=9)
)


@settings(max_examples=25)
@given(
    st.dictionaries(
        TEXTS, st.dictionaries(st.sampled_from(["a", "b c", 'd"', "é"]), CELL, min_size=1), max_size=8
    )
)
def test_sqlite_holds_flat_maps(tmp_path_factory, items):
    path = tmp_path_factory.mktemp("sqlite") / "db"
    write_sqlite(holding(items), path, 'ta"ble')
    columns = {name for fields in items.values() for name in fields}
    wanted = {key: {name: fields.get(name) for name in columns} for key, fields in items.items()}
    assert loaded(SqliteTable(path, 'ta"ble')) == wanted


def database(path: Path, script: str) -> Path:
    with sqlite3.connect(path) as db:
        db.executescript(script)
    db.close()
    return path


def test_tables_of_all_sorts(tmp_path):
    path = database(tmp_path / "a ?#%.db", """
        CREATE TABLE plain (id INTEGER PRIMARY KEY, name TEXT, pay REAL, photo BLOB);
        INSERT INTO plain VALUES (3, 'c', 1.5, x'ff'), (1, NULL, NULL, NULL);
        CREATE TABLE pair (a TEXT, b INTEGER, c, PRIMARY KEY (b, a)) WITHOUT ROWID;
        INSERT INTO pair VALUES ('x', 2, 'm'), ('y', 1, 'n');
        CREATE TABLE bare (name, value);
        INSERT INTO bare VALUES ('k', 1), ('l', 'two');
        CREATE TABLE named (rowid TEXT PRIMARY KEY, oid, _rowid_) WITHOUT ROWID;
        INSERT INTO named VALUES ('r', 1, 2);
        CREATE VIEW seen AS SELECT name, value FROM bare;
        CREATE TABLE empty (a PRIMARY KEY);
    """)  # fmt: skip
    assert loaded(SqliteTable(path, "plain")) == {
        "1": {"name": None, "pay": None, "photo": None}, "3": {"name": "c", "pay": 1.5, "photo": b"\xff"},
    }  # fmt: skip
    assert loaded(SqliteTable(path, "pair")) == {"2/x": {"c": "m"}, "1/y": {"c": "n"}}
    assert loaded(SqliteTable(path, "bare", key="name", value="value")) == {"k": 1, "l": "two"}
    assert loaded(SqliteTable(path, "named", value="oid")) == {"r": 1}
    view = SqliteTable(path, "seen", key="name")
    assert loaded(view) == {"k": {"value": 1}, "l": {"value": "two"}}
    assert not view.can_resume
    assert loaded(SqliteTable(path, "empty")) == {}
    for (table, options), why in {
        ("none", ()): "there is no such table; there are plain, pair", ("bare", ()): "has no primary key",
        ("bare", (("key", "x"),)): "no column 'x'", ("plain", (("key", "name"),)): "row 1: the key is null",
        ("plain", (("key", "pay"),)): "row 1: the key is null",
    }.items():  # fmt: skip
        with pytest.raises(SourceError, match=why):
            loaded(SqliteTable(path, table, **dict(options)))


def test_runs_over_tables_without_rowid_are_continued_too(work, tmp_path):
    rows = ", ".join(f"('{n % 3}', {n}, {n})" for n in range(50))
    path = database(tmp_path / "db", f"""
        CREATE TABLE t (a TEXT, b INTEGER, c, PRIMARY KEY (a, b)) WITHOUT ROWID; INSERT INTO t VALUES {rows};
    """)  # fmt: skip
    source = SqliteTable(path, "t")
    taken = source.rows()
    for _ in range(20):
        next(taken)
    place = source.position()
    taken.close()
    rest = list(SqliteTable(path, "t").rows(place))
    assert len(rest) == 30
    assert len({*dict(rest), *dict(list(SqliteTable(path, "t").rows())[:20])}) == 50


def test_what_is_no_sqlite(tmp_path):
    with pytest.raises(SourceError, match="there is no such file"):
        SqliteTable(tmp_path / "none", "t")
    (tmp_path / "text").write_text("no database, but long enough to be one " * 30)
    with pytest.raises(SourceError, match="file is not a database"):
        SqliteTable(tmp_path / "text", "t")
    path = database(
        tmp_path / "db",
        "CREATE TABLE t (k PRIMARY KEY, v); INSERT INTO t VALUES ('a', 1), ('b', CAST(x'ff' AS TEXT));",
    )
    with pytest.raises(SourceError, match=r"SQLite: .*UTF-8"):
        loaded(SqliteTable(path, "t"))


def test_what_sqlite_cannot_hold(tmp_path):
    path = tmp_path / "db"
    for items, why in [
        ({"a": {"b": [1]}}, "'b' is a list"), ({"a": {"b": 1 << 63}}, "key 'a': SQLite"),
        ({"a": [1]}, "list"),
        ({"a": {"x": 1, "X": 2}}, "cannot tell the columns"), ({"a": {"KEY": 1}}, "'KEY' and 'key' apart"),
        ({"a": {1: 1}}, "name is 1"),
    ]:  # fmt: skip
        with pytest.raises(SourceError, match=why):
            write_sqlite(holding(items), path, "t")
    assert not path.exists()
    database(path, "CREATE TABLE mine (a); INSERT INTO mine VALUES (1);")
    before = path.read_bytes()
    with pytest.raises(SourceError, match="already exists"):
        write_sqlite(holding({"a": 1}), path, "mine")
    with pytest.raises(SourceError, match="list"):
        write_sqlite(holding({"a": {"ok": 1}, "b": [1]}), path, "t")
    assert path.read_bytes() == before
    write_sqlite(holding({"a": [1], "b": {"x": None}}), path, "t", values="json")
    with sqlite3.connect(path) as db:
        assert sorted(db.execute("SELECT * FROM t")) == [("a", "[1]"), ("b", '{"x":null}')]
        assert list(db.execute("SELECT * FROM mine")) == [(1,)]
    db.close()


# files


def test_directories(tmp_path):
    top = tmp_path / "top"
    (top / "b/c").mkdir(parents=True)
    (top / "empty").mkdir()
    for name, data in {"a": b"1", "b/c/d": b"\xff", "b-x": b"", "b.x": b"2"}.items():
        (top / name).write_bytes(data)
    odd = os.path.join(os.fsencode(top), b"caf\xe9")
    with open(odd, "wb") as file:
        file.write(b"odd")
    wanted = {"a": b"1", "b/c/d": b"\xff", "b-x": b"", "b.x": b"2", "caf\0e9": b"odd"}
    assert loaded(Files(top)) == wanted
    assert write_files(holding(wanted), tmp_path / "back") == 5
    assert loaded(Files(tmp_path / "back")) == wanted
    assert os.path.exists(os.path.join(os.fsencode(tmp_path), b"back", b"caf\xe9"))
    with pytest.raises(SourceError, match="b/c/d: "):
        loaded(Files(top, values="text"))


def test_links_and_what_is_no_file(tmp_path):
    (tmp_path / "top").mkdir()
    (tmp_path / "outside").write_bytes(b"secret")
    (tmp_path / "top/a").write_bytes(b"1")
    (tmp_path / "top/link").symlink_to(tmp_path / "outside")
    with pytest.raises(SourceError, match="link: is a symbolic link"):
        loaded(Files(tmp_path / "top"))
    assert loaded(Files(tmp_path / "top", links="skip")) == {"a": b"1"}
    assert loaded(Files(tmp_path / "top", links="follow")) == {"a": b"1", "link": b"secret"}
    (tmp_path / "top/round").symlink_to(tmp_path / "top")
    with pytest.raises(SourceError, match="a link to a directory"):
        loaded(Files(tmp_path / "top", links="follow"))
    os.mkfifo(tmp_path / "top/pipe")
    with pytest.raises(SourceError, match="neither a file nor a directory"):
        loaded(Files(tmp_path / "top", links="skip"))
    with pytest.raises(SourceError, match="is no directory"):
        Files(tmp_path / "outside")
    with pytest.raises(InvalidInputError, match="links"):
        Files(tmp_path, links="maybe")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "keys", [["../out"], ["/etc/x"], ["a/../../b"], [""], ["a/"], ["a//b"], ["."], ["a", "a/b"], ["a\x0000b"],
             ["x" * 300], ["\0zz"]],
)  # fmt: skip
def test_keys_that_are_no_files_write_nothing(tmp_path, keys):
    with pytest.raises(SourceError, match="key "):
        write_files(holding(dict.fromkeys(keys, b"x")), tmp_path / "top")
    assert os.listdir(tmp_path) == []


def test_a_target_directory_that_is_there(tmp_path):
    with pytest.raises(SourceError, match="exists"):
        write_files(holding({}), tmp_path)
    with pytest.raises(SourceError, match=r"cannot be read|cannot be written"):
        write_files(holding({}), tmp_path / "no/where")


def test_contents_as_text_and_json(tmp_path):
    write_files(holding({"a": "é", "b": "x"}), tmp_path / "text", values="text")
    assert (tmp_path / "text/a").read_bytes() == "é".encode()
    assert loaded(Files(tmp_path / "text", values="text")) == {"a": "é", "b": "x"}
    write_files(holding({"a": {"x": [1]}}), tmp_path / "json", values="json")
    assert loaded(Files(tmp_path / "json", values="json")) == {"a": {"x": [1]}}
    for items, values, why in [
        ({"a": 1}, "bytes", "type int"), ({"a": 1}, "text", "type int"),
        ({"a": b"x"}, "json", "bytes, which JSON"),
        ({"a": math.nan}, "json", "JSON compliant|not JSON"), ({"a": {1: 1}}, "json", "map key of type int"),
    ]:  # fmt: skip
        with pytest.raises(SourceError, match=why):
            write_files(holding(items), tmp_path / "out", values=values)  # type: ignore[arg-type]
