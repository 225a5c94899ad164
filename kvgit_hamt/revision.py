"""Names of commits as git writes them: ``main~2``, ``v1^2``, ``dev@{1}``, ``@{2026-01-31}``; and times."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from typing import Final

from kvgit_hamt import graph
from kvgit_hamt.errors import BranchNotFoundError, CommitNotFoundError, InvalidInputError
from kvgit_hamt.objects import CommitObject
from kvgit_hamt.refs import HEADS, TAGS, Refs, check_name, is_name, to_datetime, to_us
from kvgit_hamt.refs import resolve as resolve_name
from kvgit_hamt.results import ReflogEntry

CURRENT: Final = "@"  # no branch can have this name
GIT_CURRENT: Final = "HEAD"  # the same, where no branch or tag has this name
_START = re.compile(r"[~^]|@\{")  # none of these can stand in a name or an id
_STEP = re.compile(r"~(?P<back>\d*)|\^(?P<parent>\d*)|@\{(?P<at>[^{}]*)\}")
_AGO = re.compile(r"(\d{1,9})[ .]?(second|minute|hour|day|week|month|year)s?([ .]ago)?")
_UNIT_S: Final = {
    "second": 1, "minute": 60, "hour": 3_600, "day": 86_400, "week": 7 * 86_400,
    "month": 30 * 86_400, "year": 365 * 86_400,
}  # fmt: skip
_PAGE = 64  # reflog entries looked through at first


def resolve(refs: Refs, text: str, branch: str = "main") -> CommitObject:
    """The commit that a revision names.

    Args:
        text: a branch, a tag, a commit id or an abbreviation, ``@``, ``HEAD`` or nothing for ``branch``;
            after it any number of steps. ``~n``: n first parents back. ``^n``: the n-th parent (``^`` the
            first, ``^0`` the commit itself). ``@{n}``, right after a branch: where it was n moves ago.
            ``@{time}``: where it was then, by the reflog; before its first entry, by the times of the
            commits. A branch is looked for before a tag of that name; ``heads/NAME`` and ``tags/NAME`` say
            which.
        branch: what ``@`` means.

    Raises:
        CommitNotFoundError, BranchNotFoundError: it names nothing. AmbiguousCommitError: an abbreviation
        fits several commits. InvalidInputError: it cannot be read.

    Cost: a commit read for each step back, memory for one.
    """
    start = _START.search(text) if isinstance(text, str) else None
    if start is None:
        return refs.store.read_commit(_name(refs, text, branch))
    name, steps = text[: start.start()], text[start.start() :]
    name = _current(refs, name or CURRENT, branch)
    first = _STEP.match(steps)
    if first is not None and first["at"] is not None:
        commit = _moved(refs, name.removeprefix(HEADS), first["at"])
        steps = steps[first.end() :]
    else:
        commit = refs.store.read_commit(_name(refs, name, branch))
    return _walk(refs, commit, steps, text)


def _name(refs: Refs, text: str, branch: str) -> bytes:
    """The oid that a revision without steps names."""
    text = _current(refs, text, branch)
    if isinstance(text, str) and text.startswith((HEADS, TAGS)) and is_name(text):
        value = refs.get(HEADS + text) or refs.get(TAGS + text) or refs.get(text)
        if value is not None:
            return value.oid
    return resolve_name(refs, text)


def _current(refs: Refs, name: str, branch: str) -> str:
    """``branch`` for the names that mean it, any other name as it is."""
    if name == CURRENT:
        return branch
    is_taken = name != GIT_CURRENT or refs.get(HEADS + name) or refs.get(TAGS + name)
    return name if is_taken else branch


def _walk(refs: Refs, commit: CommitObject, steps: str, text: str) -> CommitObject:
    """Follow ``~n`` and ``^n``."""
    at = 0
    while at < len(steps):
        step = _STEP.match(steps, at)
        if step is None:
            raise InvalidInputError(f"{text!r} cannot be read from {steps[at:]!r} on; see ~n, ^n and @{{n}}")
        if step["at"] is not None:
            raise InvalidInputError(f"{text!r}: {step[0]} stands right after the name of a branch")
        if step["back"] is not None:
            for done in range(int(step["back"] or 1)):
                commit = _parent(refs, commit, 1, f"{text!r}: there are only {done} first parents to go back")
        else:
            number = int(step["parent"] or 1)
            has = f"{text!r}: {commit.oid.hex()[:8]} has {len(commit.parents)} parent(s)"
            commit = _parent(refs, commit, number, has) if number else commit
        at = step.end()
    return commit


def _parent(refs: Refs, commit: CommitObject, number: int, fault: str) -> CommitObject:
    if number > len(commit.parents):
        raise CommitNotFoundError(fault)
    return refs.store.read_commit(*commit.parents[number - 1])


# where a branch was


def _moved(refs: Refs, name: str, when: str) -> CommitObject:
    """The commit a branch was at, ``when`` moves ago or at a time; also of a branch that was deleted."""
    check_name(name)
    if when.isdecimal():
        oid = _before(refs, name, int(when))
    else:
        oid = _at_time(refs, name, to_us(parse_time(when, refs.clock())))
    return refs.store.read_commit(refs.store.resolve_commit(oid))


def _entries(refs: Refs, name: str, count: int) -> list[ReflogEntry]:
    found = refs.reflog(HEADS + name, count)
    if not found:
        raise BranchNotFoundError(f"there is no branch {name!r}, and no reflog of one")
    return found


def _before(refs: Refs, name: str, count: int) -> str:
    entries = _entries(refs, name, max(1, count))
    if count == 0:
        oid = entries[0].new
        if oid is None:
            raise BranchNotFoundError(f"the branch {name!r} was deleted; {name}@{{1}} is where it was last")
        return oid
    oid = entries[-1].old if len(entries) == count else None
    if oid is None:
        has = len(entries) - (entries[-1].old is None)
        raise CommitNotFoundError(f"the reflog of {name!r} goes back {has} move(s), not {count}")
    return oid


def _at_time(refs: Refs, name: str, time_us: int) -> str:
    limit = _PAGE
    while True:
        entries = _entries(refs, name, limit)
        for entry in entries:
            if to_us(entry.time) <= time_us:
                if entry.new is None:
                    raise CommitNotFoundError(f"there was no branch {name!r} at that time: it was deleted")
                return entry.new
        if len(entries) < limit:
            break
        limit *= 4
    last = entries[0].new or entries[0].old
    start = refs.store.read_commit(refs.store.resolve_commit(last or ""))
    for commit in graph.log(refs.store, [start], first_parent=True):
        if commit.time_us is not None and commit.time_us <= time_us:
            return commit.oid.hex()
    shown = to_datetime(time_us).isoformat(sep=" ")
    raise CommitNotFoundError(f"{name!r} has no commit that is as old as {shown}")


def parse_time(text: str, now_us: int) -> datetime:
    """A time as people write it, in UTC.

    Args:
        text: ``2026-01-31`` (its beginning), ``2026-01-31 12:00``, the same with seconds or a zone
            (``Z``, ``+01:00``; UTC without one), ``now``, ``today``, ``yesterday``, ``3 days ago`` (seconds
            to years; a month is 30 days, a year 365).
        now_us: the present, in microseconds since 1970.

    Raises:
        InvalidInputError: none of these.
    """
    now = to_datetime(now_us)
    plain = text.strip().lower()
    words = {"now": now, "today": _day(now), "yesterday": _day(now) - timedelta(days=1)}
    if plain in words:
        return words[plain]
    fault = f"{text!r} is no time; write 2026-01-31, '2026-01-31 12:00', yesterday or '3 days ago'"
    ago = _AGO.fullmatch(plain)
    try:
        if ago is not None:
            return now - timedelta(seconds=int(ago[1]) * _UNIT_S[ago[2]])
        found = datetime.fromisoformat(plain.upper().removesuffix("Z") + "+00:00" * plain.endswith("z"))
        return (found if found.tzinfo else found.replace(tzinfo=timezone.utc)).astimezone(timezone.utc)
    except (ValueError, OverflowError) as error:
        raise InvalidInputError(fault) from error


def _day(moment: datetime) -> datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)
