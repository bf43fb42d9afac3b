"""A metric of one patched session against models that were built anew."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from lpcompile.ir.graph import LpGraph
from lpcompile.runtime.layer_metric import metric_drops
from lpcompile.runtime.metric import Metric
from tests.support import Array, parse_model, random_feeds

NETWORK = """
    network (float[N,8,10,10] x) => (float[N,5] y, float[N,16] z)
    <float[16,8,3,3] w, float[16] b, float[16,1,3,3] d, float[16,5] v, float[5] c, float[5,5] m> {
        [first] t = Conv <pads = [1, 1, 1, 1]> (x, w, b)
        r = Relu (t)
        [second] u = Conv <group = 16> (r, d)
        p = GlobalAveragePool (u)
        z = Flatten (p)
        [third] g = Gemm (z, v, c)
        [fourth] y = MatMul (g, m)
    }"""
WEIGHTS = {"first": "w", "second": "d", "third": "v", "fourth": "m"}
MODEL = parse_model(NETWORK)


def score(session: ort.InferenceSession) -> float:
    """Of both outputs, which the session still has."""
    assert [o.name for o in session.get_outputs()] == ["y", "z"]
    total = sum(
        float(sum(np.square(a).sum() for a in session.run(None, random_feeds(MODEL, seed=seed))))
        for seed in range(3)
    )
    return -total


def rebuilt(name: str, array: Array) -> onnx.ModelProto:
    model = parse_model(NETWORK)
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, name))
    return model


@pytest.mark.parametrize("smaller", [False, True])
def test_drops_are_those_of_models_built_anew(smaller: bool) -> None:
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in MODEL.graph.initializer}
    rng = np.random.default_rng(0)
    given = {
        layer: (constants[w] + rng.normal(0, 0.1, constants[w].shape)).astype(np.float32)
        for layer, w in WEIGHTS.items()
    }

    def measure(session: ort.InferenceSession) -> float:
        return -score(session) if smaller else score(session)

    measure.smaller_is_better = smaller  # type: ignore[attr-defined]
    metric, steps = Metric("mine:measure", measure), list[tuple[int, int]]()
    reference, drops = metric_drops(
        metric, LpGraph.from_proto(MODEL), given, threads=1, progress=lambda *step: steps.append(step)
    )
    plain = metric.of_model(MODEL, threads=1)
    assert reference == pytest.approx(plain, rel=1e-5)
    assert list(drops) == list(WEIGHTS)
    for layer, weight in WEIGHTS.items():
        wanted = metric.drop(plain, metric.of_model(rebuilt(weight, given[layer]), threads=1))
        assert drops[layer] == pytest.approx(wanted, rel=1e-3, abs=1e-4 * abs(plain))
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
