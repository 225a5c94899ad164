"""What the tests of the command line share: calls within the process, and a store to call them on."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from kvgit_hamt.cli.program import program

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-m", "kvgit_hamt"]
TIMEOUT_S = 20


@dataclass(frozen=True)
class Done:
    """What a call did."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @property
    def records(self) -> list[Any]:
        """Its output, as JSON lines."""
        return [json.loads(line) for line in self.lines]

    @property
    def record(self) -> Any:
        """Its only record."""
        (only,) = self.records
        return only


class Kvh:
    """Calls the program on a store. A call that fails is an error, unless the exit code is told."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __call__(self, *arguments: str, code: int = 0, input: bytes | str | None = None, **env: str) -> Done:
        runner = CliRunner(env={"KVGIT_HAMT_STORE": str(self.directory), "KVGIT_HAMT_BRANCH": None, **env})
        done = runner.invoke(program, list(arguments), prog_name="kvh", input=input)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        found = Done(done.exit_code, done.stdout_bytes, done.stderr)
        assert found.code == code, f"{arguments}: exit code {found.code}\n{found.text}{found.err}"
        assert "Traceback" not in found.err
        return found

    def head(self, branch: str = "main") -> str:
        return str(
            next(each["commit"] for each in self("branch", "--json").records if each["name"] == branch)
        )


def environment(store: Path, **more: str) -> dict[str, str]:
    """Environment variables for the program in a process of its own."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("KVGIT_HAMT", "NO_COLOR"))
    }
    return {**kept, "KVGIT_HAMT_STORE": str(store), "PYTHONPATH": str(ROOT), "TERM": "xterm", **more}


def on_terminal(store: Path, *arguments: str, words: Sequence[str] = PROGRAM, **env: str) -> tuple[int, str]:
    """(exit code, what was shown) of a call on a terminal of its own."""
    near, far = pty.openpty()
    process = subprocess.Popen(
        [*words, *arguments], stdin=far, stdout=far, stderr=far, env=environment(store, **env)
    )
    os.close(far)
    data = b""
    while True:
        try:
            more = os.read(near, 65_536)
        except OSError:  # the other end is closed
            break
        if not more:
            break
        data += more
    os.close(near)
    return process.wait(TIMEOUT_S), data.decode().replace("\r\n", "\n")
