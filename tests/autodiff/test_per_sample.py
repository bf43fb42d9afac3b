"""Gradients of weights as rows, one a sample, against the rule's own gradient of every sample alone."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto

from lpcompile.autodiff.per_sample import add_weight_gradients
from lpcompile.autodiff.reverse import add_gradients
from lpcompile.errors import GradientError
from lpcompile.ir.graph import LpGraph
from lpcompile.quant.rows import to_rows
from tests.support import parse_model, run_model

Array = NDArray[Any]
N = 3
LAYERS = {
    "Conv": ("[4]", "[5,4,3,3]", "pads=[1,1,1,1], strides=[2,2]", ",6,5"),
    "pointwise Conv": ("[4]", "[5,4,1,1]", "", ",6,5"),
    "grouped Conv": ("[4]", "[6,2,3,3]", "group=2", ",6,5"),
    "depthwise Conv": ("[4]", "[4,1,3,3]", "group=4, pads=[1,1,1,1]", ",6,5"),
    "multiplied Conv": ("[2]", "[6,1,3,3]", "group=2", ",6,5"),
    "filter bank Conv": ("[3]", "[5,3,4,20]", "pads=[1,3,0,2], strides=[1,5], dilations=[2,1]", ",9,43"),
    "ConvTranspose": ("[4]", "[4,3,3,3]", "strides=[2,2], pads=[1,1,0,1]", ",4,5"),
    "Gemm": ("[4]", "[4,5]", "alpha=0.5", ""),
    "turned Gemm": ("[4]", "[5,4]", "transB=1", ""),
    "MatMul": ("[7]", "[4,5]", "", ",4"),
    "deep MatMul": ("[2]", "[4,5]", "", ",3,4"),
    "flat MatMul": ("[4]", "[4,5]", "", ""),
}


def layer_model(name: str) -> ModelProto:
    channels, w, attrs, rest = LAYERS[name]
    op = name.rpartition(" ")[2]
    rank = 2 + rest.count(",")
    out = ",".join("ABCD"[: rank - 1])
    options = f"<{attrs}>" if attrs else ""
    return parse_model(
        f"net (float[{N},{channels[1:-1]}{rest}] x) => (float[M,{out}] y) <float{w} w> "
        f"{{ t = {op} {options} (x, w)  made = Mul (t, t)  y = Identity (made) }}",  # names that a body must not take
        check=False,
    )


def weight_gradients(
    model: ModelProto,
    feeds: Mapping[str, Array],
    seed: Array,
    per_sample: bool,
    rows: list[int] | None = None,
) -> tuple[Array, Array]:
    graph = LpGraph.from_proto(model)
    graph.infer_shapes()
    layers = graph.layers()
    found = add_weight_gradients(
        graph,
        {"y": graph.constant("seed", seed)},
        layers,
        per_sample=per_sample,
        rows=None if rows is None else {layers[0].name: rows},
        batch=N,
    )
    gradient = found[layers[0].name]
    graph.add_output(gradient.weight)
    graph.add_output(gradient.bias)
    results = run_model(graph.to_proto(), feeds)
    return results[gradient.weight.name], results[gradient.bias.name]


def sample_gradient(name: str, feeds: Mapping[str, Array], seed: Array, sample: int) -> Array:
    """Rows of the gradient when only one sample counts."""
    graph = LpGraph.from_proto(layer_model(name))
    graph.infer_shapes()
    alone = np.zeros_like(seed)
    alone[sample] = seed[sample]
    found = add_gradients(graph, {"y": graph.constant("seed", alone)}, ["w"])["w"]
    assert found is not None
    graph.add_output(found)
    gradient = run_model(graph.to_proto(), feeds)[found.name]
    op = name.rpartition(" ")[2]
    return to_rows("Conv" if "turned" in name else op, gradient)


@pytest.mark.parametrize("name", LAYERS)
def test_one_gradient_a_sample(name: str) -> None:
    model = layer_model(name)
    rng = np.random.default_rng(0)
    feeds = {"x": rng.normal(size=[d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim])}
    feeds = {"x": feeds["x"].astype(np.float32)}
    y = run_model(model, feeds)["y"]
    seed = rng.normal(size=y.shape).astype(np.float32)
    weight, bias = weight_gradients(model, feeds, seed, True)
    expected = np.stack([sample_gradient(name, feeds, seed, i) for i in range(N)])
    np.testing.assert_allclose(weight, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    total, total_bias = weight_gradients(model, feeds, seed, False)
    np.testing.assert_allclose(total, expected.sum(0), rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_allclose(total_bias, bias.sum(0), rtol=1e-4, atol=1e-4)
    channel = y.ndim - 1 if name.endswith(("Gemm", "MatMul")) else 1
    delta = 2 * seed * np.sqrt(y) * np.sign(layer_output(model, feeds))
    if "alpha" in LAYERS[name][2]:
        delta *= 0.5
    positions = tuple(a for a in range(1, y.ndim) if a != channel)
    np.testing.assert_allclose(bias, delta.sum(positions), rtol=1e-3, atol=1e-3)


def layer_output(model: ModelProto, feeds: Mapping[str, Array]) -> Array:
    graph = LpGraph.from_proto(model)
    graph.infer_shapes()
    graph.add_output(graph.value("t"))
    output: Array = run_model(graph.to_proto(), feeds)["t"]
    return output


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("per_sample", [True, False])
def test_some_rows_alone(name: str, per_sample: bool) -> None:
    model = layer_model(name)
    rng = np.random.default_rng(0)
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    feeds = {"x": rng.normal(size=shape).astype(np.float32)}
    seed = rng.normal(size=run_model(model, feeds)["y"].shape).astype(np.float32)
    every, bias = weight_gradients(model, feeds, seed, per_sample)
    some, some_bias = weight_gradients(model, feeds, seed, per_sample, [3, 1])
    np.testing.assert_allclose(some, every[..., [3, 1], :], rtol=1e-4, atol=1e-4)
    if name != "ConvTranspose":
        np.testing.assert_allclose(some_bias, bias[..., [3, 1]], rtol=1e-4, atol=1e-4)


def test_a_matrix_whose_rows_are_no_samples_is_refused_by_name() -> None:
    model = parse_model(
        "net (float[N,3,4] x, int64[2] s) => (float[M,5] y) <float[4,5] w> "
        "{ t = Reshape (x, s)  y = MatMul (t, w) }",
        check=False,
    )
    graph = LpGraph.from_proto(model)
    graph.infer_shapes()
    layers = graph.layers()
    seed = graph.constant("seed", np.ones((6, 5), np.float32))
    with pytest.raises(GradientError, match="cannot be shown to be the batch") as caught:
        add_weight_gradients(graph, {"y": seed}, layers, per_sample=True, batch="N")
    assert caught.value.where == layers[0].name
