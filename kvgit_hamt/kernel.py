"""Which kernel does the byte work, and its functions: the one place where it is chosen.

The compiled kernel (``_kernel``, Cython) is built at installation if a C compiler is there. It gives
the same bytes, results and errors as the plain functions of node, path, run and descent, which are
its reference. ``KVGIT_HAMT_PURE=1`` in the environment, at import, chooses the plain ones.
"""

from __future__ import annotations

import os
from typing import Literal

Name = Literal["compiled", "plain"]


def _choose() -> Name:
    if os.environ.get("KVGIT_HAMT_PURE", "0") not in ("", "0"):
        return "plain"
    try:
        import kvgit_hamt._kernel  # noqa: F401
    except ImportError:
        return "plain"
    return "compiled"


NAME: Name = _choose()
"""The kernel in use."""

if NAME == "compiled":
    from kvgit_hamt._kernel import (
        Builder,
        DiffWalk,
        Door,
        LeafWalk,
        Lookup,
        Pen,
        Ways,
        change_inner,
        flatten,
        get,
        get_many,
        inner_children,
        inner_pack,
        inner_replace,
        inner_stats,
        is_sound_inner,
        leaf_diff,
        leaf_inline_items,
        leaf_items,
        leaf_join,
        leaf_keys,
        leaf_payload_length,
        leaf_stats,
        leaf_texts,
        make_run,
        merge_aligned,
        plant,
        run_of_leaf,
        seal_all,
        segments_of,
        splice,
        tally,
        touched,
        uneven_runs,
        unseal,
    )
else:
    from kvgit_hamt.descent import (  # type: ignore[assignment]  # Door and others: the same members
        DiffWalk,
        Door,
        LeafWalk,
        Lookup,
        Ways,
        change_inner,
        get,
        get_many,
        inner_pack,
        inner_replace,
        leaf_texts,
        merge_aligned,
        plant,
        touched,
        uneven_runs,
    )
    from kvgit_hamt.node import (
        inner_children,
        inner_stats,
        is_sound_inner,
        leaf_diff,
        leaf_inline_items,
        leaf_items,
        leaf_join,
        leaf_keys,
        leaf_payload_length,
        leaf_stats,
        segments_of,
    )
    from kvgit_hamt.pen import Pen as Pen  # type: ignore[assignment]  # the same methods
    from kvgit_hamt.pen import seal_all, tally
    from kvgit_hamt.run import Builder as Builder  # type: ignore[assignment]  # the same methods
    from kvgit_hamt.run import flatten, make_run, run_of_leaf, splice
    from kvgit_hamt.wire import unseal

__all__ = [
    "NAME",
    "Builder",
    "DiffWalk",
    "Door",
    "LeafWalk",
    "Lookup",
    "Name",
    "Pen",
    "Ways",
    "change_inner",
    "flatten",
    "get",
    "get_many",
    "inner_children",
    "inner_pack",
    "inner_replace",
    "inner_stats",
    "is_sound_inner",
    "leaf_diff",
    "leaf_inline_items",
    "leaf_items",
    "leaf_join",
    "leaf_keys",
    "leaf_payload_length",
    "leaf_stats",
    "leaf_texts",
    "make_run",
    "merge_aligned",
    "plant",
    "run_of_leaf",
    "seal_all",
    "segments_of",
    "splice",
    "tally",
    "touched",
    "uneven_runs",
    "unseal",
]  # fmt: skip
