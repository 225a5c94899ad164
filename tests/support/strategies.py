"""Entries and changes for property tests: few keys, so that edits meet, and values of telling sizes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hypothesis import strategies as st

from kvgit_hamt import bulk
from kvgit_hamt.hamt import Tree
from kvgit_hamt.store import Store
from tests.support.placed import placed_store
from tests.support.trees import memory_store

DIRECTORIES = (b"", b"", b"a/", b"a/b/", b"b/c/", b"a/b/c/d/e/", "é/".encode())
NAMES = [directory + b"%d" % n for directory in DIRECTORIES for n in range(12)]
KEYS = sorted({*NAMES, b"", b"/", b"a", b"a//"})
SIZES = (0, 1, 8, 8, 30, 30, 47, 49, 65, 120, 513)

Entries = dict[bytes, bytes]
Changes = dict[bytes, bytes | None]

keys = st.sampled_from(KEYS)
values = st.builds(lambda fill, size: bytes((fill,)) * size, st.integers(0, 3), st.sampled_from(SIZES))
entries = st.dictionaries(keys, values, max_size=40)
changes = st.dictionaries(keys, st.none() | values, max_size=25)
makers = st.sampled_from([memory_store, placed_store])


def updated(before: Mapping[bytes, bytes], made: Mapping[bytes, bytes | None]) -> Entries:
    """The entries after changes."""
    after = {**before, **made}
    return {key: value for key, value in after.items() if value is not None}


def load(
    store: Store, tree: Tree, items: Iterable[tuple[bytes, bytes]], memory_bytes: int, batch: int = 7
) -> Tree:
    """Items loaded in batches of a few, and stored."""
    writer = store.bulk_writer()
    listed = [(key, writer.put_value(value)) for key, value in items]
    parts = [listed[at : at + batch] for at in range(0, len(listed), batch)]
    source = [([key for key, _ in part], [value for _, value in part]) for part in parts]
    result = bulk.load(writer, store.shape, tree, source, memory_bytes)
    writer.publish()
    return result
