"""What imports and exports share: sources of rows, steps of progress, text of bytes, files written whole."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal

import msgpack

from kvgit_hamt.errors import InvalidInputError, SourceError
from kvgit_hamt.snapshot import TreeView

Row = tuple[str, Any]
Unit = Literal["bytes", "rows", "files", "commits"]
ValuesAs = Literal["bytes", "text", "json", "msgpack"]
Where = str | os.PathLike[str] | IO[bytes]
REPORT_EVERY: Final = 4_096  # rows between two steps of an export
JOINT: Final = "/"  # between the parts of a key that is made of several columns


@dataclass(frozen=True, slots=True)
class Step:
    """How far an import or an export is.

    Attributes:
        phase: "read", "build" (the tree of a bulk load), "write" or "publish".
        rows: rows (for git: commits) so far, those of earlier runs included.
        done, total: of ``unit``; total is 0 where it is not known.
    """

    phase: str
    rows: int
    done: int
    total: int
    unit: Unit


Progress = Callable[[Step], None]


class Meter:
    """Rate and remaining time, from the steps of one import or export.

    Args:
        clock: seconds, from any start.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._phase = ""
        self._since = 0.0
        self._first = 0

    def see(self, step: Step) -> tuple[float | None, float | None]:
        """(units a second, seconds that are left of this phase); None where it cannot be said yet."""
        now = self._clock()
        if step.phase != self._phase:
            self._phase, self._since, self._first = step.phase, now, step.done
        seconds, done = now - self._since, step.done - self._first
        if seconds <= 0 or done <= 0:
            return None, None
        rate = done / seconds
        return rate, max(0.0, step.total - step.done) / rate if step.total else None


class Source(ABC):
    """Rows to import, in an order that is the same at each reading.

    Attributes:
        format: as in "jsonl".
        name: what messages call it.
        unit, total: of ``done``; total is 0 where it is not known.
        can_resume: whether ``rows`` can begin after a position of an earlier reading.
    """

    format: str
    name: str
    unit: Unit = "bytes"
    total: int = 0
    can_resume: bool = True

    @abstractmethod
    def rows(self, after: Mapping[str, Any] | None = None) -> Iterator[Row]:
        """(key, value) of each row: of all, or of those after a ``position``.

        Raises:
            SourceError: a row is not as it must be, or ``after`` is no position of this source.
        """

    @abstractmethod
    def position(self) -> dict[str, Any]:
        """Where the row that was given last ends, as plain data."""

    @abstractmethod
    def done(self) -> int:
        """How much was read, in ``unit``."""

    @abstractmethod
    def at(self) -> str:
        """The place of the row that was given last: "line 7"."""

    def options(self) -> dict[str, Any]:
        """What decides the rows, as plain data: an import is continued only with the same."""
        return {}

    def fault(self, reason: str, at: str | None = None) -> SourceError:
        """The error for the row at hand, or for a place."""
        return SourceError(self.name, self.at() if at is None else at, reason)


# text of bytes

_ESCAPE: Final = re.compile("\0([0-9a-f]{2})")


def text_of(data: bytes) -> str:
    """Bytes as a key: UTF-8 as it is; NUL and what is not UTF-8 as a NUL and two hex digits a byte.

    No two byte strings have one text, and ``bytes_of`` gives the bytes again. Paths hold no NUL, so a path
    that is UTF-8 is its own key, and the others keep their directories.
    """
    if b"\0" in data:
        data = data.replace(b"\x00", b"\x0000")
    try:
        return data.decode()
    except UnicodeDecodeError:
        text = data.decode("utf-8", "surrogateescape")
        return re.sub("[\udc80-\udcff]", lambda match: f"\0{ord(match[0]) - 0xDC00:02x}", text)


def bytes_of(text: str) -> bytes:
    """The bytes whose ``text_of`` this is.

    Raises:
        ValueError: there are none: a NUL without two hex digits, or an escape that was not needed.
    """
    if "\0" not in text:
        return text.encode()
    raw = _ESCAPE.sub(lambda match: chr(0xDC00 + int(match[1], 16)) if match[1] != "00" else "\0", text)
    try:
        data = raw.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise ValueError(f"{text!r:.60} is the text of no bytes") from error
    if text_of(data) != text:
        raise ValueError(f"{text!r:.60} is the text of no bytes")
    return data


def key_of(value: Any) -> str:
    """A field's value as (a part of) a key: a str as it is, an int in decimal.

    Raises:
        ValueError: anything else.
    """
    if type(value) is str:
        return value
    if type(value) is int:
        return str(value)
    raise ValueError(f"the key is {_kind_of(value)}, not a string or a whole number")


def join_key(parts: list[Any]) -> str:
    """A key out of one or several fields, joined by "/".

    Raises:
        ValueError: a part is no str or int, or one of several holds a "/", which would make keys ambiguous.
    """
    texts = [key_of(part) for part in parts]
    if len(texts) == 1:
        return texts[0]
    for text in texts:
        if JOINT in text:
            raise ValueError(f"{text!r:.60} holds a {JOINT!r}, which joins the parts of a key")
    return JOINT.join(texts)


def _kind_of(value: Any) -> str:
    return "null" if value is None else f"of type {type(value).__name__}"


def key_columns(key: str | tuple[str, ...] | list[str] | None) -> tuple[str, ...]:
    """The columns that make a key, as given: one, several, or none."""
    if key is None:
        return ()
    columns = (key,) if isinstance(key, str) else tuple(key)
    if not columns or not all(isinstance(column, str) and column for column in columns):
        raise InvalidInputError(f"key is the name of a column, or several, not {key!r}")
    return columns


# values of formats that hold bytes


def value_decoder(values: ValuesAs) -> Callable[[bytes], Any]:
    """How stored bytes become values.

    "bytes" as they are; "text" UTF-8; "json" one document; "msgpack" one object. What the function raises
    is a ValueError.
    """
    if values == "bytes":
        return bytes
    if values == "text":
        return lambda data: data.decode()
    if values == "json":
        return decode_json
    if values == "msgpack":
        return _unpack
    raise InvalidInputError(f'values is "bytes", "text", "json" or "msgpack", not {values!r}')


def value_encoder(values: ValuesAs) -> Callable[[Any], bytes]:
    """How values become bytes: the other way round. What the function raises is a ValueError or TypeError."""
    if values == "bytes":
        return _only_bytes
    if values == "text":
        return _only_text
    if values == "json":
        return lambda value: encode_json(value).encode()
    if values == "msgpack":
        return _pack
    raise InvalidInputError(f'values is "bytes", "text", "json" or "msgpack", not {values!r}')


def _only_bytes(value: Any) -> bytes:
    if type(value) is not bytes:
        raise TypeError(f'a value of type {type(value).__name__}; say values="text", "json" or "msgpack"')
    return value


def _only_text(value: Any) -> bytes:
    if type(value) is not str:
        raise TypeError(
            f'a value of type {type(value).__name__}; say values="json" or "msgpack" for others than text'
        )
    return value.encode()


def _pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=True, strict_types=True)
    return packed


def _unpack(data: bytes) -> Any:
    try:
        return msgpack.unpackb(data, strict_map_key=False, ext_hook=refuse_extension)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise ValueError(f"no msgpack object: {error or type(error).__name__}") from error


def refuse_extension(code: int, _data: bytes) -> Any:
    """For msgpack's ``ext_hook``: plain data has none."""
    raise ValueError(f"a msgpack extension of type {code}")


# JSON


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_plain_json = json.JSONDecoder(parse_constant=_refuse_constant)


def decode_json(data: bytes | str) -> Any:
    """One JSON document; NaN and Infinity are refused. ValueError with what is wrong."""
    text = data if isinstance(data, str) else data.decode()
    try:
        return _plain_json.decode(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def encode_json(value: Any) -> str:
    """Plain JSON on one line.

    Raises:
        TypeError, ValueError: the value holds something that JSON does not have (bytes, NaN, a key that is
            no string): nothing is turned into something else unseen.
    """
    check_json(value)
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def check_json(value: Any) -> None:
    """TypeError if a value holds something that JSON does not have."""
    pending = [value]
    while pending:
        item = pending.pop()
        kind = type(item)
        if kind is dict:
            for key in item:
                if type(key) is not str:
                    raise TypeError(f"a map key of type {type(key).__name__}, which JSON does not have")
            pending.extend(item.values())
        elif kind is list:
            pending.extend(item)
        elif kind not in (str, int, float, bool, type(None)):
            raise TypeError(f"a value of type {kind.__name__}, which JSON does not have")


# exports


def selected(
    view: TreeView, prefix: str, strip: bool, progress: Progress | None, phase: str = "write"
) -> Iterator[Row]:
    """The rows of a view under a prefix, in tree order; ``strip`` takes the prefix off the keys."""
    cut = len(prefix) if strip else 0
    total = 0 if prefix else len(view)
    count = 0
    for key, value in view.items(prefix):
        yield key[cut:], value
        count += 1
        if progress is not None and count % REPORT_EVERY == 0:
            progress(Step(phase, count, count, total, "rows"))
    if progress is not None:
        progress(Step(phase, count, count, total or count, "rows"))


@contextlib.contextmanager
def written_whole(where: Where) -> Iterator[IO[bytes]]:
    """A binary file to write: a path gets it when all is written and synced, an open file as it comes.

    A link is followed, and what is no regular file, such as a pipe, is written as an open file is.

    Raises:
        SourceError: it cannot be written; what was there before is still there.
    """
    if not isinstance(where, (str, os.PathLike)):
        yield where
        where.flush()
        return
    path = Path(where).resolve()
    if path.exists() and not path.is_file():
        try:
            with open(path, "wb") as there:
                yield there
        except OSError as error:
            raise _unwritten(path, error) from error
        return
    try:
        file = tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False)  # noqa: SIM115
    except OSError as error:
        raise _unwritten(path, error) from error
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(file.name, 0o666 & ~_umask())
        os.replace(file.name, path)
    except OSError as error:
        _drop(file.name)
        raise _unwritten(path, error) from error
    except BaseException:
        _drop(file.name)
        raise


def _unwritten(path: Path, error: OSError) -> SourceError:
    return SourceError(str(path), "", f"cannot be written: {error.strerror or error}")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _drop(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


@contextlib.contextmanager
def reading(source: str) -> Iterator[None]:
    """Turns errors of the operating system into SourceError."""
    try:
        yield
    except OSError as error:
        raise SourceError(source, "", f"cannot be read: {error.strerror or error}") from error
