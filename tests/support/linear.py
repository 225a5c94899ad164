"""Is a history of concurrent calls linearizable? The search of Wing and Gong, with Lowe's memory.

J. M. Wing, C. Gong: Testing and verifying concurrent objects (1993).
G. Lowe: Testing for linearizability (2017).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

State = TypeVar("State")


class Call(NamedTuple):
    """One call as its caller saw it.

    Attributes:
        start, end: moments of one clock: it took effect at some moment between them.
        what: the operation, with its arguments.
        result: what it returned.
    """

    start: int
    end: int
    what: tuple[Any, ...]
    result: Any


Step = Callable[[Any, Call], "tuple[Any] | None"]
"""The state after a call that takes effect in a state, in a tuple; None where the call could not have had
its result there."""


def order_of(history: Sequence[Call], step: Step, state: Any) -> list[Call] | None:
    """An order of all calls that explains their results one after the other, None if there is none.

    No call comes before one that had returned when it began.

    Args:
        step: what a call does to the state, which must be hashable.
        state: before the first call.

    Cost: exponential at worst; each set of calls done is looked at once for each state it can lead to.
    """
    calls = sorted(history, key=lambda call: call[:2])
    whole = (1 << len(calls)) - 1
    seen = {(0, state)}
    done, order = 0, []  # bits of the calls in ``order``
    frames: list[tuple[int, Any]] = []  # of each chosen call: its number, and the state before it
    at = 0  # calls before this one have been tried
    while done != whole:
        found = _next(calls, done, at, step, state)
        if found is not None:
            number, after = found
            if (done | 1 << number, after) not in seen:
                seen.add((done | 1 << number, after))
                frames.append((number, state))
                order.append(calls[number])
                done, state, at = done | 1 << number, after, 0
            else:
                at = number + 1
        elif frames:
            number, before = frames.pop()
            order.pop()
            # What changes nothing disturbs no other call: where it was wrong, so is all else.
            done, at = done & ~(1 << number), number + 1 if before != state else len(calls)
            state = before
        else:
            return None
    return order


def _next(calls: Sequence[Call], done: int, at: int, step: Step, state: Any) -> tuple[int, Any] | None:
    """A call that may come next, from ``at`` on, and the state after it; first one that changes nothing."""
    left = [number for number in range(len(calls)) if not done >> number & 1]
    first_end = min(calls[number].end for number in left)
    possible = [number for number in left if number >= at and calls[number].start <= first_end]
    found = [(number, after[0]) for number in possible if (after := step(state, calls[number]))]
    still = (each for each in found if each[1] == state)
    return next(still, found[0] if found else None)


def register(state: Any, call: Call) -> tuple[Any] | None:
    """One ref: ("get",) returns its value; ("cas", old, new) says if it was ``old`` and became ``new``."""
    if call.what[0] == "get":
        return (state,) if call.result == state else None
    _, old, new = call.what
    if call.result:
        return (new,) if state == old else None
    return (state,) if state != old else None
