"""Commits as one file, and copies of a store."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from kvgit_hamt import bundle as bundles
from kvgit_hamt.bundle import BundleInfo
from kvgit_hamt.bundle_format import MAGIC
from kvgit_hamt.cli import complete
from kvgit_hamt.cli.app import COMMANDS, SHORT, App, command, example
from kvgit_hamt.cli.exits import CORRUPTION, FORMAT, USAGE, Failure
from kvgit_hamt.cli.values import bytes_text, quote
from kvgit_hamt.errors import CorruptionError

STREAM = "-"


def _record(info: BundleInfo) -> dict[str, Any]:
    return {
        "refs": dict(info.refs), "commits": list(info.commits), "prerequisites": list(info.prerequisites),
        "commit_count": info.commit_count, "object_count": info.object_count,
        "byte_count": info.byte_count, "codec": info.codec,
    }  # fmt: skip


def _summary(info: BundleInfo) -> str:
    return (
        f"{info.commit_count:,} commit(s), {info.object_count:,} object(s), {bytes_text(info.byte_count)}, "
        f"codec {info.codec}"
    )


def check_bundle(path: str) -> None:
    """Failure if a file does not begin as bundles do."""
    if os.path.isfile(path):
        with open(path, "rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                why = f"{quote(path)} is no bundle, or its first bytes are damaged"
                raise Failure(FORMAT, why, "`{prog} bundle create` makes one")


@command("bundle create", json=True)
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@click.argument("names", metavar="[NAME|A..B]...", nargs=-1, shell_complete=complete.revisions)
@click.option(
    "--since", multiple=True, metavar="REV", help="Leave out what REV reaches; it must be there to load."
)
@click.option("--no-history", is_flag=True, help="The newest states alone, as commits without parents.")
@example(
    "kvh bundle create backup.kvb", "kvh bundle create may.kvb v1..main", "kvh bundle create - main | ssh .."
)
def create(app: App, file: str, names: tuple[str, ...], since: tuple[str, ...], no_history: bool) -> None:
    """Write branches, tags and their history to one file.

    All of them if none is named. FILE is written whole or not at all; - is stdout.
    """
    app.out.flush()
    target = sys.stdout.buffer if file == STREAM else file
    if app.is_json and file == STREAM:
        raise Failure(USAGE, "the bundle itself goes to stdout", "leave --json out, or name a file")
    if file == STREAM and app.out.is_terminal:
        raise Failure(USAGE, "a bundle is not for a terminal", "name a file, or send it through a pipe")
    with app.progress("bundle") as report:
        info = app.repo().bundle(target, *names, since=since, history=not no_history, progress=report)
    if app.is_json:
        app.out.record(_record(info))
    else:
        app.out.note(f"wrote {quote(file)}: {_summary(info)}")


@command("bundle verify", store=False, json=True)
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@example("kvh bundle verify backup.kvb")
def verify(app: App, file: str) -> None:
    """Verify a bundle and print what is in it.

    Every object is read and its SHA-256 compared; no store is needed. Exit code 5: it is damaged.
    """
    check_bundle(file)
    with app.progress("verify") as report:
        try:
            info = bundles.verify(sys.stdin.buffer if file == STREAM else file, report)
        except CorruptionError as error:
            raise Failure(
                CORRUPTION, str(error), "get it once more from where it came, or make it anew"
            ) from error
    if app.is_json:
        app.out.record(_record(info))
        return
    for name, commit in info.refs.items():
        app.out.line(f"{app.out.paint(commit[:SHORT], 'yellow')} {name}")
    for commit in info.commits:
        app.out.line(app.out.paint(commit[:SHORT], "yellow"))
    for commit in info.prerequisites:
        app.out.line(f"{commit[:SHORT]} is needed where it is loaded")
    app.out.line(f"sound: {_summary(info)}")


@command("bundle load", json=True)
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@click.argument("names", metavar="[NAME[=AS]]...", nargs=-1)
@click.option("--force", is_flag=True, help="Also move branches that have commits which the bundle has not.")
@example(
    "kvh bundle load backup.kvb",
    "kvh bundle load theirs.kvb main=theirs/main",
    "kvh bundle load x.kvb '*=x/*'",
)
def load(app: App, file: str, names: tuple[str, ...], force: bool) -> None:
    """Bring in what a bundle holds.

    All of it is verified first; then branches and tags are made or moved, all or none. NAME=AS says what a
    branch is to be called here. After an interruption the same command goes on where it stopped.
    """
    wanted = None
    if names:
        pairs = [name.partition("=") for name in names]
        wanted = {name: given if sign else name for name, sign, given in pairs}
    check_bundle(file)
    source = sys.stdin.buffer if file == STREAM else file
    with app.progress("load") as report:
        result = app.repo(write=True).load_bundle(source, wanted, force=force, progress=report)
    if app.is_json:
        app.out.record({
            "refs": dict(result.refs), "changed": list(result.changed), "commit_count": result.commit_count,
            "written_count": result.written_count, "resumed_count": result.resumed_count,
        })  # fmt: skip
        return
    for name in result.changed:
        app.out.note(f"{name} is at {result.refs[name][:SHORT]} now")
    app.out.note(f"{result.commit_count:,} new commit(s), {result.written_count:,} object(s) written")


COMMANDS["bundle"] = click.Group(
    "bundle",
    commands={name: COMMANDS[f"bundle {name}"] for name in ("create", "verify", "load")},
    help="Commits as one file: create, verify, load.\n\nA bundle holds branches and tags with their trees "
    "and history, or what came after a commit. It is for backups, and for stores that cannot see each other.",
)


@command("copy")
@click.argument("directory", type=click.Path())
@click.option("--compact", "is_compact", is_flag=True, help="Leave free pages out.")
@example("kvh copy /backup/data-monday", "kvh copy --compact small")
def copy(app: App, directory: str, is_compact: bool) -> None:
    """Copy the store to a new directory, while it is in use.

    The copy is the state of one moment, reflogs included.
    """
    app.repo().copy(directory, compact=is_compact)
    app.out.note(f"copied the store to {quote(directory)}")
