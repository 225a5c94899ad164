"""The two sizes of each harness, and the counts that it leaves.

`make test-slow` runs the small figures. `make soak` sets `KVGIT_HAMT_SOAK` to a share of the long figures
(1 is all of them) and `KVGIT_HAMT_COUNTS` to a file of JSON lines, one for each harness that ended:
docs/durability.md is written from those.
"""

import json
import os
from pathlib import Path

SOAK = float(os.environ.get("KVGIT_HAMT_SOAK", "0"))


def pick(ci: int, soak: int) -> int:
    """How often to do something: `ci` times; under `make soak` its share of `soak`, if that is more."""
    return max(ci, round(soak * SOAK))


def record(harness: str, **counts: object) -> None:
    """Append what `harness` ("K1", "P2", ..) did to the file of counts, if one is asked for."""
    if path := os.environ.get("KVGIT_HAMT_COUNTS"):
        with Path(path).open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"harness": harness, **counts}) + "\n")
