"""What the stored stores of tests/stores hold: made again by each run, and compared byte for byte.

`python -m tests.stores.contents DIR` makes the store that was put into tests/stores/v1 once. It is never
made anew: if the comparison fails, the format has changed, and stores that people have would not be read.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kvgit_hamt import Repo

START_US = 1_700_000_000_000_000
Content = dict[str, Any]


def ticking() -> Callable[[], int]:
    """A clock that goes on a second at each look."""
    times = itertools.count(START_US, 1_000_000)
    return lambda: next(times)


def first_content() -> Content:
    """Flat keys, directories to depth six, odd text, every kind of value, values in and out of leaves."""
    content: Content = {f"key {number:03}": number * number for number in range(300)}
    content.update({f"users/{n % 7}/name/{n}": {"id": n, "name": "é" * (n % 5)} for n in range(140)})
    content.update({"a/b/c/d/e/f/" + letter: letter for letter in "xyz"})
    content.update(
        {
            "": "the empty key",
            "/": "a slash",
            "\0": b"\0\xff",
            "é": "composed",
            "e\u0301": "decomposed",
            "long " + "k" * 5_000: None,
            "value/512": b"v" * 509,  # three bytes of msgpack before it: the largest that lies in a leaf
            "value/513": b"v" * 510,
            "value/large": b"large" * 20_000,
            "value/float": 1.5,
            "value/nested": {"list": [1, [2, [None, True]]], "int": -(2**63), "uint": 2**64 - 1},
        }
    )
    return content


def build(where: Path) -> dict[str, Content]:
    """Make the store; what each branch and tag holds."""
    with Repo(where, clock=ticking()) as repo:
        content = first_content()
        work = repo.worktree()
        work.load(content.items(), info={"message": "loaded"})
        repo.tags.create("v1", "main")
        tagged = dict(content)

        repo.branches.create("other")
        side = repo.worktree("other")
        side.update({f"key {number:03}": "theirs" for number in range(0, 40, 3)})
        side["users/3/new"] = ["added", "there"]
        side.commit(info={"message": "over there", "n": 1})
        other = {**content, **{f"key {n:03}": "theirs" for n in range(0, 40, 3)}}
        other["users/3/new"] = ["added", "there"]

        for number in range(100, 130):
            del work[f"key {number:03}"]
            del content[f"key {number:03}"]
        work["users/5/new"] = "added here"
        content["users/5/new"] = "added here"
        work.commit(info={"message": "removed and added"})
        work.merge(branch="other")
        content.update({f"key {number:03}": "theirs" for number in range(0, 40, 3)})
        content["users/3/new"] = ["added", "there"]

        repo.branches.create("gone")
        repo.branches.delete("gone")
        for number in range(40):  # more index and reflog entries than the state's tail holds
            work["counter"] = number
            work.commit()
        content["counter"] = 39
        return {"main": content, "other": other, "v1": tagged}


if __name__ == "__main__":
    build(Path(sys.argv[1]))
