"""The pairs that every rival is given: keys of 14 bytes, 64 random bytes each, the same in every process."""

from __future__ import annotations

import hashlib
import random

DIRECTORY = "list/"
DIRECTORY_KEYS = 100


def key_of(number: int) -> str:
    """A key of 14 bytes."""
    return f"user:{number:09d}"


def listed_key(number: int) -> str:
    """A key of 14 bytes in the directory that is listed."""
    return f"{DIRECTORY}{number:09d}"


def value_of(number: int, version: int = 0) -> bytes:
    """64 bytes that do not compress, a function of the arguments: any process can check them."""
    seed = number.to_bytes(8, "little") + version.to_bytes(8, "little")
    return hashlib.blake2b(seed, digest_size=64).digest()


def make_pairs(count: int) -> list[tuple[str, bytes]]:
    """The pairs of a load, in random order."""
    numbers = list(range(count))
    random.Random(1).shuffle(numbers)
    return [(key_of(number), value_of(number)) for number in numbers]
