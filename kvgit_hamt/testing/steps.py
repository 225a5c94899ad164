"""What the contract suite of backends builds its tests with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from kvgit_hamt.backend.base import Backend, Batch, Kind, NewRecord, RefUpdate
from kvgit_hamt.oid import oid_of
from kvgit_hamt.wire import place_of

T = TypeVar("T", bound="tuple[bytes, Any]")
OpenBackend = Callable[[], Backend]


def record(payload: bytes, places: Sequence[int] = (), kind: Kind | None = None) -> NewRecord:
    """An object for a batch; ``places`` are those of its children, on placed backends."""
    body = payload + b"".join(map(place_of, places))
    return NewRecord(oid_of(payload), body, len(places), kind)


def publish(backend: Backend, *records: NewRecord, refs: Sequence[RefUpdate] = ()) -> list[bytes]:
    """Publish records and refs; returns the records' locations."""
    base = backend.next_place()
    moved = backend.publish(Batch(records=records, base=base, refs=refs))
    if not backend.placed:
        return [b""] * len(records)
    return [place_of(base + moved + number) for number in range(len(records))]


def move(backend: Backend, name: str, new: bytes | None, log: bytes | None = None) -> None:
    """Set or delete one ref, whatever it holds now."""
    backend.publish(Batch(refs=[RefUpdate(name, backend.get_ref(name), new, log)]))


def contents(backend: Backend) -> tuple[object, ...]:
    """Everything a failed publish must leave as it was."""
    return (
        list(backend.iterate_records()),
        backend.list_refs(""),
        [(name, backend.read_reflog(name)) for name in backend.reflog_names()],
        backend.get_meta("m"),
        backend.read_touches("main"),
        backend.next_place(),
    )


def paged(step: Callable[[bytes], list[T]]) -> list[T]:
    """All of a listing that is given out in parts."""
    found: list[T] = []
    after = b""
    while part := step(after):
        found += part
        after = part[-1][0]
    return found


def run_threads(calls: Sequence[Callable[[], None]], faults: list[BaseException]) -> None:
    """Run each call in a thread of its own to its end; what they raise goes to ``faults``."""

    def guarded(call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - reported by the caller
            faults.append(error)

    threads = [threading.Thread(target=guarded, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
