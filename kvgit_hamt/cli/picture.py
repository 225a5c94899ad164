"""Pictures as SVG: what they share, and the graph of commits.

They stand on a white ground of their own, so that they can be read on light pages and on dark ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from kvgit_hamt.cli.drawing import Graph

CELL_PX: Final = 10  # a character of the drawing in text
ROW_PX: Final = 26  # a row with a commit
BETWEEN_PX: Final = 16  # a row between commits
LETTER_PX: Final = 7  # about as wide as a letter is
DOT_PX: Final = 5
LEFT_PX: Final = 20
INK: Final = "#222222"
COLORS: Final = ("#3d6fb5", "#6aa84f", "#c27c0e", "#a64d79", "#45818e", "#cc4125")  # one for each column
# What XML 1.0 cannot say, not even escaped.
FORBIDDEN: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def head(width: int, height: int, title: str) -> str:
    """The beginning of a picture, up to its ground."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif">\n'
        f"<title>{safe_xml(title)}</title>\n"
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>\n'
    )


def words(x: int, y: int, text: str, color: str = INK) -> str:
    """A line of text."""
    return f'<text x="{x}" y="{y}" font-size="12" fill="{color}">{safe_xml(text)}</text>\n'


def safe_xml(text: str) -> str:
    """A text as XML shows it."""
    return escape(FORBIDDEN.sub("\ufffd", text), quote=False)


class GraphPicture:
    """The graph of commits, drawn from the rows of the one in text.

    Memory: all that is drawn, since a picture begins with its size.
    """

    def __init__(self) -> None:
        self._graph = Graph()
        self._body: list[str] = []
        self._above = ""  # the row above, "o" for a commit without parents
        self._height = LEFT_PX - ROW_PX // 2
        self._width = 0
        self._count = 0

    def skip(self, commit: str, parents: Sequence[str]) -> None:
        """A commit that is not shown."""
        self._graph.skip(commit, parents)

    def node(self, commit: str, parents: Sequence[str], label: str) -> None:
        """A commit that is shown, with what stands beside it."""
        rows, first, _ = self._graph.node(commit, parents)
        for row in rows:
            self._row(row, BETWEEN_PX)
        self._row(first.rstrip() if parents else first.rstrip().replace("*", "o"), ROW_PX)
        x = LEFT_PX + CELL_PX * len(first)
        self._body.append(words(x, self._height - ROW_PX // 2 + 4, label))
        self._width = max(self._width, x + LETTER_PX * len(label))
        self._count += 1

    def lines(self) -> Iterator[str]:
        """The picture."""
        yield head(self._width + LEFT_PX, self._height + 10, f"{self._count:,} commits")
        yield from self._body
        yield "</svg>\n"

    def _row(self, row: str, height: int) -> None:
        top, bottom = self._height, self._height + height
        middle = (top + bottom) // 2
        dots = []
        for place, sign in enumerate(row):
            if sign == "|":
                self._line(place, (place, top), (place, bottom))
            elif sign == "/":
                self._line(place + 1, (place + 1, top), (place - 1, bottom))
            elif sign == "\\":
                self._line(place + 1, (place - 1, top), (place + 1, bottom))
            elif sign in ("*", "o"):
                if self._leads_to(place):
                    self._line(place, (place, top), (place, middle))
                if sign == "*":
                    self._line(place, (place, middle), (place, bottom))
                color = _color(place)
                dots.append(f'<circle cx="{_x(place)}" cy="{middle}" r="{DOT_PX}" fill="{color}"/>\n')
        self._body += dots  # over the lines
        self._above = row
        self._height = bottom

    def _leads_to(self, place: int) -> bool:
        """Whether a line comes down to a place from the row above."""
        above = dict(enumerate(self._above))
        return above.get(place) in ("|", "*") or above.get(place + 1) == "/" or above.get(place - 1) == "\\"

    def _line(self, column: int, start: tuple[int, int], end: tuple[int, int]) -> None:
        self._body.append(
            f'<line x1="{_x(start[0])}" y1="{start[1]}" x2="{_x(end[0])}" y2="{end[1]}" '
            f'stroke="{_color(column)}" stroke-width="2"/>\n'
        )


def _x(place: int) -> int:
    return LEFT_PX + CELL_PX * place


def _color(place: int) -> str:
    return COLORS[place // 2 % len(COLORS)]
