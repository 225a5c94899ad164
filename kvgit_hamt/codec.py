"""How values become bytes: msgpack (plain data, safe), pickle (any object), bytes, or the caller's pair.

The bytes decide what is equal: two values that encode alike are stored once, make no change in a diff
and no conflict in a merge. So msgpack here is canonical: map keys are sorted before they are packed.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final, NoReturn, TypeAlias

import msgpack

from kvgit_hamt.errors import DecodeError, EncodeError, InvalidInputError
from kvgit_hamt.wire import CLAIM_BYTES, check_claims

Encoder: TypeAlias = Callable[[Any], bytes]
Decoder: TypeAlias = Callable[[bytes], Any]

PICKLE_PROTOCOL: Final = 5  # fixed: another protocol gives other bytes for the same value
MAX_DEPTH: Final = 256  # levels of list and dict; far below what msgpack (1,024) and the Python stack bear
MAX_VALUE_BYTES: Final = 0xFFFF_FFFF - 10  # encoded: what LMDB holds, less a blob's header and its check
NAME_MAX: Final = 64  # characters of a codec's name, which each commit carries

_SCALARS: Final = frozenset({str, bytes, int, float, bool, type(None)})
_RESERVED: Final = frozenset({"msgpack", "pickle", "bytes"})


class Codec:
    """A named pair of encoder and decoder.

    ``encode`` and ``decode`` are the bare functions, for loops over many values; they raise whatever
    they raise, and ``encode_error`` / ``decode_error`` turn that into an error that names the key.

    Args:
        name: recorded in the store and compared when it is opened again; at most 64 characters.
        encoder: value -> bytes. Equal values should give equal bytes, else they read as changed.
        decoder: bytes -> value.

    Raises:
        InvalidInputError: a bad or reserved name, or a half that cannot be called.
    """

    __slots__ = ("decode", "encode", "name")

    name: str
    encode: Encoder
    decode: Decoder

    def __init__(self, name: str, encoder: Callable[[Any], Any], decoder: Decoder) -> None:
        if not isinstance(name, str) or not name or len(name) > NAME_MAX or not name.isprintable():
            raise InvalidInputError(f"a codec's name is 1 to {NAME_MAX} printable characters; got {name!r}")
        if name in _RESERVED:
            raise InvalidInputError(f"{name!r} is the name of a codec of the library; take another")
        if not callable(encoder) or not callable(decoder):
            raise InvalidInputError("a codec is two functions: value -> bytes and bytes -> value")
        self._fill(name, _bytes_only(encoder), decoder)

    def _fill(self, name: str, encode: Encoder, decode: Decoder) -> None:
        self.name = name
        self.encode = encode
        self.decode = decode

    def encode_for(self, key: str, value: Any) -> bytes:
        """Encode the value of a key.

        Raises:
            EncodeError: the codec cannot hold it, or no store can, since it is too large. The message
                names the key, the type and the way out.
        """
        try:
            data = self.encode(value)
        except Exception as error:  # pickle and a caller's encoder run code of the caller
            raise self.encode_error(key, value, error) from error
        return check_size(key, data)

    def decode_for(self, key: str, data: bytes) -> Any:
        """Decode the stored bytes of a key.

        Raises:
            DecodeError: they are not what this codec writes. The message names the key.
        """
        try:
            return self.decode(data)
        except Exception as error:  # pickle and a caller's decoder run code of the caller
            raise self.decode_error(key, error) from error

    def encode_error(self, key: str, value: Any, error: Exception) -> EncodeError:
        """The error to raise when ``encode(value)`` raised ``error``."""
        reason = str(error) or type(error).__name__
        what = f"key {key!r}: codec {self.name!r} cannot hold this {type(value).__name__}: {reason}"
        ways = {
            "msgpack": '; use codec="pickle" or an (encoder, decoder) pair',
            "bytes": '; encode it first, or use codec="msgpack", "pickle" or an (encoder, decoder) pair',
            "pickle": "; use an (encoder, decoder) pair",
        }
        return EncodeError(what + ways.get(self.name, ""))

    def decode_error(self, key: str, error: Exception) -> DecodeError:
        """The error to raise when ``decode`` raised ``error`` for the bytes of a key."""
        reason = str(error) or type(error).__name__
        return DecodeError(f"key {key!r}: its stored value is not what codec {self.name!r} writes: {reason}")

    def __repr__(self) -> str:
        return f"<Codec {self.name!r}>"


def check_size(key: str, data: bytes) -> bytes:
    """The encoded value of a key; EncodeError if it is larger than any store can hold."""
    if len(data) > MAX_VALUE_BYTES:
        raise EncodeError(
            f"key {key!r}: the value has {len(data):,} bytes when it is encoded, and a store holds "
            f"{MAX_VALUE_BYTES:,} at most; divide it over several keys"
        )
    return data


def get_codec(spec: object = "msgpack") -> Codec:
    """The codec that ``spec`` asks for.

    Args:
        spec: "msgpack", "pickle" or "bytes"; an (encoder, decoder) pair, which is named "custom"; or a
            Codec, which brings its own name.

    Raises:
        InvalidInputError: none of these.
    """
    if isinstance(spec, Codec):
        return spec
    if isinstance(spec, str) and spec in _BUILT_IN:
        return _BUILT_IN[spec]
    if isinstance(spec, tuple) and len(spec) == 2:
        return Codec("custom", *spec)
    raise InvalidInputError(
        f'codec must be "msgpack", "pickle", "bytes", an (encoder, decoder) pair or a Codec; got {spec!r}'
    )


def _bytes_only(encoder: Callable[[Any], Any]) -> Encoder:
    def encode(value: Any) -> bytes:
        data = encoder(value)
        if type(data) is not bytes:
            raise TypeError(f"the encoder returned {type(data).__name__}, not bytes")
        return data

    return encode


# --- bytes that stay as they are


@dataclass(frozen=True, slots=True)
class Undecoded:
    """The stored bytes of a value whose codec is not to be run, or not at hand."""

    data: bytes


def undecoded(name: str) -> Codec:
    """A stand-in for the codec of that name: values are ``Undecoded``, and nothing else can be stored.

    With it a store of pickles, or of a codec of somebody else's, can be looked at, diffed and merged
    without running any code of theirs: ``Repo(path, codec=undecoded("pickle"))``.
    """
    return _built_in(name, _encode_undecoded, Undecoded)


def _encode_undecoded(value: Any) -> bytes:
    if type(value) is not Undecoded:
        raise TypeError("values were not to be decoded, so none can be encoded")
    return value.data


# --- bytes


def _encode_bytes(value: Any) -> bytes:
    if type(value) is not bytes:
        raise TypeError(f"a value must be bytes, not {type(value).__name__}")
    return value


def _decode_bytes(data: bytes) -> bytes:
    return data


# --- pickle


def _encode_pickle(value: Any, _dumps: Callable[..., bytes] = pickle.dumps) -> bytes:
    return _dumps(value, PICKLE_PROTOCOL)


# --- msgpack

_KEEP_BYTES: Final = 1 << 20  # a packer that grew past this is dropped, not kept with its buffer
_SHAPES_MAX: Final = 4096  # key tuples remembered; a store of records has a handful
_SHAPE_KEYS_MAX: Final = 32  # longer ones are as a rule no records, and each is another

_Pack: TypeAlias = Callable[[Any], bytes]
_Order: TypeAlias = tuple[tuple[str, ...], Callable[[Any], tuple[Any, ...]]]

# Idle packers. One is taken out for the length of a call, so no two threads, and no finalizer that runs
# within a call, share one. Against msgpack.packb this saves 0.1 us of 0.16 for a short value.
_packers: list[_Pack] = []

# Keys of a dict, in its order -> None when they are sorted, else the sorted keys and a getter of their
# values. Records of one shape come in thousands; looking the shape up halves the cost of sorting.
_shapes: dict[tuple[Any, ...], _Order | None] = {}
_UNSEEN: Final[_Order] = ((), tuple)

_unpackb: Final = msgpack.unpackb
_only_str: Final = frozenset({str}).issuperset
_only_scalars: Final = _SCALARS.issuperset


def _new_packer() -> _Pack:
    pack: _Pack = msgpack.Packer(use_bin_type=True, strict_types=True).pack
    return pack


def _encode_msgpack(value: Any) -> bytes:
    try:
        kind = type(value)
        if kind not in _SCALARS and not (
            # The common record, flat and in order, without a further call.
            kind is dict
            and _shapes.get(tuple(value), _UNSEEN) is None
            and _only_scalars(map(type, value.values()))
        ):
            plain = _canonical(value, MAX_DEPTH)
        else:
            plain = value
        try:
            pack = _packers.pop()
        except IndexError:
            pack = _new_packer()
        data = pack(plain)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(_misfit(value, "", MAX_DEPTH) or str(error)) from error
    if len(data) <= _KEEP_BYTES:
        _packers.append(pack)
    return data


def _canonical(value: Any, levels: int) -> Any:
    """A list or dict with the keys of every dict in it sorted; the same object where that is so already."""
    kind = type(value)
    if not levels:
        raise ValueError("nested too deep")
    if kind is list:
        if _only_scalars(map(type, value)):
            return value
        return [item if type(item) in _SCALARS else _canonical(item, levels - 1) for item in value]
    if kind is dict:
        shape = tuple(value)
        order = _shapes.get(shape, _UNSEEN)
        if order is _UNSEEN:
            value = _sort(value, shape)
        elif order is not None:
            value = _reorder(value, order)
        if _only_scalars(map(type, value.values())):
            return value
        return {
            key: item if type(item) in _SCALARS else _canonical(item, levels - 1)
            for key, item in value.items()
        }
    raise TypeError("not plain data")


def _reorder(value: dict[Any, Any], order: _Order) -> dict[Any, Any]:
    # A key of a class derived from str finds the shape too; it must not become a plain str unseen.
    if not _only_str(map(type, value)):
        raise TypeError("a key is not plain data")
    keys, values_of = order
    return dict(zip(keys, values_of(value)))  # noqa: B905 - equally long; saying so costs 0.2 us


def _sort(value: dict[Any, Any], shape: tuple[Any, ...]) -> dict[Any, Any]:
    if _only_str(map(type, shape)):
        keys = tuple(sorted(shape))
        if len(shape) <= _SHAPE_KEYS_MAX:
            if len(_shapes) >= _SHAPES_MAX:
                _shapes.clear()
            _shapes[shape] = None if keys == shape else (keys, itemgetter(*keys))
    elif _only_scalars(map(type, shape)):
        keys = tuple(sorted(shape, key=_new_packer()))  # kinds that Python cannot compare, in a fixed order
    else:
        raise TypeError("a key is not plain data")
    return value if keys == shape else {key: value[key] for key in keys}


def _misfit(value: Any, where: str, levels: int) -> str | None:
    """What keeps ``value`` from being packed and where in it that is; None when nothing does."""
    kind = type(value)
    at = f"at {where}, " if where else ""
    if kind is list or kind is dict:
        if not levels:
            return f"lists and dicts nested deeper than {MAX_DEPTH} levels, or one that holds itself"
        return _misfit_within(value, where, levels)
    if kind is int and not -(1 << 63) <= value < 1 << 64:
        return f"{at}an int beyond 64 bits"
    if kind is str and not _is_unicode(value):
        return f"{at}a str with a lone surrogate, which is not Unicode"
    if kind in _SCALARS:
        return None
    # Only these come back as they were; a tuple would be a list, a subclass its parent.
    return f"{at}{kind.__name__} is none of None, bool, int, float, str, bytes, list, dict"


def _misfit_within(value: list[Any] | dict[Any, Any], where: str, levels: int) -> str | None:
    items: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        if isinstance(value, dict):
            if type(key) not in _SCALARS:
                at = f"at {where}, " if where else ""
                return f"{at}a dict key of type {type(key).__name__}"
            if fault := _misfit(key, f"{where}[{key!r}]", levels):
                return fault
        if fault := _misfit(item, f"{where}[{key!r}]", levels - 1):
            return fault
    return None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# First bytes of a list or a dict; nothing else can hold an extension or a key.
_CONTAINERS: Final = frozenset([*range(0x80, 0xA0), *range(0xDC, 0xE0)])


def _decode_msgpack(data: bytes) -> Any:
    if data and data[0] in _CONTAINERS:
        if len(data) > CLAIM_BYTES:
            check_claims(data)
        value = _unpackb(data, strict_map_key=False, ext_hook=_refuse_extension)
        # No UTF-8 text holds the byte ff, so most values end here.
        if 255 in data and (b"\xd6\xff" in data or b"\xd7\xff" in data or b"\xc7\x0c\xff" in data):
            _refuse_timestamps(value)
        return value
    value = _unpackb(data)
    if type(value) not in _SCALARS:
        raise ValueError("a msgpack extension type, which this codec never writes")
    return value


def _refuse_extension(code: int, _data: bytes) -> NoReturn:
    raise ValueError(f"msgpack extension type {code}, which this codec never writes")


def _refuse_timestamps(value: Any) -> None:
    # Extension -1, which msgpack decodes without asking the hook; its heads are d6 ff, d7 ff, c7 0c ff.
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            pending.extend(item)
        elif isinstance(item, dict):
            pending.extend(item)
            pending.extend(item.values())
        elif isinstance(item, msgpack.Timestamp):
            _refuse_extension(-1, b"")


def _built_in(name: str, encode: Encoder, decode: Decoder) -> Codec:
    codec = Codec.__new__(Codec)
    codec._fill(name, encode, decode)
    return codec


_BUILT_IN: Final[dict[str, Codec]] = {
    "msgpack": _built_in("msgpack", _encode_msgpack, _decode_msgpack),
    "pickle": _built_in("pickle", _encode_pickle, pickle.loads),
    "bytes": _built_in("bytes", _encode_bytes, _decode_bytes),
}
