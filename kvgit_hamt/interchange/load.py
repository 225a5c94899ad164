"""Loading a source into a branch: one commit, or one every so many rows, which a later run continues."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from kvgit_hamt import bulk
from kvgit_hamt.branch_stage import When
from kvgit_hamt.errors import EncodeError, InvalidInputError, InvalidKeyError, KeyTypeError, SourceError
from kvgit_hamt.interchange.base import Progress, Row, Source, Step
from kvgit_hamt.snapshot import encode_key
from kvgit_hamt.worktree import Worktree

INFO_KEY: Final = "import"  # the field of a commit's info that says what was loaded


@dataclass(frozen=True, slots=True)
class ImportResult:
    """What an import did.

    Attributes:
        commit: id of the branch's commit afterwards.
        rows: rows that this run read.
        earlier_rows: rows that earlier runs had loaded, which this one passed over.
        added: by how many keys the branch has grown; rows with keys that were there change them.
        commits: how many commits this run made.
    """

    commit: str
    rows: int
    earlier_rows: int
    added: int
    commits: int


def load(  # noqa: PLR0913 (options that users give by name)
    work: Worktree,
    source: Source,
    *,
    prefix: str = "",
    every: int | None = None,
    restart: bool = False,
    info: Mapping[str, Any] | None = None,
    time: When = "now",
    memory_bytes: int = bulk.DEFAULT_MEMORY_BYTES,
    progress: Progress | None = None,
) -> ImportResult:
    """Load all rows of a source into a branch; of equal keys the last counts. No key is deleted.

    Args:
        prefix: put before every key.
        every: make a commit every so many rows. What such a commit says of the source under "import" in its
            info lets a later run with ``every`` go on after it: rows that were there are not read again.
        restart: with ``every``, begin anew.
        info, time: of the commits; "import" is added to the info.
        memory_bytes: about what sorting may use; the rest goes to a temporary file.

    Raises:
        SourceError: a row, or the source, is not as it must be. Nothing of the commit that was being made
            is stored; those made before it stay.
        PendingChangesError: there are pending edits.
        BranchMovedError: somebody moved the branch during the load: run it again.

    Cost: two passes over the rows; one durable write a commit. Memory follows ``memory_bytes``, not the rows.
    """
    if every is not None and (type(every) is not int or every < 1):
        raise InvalidInputError(f"every is a number of rows, 1 or more, not {every!r}")
    encode_key(prefix)
    return _Load(work, source, prefix, (dict(info or {}), time), (memory_bytes, progress)).run(every, restart)


class _Load:
    def __init__(
        self,
        work: Worktree,
        source: Source,
        prefix: str,
        meta: tuple[dict[str, Any], When],
        how: tuple[int, Progress | None],
    ) -> None:
        self.work = work
        self.source = source
        self.prefix = prefix
        self.info, self.time = meta
        self.memory_bytes, self.progress = how
        self.earlier = 0  # rows of earlier runs
        self.rows = 0  # rows of this run, as of the last commit
        self.count = 0  # of the commit that is being made
        self.commits = 0

    def run(self, every: int | None, restart: bool) -> ImportResult:
        work = self.work
        work.refresh()
        size = len(work)
        start = None
        if every is not None and self.source.can_resume and not restart:
            start = self._last_position()
        rows = self._prefixed(self.source.rows(start))
        if every is None:
            self._commit(rows, None, False)
        else:
            for first in rows:
                self._commit(itertools.chain((first,), itertools.islice(rows, every - 1)), start, True)
                start = self.source.position()
        return ImportResult(work.base, self.rows, self.earlier, len(work) - size, self.commits)

    def _prefixed(self, rows: Iterator[Row]) -> Iterator[Row]:
        prefix = self.prefix
        return ((prefix + key, value) for key, value in rows) if prefix else rows

    def _commit(self, rows: Iterator[Row], start: Mapping[str, Any] | None, is_part: bool) -> None:
        """Load some rows as one commit; ``start`` is where they begin."""
        self.count = 0
        before = self.work.base
        try:
            self.work.load(
                rows,
                info=lambda: self._info(is_part),
                time=self.time,
                memory_bytes=self.memory_bytes,
                progress=self._report,
            )
        except (EncodeError, InvalidKeyError, KeyTypeError) as error:
            raise self._located(start, error) from error
        self.rows += self.count
        self.commits += self.work.base != before

    def _report(self, phase: str, done: int, known: int) -> None:
        source = self.source
        if phase == "read":
            self.count = done
            step = Step("read", self.earlier + self.rows + done, source.done(), source.total, source.unit)
        else:
            step = Step(phase, self.earlier + self.rows + self.count, done, known, "rows")
        if self.progress is not None:
            self.progress(step)

    def _info(self, is_part: bool) -> dict[str, Any]:
        source = self.source
        said: dict[str, Any] = {"format": source.format, "source": source.name}
        said["rows"] = self.earlier + self.rows + self.count
        if is_part and source.can_resume:
            said["prefix"] = self.prefix
            said["options"] = source.options()
            said["position"] = source.position()
        return {**self.info, INFO_KEY: said}

    def _last_position(self) -> dict[str, Any] | None:
        """Where an earlier run stopped, from the newest commit of the branch that says so."""
        source = self.source
        for commit in self.work.repo.log(self.work.base, first_parent=True):
            said = (commit.info or {}).get(INFO_KEY)
            if (
                isinstance(said, dict)
                and isinstance(said.get("position"), dict)
                and (said.get("format"), said.get("source"), said.get("prefix"))
                == (source.format, source.name, self.prefix)
            ):
                if said.get("options") != source.options():
                    raise source.fault(
                        f"an earlier import (its last part is commit {commit.id[:8]}) had other options "
                        f"({said.get('options')}); give those to go on, or restart",
                        "",
                    )
                position: dict[str, Any] = said["position"]
                if _form(position) != _form(source.position()) or type(said.get("rows")) is not int:
                    raise source.fault(
                        f"what commit {commit.id[:8]} says of its place is no place; restart", ""
                    )
                self.earlier = said["rows"]
                return position
        return None

    def _located(self, start: Mapping[str, Any] | None, error: Exception) -> SourceError:
        """The same error with the place of its row, which is found by reading once more."""
        source = self.source
        if not source.can_resume:
            first = self.rows + self.count + 1
            return source.fault(str(error), f"in the {bulk.STEP:,} rows from row {first:,}")
        for key, value in self._prefixed(source.rows(start)):
            try:
                encode_key(key)
                self.work.repo.codec.encode_for(key, value)
            except (EncodeError, InvalidKeyError, KeyTypeError) as found:
                return source.fault(str(found))
        return source.fault(str(error), "")


def _form(position: Mapping[str, Any]) -> dict[str, type]:
    """The fields of a position: an info may come from a peer, and hold anything."""
    return {name: type(value) for name, value in position.items()}
