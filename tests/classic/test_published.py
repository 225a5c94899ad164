"""The published tests of kvgit 0.1.3 against this package: which pass is written down, with the reasons,
in docs/design/004-classic-door.md; this holds that list."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE)] if str(HERE) not in sys.path else []
import published  # noqa: E402 (beside this file)

DOCUMENT = HERE.parents[1] / "docs/design/004-classic-door.md"


@pytest.mark.slow
def test_the_published_tests_pass_but_for_those_the_document_names(tmp_path):
    sdist = published.download(tmp_path)
    if sdist is None:
        pytest.skip("pip cannot get the sdist of kvgit 0.1.3")
    report = published.run(sdist, "-q", "--tb=no", "-rf", "--rootdir", str(sdist)).stdout
    failed = set(re.findall(r"^FAILED \S*?(test_\w+)\.py::\w+::(\w+)", report, re.M))
    named = set(re.findall(r"^\| `(test_\w+)`, `(test_\w+)` \|", DOCUMENT.read_text(), re.M))
    assert failed == named
    assert f"{len(failed)} failed, 230 passed" in report
