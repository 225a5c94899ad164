"""Import and export: files, databases, directories and git repositories."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any, Final, cast

import click

from kvgit_hamt import interchange
from kvgit_hamt.cli import complete
from kvgit_hamt.cli.app import SHORT, App, command, example
from kvgit_hamt.cli.data import at_option
from kvgit_hamt.cli.exits import CONFLICT, NOT_FOUND, PATH_HINT, USAGE, Failure, of_source
from kvgit_hamt.cli.output import EscapedBytes, Report, no_report
from kvgit_hamt.cli.values import quote
from kvgit_hamt.errors import BranchExistsError, EncodeError, SourceError
from kvgit_hamt.interchange import Progress, Source, Step
from kvgit_hamt.revision import CURRENT

STREAM: Final = "-"
FORMATS: Final = ("jsonl", "csv", "msgpack", "lmdb", "sqlite", "files", "git")
SUFFIXES: Final = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "csv", ".msgpack": "msgpack",
    ".mp": "msgpack", ".mdb": "lmdb", ".lmdb": "lmdb", ".db": "sqlite", ".sqlite": "sqlite",
    ".sqlite3": "sqlite", ".git": "git",
}  # fmt: skip
VALUES: Final = ("bytes", "text", "json", "msgpack")
DELIMITERS: Final = {"tab": "\t", "comma": ",", "semicolon": ";", "space": " ", "pipe": "|"}
# Which formats know an option that not all know: to refuse what would have no effect.
IMPORT_OPTIONS: Final = {
    "keys": ("jsonl", "csv", "msgpack", "sqlite"), "value": ("jsonl", "csv", "msgpack", "sqlite"),
    "columns": ("csv",), "delimiter": ("csv",), "typed": ("csv",), "table": ("sqlite",), "db": ("lmdb",),
    "hex_keys": ("lmdb",), "values": ("lmdb", "files"), "links": ("files",), "branches": ("git",),
    "no_tags": ("git",), "into": ("git",), "force": ("git",),
    "prefix": ("jsonl", "csv", "msgpack", "lmdb", "sqlite", "files"),
    "every": ("jsonl", "csv", "msgpack", "lmdb", "sqlite", "files"),
    "restart": ("jsonl", "csv", "msgpack", "lmdb", "sqlite", "files"),
}  # fmt: skip
EXPORT_OPTIONS: Final = {
    "key": ("csv", "sqlite"), "columns": ("csv",), "delimiter": ("csv",), "table": ("sqlite",),
    "db": ("lmdb",), "hex_keys": ("lmdb",), "values": ("lmdb", "files", "sqlite", "git"),
    "branches": ("git",),
    "no_tags": ("git",), "prefix": ("jsonl", "csv", "msgpack", "lmdb", "sqlite", "files"),
    "strip": ("jsonl", "csv", "msgpack", "lmdb", "sqlite", "files"),
}  # fmt: skip


def _guess(path: str, given: str | None) -> str:
    """The format of a path: as given, else by its kind and ending.

    Raises:
        Failure: it does not tell.
    """
    if given is not None:
        return given
    if path != STREAM and os.path.isdir(path):
        if os.path.exists(os.path.join(path, ".git")) or os.path.isfile(os.path.join(path, "HEAD")):
            return "git"
        return "lmdb" if os.path.isfile(os.path.join(path, "data.mdb")) else "files"
    found = SUFFIXES.get(Path(path).suffix.lower())
    if found is None:
        raise Failure(
            USAGE, f"the name of {quote(path)} does not tell its format", f"give --format, one of {_names()}"
        )
    return found


def _names() -> str:
    return ", ".join(FORMATS)


def _check_options(form: str, given: Mapping[str, Any], known: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse options that the format does not have."""
    for name, value in given.items():
        if value not in (None, False, (), "") and name in known and form not in known[name]:
            option = {"keys": "key", "branches": "git-branch"}.get(name, name.replace("_", "-"))
            raise Failure(
                USAGE, f"--{option} means nothing for {form}", f"it is for {', '.join(known[name])}"
            )


def _delimiter(path: str, given: str | None) -> str:
    if given is None:
        return "\t" if path.lower().endswith(".tsv") else ","
    return DELIMITERS.get(given, given)


def _steps(report: Report) -> Progress:
    """Steps of an import or export for the bar."""

    def see(step: Step) -> None:
        report(f"{step.phase} ({step.unit})", step.done, step.total)

    return see


_WORD = re.compile(r'"(text|json|msgpack)"')
_ARGUMENT = re.compile(r'\b(key|db|values|links|into)="?(\.\.|\w+)"?')


@contextmanager
def _in_options() -> Iterator[None]:
    """Errors of the library speak of arguments; here they are options."""
    try:
        yield
    except (SourceError, BranchExistsError) as error:
        code, hint = of_source(error) if isinstance(error, SourceError) else (CONFLICT, "")
        told = _ARGUMENT.sub(r"--\1 \2", str(error)).replace("force=True", "--force")
        told = _WORD.sub(r"\1", told)
        if "of type Undecoded" in told:
            told = told.replace("of type Undecoded", "that was not decoded")
            hint = "JSON lines hold stored bytes; --unpickle reads pickles, which runs code in them"
        raise Failure(code, told.replace("restart to", "--restart to"), hint) from error


def _shared(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Several options as one decorator, in the order given."""

    def wrap(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return wrap


_both = _shared(
    click.option("--format", "form", type=click.Choice(FORMATS), help="The format [from the name]."),
    click.option("--prefix", metavar="P", default="", shell_complete=complete.keys,
                 help="Import: put P before every key. Export: only keys that begin with P."),
)  # fmt: skip
_tables = _shared(
    click.option("--table", metavar="NAME", help="sqlite: the table."),
    click.option("--db", metavar="NAME", help="lmdb: a named database [the main one]."),
    click.option("--hex-keys", is_flag=True, help="lmdb: keys are hex digits of the bytes, not text."),
    click.option("--columns", metavar="A,B,..", help="csv: names of the columns [import: the first line]."),
    click.option("--delimiter", metavar="C", help="csv: what stands between fields; also 'tab' [comma]."),
)
_git = _shared(
    click.option("--git-branch", "branches", multiple=True, metavar="NAME",
                 help="git: this branch, or those that fit, as in 'release-*' [all]."),
    click.option("--no-tags", is_flag=True, help="git: leave tags out."),
)  # fmt: skip


@command("import", branch=True, json=True, values=True, commit=True)
@click.argument("path", metavar="PATH", type=click.Path(allow_dash=True))
@_both
@click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="COL",
    help="The column or field that is the key; several are joined by /.",
)
@click.option(
    "--value", metavar="COL", help="The column or field that alone is the value [a map of all others]."
)
@click.option("--typed", is_flag=True, help="csv: numbers, true, false and empty fields are that, not text.")
@_tables
@click.option("--values", type=click.Choice(VALUES), help="lmdb, files: what the bytes are [bytes].")
@click.option(
    "--links", type=click.Choice(("refuse", "skip", "follow")), help="files: symbolic links [refuse]."
)
@_git
@click.option("--into", metavar="P", default="", help="git: put P before the names of branches and tags.")
@click.option("--force", is_flag=True, help="git: also move branches that have commits which git's do not.")
@click.option(
    "--every",
    type=click.IntRange(min=1),
    metavar="N",
    help="A commit every N rows; a later run goes on from there.",
)
@click.option("--restart", is_flag=True, help="With --every: begin anew.")
@example(
    "kvh import people.csv --key id --typed --prefix person/ -m 'The people'",
    "zcat log.jsonl.gz | kvh import - --format jsonl --key time --key host",
    "kvh import huge.jsonl --every 100000   # run it again if it was stopped",
    "kvh import app.db --table users",
    "kvh import ~/src/project --git-branch main",
)  # fmt: skip
def import_(app: App, path: str, form: str | None, **given: Any) -> None:
    """Load a file, a database, a directory or a git repository.

    All rows become one commit on the branch, in bounded memory; a row that is wrong is named, and nothing is
    stored (exit code 6). Keys that are there get the new values; none is deleted. With --every there is a
    commit every N rows, and a run that was stopped is continued by the next.

    jsonl: {"key": .., "value": ..} a line, or any objects with --key. csv: the first line names the columns;
    --key says which is the key. msgpack: arrays of key and value, or maps with --key. lmdb, sqlite: see --db
    and --table. files: the files below a directory. git: branches and tags with their history, each commit
    one commit here, paths as keys; run it again for what is new in git.
    """
    if path != STREAM and not os.path.exists(path):
        raise Failure(NOT_FOUND, f"there is no {quote(path)}", PATH_HINT)
    kind = _guess(path, form)
    _check_options(kind, given, IMPORT_OPTIONS)
    with _in_options():
        if kind == "git":
            _import_git(app, path, given)
        else:
            _import_rows(app, _source(kind, path, given), given)


def _source(kind: str, path: str, given: Mapping[str, Any]) -> Source:
    """The source that the options describe."""
    if path == STREAM and kind not in ("jsonl", "csv", "msgpack"):
        raise Failure(USAGE, f"{kind} is not read from stdin", "name a path")
    where: str | IO[bytes] = sys.stdin.buffer if path == STREAM else path
    keys, value = tuple(given["keys"]) or None, given["value"]
    if value is not None and keys is None and kind != "sqlite":
        raise Failure(USAGE, "--value goes with --key")
    if kind == "jsonl":
        return interchange.JsonLines(where, key=keys, value=value)
    if kind == "msgpack":
        return interchange.MsgpackStream(where, key=keys, value=value)
    if kind == "lmdb":
        form = "hex" if given["hex_keys"] else "text"
        return interchange.LmdbTable(path, db=given["db"], keys=form, values=given["values"] or "bytes")  # type: ignore[arg-type]
    if kind == "files":
        return interchange.Files(path, values=given["values"] or "bytes", links=given["links"] or "refuse")
    if kind == "sqlite":
        if given["table"] is None:
            raise Failure(USAGE, "no table was named", "give --table NAME")
        return interchange.SqliteTable(path, given["table"], key=keys, value=value)
    if keys is None:
        raise Failure(USAGE, "no column was said to be the key", "give --key COL")
    columns = given["columns"].split(",") if given["columns"] else None
    return interchange.Csv(
        where, key=keys, value=value, columns=columns, delimiter=_delimiter(path, given["delimiter"]),
        typed=given["typed"],
    )  # fmt: skip


def _import_rows(app: App, source: Source, given: Mapping[str, Any]) -> None:
    if given["restart"] and given["every"] is None:
        raise Failure(USAGE, "--restart goes with --every")
    if source.format != "jsonl":  # whose {"$stored": ..} need no codec
        app.check_writable()
    meta = app.meta()
    work = app.worktree()
    with app.progress("import") as report:
        try:
            result = interchange.load(
                work, source, prefix=given["prefix"], every=given["every"], restart=given["restart"],
                progress=_steps(report), **meta,
            )  # fmt: skip
        except SourceError as error:
            if isinstance(error.__cause__, EncodeError):
                app.check_writable()
            raise
    if app.is_json:
        app.out.record({
            "branch": app.branch, "commit": result.commit, "rows": result.rows, "added": result.added,
            "earlier_rows": result.earlier_rows, "commits": result.commits,
        })  # fmt: skip
        return
    earlier = f" after {result.earlier_rows:,} of earlier runs" if result.earlier_rows else ""
    commits = f" in {result.commits:,} commits" if result.commits != 1 else ""
    app.out.note(
        f"{app.branch} {result.commit[:SHORT]}: imported {result.rows:,} row(s){commits}{earlier}, "
        f"{result.added:,} new key(s)"
    )


def _import_git(app: App, path: str, given: Mapping[str, Any]) -> None:
    if any(app.meta().values()):
        raise Failure(
            USAGE, "a git repository brings its own messages and times", "leave -m, --info and --time out"
        )
    with app.progress("import") as report:
        result = interchange.import_git(
            app.repo(write=True), path, branches=given["branches"] or None, tags=not given["no_tags"],
            into=given["into"], force=given["force"], progress=_steps(report),
        )  # fmt: skip
    if app.is_json:
        app.out.record({
            "commits": result.commits, "earlier": result.earlier, "branches": result.branches,
            "tags": result.tags, "skipped": [list(pair) for pair in result.skipped],
        })  # fmt: skip
        return
    for name, why in result.skipped:
        app.out.note(f"skipped {quote(name)}: {why}")
    app.out.note(
        f"imported {result.commits:,} commit(s), {result.earlier:,} were here; set {len(result.branches):,} "
        f"branch(es) and {len(result.tags):,} tag(s)"
    )


@command("export", branch=True, json=True, values=True)
@click.argument("path", metavar="[PATH]", default=STREAM, type=click.Path(allow_dash=True))
@_both
@click.option("--strip", is_flag=True, help="Take the prefix off the keys.")
@click.option("--key", metavar="COL", help="csv, sqlite: the name of the key's column [key].")
@_tables
@click.option(
    "--values", type=click.Choice(VALUES), help="lmdb, files, sqlite, git: how values become bytes."
)
@_git
@at_option
@example(
    "kvh export > all.jsonl",
    "kvh export people.csv --prefix person/ --strip",
    "kvh export app.db --table users --at v1",
    "kvh export backup.git --format git",
)
def export(app: App, path: str, form: str | None, at: str, **given: Any) -> None:
    """Write keys and values to a file, a directory or a git repository.

    Or to a database of SQLite or LMDB. Without PATH, or with -, JSON lines go to stdout. A file is replaced
    whole or not at all; directories, tables and git repositories must be new. What a format cannot hold is
    an error, with the key.

    jsonl and msgpack hold every value. csv and sqlite: a column for each field of values that are flat maps.
    lmdb, files: bytes, or anything with --values json or msgpack. git: branches and tags with their history.
    """
    kind = form or ("jsonl" if path == STREAM else _guess_target(path))
    _check_options(kind, given, EXPORT_OPTIONS)
    if kind == "git":
        with _in_options():
            _export_git(app, path, given, at)
        return
    if path == STREAM and app.out.is_terminal and kind == "msgpack":
        raise Failure(USAGE, "msgpack is not for a terminal", "name a file, or send it through a pipe")
    shown = nullcontext(no_report) if path == STREAM and app.out.is_terminal else app.progress("export")
    with _in_options(), shown as report:
        count = _write(app, kind, path, at, {**given, "progress": _steps(report)})
    if path == STREAM:
        return
    if app.is_json:
        app.out.record({"path": path, "format": kind, "rows": count, "commit": app.id(at)})
    else:
        app.out.note(f"exported {count:,} key(s) to {quote(path)} ({kind})")


def _guess_target(path: str) -> str:
    if path.endswith("/"):
        return "files"
    return _guess(path, None) if Path(path).suffix else "files"


def _write(app: App, kind: str, path: str, at: str, given: Mapping[str, Any]) -> int:
    """Write the rows; how many."""
    view = app.snapshot(at)
    common: dict[str, Any] = {name: given[name] for name in ("prefix", "strip", "progress")}
    if path == STREAM and kind not in ("jsonl", "csv", "msgpack"):
        raise Failure(USAGE, f"{kind} is not written to stdout", "name a path")
    where: str | IO[bytes] = path
    if path == STREAM:
        app.out.flush()
        where = sys.stdout.buffer
        if app.out.is_terminal:
            where = cast("IO[bytes]", EscapedBytes(where))
    if kind == "jsonl":
        return interchange.write_jsonl(view, where, **common)
    if kind == "msgpack":
        return interchange.write_msgpack(view, where, **common)
    if kind == "files":
        return interchange.write_files(view, path.rstrip("/"), values=given["values"] or "bytes", **common)
    if kind == "lmdb":
        form = "hex" if given["hex_keys"] else "text"
        bytes_as = given["values"] or "bytes"
        return interchange.write_lmdb(view, path, db=given["db"], keys=form, values=bytes_as, **common)  # type: ignore[arg-type]
    key = given["key"] or "key"
    if kind == "sqlite":
        if given["table"] is None:
            raise Failure(USAGE, "no table was named", "give --table NAME")
        values: Any = given["values"] or "columns"
        return interchange.write_sqlite(view, path, given["table"], key=key, values=values, **common)
    columns = given["columns"].split(",") if given["columns"] else None
    delimiter = _delimiter(path, given["delimiter"])
    return interchange.write_csv(view, where, key=key, columns=columns, delimiter=delimiter, **common)


def _export_git(app: App, path: str, given: Mapping[str, Any], at: str) -> None:
    if at != CURRENT:
        raise Failure(USAGE, "git gets branches and tags with their history, not one state", "leave --at out")
    if path == STREAM:
        raise Failure(USAGE, "git is not written to stdout", "name a path")
    if given["values"] not in (None, "json"):
        raise Failure(
            USAGE, f"--values {given['values']} means nothing for git", "give --values json, or none"
        )
    with app.progress("export") as report:
        result = interchange.export_git(
            app.repo(), path, branches=given["branches"] or None, tags=not given["no_tags"],
            values=given["values"] or "files", progress=_steps(report),
        )  # fmt: skip
    if app.is_json:
        app.out.record({"path": path, "commits": result.commits, "same": result.same, "refs": result.refs})
    else:
        app.out.note(
            f"exported {result.commits:,} commit(s) to {quote(path)}, {result.same:,} with their id in git"
        )
