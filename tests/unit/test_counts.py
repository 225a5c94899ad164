"""The script that writes the counts of the harnesses into docs/durability.md."""

from __future__ import annotations

import pytest

from tests.support import counts


def test_lines_of_one_harness_are_added_up_and_set_in_order_of_their_ids(tmp_path):
    path = tmp_path / "ci-counts.jsonl"
    path.write_text(
        '{"harness": "P10", "cuts": 1}\n'
        '{"harness": "K1", "kills": 1200, "violations": 0, "control_failed": true, "max_wait_s": 0.25}\n'
        '{"harness": "K1", "kills": 34, "violations": 0, "control_failed": false, "max_wait_s": 0.125}\n'
        '{"harness": "P2", "where": "ext4"}\n'
    )
    other = tmp_path / "soak-counts.jsonl"
    other.write_text('{"harness": "K1", "kills": 5, "min_left": 3}\n{"harness": "K1", "min_left": 4}\n')
    shown = counts.table({"ci": counts.read_counts(path), "soak": counts.read_counts(other)})
    assert shown.splitlines() == [
        "| id | ci | soak |",
        "|---|---|---|",
        "| K1 | kills 1,234, violations 0, control failed **no**, max wait s 0.25 | kills 5, min left 3 |",
        "| P2 | where ext4 | - |",
        "| P10 | cuts 1 | - |",
    ]


def test_only_what_stands_between_the_markers_is_replaced():
    document = f"one\n{counts.START}\nold\n{counts.END}\ntwo\n"
    assert counts.replace(document, "new") == f"one\n{counts.START}\n\nnew\n\n{counts.END}\ntwo\n"
    with pytest.raises(ValueError, match="lacks"):
        counts.replace("one two", "new")


def test_the_document_has_the_markers():
    assert counts.replace(counts.DOCUMENT.read_text(encoding="utf-8"), "x")
