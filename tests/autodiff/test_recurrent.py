"""RNN, GRU and LSTM: what is differentiated is what ONNX Runtime computes; gradients against differences."""

import numpy as np
import onnx
import pytest

from lpcompile.autodiff.builder import GradientBuilder
from lpcompile.autodiff.rules.recurrent import unrolled
from lpcompile.errors import GradientError
from lpcompile.ir.graph import LpGraph
from tests.autodiff.agreement import assert_gradients
from tests.support import parse_model, random_feeds, run_model

T, B, D, H = 3, 2, 3, 2
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
CASES = [
    ("RNN", "forward", ""),
    ("RNN", "reverse", ', activations=["Relu"]'),
    (
        "RNN",
        "bidirectional",
        ', activations=["Tanh", "ScaledTanh"], activation_alpha=[0.8], activation_beta=[0.7]',
    ),
    ("GRU", "forward", ""),
    ("GRU", "forward", ", linear_before_reset=1"),
    ("GRU", "bidirectional", ", linear_before_reset=1"),
    ("LSTM", "forward", ""),
    ("LSTM", "reverse", ""),
    ("LSTM", "bidirectional", ", clip=0.5"),
    ("LSTM", "forward", ", input_forget=1"),
    ("LSTM", "forward", ', activations=["HardSigmoid", "Softsign", "Affine"], activation_alpha=[0.3, 2.0]'),
]


def layer(op: str, direction: str, attrs: str, *, state: bool, steps: object = T) -> str:
    ways, g = 1 + (direction == "bidirectional"), GATES[op]
    names = "x, w, r, b" + (", , h" + (", c, p" if op == "LSTM" else "") if state else "")
    held = f"double[{ways},{g * H},{D}] w, double[{ways},{g * H},{H}] r, double[{ways},{2 * g * H}] b"
    if state:
        held += f", double[{ways},{B},{H}] h"
        held += f", double[{ways},{B},{H}] c, double[{ways},{3 * H}] p" if op == "LSTM" else ""
    outs = f"double[{T},{ways},{B},{H}] y, double[{ways},{B},{H}] yh"
    last = "y, yh" + (", yc" if op == "LSTM" else "")
    outs += f", double[{ways},{B},{H}] yc" if op == "LSTM" else ""
    text = f"net (double[{steps},{B},{D}] x) => ({outs}) <{held}> "
    return text + f'{{ {last} = {op} <hidden_size={H}, direction="{direction}"{attrs}> ({names}) }}'


@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize(("op", "direction", "attrs"), CASES)
def test_the_unrolled_layer_computes_the_same(op: str, direction: str, attrs: str, state: bool) -> None:
    model = parse_model(layer(op, direction, attrs, state=state).replace("double", "float"), check=False)
    graph = LpGraph.from_proto(model)
    graph.infer_shapes()
    (node,) = graph.nodes(op)
    inputs = [*node.inputs, *[None] * (8 - len(node.inputs))]
    ours = unrolled(GradientBuilder(graph), node, inputs, T)
    for value in ours:
        graph.add_output(value)
    found = run_model(graph.to_proto(), random_feeds(model))
    for value, name in zip(ours, node.output_names, strict=False):
        np.testing.assert_allclose(found[value.name], found[name], rtol=1e-4, atol=1e-5)


@pytest.mark.sweep
@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize(
    ("op", "direction"),
    [("RNN", "forward"), ("GRU", "forward"), ("LSTM", "forward"), ("LSTM", "bidirectional")],
)
def test_gradients_of_a_recurrent_layer(op: str, direction: str, state: bool) -> None:
    attrs = ", linear_before_reset=1" if op == "GRU" else ""
    wanted = ["x", "w", "r", "b"] + ((["h", "c", "p"] if op == "LSTM" else ["h"]) if state else [])
    text = layer(op, direction, attrs, state=state)
    assert_gradients(text, wanted)


def test_batch_first() -> None:
    model = parse_model(
        f"net (float[{B},{T},{D}] x) => (float[{B},{T},1,{H}] y, float[{B},1,{H}] yh, float[{B},1,{H}] yc) "
        f"<float[1,{4 * H},{D}] w, float[1,{4 * H},{H}] r, float[{B},1,{H}] h, float[{B},1,{H}] c> "
        f"{{ y, yh, yc = LSTM <hidden_size={H}, layout=1> (x, w, r, , , h, c) }}",
        check=False,
    )
    feeds = random_feeds(model)
    graph = LpGraph.from_proto(model)
    graph.infer_shapes()
    (node,) = graph.nodes("LSTM")
    ours = unrolled(GradientBuilder(graph), node, [*node.inputs, None], T)
    graph.remove(node)
    for value in ours:
        graph.add_output(value)
    proto = graph.to_proto()
    del proto.graph.output[:3]
    found = run_model(proto, feeds)
    plain = parse_model(layer("LSTM", "forward", "", state=False).replace("double", "float"), check=False)
    del plain.graph.initializer[:]
    weights = {n: graph.value(n).values for n in ("w", "r")}
    held = {**weights, "b": np.zeros((1, 8 * H), np.float32)}
    plain.graph.initializer.extend(onnx.numpy_helper.from_array(v, n) for n, v in held.items())
    for name in ("h", "c"):
        plain.graph.initializer.append(
            onnx.numpy_helper.from_array(graph.value(name).values.swapaxes(0, 1).copy(), name)
        )
    plain.graph.node[0].input[:] = ["x", "w", "r", "b", "", "h", "c"]
    expected = run_model(plain, {"x": feeds["x"].swapaxes(0, 1)})
    y, yh, yc = (found[v.name] for v in ours)
    np.testing.assert_allclose(y, expected["y"].transpose(2, 0, 1, 3), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(yh, expected["yh"].swapaxes(0, 1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(yc, expected["yc"].swapaxes(0, 1), rtol=1e-4, atol=1e-5)


def test_a_state_that_comes_from_the_data_gets_its_gradient_once() -> None:
    assert_gradients(
        f"net (double[{T},{B},{D}] x, double[1,{B},{H}] s) => (double[{T},1,{B},{H}] y, double[1,{B},{H}] yh) "
        f"<double[1,{H},{D}] w, double[1,{H},{H}] r, double[1,{2 * H}] b> "
        f"{{ h = Mul (s, s)  y, yh = RNN <hidden_size={H}> (x, w, r, b, , h) }}",
        ["x", "s", "r"],
    )


def test_an_unknown_sequence_length_is_refused_by_name() -> None:
    with pytest.raises(GradientError, match="sequence length of GRU"):
        assert_gradients(
            layer("GRU", "forward", "", state=False, steps="S"),
            ["x"],
            {"x": np.ones((T, B, D))},
        )


def test_a_long_sequence_is_refused_by_name() -> None:
    with pytest.raises(GradientError, match="GRU of 600 steps is too long"):
        assert_gradients(
            layer("GRU", "forward", "", state=False, steps=600), ["x"], {"x": np.ones((600, B, D))}
        )
