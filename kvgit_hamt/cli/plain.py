"""What works without Click and Rich: the demo."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from kvgit_hamt import demo
from kvgit_hamt.demo_data import ALL_COUNT
from kvgit_hamt.errors import KvgitHamtError

INTERRUPTED = 130  # what shells give for SIGINT
ABOUT = "load the Unicode character database and show commits, a diff, a merge and an old state"


def run_demo(arguments: Sequence[str]) -> int:
    """Run the demo with arguments as the shell gives them; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m kvgit_hamt demo", description=f"Demo: {ABOUT}.")
    parser.add_argument(
        "directory", metavar="DIR", nargs="?", default=demo.DEFAULT_DIRECTORY,
        help="where to make the store; missing or empty (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--fresh", action="store_true", help="replace the store of an earlier demo")
    parser.add_argument(
        "--code-points", metavar="N", type=int, default=ALL_COUNT,
        help="only the first N code points (default: all %(default)s)",
    )  # fmt: skip
    given = parser.parse_args(arguments)
    return play(given.directory, given.code_points, given.fresh)


def play(directory: str, count: int, is_fresh: bool) -> int:
    """Run the demo; its exit code."""
    try:
        return demo.run(directory, count, is_fresh, (sys.stdout, sys.stderr))
    except KvgitHamtError as error:
        sys.stderr.write(f"demo: {error}\n")
    except KeyboardInterrupt:
        sys.stderr.write("\ndemo: interrupted\n")
        return INTERRUPTED
    return demo.FAILED
