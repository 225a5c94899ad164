"""The quick example of the project's description, to the letter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

EXAMPLE = """\
import kvgit_hamt as kvgit
# Create a store -- values are Any (pickle-serialized by default)
s = kvgit.store()
s["user"] = "alice"
s["score"] = 0
s.commit()
first = s.current_commit
# Update and commit again
s["score"] = 100
s.commit()
print(s["score"]) # 100
# Rollback to the first commit
s.reset_to(first)
print(s["score"]) # 0
# Branching
s["score"] = 50
s.commit()
dev = s.create_branch("dev")
dev["score"] = 999
dev.commit()
print(s["score"]) # 50 (main unchanged)
print(dev["score"]) # 999 (dev branch)
"""


def test_the_quick_example_prints_what_its_comments_say():
    done = subprocess.run(
        [sys.executable, "-c", EXAMPLE], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    assert done.stdout.split() == ["100", "0", "50", "999"]


def test_the_quick_example_does_so_on_disk_too(tmp_path, capsys):
    on_disk = EXAMPLE.replace("kvgit.store()", 'kvgit.store("disk", path=PATH)')
    names = {"PATH": tmp_path / "store"}
    exec(compile(on_disk, "example", "exec"), names)
    assert capsys.readouterr().out.split() == ["100", "0", "50", "999"]
    names["s"].close()
