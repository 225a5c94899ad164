"""From a key-value store to the repository that the engine keeps in it."""

from __future__ import annotations

import contextlib
import threading
import weakref
from typing import Any

from kvgit_hamt.backend.base import Backend
from kvgit_hamt.backend.kv import KvBackend
from kvgit_hamt.codec import get_codec
from kvgit_hamt.errors import BranchMovedError
from kvgit_hamt.objects import Config
from kvgit_hamt.path import Shape
from kvgit_hamt.refs import CONFIG, now_us
from kvgit_hamt.repo import Repo, create_store

BYTES = get_codec("bytes")  # what this door stores; Staged encodes above it


class Engine:
    """A store with its repository; all handles on one store object share one of these."""

    def __init__(self, store: Any, repo: Repo) -> None:
        self.store = store
        self.repo = repo


# By the store's id, which is its own for as long as the entry lives: the Engine holds the store.
_engines: weakref.WeakValueDictionary[int, Engine] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def backend_of(store: Any) -> Backend:
    """The backend for a store: its own (``open_backend``), or the adapter for any KVStore.

    Raises:
        TypeError: it is no KVStore.
    """
    opener = getattr(store, "open_backend", None)
    if callable(opener):
        backend: Backend = opener()
        return backend
    return KvBackend(store)


def engine_of(store: Any) -> Engine:
    """The repository in a store, made if there is none; without a branch then.

    Raises:
        InvalidInputError: a store of the main API with another codec than "bytes".
        TypeError: it is no KVStore. (others: see Repo)
    """
    with _lock:
        engine = _engines.get(id(store))
        if engine is None or engine.repo.is_closed:
            engine = Engine(store, _open(backend_of(store)))
            _engines[id(store)] = engine
        return engine


def _open(backend: Backend) -> Repo:
    try:
        if backend.get_ref(CONFIG) is None:
            with contextlib.suppress(BranchMovedError):  # somebody else has just made it
                create_store(backend, Config(Shape(), BYTES.name), now_us, branch=None)
    except BaseException:
        backend.close()
        raise
    return Repo(backend, codec=BYTES)
