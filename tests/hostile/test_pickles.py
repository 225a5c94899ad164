"""H3: nothing that is read is ever executed, unless the caller asked for pickles."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "kvgit_hamt"
MAY_IMPORT_PICKLE = {"codec.py", "classic/staged.py", "classic/factory.py"}
RUNNERS = {"marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "ctypes", "code", "runpy"}
CALLS = {"eval", "exec", "__import__"}

# A process that opens a store an enemy made and does everything with it; each pickle that is read, and
# each program or file that one would start or open, is an event.
VICTIM = """
import sys, os
path, codec = sys.argv[1], sys.argv[2]
import pickle, subprocess  # imported before the hook looks
import kvgit_hamt as kvgit
from kvgit_hamt.backend.base import Batch, RefUpdate
from kvgit_hamt.codec import Codec, get_codec

class Bomb:
    def __reduce__(self):
        return os.system, ("true",)

bomb = pickle.dumps(Bomb())
is_made = not os.path.exists(path)
with kvgit.Repo(path, codec=codec if is_made else None) as repo:
    work = repo.worktree()
    raw = repo.codec.encode
    repo.codec = get_codec("bytes") if codec == "bytes" else repo.codec
    work._codec = get_codec("bytes")
    work.update({f"k{n}": bomb + bytes(n) for n in range(40)})
    work.commit(info={"bomb": bomb})
    repo.branches.create("side")
    repo.tags.create("v1", info={"bomb": bomb})
    repo.store.backend.publish(Batch(refs=[RefUpdate("heads/bad", None, bomb, bomb)], meta={"m": bomb}))

LOOKED_FOR = {"pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen"}
events = []
ready = False
def hook(name, arguments):
    if ready and name in LOOKED_FOR:
        events.append(name)
sys.addaudithook(hook)
ready = True

def attempt(call):
    try:
        call()
    except kvgit.KvgitHamtError:
        return

given = {"codec": sys.argv[3]} if len(sys.argv) > 3 else {}
if codec == "custom":
    given = {"codec": Codec("custom", bytes, bytes)}
with kvgit.Repo(path, **given) as repo:
    work = repo.worktree()
    side = repo.worktree("side")
    for call in (
        lambda: dict(work.items()), lambda: work["k1"], lambda: work.get_many(["k1", "k2"]),
        lambda: work.sample(5), lambda: list(repo.log()), lambda: list(repo.diff("main", "side")),
        lambda: repo.tags.info("v1"), lambda: repo.reflog(), lambda: repo.reflog("bad"),
        lambda: repo.snapshot(branch="bad"),
        lambda: dict(repo.branches), lambda: repo.gc(dry_run=True), lambda: repo.usage(), repo.stats,
        lambda: repo.store.backend.get_meta("m"), lambda: repo.get_commit("main"),
        lambda: list(getattr(repo, "check", lambda: [])() or []), repo.compact,
        lambda: side.merge(branch="main"), lambda: [work.__setitem__("new", b"x"), work.commit()],
    ):
        attempt(call)
ready = False
print(*events)
"""

OPEN = "import sys, kvgit_hamt; kvgit_hamt.Repo(sys.argv[1])"


def events(path: Path, *arguments: str) -> list[str]:
    """The events of a victim."""
    done = subprocess.run(
        [sys.executable, "-c", VICTIM, str(path), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("codec", ["msgpack", "bytes"])
def test_a_store_full_of_pickles_runs_none_of_them(codec, tmp_path):
    assert events(tmp_path / "store", codec) == []


def test_a_store_that_says_pickle_is_not_opened_unless_that_is_asked_for(tmp_path):
    events(tmp_path / "store", "pickle", "pickle")
    done = subprocess.run(
        [sys.executable, "-c", OPEN, str(tmp_path / "store")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "InvalidInputError" in done.stderr
    assert "codec='pickle'" in done.stderr


def test_control_with_pickle_asked_for_the_code_in_it_runs(tmp_path):
    seen = events(tmp_path / "store", "pickle", "pickle")
    assert "pickle.find_class" in seen
    assert "os.system" in seen


def imported(path: Path) -> set[str]:
    """Top names of the modules that a file imports."""
    names = set()
    for item in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(item, ast.Import):
            names |= {alias.name.split(".")[0] for alias in item.names}
        elif isinstance(item, ast.ImportFrom) and item.module:
            names.add(item.module.split(".")[0])
    return names


def called(path: Path) -> set[str]:
    """Names of the plain functions that a file calls."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        item.func.id
        for item in ast.walk(tree)
        if isinstance(item, ast.Call) and isinstance(item.func, ast.Name)
    }


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_no_other_module_can_run_what_it_reads(path):
    name = path.relative_to(PACKAGE).as_posix()
    assert not called(path) & CALLS
    assert not imported(path) & RUNNERS
    assert "pickle" not in imported(path) or name in MAY_IMPORT_PICKLE
