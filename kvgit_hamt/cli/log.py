"""Commits: the log, one of them, and the moves of a branch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import click

from kvgit_hamt.cli import complete
from kvgit_hamt.cli.app import SHORT, App, command, example
from kvgit_hamt.cli.compare import print_changes
from kvgit_hamt.cli.drawing import Graph
from kvgit_hamt.cli.exits import USAGE, Failure
from kvgit_hamt.cli.picture import GraphPicture
from kvgit_hamt.cli.values import dump_json, quote, safe, to_json
from kvgit_hamt.refs import HEADS, TAGS, describe
from kvgit_hamt.results import Commit

INDENT: Final = "    "


def names_by_commit(app: App) -> dict[str, list[str]]:
    """Commit id -> the branches and tags at it, tags as "tag: NAME"."""
    names: dict[str, list[str]] = {}
    for full, value in app.repo().refs.named():
        name = full.removeprefix(HEADS) if full.startswith(HEADS) else f"tag: {full.removeprefix(TAGS)}"
        names.setdefault(value.oid.hex(), []).append(name)
    return names


def time_text(commit: Commit) -> str:
    """When a commit was made, in UTC; "" if it does not say."""
    return "" if commit.time is None else f"{commit.time:%Y-%m-%d %H:%M:%S} UTC"


def message_of(commit: Commit) -> str:
    """A commit's message, "" if it has none."""
    found = (commit.info or {}).get("message", "")
    return found if isinstance(found, str) else dump_json(to_json(found))


def title_of(commit: Commit) -> str:
    """The first line of a commit's message; for one without, what stands in for it."""
    first = message_of(commit).strip().partition("\n")[0]
    if first:
        return quote(first)
    if not commit.parents:
        return "(initial commit)"
    return "(merge)" if len(commit.parents) > 1 else "(no message)"


def record_of(commit: Commit, names: Sequence[str]) -> dict[str, Any]:
    """A commit as JSON."""
    return {
        "id": commit.id, "parents": list(commit.parents), "generation": commit.generation,
        "time": None if commit.time is None else commit.time.isoformat(), "info": to_json(commit.info),
        "codec": commit.codec, "tree": commit.tree, "names": list(names),
    }  # fmt: skip


def one_line(app: App, commit: Commit, names: Sequence[str]) -> str:
    """A commit on a line: short id, names, title."""
    return (
        app.out.paint(commit.id[:SHORT], "yellow")
        + app.out.paint(_names(names), "cyan")
        + " "
        + title_of(commit)
    )


def _names(names: Sequence[str]) -> str:
    return f" ({', '.join(names)})" if names else ""


def many_lines(app: App, commit: Commit, names: Sequence[str]) -> list[str]:
    """A commit in full, as git prints it."""
    lines = [app.out.paint(f"commit {commit.id}", "yellow") + app.out.paint(_names(names), "cyan")]
    if len(commit.parents) > 1:
        lines.append("Merge:  " + " ".join(parent[:SHORT] for parent in commit.parents))
    info = dict(commit.info or {})
    info.pop("message", None)
    if "author" in info:
        author = info.pop("author")
        lines.append("Author: " + (quote(author) if isinstance(author, str) else dump_json(to_json(author))))
    if commit.time is not None:
        lines.append(f"Date:   {time_text(commit)}")
    lines += [f"{quote(name)}: {_field(value)}" for name, value in info.items()]
    message = safe(message_of(commit)).rstrip("\n")
    return [*lines, "", *[(INDENT + line).rstrip() for line in (message or title_of(commit)).split("\n")], ""]


def _field(value: Any) -> str:
    return quote(value) if isinstance(value, str) else dump_json(to_json(value))


@command("log", branch=True, json=True)
@click.argument("revisions", metavar="[REV]...", nargs=-1, shell_complete=complete.revisions)
@click.option("--oneline", "is_short", is_flag=True, help="A line for each commit.")
@click.option("--graph", "has_graph", is_flag=True, help="Draw how commits follow one another.")
@click.option(
    "--svg",
    type=click.File("w", encoding="utf-8", lazy=True),
    metavar="FILE",
    help="Also the graph as a picture, as SVG.",
)
@click.option("-n", "--max-count", "limit", type=click.IntRange(0), metavar="N", help="At most N commits.")
@click.option(
    "--key", metavar="KEY", help="Only commits that changed this key.", shell_complete=complete.keys
)
@click.option("--prefix", metavar="PREFIX", help="Only commits that changed something under this prefix.")
@click.option("--since", metavar="WHEN", help="Only commits made then or later: 2026-01-31, '3 days ago'.")
@click.option("--until", metavar="WHEN", help="Only commits made then or earlier.")
@click.option("--first-parent", is_flag=True, help="Of merges follow only the first parent.")
@click.option("--all", "is_all", is_flag=True, help="From all branches and tags.")
@example(
    "kvh log --oneline --graph --all", "kvh log --key user/1", "kvh log --prefix user/ --since '2 weeks ago'",
    "kvh log dev -n 3 --json", "kvh log --all --oneline --svg history.svg",
)  # fmt: skip
def log(app: App, revisions: tuple[str, ...], **how: Any) -> None:
    """Print commits, newest first.

    Those of the branch, or of the REVs. Order is by generation, then time: children always come before
    their parents. Commits are printed as they are read; those without a time do not pass --since and
    --until. A picture is held in memory until its end.
    """
    names = names_by_commit(app)
    if how["has_graph"] and app.is_json:
        raise Failure(
            USAGE, "--graph draws for people, --json is for programs", "the records name the parents"
        )
    graph = Graph() if how["has_graph"] else None
    picture = GraphPicture() if how["svg"] is not None else None
    left = how["limit"]
    for commit, is_shown in _found(app, _starts(app, revisions, how["is_all"]), how):
        if left == 0:
            break
        parents = _parents(commit, how)
        if not is_shown:
            for drawing in (graph, picture):
                if drawing is not None:
                    drawing.skip(commit.id, parents)
            continue
        left = None if left is None else left - 1
        here = names.get(commit.id, [])
        if picture is not None:
            picture.node(commit.id, parents, f"{commit.id[:SHORT]}{_names(here)} {title_of(commit)}")
        if app.is_json:
            app.out.record(record_of(commit, here))
            continue
        lines = [one_line(app, commit, here)] if how["is_short"] else many_lines(app, commit, here)
        _print(app, graph, commit, lines, parents)
    if picture is not None:
        for text in picture.lines():
            how["svg"].write(text)


def _starts(app: App, revisions: tuple[str, ...], is_all: bool) -> list[str]:
    if is_all:
        revisions = (*revisions, *[value.oid.hex() for _, value in app.repo().refs.named()])
    return list(dict.fromkeys(app.id(text) for text in revisions or ("@",)))


def _parents(commit: Commit, how: dict[str, Any]) -> tuple[str, ...]:
    return commit.parents[:1] if how["first_parent"] else commit.parents


def _found(app: App, starts: list[str], how: dict[str, Any]) -> Iterator[tuple[Commit, bool]]:
    """The commits, and whether each passes; without a graph only those that do."""
    times = [None if how[name] is None else app.seconds_or_time(how[name]) for name in ("since", "until")]
    choice = {"first_parent": how["first_parent"], "key": how["key"], "prefix": how["prefix"]}
    repo = app.repo()
    if not how["has_graph"] and how["svg"] is None:
        for commit in repo.log(starts, **choice):
            if _is_within(commit, times):
                yield commit, True
        return
    touched = repo.log(starts, **choice) if how["key"] or how["prefix"] is not None else None
    following = None if touched is None else next(touched, None)
    for commit in repo.log(starts, first_parent=how["first_parent"]):
        passes = touched is None or (following is not None and following.id == commit.id)
        if touched is not None and passes:
            following = next(touched, None)
        yield commit, passes and _is_within(commit, times)


def _is_within(commit: Commit, times: list[float | None]) -> bool:
    since, until = times
    if since is None and until is None:
        return True
    if commit.time is None:
        return False
    made = commit.time.timestamp()
    return (since is None or made >= since) and (until is None or made <= until)


def _print(app: App, graph: Graph | None, commit: Commit, lines: list[str], parents: Sequence[str]) -> None:
    if graph is None:
        for line in lines:
            app.out.line(line)
        return
    rows, first, rest = graph.node(commit.id, parents)
    for row in rows:
        app.out.line(row)
    for number, line in enumerate(lines):
        app.out.line(((rest if number else first) + line).rstrip())


@command("show", branch=True, json=True, values=True)
@click.argument("revision", metavar="[REV[:KEY]]", default="@", shell_complete=complete.revisions)
@click.option("--values", "with_values", is_flag=True, help="Also the values, old and new.")
@click.option("--stat", "form", flag_value="stat", help="Counts of changes, by directory.")
@click.option("--name-only", "form", flag_value="names", help="Only the keys that changed.")
@example("kvh show", "kvh show dev~2 --values", "kvh show v1:user/1")
def show(app: App, revision: str, with_values: bool, form: str | None) -> int | None:
    """Print a commit and what it changed.

    Of a merge, what it changed against its first parent. REV:KEY prints the value of a key instead. With
    --json the first line is the commit, the others are as in `diff --json`.
    """
    name, colon, key = revision.partition(":")
    if colon:
        from kvgit_hamt.cli.data import print_values

        return print_values(app, (key,), name or "@", False)
    found = app.commit(name)
    commit = describe(found)
    here = names_by_commit(app).get(commit.id, [])
    if app.is_json:
        app.out.record(record_of(commit, here))
    else:
        for line in many_lines(app, commit, here):
            app.out.line(line)
    if commit.parents:
        wants_values = with_values and form is None
        changes = app.repo().diff(commit.parents[0], commit.id, values=wants_values)
        print_changes(app, changes, form, wants_values)
    return None


@command("reflog", branch=True, json=True)
@click.argument("name", metavar="[BRANCH]", required=False, shell_complete=complete.branches)
@click.option("-n", "--max-count", "limit", type=click.IntRange(0), metavar="N", help="At most N moves.")
@example("kvh reflog", "kvh reset 'main@{1}'   # back to before the last move")
def reflog(app: App, name: str | None, limit: int | None) -> None:
    """Print where a branch was.

    Newest first; also of a branch that was deleted. Entries are kept for 90 days unless `gc` is told
    otherwise, and keep their commits from it.
    """
    branch = name or app.branch
    entries = app.repo().reflog(branch, limit)
    if not entries and limit != 0:
        from kvgit_hamt.errors import BranchNotFoundError

        raise BranchNotFoundError(f"there is no branch {branch!r}, and no reflog of one")
    for number, entry in enumerate(entries):
        if app.is_json:
            app.out.record({
                "branch": branch, "number": number, "old": entry.old, "new": entry.new,
                "time": entry.time.isoformat(), "why": entry.why,
            })  # fmt: skip
            continue
        commit = app.out.paint((entry.new or "-" * SHORT)[:SHORT], "yellow")
        when = f"{entry.time:%Y-%m-%d %H:%M:%S}"
        app.out.line(f"{commit} {branch}@{{{number}}} {when} {quote(entry.why)}")
