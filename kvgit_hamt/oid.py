"""Object ids: SHA-256 of a payload. 32 bytes inside, lower-case hex at the edges."""

from __future__ import annotations

from hashlib import sha256

from kvgit_hamt.errors import CommitNotFoundError, InvalidInputError

OID_BYTES = 32
MIN_ABBREVIATION = 4  # characters; shorter ones are ambiguous in any store of some size
_HEX = frozenset("0123456789abcdef")


def oid_of(payload: bytes) -> bytes:
    """The oid of a payload: its SHA-256, 32 bytes."""
    return sha256(payload).digest()


def parse_hex(text: str) -> str:
    """Check a full or abbreviated commit id and return it in lower case.

    Raises:
        InvalidInputError: not a ``str``, or shorter than four characters.
        CommitNotFoundError: longer than an id, or not hexadecimal, so no commit can have it.
    """
    if not isinstance(text, str):
        raise InvalidInputError(f"a commit id is a str of hex digits, not {type(text).__name__}")
    lowered = text.lower()
    if len(lowered) < MIN_ABBREVIATION:
        raise InvalidInputError(
            f"commit id {text!r} is too short; give {MIN_ABBREVIATION} characters or more"
        )
    if len(lowered) > 2 * OID_BYTES or not _HEX.issuperset(lowered):
        shown = repr(text if len(text) <= 80 else text[:77] + "...")
        raise CommitNotFoundError(f"{shown} is not a commit id (up to 64 hex digits)")
    return lowered
