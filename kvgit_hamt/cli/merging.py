"""Merging, and carrying single commits over."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

import click

from kvgit_hamt.cli import complete
from kvgit_hamt.cli.app import SHORT, App, command, example
from kvgit_hamt.cli.exits import CONFLICT, USAGE, Failure
from kvgit_hamt.cli.log import title_of
from kvgit_hamt.cli.values import PREVIEW, quote, show, to_json
from kvgit_hamt.policy import OURS, THEIRS, MergeRule
from kvgit_hamt.refs import describe
from kvgit_hamt.results import Conflict, MergeResult

MOST_LISTED: Final = 20  # conflicts that an error lists; --dry-run lists all
Attempt = Callable[[dict[str, MergeRule]], MergeResult]
_CHOICES: Final = {"ours": OURS, "theirs": THEIRS}


def rules_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say who wins."""
    options = [
        click.option(
            "--ours", multiple=True, metavar="PREFIX",
            help="Keep all that lies under this prefix as it is on the branch, contested or not.",
        ),
        click.option(
            "--theirs", multiple=True, metavar="PREFIX",
            help="Take all that lies under this prefix from the other side, contested or not.",
        ),
        click.option(
            "-X", "--favor", type=click.Choice(["ours", "theirs"]),
            help="Who wins where both changed a key and nothing else settles it.",
        ),
        click.option(
            "--interactive/--no-interactive", "asks", default=None,
            help="Ask about each contested key [in a terminal].",
        ),
    ]  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


def _policy(how: dict[str, Any]) -> dict[str, Any]:
    """The merge rules of a call, from the options."""
    both = sorted(set(how["ours"]) & set(how["theirs"]))
    if both:
        raise Failure(
            USAGE, f"{quote(both[0])} is given to both sides", "leave out --ours or --theirs for it"
        )
    prefixes = {**dict.fromkeys(how["ours"], OURS), **dict.fromkeys(how["theirs"], THEIRS)}
    return {"merge_prefixes": prefixes, "default_merge": _CHOICES.get(how["favor"])}


def _settled(app: App, attempt: Attempt, asks: bool | None) -> MergeResult:
    """Try, and in a terminal ask about what is contested until nothing is."""
    rules: dict[str, MergeRule] = {}
    is_terminal = sys.stdin.isatty() and sys.stderr.isatty()
    while True:
        result = attempt(rules)
        if result or not (is_terminal and not app.is_json if asks is None else asks):
            return result
        from kvgit_hamt.cli.resolve import settle

        rules.update(settle(app, result.conflicts))


def _conflict_record(conflict: Conflict) -> dict[str, Any]:
    record: dict[str, Any] = {"conflict": conflict.key}
    for side in ("base", "ours", "theirs"):
        if side not in conflict.absent:
            record[side] = to_json(getattr(conflict, side))
    if conflict.error is not None:
        record["error"] = str(conflict.error)
    return record


def conflict_lines(conflict: Conflict) -> list[str]:
    """A conflict for people: the key and its three sides."""
    lines = [f"conflict {quote(conflict.key)}"]
    for side in ("base", "ours", "theirs"):
        value = getattr(conflict, side)
        text = "(no such key)" if side in conflict.absent else show(value, PREVIEW)
        lines.append(f"  {side:<6}  {text}")
    if conflict.error is not None:
        lines.append(f"  its rule failed: {conflict.error}")
    return lines


def _refuse(app: App, result: MergeResult, what: str) -> None:
    """List conflicts and end with exit code 4."""
    if app.is_json:
        for conflict in result.conflicts:
            app.out.record(_conflict_record(conflict))
    else:
        for conflict in result.conflicts[:MOST_LISTED]:
            click.echo("\n".join(conflict_lines(conflict)), err=True)
        if len(result.conflicts) > MOST_LISTED:
            click.echo(f"and {len(result.conflicts) - MOST_LISTED:,} more", err=True)
    raise Failure(
        CONFLICT,
        f"{what}: {len(result.conflicts):,} key(s) changed on both sides; nothing was changed",
        "settle them in a terminal, or give --ours PREFIX, --theirs PREFIX or -X ours|theirs",
    )


@command("merge", branch=True, json=True, values=True, commit=True)
@click.argument("revision", metavar="REV", shell_complete=complete.revisions)
@click.option(
    "-n", "--dry-run", is_flag=True, help="Change nothing, print what would happen; 4 for conflicts."
)
@click.option("--no-ff", is_flag=True, help="Make a merge commit even where the branch could just move.")
@rules_options
@example("kvh merge dev", "kvh merge dev --dry-run", "kvh merge dev --theirs translations/ -X ours")
def merge(app: App, revision: str, dry_run: bool, no_ff: bool, **how: Any) -> None:
    """Merge a revision into the branch.

    A key that only one side changed is taken over. Where both changed it differently, and no option settles
    it, a terminal asks; elsewhere the keys are listed, nothing is changed, and the exit code is 4.
    """
    policy = _policy(how)
    work = app.worktree()
    target = app.id(revision)
    meta = app.meta({"message": f"Merge {revision} into {app.branch}"})

    def attempt(rules: dict[str, MergeRule]) -> MergeResult:
        return work.merge(
            commit=target, fast_forward=not no_ff, dry_run=dry_run, on_conflict="abandon",
            merge_fns=rules, **policy, **meta,
        )  # fmt: skip

    result = attempt({}) if dry_run else _settled(app, attempt, how["asks"])
    if dry_run:
        _foretell(app, revision, result)
        return
    if not result:
        _refuse(app, result, f"merge of {revision} into {app.branch}")
    _tell(app, result, f"merged {revision}")


def _foretell(app: App, revision: str, result: MergeResult) -> None:
    """What a merge would do, as data."""
    carried, settled = sorted(result.carried_keys), sorted(result.auto_merged_keys)
    if app.is_json:
        app.out.record({
            "branch": app.branch, "dry_run": True, "strategy": result.strategy, "taken": len(carried),
            "settled": len(settled), "conflicts": len(result.conflicts),
        })  # fmt: skip
        for conflict in result.conflicts:
            app.out.record(_conflict_record(conflict))
    elif result.strategy == "no_op":
        app.out.line(f"all of {revision} is in {app.branch} already")
    else:
        words = {"fast_forward": "the branch would just move", "three_way": "a merge commit"}
        app.out.line(
            f"{words[result.strategy]}: {len(carried):,} key(s) taken over, {len(settled):,} settled, "
            f"{len(result.conflicts):,} contested"
        )
        for conflict in result.conflicts:
            for line in conflict_lines(conflict):
                app.out.line(line)
    if result.conflicts:
        raise Failure(
            CONFLICT,
            f"{revision} would not merge into {app.branch} by itself",
            "without --dry-run a terminal asks about each key; or give --ours PREFIX, --theirs PREFIX or "
            "-X ours|theirs",
        )


def _tell(app: App, result: MergeResult, what: str) -> None:
    settled = sorted(result.auto_merged_keys)
    if result.strategy == "no_op" and not app.is_json:
        app.out.note(f"{app.branch} {(result.commit or '')[:SHORT]}: nothing to do")
        return
    extra = f", {len(settled):,} key(s) settled" if settled else ""
    how = " (the branch just moved)" if result.strategy == "fast_forward" else ""
    app.made(result, f"{what}{how}{extra}", settled=settled)


def _carry(app: App, revisions: tuple[str, ...], is_revert: bool, how: dict[str, Any]) -> None:
    policy = _policy(how)
    work = app.worktree()
    commits = [describe(app.commit(text)) for text in revisions]  # all are there before any is carried over
    for text, commit in zip(revisions, commits, strict=True):
        what = "revert" if is_revert else "cherry-pick"
        default = {"message": f"Revert: {title_of(commit)}", "revert": commit.id} if is_revert else None
        options = {"mainline": how["mainline"], "on_conflict": "abandon", **policy, **app.meta(default)}
        if not is_revert and options["info"] is not None:
            options["info"] = {**(commit.info or {}), **options["info"]}
        step = work.revert if is_revert else work.cherry_pick

        def attempt(
            rules: dict[str, MergeRule],
            step: Callable[..., MergeResult] = step,
            commit: str = commit.id,
            options: dict[str, Any] = options,
        ) -> MergeResult:
            return step(commit, merge_fns=rules, **options)

        result = _settled(app, attempt, how["asks"])
        if not result:
            _refuse(app, result, f"{what} of {text} on {app.branch}")
        _tell(app, result, f"{'reverted' if is_revert else 'picked'} {commit.id[:SHORT]} {title_of(commit)}")


_MAINLINE = click.option(
    "--mainline", type=click.IntRange(1), metavar="N", help="Of a merge: its changes against the N-th parent."
)


@command("cherry-pick", branch=True, json=True, values=True, commit=True)
@click.argument("revisions", metavar="REV...", nargs=-1, required=True, shell_complete=complete.revisions)
@_MAINLINE
@rules_options
@example("kvh cherry-pick dev~2", "kvh cherry-pick -b stable dev~1 dev")
def cherry_pick(app: App, revisions: tuple[str, ...], **how: Any) -> None:
    """Carry commits over to the branch.

    Each becomes one new commit. Message and info are those of the commit. At a conflict it stops (exit code
    4): the commits before it are carried over, that one and those after it are not.
    """
    _carry(app, revisions, False, how)


@command("revert", branch=True, json=True, values=True, commit=True)
@click.argument("revisions", metavar="REV...", nargs=-1, required=True, shell_complete=complete.revisions)
@_MAINLINE
@rules_options
@example("kvh revert main~3", "kvh revert --mainline 1 main")
def revert(app: App, revisions: tuple[str, ...], **how: Any) -> None:
    """Undo the changes of commits.

    Each becomes one new commit on the branch. What came after them stays. At a conflict it stops as
    `cherry-pick` does.
    """
    _carry(app, revisions, True, how)
