"""Changing keys: one, some, or a file of changes, each call one commit."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from typing import IO, Any, Final

import click

from kvgit_hamt.cli import complete
from kvgit_hamt.cli.app import App, command, example
from kvgit_hamt.cli.exits import NOT_FOUND, USAGE, Failure
from kvgit_hamt.cli.values import from_json, load_json, parse_json, quote
from kvgit_hamt.errors import SourceError
from kvgit_hamt.worktree import Worktree

FIELDS: Final = frozenset({"key", "value", "delete", "kind", "old", "new", "size_bytes", "type"})


@command("set", branch=True, values=True, commit=True)
@click.argument("key", shell_complete=complete.keys)
@click.argument("value", metavar="[VALUE]", required=False)
@click.option(
    "--file", "path", metavar="PATH", type=click.Path(), help="Take the value from a file; - is stdin."
)
@click.option("--json", "form", flag_value="json", help="The value is JSON: numbers, lists, maps, null.")
@click.option("--text", "form", flag_value="text", help="The value is text [of VALUE].")
@click.option("--bytes", "form", flag_value="bytes", help="The value is bytes [of a file].")
@example(
    "kvh set motd 'Good morning'",
    "kvh set --json user/1 '{\"name\": \"Ada\"}' -m 'A first user'",
    "kvh set photo --file photo.jpg",
    "date | kvh set --text built",
)
def set_(app: App, key: str, value: str | None, path: str | None, form: str | None) -> None:
    """Set a key, as a commit.

    VALUE is text, or with --json whatever JSON can say. Without VALUE the value is read from --file or stdin,
    as bytes unless --text or --json is given. In a store of bytes text becomes UTF-8.
    """
    app.check_writable()
    work = app.worktree()
    work[key] = _value_of(value, path, form, app.repo().codec.name)
    result = work.commit(**app.meta())
    app.made(result, f"set {quote(key)}")


def _value_of(value: str | None, path: str | None, form: str | None, codec: str) -> Any:
    if value is not None and path is not None:
        raise Failure(USAGE, "the value is given twice: as VALUE and by --file", "leave one of them out")
    if value is None:
        data, kind = _read(path), form or "bytes"
    else:
        data, kind = os.fsencode(value), form or ("bytes" if codec == "bytes" else "text")
    if kind == "bytes":
        return data
    try:
        text = data.decode()
        return (
            text.encode()
            if codec == "bytes" and kind == "text"
            else text
            if kind == "text"
            else parse_json(text)
        )
    except UnicodeDecodeError as error:
        raise Failure(
            USAGE, f"the value is not UTF-8: {error.reason} at byte {error.start}", "give --bytes"
        ) from error
    except ValueError as error:
        hint = "text is given without --json, or quoted twice: '\"text\"'"
        raise Failure(USAGE, f"the value is no JSON: {error}", hint) from error


def _read(path: str | None) -> bytes:
    if path is not None and path != "-":
        with open(path, "rb") as file:
            return file.read()
    if path is None and sys.stdin.isatty():
        raise Failure(USAGE, "no VALUE was given", "give VALUE or --file PATH, or pipe the value in")
    return sys.stdin.buffer.read()


@command("del", branch=True, commit=True, json=True)
@click.argument("keys", metavar="[KEY]...", nargs=-1, shell_complete=complete.keys)
@click.option(
    "--prefix", metavar="PREFIX", help="Also every key that begins so.", shell_complete=complete.keys
)
@click.option("-f", "--force", is_flag=True, help="Do not mind keys that are absent.")
@example("kvh del motd", "kvh del --prefix tmp/ -m 'Cleared up'")
def del_(app: App, keys: tuple[str, ...], prefix: str | None, force: bool) -> None:
    """Delete keys, as one commit.

    If a key is absent, nothing is changed (exit code 3). They stay readable in older commits.
    """
    if not keys and prefix is None:
        raise Failure(USAGE, "no key was named", "give keys, or --prefix PREFIX")
    work = app.worktree()
    missing = [key for key in dict.fromkeys(keys) if key not in work]
    if missing and not force:
        hint = f"--force deletes the others; `{app.prog} ls` lists keys"
        raise Failure(
            NOT_FOUND, f"there is no key {quote(missing[0])} on {app.branch}; nothing was changed", hint
        )
    found = work.delete_prefix(prefix) if prefix is not None else 0
    found += work.delete_many(keys)
    result = work.commit(**app.meta()) if found else work.commit()
    app.made(result, f"deleted {found:,} key(s)", removed=found)


@command("apply", branch=True, json=True, values=True, commit=True)
@click.argument("file", type=click.Path(allow_dash=True))
@click.option("-n", "--dry-run", is_flag=True, help="Change nothing, print what would change.")
@example(
    "kvh apply changes.jsonl -m 'Prices of May'", "kvh diff --json --values main dev | kvh apply - -b test"
)
def apply(app: App, file: str, dry_run: bool) -> None:
    """Make the changes of a file of JSON lines, as one commit.

    A line is {"key": .., "value": ..} to set a key, {"key": .., "delete": true} to delete one, or a line of
    `diff --json --values`. FILE may be - for stdin. Deleting an absent key does nothing. A line that cannot
    be read stops it all (exit code 6); nothing is changed. The changes are held in memory: for more than
    fits there is `import`.
    """
    work = app.worktree()
    if file == "-":
        _take(app, work, sys.stdin.buffer, "<stdin>")
    else:
        with open(file, "rb") as lines:
            _take(app, work, lines, file)
    counts = _counts(work)
    what = ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if count) or "no change"
    if dry_run:
        _show_pending(app, work)
        app.out.note(f"{app.branch}: would be {what}")
        return
    result = work.commit(**app.meta()) if any(counts.values()) else work.commit()
    app.made(result, what, **counts)


def _take(app: App, work: Worktree, lines: IO[bytes], name: str) -> None:
    """Make the changes pending."""
    for number, (key, is_set, value) in _changes(lines, name):
        if not is_set:
            work.delete_many([key])
            continue
        app.check_writable(value)
        try:
            work[key] = value
        except ValueError as error:
            raise SourceError(name, f"line {number}", str(error)) from error


def _changes(file: IO[bytes], name: str) -> Iterator[tuple[int, tuple[str, bool, Any]]]:
    """(line number, (key, whether it is set, value)) of each line that is not empty."""
    for number, line in enumerate(file, 1):
        if line.strip():
            try:
                yield number, _change(line)
            except ValueError as error:
                raise SourceError(name, f"line {number}", str(error)) from error


def _change(line: bytes) -> tuple[str, bool, Any]:
    try:
        fields = load_json(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON: {error}") from error
    if type(fields) is not dict or type(fields.get("key")) is not str:
        raise ValueError('a change is a map with "key" and "value", or "key" and "delete": true')
    unknown = sorted(set(fields) - FIELDS)
    if unknown:
        raise ValueError(f"unknown field {unknown[0]!r}")
    key = fields["key"]
    names = [name for name in ("value", "new") if name in fields]
    is_removed = fields.get("delete") is True or fields.get("kind") == "removed"
    if len(names) + is_removed != 1:
        raise ValueError(f'key {key!r:.60}: give either "value" or "delete": true (diff: with --values)')
    return (key, True, from_json(fields[names[0]])) if names else (key, False, None)


def _counts(work: Worktree) -> dict[str, int]:
    counts = {"added": 0, "removed": 0, "modified": 0}
    for change in work.diff():
        counts[change.kind] += 1
    return counts


def _show_pending(app: App, work: Worktree) -> None:
    from kvgit_hamt.cli.compare import print_change

    for change in work.diff():
        print_change(app, change, with_values=True)
