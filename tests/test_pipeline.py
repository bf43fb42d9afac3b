"""Passes in order: facts, options, errors that name the pass and what came before."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

import lpcompile
from lpcompile.errors import ModelError, PassError, PassOptionError, PipelineError
from lpcompile.ir.facts import Fact
from lpcompile.ir.graph import LpGraph
from lpcompile.pipeline import Pass, PassContext, Pipeline
from lpcompile.records import PassReport
from tests.support import conv_bn_model, parse_model, random_feeds


@dataclass(frozen=True, slots=True)
class Note(Pass):
    """Does nothing but say so."""

    name: ClassVar[str] = "note"
    establishes: ClassVar[frozenset[Fact]] = frozenset({Fact.CANONICAL})

    word: str = "seen"
    times: int = 1
    share: float = 0.5
    loud: bool = False

    def __post_init__(self) -> None:
        if self.times < 1:
            raise ValueError(f"option 'times' is at least 1, not {self.times}")

    def run(self, graph: LpGraph, ctx: PassContext) -> PassReport:
        report = PassReport(self.name)
        report.change(graph.nodes()[0], self.word)
        return report


@dataclass(frozen=True, slots=True)
class Needs(Note):
    name: ClassVar[str] = "needs"
    requires: ClassVar[frozenset[Fact]] = frozenset({Fact.CANONICAL})
    establishes: ClassVar[frozenset[Fact]] = frozenset()
    invalidates: ClassVar[frozenset[Fact]] = frozenset({Fact.CANONICAL})


@dataclass(frozen=True, slots=True)
class Fails(Note):
    name: ClassVar[str] = "fails"
    error: ClassVar[Exception] = PassError("a promise was broken", where="node_1", hint="tell us")

    def run(self, graph: LpGraph, ctx: PassContext) -> PassReport:
        raise self.error


@dataclass(frozen=True, slots=True)
class Refuses(Fails):
    name: ClassVar[str] = "refuses"
    error: ClassVar[Exception] = ModelError("weights are NaN")


@dataclass(frozen=True, slots=True)
class Breaks(Note):
    name: ClassVar[str] = "breaks"

    def run(self, graph: LpGraph, ctx: PassContext) -> PassReport:
        graph.remove(graph.nodes("Conv")[0])  # its reader is left without a tensor
        return PassReport(self.name)


def graph() -> LpGraph:
    return LpGraph.from_proto(conv_bn_model())


def test_facts_are_established_and_invalidated_in_order() -> None:
    g, seen = graph(), []
    reports = Pipeline((Note(), Needs(word="again"))).run(
        g, PassContext(), lambda i, p, _, report: seen.append((i, p.name, len(report.changes)))
    )
    assert seen == [(0, "note", 1), (1, "needs", 1)]
    assert [r.changes[0].what for r in reports] == ["seen", "again"]
    assert all(r.seconds >= 0 for r in reports)
    assert Fact.CANONICAL not in g.facts


def test_an_order_that_cannot_work_fails_when_it_is_built() -> None:
    with pytest.raises(
        PipelineError, match="pass 'needs' requires 'canonical', which no earlier pass"
    ) as caught:
        Pipeline((Needs(),))
    assert caught.value.hint == "put 'canonicalize' before it, or use a recipe"
    assert caught.value.exit_code == 2
    with pytest.raises(PipelineError, match="requires"):
        Pipeline((Note(), Needs(), Needs()))  # the first one invalidates what the second needs
    Pipeline((Needs(),), given=frozenset({Fact.CANONICAL}))


def test_text_leaves_defaults_out_and_shows_the_rest() -> None:
    passes = (Note(), Note(times=3, loud=True, word="x"))
    assert Pipeline(passes).text == "note,note{word=x,times=3,loud=true}"


def test_options_from_text_and_from_values() -> None:
    assert Note.options() == {"word": "seen", "times": 1, "share": 0.5, "loud": False}
    wanted = Note(word="w", times=2, share=0.25, loud=True)
    assert Note.configured({"word": "w", "times": "2", "share": "0.25", "loud": "true"}) == wanted
    assert Note.configured({"word": "w", "times": 2, "share": 0.25, "loud": True}) == wanted


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"tims": "2"}, "pass 'note' has no option 'tims'", "its options are: word, times, share, loud"),
        ({"times": "2.5"}, "pass 'note': option 'times' takes a int, not '2.5'", "its default is times=1"),
        (
            {"share": "half"},
            "pass 'note': option 'share' takes a float, not 'half'",
            "its default is share=0.5",
        ),
        ({"loud": "yes"}, "pass 'note': option 'loud' takes a bool, not 'yes'", "its default is loud=false"),
        ({"times": "0"}, "pass 'note': option 'times' is at least 1, not 0", "see 'lpcompile passes note'"),
    ],
)
def test_wrong_options(options: dict[str, str], message: str, hint: str) -> None:
    with pytest.raises(PassOptionError) as caught:
        Note.configured(options)
    assert (caught.value.message, caught.value.hint) == (message, hint)
    assert caught.value.exit_code == 2


def test_a_broken_promise_names_the_pass_and_those_before() -> None:
    with pytest.raises(PassError) as caught:
        Pipeline((Note(), Fails())).run(graph(), PassContext())
    assert caught.value.message == "pass 'fails' (after note): a promise was broken"
    assert (caught.value.where, caught.value.hint) == ("node_1", "tell us")


def test_a_graph_left_broken_is_found_after_the_pass() -> None:
    with pytest.raises(PassError, match=r"pass 'breaks' \(after none\)"):
        Pipeline((Breaks(),)).run(graph(), PassContext())


def test_errors_about_the_input_pass_through_as_they_are() -> None:
    with pytest.raises(ModelError) as caught:
        Pipeline((Refuses(),)).run(graph(), PassContext())
    assert caught.value.message == "weights are NaN"


def test_a_pass_draws_the_same_numbers_whatever_ran_before() -> None:
    one, other = PassContext(seed=7), PassContext(seed=7)
    one.rng.normal(size=100)
    np.testing.assert_array_equal(one.rng.normal(size=4), other.rng.normal(size=4))
    assert PassContext(seed=8).rng.normal() != other.rng.normal()


@pytest.mark.parametrize(
    "last", ["quantize-activations", "quantize-activations,quantize-weights,quantize-activations"]
)
def test_layers_that_are_planned_and_not_rounded_are_named(last: str) -> None:
    model = parse_model("m (float[4,32] x) => (float[4,8] y) <float[32,8] w> { [head] y = MatMul (x, w) }")
    with pytest.raises(PipelineError, match="1 layers are planned and not rounded, as of 'head'") as caught:
        lpcompile.compile(model, calibration=[random_feeds(model, seed=0)], passes=f"fold-batchnorm,{last}")
    assert "quantize-weights" in str(caught.value.hint)
