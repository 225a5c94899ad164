"""The bytes of a bundle: header, frames and trailer, written and read as a stream.

Spec: docs/format.md, "Bundles".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest
from typing import Any, BinaryIO, Final, NamedTuple

from kvgit_hamt import wire
from kvgit_hamt.errors import CorruptionError, FormatVersionError, InvalidInputError, InvalidNameError
from kvgit_hamt.objects import HASH_NAME, is_oid
from kvgit_hamt.oid import OID_BYTES
from kvgit_hamt.path import Shape
from kvgit_hamt.refs import HEADS, TAGS, check_name

MAGIC: Final = b"KVHBUNDL"
VERSION: Final = 1
END, COMMIT, BASE, OBJECT = 0, 1, 2, 3  # kinds of frames
MAX_HEADER_BYTES: Final = 32 << 20  # refs and prerequisites; some 100,000 of them
MAX_OBJECT_BYTES: Final = 0xFFFF_FFFF  # what a store can hold in one record at most (LMDB)
MAX_DEPTH: Final = 1_024  # slots in a path; trees of the smallest nodes have 320 levels
_STEP: Final = 1 << 20  # read at a time: a length that lies costs no memory
_OPENING = struct.Struct("<8sII")
_BASE = struct.Struct("<IH")
_LENGTH = struct.Struct("<Q")
_KEYS: Final = {"bits", "codec", "commits", "hash", "heads", "inline_max", "leaf_max", "prerequisites"}


class Head(NamedTuple):
    """A commit that a bundle is there for.

    Attributes:
        name: "heads/NAME", "tags/NAME", or None for a commit without a name.
        oid: the commit's.
        info: of a tag.
    """

    name: str | None
    oid: bytes
    info: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Header:
    """What a bundle says of itself.

    Attributes:
        shape: the form of its trees (``index_min`` is none of it).
        codec: name of the codec of its values.
        heads: by name, those without one last.
        prerequisites: commits that are not in the bundle and must be there where it is loaded, sorted.
        commit_count: commits in it.
    """

    shape: Shape
    codec: str
    heads: tuple[Head, ...]
    prerequisites: tuple[bytes, ...]
    commit_count: int

    def encode(self) -> bytes:
        """Canonical msgpack."""
        return wire.pack({
            "bits": self.shape.bits, "leaf_max": self.shape.leaf_max, "inline_max": self.shape.inline_max,
            "hash": HASH_NAME, "codec": self.codec, "heads": [list(head) for head in self.heads],
            "prerequisites": list(self.prerequisites), "commits": self.commit_count,
        })  # fmt: skip


def decode_header(data: bytes) -> Header:
    """A header from its bytes.

    Raises:
        CorruptionError: they are none. FormatVersionError: parameters that no store has.
    """
    fields = wire.unpack(data, "the bundle's header")
    if not isinstance(fields, dict) or set(fields) != _KEYS:
        raise CorruptionError("the bundle's header is malformed")
    numbers = {name: fields[name] for name in ("bits", "leaf_max", "inline_max")}
    if fields["hash"] != HASH_NAME or any(type(number) is not int for number in numbers.values()):
        raise FormatVersionError("the bundle uses parameters that this version does not know")
    try:
        shape = Shape(**numbers)
    except ValueError as error:
        raise FormatVersionError(f"the bundle uses unknown parameters: {error}") from error
    heads, needed = fields["heads"], fields["prerequisites"]
    are_known = isinstance(heads, list) and all(map(_is_head, heads))
    are_oids = isinstance(needed, list) and all(map(is_oid, needed))
    if not (are_known and are_oids and isinstance(fields["codec"], str) and _is_count(fields["commits"])):
        raise CorruptionError("the bundle's header is malformed")
    named = [head[0] for head in heads if head[0] is not None]
    if len(set(named)) != len(named) or needed != sorted(set(needed)) or not heads:
        raise CorruptionError("the bundle's header names something twice, or nothing")
    return Header(
        shape, fields["codec"], tuple(Head(*head) for head in heads), tuple(needed), fields["commits"]
    )


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_head(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 3 or not is_oid(value[1]):
        return False
    name, _, info = value
    if not isinstance(info, (dict, type(None))):
        return False
    if name is None:
        return info is None
    if not isinstance(name, str) or not name.startswith((HEADS, TAGS)):
        return False
    try:
        check_name(name.partition("/")[2])
    except InvalidNameError:
        return False
    return name.startswith(TAGS) or info is None


class FrameWriter:
    """Writes a bundle to a binary file, from the opening to the trailer."""

    def __init__(self, file: BinaryIO, header: Header) -> None:
        self._file = file
        self._hash = sha256()
        self.object_count = 0
        self.byte_count = 0
        data = header.encode()
        if len(data) > MAX_HEADER_BYTES:
            raise InvalidInputError("a bundle cannot hold so many names; bundle some of them")
        self._write(_OPENING.pack(MAGIC, VERSION, len(data)), data)

    def _write(self, *parts: bytes) -> None:
        for part in parts:
            self._hash.update(part)
            self._put(part)

    def _put(self, data: bytes) -> None:
        left = memoryview(data)
        self.byte_count += len(left)
        while left:
            done = self._file.write(left)
            left = left[done:] if done is not None else left[len(left) :]

    def commit(self, oid: bytes) -> None:
        """Announce the commit that the next objects belong to."""
        self._write(bytes((COMMIT,)), oid)

    def base(self, prerequisite: int, slots: bytes) -> None:
        """Point to an inner node of a prerequisite's tree whose children the next objects refer to."""
        self._write(bytes((BASE,)), _BASE.pack(prerequisite, len(slots)), slots)

    def object(self, oid: bytes, payload: bytes) -> None:
        """An object; what it refers to went before."""
        self._write(bytes((OBJECT,)), oid, _LENGTH.pack(len(payload)), payload)
        self.object_count += 1

    def end(self) -> None:
        """The trailer: how many objects, and the SHA-256 of all before it."""
        self._write(bytes((END,)), _LENGTH.pack(self.object_count))
        self._put(self._hash.digest())


class Frame(NamedTuple):
    """One frame. Fields that its kind does not have are empty.

    Attributes:
        kind: COMMIT, BASE or OBJECT.
        oid: of a commit that begins, or of an object.
        payload: of an object; its SHA-256 was compared with the oid.
        prerequisite, slots: of a base.
        offset: of the payload in the file.
    """

    kind: int
    oid: bytes
    payload: bytes
    prerequisite: int
    slots: bytes
    offset: int


class FrameReader:
    """Reads a bundle from a binary file. Whatever is wrong with it raises CorruptionError.

    Args:
        size: of the file from here on, if known: then a length past its end is refused before reading.

    Attributes:
        header: read and checked by the constructor.
        position: bytes read so far.
        object_count: objects read so far.
        size: see above.

    Raises:
        CorruptionError: no bundle, or damaged. FormatVersionError: of another version.
    """

    def __init__(self, file: BinaryIO, size: int | None = None) -> None:
        self._file = file
        self.size = size
        self._hash = sha256()
        self.position = 0
        self.object_count = 0
        magic, version, length = _OPENING.unpack(self._take(_OPENING.size))
        if magic != MAGIC:
            raise CorruptionError("this is no bundle, or its first bytes are damaged")
        if version != VERSION:
            raise FormatVersionError(
                f"the bundle has version {version}; this library reads version {VERSION}"
            )
        if length > MAX_HEADER_BYTES:
            raise CorruptionError("the bundle's header is longer than any can be")
        self._header_bytes = self._take(length)
        self.header = decode_header(self._header_bytes)

    @property
    def id(self) -> bytes:
        """16 bytes that stand for what is in the bundle: of the SHA-256 of its header."""
        return sha256(self._header_bytes).digest()[:16]

    def _take(self, count: int) -> bytes:
        """Exactly so many bytes."""
        if self.size is not None and count > self.size - self.position:
            raise CorruptionError("the bundle is cut: it ends inside what it says it holds")
        parts: list[bytes] = []
        left = count
        while left:
            part = self._file.read(min(left, _STEP))
            if not part:
                raise CorruptionError("the bundle is cut: it ends inside what it says it holds")
            self._hash.update(part)
            parts.append(part)
            left -= len(part)
        self.position += count
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def frames(self) -> Iterator[Frame]:
        """All frames in order; ends when the trailer was found right and nothing follows it."""
        while True:
            kind = self._take(1)[0]
            if kind == OBJECT:
                yield self._object()
            elif kind == COMMIT:
                yield Frame(COMMIT, self._take(OID_BYTES), b"", 0, b"", 0)
            elif kind == BASE:
                number, depth = _BASE.unpack(self._take(_BASE.size))
                if number >= len(self.header.prerequisites) or depth > MAX_DEPTH:
                    raise CorruptionError("the bundle points to a prerequisite that it does not name")
                yield Frame(BASE, b"", b"", number, self._take(depth), 0)
            elif kind == END:
                self._end()
                return
            else:
                raise CorruptionError(f"the bundle holds something unknown at byte {self.position - 1}")

    def _object(self) -> Frame:
        oid = self._take(OID_BYTES)
        (length,) = _LENGTH.unpack(self._take(_LENGTH.size))
        if length > MAX_OBJECT_BYTES:
            raise CorruptionError(f"object {oid.hex()} of the bundle is longer than any can be")
        offset = self.position
        payload = self._take(length)
        if not is_same(sha256(payload).digest(), oid):
            raise CorruptionError(f"object {oid.hex()} of the bundle is damaged: it has another SHA-256")
        self.object_count += 1
        return Frame(OBJECT, oid, payload, 0, b"", offset)

    def _end(self) -> None:
        (count,) = _LENGTH.unpack(self._take(_LENGTH.size))
        digest = self._hash.digest()
        if count != self.object_count or not is_same(self._take(len(digest)), digest):
            raise CorruptionError("the bundle is damaged: its trailer does not fit what came before")
        if self._file.read(1):
            raise CorruptionError("something follows the end of the bundle")


def is_same(one: bytes, other: bytes) -> bool:
    """Whether two digests are equal: the one place where a bundle's are compared."""
    return compare_digest(one, other)
