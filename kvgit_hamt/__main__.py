"""``python -m kvgit_hamt``: the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from kvgit_hamt import demo
from kvgit_hamt.demo_data import ALL_COUNT
from kvgit_hamt.errors import KvgitHamtError

INTERRUPTED = 130  # what shells give for SIGINT


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m kvgit_hamt", description="An embedded key-value store with git's semantics."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    about = "load the Unicode character database and show commits, a diff, a merge and an old state"
    command = commands.add_parser("demo", help=about, description=f"Demo: {about}.")
    command.add_argument(
        "directory", metavar="DIR", nargs="?", default=demo.DEFAULT_DIRECTORY,
        help="where to make the store; missing or empty (default: %(default)s)",
    )  # fmt: skip
    command.add_argument("--fresh", action="store_true", help="replace the store of an earlier demo")
    command.add_argument(
        "--code-points", metavar="N", type=int, default=ALL_COUNT,
        help="only the first N code points (default: all %(default)s)",
    )  # fmt: skip
    given = parser.parse_args(arguments)
    try:
        return demo.run(given.directory, given.code_points, given.fresh, (sys.stdout, sys.stderr))
    except KvgitHamtError as error:
        sys.stderr.write(f"{given.command}: {error}\n")
    except KeyboardInterrupt:
        sys.stderr.write(f"\n{given.command}: interrupted\n")
        return INTERRUPTED
    return demo.FAILED


if __name__ == "__main__":
    sys.exit(main())
