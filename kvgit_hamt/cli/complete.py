"""What a shell is offered when Tab is pressed: stores, branches, tags, keys. Errors give nothing."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

import click
from click.shell_completion import CompletionItem

from kvgit_hamt.cli.exits import Failure
from kvgit_hamt.errors import KvgitHamtError

if TYPE_CHECKING:
    from kvgit_hamt.repo import Repo

MOST_KEYS: Final = 50


def directories(_context: click.Context, _param: click.Parameter, start: str) -> list[CompletionItem]:
    """Directories, by the shell itself."""
    return [CompletionItem(start, type="dir")]


def branches(context: click.Context, _param: click.Parameter, start: str) -> list[CompletionItem]:
    """Names of branches."""
    return _names(context, start, ("branches",))


def tags(context: click.Context, _param: click.Parameter, start: str) -> list[CompletionItem]:
    """Names of tags."""
    return _names(context, start, ("tags",))


def revisions(context: click.Context, _param: click.Parameter, start: str) -> list[CompletionItem]:
    """Names of branches and tags."""
    return _names(context, start, ("branches", "tags"))


def keys(context: click.Context, _param: click.Parameter, start: str) -> list[CompletionItem]:
    """Keys of the branch that begin so; some of them, where there are many."""
    try:
        with _open(context) as repo:
            found = repo.snapshot(branch=context.params.get("branch") or "main").keys(prefix=start)
            return [CompletionItem(key) for key in itertools.islice(found, MOST_KEYS) if key.isprintable()]
    except (KvgitHamtError, Failure, OSError, LookupError):
        return []


def _names(context: click.Context, start: str, kinds: tuple[str, ...]) -> list[CompletionItem]:
    try:
        with _open(context) as repo:
            names = [name for kind in kinds for name in getattr(repo, kind)]
            return [CompletionItem(name) for name in names if name.startswith(start)]
    except (KvgitHamtError, Failure, OSError, LookupError):
        return []


def _open(context: click.Context) -> Repo:
    from kvgit_hamt.cli.app import STORE_VARIABLE, open_store

    path = context.params.get("store") or context.obj or context.lookup_default("store")
    if not path:
        import os

        path = os.environ.get(STORE_VARIABLE) or "."
    return open_store(path, False, False, "kvh")
