"""The site builds without warnings, and has what it should."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import kvgit_hamt

ROOT = Path(__file__).parents[2]
HOWTOS = (
    "embed-in-a-service", "many-processes", "backup-and-restore", "resolve-conflicts",
    "bring-your-own-backend", "bulk-import", "time-travel", "tune-for-your-data", "move-from-kvgit",
    "move-from-lmdb", "move-from-sqlite",
)  # fmt: skip


def _build(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", source, target],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    target = tmp_path_factory.mktemp("site")
    done = _build(ROOT / "docs", target)
    assert done.returncode == 0, done.stderr
    return target


def test_every_document_is_a_page(site):
    pages = {path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").rglob("*.md")}
    assert {str(page) for page in pages if not (site / f"{page}.html").exists()} == set()


def test_the_api_reference_has_every_public_name_with_its_words(site):
    page = (site / "api.html").read_text(encoding="utf-8")
    assert [name for name in kvgit_hamt.__all__ if f'id="kvgit_hamt.{name}"' not in page] == []
    assert "A versioned store: commits of maps" in page  # a docstring


def test_readme_and_changelog_are_brought_in_and_their_links_lead_into_the_site(site):
    page = (site / "readme.html").read_text(encoding="utf-8")
    assert "What it is not" in page
    assert 'href="howto/resolve-conflicts.html"' in page
    assert "Keep a Changelog" in (site / "changelog.html").read_text(encoding="utf-8")


def test_pages_ask_no_other_host_for_anything(site):
    asked = {
        target
        for path in site.rglob("*.html")
        for target in re.findall(
            r'<(?:script|link|img|iframe)\b[^>]*?(?:src|href)="((?:https?:)?//[^"]*)"',
            path.read_text(encoding="utf-8"),
        )
    }
    assert asked == set()


def test_a_broken_reference_fails_the_build(tmp_path):
    """The control: a build that takes anything would show nothing."""
    source = tmp_path / "docs"
    source.mkdir()
    (source / "conf.py").write_text('extensions = ["myst_parser"]\n', encoding="utf-8")
    (source / "index.md").write_text("# A title\n\n[nowhere](nowhere.md)\n", encoding="utf-8")
    done = _build(source, tmp_path / "site")
    assert done.returncode != 0 and "nowhere" in done.stderr


@pytest.mark.parametrize("name", HOWTOS)
def test_a_how_to_is_there_is_executed_and_is_linked_from_the_front_page_and_the_readme(name):
    text = (ROOT / f"docs/howto/{name}.md").read_text(encoding="utf-8")
    assert "```python" in text  # which test_documents.py runs
    assert f"(howto/{name}.md)" in (ROOT / "docs/index.md").read_text(encoding="utf-8")
    assert f"(docs/howto/{name}.md)" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_front_page_lists_every_how_to_and_every_design_note_by_its_title():
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    for path in sorted((ROOT / "docs").glob("*/*.md")):
        name = path.relative_to(ROOT / "docs").as_posix()
        title = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        if name.startswith("design/"):
            number, words = path.name[:3], re.sub(r"^\d+:?\s+", "", title)
            assert f"| [{number}]({name}) | {words} |" in index
        else:
            assert f"| [{title}]({name}) |" in index
