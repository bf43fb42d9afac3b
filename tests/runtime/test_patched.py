"""Weights exchanged in a loaded model."""

import numpy as np
import pytest

from lpcompile.errors import InputError
from lpcompile.ir.graph import LpGraph
from lpcompile.runtime.patched import PatchedModel, ReloadedModel, open_patched
from tests.support import Array, parse_model, random_feeds, run_model

NETWORK = """
    network (float[N,8,10,10] x) => (float[N,5] y)
    <float[16,8,3,3] w, float[16] b, float[16,1,3,3] d, float[16,5] v, float[5] c, float[5,5] m> {
        t = Conv <pads = [1, 1, 1, 1]> (x, w, b)
        r = Relu (t)
        u = Conv <group = 16> (r, d)
        p = GlobalAveragePool (u)
        f = Flatten (p)
        g = Gemm (f, v, c)
        y = MatMul (g, m)
    }"""


KINDS = pytest.mark.parametrize("kind", [PatchedModel, ReloadedModel])
Kind = type[PatchedModel] | type[ReloadedModel]


def rebuilt(name: str, array: Array, feeds: dict[str, Array]) -> Array:
    model = parse_model(NETWORK)
    import onnx

    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, name))
    return np.asarray(run_model(model, feeds)["y"])


@KINDS
def test_a_patched_layer_gives_what_the_rebuilt_model_gives_and_can_be_restored(kind: Kind) -> None:
    model = parse_model(NETWORK)
    graph, feeds = LpGraph.from_proto(model), random_feeds(model)
    weights = ["w", "d", "v", "m"]
    patched = kind(graph, weights, threads=1)
    plain = patched.run(feeds)["y"]
    rng = np.random.default_rng(0)
    for name in weights:
        array = rng.normal(size=graph.value(name).dims).astype(np.float32)
        patched.patch(name, array)
        found = patched.run(feeds)["y"]
        np.testing.assert_allclose(found, rebuilt(name, array, feeds), rtol=1e-4, atol=1e-5)
        assert np.abs(found - plain).max() > 1e-3
        patched.restore(name)
        np.testing.assert_array_equal(patched.run(feeds)["y"], plain)


@KINDS
def test_the_graph_keeps_its_own_weights(kind: Kind) -> None:
    graph = LpGraph.from_proto(parse_model(NETWORK))
    before = graph.value("w").values.copy()
    kind(graph, ["w"], threads=1).patch("w", np.zeros_like(before))
    np.testing.assert_array_equal(graph.value("w").values, before)


@KINDS
def test_what_is_no_weight_of_the_outputs_is_refused(kind: Kind) -> None:
    graph = LpGraph.from_proto(parse_model(NETWORK))
    with pytest.raises(InputError, match="'m' is no float32 weight that the outputs depend on"):
        kind(graph, ["m"], ["g"], threads=1)


@KINDS
def test_a_patch_of_another_shape_is_refused(kind: Kind) -> None:
    patched = kind(LpGraph.from_proto(parse_model(NETWORK)), ["w"], threads=1)
    with pytest.raises(ValueError, match="shape"):
        patched.patch("w", np.zeros((1, 1), np.float32))


def test_convolutions_are_loaded_anew_where_many_samples_pay_for_it() -> None:
    graph = LpGraph.from_proto(parse_model(NETWORK))
    few, many = (open_patched(graph, ["w"], ["y"], threads=1, samples=n) for n in (32, 33))
    assert (type(few), type(many)) == (PatchedModel, ReloadedModel)
    text = "m (float[N,4] x) => (float[N,4] y) <float[4,4] w> { y = MatMul (x, w) }"
    alone = open_patched(LpGraph.from_proto(parse_model(text)), ["w"], ["y"], threads=1, samples=33)
    assert type(alone) is PatchedModel
