"""Keys and values as text: JSON that comes back as it was, lines for people, no controls."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from typing import Any, Final

from kvgit_hamt.codec import Undecoded

PREVIEW: Final = 60  # characters of a value in a list
_SCALARS: Final = frozenset({str, int, bool, type(None)})
_MARKS: Final = frozenset({"$bytes", "$float", "$map", "$repr", "$stored"})


def to_json(value: Any) -> Any:
    """A value as what JSON has; ``from_json`` gives the value again.

    bytes are ``{"$bytes": base64}``; floats that JSON lacks ``{"$float": "nan"}``; maps with keys that are
    no text, or with one key that begins with ``$``, ``{"$map": [[key, value], ..]}``; what was not
    decoded ``{"$stored": base64}``. Objects of a pickle are ``{"$repr": text}``, which cannot be read back.
    """
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is float:
        return value if math.isfinite(value) else {"$float": str(value)}
    if kind is list:
        return [to_json(item) for item in value]
    if kind is dict:
        if all(type(key) is str for key in value) and not _is_marked(value):
            return {key: to_json(item) for key, item in value.items()}
        return {"$map": [[to_json(key), to_json(item)] for key, item in value.items()]}
    if kind is bytes:
        return {"$bytes": base64.b64encode(value).decode()}
    if kind is Undecoded:
        return {"$stored": base64.b64encode(value.data).decode()}
    return {"$repr": repr(value)}


def _is_marked(value: dict[Any, Any]) -> bool:
    return len(value) == 1 and next(iter(value)).startswith("$")


def from_json(value: Any) -> Any:
    """The value that ``to_json`` made this of.

    Raises:
        ValueError: a map with one key that begins with ``$`` and is none of the above.
    """
    if type(value) is list:
        return [from_json(item) for item in value]
    if type(value) is not dict:
        return value
    if not _is_marked(value):
        return {key: from_json(item) for key, item in value.items()}
    ((mark, content),) = value.items()
    return _unmark(mark, content)


def _unmark(mark: str, content: Any) -> Any:
    if mark in ("$bytes", "$stored") and type(content) is str:
        data = base64.b64decode(content, validate=True)
        return data if mark == "$bytes" else Undecoded(data)
    if mark == "$float" and content in ("nan", "inf", "-inf"):
        return float(content)
    if mark == "$map" and type(content) is list:
        pairs = [
            [from_json(part) for part in pair] for pair in content if type(pair) is list and len(pair) == 2
        ]
        if len(pairs) == len(content) and all(type(key) not in (list, dict) for key, _ in pairs):
            return dict(pairs)
    if mark == "$repr":
        raise ValueError("the text of an object is not the object: it was of a type that JSON cannot hold")
    known = ", ".join(sorted(_MARKS - {"$repr"}))
    raise ValueError(
        f'{{"{mark}": ..}} is none of {known}; write {{"$map": [["{mark}", ..]]}} for such a map'
    )


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is no JSON, or see ``from_json``.
    """
    return from_json(load_json(text))


def load_json(text: str | bytes) -> Any:
    """A JSON text as it stands; ValueError for what is none, NaN and Infinity among it."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def _refuse(name: str) -> Any:
    raise ValueError(f'{name} is not JSON; write {{"$float": "{name.lower().replace("infinity", "inf")}"}}')


_encode: Final[Callable[[Any], str]] = json.JSONEncoder(ensure_ascii=False, separators=(", ", ": ")).encode


def dump_json(plain: Any) -> str:
    """JSON on one line; lone surrogates and line separators escaped, so that a line is a line."""
    text = _encode(plain)
    return text if text.isprintable() else _escape(text)


# for people


def _escape(text: str) -> str:
    """Each character that is not printable as ``\\uXXXX``, as JSON has it."""
    return "".join(char if char.isprintable() else _code(char) for char in text)


_SHORT: Final = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\b": "\\b", "\f": "\\f"}


def _code(char: str) -> str:
    if char in _SHORT:
        return _SHORT[char]
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def quote(text: str) -> str:
    """A key, name or message on one line: as it is, or as JSON where that would mislead.

    Quoted are what is not printable (control characters, line ends, marks of writing direction), an empty
    text, spaces at an end, and what looks quoted already.
    """
    if text and text.isprintable() and text[0] not in '" ' and text[-1] != " ":
        return text
    return _escape(json.dumps(text, ensure_ascii=False))


def safe(text: str) -> str:
    """Text of several lines for a terminal: all but line ends and tabs that is not printable, escaped."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else _code(char) for char in text)


def kind_of(value: Any) -> str:
    """One word for the type of a value."""
    names = {str: "text", bytes: "bytes", type(None): "null", list: "list", dict: "map", Undecoded: "stored"}
    return names.get(type(value), type(value).__name__)


def show(value: Any, limit: int | None = None) -> str:
    """A value on one line, at most ``limit`` characters of it."""
    if type(value) is bytes:
        text = f"<{len(value):,} bytes> " + repr(value if limit is None else value[:limit])[2:-1]
    elif type(value) is Undecoded:
        text = f"<{len(value.data):,} bytes, not decoded>"
    elif type(value) is str:
        text = _escape(json.dumps(value if limit is None else value[: limit + 1], ensure_ascii=False))
    else:
        text = dump_json(to_json(value))
    return text if limit is None or len(text) <= limit else text[: limit - 1] + "…"


def bytes_text(count: int) -> str:
    """A number of bytes for people: ``41.2 MB``; a kB is 1,000 bytes."""
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 999.95:
            break
        size, unit = size / 1_000, larger
    return f"{count} B" if unit == "B" else f"{size:,.1f} {unit}"
