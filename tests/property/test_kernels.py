"""The compiled kernel gives what the plain one gives: same bytes, same results, same refusals."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kvgit_hamt import kernel
from kvgit_hamt.descent import Tree
from kvgit_hamt.errors import CorruptionError
from kvgit_hamt.hamt import Editor
from kvgit_hamt.run import make_run
from tests.fuzz.fuzz_kernels import fuzz_once
from tests.support.kernels import BOTH, compiled, same
from tests.support.nodes import inners, leaves, mutated
from tests.support.strategies import changes, entries
from tests.support.trees import SHAPES, contents, empty_tree, memory_store

needs_both = pytest.mark.skipif(compiled is None, reason="the compiled kernel was not built")


@needs_both
@settings(max_examples=150)
@given(st.integers(0, 2**32))
def test_both_agree_on_random_and_mutated_bytes(seed):
    fuzz_once(seed)


@needs_both
@settings(max_examples=300)
@given(
    mutated(leaves) | leaves | st.binary(max_size=60).map(lambda rest: b"\x01\x01" + rest),
    st.binary(max_size=6),
)
@example(b"", b"")
@example(b"\x01\x01\x00\x00\xff\xff\xff\xff" + bytes(40), b"")
@example(b"\x01\x01\x03\x00\xff\xff\xff\xff" + bytes(40), b"")
@example(b"\x01\x01\x01\x00\xff\xff\xff\x7f" + bytes(40), b"")
@example(b"\x01\x01\x00\x00\x01\x00\x00\x00\x05\xff\xff\xff\xff", b"")
def test_both_read_or_refuse_the_same_leaves(body, key):
    for name in ("leaf_items", "leaf_keys", "leaf_inline_items", "leaf_stats", "leaf_payload_length"):
        same(name, body)
    for tag in (0, 5, 255):
        same("leaf_find", body, tag, key)


@needs_both
@settings(max_examples=300)
@given(mutated(inners()) | inners(4))
@example(b"\x02\x01\x06\xff\x08\x08\x08\x00" + bytes(70))
def test_both_read_or_refuse_the_same_inner_nodes(body):
    if same("is_sound_inner", body):
        for name in ("inner_stats", "inner_children", "segments_of"):
            same(name, body)
    else:
        with pytest.raises(CorruptionError):
            BOTH["compiled"]["segments_of"](body)


@needs_both
@settings(max_examples=60)
@given(st.sampled_from(sorted(SHAPES)), entries, changes)
def test_both_read_the_trees_that_are_written(name, before, made):
    shape = SHAPES[name]
    store = memory_store(shape)
    tree = empty_tree(store)
    for batch in (before, made):
        writer = store.writer()
        listed = [(k, None if v is None else writer.put_value(v)) for k, v in batch.items()]
        tree = Editor(writer, shape).apply(tree, make_run(shape, listed))
        writer.publish()
    keys = [*before, *made, b"absent"]
    for key in keys:
        same("get", store, shape, Tree(*tree), key)
    assert len(same("get_many", store, shape, Tree(*tree), keys)) == len(contents(store, tree))


@needs_both
@pytest.mark.parametrize("name", sorted(BOTH.get("compiled", ())))
def test_no_function_takes_none_for_bytes(name):
    for count in range(1, 7):
        with pytest.raises((TypeError, AttributeError, CorruptionError)):
            BOTH["compiled"][name](*(None,) * count)


@pytest.mark.parametrize(("pure", "name"), [("1", "plain"), ("0", "compiled" if compiled else "plain")])
def test_the_environment_chooses(pure, name):
    program = "from kvgit_hamt import kernel; print(kernel.NAME)"
    environment = {**os.environ, "KVGIT_HAMT_PURE": pure}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == name


def test_the_kernel_in_use_is_named():
    assert kernel.NAME in ("compiled", "plain")
