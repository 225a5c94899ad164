"""Where the program writes: data to stdout, messages and progress to stderr."""

from __future__ import annotations

import codecs
import io
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO, Final, TextIO

import click

from kvgit_hamt.cli.exits import ReaderGone
from kvgit_hamt.cli.values import dump_json, safe

Report = Callable[[str, int, int], None]
FLUSH_S: Final = 0.2  # a terminal waits no longer than this for lines that are ready


class Output:
    """The two streams of a run.

    Attributes:
        is_quiet: messages are left out; errors are not.
        is_terminal: stdout is one.
        has_color: stdout takes colors (a terminal, and NO_COLOR is not set).
    """

    def __init__(self, is_quiet: bool = False) -> None:
        self.stream: TextIO = sys.stdout
        self.is_quiet = is_quiet
        self.is_terminal = self.stream.isatty()
        self.has_color = takes_color(self.stream)
        self._flushed_s = 0.0
        self._has_bar = False  # of progress, on the screen
        self._has_text = False  # in the stream, before its bytes
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # what a poor encoding lacks is escaped, not an error
                stream.reconfigure(errors="backslashreplace")

    def line(self, text: str = "") -> None:
        """A line of data."""
        self._write(text + "\n")

    def exact(self, data: str | bytes) -> None:
        """Data as it is, without a line end."""
        if isinstance(data, str):
            data = data.encode("utf-8", "surrogatepass")
        if self._has_text:
            self.flush()
        with _reader():
            self.stream.buffer.write(data)

    def record(self, record: Mapping[str, Any]) -> None:
        """A line of JSON. Values in it are given as ``to_json`` makes them."""
        self._write(dump_json(record) + "\n")

    def _write(self, text: str) -> None:
        self._has_text = True
        with _reader():
            if self._has_bar and self.is_terminal:  # wipe it, so that a line of its own is left
                self.stream.write(f"\r\x1b[2K{text}")
                self.stream.flush()
                return
            self.stream.write(text)
            if self.is_terminal:
                now = time.monotonic()
                if now - self._flushed_s > FLUSH_S:
                    self._flushed_s = now
                    self.stream.flush()

    def flush(self) -> None:
        """Let everything go out; ReaderGone if nobody takes it."""
        self._has_text = False
        with _reader():
            self.stream.flush()

    def note(self, text: str) -> None:
        """A message."""
        if not self.is_quiet:
            self.flush()
            click.echo(text, err=True)

    def paint(self, text: str, color: str, bold: bool = False) -> str:
        """Text in a color, if stdout takes colors."""
        return click.style(text, fg=color, bold=bold) if self.has_color else text

    def paint_bold(self, text: str) -> str:
        """Bold text, if stdout takes colors."""
        return click.style(text, bold=True) if self.has_color else text

    def table(self, titles: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
        """A few rows, numbers to the right: drawn on a terminal, plain columns elsewhere."""
        if self.is_terminal:
            self._draw(titles, rows)
            return
        texts = [titles, *[tuple(_cell(value) for value in row) for row in rows]]
        widths = [max(len(row[at]) for row in texts) for at in range(len(titles))]
        for number, row in enumerate(texts):
            cells = []
            for at, text in enumerate(row):
                is_number = number and isinstance(rows[number - 1][at], (int, float))
                cells.append(text.rjust(widths[at]) if is_number else text.ljust(widths[at]))
            self.line("  ".join(cells).rstrip())

    def _draw(self, titles: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for at, title in enumerate(titles):
            is_number = bool(rows) and isinstance(rows[0][at], (int, float))
            table.add_column(title, justify="right" if is_number else "left")
        for row in rows:
            table.add_row(*[Text(_cell(value)) for value in row])
        self.flush()
        with _reader():
            how: dict[str, Any] = {} if self.has_color else {"color_system": None}
            Console(file=self.stream, highlight=False, **how).print(table)

    @contextmanager
    def progress(self, label: str) -> Iterator[Report]:
        """A bar with rate and remaining time on a terminal's stderr; nothing elsewhere.

        Gives a function to be called with (phase, done, of how many; 0: not known).
        """
        if self.is_quiet or not sys.stderr.isatty():
            yield no_report
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(file=sys.stderr, no_color=not takes_color(sys.stderr))
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
        )  # fmt: skip
        with Progress(*columns, console=console, transient=True, redirect_stdout=False) as bar:
            task = bar.add_task(label, total=None, rate="")
            seen = ("", 0.0, 0)
            self._has_bar = True

            def report(phase: str, done: int, total: int) -> None:
                nonlocal seen
                now = time.monotonic()
                if phase != seen[0]:
                    seen = (phase, now, done)
                    bar.reset(task)
                seconds = now - seen[1]
                rate = (done - seen[2]) / seconds if seconds > 0 else 0.0
                bar.update(
                    task, description=f"{label}: {phase}", completed=done, total=total or None,
                    rate=f"{rate:,.0f}/s" if rate else "",
                )  # fmt: skip

            try:
                yield report
            finally:
                self._has_bar = False


class EscapedBytes(io.BufferedIOBase):
    """A terminal that is given text as bytes of UTF-8: what is not printable in it is escaped."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._decode = codecs.getincrementaldecoder("utf-8")("backslashreplace").decode

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: Any, /) -> int:
        """Escape and write."""
        self._stream.write(safe(self._decode(data)).encode())
        return len(data)

    def flush(self) -> None:
        """Let everything go out."""
        self._stream.flush()


def no_report(phase: str, done: int, total: int) -> None:
    """Progress that nobody sees."""


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


@contextmanager
def _reader() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise ReaderGone from error


def takes_color(stream: TextIO) -> bool:
    """Whether a stream is a terminal that takes colors. NO_COLOR (set, not empty) says no to all."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def forget_stdout() -> None:
    """Give stdout to nobody, so that no later flush fails once its reader has gone."""
    nobody = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nobody, sys.stdout.fileno())
    except (OSError, ValueError):  # a stream of a test, without a file below it
        return
    finally:
        os.close(nobody)
