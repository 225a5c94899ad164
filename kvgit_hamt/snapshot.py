"""Reading one tree: what snapshots and worktrees share, and the snapshot itself."""

from __future__ import annotations

import random
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, cast

from kvgit_hamt import hamt, kernel, node, scan, tables
from kvgit_hamt.codec import Codec, get_codec
from kvgit_hamt.errors import ClosedError, CorruptionError, InvalidInputError, InvalidKeyError, KeyTypeError
from kvgit_hamt.hamt import Tree
from kvgit_hamt.objects import CommitObject
from kvgit_hamt.path import MAX_KEY_BYTES, text_of
from kvgit_hamt.refs import describe
from kvgit_hamt.results import Commit
from kvgit_hamt.store import ObjectReader

if TYPE_CHECKING:
    from typing_extensions import Self


def check_length(key: bytes) -> None:
    """InvalidKeyError if an encoded key is too long."""
    if len(key) > MAX_KEY_BYTES:
        shown = key[:20].decode(errors="replace")
        raise InvalidKeyError(f"key {shown!r}.. has {len(key):,} bytes; the most is {MAX_KEY_BYTES:,}")


def encode_key(key: str) -> bytes:
    """A key as it is stored: UTF-8, never normalised.

    Raises:
        KeyTypeError: not a ``str``.
        InvalidKeyError: longer than 65,535 bytes, or with a lone surrogate.
    """
    if not isinstance(key, str):
        raise KeyTypeError(f"a key is a str, not {type(key).__name__} ({key!r:.60})")
    try:
        data = key.encode()
    except UnicodeEncodeError as error:
        raise InvalidKeyError(f"key {key!r:.60} holds a lone surrogate; it is not valid Unicode") from error
    check_length(data)
    return data


def encode_keys(keys: Iterable[str]) -> list[bytes]:
    """Several keys as they are stored; one ``str`` is refused, since its characters are hardly meant."""
    if isinstance(keys, str):
        raise InvalidInputError("give a list of keys, not one str")
    return [encode_key(key) for key in keys]


class Owner(Protocol):
    """What a view was opened from."""

    @property
    def is_closed(self) -> bool:
        """Whether views of it may no longer be used."""


class RawView(Mapping[str, bytes]):
    """The stored bytes of a view's values, before any codec."""

    def __init__(self, view: TreeView) -> None:
        self._view = view

    def __getitem__(self, key: str) -> bytes:
        data = self._view._find(encode_key(key))
        if data is None:
            raise KeyError(key)
        return data

    def __iter__(self) -> Iterator[str]:
        return iter(self._view.keys())

    def __len__(self) -> int:
        return len(self._view)

    def items(self, prefix: str = "") -> Iterator[tuple[str, bytes]]:  # type: ignore[override]
        """(key, stored bytes) of the keys that start with ``prefix``."""
        return self._view._raw_items(encode_key(prefix))


class Keys(KeysView[str]):
    """The keys under a prefix: a set-like view that iterates lazily. ``len`` of a part counts it."""

    def __init__(self, view: TreeView, prefix: bytes) -> None:
        self._mapping: TreeView = view
        self._prefix = prefix

    def __iter__(self) -> Iterator[str]:
        return self._mapping._keys(self._prefix)

    def __len__(self) -> int:
        return sum(1 for _ in self) if self._prefix else len(self._mapping)

    def __contains__(self, key: object) -> bool:
        return encode_key(cast(str, key)).startswith(self._prefix) and key in self._mapping


class Items(ItemsView[str, Any]):
    """The (key, value) pairs under a prefix."""

    def __init__(self, view: TreeView, prefix: bytes) -> None:
        self._mapping: TreeView = view
        self._prefix = prefix

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return self._mapping._items(self._prefix)

    def __len__(self) -> int:
        return len(Keys(self._mapping, self._prefix))


class Values(ValuesView[Any]):
    """The values under a prefix."""

    def __init__(self, view: TreeView, prefix: bytes) -> None:
        self._mapping: TreeView = view
        self._prefix = prefix

    def __iter__(self) -> Iterator[Any]:
        return (value for _, value in self._mapping._items(self._prefix))

    def __len__(self) -> int:
        return len(Keys(self._mapping, self._prefix))


class TreeView(Mapping[str, Any]):
    """A read-only mapping over one tree. Iteration is in path order: stable, but not by key."""

    _store: ObjectReader
    _codec: Codec
    _tree: Tree
    _owner: Owner
    _is_closed = False

    @property
    def is_closed(self) -> bool:
        """Whether it was closed."""
        return self._is_closed

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClosedError(f"this {type(self).__name__.lower()} was closed")
        if self._owner.is_closed:
            raise ClosedError("the repository was closed; open it again")

    def _find(self, key: bytes) -> bytes | None:
        """The stored bytes of a key, None if it is absent."""
        if self._is_closed or self._owner.is_closed:
            self._check_open()
        store = self._store
        value = hamt.get(store, store.shape, self._tree, key)
        if value is None or isinstance(value, bytes):
            return value
        return store.read_blob(value)

    def _find_many(self, keys: list[bytes]) -> dict[bytes, bytes]:
        self._check_open()
        found = hamt.get_many(self._store, self._store.shape, self._tree, keys)
        return {key: self._store.load_value(value) for key, value in found.items()}

    def _raw_items(self, prefix: bytes) -> Iterator[tuple[str, bytes]]:
        self._check_open()
        load = self._store.load_value
        for key, value in scan.items(self._store, self._store.shape, self._tree, prefix):
            yield text_of(key), load(value)

    def _count(self) -> int:
        self._check_open()
        return hamt.summary(self._store, self._tree)[0]

    @property
    def raw(self) -> RawView:
        """The same mapping with the stored bytes as values."""
        return RawView(self)

    @property
    def byte_size(self) -> int:
        """Bytes of all keys and stored values. Cost: one node read."""
        self._check_open()
        _, size, extra = hamt.summary(self._store, self._tree)
        return size + extra

    def __getitem__(self, key: str) -> Any:
        data = self._find(encode_key(key))
        if data is None:
            raise KeyError(key)
        try:
            return self._codec.decode(data)
        except Exception as error:
            raise self._codec.decode_error(key, error) from error

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, ``default`` if it is absent.

        Raises:
            KeyTypeError, InvalidKeyError: this can be no key.
            CorruptionError: a node on the way is missing or damaged; it never reads as absent.

        Cost: one node read a level; with warm inner nodes one.
        """
        data = self._find(encode_key(key))
        if data is None:
            return default
        try:
            return self._codec.decode(data)
        except Exception as error:
            raise self._codec.decode_error(key, error) from error

    def __contains__(self, key: object) -> bool:
        return self._find(encode_key(cast(str, key))) is not None

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """The values of those keys that are present.

        Cost: each node on the way is read once, a level in one step.
        """
        wanted = encode_keys(keys)
        found = self._find_many(wanted)
        decode = self._codec.decode_for
        return {(text := key.decode()): decode(text, found[key]) for key in wanted if key in found}

    def __len__(self) -> int:
        """Cost: one node read, whatever the size."""
        return self._count()

    def __iter__(self) -> Iterator[str]:
        return self._keys(b"")

    def keys(self, prefix: str = "") -> Keys:
        """A view of the keys that start with ``prefix``; iterates in path order.

        Cost: for a prefix with a "/", the nodes of that directory (up to four levels of it), not
        those of the store. Memory O(depth).
        """
        return Keys(self, encode_key(prefix))

    def items(self, prefix: str = "") -> Items:
        """A view of the (key, value) pairs whose key starts with ``prefix``. Cost: as ``keys``."""
        return Items(self, encode_key(prefix))

    def values(self, prefix: str = "") -> Values:
        """A view of the values whose key starts with ``prefix``. Cost: as ``keys``."""
        return Values(self, encode_key(prefix))

    def _keys(self, prefix: bytes) -> Iterator[str]:
        self._check_open()
        return _texts(scan.keys(self._store, self._store.shape, self._tree, prefix))

    def _items(self, prefix: bytes) -> Iterator[tuple[str, Any]]:
        self._check_open()
        store = self._store
        decode = self._codec.decode
        is_plain = self._codec is get_codec("bytes")
        window = scan.window_of(store.shape, prefix)
        for body in scan.leaf_bodies(store, store.shape, self._tree, window):
            if prefix or node.has_blobs(body):
                for key, value in kernel.leaf_items(body):
                    if key.startswith(prefix):
                        text = text_of(key)
                        yield text, self._codec.decode_for(text, store.load_value(value))
            else:
                try:
                    pairs = kernel.leaf_texts(body)
                    if not is_plain:
                        pairs = [(key, decode(value)) for key, value in pairs]
                except Exception:  # noqa: BLE001 (the decoder's own; found again below, with its key)
                    pairs = [self._decode_pair(*pair) for pair in kernel.leaf_inline_items(body)]
                yield from pairs

    def _decode_pair(self, key: bytes, data: bytes) -> tuple[str, Any]:
        text = text_of(key)
        return text, self._codec.decode_for(text, data)

    def sample(self, count: int, seed: int | None = None) -> list[tuple[str, Any]]:
        """``count`` different entries, drawn uniformly (all, if there are fewer).

        Args:
            seed: the same seed draws the same entries from equal trees.

        Cost: O(count x depth) node reads.
        """
        self._check_open()
        if count < 0:
            raise InvalidInputError(f"cannot sample {count} entries")
        store = self._store
        drawn = scan.sample(store, store.shape, self._tree, count, random.Random(seed))
        load, decode = store.load_value, self._codec.decode_for
        return [((text := text_of(key)), decode(text, load(value))) for key, value in drawn]

    def to_arrow(self, **options: Any) -> Any:
        """The keys with their fields as a ``pyarrow.Table``; see ``tables.batches`` for the arguments."""
        return tables.to_arrow(self, **options)

    def arrow_batches(self, **options: Any) -> Any:
        """The same as a ``pyarrow.RecordBatchReader``, whose batches are read one by one."""
        return tables.batches(self, **options)

    def to_pandas(self, **options: Any) -> Any:
        """The same as a ``pandas.DataFrame`` with the keys as index."""
        return tables.to_pandas(self, **options)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, TreeView) and other._store is self._store:
            oids = (self._content_oid(), other._content_oid())
            if None not in oids:
                return oids[0] == oids[1]
        return Mapping.__eq__(self, other)

    def _content_oid(self) -> bytes | None:
        """The oid of a tree that holds just what this view shows, None if there may be none."""
        return self._tree.oid

    __hash__ = None  # type: ignore[assignment]


def _texts(keys: Iterator[bytes]) -> Iterator[str]:
    """Stored keys as text; as ``text_of``, in a loop that costs no call for each."""
    try:
        yield from map(bytes.decode, keys)
    except UnicodeDecodeError as error:
        raise CorruptionError(f"the stored key {error.object!r:.80} is no UTF-8") from error


def _refuse(is_closed: bool) -> NoReturn:
    """For a lookup whose snapshot, or else whose repository, was closed."""
    raise ClosedError("this snapshot was closed" if is_closed else "the repository was closed; open it again")


class Snapshot(TreeView):
    """One commit, read only. Safe to share between threads.

    Attributes:
        id: the commit's id.
    """

    def __init__(self, store: ObjectReader, codec: Codec, commit: CommitObject, owner: Owner) -> None:
        self._store = store
        self._owner = owner
        self._codec = codec
        self._tree = Tree(*commit.tree)
        self._commit = commit
        self._lookup = self._make_lookup()
        if self._lookup is not None and type(self).get is TreeView.get:
            self.get = self._lookup.get  # type: ignore[method-assign]

    def _make_lookup(self) -> kernel.Lookup | None:
        """The compiled kernel's way to this tree, where there is one."""
        ways = getattr(self._store, "ways", None)
        if ways is None:
            return None
        codec = None if self._codec is get_codec("bytes") else self._codec
        return kernel.Lookup(ways, self._tree, codec, encode_key, _refuse)

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """The values of those keys that are present.

        Cost: each node on the way is read once; where leaves cannot be read in place, a level in one step.
        """
        lookup = self._lookup
        if lookup is None or not lookup.has_door or isinstance(keys, str):
            return super().get_many(keys)
        return lookup.get_many(keys)

    @property
    def id(self) -> str:
        """The id of the commit."""
        return self._commit.oid.hex()

    @property
    def pinned_oid(self) -> bytes:
        """The commit that gc must keep while this snapshot is open."""
        return self._commit.oid

    @property
    def commit(self) -> Commit:
        """The commit: its parents, time and info."""
        return describe(self._commit)

    def close(self) -> None:
        """Release the snapshot; using it afterwards raises ClosedError."""
        self._is_closed = True
        if self._lookup is not None:
            self._lookup.is_closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Snapshot {self.id[:8]}>"
