"""Asking, in a terminal, what contested keys shall hold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import click

from kvgit_hamt.cli.app import App
from kvgit_hamt.cli.exits import CONFLICT, Failure
from kvgit_hamt.cli.merging import conflict_lines
from kvgit_hamt.cli.values import dump_json, parse_json, safe, show, to_json
from kvgit_hamt.codec import Undecoded
from kvgit_hamt.mergefns import nested_dict
from kvgit_hamt.policy import DELETE, OURS, THEIRS, MergeChoice
from kvgit_hamt.results import Conflict
from kvgit_hamt.textmerge import MARKER_WIDTH, merge_text

HELP: Final = """\
  o  ours: as it is on the branch          O  ours for this key and all that are left
  t  theirs: as it is on the other side    T  theirs for this key and all that are left
  b  base: as it was before both           d  delete the key
  m  both merged, texts by lines and maps by fields, where they do not clash
  e  write it yourself, in $EDITOR         v  view the three sides whole
  q  stop; nothing is changed"""
MARKER: Final = "<" * MARKER_WIDTH


class Decision:
    """What was answered for a key: a rule that holds only for the sides that were shown."""

    def __init__(self, conflict: Conflict, answer: Any) -> None:
        self._seen = _print(conflict.base, conflict.ours, conflict.theirs)
        self.answer = answer

    def __call__(self, old: Any, ours: Any, theirs: Any) -> Any:
        if _print(old, ours, theirs) != self._seen:
            raise ValueError("somebody changed it meanwhile")
        return self.answer


def _print(*values: Any) -> str:
    return dump_json([to_json(value) for value in values])


class _Answer(NamedTuple):
    """A value or a choice for one key, and whether it is meant for all that are left."""

    value: Any
    is_for_all: bool = False


def settle(app: App, conflicts: Sequence[Conflict]) -> dict[str, Decision]:
    """Ask for each conflict.

    Returns:
        a rule for each key.

    Raises:
        Failure: the user stopped.
    """
    decisions: dict[str, Decision] = {}
    standing: MergeChoice | None = None
    app.out.flush()
    click.echo(f"{len(conflicts):,} key(s) changed on both sides.", err=True)
    for number, conflict in enumerate(conflicts, 1):
        if standing is None:
            answer = _ask(conflict, f"[{number}/{len(conflicts)}]")
            standing = answer.value if answer.is_for_all else None
            decisions[conflict.key] = Decision(conflict, answer.value)
        else:
            decisions[conflict.key] = Decision(conflict, standing)
    return decisions


def _ask(conflict: Conflict, label: str) -> _Answer:
    click.echo("\n".join(conflict_lines(conflict)), err=True)
    while True:
        try:
            letter = click.prompt(f"{label} o/t/b/d/m/e/v/q, ? for help", err=True).strip()
        except click.Abort:
            letter = "q"
        if letter == "q":
            raise Failure(CONFLICT, "stopped; nothing was changed")
        if letter == "v":
            _view(conflict)
            continue
        answer = _answer(conflict, letter)
        if answer is not None:
            return answer
        if letter not in ("m", "e"):
            click.echo(HELP, err=True)


def _answer(conflict: Conflict, letter: str) -> _Answer | None:
    """What a letter means for a conflict; None if nothing."""
    simple: dict[str, _Answer] = {
        "o": _Answer(OURS), "t": _Answer(THEIRS), "O": _Answer(OURS, True), "T": _Answer(THEIRS, True),
        "d": _Answer(DELETE), "b": _Answer(DELETE if "base" in conflict.absent else conflict.base),
    }  # fmt: skip
    if letter in simple:
        return simple[letter]
    if letter == "m":
        return _merge_fields(conflict) if _are_maps(conflict) else _merge_lines(conflict)
    return _edit(conflict) if letter == "e" else None


def _is_text(conflict: Conflict) -> bool:
    return type(conflict.ours) is str and type(conflict.theirs) is str


def _are_maps(conflict: Conflict) -> bool:
    return type(conflict.ours) is dict and type(conflict.theirs) is dict


def _merged(conflict: Conflict) -> tuple[str, int]:
    base = conflict.base if type(conflict.base) is str else ""
    return merge_text(base, conflict.ours, conflict.theirs, ("ours", "theirs"))


def _merge_fields(conflict: Conflict) -> _Answer | None:
    try:
        return _Answer(nested_dict()(conflict.base, conflict.ours, conflict.theirs))
    except ValueError as error:  # names the fields
        found = safe(str(error).removeprefix("nested_dict: "))
        click.echo(f"{found}; e opens them in $EDITOR", err=True)
        return None


def _merge_lines(conflict: Conflict) -> _Answer | None:
    if not _is_text(conflict):
        click.echo("only two texts or two maps can be merged", err=True)
        return None
    text, clashes = _merged(conflict)
    if clashes:
        click.echo(f"{clashes} place(s) clash; e opens them in $EDITOR", err=True)
        return None
    return _Answer(text)


def _edit(conflict: Conflict) -> _Answer | None:
    """The value as the user's editor leaves it; None if that cannot be used."""
    if any(type(side) in (bytes, Undecoded) for side in (conflict.ours, conflict.theirs)):
        click.echo("bytes cannot be edited here", err=True)
        return None
    is_text = _is_text(conflict)
    draft = _merged(conflict)[0] if is_text else _draft(conflict)
    try:
        edited = click.edit(draft, extension=".txt" if is_text else ".json", require_save=True)
    except click.ClickException as error:
        click.echo(f"{error.format_message()}; set EDITOR to an editor of yours", err=True)
        return None
    if edited is None:
        click.echo("it was not saved", err=True)
        return None
    if is_text:
        if MARKER in edited:
            click.echo("there is still a conflict marker in it", err=True)
            return None
        # An editor ends the last line; a text that had no such end gets none.
        keeps_end = conflict.ours.endswith("\n") or conflict.theirs.endswith("\n")
        return _Answer(edited if keeps_end else edited.removesuffix("\n"))
    try:
        lines = [line for line in edited.splitlines() if not line.lstrip().startswith("#")]
        return _Answer(parse_json("\n".join(lines)))
    except ValueError as error:
        click.echo(f"that is no JSON: {error}", err=True)
        return None


def _draft(conflict: Conflict) -> str:
    """Ours as JSON, the other sides as comments."""
    start = conflict.theirs if "ours" in conflict.absent else conflict.ours
    lines = [f"# {side}: {show(getattr(conflict, side))}" for side in ("base", "ours", "theirs")]
    text = json.dumps(to_json(start), ensure_ascii=False, indent=2)
    return "\n".join([*lines, "# The value, as JSON; lines with # are left out.", text, ""])


def _view(conflict: Conflict) -> None:
    for side in ("base", "ours", "theirs"):
        value = getattr(conflict, side)
        click.echo(f"--- {side}", err=True)
        if type(value) is str:
            click.echo(safe(value), err=True)
        elif value is not None:
            click.echo(show(value) if type(value) in (bytes, Undecoded) else _pretty(value), err=True)


def _pretty(value: Any) -> str:
    return safe(json.dumps(to_json(value), ensure_ascii=False, indent=2))
