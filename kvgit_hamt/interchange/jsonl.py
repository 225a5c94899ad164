"""JSON lines: a document a line, as pairs of key and value, or as records of which one field is the key.

Pairs are what ``write_jsonl`` writes: {"key": "..", "value": ..}. What JSON does not have stands in them as a
map of one entry: {"$bytes": base64}, {"$float": "nan"}, and {"$map": [[key, value], ..]} for a map with a key
that is no string, or with one key that begins with "$"; {"$stored": base64} is what a codec was not run for.
Records are taken as they stand.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from kvgit_hamt.codec import Undecoded
from kvgit_hamt.interchange.base import (
    Progress,
    Row,
    Where,
    decode_json,
    join_key,
    key_columns,
    key_of,
    selected,
    written_whole,
)
from kvgit_hamt.interchange.lines import FileSource
from kvgit_hamt.snapshot import TreeView

BYTES, FLOAT, MAP, STORED = "$bytes", "$float", "$map", "$stored"
_PLAIN: Final = frozenset({str, int, bool, type(None)})
_FLOATS: Final = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_PAIR: Final = frozenset({"key", "value"})


class JsonLines(FileSource):
    """A file of JSON lines. Blank lines are passed over.

    Args:
        where: a path, or an open binary file.
        key: the field that is the key, or several, which are joined by "/"; the value is a map of the other
            fields. None for pairs.
        value: with ``key``, the field that alone is the value.
        name: what messages call it.
    """

    format = "jsonl"

    def __init__(
        self,
        where: Where,
        *,
        key: str | tuple[str, ...] | list[str] | None = None,
        value: str | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(where, name)
        self._keys = key_columns(key)
        self._value = value

    def options(self) -> dict[str, Any]:
        return {"key": list(self._keys), "value": self._value}

    def rows(self, after: Mapping[str, Any] | None = None) -> Iterator[Row]:
        file = self._open(after)
        take = self._record if self._keys else _pair
        try:
            for line in self._lines(file):
                if line.isspace():
                    continue
                try:
                    row = take(line)
                except json.JSONDecodeError as error:
                    raise self.fault(f"no JSON: {error.msg} (column {error.colno})") from error
                except UnicodeDecodeError as error:
                    raise self.fault(f"no UTF-8: byte {error.object[error.start]:#04x}") from error
                except RecursionError as error:
                    raise self.fault("nested too deep") from error
                except ValueError as error:
                    raise self.fault(str(error)) from error
                yield row
        finally:
            self._close(file)

    def _record(self, line: bytes) -> Row:
        record = decode_json(line)
        if type(record) is not dict:
            raise ValueError(f"a record is an object, not {_json_kind(record)}")
        parts = []
        for name in self._keys:
            if name not in record:
                raise ValueError(f"there is no field {name!r}; there are {_shown(record)}")
            parts.append(record[name])
        key = join_key(parts)
        if self._value is not None:
            if self._value not in record:
                raise ValueError(f"there is no field {self._value!r}; there are {_shown(record)}")
            return key, record[self._value]
        for name in self._keys:
            del record[name]
        return key, record


def _pair(line: bytes) -> Row:
    pair = decode_json(line)
    if type(pair) is not dict or pair.keys() != _PAIR:
        raise ValueError(
            'a line is {"key": .., "value": ..}; for other records say which field is the key (key="..")'
        )
    value = pair["value"]
    return key_of(pair["key"]), value if b'"$' not in line else untagged(value)


def _json_kind(value: Any) -> str:
    names = {list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _shown(record: dict[str, Any]) -> str:
    names = list(record)
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return (", ".join(map(repr, names[:8])) or "none") + more


def tagged(value: Any) -> Any:
    """Plain data as JSON has it; see above.

    Raises:
        TypeError: an object that is no plain data.
    """
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is float:
        return value if math.isfinite(value) else {FLOAT: str(value)}
    if kind is bytes:
        return {BYTES: base64.b64encode(value).decode()}
    if kind is list:
        return [tagged(item) for item in value]
    if kind is dict:
        if all(type(key) is str for key in value) and not _is_marked(value):
            return {key: tagged(item) for key, item in value.items()}
        return {MAP: [[tagged(key), tagged(item)] for key, item in value.items()]}
    if kind is Undecoded:
        return {STORED: base64.b64encode(value.data).decode()}
    raise TypeError(f"a value of type {kind.__name__}, which is no plain data")


def _is_marked(value: dict[Any, Any]) -> bool:
    return len(value) == 1 and next(iter(value)).startswith("$")


def untagged(value: Any) -> Any:
    """The other way round.

    Raises:
        ValueError: a map with one key that begins with "$" and is none of the tags.
    """
    if type(value) is list:
        return [untagged(item) for item in value]
    if type(value) is not dict:
        return value
    if not _is_marked(value):
        return {key: untagged(item) for key, item in value.items()}
    ((tag, inner),) = value.items()
    try:
        if tag in (BYTES, STORED):
            data = base64.b64decode(inner, validate=True)
            return data if tag == BYTES else Undecoded(data)
        if tag == FLOAT:
            return _FLOATS[inner]
        if tag == MAP:
            return {untagged(key): untagged(item) for key, item in inner}
    except (binascii.Error, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{tag} does not hold what it should: {error}") from error
    raise ValueError(f'{{"{tag}": ..}} has no meaning here; write {{"$map": [["{tag}", ..]]}} for such a map')


def write_jsonl(
    view: TreeView,
    where: Where,
    *,
    prefix: str = "",
    strip: bool = False,
    progress: Progress | None = None,
) -> int:
    """Write pairs, a line each, in tree order; how many. Every value that msgpack holds comes back as it was.

    Args:
        where: a path, which is written whole or not at all; or an open binary file.
        strip: take the prefix off the keys.

    Raises:
        SourceError: the file cannot be written.
        TypeError: a value of a codec of one's own is no plain data.
    """
    count = 0
    dump = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
    with written_whole(where) as file:
        for key, value in selected(view, prefix, strip, progress):
            try:
                plain = tagged(value)
            except TypeError as error:
                raise TypeError(f"key {key!r}: {error}") from error
            file.write(f'{{"key":{dump(key)},"value":{dump(plain)}}}\n'.encode())
            count += 1
    return count
