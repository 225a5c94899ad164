"""docs/cli.md, made from the program: ``python -m kvgit_hamt.cli.reference > docs/cli.md``."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Iterator
from typing import Final

import click

from kvgit_hamt.cli.exits import MEANINGS
from kvgit_hamt.cli.program import TOPICS, program

PROG: Final = "kvh"
WIDTH: Final = 120

# Fields of the JSON records of each command; the tests compare them with what the commands print.
COMMIT: Final = "id, parents, generation, time, info, codec, tree, names"
MADE: Final = "branch, commit, strategy"
CHANGE: Final = "key, kind, [old], [new]"
CONFLICT: Final = "conflict, [base], [ours], [theirs], [error]"
STAT: Final = "added, removed, modified, directories"
BUNDLE: Final = "refs, commits, prerequisites, commit_count, object_count, byte_count, codec"
FAULT: Final = (
    "fault, kind, message, oid, place, ref, commit, slots, path, key_count, keys, refs, heads, "
    "[healed], [why]"
)
RECORDS: Final[dict[str, tuple[str, ...]]] = {
    "get": ("key, value",),
    "ls": ("key, [size_bytes], [type], [value]",),
    "count": ("prefix, count",),
    "sample": ("key, size_bytes, type, value",),
    "del": (f"{MADE}, removed",),
    "apply": (f"{MADE}, added, removed, modified", CHANGE),
    "import": (
        "branch, commit, rows, added, earlier_rows, commits",
        "commits, earlier, branches, tags, skipped",
    ),
    "export": ("path, format, rows, commit", "path, commits, same, refs"),
    "log": (COMMIT,),
    "show": (COMMIT, CHANGE, "key", STAT, "key, value"),
    "reflog": ("branch, number, old, new, time, why",),
    "diff": (CHANGE, "key", STAT),
    "branch": ("name, commit, time, message",),
    "tag": ("name, commit, info",),
    "reset": ("branch, old, new",),
    "merge": (
        f"{MADE}, settled",
        "branch, dry_run, strategy, taken, settled, conflicts",
        CONFLICT,
    ),
    "cherry-pick": (f"{MADE}, settled", CONFLICT),
    "revert": (f"{MADE}, settled", CONFLICT),
    "gc": ("kept_count, freed_count, kept_bytes, freed_bytes, seconds, dry_run",),
    "compact": ("bytes_before, bytes_after",),
    "du": ("name, kind, exclusive_bytes, shared_bytes",),
    "check": (FAULT, "result"),
    "stats": ("store, [tree]",),
    "bundle create": (BUNDLE,),
    "bundle verify": (BUNDLE,),
    "bundle load": ("refs, changed, commit_count, written_count, resumed_count",),
}

# And of the maps within them.
PARTS: Final[dict[str, dict[str, str]]] = {
    "check": {
        "result": "is_sound, deep, fault_count, counts, damaged_refs, commit_count, node_count, leaf_count, "
        "blob_count, key_count, read_bytes, unreached_count, not_checked, seconds",
        "result of a repair": "healed_count, unhealed_count, fetched_count, fetched_bytes",
    },
    "stats": {
        "store": "record_count, commit_count, blob_count, node_count, ref_count, pending_count, next_place, "
        "write_count, file_bytes, used_bytes, map_bytes, reader_count, branch_count, tag_count",
        "tree": "commit, key_count, depth, mean_depth, inner_count, leaf_count, node_bytes, blob_count, "
        "blob_bytes, leaf_max_bytes, mean_fill, fill, largest_leaf, levels",
        "levels": "inner_count, leaf_count, child_count, entry_count, byte_count",
    },
}

INTRODUCTION: Final = """\
# The command line

<!-- Made by `python -m kvgit_hamt.cli.reference`; edit the program, not this file. -->

`kvgit-hamt`, or `kvh` for short, or `python -m kvgit_hamt`: the same program. It is an extra, `pip install
"kvgit-hamt[cli]"`, which `make demo` and `make test` install too. Without it the program says so and ends
with exit code 7; only `demo` works.

```
kvh init data
export KVGIT_HAMT_STORE=data
kvh set motd 'Good morning' -m 'A first key'
kvh branch dev
kvh set -b dev motd 'Good evening'
kvh diff main dev --values
kvh merge dev
kvh log --oneline --graph
```

## What all commands keep to

**The store** is the directory that `--store` names, before or after the command; else `KVGIT_HAMT_STORE`;
else the directory one is in, if that is a store. **The branch** is what `--branch` names; else
`KVGIT_HAMT_BRANCH`; else `main`. No command switches to another branch for those that follow.

**A revision** (REV) is a branch, a tag, a commit id or its first four or more characters. After it: `~n`, n
first parents back (`~` is one); `^n`, the n-th parent; `@{n}`, where the branch was n moves ago;
`@{2026-01-31}`, `@{2026-01-31 12:00}`, `@{yesterday}`, `@{3 days ago}`, where it was then, by its reflog,
and before the reflog begins by the times of its commits. `@`, or `HEAD`, is the branch itself. Times are
UTC unless they carry a zone; a date is its beginning. A branch is looked for before a tag of the same name;
`heads/NAME` and `tags/NAME` say which. `A..B` names two states, `A...B` what B changed since the two
parted. (Quote `@{..}`, `~` and `^` where your shell minds them.)

**Output**: data goes to stdout; messages, questions and progress go to stderr, progress only to a terminal.
`--quiet` leaves messages and progress out. Colors are for terminals, unless `NO_COLOR` is set. Output may
be cut by `head` at any place. `ls`, `log`, `diff` and `export` print as they read, in bounded memory.

**Control characters** of keys, names and messages are shown escaped, always: a key that would mislead is
printed as a JSON string, in quotes. Values are escaped on a terminal; in lists (`ls --long`, `diff
--values`) everywhere.

**Values on the way in**: text, as given. `set --json` takes any JSON; a file or stdin is bytes, unless
`--text` or `--json` is given. In a store of bytes (`init --codec bytes`) text becomes UTF-8.

**Values on the way out**: `get` prints text with a line end, bytes as they are (on a terminal: described),
all else as JSON; `--raw` prints exactly the bytes, without a line end. With `--json` a value is JSON that
says everything:

| value | JSON |
|---|---|
| null, bool, int, float, text, list, map with text keys | itself |
| bytes | `{"$bytes": "<base64>"}` |
| a float that JSON lacks | `{"$float": "nan"}`, `"inf"`, `"-inf"` |
| a map with other keys, or with one key that begins with `$` | `{"$map": [[key, value], ..]}` |
| stored bytes that were not decoded | `{"$stored": "<base64>"}` |
| an object of a pickle | `{"$repr": "<text>"}`, which cannot be read back |

**Pickles** run code when they are read, so the values of a store of pickles (`init --codec pickle`) are
shown as stored bytes, unless `--unpickle` is given. Everything else works without it: keys, history, diffs,
merges, upkeep. The same holds for a store whose codec belongs to a program of its own, which only that
program can decode.

**JSON**: with `--json` each line of stdout is one JSON object. The fields of each command are below, those
in brackets are there where they apply; later versions may add fields, and do not change or drop any. An
absent value has no field, a stored null is `null`. Times are ISO 8601 in UTC.

**Errors** are a line on stderr that says what is wrong, mostly a second one that says what to do next, and
an exit code:

"""


def document() -> str:
    """The whole document."""
    lines = [INTRODUCTION.rstrip("\n"), "", "| exit code | meaning |", "|---|---|"]
    lines += [f"| {code} | {meaning} |" for code, meaning in MEANINGS.items()]
    context = click.Context(program, info_name=PROG)
    for topic, modules in TOPICS.items():
        lines += ["", f"## {topic}"]
        for name in (name for names in modules.values() for name in names):
            command = program.get_command(context, name)
            assert command is not None
            lines += _entry(name, command)
    return "\n".join(lines) + "\n"


def _entry(name: str, command: click.Command) -> Iterator[str]:
    """A command, or a group with its commands."""
    context = click.Context(command, info_name=f"{PROG} {name}")
    yield from ("", f"### {name}", "")
    if isinstance(command, click.Group):
        yield from _paragraphs(command.help or "")
        for part in command.list_commands(context):
            found = command.commands[part]
            yield from _entry(f"{name} {part}", found)
        return
    yield from ("```", f"{PROG} {name} {' '.join(command.collect_usage_pieces(context))}", "```", "")
    yield from _paragraphs(command.help or "")
    yield from ("", "| option | |", "|---|---|")
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record is not None and isinstance(parameter, click.Option):
            option, text = (part.replace("|", "\\|") for part in record)
            yield f"| `{option}` | {text} |"
    yield from _examples(command)
    if name in RECORDS:
        shapes = "; or ".join(f"`{shape}`" for shape in RECORDS[name])
        yield from (
            "",
            *textwrap.wrap(f"JSON: {shapes}", WIDTH, break_long_words=False, break_on_hyphens=False),
        )
    for part, shape in PARTS.get(name, {}).items():
        text = f"In the {part}: `{shape}`"
        yield from ("", *textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False))


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(inspect.cleandoc(text).split("\n\n")):
        if number:
            yield ""
        plain = _escaped(" ".join(paragraph.split()))
        yield from textwrap.wrap(plain, WIDTH, break_long_words=False, break_on_hyphens=False)


def _escaped(text: str) -> str:
    """Without what Markdown would take for its own; parts in backticks stay."""
    parts = text.split("`")
    for at in range(0, len(parts), 2):
        for sign in "\\*_<>[]|":
            parts[at] = parts[at].replace(sign, "\\" + sign)
    return "`".join(parts)


def _examples(command: click.Command) -> Iterator[str]:
    lines = (command.epilog or "").replace("\b", "").strip().splitlines()
    if lines:
        yield from ("", "```", *[line.strip() for line in lines[1:]], "```")


if __name__ == "__main__":
    sys.stdout.write(document())
