"""Random and mutated bytes through every function of both kernels: ``python -m tests.fuzz.fuzz_kernels``.

Results must be equal wherever the plain kernel defines one; on any other bytes the compiled one may
only return or raise one of REFUSALS. A crash is what AddressSanitizer is for: docs/design/003 says how
to build and run under it. The seed of a failing round is printed; ``--seed N --rounds 1`` repeats it.
"""

from __future__ import annotations

import argparse
import random
import sys
import time

from kvgit_hamt import kernel, node, run
from kvgit_hamt.descent import Tree
from kvgit_hamt.path import Shape
from tests.fuzz.fuzz_edits import batch_round, edit_round
from tests.fuzz.fuzz_stores import store_round
from tests.support.kernels import BOTH, PLAIN, Maker, NodeWriter, comparable, counts, harmless, same

LEAF_READERS = (
    "leaf_keys", "leaf_items", "leaf_inline_items", "leaf_stats", "leaf_payload_length",
)  # fmt: skip
INNER_READERS = ("inner_stats", "inner_children", "segments_of")


def leaf_round(maker: Maker, shape: Shape) -> None:
    """One leaf and its mutations, through all that reads leaves."""
    rng = maker.rng
    one, two = (maker.leaf(shape, rng.choice([0, 1, 2, 5, 20, 60])) for _ in range(2))
    changes = run.make_run(shape, maker.changes(rng.randrange(12), rng.random() < 0.2, True))
    same("splice", shape, one, changes, 0, len(changes.hi))
    unplaced = [leaf for leaf in (one, two) if not leaf[2] & node.KINDS]
    same("leaf_join", unplaced)
    same("run_of_leaf", shape, one)
    same("leaf_diff", one, two)
    for data in (one, maker.mutated(one), maker.mutated(one), rng.randbytes(rng.randrange(90))):
        for name in LEAF_READERS:
            same(name, data)
        harmless("leaf_texts", data)
        for key in [maker.key(), *_keys(one, rng)]:
            same("leaf_find", data, rng.randrange(256), key)
            same("leaf_find", data, shape.hash(key) & 255, key)
        harmless("splice", shape, data, changes, 0, len(changes.hi))
        same("run_of_leaf", shape, data)
        harmless("leaf_join", [one, data])
        harmless("leaf_diff", data, two)
        harmless("leaf_diff", two, data)


def _keys(leaf: bytes, rng: random.Random) -> list[bytes]:
    keys = node.leaf_keys(leaf)
    return rng.sample(keys, min(3, len(keys)))


def inner_round(maker: Maker) -> None:
    """An inner node and its mutations, through all that reads inner nodes."""
    rng = maker.rng
    bits = rng.choice([2, 4, 6])
    one, two = maker.inner(bits), maker.inner(bits)
    same("uneven_runs", one, two)
    same("uneven_runs", one, one)
    shape = Shape(bits=bits)
    changes = run.make_run(shape, maker.changes(rng.randrange(40), False, True))
    same("touched", shape, one, changes, (0, len(changes.hi)), 0)
    for data in (one, maker.mutated(one), maker.mutated(one), rng.randbytes(rng.randrange(90))):
        is_sound = same("is_sound_inner", data)
        call = same if is_sound else harmless
        for name in INNER_READERS:
            call(name, data)
        for slot in range(1 << data[2] if is_sound else 70):
            call("inner_step", data, slot)
        harmless("inner_step", data, rng.choice([-1, 64, 2**30]))
        harmless("uneven_runs", data, one)
        harmless("uneven_runs", one, data)
        harmless("touched", shape, data, changes, (0, len(changes.hi)), rng.choice([0, 1, 5, 30]))
        segments = node.segments_of(one)
        chosen = [s for s in segments if s.entry_count and rng.random() < 0.3]
        swapped = [(s._replace(entry_count=s.entry_count + 1, size=9), (b"\7" * 32, s.loc)) for s in chosen]
        harmless("inner_replace", data, swapped)
        if data is one:
            same("inner_replace", data, swapped)
            same("inner_pack", segments, [(s.oid, s.loc) for s in segments if s.entry_count])
        harmless("inner_pack", segments[: rng.randrange(9)], [(b"\1" * rng.choice([31, 32]), b"")] * 70)


def run_round(maker: Maker, shape: Shape) -> None:
    """Runs built, planted, looked up, and looked up again with a node exchanged."""
    rng = maker.rng
    changes = maker.changes(rng.choice([0, 1, 9, 80, 300]), rng.random() < 0.3, False)
    whole = run.make_run(shape, changes)
    same("make_run", shape, changes)
    other = run.make_run(shape, maker.changes(30, rng.random() < 0.3, True))
    spans = []
    for each in (whole, other):
        i = rng.randrange(len(each.hi) + 1)
        spans.append(run.Piece(each, i, rng.randrange(i, len(each.hi) + 1)))
    # blobs of two runs either all have locations or none has
    if not (whole.locs or other.locs):
        same(
            "flatten",
            run.Pieces(tuple(piece for piece in spans if piece.j > piece.i)),
            shape,
            rng.random() < 0.5,
        )
    is_placed = rng.random() < 0.5
    writers = {name: NodeWriter(is_placed) for name in BOTH}
    span = (0, len(whole.hi))
    planted = {
        name: comparable(BOTH[name]["plant"](writer, shape, whole, span, 0, (0, shape.slots)))
        for name, writer in writers.items()
    }
    counts["plant"] += 1
    if planted["plain"] != planted["compiled"] or writers["plain"].log != writers["compiled"].log:
        raise AssertionError(f"plant differs: {changes!r}")
    writer = writers["plain"]
    (top,) = PLAIN["plant"](writer, shape, whole, span, -1, (0, 1)) or [None]
    oid, loc = (top.oid, top.loc) if top.oid else writer.put_leaf(top.body or node.EMPTY_LEAF)
    tree = Tree(oid, loc)
    keys = [maker.key() for _ in range(8)] + [key for key, _ in changes[:8]]
    for key in keys:
        same("get", writer, shape, tree, key)
    same("get_many", writer, shape, tree, keys)
    for victim in rng.sample(list(writer.bodies), min(2, len(writer.bodies))):
        writer.bodies[victim] = maker.mutated(writer.bodies[victim])
    for key in keys:
        harmless("get", writer, shape, tree, key)
    harmless("get_many", writer, shape, tree, keys)


def key_round(maker: Maker) -> None:
    """Paths, and records with their checks."""
    rng = maker.rng
    for key in (maker.key(), rng.randbytes(rng.randrange(40)), rng.randbytes(5).replace(b"a", b"/")):
        same("path_of", key)
    oid, record = rng.randbytes(32), rng.randbytes(rng.choice([0, 3, 8, 40, 300]))
    same("unseal", oid, None)
    same("unseal", oid, record)


def fuzz_once(seed: int) -> None:
    """One round; everything in it follows from the seed."""
    maker = Maker(random.Random(seed))
    shape = maker.shape()
    key_round(maker)
    leaf_round(maker, shape)
    inner_round(maker)
    batch_round(maker, shape)
    if seed % 4 == 0 or kernel.NAME != "compiled":  # the others go through modules that use what was chosen
        run_round(maker, shape)
    elif seed % 4 == 1:
        edit_round(maker, shape)
    else:
        store_round(maker, shape)


def main(argv: list[str] | None = None) -> int:
    """Run rounds until the time or the number is reached; 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.fuzz_kernels")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rounds", type=int, default=sys.maxsize)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    if "compiled" not in BOTH:
        print("the compiled kernel was not built")
        return 2
    start = time.monotonic()
    done = 0
    while done < options.rounds and time.monotonic() - start < options.seconds:
        try:
            fuzz_once(options.seed + done)
        except Exception:
            print(f"round {options.seed + done} failed")
            raise
        done += 1
    spent = time.monotonic() - start
    calls = sum(count for name, count in counts.items() if name != "refused")
    print(
        f"{done:,} rounds, {calls:,} calls of {len(counts) - 1} functions,"
        f" {counts['refused']:,} refused, {spent:.0f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
