"""Git repositories for tests: one made of real files, with everything that git can hold; and the comparison.

``compare`` looks at a store that a repository was imported into and asks git, commit by commit, for the tree
(``git ls-tree -r``) and for the difference to each parent (``git diff-tree -r``): nothing of the importer's
own way of reading git. Run as a program it imports any repository and compares:

    python -m tests.support.gitrepos REPOSITORY [BRANCH ..]
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from kvgit_hamt import Repo
from kvgit_hamt.interchange import bytes_of, import_git
from kvgit_hamt.interchange.gittext import SUBMODULE, file_of

ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
    "GIT_AUTHOR_NAME": "Ada", "GIT_AUTHOR_EMAIL": "ada@example.org", "GIT_AUTHOR_DATE": "1700000000 +0100",
    "GIT_COMMITTER_NAME": "Bob", "GIT_COMMITTER_EMAIL": "bob@example.org",
    "GIT_COMMITTER_DATE": "1700000001 -0330", "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
}  # fmt: skip

File = tuple[str, bytes]  # mode, content; of a submodule the commit's id


def git(path: Path, *arguments: str, given: bytes = b"", **environment: str) -> bytes:
    """The output of a git command."""
    done = subprocess.run(
        ["git", "-C", str(path), *arguments], input=given, capture_output=True, check=False,
        env={**ENVIRONMENT, **environment},
    )  # fmt: skip
    assert done.returncode == 0, (arguments, done.stderr.decode(errors="replace"))
    return done.stdout


def new_repository(path: Path) -> Path:
    """An empty bare repository."""
    path.mkdir()
    git(path, "init", "--quiet", "--bare", "--template=", "--initial-branch=main")
    return path


# writing histories


@dataclass
class Made:
    """A commit of a history that is being written: its mark, and what it holds."""

    mark: int
    files: dict[bytes, File] = field(default_factory=dict)


def quoted(path: bytes) -> bytes:
    """A path as fast-import takes it, every byte of it."""
    return b'"' + b"".join(b"\\%03o" % byte for byte in path) + b'"'


class History:
    """Writes commits for ``git fast-import``."""

    def __init__(self) -> None:
        self.out: list[bytes] = []
        self.marks = 0

    def commit(
        self,
        parents: Sequence[Made] = (),
        changes: dict[bytes, File | None] | None = None,
        message: bytes = b"",
        who: bytes = b"Ada <ada@example.org> 1700000000 +0100",
    ) -> Made:
        """A commit that makes changes (None: remove) to what its first parent holds."""
        self.marks += 1
        if not parents:
            self.out.append(b"reset refs/heads/scratch\n\n")
        self.out.append(b"commit refs/heads/scratch\nmark :%d\n" % self.marks)
        self.out.append(b"author %s\ncommitter %s\n" % (who, who))
        self.out.append(b"data %d\n%s\n" % (len(message), message))
        for at, parent in enumerate(parents):
            self.out.append(b"%s :%d\n" % (b"merge" if at else b"from", parent.mark))
        files = dict(parents[0].files) if parents else {}
        edits = sorted((changes or {}).items(), key=lambda edit: edit[1] is not None)  # removals first
        for path, file in edits:
            if file is None:
                self.out.append(b"D %s\n" % quoted(path))
                del files[path]
                continue
            mode, data = file
            files[path] = file
            if mode == SUBMODULE:
                self.out.append(b"M 160000 %s %s\n" % (data, quoted(path)))
            else:
                self.out.append(b"M %s inline %s\ndata %d\n" % (mode.encode(), quoted(path), len(data)))
                self.out += (data, b"\n")
        self.out.append(b"\n")
        return Made(self.marks, files)

    def ref(self, name: str, at: Made) -> None:
        """Set a branch or tag ("refs/heads/main")."""
        self.out.append(f"reset {name}\nfrom :{at.mark}\n\n".encode())

    def tag(self, name: str, at: Made, message: bytes) -> None:
        """An annotated tag."""
        self.out.append(f"tag {name}\nfrom :{at.mark}\n".encode())
        self.out.append(b"tagger Bob <bob@example.org> 1700000500 -0800\n")
        self.out.append(b"data %d\n%s\n" % (len(message), message))

    def write(self, path: Path) -> None:
        """Put all of it into a repository."""
        git(path, "fast-import", "--quiet", "--date-format=raw-permissive", given=b"".join(self.out))
        git(path, "update-ref", "-d", "refs/heads/scratch")


ODD_NAMES = (
    b"plain", b"a b", b"tab\there", b"line\nbreak", b'quo"te', b"back\\slash", b"\xff\xfe not utf-8",
    b"caf\xe9/latin", "caf\u00e9/composed".encode(), "cafe\u0301/decomposed".encode(),
    "\u65e5\u672c/\u8a9e.txt".encode(), b"-dash", b" lead", b"trail ", b"#hash", b"~tilde", b":colon",
    b"*star", b"%41", b"x" * 255, b"deep/" * 60 + b"down", b"\x01\x7f", b"\xc3", b"a\x80b",
    b"\xed\xa0\x80 surrogate",
    b"\xf4\x90\x80\x80 beyond",
)  # fmt: skip


def package_files(limit: int) -> list[tuple[bytes, bytes]]:
    """Sources of packages that are installed here: (path, content), the same at each call."""
    found: list[tuple[bytes, bytes]] = []
    for package in (pytest, hypothesis):
        assert package.__file__ is not None
        top = Path(package.__file__).parent
        for path in sorted((*top.rglob("*.py"), *top.parent.glob("_pytest/**/*.py"))):
            data = path.read_bytes()
            if len(data) < 60_000:
                found.append((os.fsencode(path.relative_to(top.parent)), data))
    return list(dict(found).items())[:limit]


class Maker:
    """A long history of real files: edits, additions, removals, renames, modes, merges of all sorts."""

    def __init__(self, seed: int, files: int) -> None:
        self.rng = random.Random(seed)
        self.history = History()
        self.stock = package_files(files)
        self.main = Made(0)
        self.sides: list[Made] = []  # what is not merged yet
        self.recent: deque[Made] = deque(maxlen=12)
        self.number = 0

    def make(self, count: int) -> None:
        """So many commits; ``main`` and ``sides`` lead to all of them."""
        self.main = self.history.commit((), self._some(30), b"first\n")
        self.recent.append(self.main)
        for _ in range(count - 1):
            self._next()

    def _some(self, count: int) -> dict[bytes, File | None]:
        return {path: ("100644", data) for path, data in self.rng.sample(self.stock, count)}

    def _next(self) -> None:
        rng = self.rng
        self.number += 1
        dice = rng.random()
        if dice < 0.5:
            self.main = self._commit([self.main])
        elif dice < 0.6 and len(self.sides) < 8:
            self.sides.append(self._commit([rng.choice(self.recent)]))
        elif dice < 0.61 and len(self.sides) < 8:  # a root of its own
            made = self.history.commit((), self._some(5), b"another root\n", self._who())
            self.sides.append(made)
        elif dice < 0.7 and len(self.sides) > 4:  # up to all sides at once: an octopus
            taken = rng.sample(self.sides, rng.choice((1, 2, len(self.sides))))
            self.main = self._commit([self.main, *taken])
            self.sides = [side for side in self.sides if side not in taken]
        elif self.sides:
            at = rng.randrange(len(self.sides))
            parents = [self.sides[at]] if dice < 0.93 else [self.sides[at], self.main]
            self.sides[at] = self._commit(parents)
        else:
            self.main = self._commit([self.main])

    def _commit(self, parents: list[Made]) -> Made:
        base, *others = parents
        changes: dict[bytes, File | None] = {
            path: file
            for other in others
            for path, file in other.files.items()
            if base.files.get(path) != file and self.rng.random() < 0.8
        }
        if self.rng.random() > (0.5 if others else 0.04):  # else it changes nothing more
            self._edit(base, changes)
        self._fit(base, changes)
        made = self.history.commit(parents, changes, self._message(), self._who())
        self.recent.append(made)
        return made

    def _edit(self, base: Made, changes: dict[bytes, File | None]) -> None:
        rng = self.rng
        paths = list(base.files)
        for _ in range(rng.choice((1, 1, 2, 3, 8))):
            deed = rng.random()
            path = rng.choice(paths) if paths else b"new"
            mode, data = base.files.get(path, ("100644", b""))
            if deed < 0.5 and mode != SUBMODULE:
                changes[path] = mode, self._changed(data)
            elif deed < 0.65:
                new, content = rng.choice(self.stock)
                changes[new] = "100644", content
            elif deed < 0.73 and path in base.files:
                changes[path] = None
            elif deed < 0.8 and path in base.files:  # a rename, at times with an edit
                changes[path] = None
                changes[b"moved/%d/" % self.number + path[-20:].replace(b"/", b"_")] = mode, data
            elif deed < 0.86 and mode in ("100644", "100755"):
                changes[path] = "100755" if mode == "100644" else "100644", data
            elif deed < 0.9:
                changes[b"links/%d" % rng.randrange(20)] = "120000", rng.choice((b"../x", b"\xff", b"a b"))
            elif deed < 0.92:
                changes[b"modules/%d" % rng.randrange(3)] = SUBMODULE, b"%040x" % rng.getrandbits(160)
            else:
                changes[rng.choice(ODD_NAMES)] = "100644", b"%d\n" % self.number

    def _changed(self, data: bytes) -> bytes:
        lines = data.splitlines(keepends=True)
        at = self.rng.randrange(len(lines) + 1)
        lines[at : at + self.rng.randrange(3)] = [b"# changed in %d\n" % self.number] * self.rng.randrange(
            1, 3
        )
        return b"".join(lines)

    def _fit(self, base: Made, changes: dict[bytes, File | None]) -> None:
        """Leave out what would make a path a file and a directory at once."""
        kept = {path for path in base.files if changes.get(path, path) is not None}
        for path in list(changes):
            if changes[path] is None:
                if path not in base.files:
                    del changes[path]
                continue
            parts = path.split(b"/")
            above = {b"/".join(parts[:end]) for end in range(1, len(parts))}
            others = kept | {other for other, file in changes.items() if file is not None}
            if above & others or any(other.startswith(path + b"/") for other in others):
                del changes[path]

    def _message(self) -> bytes:
        kinds = (
            b"change %d\n",
            b"",
            b"\n\nno subject %d",
            "ändert %d\n".encode(),
            b"caf\xe9 %d\n",
            b"%d\0nul\n",
        )
        message = self.rng.choice(kinds)
        return message % self.number if b"%d" in message else message

    def _who(self) -> bytes:
        name = self.rng.choice((b"Ada", "Jörg Ä".encode(), b"", b"J\xf6rg", b'A. "B" C'))
        zone = self.rng.choice((b"+0000", b"-0000", b"+0530", b"-1130", b"+1400", b"+9999"))
        seconds = self.rng.choice((1_700_000_000 + 60 * self.number, 0, 1, 4_102_444_800, 253_402_300_800))
        return b"%s <who@example.org> %d %s" % (name + b" " if name else b"", seconds, zone) if name else (
            b" <> %d %s" % (seconds, zone)
        )  # fmt: skip


def make_repository(path: Path, commits: int, seed: int = 1, files: int = 120) -> Path:
    """A bare repository with a long history, branches, tags of all kinds."""
    new_repository(path)
    maker = Maker(seed, files)
    maker.make(commits)
    maker.history.ref("refs/heads/main", maker.main)
    for number, made in enumerate(maker.sides):
        maker.history.ref(f"refs/heads/side/{number}", made)
        maker.history.ref(f"refs/tags/light-{number}", made)
        maker.history.tag(f"noted-{number}", made, b"release %d\n" % number)
    maker.history.write(path)
    return path


# comparison


@dataclass
class Report:
    """What a comparison saw: how much, and each difference in words."""

    commits: int = 0
    entries: int = 0
    diffs: int = 0
    changes: int = 0
    faults: list[str] = field(default_factory=list)


class _Hashes:
    """Git's ids of contents, computed here."""

    def __init__(self, name: str) -> None:
        self._hash = getattr(hashlib, name)
        self._seen: dict[tuple[str, bytes | str], str] = {}

    def entry(self, value: Any) -> tuple[str, str]:
        """(mode, id) of a value."""
        mode, data = file_of(value)
        if isinstance(data, str):
            return mode, data
        return mode, self._hash(b"blob %d\0" % len(data) + data).hexdigest()


def compare(repo: Repo, path: Path, branches: Sequence[str] = ()) -> Report:
    """Every commit that git's branches and tags (or some branches) reach, against what is in the store."""
    report = Report()
    listed = git(path, "rev-list", "--parents", *(branches or ("--branches", "--tags"))).decode().splitlines()
    ours = {}
    for name in [*repo.branches, *repo.tags]:
        for commit in repo.log(name):
            said = (commit.info or {}).get("git")
            if said is not None:
                ours[said["commit"]] = commit
    hashes = _Hashes(git(path, "rev-parse", "--show-object-format").decode().strip())
    for line in listed:
        oid, *parents = line.split()
        if oid not in ours:
            report.faults.append(f"{oid}: is not in the store")
            continue
        commit = ours[oid]
        report.commits += 1
        wanted = tuple(ours[parent].id for parent in parents)
        if commit.parents != wanted:
            report.faults.append(f"{oid}: parents {commit.parents}, not {wanted}")
        _compare_tree(repo, path, (oid, commit.id), hashes, report)
        for parent in parents:
            _compare_diff(repo, path, ((parent, ours[parent].id), (oid, commit.id)), hashes, report)
    extra = len(ours) - len(listed)
    if extra:
        report.faults.append(f"{extra} commits too many")
    return report


def _compare_tree(repo: Repo, path: Path, pair: tuple[str, str], hashes: _Hashes, report: Report) -> None:
    oid, ours = pair
    wanted = {}
    for record in git(path, "ls-tree", "-r", "-z", "--full-tree", oid).split(b"\0")[:-1]:
        head, _, name = record.partition(b"\t")
        mode, _, blob = head.decode().split()
        wanted[name] = (mode, blob)
    found = {bytes_of(key): hashes.entry(value) for key, value in repo.snapshot(commit=ours).items()}
    report.entries += len(wanted)
    for name in wanted.keys() | found.keys():
        if wanted.get(name) != found.get(name):
            report.faults.append(f"{oid}: {name!r} is {found.get(name)}, in git {wanted.get(name)}")


def _compare_diff(
    repo: Repo, path: Path, pairs: tuple[tuple[str, str], tuple[str, str]], hashes: _Hashes, report: Report
) -> None:
    (old, our_old), (new, our_new) = pairs
    tokens = git(path, "diff-tree", "-r", "--raw", "-z", "--no-renames", "--no-abbrev", old, new).split(
        b"\0"
    )[:-1]
    wanted = {}
    for head, name in zip(tokens[::2], tokens[1::2], strict=True):
        old_mode, new_mode, old_blob, new_blob, kind = head[1:].decode().split()
        before = None if kind == "A" else (old_mode, old_blob)
        after = None if kind == "D" else (new_mode, new_blob)
        wanted[name] = (before, after)
    found = {}
    for change in repo.diff(our_old, our_new):
        before = None if change.kind == "added" else hashes.entry(change.old)
        after = None if change.kind == "removed" else hashes.entry(change.new)
        found[bytes_of(change.key)] = (before, after)
    report.diffs += 1
    report.changes += len(wanted)
    if wanted != found:
        report.faults.append(f"{old}..{new}: the differences are not git's")


def _main(arguments: list[str]) -> Iterator[str]:
    path, *branches = arguments
    with tempfile.TemporaryDirectory() as scratch, Repo(Path(scratch) / "store") as repo:
        result = import_git(repo, path, branches=branches or None, tags=not branches)
        yield f"imported {result.commits} commits, {len(result.branches)} branches, {len(result.tags)} tags"
        yield from (f"skipped {name}: {why}" for name, why in result.skipped)
        report = compare(repo, Path(path), branches)
        yield (
            f"compared {report.commits} commits, {report.entries} entries of trees, {report.diffs} diffs "
            f"with {report.changes} changes: {len(report.faults)} faults"
        )
        yield from report.faults[:20]


if __name__ == "__main__":
    for line in _main(sys.argv[1:]):
        sys.stdout.write(line + "\n")
