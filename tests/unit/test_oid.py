"""Ids: 32 bytes inside, hex at the edges."""

from __future__ import annotations

import pytest

from kvgit_hamt.errors import CommitNotFoundError, InvalidInputError
from kvgit_hamt.oid import oid_of, parse_hex


def test_an_oid_is_the_sha256_of_the_payload():
    assert oid_of(b"abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_an_id_is_read_in_either_case_whole_or_abbreviated():
    assert parse_hex("AbCd") == "abcd"
    assert parse_hex("F" * 64) == "f" * 64


@pytest.mark.parametrize("text", ["", "a", "abc"])
def test_an_id_of_less_than_four_digits_is_refused_as_too_short(text):
    with pytest.raises(InvalidInputError, match="too short"):
        parse_hex(text)


@pytest.mark.parametrize("text", ["a" * 65, "main", "12 34", "0x12ab", "１２３４", "abcdé", "-abc", "ab\ncd"])
def test_what_cannot_be_an_id_names_no_commit(text):
    with pytest.raises(CommitNotFoundError):
        parse_hex(text)


@pytest.mark.parametrize("value", [None, 1234, b"abcd", ["abcd"]])
def test_an_id_that_is_no_str_is_refused(value):
    with pytest.raises(InvalidInputError, match="is a str"):
        parse_hex(value)
