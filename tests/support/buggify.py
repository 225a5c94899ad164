"""A backend that fails, at random but the same for the same seed: before a write, after it, or with old news.

What it may do is what storage far away does. A read may fail. A publish may fail with nothing stored, or be
stored and then fail, or fail without anybody knowing; it may be sent twice; others may be served first. A ref
may read as it was some time ago, except to gc: a collection relies on refs that are read as they are.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from kvgit_hamt.backend.base import Backend, Batch, Kind, Sweep
from kvgit_hamt.errors import BackendError, ConflictError, OutcomeUnknownError

T = TypeVar("T")


class BuggyBackend:
    """Faults around a backend.

    Attributes:
        rate: probability of a fault at each call; 0 is none.
        may_be_stale: whether refs may read as they were.
        others: called now and then before a publish, as if somebody else had been faster.
        faults: how often each kind came.
    """

    def __init__(self, inner: Backend, rng: random.Random, rate: float) -> None:
        self.inner = inner
        self.rng = rng
        self.rate = rate
        self.may_be_stale = True
        self.others: Callable[[], None] = lambda: None
        self.faults: dict[str, int] = {}
        self._old_refs: dict[str, list[bytes | None]] = {}
        self._old_lists: dict[str, list[list[tuple[str, bytes]]]] = {}

    @property
    def placed(self) -> bool:
        """As the inner one."""
        return self.inner.placed

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def strikes(self, what: str) -> bool:
        """Whether a fault comes now."""
        if self.rate and self.rng.random() < self.rate:
            self.faults[what] = self.faults.get(what, 0) + 1
            return True
        return False

    def _may_fail(self) -> None:
        if self.strikes("read fails"):
            raise BackendError("the storage did not answer")

    # reading

    def read(self, oid: bytes, loc: bytes) -> bytes | None:
        self._may_fail()
        return self.inner.read(oid, loc)

    def read_many(self, links: Sequence[tuple[bytes, bytes]]) -> list[bytes | None]:
        self._may_fail()
        return self.inner.read_many(links)

    def find(self, kind: Kind, oid: bytes) -> bytes | None:
        self._may_fail()
        return self.inner.find(kind, oid)

    def get_ref(self, name: str) -> bytes | None:
        self._may_fail()
        value = self.inner.get_ref(name)
        return self._perhaps_old(self._old_refs.setdefault(name, []), value)

    def list_refs(self, prefix: str) -> list[tuple[str, bytes]]:
        self._may_fail()
        found = self.inner.list_refs(prefix)
        return self._perhaps_old(self._old_lists.setdefault(prefix, []), found)

    def _perhaps_old(self, known: list[T], value: T) -> T:
        if self.may_be_stale and known and self.strikes("old news"):
            return self.rng.choice(known)
        known.append(value)
        del known[:-5]
        return value

    # writing

    def publish(self, batch: Batch) -> int:
        if self.strikes("others first"):
            self.others()
        if self.strikes("nothing stored"):
            raise BackendError("the storage did not take it; nothing was stored")
        if self.strikes("lost on the way"):
            raise OutcomeUnknownError("the connection broke: it may or may not have been stored")
        shift = self.inner.publish(batch)
        if batch.refs and self.strikes("sent twice"):
            try:
                self.inner.publish(batch)
            except ConflictError:
                self.faults["second refused"] = self.faults.get("second refused", 0) + 1
            else:
                raise AssertionError("a batch that moves a ref was taken twice")
        if self.strikes("stored, then lost"):
            raise OutcomeUnknownError("the connection broke: it may or may not have been stored")
        return shift

    def sweep(self, action: Callable[[Sweep], T]) -> tuple[T, int]:
        self._may_fail()
        result = self.inner.sweep(action)
        if self.strikes("swept, then lost"):
            raise BackendError("the storage did not answer")
        return result


class LosingBackend(BuggyBackend):
    """A negative control: now and then it says that a batch is stored, and it is not."""

    def publish(self, batch: Batch) -> int:
        if batch.refs and self.strikes("lost without a word"):
            return 0
        return self.inner.publish(batch)


class BlindBackend(BuggyBackend):
    """A negative control: whoever comes last wins, whatever the branch held."""

    def publish(self, batch: Batch) -> int:
        if self.strikes("others first"):
            self.others()
        held = [update._replace(old=self.inner.get_ref(update.name)) for update in batch.refs]
        return self.inner.publish(Batch(**{**vars(batch), "refs": held}))
