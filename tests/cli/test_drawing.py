"""The graph of commits: shapes that are known, and lines that connect in any history."""

from __future__ import annotations

import random

import pytest

from kvgit_hamt.cli.drawing import Graph


def draw(history, hidden=""):
    """History: "child:parent,parent" words, children first."""
    graph = Graph()
    lines = []
    for word in history.split():
        name, _, parents = word.partition(":")
        above = [each for each in parents.split(",") if each]
        if name in hidden:
            graph.skip(name, above)
            continue
        rows, first, _ = graph.node(name, above)
        lines += [*rows, first + name]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("history", "hidden", "picture"),
    [
        ("c:b b:a a:", "", "* c\n* b\n* a"),
        ("m:b,c c:a b:a a:", "", "* m\n|\\\n| * c\n* | b\n|/\n* a"),
        ("x:a y:a a:", "", "* x\n| * y\n|/\n* a"),
        ("x: y:", "", "* x\n* y"),
        ("m:a,b,c c:r b:r a:r r:", "", "* m\n|\\\n| |\\\n| | * c\n| * | b\n| |/\n* | a\n|/\n* r"),
        ("c:b b:a a:", "b", "* c\n* a"),
        ("m:b,c c:a b:a a:", "m", "* c\n| * b\n|/\n* a"),
        ("m:b,c c:a b:a a:", "bc", "* m\n* a"),
        ("m:b,c c:a b:a a:", "c", "* m\n|\\\n* | b\n|/\n* a"),
    ],
)
def test_known_histories(history, hidden, picture):
    assert draw(history, hidden) == picture


def test_further_lines_of_a_commit_stand_beside_its_column():
    graph = Graph()
    assert graph.node("m", ["a", "b"])[2] == "| "
    assert graph.node("b", [])[1:] == ("| * ", "|   ")


@pytest.mark.parametrize("seed", range(40))
def test_every_parent_is_reached_by_its_lines(seed):
    """Followed along the drawn lines, a commit leads to each of its parents."""
    rng = random.Random(seed)
    count = 30
    parents = {
        name: sorted(
            rng.sample(range(name + 1, count), min(count - name - 1, rng.choice((0, 1, 1, 1, 2, 2, 3))))
        )
        for name in range(count)
    }
    graph = Graph()
    rows = []
    for name in range(count):
        before, first, _ = graph.node(str(name), [str(each) for each in parents[name]])
        rows += [(row, None) for row in before]
        rows.append((first.rstrip(), name))
    where = {name: row for row, (_, name) in enumerate(rows) if name is not None}
    for name in range(count):
        found = _reached(rows, where[name], rows[where[name]][0].index("*"))
        assert set(parents[name]) <= found


def _reached(rows, start, place):
    """The commits that the lines below a commit may lead to."""
    found = set()
    ways = {place}
    for text, name in rows[start + 1 :]:
        following = set()
        for at in ways:
            for step, sign in ((0, "|"), (0, "*"), (-1, "/"), (1, "\\")):
                to = at + step
                if 0 <= to < len(text) and text[to] == sign:
                    if sign == "*":
                        found.add(name)
                    else:
                        following.add(to + step)
        ways = following
    return found
