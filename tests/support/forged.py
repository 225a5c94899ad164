"""Keys forged to share one xxh3_64 and one xxh3_128, without any search.

XXH3 without a seed mixes an input of more than 240 bytes in stripes of eight lanes of eight bytes.
Lane ``l`` of stripe ``n`` is combined with eight bytes of a public secret that start at 8 x (n + l),
and adds two things to its state: the product of the two halves of (lane xor secret), and the lane
itself, to its neighbour. Where the upper half of a lane equals the secret's, the product is zero
whatever its lower half is; and where one lane of two stripes is so, and the two lower halves keep
their sum, nothing of what was chosen is left in the state.
"""

from __future__ import annotations

from itertools import islice, product

LANE = 16  # offset of lane 2 in stripe 0: the secret's bytes 16 to 24 stand against it
NEXT = LANE + 64  # the same lane of stripe 1, against bytes 24 to 32
SECRET = bytes.fromhex("b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f")
LETTERS = range(0x30, 0x70)  # 64 characters without "/", which would make directories
MIRROR = 0x30 + 0x6F


def forged_keys(count: int, start: bytes = b"") -> list[bytes]:
    """Up to 262,144 keys of 300 bytes, valid UTF-8, that begin with ``start`` (16 bytes at most)."""
    assert len(start) <= LANE and count <= len(LETTERS) ** 3
    key = bytearray(start.ljust(300, b"x"))
    # F1 and E4 open, and 80 ends, the characters of which the secret's bytes are the middle
    key[LANE + 3] = 0xF1
    key[LANE + 4 : LANE + 8] = SECRET[20:24]
    key[LANE + 8] = 0x80
    key[NEXT + 3] = 0xE4
    key[NEXT + 4 : NEXT + 8] = SECRET[28:32]
    keys = []
    for letters in islice(product(LETTERS, repeat=3), count):
        key[LANE : LANE + 3] = bytes(letters)
        key[NEXT : NEXT + 3] = bytes(MIRROR - letter for letter in letters)
        keys.append(bytes(key))
    return keys
