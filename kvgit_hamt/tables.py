"""Tables: a tree whose values are flat maps as Arrow batches or a pandas frame, and the other way round.

Needs the extra ``tables`` (pyarrow, and pandas for frames), which is imported by the first call.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Protocol

from kvgit_hamt.errors import InvalidInputError, MissingDependencyError, SourceError
from kvgit_hamt.results import MergeResult

if TYPE_CHECKING:
    from kvgit_hamt.snapshot import TreeView

KEY: Final = "key"
VALUE: Final = "value"  # the column of values that are no maps
BATCH_ROWS: Final = 65_536
EXACT_INT: Final = 1 << 53  # up to here a float is the int it is made of
TABLE: Final = "the table"
_SCALARS: Final = frozenset({str, bytes, int, float, bool, type(None)})


class Loadable(Protocol):
    """What rows are put into: a worktree."""

    @property
    def load(self) -> Callable[..., MergeResult]:
        """Puts entries into the branch as one commit."""


def _extra(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"tables need {module.partition('.')[0]}: pip install 'kvgit-hamt[tables]'"
        ) from error


# out


def batches(
    view: TreeView,
    *,
    prefix: str = "",
    strip: bool = False,
    key: str = KEY,
    schema: Any = None,
    batch_rows: int = BATCH_ROWS,
) -> Any:
    """A ``pyarrow.RecordBatchReader`` over the keys under a prefix, in tree order: the key, then the fields.

    Values are flat maps of None, bool, int, float, str and bytes, or single such scalars, which are the
    column "value". A field that a map lacks is null, as None is.

    Args:
        strip: take the prefix off the keys.
        key: the name of the key's column.
        schema: a ``pyarrow.Schema`` of the wanted fields and their types (the key's column, if it is in
            it, is text all the same). None: all fields by name, each with the type that holds all its
            values: bool, int64, uint64, float64 (also for ints and floats together, if no int is too large
            for that), string, binary, null.
        batch_rows: rows of a batch.

    Raises:
        MissingDependencyError: pyarrow is not installed.
        SourceError: a value is no flat map, or the values of a field have no type in common; with the key.
            While the reader is read, with ``schema`` given: a value does not fit.

    Cost: reads the directory twice, or once with ``schema``. Memory: one batch.
    """
    arrow = _extra("pyarrow")
    if type(batch_rows) is not int or batch_rows < 1:
        raise InvalidInputError(f"batch_rows is 1 or more, not {batch_rows!r}")
    fields = _found_fields(arrow, view, prefix) if schema is None else _given_fields(arrow, schema, key)
    if any(field.name == key for field in fields):
        raise SourceError(
            TABLE, "", f"a field is called {key!r} too; give the key's column another name (key=..)"
        )
    full = arrow.schema([arrow.field(key, arrow.string(), nullable=False), *fields])
    cut = len(prefix) if strip else 0
    rows = ((text[cut:], value) for text, value in view.items(prefix))
    return arrow.RecordBatchReader.from_batches(full, _build(arrow, full, rows, batch_rows))


def to_arrow(view: TreeView, **options: Any) -> Any:
    """A ``pyarrow.Table``; arguments and errors as for ``batches``. Memory: the table."""
    return batches(view, **options).read_all()


def to_pandas(view: TreeView, **options: Any) -> Any:
    """A ``pandas.DataFrame`` with the keys as index; arguments and errors as for ``batches``.

    Ints and bools have pandas' nullable types, so that a missing one turns no int into a float.
    """
    pandas = _extra("pandas")
    arrow = _extra("pyarrow")
    kinds = {arrow.int64(): pandas.Int64Dtype(), arrow.uint64(): pandas.UInt64Dtype()}
    kinds[arrow.bool_()] = pandas.BooleanDtype()
    table = to_arrow(view, **options)
    return table.to_pandas(types_mapper=kinds.get).set_index(options.get("key", KEY))


def _given_fields(arrow: Any, schema: Any, key: str) -> list[Any]:
    if not isinstance(schema, arrow.Schema):
        raise InvalidInputError(f"schema is a pyarrow.Schema, not {type(schema).__name__}")
    return [field for field in schema if field.name != key]


def _found_fields(arrow: Any, view: TreeView, prefix: str) -> list[Any]:
    columns: dict[str, _Column] = {}
    for key, value in view.items(prefix):
        for name, field in _fields_of(key, value).items():
            column = columns.get(name)
            if column is None:
                column = columns[name] = _Column(name)
            column.see(key, field)
    return [arrow.field(name, columns[name].type(arrow)) for name in sorted(columns)]


def _fields_of(key: str, value: Any) -> dict[str, Any]:
    if type(value) is dict:
        return value
    return {VALUE: value}


class _Column:
    """What the values of one field are."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.kinds: dict[type, str] = {}  # -> the first key with it
        self.low = self.high = 0

    def see(self, key: str, value: Any) -> None:
        kind = type(value)
        if kind not in self.kinds:
            if type(self.name) is not str:
                raise SourceError(TABLE, f"key {key!r}", f"a field's name is {self.name!r}, no text")
            if kind not in _SCALARS:
                reason = f"the field {self.name!r} is a {kind.__name__}; values are flat maps"
                raise SourceError(TABLE, f"key {key!r}", reason)
            self.kinds[kind] = key
        if kind is int:
            self.low, self.high = min(self.low, value), max(self.high, value)

    def type(self, arrow: Any) -> Any:
        """The Arrow type that holds all values as they are."""
        kinds = set(self.kinds) - {type(None)}
        if kinds == {int}:
            if self.high < 1 << 63:
                return arrow.int64()
            if self.low >= 0:
                return arrow.uint64()
            raise SourceError(TABLE, "", f"the field {self.name!r} holds ints from {self.low} to {self.high}")
        if kinds == {int, float} and self.low >= -EXACT_INT and self.high <= EXACT_INT:
            return arrow.float64()
        one = {
            frozenset(): arrow.null(), frozenset({bool}): arrow.bool_(), frozenset({float}): arrow.float64(),
            frozenset({str}): arrow.string(), frozenset({bytes}): arrow.binary(),
        }.get(frozenset(kinds))  # fmt: skip
        if one is None:
            shown = " and ".join(f"{kind.__name__} (key {key!r})" for kind, key in self.kinds.items())
            raise SourceError(TABLE, "", f"the field {self.name!r} holds {shown}; give a schema")
        return one


def _build(arrow: Any, schema: Any, rows: Iterator[tuple[str, Any]], batch_rows: int) -> Iterator[Any]:
    names = schema.names[1:]
    while chunk := list(itertools.islice(rows, batch_rows)):
        records = [_fields_of(key, value) for key, value in chunk]
        arrays = [arrow.array([key for key, _ in chunk], arrow.string())]
        for at, name in enumerate(names, 1):
            values = [record.get(name) for record in records]
            kind = schema.field(at).type
            try:
                arrays.append(arrow.array(values, kind))
            except (arrow.ArrowException, TypeError, ValueError, OverflowError) as error:
                raise _misfit(arrow, name, kind, (values, chunk)) from error
        yield arrow.record_batch(arrays, schema=schema)


def _misfit(arrow: Any, name: str, kind: Any, where: tuple[list[Any], list[tuple[str, Any]]]) -> SourceError:
    for value, (key, _) in zip(*where, strict=True):
        try:
            arrow.array([value], kind)
        except (arrow.ArrowException, TypeError, ValueError, OverflowError) as error:
            return SourceError(TABLE, f"key {key!r}", f"the field {name!r} is no {kind}: {error}")
    return SourceError(TABLE, "", f"the field {name!r} is no {kind}")


# in


def from_arrow(
    work: Loadable,
    data: Any,
    *,
    key: str = KEY,
    value: str | None = None,
    prefix: str = "",
    keep_nulls: bool = True,
    **options: Any,
) -> MergeResult:
    """Load a table into a branch as one commit, in bounded memory.

    Args:
        data: a ``pyarrow.Table``, ``RecordBatch`` or ``RecordBatchReader``, or anything else with Arrow's C
            stream interface, such as a frame of polars or DuckDB's results.
        key: the column that is the key: text or whole numbers.
        value: the column that alone is the value. None: a map of all other columns.
        prefix: put before every key.
        keep_nulls: a null is None; False leaves the field out.
        options: info, time, memory_bytes, progress: as for ``Worktree.load``.

    Raises:
        MissingDependencyError: pyarrow is not installed.
        SourceError: there is no such column, a key is null, or a column has a type that values cannot hold
            (times, decimals, lists): cast it first. The branch is unchanged.
        (others: see ``Worktree.load``)
    """
    arrow = _extra("pyarrow")
    reader = _reader(arrow, data)
    columns = _columns(arrow, reader.schema, key, value)
    return work.load(_rows(reader, columns, (key, value), (prefix, keep_nulls)), **options)


def from_pandas(work: Loadable, frame: Any, *, key: str | None = None, **options: Any) -> MergeResult:
    """Load a frame; its index is the key, or the column ``key``. NaN in a column of objects is null.

    Other arguments, and errors, as for ``from_arrow``.
    """
    arrow = _extra("pyarrow")
    if key is None:
        if frame.index.nlevels != 1:
            raise InvalidInputError("the index has several levels; say which column is the key (key=..)")
        key = KEY
        while key in frame.columns:
            key += "_"
        frame = frame.rename_axis(index=key).reset_index()
    return from_arrow(work, arrow.Table.from_pandas(frame, preserve_index=False), key=key, **options)


def _reader(arrow: Any, data: Any) -> Any:
    if isinstance(data, arrow.RecordBatchReader):
        return data
    if isinstance(data, arrow.RecordBatch):
        return arrow.RecordBatchReader.from_batches(data.schema, [data])
    if isinstance(data, arrow.Table):
        return data.to_reader(BATCH_ROWS)
    if hasattr(data, "__arrow_c_stream__"):
        return arrow.RecordBatchReader.from_stream(data)
    raise InvalidInputError(f"a table is a pyarrow.Table, or something like it, not {type(data).__name__}")


def _columns(arrow: Any, schema: Any, key: str, value: str | None) -> list[str]:
    """The columns to take besides the key.

    Raises:
        SourceError: one is missing, double, or of a type that values cannot hold.
    """
    names = schema.names
    for name in (key, *([] if value is None else [value])):
        if names.count(name) != 1:
            many = "no column" if name not in names else "more than one column"
            raise SourceError(TABLE, "", f"there is {many} {name!r}; there are {', '.join(map(repr, names))}")
    taken = [name for name in names if name != key] if value is None else [value]
    for name in taken:
        if taken.count(name) > 1:
            raise SourceError(TABLE, "", f"there is more than one column {name!r}")
    for name in (key, *taken):
        kind = schema.field(name).type
        if arrow.types.is_dictionary(kind):
            kind = kind.value_type
        if not _holds(arrow.types, kind, name == key):
            why = "a key is text or a whole number" if name == key else "values cannot hold it; cast it first"
            raise SourceError(TABLE, "", f"the column {name!r} has the type {kind}: {why}")
    return taken


def _holds(types: Any, kind: Any, is_key: bool) -> bool:
    """Whether a key, or a value, can be of an Arrow type."""
    is_text = types.is_string(kind) or types.is_large_string(kind) or _is(types, "is_string_view", kind)
    if is_text or types.is_integer(kind):
        return True
    if is_key:
        return False
    tests = ("null", "boolean", "floating", "binary", "large_binary", "fixed_size_binary", "binary_view")
    return any(_is(types, f"is_{test}", kind) for test in tests)


def _is(types: Any, test: str, kind: Any) -> bool:
    return hasattr(types, test) and bool(getattr(types, test)(kind))


def _rows(
    reader: Any, columns: list[str], names: tuple[str, str | None], how: tuple[str, bool]
) -> Iterator[tuple[str, Any]]:
    key, alone = names
    prefix, keep_nulls = how
    count = 0
    for batch in reader:
        keys = batch.column(batch.schema.get_field_index(key)).to_pylist()
        fields = [_values(batch.column(batch.schema.get_field_index(name))) for name in columns]
        for text, *values in zip(keys, *fields, strict=True):
            count += 1
            if text is None:
                raise SourceError(TABLE, f"row {count:,}", "the key is null")
            if alone is not None:
                yield f"{prefix}{text}", values[0]
            elif keep_nulls:
                yield f"{prefix}{text}", dict(zip(columns, values, strict=True))
            else:
                pairs = zip(columns, values, strict=True)
                yield f"{prefix}{text}", {name: value for name, value in pairs if value is not None}


def _values(column: Any) -> list[Any]:
    values: list[Any] = column.to_pylist()
    if str(column.type) == "halffloat":
        return [None if value is None else float(value) for value in values]
    return values
