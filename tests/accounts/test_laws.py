"""Laws that hold for every graph and plan. [notes pikelpn.md 6.11]."""

import itertools
from dataclasses import dataclass, replace
from fractions import Fraction
from random import Random

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto

from lpcompile.accounts.entries import COST_MODELS, Account
from lpcompile.accounts.graphs import float_account
from lpcompile.accounts.planned import planned_account
from lpcompile.analysis.arithmetic import Coefficients, Kind
from lpcompile.analysis.cost_classes import CLASSES
from lpcompile.assignment.requantisation import DYADIC, DYADIC8, FLOAT, POWER_OF_TWO, Requantisation
from lpcompile.errors import BudgetError
from lpcompile.ir.graph import LpGraph
from lpcompile.passes.fold_batchnorm import FoldBatchnorm
from lpcompile.pipeline import PassContext
from lpcompile.plan import Kernel
from tests.accounts.planned_networks import layer, plan
from tests.support import parse_model

CONVOLUTION, NORM, RELU, SIGMOID, SUM, SLOPE, POOL = range(7)
Step = tuple[int, int]  # what, and which earlier tensors


@dataclass(frozen=True)
class Network:
    """Nodes on tensors of one shape, each a step, the last one the output."""

    steps: tuple[Step, ...]

    @property
    def model(self) -> ModelProto:
        nodes, tensors = [], ["x"]
        for i, (what, which) in enumerate(self.steps):
            a, b, y = tensors[which % len(tensors)], tensors[-1], f"t{i}"
            text = {
                CONVOLUTION: f"Conv <pads = [1, 1, 1, 1]> ({a}, w)",
                NORM: f"BatchNormalization ({b}, scale, bias, mean, var)",
                RELU: f"Relu ({b})",
                SIGMOID: f"Sigmoid ({b})",
                SUM: f"Add ({a}, {b})",
                SLOPE: f"Mul ({b}, c)",
                POOL: f"MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> ({a})",
            }[what]
            nodes.append(f"[n{i}] {y} = {text}")
            tensors.append(y)
        outputs = ", ".join(f"float[1,4,6,6] {t}" for t in tensors[1:])
        return parse_model(
            f"""g (float[1,4,6,6] x) => ({outputs})
            <float[4,4,3,3] w, float[4] scale, float[4] bias, float[4] mean, float[4] var, float[4,1,1] c>
            {{ {"  ".join(nodes)} }}"""
        )

    @property
    def graph(self) -> LpGraph:
        graph = LpGraph.from_proto(self.model)
        graph.infer_shapes()
        return graph

    def planned(self, weights: str, activations: str, own: Requantisation) -> Account:
        """Everything on integers."""
        graph = self.graph
        convolutions = {n.name: layer(weights) for n in graph.nodes("Conv")}
        tensors = ["x", *(f"t{i}" for i in range(len(self.steps)))]
        others = tuple(n.name for n in graph.nodes() if n.name not in convolutions)
        graph.plan = plan(convolutions, dict.fromkeys(tensors, activations), others)
        return planned_account(graph, own, tables=True)


networks = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9)), min_size=1, max_size=8).map(
    lambda steps: Network(tuple(steps))
)
coefficients = st.builds(
    Coefficients,
    shift_coeff=st.sampled_from([0.5, 1.0, 2.0]),
    charge_accumulate=st.booleans(),
    wired_shift=st.booleans(),
    count_compare=st.booleans(),
)


@settings(max_examples=30, deadline=None)
@given(networks, coefficients)
def test_nodes_sum_to_the_total(network: Network, by: Coefficients) -> None:
    for account in (float_account(network.graph), network.planned("int4", "uint8", DYADIC)):
        assert not account.uncounted
        assert set(account.by_class()) == set(CLASSES)
        nodes = sum((Fraction(e.acev2(by)) for e in account.entries), Fraction(0))
        assert nodes == sum(map(Fraction, account.by_class(by).values())) == Fraction(account.acev2(by))
        assert account.energy45nm_pj == pytest.approx(sum(e.energy45nm_pj for e in account.entries))
        assert account.bytes == sum(e.bytes for e in account.entries) > 0


@settings(max_examples=30, deadline=None)
@given(networks, st.randoms(use_true_random=False))
def test_the_order_of_nodes_does_not_matter(network: Network, random: Random) -> None:
    model = network.model
    order, nodes, known = [], list(model.graph.node), {"x"} | {t.name for t in model.graph.initializer}
    while nodes:
        ready = [n for n in nodes if set(n.input) <= known]
        chosen = random.choice(ready)
        nodes.remove(chosen)
        order.append(chosen)
        known |= set(chosen.output)
    shuffled = onnx.ModelProto()
    shuffled.CopyFrom(model)
    del shuffled.graph.node[:]
    shuffled.graph.node.extend(order)
    graph = LpGraph.from_proto(shuffled)
    graph.infer_shapes()
    first, second = float_account(network.graph), float_account(graph)
    assert {e.node: e for e in first.entries} == {e.node: e for e in second.entries}
    assert first.by_class() == second.by_class()


WEIGHTS = ("int8", "int4", "int2")
ACTIVATIONS = ("uint16", "uint8", "uint4")
SCALES = (FLOAT, DYADIC, DYADIC8, POWER_OF_TWO)


@pytest.mark.thorough
@settings(max_examples=30, deadline=None)
@given(networks)
def test_it_never_rises_when_a_width_falls(network: Network) -> None:
    def falls(*accounts: Account) -> None:
        totals = [a.acev2() for a in accounts]
        assert totals == sorted(totals, reverse=True)
        energies = [a.energy45nm_pj for a in accounts]
        assert all(x >= y - 1e-9 for x, y in itertools.pairwise(energies))

    falls(*(network.planned(w, "uint8", DYADIC) for w in WEIGHTS))
    falls(*(network.planned("int8", a, DYADIC) for a in ACTIVATIONS))
    costs = [network.planned("int8", "uint8", s).acev2() for s in SCALES]
    assert costs == sorted(costs, reverse=True)  # a product becomes a shift at the end
    falls(network.planned("int8", "uint8", DYADIC), network.planned("pot4", "uint8", DYADIC))


@settings(max_examples=30, deadline=None)
@given(networks)
def test_it_is_never_below_ace_without_shifts(network: Network) -> None:
    for account in (float_account(network.graph), network.planned("int4", "uint4", POWER_OF_TWO)):
        kinds = {o.kind for e in account.entries for _, o in e.work}
        assert Kind.SHIFT_MAC not in kinds
        assert account.acev2() >= account.ace


@settings(max_examples=30, deadline=None)
@given(networks)
def test_it_never_rises_when_norms_are_folded(network: Network) -> None:
    model = network.model
    del model.graph.output[:-1]  # so that norms are behind one layer alone
    graph = LpGraph.from_proto(model)
    graph.infer_shapes()
    before = float_account(graph)
    FoldBatchnorm().run(graph, PassContext())
    assert float_account(graph).acev2() <= before.acev2()


def test_a_norm_that_is_folded_costs_its_bias() -> None:
    """Otherwise the law above could hold for networks without norms alone."""
    network = Network(((CONVOLUTION, 0), (NORM, 0)))
    model = network.model
    del model.graph.output[:-1]
    graph = LpGraph.from_proto(model)
    graph.infer_shapes()
    before = float_account(graph)
    FoldBatchnorm().run(graph, PassContext())
    assert before.acev2() - float_account(graph).acev2() == 144 * 1024


def test_options_of_the_set() -> None:
    account = Network(((CONVOLUTION, 0), (RELU, 0), (SUM, 0))).planned("pot4", "uint8", DYADIC)
    whole = account.acev2()
    macs, outputs = 144 * 36, 144
    assert account.acev2(Coefficients(shift_coeff=2)) - whole == macs * 8
    assert account.acev2(Coefficients(charge_accumulate=True)) - whole == macs * 32
    wired = 2 * outputs  # of the layer and of the sum
    assert account.acev2(Coefficients(wired_shift=False)) - whole == wired * 32
    without = account.acev2(Coefficients(count_compare=False))
    assert whole - without == account.by_class()["compare"] > 0
    assert account.elementwise_share(Coefficients(count_compare=False)) == account.elementwise_share()
    named = replace(Coefficients(), shift_coeff=0.6, wired_shift=False).name
    assert (Coefficients().name, named) == (
        "acev2/int-linear",
        "acev2/int-linear{shift-coeff=0.6,wired-shift=0}",
    )


def test_cost_models_by_name() -> None:
    account = Network(((CONVOLUTION, 0), (RELU, 0))).planned("int4", "uint8", FLOAT)
    assert list(COST_MODELS) == ["ace", "acev2/int-linear", "energy45nm", "bytes"]
    found = [account.total(name) for name in COST_MODELS]
    assert found == [account.ace, account.acev2(), account.energy45nm_pj, account.bytes]
    assert found[0] == 144 * 36 * 4 * 8
    with pytest.raises(BudgetError, match="no cost model is called 'acev2'"):
        account.total("acev2")


def test_nothing_to_count() -> None:
    assert Account().elementwise_share() == 0
    assert Account().acev2() == 0
    graph = Network(((RELU, 0),)).graph
    graph.plan = plan({"none": layer("int8", Kernel.INTEGER)}, {})
    assert planned_account(graph) == float_account(graph)
