"""A git commit's text as a commit's info, and back: author, dates and message, to the byte."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any, Final

from kvgit_hamt.interchange.gitpipe import LINK, SUBMODULE

GIT: Final = "git"  # the field of a commit's info with what only git needs
PLAIN: Final = "100644"
_WHO = re.compile(rb"(.*) (-?\d+) ([+-]\d{4})", re.S)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)


def body_of(raw: bytes) -> bytes:
    """A commit object without the names of its tree and parents."""
    at = 0
    while raw.startswith((b"tree ", b"parent "), at):
        at = raw.index(b"\n", at) + 1
    return raw[at:]


def info_of(oid: str, body: bytes) -> tuple[dict[str, Any], int | None]:
    """The info of a commit made from git's, and its time in microseconds.

    "author", "committer", "message" are text, "date", "commit_date" ISO 8601 with the offset. "git" holds
    "commit", git's id, and "raw", the body of the object, only where the fields do not give the same bytes
    again: other headers such as signatures, another encoding, odd dates.
    """
    head, _, message = body.partition(b"\n\n")
    headers = dict(line.split(b" ", 1) for line in head.split(b"\n") if b" " in line[1:])
    encoding = headers.get(b"encoding", b"utf-8").decode("ascii", "replace")
    info: dict[str, Any] = {"message": _text(message, encoding)}
    time_us = None
    for who, when in (("author", "date"), ("committer", "commit_date")):
        found = _WHO.fullmatch(headers.get(who.encode(), b""))
        if found is not None:
            info[who] = _text(found[1], encoding)
            date = _date(int(found[2]), found[3].decode())
            if date is not None:
                info[when] = date.isoformat()
                time_us = (date - _EPOCH) // timedelta(microseconds=1)
    info[GIT] = {"commit": oid}
    if text_of_info(info) != body:
        info[GIT]["raw"] = body
    return info, time_us


def text_of_info(info: Mapping[str, Any]) -> bytes | None:
    """The body of a git commit from the fields of an info; None where one of them is missing."""
    lines = []
    for who, when in (("author", "date"), ("committer", "commit_date")):
        name, date = info.get(who), info.get(when)
        if not isinstance(name, str) or not isinstance(date, str):
            return None
        try:
            at = datetime.fromisoformat(date)
        except ValueError:
            return None
        if at.tzinfo is None:
            return None
        lines.append(f"{who} {name} {raw_date(at)}\n".encode())
    message = info.get("message")
    return b"".join(lines) + b"\n" + message.encode() if isinstance(message, str) else None


def raw_date(at: datetime) -> str:
    """A time as git writes it: seconds, and the offset."""
    return f"{(at - _EPOCH) // timedelta(seconds=1)} {at:%z}"[:32]


def _date(seconds: int, zone: str) -> datetime | None:
    minutes = int(zone[1:3]) * 60 + int(zone[3:])
    try:
        offset = timezone(timedelta(minutes=-minutes if zone[0] == "-" else minutes))
        return (_EPOCH + timedelta(seconds=seconds)).astimezone(offset)
    except (OverflowError, ValueError):
        return None


def _text(data: bytes, encoding: str) -> str:
    try:
        text = data.decode(encoding)
        text.encode()
        return text
    except (LookupError, UnicodeError):
        return data.decode(errors="replace")


# files as values


def value_of(mode: str, data: bytes) -> Any:
    """A file as a value: the bytes of a plain one; of another a map with its mode.

    {"mode": "100755", "data": bytes} is an executable file, {"mode": "120000", "data": target} a symbolic
    link, and {"mode": "160000", "commit": id} a submodule.
    """
    return data if mode == PLAIN else {"mode": mode, "data": data}


def submodule_of(oid: str) -> Any:
    """A submodule as a value."""
    return {"mode": SUBMODULE, "commit": oid}


def file_of(value: Any) -> tuple[str, bytes | str]:
    """(mode, bytes) of a value that is a file, or (SUBMODULE, commit id); text is UTF-8.

    Raises:
        TypeError: neither bytes, nor text, nor a map as ``value_of`` gives.
    """
    if type(value) is bytes:
        return PLAIN, value
    if type(value) is str:
        return PLAIN, value.encode()
    if type(value) is dict and isinstance(value.get("mode"), str):
        mode = value["mode"]
        if mode == SUBMODULE and value.keys() == {"mode", "commit"} and isinstance(value["commit"], str):
            return mode, value["commit"]
        if value.keys() == {"mode", "data"} and type(value["data"]) is bytes:
            return mode, value["data"]
    raise TypeError(f"a value of type {type(value).__name__}, which is no file")


__all__ = [
    "GIT", "LINK", "PLAIN", "SUBMODULE", "body_of", "file_of", "info_of", "raw_date", "submodule_of",
    "text_of_info", "value_of",
]  # fmt: skip
