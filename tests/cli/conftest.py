"""Stores for the tests of the command line."""

from __future__ import annotations

import pytest

from tests.support.cli import Kvh


@pytest.fixture
def kvh(tmp_path):
    """A new store."""
    call = Kvh(tmp_path / "store")
    call("init", str(call.directory))
    return call


@pytest.fixture
def filled(kvh):
    """main: three commits (a message each), dev with one of its own beside the last, tag v1 at the second."""
    kvh("set", "motd", "hello", "-m", "first", "--time", "2026-01-01")
    kvh(
        "set",
        "--json",
        "user/1",
        '{"name": "Ada"}',
        "-m",
        "second",
        "--time",
        "2026-01-02",
        "--info",
        "author=Bo",
    )
    kvh("tag", "v1", "-m", "a release")
    kvh("branch", "dev")
    kvh("set", "-b", "dev", "user/2", "Grace", "-m", "on dev", "--time", "2026-01-03")
    kvh("set", "motd", "bye", "-m", "third", "--time", "2026-01-04")
    return kvh
