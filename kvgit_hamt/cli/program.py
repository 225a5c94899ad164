"""The program: its commands, each module of which is imported when it is called, and its errors."""

from __future__ import annotations

import difflib
import os
import sys
import warnings
from collections.abc import MutableMapping, Sequence
from importlib import import_module
from typing import Any, Final

import click

import kvgit_hamt
from kvgit_hamt.cli.app import COMMANDS, STORE_VARIABLE
from kvgit_hamt.cli.exits import INTERRUPTED, READER_GONE, USAGE, Explained, ReaderGone, explain
from kvgit_hamt.cli.output import forget_stdout, takes_color

# Topic -> module -> commands, in the order of the help.
TOPICS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "Data": {
        "data": ("init", "get", "ls", "count", "sample"),
        "edit": ("set", "del", "apply"),
        "transfer": ("import", "export"),
    },
    "History": {"log": ("log", "show", "reflog"), "compare": ("diff",)},
    "Branches": {
        "names": ("branch", "tag", "reset"),
        "merging": ("merge", "cherry-pick", "revert"),
    },
    "Upkeep": {
        "upkeep": ("gc", "compact", "du", "check"),
        "shape": ("stats",),
        "bundles": ("bundle", "copy"),
    },
    "More": {"extras": ("demo", "bench", "completion")},
}
MODULES: Final = {
    name: module for topic in TOPICS.values() for module, names in topic.items() for name in names
}
# Verbs one may know from git or other stores, which are not commands here -> what to do instead.
ELSEWHERE: Final = {
    "add": "`set` and `import` make commits at once, there is nothing to stage",
    "checkout": "every command takes --branch NAME; --at REV reads an old state",
    "clone": "`copy` copies the store; `bundle` carries it to where it cannot be copied",
    "commit": "`set`, `del`, `apply` and `import` make a commit each; `apply` makes many changes in one",
    "delete": "it is `del` here",
    "fetch": "`bundle create` there, `bundle load` here",
    "fsck": "it is `check` here",
    "list": "`ls` lists keys, `branch` branches and `tag` tags",
    "pull": "`bundle create` there, `bundle load` here, then `merge`",
    "push": "`bundle create` here, `bundle load` there",
    "put": "it is `set` here",
    "rebase": "`cherry-pick` carries commits over, `merge` joins two histories",
    "restore": "`show REV:KEY` prints an old value; `reset` moves the branch, `revert` undoes a commit",
    "rm": "it is `del` here",
    "stash": "there are no pending changes: commit them on a branch of their own",
    "status": "each command makes its commit, nothing is pending; `log -n 1` shows the newest",
    "switch": "every command takes --branch NAME",
}
NAMES: Final = ("kvgit-hamt", "kvh")
COMPLETE_VARIABLE: Final = "_KVH_COMPLETE"  # asks for completion, whatever the program was called as


class Program(click.Group):
    """The group of all commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names."""
        return list(MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command, its module imported."""
        module = MODULES.get(cmd_name)
        if module is None:
            return None
        import_module(f"kvgit_hamt.cli.{module}")
        return COMMANDS[cmd_name]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As Click does, with names that are alike where there is no such command."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            instead = ELSEWHERE.get(args[0]) if args else None
            if instead is not None:
                raise click.UsageError(f"no command {args[0]!r}: {instead}", ctx) from error
            like = difflib.get_close_matches(args[0], MODULES, 3) if args else []
            if like:
                text = f"no command {args[0]!r}; did you mean {' or '.join(map(repr, like))}?"
                raise click.UsageError(text, ctx) from error
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands by topic."""
        width = max(map(len, MODULES))
        for topic, modules in TOPICS.items():
            rows = []
            for name in (name for names in modules.values() for name in names):
                command = self.get_command(ctx, name)
                if command is not None:
                    rows.append((name.ljust(width), command.get_short_help_str(limit=66)))
            with formatter.section(topic):
                formatter.write_dl(rows)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command; its exit code is returned, or with ``standalone_mode`` ends the process."""
        prog = prog_name or _prog()
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _warn
                code = super().main(args, prog, complete_var, standalone_mode=False, **extra)
        except (ReaderGone, BrokenPipeError):
            forget_stdout()
            code = READER_GONE
        except click.exceptions.Exit as error:
            code = error.exit_code
        except click.Abort:
            code = INTERRUPTED
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            code = USAGE
        except click.ClickException as error:
            code = _complain_usage(error, prog)
        except Exception as error:
            found = explain(error, prog)
            if found is None:
                raise
            code = _complain(found)
        code = code if isinstance(code, int) else 0
        if standalone_mode:
            sys.exit(code)
        return code

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a stdout that was closed is noticed here, before Click takes it for its own."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise ReaderGone from error

    def _main_shell_completion(
        self, ctx_args: MutableMapping[str, Any], prog_name: str, complete_var: str | None = None
    ) -> None:
        """One variable asks for completion, whatever the program was called as."""
        super()._main_shell_completion(ctx_args, prog_name, complete_var or COMPLETE_VARIABLE)


def _warn(message: Warning | str, *_where: object, **_how: object) -> None:
    """A warning of the library as one line."""
    click.echo(f"warning: {message}", err=True)


def _complain(found: Explained) -> int:
    """Say what went wrong, and what to do next."""
    is_colored = takes_color(sys.stderr)
    for word, color, text in (("error", "red", found.message), ("hint", "yellow", found.hint)):
        if text:
            mark = click.style(f"{word}:", fg=color) if is_colored else f"{word}:"
            click.echo(f"{mark} {text}", err=True)
    return found.code


def _complain_usage(error: click.ClickException, prog: str) -> int:
    hint = ""
    context = getattr(error, "ctx", None)
    if context is not None:
        path = context.command_path
        hint = f"`{path} --help` tells how it is used"
        if isinstance(error, click.NoSuchOption):
            hint += "; put -- before arguments that begin with -"
    return _complain(Explained(USAGE, error.format_message(), hint))


def _prog() -> str:
    """What the program is called in help and hints."""
    name = os.path.basename(sys.argv[0]).removesuffix(".exe")
    return name if name in NAMES else "kvh" if name != "__main__.py" else "python -m kvgit_hamt"


@click.command(
    cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(kvgit_hamt.__version__, prog_name="kvgit-hamt")
@click.option("--store", metavar="DIR", help=f"The store's directory, for every command [{STORE_VARIABLE}].")
@click.pass_context
def program(context: click.Context, store: str | None) -> None:
    """A key-value store with git's commits, branches and merges.

    A revision is a branch, a tag, a commit id or its first characters, with ~n (n commits back), ^n (the n-th
    parent), @{n} (where the branch was n moves ago) or @{2026-01-31} (where it was then); @ is the branch
    itself, 'main' unless --branch names another.
    """
    context.obj = store


def run(arguments: Sequence[str]) -> int:
    """Run the program; its exit code."""
    code = program.main(args=list(arguments), standalone_mode=False)
    return int(code)
