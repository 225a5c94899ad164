"""Making a store, and looking at keys and values."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click

from kvgit_hamt.backend.lmdb import LmdbBackend
from kvgit_hamt.cli import complete
from kvgit_hamt.cli.app import MARKER, App, command, example
from kvgit_hamt.cli.exits import NOT_FOUND, USAGE, Failure
from kvgit_hamt.cli.values import PREVIEW, dump_json, kind_of, quote, safe, show, to_json
from kvgit_hamt.codec import Undecoded
from kvgit_hamt.errors import BackendError
from kvgit_hamt.objects import decode_config
from kvgit_hamt.refs import CONFIG
from kvgit_hamt.repo import BUILT_IN, Repo
from kvgit_hamt.revision import CURRENT
from kvgit_hamt.snapshot import Snapshot

F = TypeVar("F", bound=Callable[..., Any])


def at_option(function: F) -> F:
    """--at REV, for commands that look at one state."""
    return click.option(
        "--at", metavar="REV", default=CURRENT, shell_complete=complete.revisions,
        help="The state to look at: a revision [the branch].",
    )(function)  # fmt: skip


@command("init")
@click.argument("directory", metavar="[DIR]", required=False, type=click.Path())
@click.option(
    "--codec", type=click.Choice(BUILT_IN),
    help="What values are: plain data, any Python object, or bytes [msgpack].",
)  # fmt: skip
@example("kvh init data", "kvh init --codec bytes blobs")
def init(app: App, directory: str | None, codec: str | None) -> None:
    """Make a store in a directory.

    The directory is made, or is empty; without DIR it is the one named by --store or KVGIT_HAMT_STORE, or the
    one you are in. A store that is there already stays as it is.
    """
    where = directory or app.given.store or "."
    found = _codec_of(where)
    if found is not None:
        if codec not in (None, found):
            why = f"{quote(where)} is a store of codec {found!r}, not {codec!r}"
            raise Failure(USAGE, why, "a store keeps its codec; name another directory")
        app.out.note(f"there was a store in {quote(where)} (codec {found})")
        return
    codec = codec or "msgpack"
    try:
        with Repo(where, codec=codec):
            pass
    except BackendError:
        if where == "." and not directory:
            app.out.note("hint: name a directory to be made: init DIR")
        raise
    app.out.note(f"made a store in {quote(where)} (codec {codec})")


def _codec_of(where: str) -> str | None:
    """The codec of a store that is there; None if there is none, or one whose making broke off."""
    if not all(os.path.exists(os.path.join(where, name)) for name in (MARKER, "data.mdb")):
        return None
    backend = LmdbBackend(where, create=False, readonly=True)
    try:
        data = backend.get_ref(CONFIG)
    finally:
        backend.close()
    return None if data is None else decode_config(data).codec


@command("get", branch=True, json=True, values=True)
@click.argument("keys", metavar="KEY...", nargs=-1, required=True, shell_complete=complete.keys)
@click.option("--raw", "is_raw", is_flag=True, help="Exactly the bytes of the value, without a line end.")
@at_option
@example("kvh get motd", "kvh get --at main~2 user/1 --json", "kvh get photo --raw > photo.jpg")
def get(app: App, keys: tuple[str, ...], is_raw: bool, at: str) -> int | None:
    """Print the values of keys.

    Text is printed as it is, bytes too unless stdout is a terminal, anything else as JSON. With --json each
    value stands beside its key. A key that is absent is an error (exit code 3); the others are printed.
    """
    return print_values(app, keys, at, is_raw)


def print_values(app: App, keys: tuple[str, ...], at: str, is_raw: bool) -> int | None:
    """Print the values of keys in a state; the exit code if one is absent."""
    code = None
    view = app.snapshot(at)
    for key in keys:
        try:
            value = view[key]
        except KeyError:
            app.out.flush()
            click.echo(
                f"error: there is no key {quote(key)} in {quote(at if at != CURRENT else app.branch)}",
                err=True,
            )
            code = NOT_FOUND
            continue
        if app.is_json:
            app.out.record({"key": key, "value": to_json(value)})
        else:
            _print_value(app, value, is_raw)
    if code:
        click.echo(f"hint: `{app.prog} ls PREFIX` lists keys", err=True)
    return code


def _print_value(app: App, value: Any, is_raw: bool) -> None:
    out = app.out
    data = value.data if isinstance(value, Undecoded) and is_raw else value
    if isinstance(data, str):
        if is_raw:
            out.exact(data)
        else:
            out.line(safe(data) if out.is_terminal else data)
    elif isinstance(data, bytes):
        if is_raw or not out.is_terminal:
            out.exact(data)
        else:
            out.line(show(data))
    elif isinstance(data, Undecoded):
        out.line(show(data))
        is_pickle = app.repo().codec.name == "pickle"
        way = "--unpickle reads pickles, which runs code in them; " if is_pickle else ""
        out.note(f"hint: {way}--raw gives the stored bytes")
    elif is_raw:
        out.exact(dump_json(to_json(data)))
    else:
        out.line(dump_json(to_json(data)))


@command("ls", branch=True, json=True, values=True)
@click.argument("prefix", metavar="[PREFIX]", default="", shell_complete=complete.keys)
@click.option("-l", "--long", "is_long", is_flag=True, help="Also the size, type and value of each key.")
@click.option("--sort", "is_sorted", is_flag=True, help="By key; holds all of them in memory.")
@click.option("-z", "--null", "is_null", is_flag=True, help="End keys with NUL and quote nothing.")
@at_option
@example("kvh ls user/", "kvh ls --long --sort user/", "kvh ls -z | xargs -0 -n 1 kvh get")
def ls(app: App, prefix: str, is_long: bool, is_sorted: bool, is_null: bool, at: str) -> None:
    """List the keys that begin with PREFIX, or all.

    They come as they lie in the store, which is the same order for equal contents, but not by name; --sort
    sorts them. A prefix that ends in / costs its directory, not the store. Keys with control characters, or
    that look quoted, are printed as JSON strings.
    """
    view = app.snapshot(at)
    if is_long:
        rows = _long_rows(app, view, prefix)
        for key, size, value in sorted(rows, key=lambda row: row[0]) if is_sorted else rows:
            _print_row(app, key, size, value)
        return
    keys = sorted(view.keys(prefix)) if is_sorted else view.keys(prefix)
    for key in keys:
        if app.is_json:
            app.out.record({"key": key})
        elif is_null:
            app.out.exact(key + "\0")
        else:
            app.out.line(quote(key))


def _long_rows(app: App, view: Snapshot, prefix: str) -> Iterator[tuple[str, int, Any]]:
    decode = app.repo().codec.decode_for
    for key, data in view.raw.items(prefix):
        yield key, len(data), decode(key, data)


def _print_row(app: App, key: str, size: int, value: Any) -> None:
    if app.is_json:
        record = {"key": key, "size_bytes": size, "type": kind_of(value), "value": to_json(value)}
        app.out.record(record)
    else:
        name = app.out.paint(quote(key), "cyan")
        app.out.line(f"{size:>9,}  {kind_of(value):<6}  {name}  {show(value, PREVIEW)}")


@command("count", branch=True, json=True)
@click.argument("prefix", metavar="[PREFIX]", default="", shell_complete=complete.keys)
@at_option
@example("kvh count", "kvh count user/ --at v1")
def count(app: App, prefix: str, at: str) -> None:
    """Count the keys that begin with PREFIX, or all.

    The number of all keys is stored and costs one read; with a PREFIX its directory is read.
    """
    view = app.snapshot(at)
    found = len(view.keys(prefix)) if prefix else len(view)
    if app.is_json:
        app.out.record({"prefix": prefix, "count": found})
    else:
        app.out.line(str(found))


@command("sample", branch=True, json=True, values=True)
@click.argument("number", metavar="[N]", default=10, type=click.IntRange(0))
@click.option(
    "--seed", type=int, metavar="NUMBER", help="The same seed draws the same keys from equal states."
)
@at_option
@example("kvh sample 3", "kvh sample 100 --seed 1 --json")
def sample(app: App, number: int, seed: int | None, at: str) -> None:
    """Print entries drawn at random.

    N of them [10], each as likely as any other. It costs a lookup for each, however large the store is.
    """
    view = app.snapshot(at)
    for key, value in view.sample(number, seed):
        _print_row(app, key, len(view.raw[key]), value)
