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
    """Integers save 1000 ns a layer, two of which pay for the edges around them."""

    elementwise: dict[str, float] = field(default_factory=dict)
    edge_ns: float = 800.0
    integer_of_three_ns: float = 1000.0
    name: str = "test table"

    def layer_ns(self, layer: LayerShape, kernel: str) -> float | None:
        integer = self.integer_of_three_ns if layer.inputs == 3 else 1000.0
        return {"float": 2000.0, "integer": integer}.get(kernel)

    def few_rows_ns(self, layer: LayerShape, kernel: str) -> float | None:
        return None

    def elementwise_ns(self, op: str, elements: int, kernel: str) -> float | None:
        return self.elementwise.get(f"{op}.{kernel}")

    def quantize_ns(self, elements: int) -> float:
        return self.edge_ns

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


@pytest.mark.parametrize("between", ["b = Relu (a)", "b = Tanh (a)"])
def test_layers_that_gain_stay_integer_where_the_table_knows_no_operators(between: str) -> None:
    assert floats(between, Times()) == 0
    assert floats(between, Times(DEAR, edge_ns=10.0)) == 0  # a dear operator can go to floats alone


def test_an_operator_that_integers_are_slow_at_takes_its_layers_along() -> None:
    assert floats("b = Tanh (a)", Times(DEAR)) == 2
    assert floats("b = Elu (a)", Times(DEAR)) == 0


def test_operators_run_on_integers_only_behind_layers_that_do() -> None:
    """The first layer would be faster as floats, were its results quantised for the operator alone."""
    gated = {"LeakyRelu.float": 5000.0, "LeakyRelu.integer": 10.0}
    slow = Times(gated, edge_ns=100.0, integer_of_three_ns=2500.0)
    assert floats("b = LeakyRelu (a)", slow) == 0
    assert floats("b = LeakyRelu (a)", replace(slow, elementwise={})) == 1


@pytest.mark.parametrize(("gate", "wanted"), [("Sigmoid", 2), ("HardSigmoid", 2), ("Tanh", 0)])
def test_a_gate_of_its_own_input_is_free_with_floats(gate: str, wanted: int) -> None:
    times = Times({"Mul.float": 1000.0, "Mul.integer": 1000.0})
    assert floats(f"s = {gate} (a)\n b = Mul (a, s)", times) == wanted


def test_groups_of_few_channels_are_slow_with_integers_and_dense_layers_are_fast() -> None:
    costs = OrtTarget().cost_model
    dense = LayerShape("Conv", 4, inputs=32 * 9, outputs=32, rows=144, group=1, kernel=(3, 3))
    grouped = replace(dense, inputs=4 * 9, group=8)

    def gain(layer: LayerShape) -> float:
        integer, as_float = costs.layer_ns(layer, "integer"), costs.layer_ns(layer, "float")
        assert integer is not None
        assert as_float is not None
        return as_float / integer

    assert gain(dense) > 1.2
    assert gain(grouped) < 0.8
