"""Named points between two steps of an operation, at which a process can be made to die.

For tests of crashes: ``KVGIT_CRASH_AT=name:n``, set when the process starts, ends it without any clean-up
the n-th time it passes the point of that name. Otherwise a point is a call that does nothing. Points stand
only where an operation has few of them: none is on the way of a read. Spec: docs/durability.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable

EXIT_CODE = 137  # what a shell says of a process that was killed
VARIABLE = "KVGIT_CRASH_AT"

POINTS = (
    "create.tables",  # the tables are there, the marker is not
    "create.marker",  # the marker is written, not yet under its name
    "create.marked",
    "publish.begun",  # in the write transaction, nothing put
    "publish.records",  # records and their indexes put
    "publish.refs",  # all put, the state not
    "write.before_commit",  # any write transaction, also of gc and of reservations
    "write.committed",  # on disk; the witness is not written
    "write.witnessed",
    "grow.before",  # the transaction was given up: the map is full
    "grow.after",
    "load.reserved",
    "load.flushed",  # records of a load are stored that no ref names
    "load.release",  # its branch has moved, its other reservations are not given back
    "gc.marked",
    "gc.reflog",  # expired entries are gone
    "gc.index_step",  # in a write transaction that deletes index entries
    "gc.index",  # all index entries of garbage are gone, its records are not
    "gc.record_step",  # in a write transaction that deletes records
    "gc.swept",
    "compact.copied",
    "compact.locked",  # the copy is checked, about to take the place of the file
    "compact.replaced",  # the name is not synced
    "copy.part",  # the copy is whole, and under another name
    "copy.renamed",
    "bundle.flushed",  # records of a bundle are stored that nothing names
    "bundle.release",
)


def _nothing(name: str) -> None:
    pass


reached: Callable[[str], None] = _nothing
"""Pass a point. Call it as ``killpoints.reached(..)``: ``arm`` sets it anew."""


def arm(spec: str) -> None:
    """Die at the n-th passing of a point: ``"name:n"``; ``""`` disarms.

    Raises:
        ValueError: no such point, or n is not 1 or more.
    """
    global reached  # noqa: PLW0603 (a plain function when nothing is armed)
    if not spec:
        reached = _nothing
        return
    wanted, _, number = spec.partition(":")
    if wanted not in POINTS or not number.isdecimal() or not int(number):
        raise ValueError(
            f"{VARIABLE} is name:n with n from 1, and name one of {', '.join(POINTS)}; not {spec!r}"
        )
    left = int(number)

    def count_down(name: str) -> None:
        nonlocal left
        if name == wanted:
            left -= 1
            if not left:
                os._exit(EXIT_CODE)

    reached = count_down


arm(os.environ.get(VARIABLE, ""))
