"""``python -m kvgit_hamt``: the command line."""

from __future__ import annotations

from kvgit_hamt.cli import entry, main

__all__ = ["main"]

if __name__ == "__main__":
    entry()
