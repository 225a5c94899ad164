"""The demo, the benchmark, and completion for shells."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click

from kvgit_hamt import demo as demo_module
from kvgit_hamt.cli.app import App, command, example
from kvgit_hamt.cli.exits import ENVIRONMENT, Failure
from kvgit_hamt.demo_data import ALL_COUNT

ROOT = Path(__file__).parents[2]  # of a checkout; of an installed package nothing of ours

# Not `python -m bench`, which would run a bench of the directory one is in.
RUN_BENCH = """\
import runpy, sys
sys.path[0] = sys.argv.pop(1)
runpy.run_module("bench", run_name="__main__", alter_sys=True)
"""


@command("demo", store=False)
@click.argument("directory", metavar="[DIR]", default=demo_module.DEFAULT_DIRECTORY, type=click.Path())
@click.option("--fresh", is_flag=True, help="Replace the store of an earlier demo.")
@click.option(
    "--code-points", metavar="N", type=int, default=ALL_COUNT, show_default=True,
    help="Only the first N code points.",
)  # fmt: skip
@example("kvh demo", "kvh demo --fresh demo-store")
def demo(app: App, directory: str, fresh: bool, code_points: int) -> int:
    """See it work, in a store of two Unicode databases.

    It loads two versions of the Unicode character database and shows commits, a diff, a merge and an old
    state. The store is made in DIR [demo-store], which is missing or empty. It checks itself: the exit code
    is 1 if a check fails.
    """
    from kvgit_hamt.cli.plain import play

    app.out.flush()
    return play(directory, code_points, fresh)


@command("bench", store=False)
@click.argument("arguments", metavar="[ARG]...", nargs=-1, type=click.UNPROCESSED)
@example("kvh bench -- --sizes 10k --repeats 1")
def bench(app: App, arguments: tuple[str, ...]) -> int:
    """Run the benchmark of a checkout.

    Its own arguments come after --. The benchmark and the rivals it measures are part of the repository,
    not of the installed package.
    """
    if not (ROOT / "bench" / "__main__.py").exists():
        raise Failure(
            ENVIRONMENT,
            "the benchmark is part of the repository, not of the installed package",
            "get a checkout and run `make bench` there",
        )
    app.out.flush()
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", RUN_BENCH, str(ROOT), *arguments], env=environment, check=False
    )
    return done.returncode if done.returncode >= 0 else ENVIRONMENT


@command("completion", store=False)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@example(
    'eval "$(kvh completion bash)"     # in ~/.bashrc',
    'eval "$(kvh completion zsh)"      # in ~/.zshrc',
    "kvh completion fish > ~/.config/fish/completions/kvh.fish",
)
def completion(app: App, shell: str) -> None:
    """Print a script for completion in a shell.

    The shell then completes commands, options, branches, tags and keys. It serves both names of the
    program, kvh and kvgit-hamt.
    """
    from click.shell_completion import get_completion_class

    from kvgit_hamt.cli.program import COMPLETE_VARIABLE, NAMES, program

    found = get_completion_class(shell)
    assert found is not None  # one of the choices above
    for name in NAMES:
        app.out.line(found(program, {}, name, COMPLETE_VARIABLE).source())
