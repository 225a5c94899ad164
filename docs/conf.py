"""The site: `make docs` builds it into build/docs, from these documents and docstrings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pygments.lexers.special import TextLexer

import kvgit_hamt

HERE = Path(__file__).parent
# Files beside this directory that are pages of the site: docname -> file.
OUTSIDE = {"readme": HERE.parent / "README.md", "changelog": HERE.parent / "CHANGELOG.md"}
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")

project = "kvgit_hamt"
author = "The kvgit_hamt authors"
release = version = kvgit_hamt.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

myst_heading_anchors = 4  # as on GitHub, where the documents are read too

html_theme = "furo"
html_title = f"kvgit_hamt {release}"
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [(name, "returns_style") for name in ("Cost", "Memory", "Spec")]


def bring_in(app: Any, docname: str, source: list[str]) -> None:
    """Take the text of pages that lie elsewhere, and turn links out of docs/ to what the site has.

    Links to files become downloads of them; links to directories and to other documents become their text.
    """
    page = HERE / f"{docname}.md"
    if docname in OUTSIDE:
        source[0] = OUTSIDE[docname].read_text(encoding="utf-8")
    origin = OUTSIDE.get(docname, page).parent

    def aim(found: re.Match[str]) -> str:
        text, name, anchor = found[1], found[2], found[3] or ""
        if re.match(r"[a-z]+:", name):
            return found[0]
        target = (origin / name).resolve()
        for other, path in OUTSIDE.items():
            if target == path:
                target = HERE / f"{other}.md"
        if target.is_dir() or (target.suffix == ".md" and not target.is_relative_to(HERE)):
            return text
        steps = "../" * docname.count("/")
        inside = target.is_relative_to(HERE)
        where = target.relative_to(HERE if inside else HERE.parent).as_posix()
        return f"[{text}]({steps if inside else steps + '../'}{where}{anchor})"

    blocks = re.split(r"(^```.*?^```)", source[0], flags=re.M | re.S)
    source[0] = "".join(text if text.startswith("```") else LINK.sub(aim, text) for text in blocks)


def setup(app: Any) -> None:
    app.connect("source-read", bring_in)
    for name in ("vector", "bundle"):  # the tables of bytes in format.md
        app.add_lexer(name, TextLexer)
