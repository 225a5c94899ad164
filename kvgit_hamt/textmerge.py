"""Three-way merge of text by lines: diff3, with conflicts drawn as git draws them.

Both sides are compared with the base. Where the changed stretches of the two touch or overlap they are one
region; a region that one side left alone, or that both changed alike, is settled; any other is a conflict.
Reference: S. Khanna, K. Kunal, B. C. Pierce, "A Formal Investigation of Diff3", 2007.
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import Final, NamedTuple

MARKER_WIDTH: Final = 7  # git's; tools that find conflicts in a text search for it


class MergedText(NamedTuple):
    """The merged text and how many conflicts stand in it between markers."""

    text: str
    conflict_count: int


class _Edit(NamedTuple):
    """Lines ``start:stop`` of the base became lines ``new_start:new_stop`` of a side."""

    start: int
    stop: int
    new_start: int
    new_stop: int


class _Region(NamedTuple):
    base: list[str]
    ours: list[str]
    theirs: list[str]


def merge_text(base: str, ours: str, theirs: str, labels: tuple[str, str]) -> MergedText:
    """Merge two descendants of a text; labels name ours and theirs in the markers.

    Lines end in "\\n" alone; a last line without one is a line of its own kind, as in git.

    Cost: quadratic in the number of lines between the first and the last that differ.
    """
    out: list[str] = []
    conflict_count = 0
    for region in _regions(_lines(base), _lines(ours), _lines(theirs)):
        if region.ours == region.theirs or region.theirs == region.base:
            out += region.ours
        elif region.ours == region.base:
            out += region.theirs
        else:
            conflict_count += 1
            _draw_conflict(out, region, labels)
    return MergedText("".join(out), conflict_count)


def _lines(text: str) -> list[str]:
    # Not splitlines: form feeds and the like are part of a line.
    lines = [line + "\n" for line in text.split("\n")]
    last = lines.pop()[:-1]
    return [*lines, last] if last else lines


def _regions(base: list[str], ours: list[str], theirs: list[str]) -> Iterator[_Region]:
    """The base cut at the edges of every change; unchanged stretches have three equal parts."""
    sides = (ours, theirs)
    edits = (_edits(base, ours), _edits(base, theirs))
    at = [0, 0]  # next edit of each side
    shift = [0, 0]  # line of a side minus line of the base, behind the last edit passed
    done = 0
    while at[0] < len(edits[0]) or at[1] < len(edits[1]):
        start = min(edits[i][at[i]].start for i in (0, 1) if at[i] < len(edits[i]))
        if start > done:
            yield _Region(*[base[done:start]] * 3)
        before = tuple(shift)
        stop = start
        grown = True
        while grown:
            grown = False
            for i in (0, 1):
                if at[i] < len(edits[i]) and edits[i][at[i]].start <= stop:
                    edit = edits[i][at[i]]
                    stop = max(stop, edit.stop)
                    shift[i] = edit.new_stop - edit.stop
                    at[i] += 1
                    grown = True
        parts = [sides[i][start + before[i] : stop + shift[i]] for i in (0, 1)]
        yield _Region(base[start:stop], *parts)
        done = stop
    if done < len(base):
        yield _Region(*[base[done:]] * 3)


def _edits(base: list[str], side: list[str]) -> list[_Edit]:
    """What changed from base to side, in order, no two touching; common ends are not searched."""
    limit = min(len(base), len(side))
    head = 0
    while head < limit and base[head] == side[head]:
        head += 1
    tail = 0
    while tail < limit - head and base[-1 - tail] == side[-1 - tail]:
        tail += 1
    matcher = SequenceMatcher(
        None, base[head : len(base) - tail], side[head : len(side) - tail], autojunk=False
    )
    return [
        _Edit(head + i1, head + i2, head + j1, head + j2)
        for tag, i1, i2, j1, j2 in matcher.get_opcodes()
        if tag != "equal"
    ]


def _draw_conflict(out: list[str], region: _Region, labels: tuple[str, str]) -> None:
    """Append a conflict; lines that both versions begin or end with stay outside the markers."""
    _, ours, theirs = region
    limit = min(len(ours), len(theirs))
    head = 0
    while head < limit and ours[head] == theirs[head]:
        head += 1
    tail = 0
    while tail < limit - head and ours[-1 - tail] == theirs[-1 - tail]:
        tail += 1
    ours_part, theirs_part = ours[head : len(ours) - tail], theirs[head : len(theirs) - tail]
    end = "\r\n" if (ours_part or theirs_part)[0].endswith("\r\n") else "\n"
    out += ours[:head]
    out.append(f"{'<' * MARKER_WIDTH} {labels[0]}{end}")
    out += _closed(ours_part, end)
    out.append(f"{'=' * MARKER_WIDTH}{end}")
    out += _closed(theirs_part, end)
    out.append(f"{'>' * MARKER_WIDTH} {labels[1]}{end}")
    out += ours[len(ours) - tail :]


def _closed(lines: list[str], end: str) -> list[str]:
    """The lines with the last one ended, so that the marker behind it stands on a line of its own."""
    if lines and not lines[-1].endswith("\n"):
        return [*lines[:-1], lines[-1] + end]
    return lines
