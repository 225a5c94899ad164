"""Values as JSON come back as they were; text for people is on one line and controls nothing."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvgit_hamt.cli.values import bytes_text, dump_json, from_json, parse_json, quote, safe, show, to_json
from kvgit_hamt.codec import Undecoded

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.binary().map(Undecoded)
)
keys = (
    st.text(max_size=5)
    | st.integers(-5, 5)
    | st.binary(max_size=3)
    | st.sampled_from(["$bytes", "$map", "$x"])
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4)
)


def exactly(value):
    """A form that tells types apart."""
    if isinstance(value, dict):
        return dict, [(exactly(key), exactly(item)) for key, item in value.items()]
    if isinstance(value, list):
        return list, [exactly(item) for item in value]
    return type(value), repr(value)


@given(values)
def test_a_value_comes_back_from_its_json_line(value):
    line = dump_json(to_json(value))
    assert line.isprintable()
    assert exactly(from_json(json.loads(line))) == exactly(value)
    assert exactly(parse_json(line)) == exactly(value)


def test_a_nan_comes_back():
    assert math.isnan(parse_json(dump_json(to_json(float("nan")))))


@given(st.text())
def test_a_quoted_key_is_one_printable_line_and_unambiguous(key):
    shown = quote(key)
    assert shown.isprintable()
    assert shown
    assert json.loads(shown) == key if shown.startswith('"') else shown == key


@given(st.text())
def test_safe_text_keeps_lines_and_tabs_only(text):
    assert all(char.isprintable() or char in "\n\t" for char in safe(text))
    if text.isprintable():
        assert safe(text) == text


@given(values, st.integers(5, 80))
def test_a_value_is_shown_on_one_line_of_bounded_length(value, limit):
    shown = show(value, limit)
    assert shown.isprintable()
    assert len(shown) <= limit
    assert show(value).isprintable()


@pytest.mark.parametrize(
    "text",
    [
        '{"$bytes": "?"}', '{"$bytes": 1}', '{"$float": "1"}', '{"$map": {}}', '{"$map": [[1]]}',
        '{"$map": [[[], 1]]}', '{"$map": [[{"a": 1}, 1]]}', '{"$repr": "x"}', '{"$": 1}', "{", "", "Infinity",
        "[" * 10_000,
    ],
)  # fmt: skip
def test_what_is_no_value_is_refused(text):
    with pytest.raises(ValueError):
        parse_json(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1_000, "1.0 kB"), (999_960, "1.0 MB"), (1_100_000_000_000, "1.1 TB"),
     (5_000_000_000_000_000, "5,000.0 TB")],
)  # fmt: skip
def test_sizes(count, text):
    assert bytes_text(count) == text
