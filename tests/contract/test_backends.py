"""The contract suite on the backends of the library."""

from __future__ import annotations

import pytest

from kvgit_hamt.backend.lmdb import LmdbBackend
from kvgit_hamt.backend.memory import MemoryBackend
from kvgit_hamt.testing.backends import BackendContract


class TestMemoryBackend(BackendContract):
    is_persistent = False

    @pytest.fixture
    def open_backend(self):
        return MemoryBackend


class TestLmdbBackend(BackendContract):
    @pytest.fixture
    def open_backend(self, tmp_path):
        return lambda: LmdbBackend(tmp_path / "store")


class TestLmdbBackendThatGrows(BackendContract):
    """From the smallest map on, so that nearly every test remaps."""

    @pytest.fixture
    def open_backend(self, tmp_path):
        return lambda: LmdbBackend(tmp_path / "store", map_bytes=1, sync="no_meta")
