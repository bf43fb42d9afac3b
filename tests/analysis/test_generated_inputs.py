"""Inputs drawn to match batch norms: the statistics that the first layer then shows."""

import numpy as np
import pytest

from lpcompile.analysis.generated_inputs import CALLS, fitted_noise, generated_calibration
from lpcompile.analysis.inputs import InputSpec
from lpcompile.ir.graph import LpGraph
from tests.support import parse_model, run_model

SIZE = 48


def spec(graph: LpGraph) -> list[InputSpec]:
    return [InputSpec(v.name, np.dtype(np.float32), v.shape) for v in graph.inputs]


def conv_model(mean: np.ndarray, var: np.ndarray, *, layout: str = "") -> LpGraph:
    x = f"float[1,{SIZE},{SIZE},3] x" if layout else f"float[1,3,{SIZE},{SIZE}] x"
    first = f"n = {layout} (x)" if layout else ""
    model = parse_model(f"""
        g ({x}) => (float[1,16,46,46] y, float[1,16,46,46] t)
        <float[16,3,3,3] w, float[16] b, float[16] scale, float[16] beta, float[16] mean, float[16] var> {{
            {first}
            t = Conv ({"n" if layout else "x"}, w, b)
            y = BatchNormalization (t, scale, beta, mean, var) }}""")
    for t in model.graph.initializer:
        if t.name in ("mean", "var"):
            t.CopyFrom(_tensor(t.name, mean if t.name == "mean" else var))
    return LpGraph.from_proto(model)


def _tensor(name: str, values: np.ndarray) -> object:
    from onnx import numpy_helper

    return numpy_helper.from_array(values.astype(np.float32), name)


def statistics(graph: LpGraph, inputs: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    values = np.concatenate([run_model(graph.to_proto(), {"x": x})["t"] for x in inputs])
    return values.mean((0, 2, 3)), values.var((0, 2, 3))


def smooth(seed: int, deviation: tuple[float, float, float]) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((1, 3, SIZE, SIZE))
    for axis in (2, 3):
        lines = np.moveaxis(x, axis, 0)
        for i in range(1, SIZE):
            lines[i] = 0.9 * lines[i - 1] + np.sqrt(0.19) * lines[i]
    wide = (1, 3, 1, 1)
    made = x * np.array(deviation).reshape(wide) + np.array([5.0, -2.0, 1.0]).reshape(wide)
    return np.asarray(made, np.float32)


@pytest.mark.parametrize("layout", ["", "Transpose <perm = [0, 3, 1, 2]>"])
def test_the_first_layer_sees_what_its_batch_norm_expects(layout: str) -> None:
    deviation = (3.0, 1.0, 2.0)
    blank = conv_model(np.zeros(16), np.ones(16))
    mean, var = statistics(blank, [smooth(i, deviation) for i in range(40)])
    graph = conv_model(mean, var, layout=layout)
    noise = fitted_noise(graph.inputs[0])
    assert noise is not None
    assert noise.correlation == 0.9
    assert noise.axis == (3 if layout else 1)
    np.testing.assert_allclose(noise.mean, [5.0, -2.0, 1.0], rtol=0.1, atol=0.3)
    np.testing.assert_allclose(noise.deviation, deviation, rtol=0.2)
    made = generated_calibration(graph, spec(graph), 0, {})
    assert len(made.calls) == CALLS
    found = statistics(graph, [c["x"] for c in made.calls])
    assert np.abs(found[0] - mean).max() < 0.25 * np.sqrt(var.max())
    np.testing.assert_allclose(found[1], var, rtol=0.5)


def test_plain_noise_where_there_is_no_batch_norm() -> None:
    text = "g (float[1,3,32,32] x) => (float[1,4,30,30] y) <float[4,3,3,3] w> { y = Conv (x, w) }"
    graph = LpGraph.from_proto(parse_model(text))
    assert fitted_noise(graph.inputs[0]) is None
    calls = [c["x"] for c in generated_calibration(graph, spec(graph), 0, {}).calls]
    neighbours = [float(np.corrcoef(x[..., 1:].ravel(), x[..., :-1].ravel())[0, 1]) for x in calls]
    assert min(neighbours) < 0.1
    assert max(neighbours) > 0.9
    again = [c["x"] for c in generated_calibration(graph, spec(graph), 0, {}).calls]
    other = [c["x"] for c in generated_calibration(graph, spec(graph), 1, {}).calls]
    assert all(np.array_equal(a, b) for a, b in zip(calls, again, strict=True))
    assert not np.array_equal(calls[0], other[0])


def test_matrix_products_and_integers() -> None:
    text = """g (float[1,8] x, int64[1,3] ids) => (float[1,12] y, int64[1,3] z)
        <float[8,12] w, float[12] b, float[12] scale, float[12] beta, float[12] mean, float[12] var> {
        t = Gemm (x, w, b)
        y = BatchNormalization (t, scale, beta, mean, var)
        z = Identity (ids) }"""
    graph = LpGraph.from_proto(parse_model(text, check=False))
    noise = fitted_noise(graph.inputs[0])
    assert noise is not None
    assert noise.deviation.shape == (8,)
    specs = [*spec(graph)[:1], InputSpec("ids", np.dtype(np.int64), (1, 3))]
    assert generated_calibration(graph, specs, 0, {}).calls[0]["ids"].dtype == np.int64
