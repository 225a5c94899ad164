"""The contract of a backend as tests.

Subclass it in a test module and say how your backend is opened::

    class TestMyBackend(BackendContract):
        @pytest.fixture
        def open_backend(self, tmp_path):
            return lambda: MyBackend(tmp_path / "store")

Each call of the function must open the same storage again. Storage that does not outlive its handle says
``is_persistent = False``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from kvgit_hamt.backend.base import Backend, Batch, Kind, RefUpdate, Touch
from kvgit_hamt.errors import BranchMovedError, ClosedError, CorruptionError, StaleBatchError
from kvgit_hamt.oid import oid_of
from kvgit_hamt.testing.collecting import CollectingContract
from kvgit_hamt.testing.steps import OpenBackend, contents, move, publish, record, run_threads
from kvgit_hamt.wire import place_of, seal, unseal


class BackendContract(CollectingContract):
    """What every backend must do; see the module for how to use it."""

    is_persistent = True

    @pytest.fixture
    def open_backend(self) -> OpenBackend:
        """How to open the storage under test, again and again."""
        raise NotImplementedError("give your test class a fixture open_backend")

    @pytest.fixture
    def backend(self, open_backend: OpenBackend) -> Iterator[Backend]:
        """An open, empty backend."""
        backend = open_backend()
        yield backend
        backend.close()

    # records

    def test_a_published_record_is_read_back_sealed(self, backend: Backend) -> None:
        new = record(b"payload")
        (loc,) = publish(backend, new)
        stored = backend.read(new.oid, loc)
        assert stored == seal(new.oid, new.body)
        assert unseal(new.oid, stored) == b"payload"

    def test_a_record_that_was_never_stored_reads_as_none(self, backend: Backend) -> None:
        loc = place_of(99) if backend.placed else b""
        assert backend.read(oid_of(b"nothing"), loc) is None

    @pytest.mark.parametrize("size", [0, 1, 2009, 2031, 4080, 4097, 1 << 20])
    def test_records_of_any_size_come_back_whole(self, backend: Backend, size: int) -> None:
        new = record(random.Random(size).randbytes(size))
        (loc,) = publish(backend, new)
        assert unseal(new.oid, backend.read(new.oid, loc)) == new.body

    def test_many_reads_keep_their_order_and_tell_what_is_missing(self, backend: Backend) -> None:
        new = [record(b"%d" % number) for number in range(300)]
        links = [(each.oid, loc) for each, loc in zip(new, publish(backend, *new), strict=True)]
        links.insert(7, (oid_of(b"nothing"), place_of(10**6) if backend.placed else b""))
        links.reverse()
        found = backend.read_many(links)
        assert found.pop(-8) is None
        links.pop(-8)
        assert [unseal(oid, stored) for (oid, _), stored in zip(links, found, strict=True)] == [
            each.body for each in reversed(new)
        ]
        assert backend.read_many([]) == []

    def test_iteration_yields_every_record_once_in_the_order_of_storing(self, backend: Backend) -> None:
        new = [record(b"%d" % number) for number in range(700)]
        locs = publish(backend, *new[:400]) + publish(backend, *new[400:])
        found = list(backend.iterate_records())
        names = locs if backend.placed else [each.oid for each in new]
        assert [name for name, _ in found] == names
        assert [stored for _, stored in found] == [seal(each.oid, each.body) for each in new]

    def test_records_may_be_stored_while_others_are_iterated(self, backend: Backend) -> None:
        publish(backend, *(record(b"%d" % number) for number in range(600)))
        seen = 0
        for number, _ in enumerate(backend.iterate_records()):
            if number % 200 == 0:
                publish(backend, record(b"late %d" % number))
            seen += 1
        assert seen >= 600

    # indexes

    def test_objects_are_found_under_their_kind_and_no_other(self, backend: Backend) -> None:
        kinds: list[Kind | None] = ["commit", "blob", "node", None]
        new = [record(str(kind).encode(), kind=kind) for kind in kinds]
        locs = publish(backend, *new)
        for each, loc in zip(new, locs, strict=True):
            for kind in ("commit", "blob", "node"):
                assert backend.find(kind, each.oid) == (loc if kind == each.kind else None)

    def test_a_blob_that_is_stored_again_stays_where_it_was(self, backend: Backend) -> None:
        new = record(b"blob", kind="blob")
        (first,) = publish(backend, new)
        publish(backend, record(b"other"), new)
        assert backend.find("blob", new.oid) == first
        assert unseal(new.oid, backend.read(new.oid, first)) == b"blob"

    def test_commits_are_found_by_the_start_of_their_id(self, backend: Backend) -> None:
        new = [record(b"%d" % number, kind="commit") for number in range(300)]
        publish(backend, *new, record(b"no commit", kind="blob"))
        oids = sorted(each.oid for each in new)
        for start in ("", "0", "f", oids[0].hex()[:5], oids[-1].hex()[:8], oids[150].hex()):
            fitting = [oid for oid in oids if oid.hex().startswith(start)]
            assert backend.find_abbreviated(start) == fitting[:2]
            assert backend.find_abbreviated(start, 1000) == fitting
        assert backend.find_abbreviated(oid_of(b"no commit").hex()) == []

    @pytest.mark.parametrize("start", ["xyz!", "12 3", "\n12", "0" * 65, "é"])
    def test_what_is_no_hex_is_the_start_of_no_commit(self, backend: Backend, start: str) -> None:
        publish(backend, record(b"c", kind="commit"))
        assert backend.find_abbreviated(start) == []

    # refs

    def test_a_ref_is_made_moved_and_deleted(self, backend: Backend) -> None:
        assert backend.get_ref("heads/main") is None
        for old, new in ((None, b"1"), (b"1", b"2"), (b"2", b""), (b"", None)):
            backend.publish(Batch(refs=[RefUpdate("heads/main", old, new, None)]))
            assert backend.get_ref("heads/main") == new

    @pytest.mark.parametrize("expected", [None, b"older", b""])
    def test_a_ref_that_moved_refuses_the_whole_batch(self, backend: Backend, expected: bytes | None) -> None:
        publish(backend, record(b"first"))
        move(backend, "heads/main", b"newer", b"log")
        before = contents(backend)
        batch = Batch(
            records=[record(b"lost", kind="commit")],
            base=backend.next_place(),
            refs=[RefUpdate("heads/a", None, b"1", b"log"), RefUpdate("heads/main", expected, b"2", b"log")],
            meta={"m": b"1"},
            touches=[Touch("main", b"k" * 16, 1)],
        )
        with pytest.raises(BranchMovedError) as caught:
            backend.publish(batch)
        assert (caught.value.name, caught.value.actual) == ("heads/main", b"newer")
        assert contents(backend) == before
        assert backend.find("commit", oid_of(b"lost")) is None

    def test_an_absent_ref_is_not_moved(self, backend: Backend) -> None:
        with pytest.raises(BranchMovedError) as caught:
            backend.publish(Batch(refs=[RefUpdate("heads/main", b"1", b"2", None)]))
        assert caught.value.actual is None
        assert backend.list_refs("") == []

    def test_refs_are_listed_by_prefix_in_order_of_their_bytes(self, backend: Backend) -> None:
        names = [
            "heads/a",
            "heads/a/b",
            "heads/ab",
            "heads/é",
            "heads/e\u0301",
            "heads/𝄞",
            "tags/a",
            "z" * 255,
        ]
        for name in names:
            move(backend, name, name.encode())
        expected = sorted(names, key=str.encode)
        assert backend.list_refs("") == [(name, name.encode()) for name in expected]
        assert [name for name, _ in backend.list_refs("heads/a")] == ["heads/a", "heads/a/b", "heads/ab"]
        assert [name for name, _ in backend.list_refs("tags/")] == ["tags/a"]
        assert backend.list_refs("none") == []

    def test_a_required_commit_that_is_gone_refuses_the_batch(self, backend: Backend) -> None:
        publish(backend, record(b"parent", kind="commit"), record(b"blob", kind="blob"))
        before = contents(backend)
        for missing in (oid_of(b"never"), oid_of(b"blob")):
            with pytest.raises(CorruptionError):
                backend.publish(
                    Batch(
                        records=[record(b"child")],
                        base=backend.next_place(),
                        refs=[RefUpdate("heads/main", None, b"1", None)],
                        required=[oid_of(b"parent"), missing],
                    )
                )
        assert contents(backend) == before
        backend.publish(Batch(refs=[RefUpdate("heads/main", None, b"1", None)], required=[oid_of(b"parent")]))
        assert backend.get_ref("heads/main") == b"1"

    def test_what_a_batch_relies_on_must_still_be_indexed_where_it_was(self, backend: Backend) -> None:
        kinds: list[Kind] = ["commit", "blob"]
        locs = publish(backend, *(record(kind.encode(), kind=kind) for kind in kinds))
        before = contents(backend)
        relied = [(kind, oid_of(kind.encode()), loc) for kind, loc in zip(kinds, locs, strict=True)]
        wrong: list[tuple[Kind, bytes, bytes]] = [("blob", oid_of(b"commit"), locs[0])]
        wrong.append(("commit", oid_of(b"never"), locs[0]))
        if backend.placed:
            wrong.append(("commit", oid_of(b"commit"), locs[1]))
        for each in wrong:
            with pytest.raises(StaleBatchError):
                backend.publish(
                    Batch(
                        [record(b"lost")],
                        backend.next_place(),
                        refs=[RefUpdate("heads/main", None, b"1", b"log")],
                        relied=[*relied, each],
                    )
                )
        assert contents(backend) == before
        backend.publish(Batch(refs=[RefUpdate("heads/main", None, b"1", None)], relied=relied))
        assert backend.get_ref("heads/main") == b"1"

    def test_a_commit_is_stored_once(self, backend: Backend) -> None:
        new = record(b"commit", kind="commit")
        (loc,) = publish(backend, new)
        if backend.placed:
            before = contents(backend)
            with pytest.raises(StaleBatchError):
                publish(backend, record(b"other"), new, refs=[RefUpdate("heads/main", None, b"1", None)])
            assert contents(backend) == before
        else:
            publish(backend, new)
        assert backend.find("commit", new.oid) == loc

    def test_nodes_of_earlier_batches_are_entered_with_the_last(self, backend: Backend) -> None:
        if not backend.placed:
            return  # no such batches there: a load is stored in one
        base = backend.reserve(3)
        node, last = record(b"node"), record(b"last", [base], "commit")
        backend.publish(Batch([node], base, is_reserved=True))
        assert backend.find("node", node.oid) is None
        moves = [RefUpdate("heads/main", None, b"1", None)]
        entries: list[tuple[Kind, bytes, bytes]] = [("node", node.oid, place_of(base))]
        backend.publish(Batch([last], base + 1, is_reserved=True, refs=moves, entries=entries))
        assert backend.find("node", node.oid) == place_of(base)

    # reflog and meta

    def test_the_reflog_is_read_newest_first_and_outlives_its_ref(self, backend: Backend) -> None:
        for number in range(20):
            move(backend, "heads/a", b"%d" % number, b"log %d" % number)
            move(backend, "heads/ab", b"%d" % number, b"other %d" % number)
        move(backend, "heads/a", None, b"deleted")
        move(backend, "heads/quiet", b"1")
        log = [b"deleted", *(b"log %d" % number for number in reversed(range(20)))]
        assert backend.read_reflog("heads/a") == log
        assert backend.read_reflog("heads/a", 3) == log[:3]
        assert backend.read_reflog("heads/a", 0) == []
        assert backend.read_reflog("heads/quiet") == []
        assert backend.read_reflog("heads") == []
        assert backend.reflog_names() == ["heads/a", "heads/ab"]

    def test_meta_values_are_kept_and_replaced(self, backend: Backend) -> None:
        assert backend.get_meta("config") is None
        backend.publish(Batch(meta={"config": b"1", "other": b""}))
        backend.publish(Batch(meta={"config": b"2"}))
        assert (backend.get_meta("config"), backend.get_meta("other")) == (b"2", b"")

    def test_touches_are_set_replaced_and_deleted_by_table(self, backend: Backend) -> None:
        one, two, three = (bytes([number]) * 16 for number in (1, 2, 3))
        assert backend.read_touches("a") == {}
        rows = [Touch("a", one, 1), Touch("a", two, 2**64 - 1), Touch("a/b", three, 3), Touch("é", one, 4)]
        backend.publish(Batch(touches=rows))
        assert backend.read_touches("a") == {one: 1, two: 2**64 - 1}
        assert backend.read_touches("a/b") == {three: 3}
        backend.publish(Batch(touches=[Touch("a", one, 5), Touch("a", two, None), Touch("a", three, None)]))
        assert backend.read_touches("a") == {one: 5}
        assert backend.read_touches("é") == {one: 4}

    def test_an_empty_batch_changes_nothing(self, backend: Backend) -> None:
        before = contents(backend)
        assert backend.publish(Batch()) == 0
        assert contents(backend) == before

    # places

    def test_a_batch_built_on_places_that_were_taken_is_moved(self, backend: Backend) -> None:
        base = backend.next_place()
        old = record(b"old")
        (old_loc,) = publish(backend, old)
        places = [int.from_bytes(old_loc, "little"), base] if backend.placed else []
        # Built as if it came next: its child is at `base`, it links to the child and to an older record.
        child, parent = record(b"child"), record(b"parent", places, "commit")
        moved = backend.publish(Batch(records=[child, parent], base=base if backend.placed else 0))
        assert moved == (1 if backend.placed else 0)
        if not backend.placed:
            return
        stored = backend.read(parent.oid, place_of(base + 2))
        # `base` itself is where the older record landed, so both links count as the batch's own.
        assert unseal(parent.oid, stored) == b"parent" + place_of(base + 1) + place_of(base + 1)
        assert backend.find("commit", parent.oid) == place_of(base + 2)

    def test_reserved_places_are_final_and_pending_until_the_refs(self, backend: Backend) -> None:
        if not backend.placed:
            assert (backend.reserve(10), backend.pending_floor()) == (0, None)
            return
        base = backend.reserve(10)
        assert backend.pending_floor() == base
        other = publish(backend, record(b"other"))
        assert other == [place_of(base + 10)]
        parts = [record(b"%d" % number, [base + max(0, number - 1)]) for number in range(4)]
        assert backend.publish(Batch(records=parts[:3], base=base, is_reserved=True)) == 0
        assert backend.pending_floor() == base
        last = Batch(parts[3:], base + 3, is_reserved=True, refs=[RefUpdate("heads/main", None, b"1", None)])
        assert backend.publish(last) == 0
        assert backend.pending_floor() is None
        links = [(each.oid, place_of(base + number)) for number, each in enumerate(parts)]
        for each, stored in zip(parts, backend.read_many(links), strict=True):
            assert unseal(each.oid, stored) == each.body
        assert backend.next_place() == base + 11

    def test_a_reservation_can_be_given_up(self, backend: Backend) -> None:
        first, second = backend.reserve(5), backend.reserve(5)
        backend.release(first)
        assert backend.pending_floor() == (second if backend.placed else None)
        backend.release(second)
        backend.release(second)
        assert backend.pending_floor() is None
        assert backend.next_place() == (second + 5 if backend.placed else 0)

    # threads and handles

    def test_concurrent_increments_of_a_ref_are_never_lost(self, backend: Backend) -> None:
        thread_count, each_count = 4, 25
        move(backend, "heads/n", b"0")
        faults: list[BaseException] = []

        def work(number: int) -> None:
            done = 0
            while done < each_count:
                old = backend.get_ref("heads/n") or b"0"
                new = record(b"%d %d" % (number, done), kind="blob")
                update = RefUpdate("heads/n", old, b"%d" % (int(old) + 1), old)
                try:
                    backend.publish(Batch(records=[new], base=backend.next_place(), refs=[update]))
                except BranchMovedError:
                    continue
                done += 1

        run_threads([lambda number=number: work(number) for number in range(thread_count)], faults)  # type: ignore[misc]
        assert not faults
        assert backend.get_ref("heads/n") == b"%d" % (thread_count * each_count)
        log = backend.read_reflog("heads/n")
        assert log == [b"%d" % number for number in reversed(range(thread_count * each_count))]
        for number in range(thread_count):
            for done in range(each_count):
                oid = oid_of(b"%d %d" % (number, done))
                loc = backend.find("blob", oid)
                assert loc is not None
                assert unseal(oid, backend.read(oid, loc)) == b"%d %d" % (number, done)

    def test_what_was_published_is_there_after_reopening(self, open_backend: OpenBackend) -> None:
        if not self.is_persistent:
            pytest.skip("storage that does not outlive its handle")
        first = open_backend()
        publish(first, record(b"a", kind="commit"), refs=[RefUpdate("heads/main", None, b"1", b"log")])
        first.publish(Batch(meta={"m": b"1"}))
        before = contents(first)
        second = open_backend()
        assert contents(second) == before
        first.close()
        assert contents(second) == before
        second.close()
        third = open_backend()
        assert contents(third) == before
        third.close()

    # counts and end

    def test_stats_count_the_records(self, backend: Backend) -> None:
        publish(backend, *(record(b"%d" % number) for number in range(12)))
        stats = backend.stats()
        assert stats["record_count"] == 12
        assert stats["file_bytes"] >= 0
        assert all(type(value) is int for value in stats.values())

    def test_a_closed_backend_says_so_and_closes_twice(self, backend: Backend) -> None:
        backend.close()
        backend.close()
        calls: list[Callable[[], object]] = [
            lambda: backend.read(oid_of(b""), place_of(1) if backend.placed else b""),
            lambda: backend.read_many([]),
            lambda: backend.find("blob", oid_of(b"")),
            lambda: backend.find_abbreviated("ab"),
            backend.next_place,
            lambda: backend.reserve(1),
            lambda: backend.publish(Batch(meta={"m": b""})),
            lambda: backend.get_ref("heads/main"),
            lambda: backend.list_refs(""),
            lambda: backend.read_reflog("heads/main"),
            backend.reflog_names,
            backend.pending_floor,
            lambda: backend.get_meta("m"),
            lambda: backend.read_touches("main"),
            lambda: list(backend.iterate_records()),
            backend.stats,
            backend.version,
            lambda: backend.list_index("blob", b"", 1),
            lambda: backend.list_records(b"", 1),
            lambda: backend.sweep(lambda sweep: None),
        ]
        for call in calls:
            with pytest.raises(ClosedError):
                call()

    # all of it

    @pytest.mark.parametrize("seed", range(3))
    def test_random_batches_agree_with_plain_dicts(self, backend: Backend, seed: int) -> None:
        rng = random.Random(seed)
        refs: dict[str, bytes] = {}
        stored: dict[bytes, bytes] = {}
        for _ in range(60):
            payloads = [rng.randbytes(rng.choice([5, 300, 3000])) for _ in range(rng.randrange(4))]
            updates = []
            for name in rng.sample(["heads/a", "heads/b", "tags/c"], rng.randrange(1, 3)):
                old = refs.get(name) if rng.random() < 0.8 else rng.randbytes(3)
                updates.append(RefUpdate(name, old, None if rng.random() < 0.2 else rng.randbytes(4), None))
            is_fit = all(refs.get(name) == old for name, old, _, _ in updates)
            base = backend.next_place() - (rng.randrange(2) if backend.placed else 0)
            batch = Batch([record(each, kind="blob") for each in payloads], base, refs=updates)
            if not is_fit:
                with pytest.raises(BranchMovedError):
                    backend.publish(batch)
                continue
            backend.publish(batch)
            stored |= {oid_of(each): each for each in payloads}
            for name, _, new, _ in updates:
                refs.pop(name, None)
                if new is not None:
                    refs[name] = new
        assert dict(backend.list_refs("")) == refs
        for oid, payload in stored.items():
            loc = backend.find("blob", oid)
            assert loc is not None
            assert unseal(oid, backend.read(oid, loc)) == payload
