"""Keeping house: garbage, room, damage."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

import click

from kvgit_hamt.bundle import BundlePayloads
from kvgit_hamt.check_faults import KINDS, CheckResult, Fault
from kvgit_hamt.cli.app import App, command, example
from kvgit_hamt.cli.bundles import check_bundle
from kvgit_hamt.cli.exits import CORRUPTION, USAGE, Failure
from kvgit_hamt.cli.values import bytes_text, quote, safe
from kvgit_hamt.refs import HEADS, TAGS

DAY_S = 86_400


@command("gc", json=True)
@click.option("-n", "--dry-run", is_flag=True, help="Delete nothing, print what would go.")
@click.option(
    "--keep-reflog", "days", type=click.FloatRange(0), metavar="DAYS",
    help="Age at which reflog entries expire, and let go of their commits [90].",
)  # fmt: skip
@example("kvh gc --dry-run", "kvh gc --keep-reflog 7", "kvh gc && kvh compact")
def gc(app: App, dry_run: bool, days: float | None) -> None:
    """Delete what nothing reaches.

    What no branch, tag or unexpired reflog entry reaches, that is. It is safe beside other processes, and
    to be interrupted. The file keeps its size, freed pages are used again; `compact` makes it smaller.
    """
    with app.progress("gc") as report:
        result = app.repo(write=True).gc(
            dry_run=dry_run, keep_reflog=None if days is None else days * DAY_S, progress=report
        )
    if app.is_json:
        app.out.record(asdict(result))
        return
    words = "would free" if dry_run else "freed"
    line = (
        f"{words} {result.freed_count:,} record(s), {bytes_text(result.freed_bytes)}; "
        f"kept {result.kept_count:,}, {bytes_text(result.kept_bytes)}"
    )
    if dry_run:
        app.out.line(line)
    else:
        app.out.note(line)


@command("compact", json=True)
def compact(app: App) -> None:
    """Make the store's file as small as what it holds.

    It writes a copy and puts it in the place of the file; no other process may have the store open.
    """
    before, after = app.repo(write=True).compact()
    if app.is_json:
        app.out.record({"bytes_before": before, "bytes_after": after})
    else:
        app.out.note(f"{bytes_text(before)} before, {bytes_text(after)} now")


@command("du", json=True)
@click.option("--bytes", "is_exact", is_flag=True, help="Bytes instead of kB and MB.")
@example("kvh du", "kvh du --json")
def du(app: App, is_exact: bool) -> None:
    """Print how much each branch and tag holds.

    Histories included. Exclusive is what no other of them reaches: deleting it, and `gc` once its reflog
    has expired, frees so much. Shared is what others reach too. It walks over all of them.
    """
    found = app.repo().usage()
    rows = []
    for full, usage in sorted(found.items(), key=lambda item: -item[1].exclusive_bytes):
        kind = "branch" if full.startswith(HEADS) else "tag"
        name = full.removeprefix(HEADS if kind == "branch" else TAGS)
        figures = {"exclusive_bytes": usage.exclusive_bytes, "shared_bytes": usage.shared_bytes}
        if app.is_json:
            app.out.record({"name": name, "kind": kind, **figures})
        else:
            sizes: list[Any] = [size if is_exact else bytes_text(size) for size in figures.values()]
            rows.append((*sizes, kind, name))
    if not app.is_json:
        app.out.table(("exclusive", "shared", "kind", "name"), rows)


@command("check", json=True)
@click.option("--quick", is_flag=True, help="Only that everything is there, passes its checksum and adds up.")
@click.option(
    "--repair-from", "source", metavar="PATH", type=click.Path(),
    help="Put right what is wrong, with objects from a copy of the store, or a bundle.",
)  # fmt: skip
@example("kvh check", "kvh check --json --quiet | jq -r .message", "kvh check --repair-from /backup/data")
def check(app: App, quick: bool, source: str | None) -> int | None:
    """Verify what is stored.

    Everything that branches, tags and reflogs reach is read; each fault is listed with the way to it and
    its keys. Nothing is changed. The exit code is 5 if anything is wrong. With --json the last line is the
    result.
    """
    if source is not None:
        return _repair(app, source, quick)
    with app.progress("check") as report:
        run = app.repo().check(deep=not quick, progress=report)
        for fault in run:
            _print_fault(app, fault)
        result = run.result()
    if app.is_json:
        record = asdict(result)
        app.out.record({"result": {**record, "counts": dict(result.counts)}})
    else:
        _sum_up(app, result)
    return None if result.is_sound else CORRUPTION


def _repair(app: App, source: str, is_quick: bool) -> int | None:
    """Heal from a copy; print what was healed and what was not."""
    if is_quick:
        raise Failure(USAGE, "--repair-from is a deep check", "leave --quick out")
    check_bundle(source)
    repo = app.repo(write=True)
    with app.progress("repair") as report:
        if os.path.isdir(source):
            result = repo.repair(source, report)
        else:
            with BundlePayloads(source) as payloads:
                result = repo.repair(payloads, report)
    for fault in result.healed:
        if app.is_json:
            app.out.record({**_record_of(fault), "healed": True})
        else:
            app.out.line(f"{app.out.paint('healed', 'green')} {safe(str(fault))}")
    for fault, why in result.unhealed:
        if app.is_json:
            app.out.record({**_record_of(fault), "healed": False, "why": why})
        else:
            app.out.line(f"{app.out.paint('not healed', 'red')} {safe(str(fault))}: {safe(why)}")
    counts = {"healed_count": len(result.healed), "unhealed_count": len(result.unhealed)}
    if app.is_json:
        fetched = {"fetched_count": result.fetched_count, "fetched_bytes": result.fetched_bytes}
        app.out.record({"result": {**counts, **fetched}})
    else:
        app.out.note(f"{len(result.healed):,} fault(s) healed, {len(result.unhealed):,} not")
    return None if result else CORRUPTION


def _print_fault(app: App, fault: Fault) -> None:
    if not app.is_json:
        app.out.line(app.out.paint(f"fault {fault.number}", "red") + f" {safe(str(fault))}")
        return
    app.out.record(_record_of(fault))


def _record_of(fault: Fault) -> dict[str, Any]:
    return {
        "fault": fault.number, "kind": fault.kind, "message": fault.message, "oid": fault.oid,
        "place": fault.place, "ref": fault.ref, "commit": fault.commit, "slots": list(fault.slots),
        "path": fault.path, "key_count": fault.key_count, "keys": list(fault.keys),
        "refs": list(fault.refs), "heads": list(fault.heads),
    }  # fmt: skip


def _sum_up(app: App, result: CheckResult) -> None:
    app.out.note(
        f"{result.commit_count:,} commit(s), {result.node_count:,} node(s), {result.blob_count:,} value(s) "
        f"out of line, {result.key_count:,} key(s)"
    )
    app.out.note(f"{bytes_text(result.read_bytes)} read in {result.seconds:.1f} s")
    if result.is_sound:
        app.out.line("sound: no fault in what was looked at")
    for sentence in result.not_checked:
        app.out.note(f"not looked at: {sentence}")
    if result.is_sound:
        return
    app.out.line(f"{result.fault_count:,} fault(s):")
    for kind, count in sorted(result.counts.items()):
        app.out.line(f"  {count:,} {kind}: {KINDS[kind]}")
    for name, part in sorted(result.damaged_refs.items()):
        where = "its present state" if part == "head" else "only older commits"
        app.out.line(f"  {quote(name)}: {where}")
    app.out.note(f"hint: `{app.prog} check --repair-from PATH` heals from a copy or a bundle")
