"""Differences between two states."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import click

from kvgit_hamt.cli import complete
from kvgit_hamt.cli.app import App, command, example
from kvgit_hamt.cli.exits import DIFFERENT, USAGE, Failure
from kvgit_hamt.cli.values import PREVIEW, quote, show, to_json
from kvgit_hamt.results import Change

SIGNS: Final = {"added": ("+", "green"), "removed": ("-", "red"), "modified": ("~", "yellow")}
BAR: Final = 30  # characters
MOST_DIRECTORIES: Final = 1_000  # in a --stat; further ones are counted together
OTHERS: Final = "(others)"


def print_change(app: App, change: Change, with_values: bool) -> None:
    """One line for a key that differs, or one JSON record."""
    if app.is_json:
        record: dict[str, Any] = {"key": change.key, "kind": change.kind}
        if with_values and change.kind != "added":
            record["old"] = to_json(change.old)
        if with_values and change.kind != "removed":
            record["new"] = to_json(change.new)
        app.out.record(record)
        return
    sign, color = SIGNS[change.kind]
    text = f"{sign} {quote(change.key)}"
    if with_values:
        sides = []
        if change.kind != "added":
            sides.append(show(change.old, PREVIEW))
        if change.kind != "removed":
            sides.append(show(change.new, PREVIEW))
        text += "  " + " -> ".join(sides)
    app.out.line(app.out.paint(text, color))


def print_stat(app: App, changes: Iterable[Change]) -> int:
    """Counts by directory and in all; how many changes there were."""
    counts: dict[str, dict[str, int]] = {}
    total = dict.fromkeys(SIGNS, 0)
    for change in changes:
        head, slash, _ = change.key.partition("/")
        directory = head + slash if slash else "."
        if directory not in counts and len(counts) >= MOST_DIRECTORIES:
            directory = OTHERS
        counts.setdefault(directory, dict.fromkeys(SIGNS, 0))[change.kind] += 1
        total[change.kind] += 1
    if app.is_json:
        app.out.record({**total, "directories": counts})
        return sum(total.values())
    largest = max((sum(each.values()) for each in counts.values()), default=1)
    width = max((len(quote(name)) for name in counts), default=0)
    for name, each in sorted(counts.items()):
        signs = "".join(
            app.out.paint(SIGNS[kind][0] * max(1, round(BAR * number / max(largest, BAR))), SIGNS[kind][1])
            for kind, number in each.items()
            if number
        )
        app.out.line(f" {quote(name):<{width}} | {sum(each.values()):>7,} {signs}")
    app.out.line(" " + ", ".join(f"{number:,} {kind}" for kind, number in total.items()))
    return sum(total.values())


def print_changes(app: App, changes: Iterable[Change], form: str | None, with_values: bool) -> int:
    """Print differences in one of the forms; how many there were."""
    if form == "stat":
        return print_stat(app, changes)
    number = 0
    for change in changes:
        number += 1
        if form == "names" and not app.is_json:
            app.out.line(quote(change.key))
        elif form == "names":
            app.out.record({"key": change.key})
        else:
            print_change(app, change, with_values)
    return number


def sides_of(app: App, revisions: tuple[str, ...]) -> tuple[str, str]:
    """The ids of the two states that ``A B``, ``A..B``, ``A...B`` or ``A`` (against the branch) name."""
    if len(revisions) == 1 and ".." in revisions[0]:
        old, dots, new = revisions[0].partition("..." if "..." in revisions[0] else "..")
        sides = app.id(old or "@"), app.id(new or "@")
        if dots == "..":
            return sides
        base = app.repo().merge_base(*sides)
        if base is None:
            raise Failure(USAGE, f"{revisions[0]}: these have no common history", "compare them with A..B")
        return base, sides[1]
    old, new = (*revisions, "@")[:2]
    return app.id(old), app.id(new)


@command("diff", branch=True, json=True, values=True)
@click.argument("revisions", metavar="A [B]", nargs=-1, required=True, shell_complete=complete.revisions)
@click.option("--prefix", metavar="PREFIX", help="Only keys that begin so.", shell_complete=complete.keys)
@click.option("--values", "with_values", is_flag=True, help="Also the values, old and new.")
@click.option("--stat", "form", flag_value="stat", help="Only counts, by directory.")
@click.option("--name-only", "form", flag_value="names", help="Only the keys.")
@click.option("--exit-code", "is_checked", is_flag=True, help="Exit with 1 if there are differences.")
@example(
    "kvh diff v1 main", "kvh diff main~1 --values", "kvh diff main...dev --stat",
    "kvh diff v1 v2 --json --values > patch.jsonl",
)  # fmt: skip
def diff(
    app: App,
    revisions: tuple[str, ...],
    prefix: str | None,
    with_values: bool,
    form: str | None,
    is_checked: bool,
) -> int | None:
    """Print what differs between two states.

    + is a key that was added, - removed, ~ modified. A..B is the same as A B; A alone is compared with the
    branch; A...B shows what B changed since the two parted. Keys come as they are found, one by one,
    however many there are.
    """
    if len(revisions) > 2:
        raise Failure(USAGE, "diff compares two states", "for a part of the keys give --prefix")
    old, new = sides_of(app, revisions)
    wants_values = with_values and form is None
    changes = app.repo().diff(old, new, prefix, values=wants_values)
    found = print_changes(app, changes, form, wants_values)
    return DIFFERENT if found and is_checked else None
