"""The part of the contract that garbage collection asks of a backend."""

from __future__ import annotations

import threading

import pytest

from kvgit_hamt.backend.base import Backend, Batch, Kind, RefUpdate, Sweep
from kvgit_hamt.errors import BranchMovedError
from kvgit_hamt.oid import oid_of
from kvgit_hamt.testing.steps import contents, move, paged, publish, record, run_threads
from kvgit_hamt.wire import place_of, seal, unseal


class CollectingContract:
    """Versions, listings and sweeps. See ``backends.BackendContract``, which has these tests too."""

    def test_the_version_grows_with_whatever_is_written(self, backend: Backend) -> None:
        seen = [backend.version()]

        def note() -> None:
            seen.append(backend.version())
            assert backend.version() == seen[-1]

        publish(backend, record(b"a", kind="commit"))
        note()
        move(backend, "heads/main", b"1", b"log")
        note()
        backend.publish(Batch(meta={"m": b"1"}))
        note()
        result, after = backend.sweep(lambda sweep: sweep.version)
        assert result == seen[-1]
        note()
        assert after == seen[-1]
        with pytest.raises(BranchMovedError):
            backend.publish(Batch(refs=[RefUpdate("heads/main", None, b"2", None)]))
        assert backend.version() >= after
        assert sorted(set(seen)) == seen

    def test_an_index_is_listed_in_order_and_in_parts(self, backend: Backend) -> None:
        new = [record(b"%d" % number, kind="commit") for number in range(50)]
        locs = publish(backend, *new, record(b"blob", kind="blob"), record(b"none"))
        links = sorted((each.oid, loc) for each, loc in zip(new, locs, strict=False))
        assert backend.list_index("commit", b"", 100) == links
        assert paged(lambda after: backend.list_index("commit", after, 7)) == links
        assert [oid for oid, _ in backend.list_index("blob", b"", 100)] == [oid_of(b"blob")]
        assert backend.list_index("node", b"", 100) == []
        assert backend.list_index("commit", b"\xff" * 32, 5) == []

    def test_records_are_listed_in_order_and_in_parts_with_their_sizes(self, backend: Backend) -> None:
        new = [record(b"x" * number) for number in range(50)]
        locs = publish(backend, *new)
        names = locs if backend.placed else sorted(each.oid for each in new)
        sizes = {
            (loc or each.oid): len(seal(each.oid, each.body)) for each, loc in zip(new, locs, strict=True)
        }
        found = backend.list_records(b"", 100)
        assert found == [(name, sizes[name]) for name in names]
        assert paged(lambda after: backend.list_records(after, 7)) == found
        assert backend.list_records(found[-1][0], 5) == []

    def test_a_sweep_deletes_records_and_index_entries(self, backend: Backend) -> None:
        kinds: list[Kind] = ["commit", "blob"]
        new = [record(b"%d" % number, kind=kinds[number % 2]) for number in range(20)]
        locs = publish(backend, *new)
        gone = list(zip(new, locs, strict=True))[5:9]

        def action(sweep: Sweep) -> list[bool]:
            for each, loc in gone:
                assert each.kind is not None
                sweep.delete_index(each.kind, each.oid, loc)
            missing = place_of(10**6) if backend.placed else oid_of(b"never")
            return [
                *(sweep.delete_record(loc or each.oid) for each, loc in gone),
                sweep.delete_record(missing),
            ]

        assert backend.sweep(action)[0] == [True] * 4 + [False]
        assert backend.stats()["record_count"] == 16
        for number, (each, loc) in enumerate(zip(new, locs, strict=True)):
            is_gone = 5 <= number < 9
            assert (backend.read(each.oid, loc) is None) == is_gone
            assert each.kind is not None
            assert (backend.find(each.kind, each.oid) is None) == is_gone
        commits = [each.oid for number, each in enumerate(new) if number % 2 == 0 and not 5 <= number < 9]
        assert backend.find_abbreviated("", 100) == sorted(commits)

    def test_an_entry_that_names_another_place_stays(self, backend: Backend) -> None:
        new = record(b"blob", kind="blob")
        (loc,) = publish(backend, new)
        if backend.placed:
            backend.sweep(lambda sweep: sweep.delete_index("blob", new.oid, place_of(10**6)))
            assert backend.find("blob", new.oid) == loc

    def test_what_was_swept_can_be_stored_again(self, backend: Backend) -> None:
        new = record(b"blob", kind="blob")
        (loc,) = publish(backend, new)
        backend.sweep(lambda sweep: sweep.delete_index("blob", new.oid, loc))
        backend.sweep(lambda sweep: sweep.delete_record(loc or new.oid))
        (again,) = publish(backend, new)
        assert backend.find("blob", new.oid) == again
        assert unseal(new.oid, backend.read(new.oid, again)) == b"blob"
        assert (again != loc) == backend.placed

    @pytest.mark.parametrize("keep", [0, 1, 3, 5, 9])
    def test_a_sweep_trims_a_reflog_to_its_newest_entries(self, backend: Backend, keep: int) -> None:
        for number in range(5):
            move(backend, "heads/a", b"%d" % number, b"log %d" % number)
            move(backend, "heads/ab", b"%d" % number, b"other %d" % number)
        backend.sweep(lambda sweep: sweep.trim_reflog("heads/a", keep))
        assert backend.read_reflog("heads/a") == [b"log %d" % number for number in (4, 3, 2, 1, 0)][:keep]
        assert len(backend.read_reflog("heads/ab")) == 5
        assert backend.reflog_names() == (["heads/a", "heads/ab"] if keep else ["heads/ab"])
        assert backend.get_ref("heads/a") == b"4"
        move(backend, "heads/a", b"5", b"log 5")
        assert backend.read_reflog("heads/a", 1) == [b"log 5"]
        assert len(backend.read_reflog("heads/a")) == min(keep, 5) + 1

    def test_a_sweep_that_raises_deletes_nothing(self, backend: Backend) -> None:
        new = record(b"a", kind="commit")
        (loc,) = publish(backend, new)
        move(backend, "heads/main", b"1", b"log")
        before = contents(backend)

        def action(sweep: Sweep) -> None:
            sweep.delete_index("commit", new.oid, loc)
            sweep.delete_record(loc or new.oid)
            sweep.trim_reflog("heads/main", 0)
            raise KeyError("stop")

        with pytest.raises(KeyError):
            backend.sweep(action)
        assert contents(backend) == before
        assert backend.find("commit", new.oid) == loc

    def test_the_action_of_a_sweep_may_read(self, backend: Backend) -> None:
        new = record(b"a", kind="commit")
        (loc,) = publish(backend, new)
        found, _ = backend.sweep(lambda sweep: (backend.read(new.oid, loc), backend.list_refs("")))
        assert found == (seal(new.oid, new.body), [])

    def test_nobody_publishes_during_a_sweep(self, backend: Backend) -> None:
        began = threading.Event()
        faults: list[BaseException] = []
        seen: list[object] = []

        def action(sweep: Sweep) -> None:
            began.set()
            for _ in range(20):
                seen.append(backend.get_ref("heads/main"))
                threading.Event().wait(0.002)

        def other() -> None:
            began.wait(60)
            move(backend, "heads/main", b"1")

        def collect() -> None:
            backend.sweep(action)

        run_threads([collect, other], faults)
        assert not faults
        assert set(seen[:20]) == {None}
        assert backend.get_ref("heads/main") == b"1"
