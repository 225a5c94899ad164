"""Branches and tags, and moving a branch."""

from __future__ import annotations

import click

from kvgit_hamt.cli import complete
from kvgit_hamt.cli.app import SHORT, App, command, example
from kvgit_hamt.cli.exits import USAGE, Failure
from kvgit_hamt.cli.log import message_of, title_of
from kvgit_hamt.cli.values import dump_json, quote, to_json
from kvgit_hamt.objects import RefValue
from kvgit_hamt.refs import HEADS, TAGS, describe


def _check_count(given: tuple[str, ...], least: int, most: int, usage: str) -> None:
    if not least <= len(given) <= most:
        raise Failure(USAGE, f"{len(given)} name(s) were given", f"write it so: {usage}")


@command("branch", branch=True, json=True)
@click.argument("names", metavar="[NAME [AT]]", nargs=-1, shell_complete=complete.revisions)
@click.option("-v", "--verbose", "is_long", is_flag=True, help="In the list: also the commit of each.")
@click.option("-d", "--delete", "what", flag_value="delete", help="Delete the branches named.")
@click.option("-m", "--move", "what", flag_value="move", help="Rename: -m OLD NEW.")
@example("kvh branch", "kvh branch dev", "kvh branch fix v1~2", "kvh branch -d dev")
def branch(app: App, names: tuple[str, ...], is_long: bool, what: str | None) -> None:
    """List, make, delete or rename branches.

    A new one is made at AT [the branch]. Commits of a deleted branch stay until `gc` finds its reflog
    expired: `branch NAME 'NAME@{1}'` brings it back.
    """
    if not names and what is None:
        _list_branches(app, is_long)
        return
    repo = app.repo(write=True)
    if what == "delete":
        _check_count(names, 1, 1_000, f"{app.prog} branch -d NAME...")
        for name in names:
            was = repo.branches.delete(name)
            app.out.note(f"deleted branch {name} (was {was[:SHORT]})")
    elif what == "move":
        _check_count(names, 2, 2, f"{app.prog} branch -m OLD NEW")
        repo.branches.rename(*names)
        app.out.note(f"renamed branch {names[0]} to {names[1]}")
    else:
        _check_count(names, 1, 2, f"{app.prog} branch NAME [AT]")
        at = repo.branches.create(names[0], at=app.id(names[1] if len(names) > 1 else "@"))
        app.out.note(f"made branch {names[0]} at {at[:SHORT]}")


def _list_branches(app: App, is_long: bool) -> None:
    repo = app.repo()
    found = repo.refs.under(HEADS)
    width = max((len(name) for name, _ in found), default=0)
    for name, value in found:
        if app.is_json:
            commit = describe(repo.store.read_commit(value.oid))
            time = None if commit.time is None else commit.time.isoformat()
            record = {"name": name, "commit": commit.id, "time": time, "message": message_of(commit)}
            app.out.record(record)
        elif is_long:
            commit = describe(repo.store.read_commit(value.oid))
            app.out.line(f"{name:<{width}}  {app.out.paint(commit.id[:SHORT], 'yellow')}  {title_of(commit)}")
        else:
            app.out.line(name)


@command("tag", branch=True, json=True)
@click.argument("names", metavar="[NAME [AT]]", nargs=-1, shell_complete=complete.revisions)
@click.option(
    "-v", "--verbose", "is_long", is_flag=True, help="In the list: also the commit and info of each."
)
@click.option("-d", "--delete", "what", flag_value="delete", help="Delete the tags named.")
@click.option("--move", "what", flag_value="move", help="Rename: --move OLD NEW.")
@click.option("-m", "--message", metavar="TEXT", help="Why; kept with the tag.")
@example("kvh tag", "kvh tag v1 -m 'First release'", "kvh tag before-import main~3")
def tag(app: App, names: tuple[str, ...], is_long: bool, what: str | None, message: str | None) -> None:
    """List, make, delete or rename tags.

    A new one is made at AT [the branch]. A tag never moves.
    """
    if not names and what is None:
        _list_tags(app, is_long)
        return
    repo = app.repo(write=True)
    if what == "delete":
        _check_count(names, 1, 1_000, f"{app.prog} tag -d NAME...")
        for name in names:
            was = repo.tags.delete(name)
            app.out.note(f"deleted tag {name} (was {was[:SHORT]})")
    elif what == "move":
        _check_count(names, 2, 2, f"{app.prog} tag --move OLD NEW")
        repo.tags.rename(*names)
        app.out.note(f"renamed tag {names[0]} to {names[1]}")
    else:
        _check_count(names, 1, 2, f"{app.prog} tag NAME [AT]")
        info = None if message is None else {"message": message}
        at = repo.tags.create(names[0], at=app.id(names[1] if len(names) > 1 else "@"), info=info)
        app.out.note(f"made tag {names[0]} at {at[:SHORT]}")


def _list_tags(app: App, is_long: bool) -> None:
    found = app.repo().refs.under(TAGS)
    width = max((len(name) for name, _ in found), default=0)
    for name, value in found:
        commit = value.oid.hex()
        if app.is_json:
            app.out.record({"name": name, "commit": commit, "info": to_json(value.info)})
        elif is_long:
            short = app.out.paint(commit[:SHORT], "yellow")
            app.out.line(f"{name:<{width}}  {short}  {_tag_text(value)}".rstrip())
        else:
            app.out.line(name)


def _tag_text(value: RefValue) -> str:
    info = value.info or {}
    message = info.get("message")
    if isinstance(message, str) and len(info) == 1:
        return quote(message)
    return dump_json(to_json(info)) if info else ""


@command("reset", branch=True, json=True)
@click.argument("revision", metavar="REV", shell_complete=complete.revisions)
@example("kvh reset main~1", "kvh reset 'main@{1}'", "kvh reset -b dev main")
def reset(app: App, revision: str) -> None:
    """Move the branch to another commit.

    The reflog keeps where it was: `reset 'NAME@{1}'` takes it back.
    """
    work = app.worktree()
    target = app.id(revision)
    old = work.reset(target)
    if app.is_json:
        app.out.record({"branch": app.branch, "old": old, "new": target})
    elif old == target:
        app.out.note(f"{app.branch} is at {target[:SHORT]} already")
    else:
        app.out.note(f"{app.branch} is at {target[:SHORT]} now (was {old[:SHORT]})")
