"""Where keys lie: known paths, directories, and the parameters of a tree."""

from __future__ import annotations

from hashlib import blake2b

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest, xxh3_128_intdigest

from kvgit_hamt import path as plain_path
from kvgit_hamt.path import Shape, prefix_bits, tail_of
from tests.support.kernels import InUse
from tests.support.trees import no_bits

path_of = InUse(plain_path).path_of


@pytest.mark.parametrize(
    ("key", "path"),
    [
        (b"", "99aa06d3014798d86001c324468d497f"),
        (b"a", "a96faf705af16834e6c632b61e964e1f"),
        (b"users/42/name", "27dbb6d74f87f3357697e41fbcfc4749"),
        (b"a/b/c/d/e/f", "1e54bd19580c19083a7f212a24e2b42e"),
        (b"/", "4742d6f5222ffc6d3eaf474292953285"),
        ("größe/é".encode(), "fb2016940520ce2ba3a048d629493677"),
    ],
)
def test_paths_are_these_for_ever(key, path):
    assert f"{path_of(key):032x}" == path


def test_a_key_without_directories_has_the_path_of_its_hash():
    assert path_of(b"plain") == xxh3_128_intdigest(b"plain")


def test_each_directory_gives_sixteen_bits_and_the_key_the_rest():
    key = b"users/42/name"
    path = f"{path_of(key):0128b}"
    assert path[:16] == f"{xxh3_64_intdigest(b'users/'):064b}"[:16]
    assert path[16:32] == f"{xxh3_64_intdigest(b'users/42/'):064b}"[:16]
    assert path[32:] == f"{xxh3_128_intdigest(key):0128b}"[:96]


def test_only_the_first_four_directories_count():
    one, other = b"a/b/c/d/e/f", b"a/b/c/d/x/y"
    assert path_of(one) >> 64 == path_of(other) >> 64
    assert f"{path_of(one):0128b}"[64:] == f"{xxh3_128_intdigest(one):0128b}"[:64]
    assert prefix_bits(b"a/b/c/d/e/") == prefix_bits(b"a/b/c/d/") == prefix_bits(b"a/b/c/d/e/f/g")


@settings(max_examples=100)
@given(st.text("ab/é", max_size=12), st.text("ab/é", max_size=12))
def test_a_key_lies_under_the_bits_of_each_of_its_prefixes(prefix, rest):
    bits, taken = prefix_bits(prefix.encode())
    assert path_of((prefix + rest).encode()) >> 128 - taken == bits
    assert taken == 16 * min(4, prefix.count("/"))


def test_a_prefix_without_a_slash_gives_no_bits():
    assert prefix_bits(b"users") == (0, 0)


def test_composed_and_decomposed_letters_are_two_keys():
    assert path_of("é".encode()) != path_of("e\u0301".encode())


def test_the_tail_is_blake2b_of_the_key():
    assert tail_of(b"k").to_bytes(64, "big") == blake2b(b"k").digest()


@pytest.mark.parametrize("bits", [2, 4, 6])
def test_slots_are_the_path_read_from_the_top_then_the_tail(bits):
    shape = Shape(bits=bits)
    key = b"some/key"
    path = path_of(key)
    whole = f"{path:0128b}{tail_of(key):0512b}"
    for level in range(shape.max_level + 1):
        assert shape.slot(key, path, level) == int(whole[bits * level :][:bits], 2)
    assert bits * (shape.max_level + 1) <= 640 < bits * (shape.max_level + 2)


def test_a_slot_can_straddle_the_path_and_the_tail():
    shape = Shape(bits=6, hash=lambda key: 0b11, tail=lambda key: 0b1010 << 508)
    assert shape.slot(b"k", shape.hash(b"k"), 21) == 0b111010


def test_the_tail_is_not_asked_for_while_the_path_lasts():
    def never(key: bytes) -> int:
        raise AssertionError("the tail was computed")

    shape = Shape(bits=6, hash=no_bits, tail=never)
    assert [shape.slot(b"k", 0, level) for level in range(21)] == [0] * 21


def test_weight_decides_what_is_a_leaf_and_one_entry_always_is():
    shape = Shape(leaf_max=100)
    assert shape.is_leaf(2, 90)
    assert not shape.is_leaf(2, 91)
    assert shape.is_leaf(1, 1_000_000)
    assert shape.is_leaf(0, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"bits": 0}, {"bits": 1}, {"bits": 3}, {"bits": 5}, {"bits": 8}, {"bits": 12},
        {"leaf_max": 63}, {"leaf_max": 32_769}, {"inline_max": 39}, {"inline_max": 32_769},
    ],
)  # fmt: skip
def test_a_shape_outside_its_limits_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Shape(**wrong)
