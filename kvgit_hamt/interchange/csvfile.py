"""CSV: a row a key; the value is a map of the other columns, or one column alone."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from kvgit_hamt.errors import InvalidInputError, SourceError
from kvgit_hamt.interchange.base import Progress, Row, Where, join_key, key_columns, selected, written_whole
from kvgit_hamt.interchange.lines import LINE_MAX_BYTES, FileSource
from kvgit_hamt.snapshot import TreeView

KEY_COLUMN: Final = "key"
VALUE_COLUMN: Final = "value"
_SCALARS: Final = frozenset({str, int, float, bool, type(None)})


class Csv(FileSource):
    """A CSV file in UTF-8. Every field is a str, unless ``typed``.

    Args:
        where: a path, or an open binary file.
        key: the column that is the key, or several, which are joined by "/".
        value: the column that alone is the value; None: a map of all columns but the key's.
        columns: names of the columns, for a file whose first line is a row. None: the first line has them.
        delimiter, quote: one character each.
        typed: fields that are written as Python writes an int or a float become that, empty ones None, and
            ``true`` and ``false`` bool.
        name: what messages call it.

    A row with more or fewer fields than there are columns is an error, and so is a field that is quoted
    wrongly. Lines may end in CR LF; a quoted field may hold ends of lines.
    """

    format = "csv"

    def __init__(  # noqa: PLR0913 (options that users give by name)
        self,
        where: Where,
        *,
        key: str | tuple[str, ...] | list[str],
        value: str | None = None,
        columns: Sequence[str] | None = None,
        delimiter: str = ",",
        quote: str = '"',
        typed: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(where, name)
        for what, char in (("delimiter", delimiter), ("quote", quote)):
            if len(char) != 1 or char in "\r\n" or not char.isascii():
                raise InvalidInputError(f"{what} is one ASCII character, not {char!r}")
        self._keys = key_columns(key)
        if not self._keys:
            raise InvalidInputError("say which column is the key")
        self._value = value
        self._given = None if columns is None else list(columns)
        self._dialect = {"delimiter": delimiter, "quotechar": quote}
        self._typed = typed
        self._columns: list[str] = []

    def options(self) -> dict[str, Any]:
        given = {"key": list(self._keys), "value": self._value, "columns": self._given, "typed": self._typed}
        return {**given, **self._dialect}

    def position(self) -> dict[str, Any]:
        return {**super().position(), "columns": self._columns}

    def rows(self, after: Mapping[str, Any] | None = None) -> Iterator[Row]:
        csv.field_size_limit(max(csv.field_size_limit(), LINE_MAX_BYTES))  # of the process; only ever raised
        file = self._open(after)
        try:
            # One row of the reader takes as many lines as it needs, and no more: the position stays exact.
            reader = csv.reader(self._text(file), strict=True, **self._dialect)  # type: ignore[arg-type]
            known = None if after is None else list(after["columns"])
            self._columns = self._heading(reader, known)
            yield from self._records(reader)
        finally:
            self._close(file)

    def _text(self, file: Any) -> Iterator[str]:
        for line in self._lines(file):
            try:
                yield line.decode()
            except UnicodeDecodeError as error:
                raise self.fault(f"no UTF-8: byte {line[error.start]:#04x}") from error

    def _heading(self, reader: Iterator[list[str]], known: list[str] | None) -> list[str]:
        """The names of the columns: as an earlier reading knew them, as given, or from the first line."""
        columns = known if known is not None else self._given
        if columns is None:
            columns = self._next(reader)
        if columns is None:
            raise SourceError(self.name, "", "is empty; the first line has the names of the columns")
        double = sorted({column for column in columns if columns.count(column) > 1})
        if double:
            raise self.fault(f"two columns have the name {double[0]!r}")
        for name in (*self._keys, *([] if self._value is None else [self._value])):
            if name not in columns:
                raise self.fault(f"there is no column {name!r}; there are {', '.join(map(repr, columns))}")
        return columns

    def _next(self, reader: Iterator[list[str]]) -> list[str] | None:
        try:
            return next(reader, None)
        except csv.Error as error:
            raise self.fault(f"no CSV: {error}") from error

    def _records(self, reader: Iterator[list[str]]) -> Iterator[Row]:
        columns, keys = self._columns, [self._columns.index(name) for name in self._keys]
        rest = [(at, name) for at, name in enumerate(columns) if at not in keys]
        alone = None if self._value is None else columns.index(self._value)
        convert = typed if self._typed else str
        while (fields := self._next(reader)) is not None:
            if not fields:  # a blank line
                continue
            if len(fields) != len(columns):
                raise self.fault(f"{len(fields)} fields where there are {len(columns)} columns")
            try:
                key = join_key([fields[at] for at in keys])
            except ValueError as error:
                raise self.fault(str(error)) from error
            if alone is not None:
                yield key, convert(fields[alone])
            else:
                yield key, {name: convert(fields[at]) for at, name in rest}


def typed(field: str) -> Any:
    """A field as the int, float, bool or None that is written so, else as it stands."""
    if not field:
        return None
    if field in ("true", "false"):
        return field == "true"
    for kind in (int, float):
        try:
            value = kind(field)
        except ValueError:
            continue
        if str(value) == field:  # 007, 1_000, +1 and the like are texts
            return value
    return field


def write_csv(  # noqa: PLR0913 (options that users give by name)
    view: TreeView,
    where: Where,
    *,
    prefix: str = "",
    strip: bool = False,
    key: str = KEY_COLUMN,
    columns: Sequence[str] | None = None,
    delimiter: str = ",",
    progress: Progress | None = None,
) -> int:
    """Write a table: the key, and a column for each field of the values: flat maps or single scalars.

    Args:
        where: a path, which is written whole or not at all; or an open binary file.
        strip: take the prefix off the keys.
        key: the name of the key's column.
        columns: the fields to write, in this order; None: all there are, sorted, which takes a second pass.

    None, and a field that a map does not have, are empty; a bool is ``true`` or ``false``. ``Csv`` with
    ``typed`` gives ints, floats and bools back, and texts that do not look like one of them.

    Returns:
        how many rows.

    Raises:
        SourceError: a value is no flat map of text, numbers, bool and None; or the file cannot be written.
    """
    target = getattr(where, "name", None) or str(where)
    names = list(columns) if columns is not None else _fields(view, prefix, target)
    if key in names:
        raise SourceError(
            str(target), "", f"a field is called {key!r} too; give the key's column another name"
        )
    count = 0
    utf8 = codecs.lookup("utf-8").streamwriter
    with written_whole(where) as file:
        text_file = utf8(file)
        plain = csv.writer(text_file, delimiter=delimiter, lineterminator="\n")
        quoting = csv.writer(text_file, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)

        def write(row: list[str]) -> None:  # a carriage return must be quoted too, to be read back
            (quoting if any("\r" in field for field in row) else plain).writerow(row)

        write([key, *names])
        for text, value in selected(view, prefix, strip, progress):
            fields = value if type(value) is dict else {VALUE_COLUMN: value}
            row = [_field(fields.get(name), str(target), text) for name in names]
            try:
                write([text, *row])
            except csv.Error as error:  # Python 3.10 writes no NUL
                raise SourceError(str(target), f"key {text!r}", f"CSV: {error}") from error
            count += 1
    return count


def _fields(view: TreeView, prefix: str, target: str) -> list[str]:
    found: set[str] = set()
    for key, value in view.items(prefix):
        if type(value) is dict:
            if bad := [name for name in value if type(name) is not str]:
                raise SourceError(str(target), f"key {key!r}", f"a field's name is {bad[0]!r}, no text")
            found.update(value)
        else:
            found.add(VALUE_COLUMN)
    return sorted(found)


def _field(value: Any, target: str, key: str) -> str:
    kind = type(value)
    if value is None:
        return ""
    if kind is bool:
        return "true" if value else "false"
    if kind not in _SCALARS:
        reason = f"a value of type {kind.__name__}, which CSV has no form for; export JSON lines"
        raise SourceError(target, f"key {key!r}", reason)
    return str(value)
