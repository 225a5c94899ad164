"""Trees as tables of Arrow and pandas, and back: types, nulls, prefixes, what does not fit."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvgit_hamt import Repo, Worktree, tables
from kvgit_hamt.errors import InvalidInputError, MissingDependencyError, SourceError

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=9)
COLUMNS = [
    st.none() | st.booleans(), st.none() | st.integers(-(1 << 63), (1 << 63) - 1),
    st.none() | st.integers(0, (1 << 64) - 1), st.none() | st.floats(allow_nan=False), st.none() | TEXTS,
    st.none() | st.binary(max_size=9), st.none(),
]  # fmt: skip


@pytest.fixture
def work() -> Iterator[Worktree]:
    with Repo() as repo:
        yield repo.worktree()


def holding(items: dict[str, Any]) -> Worktree:
    tree = Repo().worktree()
    tree.update(items)
    tree.commit()
    return tree


@st.composite
def flat_maps(draw: Any) -> dict[str, dict[str, Any]]:
    names = [name for name in draw(st.lists(TEXTS, unique=True, max_size=4)) if name != "key"]
    kinds = {name: draw(st.sampled_from(COLUMNS)) for name in names}
    keys = draw(st.lists(TEXTS, unique=True, min_size=1, max_size=6))
    return {key: {name: draw(kind) for name, kind in kinds.items()} for key in keys}


@settings(max_examples=80)
@given(flat_maps())
def test_flat_maps_come_back_as_they_were(items):
    table = holding(items).to_arrow()
    again = Repo().worktree()
    again.from_arrow(table)
    assert dict(again.items()) == items
    assert {type(value) for row in again.values() for value in row.values()} == {
        type(value) for row in items.values() for value in row.values()
    }


def test_the_type_of_a_column_holds_all_its_values():
    items = {
        "a": {
            "bool": True,
            "int": -1,
            "big": 1 << 63,
            "float": 0.5,
            "mixed": 1,
            "text": "x",
            "bytes": b"x",
            "none": None,
        },
        "b": {
            "bool": None,
            "int": (1 << 63) - 1,
            "big": 0,
            "float": math.inf,
            "mixed": 0.5,
            "text": "",
            "bytes": b"",
        },
    }
    table = holding(items).to_arrow()
    assert table.schema.field("key") == pa.field("key", pa.string(), nullable=False)
    assert {field.name: field.type for field in table.schema} == {
        "key": pa.string(), "big": pa.uint64(), "bool": pa.bool_(), "bytes": pa.binary(),
        "float": pa.float64(), "int": pa.int64(), "mixed": pa.float64(), "none": pa.null(),
        "text": pa.string(),
    }  # fmt: skip
    assert table.schema.names == ["key", *sorted(set(items["a"]))]
    rows = {row.pop("key"): row for row in table.to_pylist()}
    assert rows == {"a": items["a"], "b": {**items["b"], "none": None}}


@pytest.mark.parametrize(
    ("items", "why"),
    [
        ({"a": {"x": 1}, "b": {"x": "1"}}, r"'x' holds .*int \(key 'a'\).*; give a schema"),
        ({"a": {"x": True}, "b": {"x": 1}}, "'x' holds"), ({"a": {"x": "s"}, "b": {"x": b"s"}}, "'x' holds"),
        ({"a": {"x": -1}, "b": {"x": 1 << 63}}, "ints from -1 to 9223372036854775808"),
        ({"a": {"x": 0.5}, "b": {"x": (1 << 53) + 1}}, "'x' holds"),
        ({"a": {"x": [1]}}, "key 'a': the field 'x' is a list; values are flat maps"),
        ({"a": {"x": {"y": 1}}}, "is a dict"), ({"a": {1: 2}}, "name is 1, no text"),
        ({"a": [1]}, "'value' is a list"),
        ({"a": {"key": 1}}, "a field is called 'key' too"),
    ],
)  # fmt: skip
def test_what_no_column_holds_is_named(items, why):
    with pytest.raises(SourceError, match=why):
        holding(items).to_arrow()


def test_scalars_are_a_column_of_their_own():
    assert holding({"a": 1, "b": None}).to_arrow().sort_by("key").to_pydict() == {
        "key": ["a", "b"], "value": [1, None],
    }  # fmt: skip
    work = Repo().worktree()
    work.from_arrow(pa.table({"key": ["a", "b"], "value": [1, None], "x": [1, 2]}), value="value")
    assert dict(work.items()) == {"a": 1, "b": None}


def test_prefixes_names_and_old_states(work):
    work.update({"p/1": {"x": 1}, "p/2": {"x": 2}, "q/1": {"y": 3}})
    work.commit()
    first = work.base
    work["p/1"] = {"x": 9}
    work.commit()
    view = work.repo.snapshot(commit=first)
    table = view.to_arrow(prefix="p/", strip=True, key="id").sort_by("id")
    assert table.to_pydict() == {"id": ["1", "2"], "x": [1, 2]}
    other = Repo().worktree()
    other.from_arrow(table, key="id", prefix="new/", info={"message": "why"})
    assert dict(other.items()) == {"new/1": {"x": 1}, "new/2": {"x": 2}}
    assert other.repo.get_commit("main").info == {"message": "why"}


def test_pending_edits_are_in_the_table_of_a_worktree(work):
    work["a"] = {"x": 1}
    assert work.to_arrow().to_pydict() == {"key": ["a"], "x": [1]}


def test_an_empty_tree_and_an_empty_table(work):
    assert work.to_arrow().to_pydict() == {"key": []}
    work.from_arrow(pa.table({"key": pa.array([], pa.string()), "x": pa.array([], pa.int64())}))
    assert len(work) == 0


def test_batches_stream(work):
    work.update({f"d/{n}": {"n": n, "text": "x" * 50} for n in range(2_500)})
    work.commit()
    reader = work.repo.snapshot().arrow_batches(batch_rows=1_000)
    assert [batch.num_rows for batch in reader] == [1_000, 1_000, 500]
    seen: list[int] = []

    def given() -> Iterator[pa.RecordBatch]:
        for number in range(5):
            seen.append(number)
            yield pa.record_batch({"key": [f"{number}/{n}" for n in range(100)], "n": list(range(100))})

    schema = pa.schema([("key", pa.string()), ("n", pa.int64())])
    work.from_arrow(pa.RecordBatchReader.from_batches(schema, given()))
    assert seen == [0, 1, 2, 3, 4]
    assert len(work) == 3_000
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(InvalidInputError, match="batch_rows"):
            work.to_arrow(batch_rows=wrong)


def test_a_schema_chooses_fields_and_types():
    tree = holding({"a": {"x": 1, "y": "s", "z": [1, 2]}, "b": {"x": None}})
    schema = pa.schema([("x", pa.int8()), ("none", pa.string()), ("z", pa.list_(pa.int64()))])
    table = tree.to_arrow(schema=schema).sort_by("key")
    assert table.to_pydict() == {"key": ["a", "b"], "x": [1, None], "none": [None, None], "z": [[1, 2], None]}
    assert table.schema.field("x").type == pa.int8()
    for field, why in [(("x", pa.string()), "'x' is no string"), (("y", pa.int64()), "'y' is no int64")]:
        with pytest.raises(SourceError, match=f"key 'a': the field {why}"):
            tree.to_arrow(schema=pa.schema([field]))
    with pytest.raises(SourceError, match="key 'a': the field 'x' is no int8"):
        holding({"a": {"x": 300}}).to_arrow(schema=schema)
    with pytest.raises(InvalidInputError, match=r"schema is a pyarrow\.Schema"):
        tree.to_arrow(schema=["x"])


@pytest.mark.parametrize(
    ("column", "wanted"),
    [
        (pa.array([1, None], pa.int8()), [1, None]), (pa.array([1, 2], pa.uint64()), [1, 2]),
        (pa.array([0.5, None], pa.float32()), [0.5, None]),
        (pa.array([0.5, 1.0]).cast(pa.float16()), [0.5, 1.0]),
        (pa.array(["a", None], pa.large_string()), ["a", None]),
        (pa.array([b"a", b""], pa.large_binary()), [b"a", b""]),
        (pa.array([b"ab", b"cd"], pa.binary(2)), [b"ab", b"cd"]),
        (pa.array(["a", "a"]).dictionary_encode(), ["a", "a"]),
        (pa.array([True, None]), [True, None]), (pa.nulls(2), [None, None]),
    ],
    ids=lambda each: str(each.type) if hasattr(each, "type") else "",
)  # fmt: skip
def test_columns_that_values_can_hold(work, column, wanted):
    work.from_arrow(pa.table({"key": ["a", "b"], "x": column}))
    assert [work["a"]["x"], work["b"]["x"]] == wanted
    assert {type(work[key]["x"]) for key in "ab"} == {type(value) for value in wanted}


@pytest.mark.parametrize(
    "column", [pa.array([0], pa.timestamp("us")), pa.array([Decimal(1)]), pa.array([[1]]),
               pa.array([{"a": 1}]), pa.array([0], pa.date32()), pa.array([0], pa.duration("s"))],
    ids=lambda column: str(column.type),
)  # fmt: skip
def test_columns_that_values_cannot_hold_are_named(work, column):
    with pytest.raises(SourceError, match=r"the column 'x' has the type .*; cast it first"):
        work.from_arrow(pa.table({"key": ["a"], "x": column}))
    assert len(work) == 0


def test_keys(work):
    work.from_arrow(pa.table({"n": pa.array([7, -1], pa.int16()), "x": [1, 2]}), key="n")
    assert dict(work.items()) == {"7": {"x": 1}, "-1": {"x": 2}}
    for table, why in [
        (pa.table({"key": ["a", None]}), "row 2: the key is null"), (pa.table({"x": [1]}), "no column 'key'"),
        (pa.table({"key": [0.5]}), "a key is text or a whole number"),
        (pa.Table.from_arrays([pa.array(["a"])] * 2, names=["key", "key"]), "more than one column 'key'"),
        (pa.Table.from_arrays([pa.array(["a"])] * 3, names=["key", "x", "x"]), "more than one column 'x'"),
    ]:  # fmt: skip
        with pytest.raises(SourceError, match=why):
            work.from_arrow(table)
    assert len(work) == 2


def test_what_gives_a_stream_of_batches_will_do(work):
    class Foreign:
        def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
            return pa.table({"key": ["a"], "x": [1]}).__arrow_c_stream__(requested_schema)

    work.from_arrow(Foreign())
    work.from_arrow(pa.record_batch({"key": ["b"], "x": [2]}))
    assert dict(work.items()) == {"a": {"x": 1}, "b": {"x": 2}}
    with pytest.raises(InvalidInputError, match=r"a table is a pyarrow\.Table"):
        work.from_arrow({"key": ["a"]})


def test_nulls_are_kept_or_left_out(work):
    table = pa.table({"key": ["a"], "x": [1], "y": pa.nulls(1)})
    work.from_arrow(table)
    assert work["a"] == {"x": 1, "y": None}
    work.from_arrow(table, keep_nulls=False)
    assert work["a"] == {"x": 1}


def test_frames_keep_ints_with_gaps(work):
    work.update(
        {"a": {"n": (1 << 53) + 1, "on": True, "text": "x"}, "b": {"n": None, "on": None, "text": None}}
    )
    work.commit()
    frame = work.repo.snapshot().to_pandas().sort_index()
    assert frame.index.name == "key"
    assert list(frame.index) == ["a", "b"]
    assert str(frame["n"].dtype) == "Int64"
    assert frame.loc["a", "n"] == (1 << 53) + 1
    assert frame.loc["b", "n"] is pd.NA
    again = Repo().worktree()
    again.from_pandas(frame)
    assert dict(again.items()) == dict(work.items())


def test_frames_from_elsewhere(work):
    frame = pd.DataFrame({"id": [1, 2], "x": [0.5, math.nan], "key": ["p", None]})
    work.from_pandas(frame, key="id")
    assert work["1"] == {"x": 0.5, "key": "p"}
    assert work["2"]["key"] is None
    work.from_pandas(frame.set_index("id"), prefix="i/", keep_nulls=False)
    assert set(work) == {"1", "2", "i/1", "i/2"}
    assert work["i/1"] == {"x": 0.5, "key": "p"}
    with pytest.raises(InvalidInputError, match="several levels"):
        work.from_pandas(frame.set_index(["id", "x"]))
    assert "key_" not in work["i/1"]


def test_without_the_extra_the_message_says_what_to_install(work, monkeypatch):
    for module in ("pyarrow", "pandas"):
        monkeypatch.setitem(sys.modules, module, None)
    for call in (work.to_arrow, work.to_pandas, work.arrow_batches, lambda: work.from_arrow(None),
                 lambda: work.from_pandas(None)):  # fmt: skip
        with pytest.raises(MissingDependencyError, match=r"kvgit-hamt\[tables\]"):
            call()


def test_the_library_does_not_import_the_extra_by_itself():
    code = (
        "import sys, kvgit_hamt, kvgit_hamt.tables; print({'pyarrow', 'pandas', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_memory_follows_the_batch_not_the_table(work, monkeypatch):
    work.update({str(n): {"n": n} for n in range(3_000)})
    work.commit()
    alive = 0
    most = 0
    honest = tables._fields_of

    def counted(key: str, value: Any) -> dict[str, Any]:
        nonlocal alive, most
        alive += 1
        most = max(most, alive)
        return honest(key, value)

    schema = pa.schema([("n", pa.int64())])
    monkeypatch.setattr(tables, "_fields_of", counted)
    for batch in work.arrow_batches(schema=schema, batch_rows=500):
        assert batch.num_rows == 500
        assert alive <= 500  # rows are taken a batch at a time
        alive = 0
    assert most == 500
