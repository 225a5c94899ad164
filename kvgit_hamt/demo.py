"""The demo: the Unicode character database, two versions of it, under version control.

It is a test as well: every claim it prints is checked against the database that Python carries, and
a failed check makes the exit code 1.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections import Counter
from contextlib import suppress
from typing import Any, Final, TextIO

from kvgit_hamt.demo_data import (
    ALL_COUNT,
    MIN_COUNT,
    NEW,
    OLD,
    changes,
    count_wrong,
    differing,
    entries,
    position_of,
)
from kvgit_hamt.demo_report import Meter, Progress, Report, Sharing, bar, bytes_text
from kvgit_hamt.errors import KvgitHamtError, MergeConflict
from kvgit_hamt.hamt import Tree
from kvgit_hamt.mergefns import nested_dict, set_union
from kvgit_hamt.repo import Repo
from kvgit_hamt.results import Conflict

DEFAULT_DIRECTORY: Final = "demo-store"
MARK: Final = "demo"  # a tag at the initial commit: this store is the demo's own
MARK_INFO: Final = {"made_by": "python -m kvgit_hamt demo"}
STORE_FILES: Final = frozenset({"data.mdb", "lock.mdb", "FORMAT", "WITNESS"})
FAILED: Final = 1  # exit codes
REFUSED: Final = 2

CHANGED: Final = "No/00B2"  # superscript two: no longer a decimal digit
MOVED: Final = ("So/00A7", "Po/00A7")  # section sign: was a symbol, is punctuation
CONTESTED: Final = "Lu/01A2"  # its name is a known mistake that may not be corrected
BRANCH: Final = "aliases"

NEXT: Final = """\
import kvgit_hamt as kvgit

with kvgit.Repo({path!r}) as repo:
    main = repo.snapshot(branch="main")
    old = repo.snapshot(tag="unicode-3.2.0")
    print(len(old), "characters then,", len(main), "now")
    print(len(main.keys(prefix="Sc/")), "currency signs:", sorted(main.keys(prefix="Sc/"))[:5])
    print(repo.diff_stat("unicode-3.2.0", "main", prefix="Sc/"))
    for commit in repo.log(key="Lu/01A2"):
        print(commit.id[:8], commit.time, commit.info["message"])

    work = repo.worktree("try", create=True)
    work.reset("main")
    work["Lu/0041"] = dict(work["Lu/0041"], note="the first letter")
    work.commit(info={{"message": "My first commit"}})
    print(repo.diff_stat("main", "try"))
"""


class Refused(Exception):
    """The directory is not one that the demo may write to."""


def run(directory: str, count: int, is_fresh: bool, streams: tuple[TextIO, TextIO]) -> int:
    """Run the demo.

    Args:
        directory: where the store is made; missing, empty, or with ``is_fresh`` the demo's own.
        count: how many code points, from the first; fewer make it faster.
        streams: for the report, for progress and errors.

    Returns:
        exit code: 0, FAILED (a check failed) or REFUSED.
    """
    out, err = streams
    if not MIN_COUNT <= count <= ALL_COUNT:
        err.write(f"demo: code points: {MIN_COUNT:,} to {ALL_COUNT:,}, not {count:,}\n")
        return REFUSED
    try:
        prepare(directory, is_fresh)
    except Refused as reason:
        err.write(f"demo: {reason}\n")
        return REFUSED
    report = Report(out)
    with Repo(directory, codec="msgpack") as repo:
        repo.tags.create(MARK, info=MARK_INFO)
        demo = Demo(repo, count, report, Progress(err))
        demo.load_old()
        demo.load_new()
        demo.show_diff()
        demo.show_history()
        demo.edit_branch()
        demo.merge()
    with Repo(directory) as repo:  # opened anew: nothing is answered from memory
        Demo(repo, count, report, Progress(err)).read_back()
    return _finish(report, directory)


def _finish(report: Report, directory: str) -> int:
    report.line()
    if report.failures:
        report.line(f"{len(report.failures)} of {report.checked} checks FAILED:")
        for claim in report.failures:
            report.line(f"   {claim}")
        return FAILED
    report.line(f"All {report.checked} checks hold. The store stays in {directory}. What to try next:")
    report.line()
    report.line(f"{_python()} <<'END'")
    report.line(NEXT.format(path=directory) + "END")
    report.line()
    again = f"{_python()} -m kvgit_hamt demo --fresh {shlex.quote(directory)}"
    report.line(f"Again, in the same directory: {again}")
    return 0


def _python() -> str:
    """How to call this Python from the directory one is in."""
    here = os.path.join(os.getcwd(), "")
    path = sys.executable or "python3"
    return shlex.quote(path[len(here) :] if path.startswith(here) else path)


# the directory


def prepare(directory: str, is_fresh: bool) -> None:
    """Make sure that a store may be made in a directory.

    Raises:
        Refused: it holds something that is not the demo's, or a demo store and not ``is_fresh``.
    """
    try:
        names = set(os.listdir(directory))
    except FileNotFoundError:
        return
    except OSError as error:
        raise Refused(f"{directory} cannot be used: {error.strerror}; name another directory") from error
    if not names:
        return
    if not names <= STORE_FILES or not _is_ours(directory):
        raise Refused(f"{directory} holds something that is not the demo's; name a new directory")
    if not is_fresh:
        raise Refused(
            f"{directory} holds the store of an earlier demo; --fresh replaces it "
            "(with make: rm -r it, or name another one, DIR=...)"
        )
    for name in names:
        os.remove(os.path.join(directory, name))


def _is_ours(directory: str) -> bool:
    try:
        repo = Repo(directory)
    except KvgitHamtError:
        return False
    with repo, suppress(KvgitHamtError):
        return repo.tags.info(MARK) == MARK_INFO
    return False


# the steps


class Demo:
    """The steps. Each prints what it did, what it took, and what it checked."""

    def __init__(self, repo: Repo, count: int, report: Report, progress: Progress) -> None:
        self.repo = repo
        self.count = count
        self.report = report
        self.progress = progress
        self.meter = Meter(repo.store)

    def tree(self, name: str) -> Tree:
        """The tree of a commit."""
        return Tree(*self.repo.resolve_commit(name).tree)

    def figures(self, key_count: int, before: str | None = None, after: str | None = None) -> None:
        """The figures of the step; with two commits, what their trees share."""
        sharing = None
        if before is not None and after is not None:
            sharing = Sharing.of(self.repo.store, self.tree(before), self.tree(after))
        self.report.figures(self.meter, key_count, sharing)

    def check_contents(self, commit: str, database: Any) -> None:
        """Compare all keys and values of a commit with the database that Python carries."""
        snapshot = self.repo.snapshot(commit=self.repo.get_commit(commit).id)
        items = self.progress.over("reading every key back", snapshot.items(), len(snapshot))
        wrong = count_wrong(items, database, self.count)
        version = database.unidata_version
        self.report.check(
            f"all {len(snapshot):,} keys and values read back as in Unicode {version}", not wrong
        )

    def load_old(self) -> None:
        """The first commit: a bulk load."""
        report, count = self.report, self.count
        report.line("The Unicode character database as a versioned store: one key per character, in a")
        report.line("directory per general category (Lu/0041 is the letter A), its properties as the value.")
        report.line()
        report.line("shared: bytes of the commit's tree in nodes that the tree of the commit before has too.")
        report.line(
            "They lie in the store once and were not written again; both trees are walked to count them."
        )
        report.step(f"Load Unicode {OLD.unidata_version} as the first commit on main")
        main = self.repo.worktree()
        items = list(self.progress.over("reading the old database", entries(OLD, count), count, position_of))
        self.progress.begin("loading it")
        with self.meter:
            main.load(
                items,
                info={"message": f"Unicode {OLD.unidata_version}"},
                progress=lambda phase, done, _: self.progress.show(
                    done * (2 if phase == "build" else 1), 2 * len(items)
                ),
            )
        self.progress.end()
        tag = f"unicode-{OLD.unidata_version}"
        self.repo.tags.create(tag)
        self.figures(len(items), MARK, tag)
        report.line(f"   commit {main.base[:8]}, tagged {tag}")
        report.check("len() of the branch is the number of characters", len(main) == len(items))
        self.check_contents(tag, OLD)

    def load_new(self) -> None:
        """The second commit: only what changed."""
        report = self.report
        report.step(f"Go to Unicode {NEW.unidata_version}: commit only what changed")
        main = self.repo.worktree()
        found = list(
            self.progress.over("comparing the databases", changes(self.count), self.count, position_of)
        )
        self.progress.begin("committing the changes")
        with self.meter:
            main.update({key: record for key, record in found if record is not None})
            for key, record in found:
                if record is None:
                    del main[key]
            main.commit(info={"message": f"Unicode {NEW.unidata_version}"})
        self.progress.end()
        tag = f"unicode-{NEW.unidata_version}"
        self.repo.tags.create(tag)
        before = f"unicode-{OLD.unidata_version}"
        self.figures(len(found), before, tag)
        report.line(f"   commit {main.base[:8]}, tagged {tag}; {len(main):,} keys")
        sharing = Sharing.of(self.repo.store, self.tree(before), self.tree(tag))
        written = self.meter.counters.bytes_written
        report.check(
            "what is not shared was written, and little else (commit record)",
            0 <= written - sharing.new_bytes < 1_000,
        )
        self.check_contents(tag, NEW)

    def show_diff(self) -> None:
        """Added, removed and modified by directory; counted again by brute force."""
        report, repo = self.report, self.repo
        ends = (f"unicode-{OLD.unidata_version}", f"unicode-{NEW.unidata_version}")
        report.step(f"What changed, by directory: diff {ends[0]} {ends[1]}")
        counts: Counter[tuple[str, str]] = Counter()
        with self.meter:
            for change in repo.diff(*ends, values=False):
                counts[change.key.partition("/")[0], change.kind] += 1
        self.figures(counts.total())
        rows = [
            (name, tuple(counts[name, kind] for kind in ("added", "removed", "modified")))
            for name in sorted({name for name, _ in counts})
        ]
        largest = max(sum(row) for _, row in rows)
        report.line("       added  removed  modified")
        for name, (added, removed, modified) in rows:
            picture = bar((added, removed, modified), largest)
            report.line(f"   {name}{added:7,} {removed:8,} {modified:9,}  {picture}")
        report.check(
            "the counts are those of comparing all keys one by one", counts == self.brute_force(*ends)
        )

    def brute_force(self, before: str, after: str) -> Counter[tuple[str, str]]:
        """The counts of a diff from the stored bytes of every key of both commits."""
        old, new = (dict(self.repo.snapshot(tag=name).raw.items()) for name in (before, after))
        counts: Counter[tuple[str, str]] = Counter()
        for key in old.keys() | new.keys():
            if old.get(key) != new.get(key):
                kind = "added" if key not in old else "removed" if key not in new else "modified"
                counts[key.partition("/")[0], kind] += 1
        return counts

    def show_history(self) -> None:
        """The log of one key that changed, and of a character that moved to another directory."""
        report, repo = self.report, self.repo
        report.step(f"The history of one key: log(key={CHANGED!r})")
        with self.meter:
            commits = list(repo.log(key=CHANGED))
        self.figures(1)
        values = [repo.snapshot(commit=commit.id)[CHANGED] for commit in commits]
        for index, commit in enumerate(commits):
            assert commit.info is not None
            report.line(f"   {commit.id[:8]} {commit.info['message']}: {values[index]['name']}")
            if index + 1 < len(commits):
                for name, old, new in differing(values[index + 1], values[index]):
                    report.line(f"      {name}: {old!r} before, {new!r} after")
        report.check(
            "both commits are in its history, the newest first", len(commits) == 2 and values[0] != values[1]
        )
        was, now = MOVED
        report.line("   A character whose category changed has a new key:")
        for key in MOVED:
            for commit in repo.log(key=key):
                assert commit.info is not None
                verb = "there" if key in repo.snapshot(commit=commit.id) else "gone"
                report.line(f"   {commit.id[:8]} {commit.info['message']}: {key} {verb}")
        main = repo.snapshot(branch="main")
        report.check(f"{was} is gone from main and {now} is there", was not in main and now in main)

    def edit_branch(self) -> None:
        """A branch with edits of its own, and a commit on main that will be in its way."""
        report, repo = self.report, self.repo
        report.step(f"A branch: {BRANCH}, with three edits; meanwhile one edit of the same key on main")
        with self.meter:
            repo.branches.create(BRANCH)
            work = repo.worktree(BRANCH)
            for key, alias in (
                (CONTESTED, "LATIN CAPITAL LETTER GHA"),
                ("Lu/0041", "LATIN LETTER A"),
                ("Po/0021", "FACTORIAL"),
            ):
                work[key] = {**work[key], "aliases": [alias]}
            work.commit(info={"message": "Add aliases"})
        self.figures(3, f"unicode-{NEW.unidata_version}", BRANCH)
        main = repo.worktree()
        main[CONTESTED] = {**main[CONTESTED], "aliases": ["GHA"]}
        main.commit(info={"message": "An alias by somebody else"})
        report.line(f"   main is at {main.base[:8]}, {BRANCH} at {work.base[:8]}")
        report.check("main does not see the edits of the branch", "aliases" not in main["Lu/0041"])

    def merge(self) -> None:
        """Dry run, the conflict, its resolution by a function, and what the merge left."""
        report, repo = self.report, self.repo
        report.step(f"Merge {BRANCH} into main: first a dry run")
        main = repo.worktree()
        before = main.base
        with self.meter:
            trial = main.merge(branch=BRANCH, dry_run=True)
        self.figures(len(trial.conflicts))
        report.line(f"   would merge: {trial.merged}; {len(trial.conflicts)} conflict(s), nothing changed:")
        for conflict in trial.conflicts:
            self.show_conflict(conflict)
        report.check(
            "the dry run finds the one contested key", [c.key for c in trial.conflicts] == [CONTESTED]
        )
        report.check("a merge without a rule is refused and leaves main alone", self.is_refused(before))
        report.step("Resolve it with a function for directory Lu/: nested_dict(leaf=set_union())")
        with self.meter:
            result = main.merge(
                branch=BRANCH,
                merge_prefixes={"Lu/": nested_dict(leaf=set_union())},
                info={"message": f"Merge branch {BRANCH}"},
            )
        self.figures(len(result.auto_merged_keys | result.carried_keys), before, "main")
        report.line(f"   commit {main.base[:8]}, {result.strategy}; aliases now {main[CONTESTED]['aliases']}")
        merged = {**trial.conflicts[0].ours, "aliases": ["GHA", "LATIN CAPITAL LETTER GHA"]}
        report.check(
            "the contested key holds what the function made of both sides", main[CONTESTED] == merged
        )
        report.check(
            "the other edits of the branch came along",
            result.carried_keys == {"Lu/0041", "Po/0021"} and "aliases" in main["Po/0021"],
        )

    def show_conflict(self, conflict: Conflict) -> None:
        """The three sides of a conflict, as far as they differ."""
        self.report.line(f"   {conflict.key} {conflict.base['name']}")
        for side in ("base", "ours", "theirs"):
            aliases = getattr(conflict, side).get("aliases", "none")
            self.report.line(f"      {side:<6} aliases {aliases}")

    def is_refused(self, head: str) -> bool:
        """Whether the merge raises MergeConflict and leaves main where it is."""
        try:
            self.repo.worktree().merge(branch=BRANCH)
        except MergeConflict as error:
            return error.conflicting_keys == {CONTESTED} and self.repo.branches["main"] == head
        return False

    def read_back(self) -> None:
        """The first commit, from a store that was closed and opened again."""
        report, repo = self.report, self.repo
        tag = f"unicode-{OLD.unidata_version}"
        report.step(f"Open the store again and read the old state: snapshot(tag={tag!r})")
        with self.meter:
            old = repo.snapshot(tag=tag)
            size, value, is_there = len(old), old[CHANGED], MOVED[1] in old
        self.figures(3)
        report.line(
            f"   {size:,} keys; {CHANGED} has decimal {value['decimal']!r}; {MOVED[1]} there: {is_there}"
        )
        self.check_contents(tag, OLD)
        self.check_contents(f"unicode-{NEW.unidata_version}", NEW)
        stats = repo.stats()
        report.line(
            f"   the store: {stats['commit_count']} commits, {bytes_text(stats['used_bytes'])} on disk"
        )
