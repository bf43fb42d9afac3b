"""Functions of one activation: against ONNX Runtime's float operators, and as tables."""

import math

import numpy as np
import pytest

from lpcompile.ir.forms import Form, form_of
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.unary import code_table, unary_function
from tests.support import parse_model, run_model

PLAIN = [
    *("Abs", "Ceil", "Cos", "Elu", "Erf", "Exp", "Floor", "HardSigmoid", "HardSwish", "LeakyRelu", "Log"),
    *("Neg", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign"),
    *("Sqrt", "Tanh"),
]
ODD = {
    "Celu": "y = Celu <alpha = 0.7> (x)",
    "Elu-alpha": "y = Elu <alpha = 0.3> (x)",
    "HardSigmoid-beta": "y = HardSigmoid <alpha = 0.1, beta = 0.2> (x)",
    "LeakyRelu-alpha": "y = LeakyRelu <alpha = 0.3> (x)",
    "ThresholdedRelu": "y = ThresholdedRelu <alpha = 0.5> (x)",
    "Clip": "y = Clip (x, c, d)",
    "PRelu": "y = PRelu (x, c)",
    **{op: f"y = {op} (x, d)" for op in ("Add", "Div", "Max", "Min", "Mul", "Pow", "Sub")},
    **{f"{op}-first": f"y = {op} (d, x)" for op in ("Div", "Pow", "Sub")},
}


def graph_of(node: str, opset: int = 17) -> LpGraph:
    constants = "float c = {-0.25}, float d = {1.5}"
    return LpGraph.from_proto(
        parse_model(f"g (float[1,1,97] x) => (float[1,1,97] y) <{constants}> {{ {node} }}", opset=opset)
    )


@pytest.mark.parametrize("node", [*(f"y = {op} (x)" for op in PLAIN), *ODD.values()])
def test_the_real_function_is_the_operator(node: str) -> None:
    graph = graph_of(node)
    function = unary_function(graph.nodes()[0])
    assert function is not None
    positive = any(op in node for op in ("Log", "Sqrt", "Reciprocal", "Pow", "Div (d"))
    x = np.linspace(0.1 if positive else -4, 4, 97)
    x = x[np.abs(x - np.rint(x)) > 0.01] if "Round" in node or "Ceil" in node or "Floor" in node else x
    feeds = {"x": np.resize(x, 97).astype(np.float32).reshape(1, 1, 97)}
    wanted = run_model(graph.to_proto(), feeds)["y"].astype(np.float64)
    np.testing.assert_allclose(function(feeds["x"].astype(np.float64)), wanted, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(("op", "opset"), [("Mish", 18), ("Gelu", 20)])
def test_later_operators(op: str, opset: int) -> None:
    function = unary_function(graph_of(f"y = {op} (x)", opset).nodes()[0])
    assert function is not None
    (found,) = function(np.array([1.0]))
    gelu, mish = 0.5 * (1 + math.erf(1 / math.sqrt(2))), math.tanh(math.log1p(math.e))
    assert found == pytest.approx({"Gelu": gelu, "Mish": mish}[op])


def test_gelu_by_tanh() -> None:
    function = unary_function(graph_of('y = Gelu <approximate = "tanh"> (x)', 20).nodes()[0])
    assert function is not None
    wanted = 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * 1.044715))
    assert function(np.array([1.0]))[0] == pytest.approx(wanted)


@pytest.mark.parametrize("node", ["y = Softmax (x)", "y = Add (x, x)", "y = MatMul (x, x)"])
def test_what_is_no_function_of_one_number(node: str) -> None:
    constants = "float[1,1,1,1] c"
    text = f"g (float[1,5,5] x) => (float[1,5,5] y) <{constants}> {{ {node} }}"
    assert unary_function(LpGraph.from_proto(parse_model(text)).nodes()[0]) is None


def test_a_number_that_gives_the_result_more_axes_does_not_count() -> None:
    text = "g (float[5] x) => (float[1,5] y) <float[1,1] c> { y = Mul (x, c) }"
    node = LpGraph.from_proto(parse_model(text)).nodes()[0]
    assert unary_function(node) is None
    assert form_of(node) is None


def test_tables_round_half_to_even_and_saturate() -> None:
    table = code_table(lambda x: x, (0.5, 0), (1.0, 10), 120)
    assert table[:6].tolist() == [10, 10, 11, 12, 12, 12]
    assert table.max() == 120
    assert code_table(np.negative, (1.0, 0), (1.0, 10), 255)[20] == 0


def test_where_there_is_no_value_the_code_is_that_of_zero() -> None:
    table = code_table(np.log, (1.0, 128), (0.1, 100), 255)
    assert table[0] == 100  # log(-128)
    assert table[128] == 0  # log(0)
    assert code_table(np.reciprocal, (1.0, 128), (0.1, 100), 255)[128] == 255


@pytest.mark.parametrize(
    ("node", "form"),
    [
        ("y = Reshape (x, s)", Form.MOVE),
        ("y = Relu (x)", Form.CLAMP),
        ("y = Clip (x, x0)", None),
        ("y = Add (x, x)", Form.SUM),
        ("y = Sub (x, x)", Form.SUM),
        ("y = Mul (x, x)", Form.PRODUCT),
        ("y = Div (x, x)", None),
        ("y = Max (x, x)", None),
        ("y = Add (x, one)", Form.TABLE),
        ("y = Add (x, channels)", Form.NORM),
        ("y = Add (x, whole)", None),
        ("y = AveragePool <kernel_shape=[1,1]> (x)", Form.POOL),
        ("y = Softmax (x)", None),
    ],
)
def test_forms(node: str, form: Form | None) -> None:
    constants = "int64[4] s = {1,4,3,3}, float one, float[4,1,1] channels, float[1,4,3,3] whole"
    text = f"g (float[1,4,3,3] x, float x0) => (float[1,4,3,3] y) <{constants}> {{ {node} }}"
    assert form_of(LpGraph.from_proto(parse_model(text)).nodes()[0]) == form
