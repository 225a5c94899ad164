"""A shell in a terminal, driven as a person drives it, and what is then on its screen."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final

READY: Final = "\x1b]0;ready\x07"  # a title that the prompts of the shell set: it waits for a line
ESCAPE: Final = re.compile(r"\x1b(?:\[([0-9;?]*)([@-~])|\][^\x07]*\x07|[=>])")


class Screen:
    """What is left of written characters on a screen that is never full: lines, cursor, erasing."""

    def __init__(self) -> None:
        self._lines: list[list[str]] = [[]]
        self._row = 0
        self._column = 0

    def write(self, text: str) -> None:
        at = 0
        while at < len(text):
            found = ESCAPE.match(text, at)
            if found is not None:
                self._obey(found[2], found[1])
                at = found.end()
                continue
            self._put(text[at])
            at += 1

    def _put(self, char: str) -> None:
        if char == "\n":
            self._row += 1
            if self._row == len(self._lines):
                self._lines.append([])
        elif char == "\r":
            self._column = 0
        elif char == "\b":
            self._column = max(0, self._column - 1)
        elif char >= " ":
            line = self._lines[self._row]
            line.extend(" " * (self._column + 1 - len(line)))
            line[self._column] = char
            self._column += 1

    def _obey(self, order: str | None, figures: str | None) -> None:
        if order == "A":
            self._row = max(0, self._row - int(figures or 1))
        elif order == "K":
            start = 0 if figures == "2" else self._column
            del self._lines[self._row][start:]
        elif order not in (None, "m", "h", "l"):  # titles, colors, modes of the cursor
            raise ValueError(f"an order the screen does not know: {order}")

    def text(self) -> str:
        """The lines, without blanks at their ends."""
        return "\n".join("".join(line).rstrip() for line in self._lines)


class Terminal:
    """A bash in a terminal of its own.

    Args:
        directory: where it starts, and its HOME.
        variables: what it finds in its environment; nothing is inherited.
        columns: how wide the terminal is.
    """

    def __init__(self, directory: Path, variables: Mapping[str, str], columns: int = 100) -> None:
        self.screen = Screen()
        self._master, side = pty.openpty()
        fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        # The first terminal that the leader of a session opens becomes its own.
        start = 'exec bash --norc --noprofile --noediting -i <"$0" >"$0" 2>&1'
        self._shell = subprocess.Popen(
            ["sh", "-c", start, os.ttyname(side)], stdin=side, cwd=directory, start_new_session=True,
            env={
                **variables, "HOME": str(directory), "TERM": "xterm-256color", "PS1": f"\\[{READY}\\]$ ",
                "PS2": f"\\[{READY}\\]> ", "HISTFILE": "", "BASH_SILENCE_DEPRECATION_WARNING": "1",
            },
        )  # fmt: skip
        os.close(side)
        self._raw = ""  # what came since a line was typed
        self._shown = 0  # how much of it is on the screen
        self._pending = b""  # the first bytes of a character

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shell.kill()
        self._shell.wait()
        os.close(self._master)

    def wait(self, question: str | None = None, timeout_s: float = 300.0) -> bool:
        """Until the shell waits for a line, or a program that ends what it asks with ``question``.

        Returns:
            whether it is a program.
        """
        while READY not in self._raw:
            if question is not None and self._raw.endswith(question):
                return True
            if not select.select([self._master], [], [], timeout_s)[0]:
                raise TimeoutError(f"nothing more came; on the screen:\n{self.shown()}")
            try:
                data = os.read(self._master, 65_536)
            except OSError:  # how a terminal without a shell ends
                data = b""
            if not data:
                raise EOFError(f"the shell ended; on the screen:\n{self.shown()}")
            whole, self._pending = _whole(self._pending + data)
            self._raw += whole
        return False

    def type(self, line: str) -> None:
        """A line, once the shell or a program waits for it: call ``wait`` first."""
        self.shown()
        self._raw, self._shown = "", 0
        os.write(self._master, line.encode() + b"\n")

    def shown(self) -> str:
        """All that was on the screen until now."""
        self.screen.write(self._raw[self._shown :])
        self._shown = len(self._raw)
        return self.screen.text()


def _whole(data: bytes) -> tuple[str, bytes]:
    """The text of data, and the bytes of a character at its end that is not complete."""
    for cut in range(4):
        try:
            return data[: len(data) - cut].decode(), data[len(data) - cut :]
        except UnicodeDecodeError:
            continue
    return data.decode(errors="replace"), b""
