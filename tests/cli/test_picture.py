"""Pictures of the graph of commits."""

from __future__ import annotations

import random
from xml.etree import ElementTree

import pytest

from kvgit_hamt.cli.picture import GraphPicture


def parts(text):
    """Dots in the order of their commits, lines as pairs of points, and labels."""
    root = ElementTree.fromstring(text)
    dots, lines, labels = [], [], []
    for each in root:
        kind = each.tag.rpartition("}")[2]
        if kind == "circle":
            dots.append((int(each.get("cx")), int(each.get("cy"))))
        elif kind == "line":
            x1, y1, x2, y2 = (int(each.get(name)) for name in ("x1", "y1", "x2", "y2"))
            lines.append(((x1, y1), (x2, y2)))
        elif kind == "text":
            labels.append(each.text)
    return dots, lines, labels


def draw(history, hidden=()):
    picture = GraphPicture()
    for name, parents in history.items():
        if name in hidden:
            picture.skip(name, parents)
        else:
            picture.node(name, parents, f"label {name}")
    return "".join(picture.lines())


def test_a_merge():
    dots, lines, labels = parts(draw({"m": "bc", "c": "a", "b": "a", "a": ""}))
    columns = [x for x, _ in dots]
    assert columns == [columns[0], columns[0] + 20, columns[0], columns[0]]
    assert labels == ["label m", "label c", "label b", "label a"]
    assert {start for start, _ in lines} >= set(dots[:3])
    assert dots[3] not in {start for start, _ in lines}  # nothing below the first commit
    assert dots[0] not in {end for _, end in lines}  # and nothing above the newest


def test_histories_that_have_nothing_in_common_are_not_joined():
    assert parts(draw({"x": "", "y": ""}))[1] == []


def test_commits_that_are_left_out_do_not_break_the_line():
    dots, lines, _ = parts(draw({"c": "b", "b": "a", "a": ""}, hidden="b"))
    assert len(dots) == 2
    assert dots[1] in reached(dots[0], lines)


def reached(start, lines):
    found, ways = set(), {start}
    while ways:
        ways = {end for point, end in lines if point in ways} - found
        found |= ways
    return found


@pytest.mark.parametrize("seed", range(10))
def test_every_parent_is_reached_and_no_line_ends_in_nothing(seed):
    rng = random.Random(seed)
    count = 25
    history = {
        str(name): [
            str(each)
            for each in sorted(
                rng.sample(range(name + 1, count), min(count - name - 1, rng.choice((0, 1, 1, 1, 2, 2, 3))))
            )
        ]
        for name in range(count)
    }
    dots, lines, _ = parts(draw(history))
    assert len(dots) == count
    for name, parents in history.items():
        assert {dots[int(parent)] for parent in parents} <= reached(dots[int(name)], lines)
    starts, ends = {start for start, _ in lines}, {end for _, end in lines}
    assert ends <= starts | set(dots)
    assert starts <= ends | set(dots)


def test_labels_are_words_not_marks():
    picture = GraphPicture()
    picture.node("a", [], "<b>&\x1b\ufffe")
    assert parts("".join(picture.lines()))[2] == ["<b>&\ufffd\ufffd"]


def test_the_log_as_a_picture(filled, tmp_path):
    filled("merge", "dev")
    path = tmp_path / "log.svg"
    shown = filled("log", "--oneline", "--svg", str(path))
    dots, lines, labels = parts(path.read_text(encoding="utf-8"))
    assert len(dots) == len(labels) == len(shown.lines)
    assert labels == shown.lines
    assert len({end for _, end in lines} & set(dots)) == len(dots) - 1
    filled("log", "--json", "--svg", str(path), "-n", "2")
    assert len(parts(path.read_text(encoding="utf-8"))[0]) == 2
    filled("log", "--key", "user/1", "--svg", str(path))
    assert [label.partition(" ")[2] for label in parts(path.read_text(encoding="utf-8"))[2]] == [
        "(tag: v1) second"
    ]
    assert "No such file" in filled("log", "--svg", "/nowhere/x/y.svg", code=2).err
