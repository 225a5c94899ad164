"""What the demo stores: the two Unicode character databases that Python carries, as keys and values."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any, Final

Record = dict[str, Any]
Database = Any  # unicodedata, or the UCD object for 3.2.0: they share functions, but no type

OLD: Final[Database] = unicodedata.ucd_3_2_0
NEW: Final[Database] = unicodedata
ALL_COUNT: Final = sys.maxunicode + 1
MIN_COUNT: Final = 1_024  # holds every character that the demo edits or shows
UNASSIGNED: Final = "Cn"


def key_of(category: str, code: int) -> str:
    """The key of a code point: ``Lu/0041``."""
    return f"{category}/{code:04X}"


def code_of(key: str) -> int:
    """The code point of a key."""
    return int(key.partition("/")[2], 16)


def record_of(database: Database, code: int) -> Record | None:
    """The properties of a code point as plain data, None where the database assigns none."""
    char = chr(code)
    category = database.category(char)
    if category == UNASSIGNED:
        return None
    return {
        "name": database.name(char, None),
        "category": category,
        "bidirectional": database.bidirectional(char),
        "combining": database.combining(char),
        "decomposition": database.decomposition(char),
        "decimal": database.decimal(char, None),
        "digit": database.digit(char, None),
        "numeric": database.numeric(char, None),
        "east_asian_width": database.east_asian_width(char),
        "mirrored": database.mirrored(char),
    }


def position_of(item: tuple[str, Any]) -> int:
    """The code point of an item, for showing progress."""
    return code_of(item[0])


def entries(database: Database, count: int) -> Iterator[tuple[str, Record]]:
    """(key, properties) of the assigned ones among the first ``count`` code points."""
    for code in range(count):
        record = record_of(database, code)
        if record is not None:
            yield key_of(record["category"], code), record


def changes(count: int) -> Iterator[tuple[str, Record | None]]:
    """What leads from the old database to the new one: (key, properties), or None for a deletion.

    A code point whose category changed is a deletion in one directory and an addition in another.
    """
    for code in range(count):
        old, new = record_of(OLD, code), record_of(NEW, code)
        if old == new:
            continue
        if old is not None and (new is None or new["category"] != old["category"]):
            yield key_of(old["category"], code), None
        if new is not None:
            yield key_of(new["category"], code), new


def differing(old: Record, new: Record) -> list[tuple[str, Any, Any]]:
    """(property, old, new) of the properties in which two records differ."""
    names = sorted(old.keys() | new.keys())
    return [(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)]


def count_wrong(items: Iterable[tuple[str, Any]], database: Database, count: int) -> int:
    """How many of a store's items are not what a database says, missing and surplus keys included."""
    right = 0
    total = 0
    for key, value in items:
        total += 1
        code = code_of(key)
        expected = record_of(database, code) if code < count else None
        right += expected is not None and value == expected and key == key_of(expected["category"], code)
    wanted = sum(database.category(chr(code)) != UNASSIGNED for code in range(count))
    return total + int(wanted) - 2 * int(right)
