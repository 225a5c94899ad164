"""A stream of msgpack objects: pairs [key, value], or maps of which one field is the key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgpack

from kvgit_hamt.errors import InvalidInputError
from kvgit_hamt.interchange.base import (
    Progress,
    Row,
    Where,
    join_key,
    key_columns,
    key_of,
    reading,
    refuse_extension,
    selected,
    written_whole,
)
from kvgit_hamt.interchange.lines import BLOCK_BYTES, FileSource
from kvgit_hamt.snapshot import TreeView

OBJECT_MAX_BYTES: Final = 1 << 30  # a longer object is not read: bounds memory


class MsgpackStream(FileSource):
    """A file of msgpack objects, one after the other.

    Args:
        where: a path, or an open binary file.
        key: the field that is the key, or several, of objects that are maps; the value is the map without
            them. None: each object is an array of key and value.
        value: with ``key``, the field that alone is the value.
        name: what messages call it.
    """

    format = "msgpack"

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
        if value is not None and not self._keys:
            raise InvalidInputError("value goes with key: pairs have their value second")

    def options(self) -> dict[str, Any]:
        return {"key": list(self._keys), "value": self._value}

    def at(self) -> str:
        return f"object {self._count:,}"

    def rows(self, after: Mapping[str, Any] | None = None) -> Iterator[Row]:
        file = self._open(after)
        start = fed = self._offset
        unpacker = msgpack.Unpacker(
            strict_map_key=False, ext_hook=refuse_extension, max_buffer_size=OBJECT_MAX_BYTES
        )
        try:
            while block := self._read(file):
                fed += len(block)
                try:
                    unpacker.feed(block)
                except msgpack.BufferFull as error:
                    raise self._broken(f"an object of over {OBJECT_MAX_BYTES >> 20} MiB") from error
                yield from self._objects(unpacker, start)
            if self._offset != fed:
                raise self._broken(f"the file ends within it, after {fed - self._offset:,} bytes")
        finally:
            self._close(file)

    def _read(self, file: Any) -> bytes:
        with reading(self.name):
            block: bytes = file.read(BLOCK_BYTES)
            return block

    def _broken(self, reason: str) -> Exception:
        return self.fault(reason, f"object {self._count + 1:,}, at byte {self._offset:,}")

    def _objects(self, unpacker: Any, start: int) -> Iterator[Row]:
        while True:
            try:
                item = unpacker.unpack()
            except msgpack.OutOfData:
                return
            except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
                raise self._broken(f"no msgpack: {error or type(error).__name__}") from error
            self._count += 1
            self._offset = start + unpacker.tell()
            try:
                row = self._record(item) if self._keys else _pair(item)
            except ValueError as error:
                raise self.fault(str(error)) from error
            yield row

    def _record(self, item: Any) -> Row:
        if type(item) is not dict:
            raise ValueError(f"a record is a map, not of type {type(item).__name__}")
        wanted = self._keys if self._value is None else (*self._keys, self._value)
        for name in wanted:
            if name not in item:
                raise ValueError(f"there is no field {name!r}; there are {', '.join(map(repr, item))}")
        key = join_key([item[name] for name in self._keys])
        if self._value is not None:
            return key, item[self._value]
        return key, {name: field for name, field in item.items() if name not in self._keys}


def _pair(item: Any) -> Row:
    if type(item) is not list or len(item) != 2:
        raise ValueError(
            'an object is an array of key and value; for maps say which field is the key (key="..")'
        )
    return key_of(item[0]), item[1]


def write_msgpack(
    view: TreeView,
    where: Where,
    *,
    prefix: str = "",
    strip: bool = False,
    progress: Progress | None = None,
) -> int:
    """Write [key, value] of each key, in tree order; how many.

    Args:
        where: a path, which is written whole or not at all; or an open binary file.
        strip: take the prefix off the keys.

    Raises:
        SourceError: the file cannot be written. TypeError: a value is no plain data.
    """
    pack = msgpack.Packer(use_bin_type=True, strict_types=True).pack
    count = 0
    with written_whole(where) as file:
        for row in selected(view, prefix, strip, progress):
            try:
                file.write(pack(list(row)))
            except (TypeError, ValueError, OverflowError) as error:
                raise TypeError(f"key {row[0]!r}: no plain data: {error}") from error
            count += 1
    return count
