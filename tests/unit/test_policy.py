"""Most specific rule first; call over worktree over repo where equally specific."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvgit_hamt.errors import InvalidInputError, KeyTypeError
from kvgit_hamt.policy import DELETE, EMPTY_POLICY, OURS, THEIRS, MergeChoice, MergePolicy, Standing


def takes_new(old, ours, theirs):
    return theirs


def takes_sum(old, ours, theirs):
    return ours + theirs


keys = st.text("ab/", max_size=6)
rules = st.sampled_from([OURS, THEIRS, DELETE, takes_new, takes_sum])
policies = st.builds(
    MergePolicy,
    st.dictionaries(keys, rules, max_size=4),
    st.dictionaries(keys, rules, max_size=4),
    st.none() | rules,
)


def test_an_exact_key_goes_before_the_longest_prefix_before_the_default():
    policy = MergePolicy({"a/b/c": OURS}, {"a/": THEIRS, "a/b/": takes_sum}, takes_new)
    assert policy.rule_for("a/b/c") is OURS
    assert policy.rule_for("a/b/d") is takes_sum
    assert policy.rule_for("a/x") is THEIRS
    assert policy.rule_for("b") is takes_new


def test_no_rule_is_none():
    assert MergePolicy({"a": OURS}).rule_for("b") is None
    assert EMPTY_POLICY.rule_for("") is None


def test_a_key_is_covered_by_a_prefix_equal_to_itself_but_not_by_a_longer_one():
    policy = MergePolicy(prefixes={"abc": OURS, "ab": THEIRS})
    assert policy.rule_for("ab") is THEIRS
    assert policy.rule_for("abc") is OURS
    assert policy.rule_for("a") is None


def test_a_more_specific_rule_of_a_lower_layer_goes_before_a_less_specific_one_of_a_higher():
    repo = MergePolicy({"a/b": takes_sum}, {"a/": OURS}, DELETE)
    call = MergePolicy({}, {"a/": THEIRS}, takes_new)
    joint = call.over(repo)
    assert joint.rule_for("a/b") is takes_sum
    assert joint.rule_for("a/c") is THEIRS
    assert joint.rule_for("z") is takes_new


@given(policies, keys)
def test_rule_for_agrees_with_a_plain_search(policy, key):
    expected = policy.default
    for length in range(len(key) + 1):
        expected = policy.prefixes.get(key[:length], expected)
    assert policy.rule_for(key) is policy.fns.get(key, expected)


@given(policies, policies, policies)
def test_layering_is_associative_and_the_empty_policy_is_neutral(a, b, c):
    assert a.over(b).over(c) == a.over(b.over(c))
    assert a.over(EMPTY_POLICY) == a == EMPTY_POLICY.over(a)


@given(policies, policies, keys)
def test_a_layer_on_top_decides_where_equally_specific(upper, lower, key):
    joint = upper.over(lower)
    if key in upper.fns:
        assert joint.rule_for(key) is upper.fns[key]
    elif key in lower.fns:
        assert joint.rule_for(key) is lower.fns[key]
    assert joint.rule_for(key) in (upper.rule_for(key), lower.rule_for(key))


def test_of_gives_the_empty_policy_itself_when_nothing_was_said():
    assert MergePolicy.of() is EMPTY_POLICY
    assert not EMPTY_POLICY
    assert MergePolicy.of(default=OURS) == MergePolicy(default=OURS)
    assert MergePolicy.of({"a": OURS}, {"b": THEIRS}) == MergePolicy({"a": OURS}, {"b": THEIRS})


def test_a_standing_prefix_names_its_exceptions():
    policy = MergePolicy(
        {"a/x": takes_sum, "b": OURS},
        {"a/": OURS, "a/same/": OURS, "a/other/": THEIRS, "c/": takes_new, "d/": DELETE},
    )
    assert policy.standing_prefixes() == [
        Standing("a/", OURS, ("a/x",), ("a/other/",)),
        Standing("a/other/", THEIRS, (), ()),
    ]
    assert [standing.is_whole for standing in policy.standing_prefixes()] == [False, True]


def test_standing_for_asks_prefixes_only():
    policy = MergePolicy({"a/x": OURS}, {"a/": THEIRS, "b/": DELETE, "c/": takes_new}, default=OURS)
    assert policy.standing_for("a/x") is None
    assert policy.standing_for("a/y") is THEIRS
    assert policy.standing_for("b/y") is policy.standing_for("c/y") is policy.standing_for("z") is None


@given(policies, keys)
def test_a_whole_standing_prefix_speaks_for_every_key_beneath_it(policy, key):
    listed = [standing for standing in policy.standing_prefixes() if key.startswith(standing.prefix)]
    for standing in listed:
        if standing.is_whole:
            assert policy.standing_for(key) is standing.choice is policy.rule_for(key)
    if policy.standing_for(key) is not None:
        assert listed[-1].choice is policy.standing_for(key)


@pytest.mark.parametrize("field", ["fns", "prefixes"])
def test_a_key_that_is_no_str_is_refused_when_the_policy_is_made(field):
    with pytest.raises(KeyTypeError, match="int"):
        MergePolicy(**{field: {1: OURS}})


@pytest.mark.parametrize("rule", ["theirs", 5, None, int, lambda old, ours: ours, lambda a, b, c, d: a])
def test_a_rule_that_cannot_be_asked_is_refused_and_named(rule):
    with pytest.raises(InvalidInputError, match=r"merge_fns\['k'\]"):
        MergePolicy({"k": rule})


def test_the_factory_instead_of_its_function_is_refused():
    def counter():
        return takes_sum

    with pytest.raises(InvalidInputError, match="call it"):
        MergePolicy(default=counter)


@pytest.mark.parametrize("rule", [max, lambda *sides: sides[0], lambda a, b, c, d=1: a, MergeChoice.DELETE])
def test_anything_that_takes_three_arguments_is_a_rule(rule):
    assert MergePolicy(default=rule).rule_for("k") is rule


def test_rules_that_are_no_mapping_are_refused():
    with pytest.raises(InvalidInputError, match="merge_prefixes"):
        MergePolicy(prefixes=[("a", OURS)])


def test_a_policy_does_not_change_with_the_dicts_it_was_made_of():
    fns = {"a": OURS}
    policy = MergePolicy(fns)
    fns["a"] = THEIRS
    assert policy.rule_for("a") is OURS
    with pytest.raises(TypeError):
        policy.fns["a"] = THEIRS
