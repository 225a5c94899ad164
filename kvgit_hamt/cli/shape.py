"""Figures of the store and of one tree, and pictures of its shape."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any, Final

import click

from kvgit_hamt.cli.app import App, command, example
from kvgit_hamt.cli.data import at_option
from kvgit_hamt.cli.picture import head, words
from kvgit_hamt.cli.values import bytes_text
from kvgit_hamt.hamt import Tree
from kvgit_hamt.treeshape import BINS, IS_INNER, IS_LEAF, NOTHING, Level, TreeShape, measure

COLUMNS: Final = 72  # of the picture in text
BAR: Final = 40
SIGNS: Final = {NOTHING: " ", IS_LEAF: "-", IS_INNER: "="}
SVG_COLUMNS: Final = 900
ROW_PX: Final = 26
TOP_PX: Final = 40
COLORS: Final = {IS_LEAF: "#6aa84f", IS_INNER: "#3d6fb5"}


@command("stats", branch=True, json=True)
@at_option
@click.option("--store-only", is_flag=True, help="Only the figures of the store; no tree is walked.")
@click.option(
    "--svg", type=click.File("w", encoding="utf-8", lazy=True), metavar="FILE", help="Also a picture, as SVG."
)
@example("kvh stats", "kvh stats --at v1 --json", "kvh stats --svg shape.svg")
def stats(app: App, at: str, store_only: bool, svg: IO[str] | None) -> None:
    """Print figures of the store and the shape of a tree.

    That is its depth, how full its leaves are, and a picture. In the picture each row is a level, the root
    on top; = are inner nodes, - are leaves, and a | begins a node that is wide enough to be seen. A node is
    as wide as its share of the keys. It reads the whole tree.
    """
    repo = app.repo()
    figures = repo.stats()
    if store_only:
        if app.is_json:
            app.out.record({"store": figures})
        else:
            _print_store(app, figures)
        return
    commit = app.commit(at)
    shape = measure(repo.store, Tree(*commit.tree), COLUMNS)
    if app.is_json:
        app.out.record({"store": figures, "tree": record_of(shape, commit.oid.hex())})
    else:
        _print_store(app, figures)
        _print_tree(app, shape)
    if svg is not None:
        wide = measure(repo.store, Tree(*commit.tree), SVG_COLUMNS)
        for line in svg_lines(wide):
            svg.write(line)


def _print_store(app: App, figures: dict[str, int]) -> None:
    for name, value in figures.items():
        word = name.removesuffix("_count").replace("_bytes", "").replace("_", " ")
        shown = bytes_text(value) if name.endswith("_bytes") else f"{value:,}"
        app.out.line(f"{word:<18} {shown:>14}")


def record_of(shape: TreeShape, commit: str) -> dict[str, Any]:
    """The shape as JSON."""
    return {
        "commit": commit, "key_count": shape.key_count, "depth": shape.depth,
        "mean_depth": round(shape.mean_depth, 4), "inner_count": shape.inner_count,
        "leaf_count": shape.leaf_count, "node_bytes": shape.node_bytes, "blob_count": shape.blob_count,
        "blob_bytes": shape.blob_bytes, "leaf_max_bytes": shape.leaf_max,
        "mean_fill": round(shape.mean_fill, 4), "fill": shape.fill, "largest_leaf": shape.largest_leaf,
        "levels": [
            {
                "inner_count": level.inner_count, "leaf_count": level.leaf_count,
                "child_count": level.child_count, "entry_count": level.entry_count,
                "byte_count": level.byte_count,
            }
            for level in shape.levels
        ],
    }  # fmt: skip


def _print_tree(app: App, shape: TreeShape) -> None:
    out = app.out
    out.line()
    out.line(
        f"tree: {shape.key_count:,} key(s), {shape.inner_count + shape.leaf_count:,} node(s), "
        f"{bytes_text(shape.node_bytes)}; {shape.blob_count:,} value(s) out of line, "
        f"{bytes_text(shape.blob_bytes)}"
    )
    out.line(f"depth: {shape.depth} level(s); {shape.mean_depth:.2f} nodes read for a key on average")
    rows = [
        (number, level.inner_count, level.leaf_count, level.entry_count, level.byte_count)
        for number, level in enumerate(shape.levels)
    ]
    out.line()
    out.table(("level", "inner nodes", "leaves", "keys", "bytes"), rows)
    out.line()
    out.line(f"fill of leaves: {shape.mean_fill:.0%} of {shape.leaf_max:,} bytes on average")
    most = max(shape.fill) or 1
    for number, count in enumerate(shape.fill):
        start = f"{number * 100 // BINS:>3} %"
        out.line(f"{start} {'#' * -(-BAR * count // most):<{BAR}} {count:,}".rstrip())
    out.line()
    for line in text_rows(shape):
        out.line(line)


def text_rows(shape: TreeShape) -> Iterator[str]:
    """The picture: a row for each level."""
    for level in shape.levels:
        cells = [SIGNS[kind] for kind in level.columns]
        for column in level.edges:
            cells[column] = "|"
        yield "".join(cells).rstrip()


def svg_lines(shape: TreeShape) -> Iterator[str]:
    """The picture as SVG: a rectangle for each node that is wide enough, else for a run of them."""
    height = TOP_PX + ROW_PX * shape.depth + 30
    title = (
        f"{shape.key_count:,} keys in {shape.leaf_count:,} leaves (green) below {shape.inner_count:,} "
        f"inner nodes (blue)"
    )
    yield head(shape.width + 20, height, title) + words(10, 24, title)
    for number, level in enumerate(shape.levels):
        top = TOP_PX + ROW_PX * number
        for start, stop, kind in _runs(level):
            line = ' stroke="#ffffff" stroke-width="0.5"' if start in level.edges else ""
            yield (
                f'<rect x="{10 + start}" y="{top}" width="{stop - start}" height="{ROW_PX - 2}" '
                f'fill="{COLORS[kind]}"{line}/>\n'
            )
    legend = "each row a level, the root on top; a node is as wide as its share of the keys"
    yield words(10, height - 10, legend) + "</svg>\n"


def _runs(level: Level) -> Iterator[tuple[int, int, int]]:
    """(first column, end, kind) of each stretch of one kind within one node, or of narrow nodes."""
    start = 0
    columns = level.columns
    for at in range(1, len(columns) + 1):
        if at == len(columns) or columns[at] != columns[start] or at in level.edges:
            if columns[start] != NOTHING:
                yield start, at, columns[start]
            start = at
