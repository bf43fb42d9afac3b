"""Which layers stay float: by the times of layers, of the operators between them, and of the edges."""

from dataclasses import dataclass, field, replace

import pytest

from lpcompile.analysis.partition import float_layers
from lpcompile.analysis.regions import find_regions
from lpcompile.backends.ort.target import OrtTarget
from lpcompile.ir.graph import LpGraph
from lpcompile.target import LayerShape
from tests.support import parse_model


@dataclass(frozen=True)
class Times:
    """Integers save 1000 ns a layer; edges cost 10 ns."""

    elementwise: dict[str, float] = field(default_factory=dict)
    name: str = "test table"

    def layer_ns(self, layer: LayerShape, kernel: str) -> float | None:
        return {"float": 2000.0, "integer": 1000.0}.get(kernel)

    def elementwise_ns(self, op: str, elements: int, kernel: str) -> float | None:
        return self.elementwise.get(f"{op}.{kernel}")

    def quantize_ns(self, elements: int) -> float:
        return 10.0

    def pool_ns(self, elements: int) -> float:
        return 0.0


def floats(between: str, times: Times) -> int:
    """How many of the two convolutions around `between` (a -> b) stay float."""
    graph = LpGraph.from_proto(
        parse_model(f"""g (float[1,3,8,8] x) => (float[1,4,8,8] y) <float[4,3,1,1] v, float[4,4,1,1] w>
        {{ a = Conv (x, v)\n {between}\n y = Conv (b, w) }}""")
    )
    graph.infer_shapes()
    layers = graph.layers()
    return len(float_layers(graph, find_regions(graph, OrtTarget(), layers), layers, times))


DEAR = {"Tanh.float": 10.0, "Tanh.integer": 5000.0}


@pytest.mark.parametrize(
    ("times", "wanted"),
    [
        (Times(), 0),
        (Times(DEAR), 0),  # the operator alone goes to floats, at the price of two edges
        (Times({"Tanh.float": 10.0, "Tanh.integer": 20.0}), 0),
    ],
)
def test_layers_stay_integer_where_leaving_is_cheap_or_needless(times: Times, wanted: int) -> None:
    assert floats("b = Tanh (a)", times) == wanted


@dataclass(frozen=True)
class DearEdges(Times):
    """Leaving the integers costs what they save."""

    def quantize_ns(self, elements: int) -> float:
        return 1500.0


def test_an_operator_that_integers_are_slow_at_takes_its_layers_along() -> None:
    assert floats("b = Relu (a)", DearEdges()) == 2 - floats("b = Relu (a)", Times()) - 2 * (1500 * 2 < 2000)
    assert floats("b = Tanh (a)", DearEdges(DEAR)) == 2


def test_a_gate_of_its_own_input_is_free_with_floats() -> None:
    gate = "s = Sigmoid (a)\n b = Mul (a, s)"
    other = "s = Sigmoid (x)\n t = MaxPool <kernel_shape=[1,1]> (a)\n b = Mul (a, t)"
    times = DearEdges({"Mul.float": 5000.0, "Mul.integer": 5000.0, "Sigmoid.float": 0.0, "Sigmoid.integer": 0.0})
    assert floats(gate, times) == 2
    assert floats(other, times) <= floats(gate, times)


def test_groups_of_few_channels_are_slow_with_integers_and_dense_layers_are_fast() -> None:
    costs = OrtTarget().cost_model
    dense = LayerShape("Conv", 4, inputs=32 * 9, outputs=32, rows=144, group=1, kernel=(3, 3))
    grouped = replace(dense, inputs=4 * 9, group=8)

    def gain(layer: LayerShape) -> float:
        integer, as_float = costs.layer_ns(layer, "integer"), costs.layer_ns(layer, "float")
        assert integer is not None and as_float is not None
        return as_float / integer

    assert gain(dense) > 1.2
    assert gain(grouped) < 0.8
