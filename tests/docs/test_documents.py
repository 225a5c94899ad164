"""The code in the documents runs, and their links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HIDDEN = {".venv", "build", "dist", "node_modules"}

PROGRAMS = [
    path for path in (ROOT / "README.md", *sorted((ROOT / "docs/howto").glob("*.md"))) if path.exists()
]
DOCUMENTS = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(part.startswith(".") or part in HIDDEN for part in path.relative_to(ROOT).parts)
)


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _program(path: Path) -> str:
    """All ```python blocks of a document, each at its own lines, so that a traceback points at them."""
    out: list[str] = []
    taking = False
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.rstrip() == "```python":
            taking = True
            out.append("")
        elif line.startswith("```"):
            taking = False
            out.append("")
        else:
            out.append(line if taking else "")
    return "\n".join(out)


@pytest.mark.parametrize("path", [path for path in PROGRAMS if _program(path).strip()], ids=_name)
def test_the_code_of_a_document_runs(path, tmp_path):
    program = _program(path)
    # A process of its own: one cannot hold open what another document left open.
    code = f"exec(compile({program!r}, {str(path)!r}, 'exec'), {{'__name__': '__main__'}})"
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error::DeprecationWarning:__main__", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_the_links_of_a_document_lead_somewhere(path):
    broken = []
    for target in _links(path):
        name, _, anchor = target.partition("#")
        aim = (path.parent / name).resolve() if name else path
        if not aim.exists() or (anchor and aim.suffix == ".md" and anchor not in _anchors(aim)):
            broken.append(target)
    assert not broken


def _links(path: Path) -> list[str]:
    """Targets of the links within the project."""
    text = re.sub(r"`[^`\n]*`", "", _prose(path))
    found = re.findall(r"\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)", text)
    found += re.findall(r"^\[[^\]]+\]:\s*(\S+)", text, re.M)
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def _anchors(path: Path) -> set[str]:
    """The anchors that the headings of a document make, as GitHub makes them."""
    anchors: dict[str, int] = {}
    for heading in re.findall(r"^#{1,6}\s+(.*?)\s*#*$", _prose(path), re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        seen = anchors.get(anchor, -1) + 1
        anchors[anchor] = seen
        if seen:
            anchors[f"{anchor}-{seen}"] = 0
    return set(anchors)


def _prose(path: Path) -> str:
    """A document without its blocks of code."""
    return re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
