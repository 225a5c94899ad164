"""The pictures of the documents are what the program makes now, and can be read on any ground."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.docs.pictures import MAKERS, PICTURES

ROOT = Path(__file__).parents[2]
MOST_BYTES = 200_000  # of one picture; pages shall stay light


@pytest.mark.parametrize("name", MAKERS)
def test_a_picture_is_what_the_program_makes(name, tmp_path):
    made = MAKERS[name](tmp_path)
    same = made == (PICTURES / f"{name}.svg").read_bytes()  # not compared by pytest, which would print it all
    assert same, "the program draws it otherwise now; `python -m tests.docs.pictures` writes it anew"


def test_every_picture_is_made_and_shown():
    assert {path.name for path in PICTURES.iterdir()} == {f"{name}.svg" for name in MAKERS}
    texts = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md"))
    assert {
        name for name in MAKERS if not re.search(rf"!\[[^\]]+\]\([./]*pictures/{name}\.svg\)", texts)
    } == set()


@pytest.mark.parametrize("name", MAKERS)
def test_a_picture_has_its_own_ground_and_dark_words_and_asks_for_nothing(name):
    """Legible on light pages and on dark ones."""
    text = (PICTURES / f"{name}.svg").read_text(encoding="utf-8")
    assert len(text) < MOST_BYTES
    root = ElementTree.fromstring(text)
    kinds = [each.tag.rpartition("}")[2] for each in root]
    assert kinds[:2] == ["title", "rect"]
    size = root.get("viewBox", "").split()[2:]
    ground = root[1]
    assert [ground.get("width"), ground.get("height"), ground.get("fill")] == [*size, "#ffffff"]
    assert {each.get("fill") for each in root if each.tag.endswith("}text")} == {"#222222"}
    others = {each.get(name) for each in root[2:] for name in ("fill", "stroke") if each.get(name)}
    assert {color for color in others - {"#222222", "#ffffff"} if contrast(color) < 2.5} == set()
    assert "href" not in text and set(kinds) <= {"title", "rect", "text", "line", "circle"}


def contrast(color: str) -> float:
    """Of a color on white, as WCAG counts it."""
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 1.05 / (
        0.05 + sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    )


def test_contrast_is_counted():
    assert contrast("#000000") == pytest.approx(21)
    assert contrast("#ffff00") < 2.5  # the control: a color that cannot be seen on white
