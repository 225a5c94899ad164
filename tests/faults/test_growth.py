"""Maps that are full, of every size, and that grow while others read (E3)."""

from __future__ import annotations

import pytest

import kvgit_hamt as kvgit
from kvgit_hamt import Repo
from kvgit_hamt.backend.lmdb import LmdbBackend
from kvgit_hamt.backend.lmdb_env import SharedEnvironment
from kvgit_hamt.errors import StoreFullError
from tests.support.racers import PATIENCE_S, call, run_all
from tests.support.scale import pick, record

SIZES = [1 << bits for bits in range(16, 27)]  # 64 KiB to 64 MiB
PIECE = 20_000


def body_of(number):
    return bytes([number % 251]) * PIECE


def fill(path, map_bytes, count, *, first=0):
    """Commit so many pieces through a map of some size; those acknowledged, and the error, if any."""
    acked = []
    with Repo(LmdbBackend(path, map_bytes=map_bytes, sync="no_meta"), codec="bytes") as repo:
        work = repo.worktree()
        for number in range(first, first + count):
            work[f"{number}"] = number.to_bytes(4, "little") + body_of(number)
            try:
                work.commit(time=None)
            except StoreFullError as error:
                return acked, error
            acked.append(number)
    return acked, None


def missing(path, acked):
    with Repo(path, codec="bytes") as repo:
        found = repo.snapshot()
        wanted = {number: number.to_bytes(4, "little") + body_of(number) for number in acked}
        return [number for number, body in wanted.items() if found.get(f"{number}") != body]


@pytest.mark.parametrize("map_bytes", SIZES)
def test_a_map_of_any_size_grows_when_it_is_full(tmp_path, map_bytes):
    count = min(2 * map_bytes // PIECE, 150) + 60
    acked, error = fill(tmp_path / "store", map_bytes, count)
    assert error is None
    assert len(acked) == count
    assert missing(tmp_path / "store", acked) == []


@pytest.mark.parametrize("map_bytes", SIZES[:7])
def test_a_map_that_may_not_grow_says_so_and_keeps_what_it_has(tmp_path, monkeypatch, map_bytes):
    def refuse(self):
        raise StoreFullError("the map may not grow; nothing was stored")

    monkeypatch.setattr(SharedEnvironment, "grow", refuse)
    acked, error = fill(tmp_path / "store", map_bytes, 400)
    assert error is not None
    assert missing(tmp_path / "store", acked) == []
    monkeypatch.undo()
    more, error = fill(tmp_path / "store", map_bytes, 60, first=len(acked))
    assert error is None
    assert missing(tmp_path / "store", acked + more) == []


# --- while others read


def write(path, count, barrier):
    barrier.wait(PATIENCE_S)
    acked, error = fill(path, 1, count)
    assert error is None
    return acked


def read(path, count, barrier):
    """Read through a small map until all is there; how often the map had grown by then."""
    sizes = set()
    with Repo(LmdbBackend(path, map_bytes=1), codec="bytes") as repo:
        barrier.wait(PATIENCE_S)
        while len(sizes) < 2 or len(repo.snapshot()) < count:
            for number, body in ((int(key), value) for key, value in repo.snapshot().items()):
                assert body == number.to_bytes(4, "little") + body_of(number)
            sizes.add(repo.stats()["map_bytes"])
    return len(sizes)


def lose(path, count, barrier):
    """A library that takes a full map for a commit that is done."""
    SharedEnvironment.grow = lambda self: None
    LmdbBackend._write = _giving_up(LmdbBackend._write)
    return write(path, count, barrier)


def _giving_up(real):
    def write(self, action):
        try:
            return real(self, action)
        except kvgit.BackendError:
            return 0

    return write


def test_readers_follow_a_map_that_another_process_lets_grow(tmp_path):
    count = 150
    Repo(LmdbBackend(tmp_path / "store", map_bytes=1), codec="bytes").close()
    acked, *grown = run_all(
        call, [(write, tmp_path / "store", count)] + [(read, tmp_path / "store", count)] * 2
    )
    assert missing(tmp_path / "store", acked) == []
    assert min(grown) > 1


@pytest.mark.slow
def test_a_thousand_commits_through_growing_maps_are_all_there(tmp_path):
    count = pick(1_000, 10_000)
    path = tmp_path / "store"
    Repo(LmdbBackend(path, map_bytes=1), codec="bytes").close()
    acked, *grown = run_all(call, [(write, path, count)] + [(read, path, count)] * 2)
    lost = missing(path, acked)
    assert lost == []
    Repo(LmdbBackend(tmp_path / "lying", map_bytes=1), codec="bytes").close()
    try:
        told = run_all(lose, [(tmp_path / "lying", 200)])[0]
        control = len(missing(tmp_path / "lying", told))
    except kvgit.KvgitHamtError:
        control = 1
    assert control > 0
    record("E3", commits=len(acked), growths=max(grown), lost=len(lost), control_failed=control)
