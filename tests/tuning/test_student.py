"""The student graph: gradients against central differences, statistics of the batch against numpy."""

import numpy as np
import pytest

from lpcompile.formats.base import resolve
from lpcompile.ir.graph import LpGraph
from lpcompile.quant.fit import fit
from lpcompile.quant.rows import to_rows
from lpcompile.runtime.execution import observer
from lpcompile.tuning.estimators import Estimator
from lpcompile.tuning.parameters import TunedLayer, TunedNorm
from lpcompile.tuning.student import Student, make_student, parameter_feeds
from lpcompile.tuning.targets import compared
from tests.support import Array, parse_model

TEXT = """m (float[N,3,6,6] x) => (float[N,2] y)
<float[4,3,3,3] w, float[4] b, float[4] scale, float[4] beta, float[4] mean, float[4] var, float[4,2] v> {
    c = Conv (x, w, b)
    n = BatchNormalization (c, scale, beta, mean, var)
    p = GlobalAveragePool (n)
    f = Flatten (p)
    y = MatMul (f, v)
}"""


def student(batchnorm: str) -> tuple[Student, list[TunedLayer], list[TunedNorm]]:
    graph = LpGraph.from_proto(parse_model(TEXT))
    graph.infer_shapes()
    layers = []
    for node in graph.layers():
        weight = node.inputs[1]
        assert weight is not None
        tensor = fit(to_rows(node.op, weight.values), resolve("int8"))
        bias = None if node.op == "MatMul" else np.zeros(len(tensor.codes), np.float32)
        layers.append(TunedLayer(node, tensor, Estimator("ste"), bias=bias))
    norms = [TunedNorm(n, running=batchnorm == "batch") for n in graph.nodes("BatchNormalization")]
    return make_student(graph, layers, norms, compared(graph, "mse"), [0.1]), layers, norms


def feeds_of(made: Student, layers: list[TunedLayer], norms: list[TunedNorm]) -> dict[str, Array]:
    rng = np.random.default_rng(3)
    trained: list[TunedLayer | TunedNorm] = [*layers, *norms]
    values = {k: a for t in trained for k, a in t.start().items()}
    data = {"x": rng.normal(size=(5, 3, 6, 6)), made.targets[0]: rng.normal(size=(5, 2))}
    return {**parameter_feeds(made, trained, values), **{k: a.astype(np.float32) for k, a in data.items()}}


@pytest.mark.parametrize("batchnorm", ["frozen", "batch"])
def test_gradients_are_those_of_central_differences(batchnorm: str) -> None:
    made, layers, norms = student(batchnorm)
    run = observer(made.trained, [made.loss, *made.gradients.values()], threads=1)
    feeds = feeds_of(made, layers, norms)
    found = run(feeds)
    assert {role for _, role in made.gradients} == {"weight", "bias", "scale"}
    for key, tensor in made.gradients.items():
        name = made.inputs[key]
        at = np.unravel_index(int(np.abs(found[tensor]).argmax()), found[tensor].shape)
        losses = []
        for sign in (1, -1):
            moved = feeds[name].copy()
            moved[at] += np.float32(sign * 0.02)
            losses.append(float(run({**feeds, name: moved})[made.loss]))
        assert (losses[0] - losses[1]) / 0.04 == pytest.approx(
            float(found[tensor][at]), rel=0.02, abs=2e-4
        ), key


def test_statistics_of_the_batch_are_given_and_used() -> None:
    made, layers, norms = student("batch")
    ((mean, variance),) = made.statistics.values()
    (pool,) = made.trained.nodes("GlobalAveragePool")
    run = observer(made.trained, [mean, variance, "c", pool.input_names[0]], threads=1)
    feeds = feeds_of(made, layers, norms)
    found = run(feeds)
    c = found["c"].astype(np.float64)
    np.testing.assert_allclose(found[mean].reshape(-1), c.mean((0, 2, 3)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found[variance].reshape(-1), c.var((0, 2, 3)), rtol=1e-4)
    xhat = (c - c.mean((0, 2, 3), keepdims=True)) / np.sqrt(c.var((0, 2, 3), keepdims=True) + 1e-5)
    name = norms[0].name
    scale, bias = (feeds[made.inputs[name, role]].reshape(1, -1, 1, 1) for role in ("scale", "bias"))
    np.testing.assert_allclose(found[pool.input_names[0]], xhat * scale + bias, rtol=1e-3, atol=1e-4)


def test_the_judged_graph_uses_the_stored_statistics() -> None:
    frozen, running = student("frozen"), student("batch")
    losses = [
        float(observer(made.judged, [made.loss], threads=1)(feeds_of(made, layers, norms))[made.loss])
        for made, layers, norms in (frozen, running)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
