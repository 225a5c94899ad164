"""Where a key lies in the tree: its path of 128 bits, and the parameters that shape a tree.

Spec: docs/format.md, "Paths".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from xxhash import xxh3_64_intdigest, xxh3_128_digest, xxh3_128_intdigest

from kvgit_hamt.errors import CorruptionError

PATH_BITS = 128
TAIL_BITS = 512  # blake2b of the key goes on where the first 128 bits run out
TOTAL_BITS = PATH_BITS + TAIL_BITS
DIR_BITS = 16  # bits that one directory gives to the path: whole levels at 2 and 4 bits a level
MAX_DIRS = 4  # directories that count; more would leave too few bits for the key itself
MAX_KEY_BYTES = 65_535
TOO_DEEP = "inner nodes lie deeper than any path leads"
_PATH_MASK = (1 << PATH_BITS) - 1

_SLASH = ord("/")

PathHash = Callable[[bytes], int]


def path_of(key: bytes) -> int:
    """The path of a key: 16 bits for each of its first four directories, then xxh3_128 of the key.

    A directory is a prefix of the key that ends in "/". All keys below one share its bits, so they
    lie in one subtree. Forged collisions are expected: see ``tail_of``.
    """
    if _SLASH not in key:
        return xxh3_128_intdigest(key)
    bits = 0
    taken = 0
    at = key.find(b"/")
    while at >= 0 and taken < MAX_DIRS * DIR_BITS:
        bits = bits << DIR_BITS | xxh3_64_intdigest(key[: at + 1]) >> 64 - DIR_BITS
        taken += DIR_BITS
        at = key.find(b"/", at + 1)
    return bits << PATH_BITS - taken | xxh3_128_intdigest(key) >> taken


def packed_paths(keys: Sequence[bytes]) -> list[bytes]:
    """The paths of many keys, 16 bytes each, big-endian: they sort as the paths do."""
    return [xxh3_128_digest(key) if _SLASH not in key else path_of(key).to_bytes(16, "big") for key in keys]


def tail_of(key: bytes) -> int:
    """512 more bits of path, cryptographic: whoever forges xxh3 gains some levels, no more."""
    return int.from_bytes(blake2b(key).digest(), "big")


def text_of(key: bytes) -> str:
    """A stored key as text; CorruptionError if it is no UTF-8, which nobody can have set."""
    try:
        return key.decode()
    except UnicodeDecodeError as error:
        raise CorruptionError(f"the stored key {key!r:.80} is no UTF-8") from error


def prefix_bits(prefix: bytes) -> tuple[int, int]:
    """The path bits that all keys below ``prefix`` share.

    Returns:
        (bits, how many): from the directories that ``prefix`` contains, at most four; (0, 0) for
        a prefix without "/". What follows its last "/" gives no bits: a scan filters by the key.
    """
    bits = 0
    taken = 0
    at = prefix.find(b"/")
    while at >= 0 and taken < MAX_DIRS * DIR_BITS:
        bits = bits << DIR_BITS | xxh3_64_intdigest(prefix[: at + 1]) >> 64 - DIR_BITS
        taken += DIR_BITS
        at = prefix.find(b"/", at + 1)
    return bits, taken


@dataclass(frozen=True)
class Shape:
    """What decides the form of a tree; written into a store when it is made.

    Attributes:
        bits: levels of the binary trie in one inner node: 2, 4 or 6 (2^bits slots).
        leaf_max: largest weight of a leaf, in bytes. With its header, check and LMDB's own
            overhead a record stays inside an LMDB page at 1,950.
        inline_max: largest value that lies in the leaf, in bytes; larger ones are blobs.
        index_min: inner nodes over this many entries are found again by oid.
        hash, tail: path and further bits of a key. Tests pass poor ones to force deep trees.
        prefix: the leading path bits that all keys below a prefix share; goes with ``hash``.
    """

    bits: int = 4
    leaf_max: int = 1_950
    inline_max: int = 512
    index_min: int = 1_024
    hash: PathHash = path_of
    tail: PathHash = tail_of
    prefix: Callable[[bytes], tuple[int, int]] = prefix_bits

    def __post_init__(self) -> None:
        if self.bits not in (2, 4, 6):
            raise ValueError(f"bits must be 2, 4 or 6, not {self.bits}")
        if not 64 <= self.leaf_max <= 32_768:
            raise ValueError(f"leaf_max must be 64 to 32,768 bytes, not {self.leaf_max}")
        if not 40 <= self.inline_max <= 32_768:
            raise ValueError(f"inline_max must be 40 to 32,768 bytes, not {self.inline_max}")

    @property
    def slots(self) -> int:
        """Slots of an inner node."""
        return 1 << self.bits

    @property
    def max_level(self) -> int:
        """The deepest level an inner node can have; below it leaves grow without bound."""
        return TOTAL_BITS // self.bits - 1

    def packed_paths(self, keys: Sequence[bytes]) -> list[bytes]:
        """The paths of many keys, 16 bytes each, big-endian."""
        if self.hash is path_of:
            return packed_paths(keys)
        return [self.hash(key).to_bytes(16, "big") for key in keys]

    def slot(self, key: bytes, path: int, level: int) -> int:
        """The slot of a key in an inner node at ``level`` (the root is level 0).

        Raises:
            CorruptionError: no inner node lies that deep.
        """
        shift = PATH_BITS - self.bits * (level + 1)
        if shift >= 0:
            return path >> shift & self.slots - 1
        if level > self.max_level:
            raise CorruptionError(TOO_DEEP)
        whole = path << TAIL_BITS | self.tail(key)
        return whole >> TOTAL_BITS - self.bits * (level + 1) & self.slots - 1

    def is_leaf(self, count: int, size: int) -> bool:
        """Whether entries of this count and size make a leaf (above the deepest level)."""
        return size + ENTRY_BYTES * count <= self.leaf_max or count <= 1


ENTRY_BYTES = 5  # what an entry weighs beyond its key and value: a tag and two u16 ends
