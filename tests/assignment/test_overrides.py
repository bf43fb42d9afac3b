"""Formats by layer name."""

import pytest

from lpcompile.assignment.overrides import override_of, parse_overrides, unmatched
from lpcompile.errors import FormatError, PipelineError
from lpcompile.plan import WeightPlan


def test_the_first_rule_that_matches_the_whole_name_wins() -> None:
    rules = parse_overrides(["head.*=int8", "head1=nf4/group16", ".*=posit4"])
    found = override_of("head1", rules)
    assert found is not None
    assert (found.format, found.granularity) == ("int8", "")
    assert override_of("ahead", rules) is rules[2]


def test_a_rule_with_a_granularity_allows_that_one_only() -> None:
    (rule,) = parse_overrides(["a=nf4/group16"])
    assert rule.allows(WeightPlan("nf4", "group16"))
    assert not rule.allows(WeightPlan("nf4", "channel"))
    assert not rule.allows(WeightPlan("fixp4", "group16"))


@pytest.mark.parametrize("text", ["a", "=int8", "a=", "a=int8/foo", "(=int8"])
def test_what_cannot_be_read_is_named(text: str) -> None:
    with pytest.raises(PipelineError):
        parse_overrides([text])


def test_unknown_formats_are_named() -> None:
    with pytest.raises(FormatError, match="int99"):
        parse_overrides(["a=int99"])


def test_patterns_for_nobody_are_listed() -> None:
    assert unmatched(parse_overrides(["a=int8", "b=int8"]), ["a"]) == ["b"]
