"""The command line: ``kvgit-hamt``, ``kvh`` for short, ``python -m kvgit_hamt``.

It needs the extra ``cli`` (Click and Rich); the library does not. The modules here are the only ones that
print, read the environment and choose exit codes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

EXTRA = "the command line needs Click and Rich: pip install 'kvgit-hamt[cli]'"
ENVIRONMENT = 7
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code."""
    _open_streams()
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        from kvgit_hamt.cli.program import run

        return run(given)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("click", "rich"):
            raise
    if given[:1] == ["demo"]:
        from kvgit_hamt.cli.plain import run_demo

        return run_demo(given[1:])
    sys.stderr.write(EXTRA + "\n")
    return ENVIRONMENT


def _open_streams() -> None:
    """Standard streams that are closed are empty, and take what is written; as with the null device."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def entry() -> None:
    """The program's entry point."""
    try:
        code = main()
    except KeyboardInterrupt:  # before a command began, or after it
        code = INTERRUPTED
    sys.exit(code)
