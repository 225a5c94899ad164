"""What every command shares: its options, the store it opens, the revisions it reads."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import click
from click.core import ParameterSource

from kvgit_hamt import revision
from kvgit_hamt.backend.lmdb import LmdbBackend
from kvgit_hamt.cli import complete
from kvgit_hamt.cli.exits import NOT_FOUND, USAGE, Failure
from kvgit_hamt.cli.output import Output, Report
from kvgit_hamt.codec import Codec, Undecoded, undecoded
from kvgit_hamt.errors import BranchNotFoundError, CommitNotFoundError, InvalidInputError
from kvgit_hamt.objects import CommitObject, decode_config
from kvgit_hamt.oid import MIN_ABBREVIATION
from kvgit_hamt.refs import CONFIG
from kvgit_hamt.repo import BUILT_IN, MAIN, Repo
from kvgit_hamt.results import MergeResult
from kvgit_hamt.snapshot import Snapshot
from kvgit_hamt.worktree import Worktree

STORE_VARIABLE: Final = "KVGIT_HAMT_STORE"
BRANCH_VARIABLE: Final = "KVGIT_HAMT_BRANCH"
MARKER: Final = "FORMAT"  # the file that tells a store, see docs/format.md
PLAIN: Final = re.compile(r"[^~^{}]*")  # a revision without steps
STEPPED: Final = re.compile(r"([^~^{}]*)[~^]")  # one that goes back from a name
SHORT: Final = 8  # characters of a commit id that people are shown

COMMANDS: Final[dict[str, click.Command]] = {}
"""Every command whose module was imported, by its name."""


class Shared(NamedTuple):
    """The options that many commands have, as given."""

    store: str | None = None
    branch: str = MAIN
    is_json: bool = False
    is_quiet: bool = False
    is_unpickled: bool = False
    message: str | None = None
    info: tuple[str, ...] = ()
    time: str | None = None


class App:
    """One run of a command.

    Attributes:
        given: the shared options.
        out: where to write.
        branch: the branch that the command is about.
        is_json: whether JSON lines are asked for.
        prog: how the program was called, for hints.
    """

    def __init__(self, given: Shared, prog: str) -> None:
        self.given = given
        self.out = Output(given.is_quiet)
        self.branch = given.branch
        self.is_json = given.is_json
        self.prog = prog
        self._repo: Repo | None = None

    # the store

    @property
    def directory(self) -> str:
        """The store's directory: --store, else KVGIT_HAMT_STORE, else where one is, if that is a store.

        Raises:
            Failure: none of these.
        """
        if self.given.store:
            return self.given.store
        if os.path.exists(MARKER) and os.path.exists("data.mdb"):
            return "."
        raise Failure(
            USAGE,
            "no store was named, and this directory is none",
            f"give --store DIR, or set {STORE_VARIABLE}; `{self.prog} init DIR` makes a store",
        )

    def repo(self, write: bool = False) -> Repo:
        """The store, opened once; closed when the command ends.

        A store of pickles is opened without its codec, unless --unpickle is given; one of a codec of
        somebody's own always is.

        Args:
            write: whether the command changes the store; else it is opened read-only.
        """
        if self._repo is None:
            self._repo = open_store(self.directory, write, self.given.is_unpickled, self.prog)
        return self._repo

    def close(self) -> None:
        """Close the store, if it was opened."""
        if self._repo is not None:
            self._repo.close()

    def worktree(self, create: bool = False) -> Worktree:
        """A worktree of the command's branch."""
        repo = self.repo(write=True)
        try:
            return repo.worktree(self.branch, create=create)
        except BranchNotFoundError as error:
            raise self._no_branch() from error

    def _no_branch(self) -> Failure:
        hint = f"`{self.prog} branch` lists the branches, `{self.prog} branch NAME [AT]` makes one"
        return Failure(NOT_FOUND, f"there is no branch {self.branch!r}", hint)

    def check_writable(self, value: Any = None) -> None:
        """Failure if a value cannot be written because the store's codec is not in use."""
        repo = self.repo(write=True)
        if repo.codec.decode is not Undecoded or isinstance(value, Undecoded):
            return
        name = repo.codec.name
        if name == "pickle":
            raise Failure(USAGE, "the store's values are pickles", "give --unpickle to read and write them")
        why = f"the store's values are written by a codec of a program's own, {name!r}"
        raise Failure(USAGE, why, "only that program can write them")

    # revisions

    def commit(self, text: str) -> CommitObject:
        """The commit that a revision names; ``@`` is the command's branch."""
        try:
            return revision.resolve(self.repo().refs, text, self.branch)
        except (CommitNotFoundError, InvalidInputError) as error:
            stepped = STEPPED.match(text)
            if stepped is not None:
                self.commit(stepped[1] or revision.CURRENT)  # tells if it is this that there is not
            if text in (revision.CURRENT, revision.GIT_CURRENT):
                raise self._no_branch() from error
            is_short = type(error) is InvalidInputError and len(text) < MIN_ABBREVIATION
            if not is_short and not (isinstance(error, CommitNotFoundError) and PLAIN.fullmatch(text)):
                raise
            # A name that is nothing, and too short to be an id, is nothing that was found.
            hint = f"`{self.prog} branch` and `{self.prog} tag` list names, `{self.prog} log` commits"
            raise Failure(NOT_FOUND, f"no branch, tag or commit is named {text!r:.100}", hint) from error

    def id(self, text: str) -> str:
        """The id of the commit that a revision names."""
        return self.commit(text).oid.hex()

    def snapshot(self, text: str = revision.CURRENT) -> Snapshot:
        """The state that a revision names, by default the branch's."""
        return self.repo().view_of(self.commit(text))

    def seconds_or_time(self, text: str) -> float:
        """A time as people write it, in seconds since 1970."""
        return revision.parse_time(text, self.repo().refs.clock()).timestamp()

    # a commit that is made

    def meta(self, default: dict[str, Any] | None = None) -> dict[str, Any]:
        """``info`` and ``time`` for a commit, from -m, --info and --time; arguments of Worktree.commit."""
        info = dict(default or {})
        for each in self.given.info:
            name, sign, value = each.partition("=")
            if not sign or not name:
                raise Failure(USAGE, f"--info {each}: write NAME=VALUE")
            info[name] = value
        if self.given.message is not None:
            info["message"] = self.given.message
        when = self.given.time
        if when is None:
            return {"info": info or None}
        time = None if when == "none" else revision.parse_time(when, self.repo(write=True).refs.clock())
        return {"info": info or None, "time": time}

    def made(self, result: MergeResult, what: str, **record: Any) -> None:
        """Tell of a commit on the branch, or with --json give a record of it."""
        if self.is_json:
            fields = {"branch": self.branch, "commit": result.commit, "strategy": result.strategy}
            self.out.record({**fields, **record})
        elif result.strategy == "no_op":
            self.out.note(f"{self.branch} {(result.commit or '')[:SHORT]}: nothing to commit")
        else:
            self.out.note(f"{self.branch} {(result.commit or '')[:SHORT]}: {what}")

    @contextmanager
    def progress(self, label: str) -> Iterator[Report]:
        """See ``Output.progress``."""
        with self.out.progress(label) as report:
            yield report


def open_store(directory: str, write: bool, is_unpickled: bool, prog: str) -> Repo:
    """Open a store that is there, with a codec that runs no code unless that was asked for."""
    if not any(os.path.exists(os.path.join(directory, name)) for name in (MARKER, "data.mdb")):
        raise Failure(
            NOT_FOUND,
            f"there is no store at {directory}",
            f"`{prog} init {directory}` makes one; or name another with --store DIR",
        )
    backend = LmdbBackend(directory, create=False, readonly=not write)
    try:
        data = backend.get_ref(CONFIG)
        codec = None if data is None else _codec_for(decode_config(data).codec, is_unpickled)
        return Repo(backend, codec=codec)
    except BaseException:
        backend.close()
        raise


def _codec_for(name: str, is_unpickled: bool) -> Codec | str:
    if name in BUILT_IN and (name != "pickle" or is_unpickled):
        return name
    return undecoded(name)


# commands

Function = Callable[..., "int | None"]


def command(
    name: str,
    *,
    store: bool = True,
    branch: bool = False,
    json: bool = False,
    values: bool = False,
    commit: bool = False,
) -> Callable[[Function], click.Command]:
    """Make a command of a function (app, its own options) -> exit code or None; its help is the docstring.

    Args:
        name: with the group's before it, for a command of a group.
        store, branch, json: whether it has --store, --branch, --json.
        values: whether it reads or writes values, and so has --unpickle.
        commit: whether it makes a commit, and so has -m, --info, --time.
    """

    def wrap(function: Function) -> click.Command:
        wanted = [(store, _store), (branch, _branch), (commit, _message), (commit, _info), (commit, _time),
                  (values, _unpickle), (json, _json), (True, _quiet)]  # fmt: skip
        options = [option() for has, option in wanted if has]
        names = [option.name or "" for option in options]

        @functools.wraps(function)
        def run(**given: Any) -> int | None:
            context = click.get_current_context()
            shared = Shared(**{name: given.pop(name) for name in names})
            if context.obj and context.get_parameter_source("store") is not ParameterSource.COMMANDLINE:
                shared = shared._replace(store=context.obj)  # `kvh --store DIR COMMAND` beats the variable
            app = App(shared, context.find_root().info_name or "kvh")
            context.call_on_close(app.close)
            code = function(app, **given)
            app.out.flush()
            return code

        runner: Callable[..., Any] = run
        own: list[click.Parameter] = list(reversed(getattr(runner, "__click_params__", [])))
        made = click.Command(
            name.rpartition(" ")[2], callback=runner, params=[*own, *options],
            help=function.__doc__, epilog=getattr(function, "epilog", None),
        )  # fmt: skip
        COMMANDS[name] = made
        return made

    return wrap


def example(*lines: str) -> Callable[[Function], Function]:
    """Examples for a command's help."""

    def mark(function: Function) -> Function:
        function.epilog = "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)  # type: ignore[attr-defined]
        return function

    return mark


def _store() -> click.Option:
    """--store"""
    return click.Option(
        ["--store"], envvar=STORE_VARIABLE, metavar="DIR",
        help=f"The store's directory [{STORE_VARIABLE}; else where you are, if that is one].",
        shell_complete=complete.directories,
    )  # fmt: skip


def _branch() -> click.Option:
    """--branch"""
    return click.Option(
        ["-b", "--branch"], envvar=BRANCH_VARIABLE, default=MAIN, metavar="NAME",
        help=f"The branch it is about [{BRANCH_VARIABLE}; else {MAIN}].", shell_complete=complete.branches,
    )  # fmt: skip


def _json() -> click.Option:
    """--json"""
    return click.Option(["is_json", "--json"], is_flag=True, help="One JSON object a line.")


def _quiet() -> click.Option:
    """--quiet"""
    return click.Option(["is_quiet", "-q", "--quiet"], is_flag=True, help="No messages and no progress.")


def _unpickle() -> click.Option:
    """--unpickle"""
    return click.Option(
        ["is_unpickled", "--unpickle"], is_flag=True,
        help="Read the values of a store of pickles, which runs code in them: only if you trust its writer.",
    )  # fmt: skip


def _message() -> click.Option:
    """--message"""
    return click.Option(["-m", "--message"], metavar="TEXT", help="Why; kept in the commit.")


def _info() -> click.Option:
    """--info"""
    return click.Option(
        ["--info"],
        multiple=True,
        metavar="NAME=VALUE",
        help="More to keep in the commit, such as author=Ada.",
    )


def _time() -> click.Option:
    """--time"""
    return click.Option(
        ["--time"], metavar="WHEN",
        help="When it was made [now]; 'none' for an id that follows from the contents alone.",
    )  # fmt: skip
