"""The graph of commits as text, drawn as they come: a column for each line of history that is open.

Each column waits for one commit. A commit takes the column that waits for it and leaves it to its parents;
columns that come to wait for the same commit run together.
"""

from __future__ import annotations

from collections.abc import Sequence


class Graph:
    """Draws commits that come children before parents.

    Memory: the columns that are open, never the commits that passed.
    """

    def __init__(self) -> None:
        self._waiting: list[str] = []  # column -> the id it waits for
        self._drawn = 0  # columns at the end of what was drawn
        self._edges: list[tuple[int, int]] = []  # from those columns to the ones that are open now

    def skip(self, commit: str, parents: Sequence[str]) -> None:
        """A commit that is not shown: its lines lead on to its parents."""
        if commit in self._waiting:
            self._follow(self._waiting.index(commit), parents)

    def node(self, commit: str, parents: Sequence[str]) -> tuple[list[str], str, str]:
        """A commit that is shown.

        Returns:
            rows to print before it, what stands before its first line, and before its others.
        """
        rows = self._rows()
        if commit not in self._waiting:
            self._waiting.append(commit)
        at = self._waiting.index(commit)
        width = len(self._waiting)
        marks = ["*" if column == at else "|" for column in range(width)]
        below = [" " if column == at and not parents else "|" for column in range(width)]
        self._drawn = width
        self._edges = [(column, column) for column in range(width)]
        self._follow(at, parents)
        return rows, " ".join(marks) + " ", " ".join(below) + " "

    def _follow(self, at: int, parents: Sequence[str]) -> None:
        """Give the column of a commit to its parents; the others move together."""
        groups = [[waiting] for waiting in self._waiting]
        groups[at] = list(parents)
        waiting: list[str] = []
        targets = []
        for group in groups:
            for commit in group:
                if commit not in waiting:
                    waiting.append(commit)
            targets.append([waiting.index(commit) for commit in group])
        self._waiting = waiting
        self._edges = [(start, target) for start, column in self._edges for target in targets[column]]

    def _rows(self) -> list[str]:
        """Lines that lead from the columns that were drawn to those that are open."""
        edges = list(dict.fromkeys(self._edges))
        rows = []
        while any(start != end for start, end in edges):
            row, edges = _row(edges)
            rows.append(row)
        self._edges = [(column, column) for column in range(len(self._waiting))]
        return rows


def _row(edges: list[tuple[int, int]]) -> tuple[str, list[tuple[int, int]]]:
    """A row in which edges come nearer to their columns by one, and where they are then.

    Of two that would cross in one place, one waits for the next row.
    """
    cells: dict[int, str] = {}
    moved = []
    for start, end in edges:
        step = (end > start) - (end < start)
        sign = "/|\\"[step + 1]
        if cells.get(2 * start + step, sign) != sign:
            step, sign = 0, "|"
        cells[2 * start + step] = sign
        moved.append((start + step, end))
    row = "".join(cells.get(place, " ") for place in range(max(cells) + 1))
    return row, list(dict.fromkeys(moved))
