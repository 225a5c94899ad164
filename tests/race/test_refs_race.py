"""Refs under many processes: no increment is lost (L1), and every history is linearizable (L2)."""

from __future__ import annotations

import itertools
from collections import defaultdict

import pytest

from kvgit_hamt.backend.lmdb import LmdbBackend
from tests.support import linear_workers as workers
from tests.support.linear import Call, order_of, register
from tests.support.racers import run_all
from tests.support.scale import pick, record

PROCESSES = 4


# --- the checker itself


def history(*calls):
    return [Call(*call) for call in calls]


def test_a_history_in_one_order_is_explained():
    calls = history(
        (0, 1, ("cas", None, b"1"), True), (2, 3, ("get",), b"1"), (4, 5, ("cas", b"1", None), True)
    )
    assert order_of(calls, register, None) == calls


def test_calls_that_overlap_may_take_effect_in_either_order():
    late = Call(0, 9, ("cas", None, b"1"), True)
    for value in (None, b"1"):
        assert order_of([late, Call(1, 2, ("get",), value)], register, None) is not None


@pytest.mark.parametrize(
    "calls",
    [
        history((0, 1, ("cas", None, b"1"), True), (2, 3, ("get",), None)),  # a stale read
        history((0, 3, ("cas", None, b"1"), True), (1, 2, ("cas", None, b"2"), True)),  # both were first
        history((0, 1, ("cas", None, b"1"), False)),  # refused for nothing
        history((0, 1, ("get",), b"1"), (2, 3, ("cas", None, b"1"), True)),  # read before it was written
        history(
            (0, 9, ("cas", None, b"1"), True), (1, 2, ("get",), b"1"), (3, 4, ("get",), None)
        ),  # seen, then not
    ],
)
def test_a_history_that_no_order_explains_is_rejected(calls):
    assert order_of(calls, register, None) is None


def test_forty_calls_that_all_overlap_are_decided():
    chain = [Call(0, 99, ("cas", b"%d" % n if n else None, b"%d" % (n + 1)), True) for n in range(20)]
    reads = [Call(0, 99, ("get",), b"%d" % (n + 1)) for n in range(20)]
    assert order_of([*reads, *chain], register, None) is not None
    assert order_of([*reads, *chain[:-1]], register, None) is None


# --- L1


def increments(path, each, *, is_blind=False):
    """(acknowledged, final)."""
    LmdbBackend(path).close()
    acked = sum(run_all(workers.count_up, [(path, each, is_blind)] * PROCESSES))
    with LmdbBackend(path) as backend:
        return acked, int(backend.get_ref("heads/n"))


@pytest.mark.slow
def test_no_increment_of_four_processes_is_lost(tmp_path):
    acked, final = increments(tmp_path / "store", pick(500, 50_000))
    blind_acked, blind_final = increments(tmp_path / "blind", 300, is_blind=True)
    assert final == acked
    assert blind_final < blind_acked
    record("L1", increments=acked, lost=acked - final, control_failed=blind_acked - blind_final)


# --- L2


def histories_of(path, count, *, is_blind=False, each=10):
    """The calls of each history, by ref, all in one clock."""
    LmdbBackend(path).close()
    arguments = [(path, seed, (count, each), is_blind) for seed in range(PROCESSES)]
    for calls in zip(*run_all(workers.call_at_random, arguments), strict=True):
        by_ref = defaultdict(list)
        for name, call in (pair for mine in calls for pair in mine):
            by_ref[name].append(call)
        yield by_ref


def verdicts(path, count, **options):
    """(histories, those that are not linearizable, those in which calls overlapped, calls).

    A history of several objects is linearizable if that of each object is (Herlihy and Wing), so each ref is
    looked at for itself.
    """
    bad = overlapping = calls = 0
    for by_ref in histories_of(path, count, **options):
        bad += any(order_of(each, register, None) is None for each in by_ref.values())
        ordered = sorted((call for each in by_ref.values() for call in each), key=lambda call: call.start)
        overlapping += any(one.end > other.start for one, other in itertools.pairwise(ordered))
        calls += len(ordered)
    return bad, overlapping, calls


@pytest.mark.slow
def test_every_history_of_calls_on_refs_is_linearizable(tmp_path):
    count = pick(500, 20_000)
    bad, overlapping, calls = verdicts(tmp_path / "store", count)
    control, _, _ = verdicts(tmp_path / "blind", 50, is_blind=True)
    assert bad == 0
    assert overlapping > count // 2
    assert control > 0
    record(
        "L2", histories=count, calls=calls, overlapping=overlapping, violations=bad, control_failed=control
    )


def test_a_few_histories_are_linearizable_and_those_of_blind_puts_are_not(tmp_path):
    assert verdicts(tmp_path / "store", 20)[0] == 0
    assert verdicts(tmp_path / "blind", 40, is_blind=True)[0] > 0
