"""Moments of float and rounded graphs against what ONNX Runtime gives: E[y y^^T] = D W^T, E[y^ y^^T] = W H W^T."""

from collections.abc import Sequence

import numpy as np
import pytest

from lpcompile.analysis.calibration import RunFeeds
from lpcompile.analysis.grams import gather_grams
from lpcompile.analysis.mismatch_moments import Mismatch, MismatchSweeps
from lpcompile.analysis.rounded_activations import with_rounded_activations
from lpcompile.errors import CalibrationError, PassError
from lpcompile.formats.arrays import F32, F64
from lpcompile.ir.graph import LpGraph
from lpcompile.plan import ActivationPlan
from lpcompile.quant.rows import to_rows
from lpcompile.runtime.execution import observer
from tests.support import Array, parse_model, run_model

NETWORKS = {
    "Conv": """m (float[2,3,6,7] x) => (float[N,C,H,W] y) <float[4,3,3,3] v, float[4] b, float[18,4,2,2] w> {
        a = Conv <pads = [1, 1, 1, 1]> (x, v, b)
        r = Relu (a)
        y = Conv <strides = [2, 1], pads = [1, 0, 0, 1]> (r, w) }""",
    "depthwise": """m (float[2,3,6,7] x) => (float[N,C,H,W] y) <float[4,3,3,3] v, float[4] b, float[40,1,3,3] w> {
        a = Conv <pads = [1, 1, 1, 1]> (x, v, b)
        r = Relu (a)
        y = Conv <group = 4, dilations = [1, 2], pads = [1, 1, 1, 1]> (r, w) }""",
    "few outputs": """m (float[2,3,6,7] x) => (float[N,C,H,W] y) <float[4,3,3,3] v, float[4] b, float[6,2,3,3] w> {
        a = Conv <pads = [1, 1, 1, 1]> (x, v, b)
        r = Relu (a)
        y = Conv <group = 2, strides = [2, 1], pads = [1, 0, 0, 1]> (r, w) }""",
    "Gemm": """m (float[40,5] x) => (float[N,C] y) <float[5,6] v, float[6] b, float[6,9] w> {
        a = Gemm (x, v, b)
        r = Relu (a)
        y = Gemm (r, w) }""",
    "narrow Gemm": """m (float[40,5] x) => (float[N,C] y) <float[5,6] v, float[6] b, float[6,4] w> {
        a = Gemm (x, v, b)
        r = Relu (a)
        y = Gemm (r, w) }""",
    "Gemm of columns": """m (float[5,40] x) => (float[N,C] y) <float[5,6] v, float[6] b, float[6,4] w> {
        a = Gemm <transA = 1> (x, v, b)
        r = Relu (a)
        t = Transpose (r)
        y = Gemm <transA = 1> (t, w) }""",
    "MatMul": """m (float[3,7,5] x) => (float[N,T,C] y) <float[5,6] v, float[6,9] w> {
        a = MatMul (x, v)
        r = Relu (a)
        y = MatMul (r, w) }""",
}
PLANS = {"r": ActivationPlan("uint4", 0.23, 0, "r"), "x": ActivationPlan("uint4", 0.4, 7, "x")}  # no ties


def observe(graph: LpGraph, tensors: Sequence[str]) -> RunFeeds:
    return observer(graph, tensors, threads=1)


def network(name: str) -> LpGraph:
    return LpGraph.from_proto(parse_model(NETWORKS[name]))


def calls_of(graph: LpGraph, count: int = 3) -> list[dict[str, Array]]:
    rng = np.random.default_rng(1)
    shape = [int(d or 0) for d in graph.inputs[0].shape or ()]
    return [{"x": rng.normal(0.3, 1, shape).astype(np.float32)} for _ in range(count)]


def rows_of(graph: LpGraph, name: str) -> F32:
    node = graph.node(name)
    weight = node.inputs[1]
    assert weight is not None
    return to_rows(node.op, weight.values)


def coarse(rows: F32) -> F32:
    return (np.round(rows * 4) / 4).astype(np.float32)


def output_columns(graph: LpGraph, calls: Sequence[dict[str, Array]], groups: int) -> Array:
    ys = [run_model(graph.to_proto(), c)["y"].astype(np.float64) for c in calls]
    ys = [np.moveaxis(y, 1, -1) if y.ndim == 4 else y for y in ys]
    columns = np.concatenate([y.reshape(-1, y.shape[-1]) for y in ys]).T
    return columns.reshape(groups, -1, columns.shape[-1])


def times(rows: F32, found: Mismatch) -> tuple[Array, Array]:
    """W H W^T and D W^T, (G, R, R)."""
    w, d = (a.astype(np.float64).reshape(len(found.matrix), -1, rows.shape[-1]) for a in (rows, found.cross))
    return w @ found.matrix @ w.swapaxes(-1, -2), d @ w.swapaxes(-1, -2)


def by_float_inputs(graph: LpGraph, name: str, found: Mismatch) -> Array:
    """W H, which D is where nothing is rounded, (C_out, K)."""
    rows = rows_of(graph, name).astype(np.float64)
    return (rows.reshape(len(found.matrix), -1, rows.shape[-1]) @ found.matrix).reshape(rows.shape)


def mean_products(graph: LpGraph, name: str, means: F64) -> Array:
    rows = rows_of(graph, name).astype(np.float64)
    return np.asarray(np.einsum("gok,gk->go", rows.reshape(len(means), -1, rows.shape[-1]), means)).reshape(
        -1
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_moments_tell_those_of_float_and_rounded_outputs(name: str) -> None:
    graph, calls = network(name), calls_of(network(name))
    first, second = (n.name for n in graph.layers())
    rounded = with_rounded_activations(graph, PLANS)
    sweeps = MismatchSweeps(graph, rounded, observe, calls)
    bias = None if name == "MatMul" else np.linspace(-0.2, 0.3, len(rows_of(graph, first)), dtype=np.float32)
    sweeps.patch(first, coarse(rows_of(graph, first)), bias)
    found = sweeps.moments([second])[second]

    groups, w = len(found.matrix), rows_of(graph, second)
    oracle = with_rounded_activations(graph, PLANS)
    weight = graph.node(first).inputs[1]
    assert weight is not None
    patched = (np.round(weight.values * 4) / 4).astype(np.float32)
    oracle.set_weights(oracle.node(first), patched, bias)
    y, rounded_y = output_columns(graph, calls, groups), output_columns(oracle, calls, groups)
    count = y.shape[-1]
    assert found.rows == count
    own, cross = times(w, found)
    np.testing.assert_allclose(own, rounded_y @ rounded_y.swapaxes(-1, -2) / count, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(cross, y @ rounded_y.swapaxes(-1, -2) / count, rtol=1e-4, atol=1e-5)
    assert np.abs(found.cross - by_float_inputs(graph, second, found)).max() > 0.01
    np.testing.assert_allclose(found.mean, y.mean(-1).reshape(-1), rtol=1e-4, atol=1e-5)
    means = mean_products(graph, second, found.rounded_mean)
    np.testing.assert_allclose(means, rounded_y.mean(-1).reshape(-1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_without_rounding_both_moments_are_the_gram_matrix(name: str) -> None:
    graph = network(name)
    calls, names = calls_of(graph), [n.name for n in graph.layers()]
    found = MismatchSweeps(graph, graph, observe, calls, most_rows=20).moments(names)
    expected = gather_grams(graph, names, observe, calls, most_rows=20)
    for n in names:
        assert found[n].rows == expected[n].rows
        np.testing.assert_allclose(found[n].matrix, expected[n].matrix, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(found[n].cross, by_float_inputs(graph, n, found[n]), rtol=1e-5, atol=1e-5)
        means = mean_products(graph, n, found[n].rounded_mean)
        np.testing.assert_allclose(found[n].mean, means, rtol=1e-5, atol=1e-5)


def test_weights_that_follow_the_cross_moments_make_good_for_earlier_rounding() -> None:
    graph = network("Gemm")
    calls = calls_of(graph)
    first, second = (n.name for n in graph.layers())
    sweeps = MismatchSweeps(graph, with_rounded_activations(graph, PLANS), observe, calls)
    sweeps.patch(first, coarse(rows_of(graph, first)))
    found = sweeps.moments([second])[second]
    h, d = found.matrix[0].astype(np.float64), found.cross.astype(np.float64)
    better = np.linalg.solve(h, d.T).T.astype(np.float32)
    y = output_columns(graph, calls, 1)

    def error(rows: F32) -> float:
        oracle = with_rounded_activations(graph, PLANS)
        oracle.set_weights(oracle.node(first), coarse(rows_of(graph, first)).T, None)
        oracle.set_weights(oracle.node(second), rows.T, None)
        return float(np.square(output_columns(oracle, calls, 1) - y).mean())

    rng = np.random.default_rng(0)
    least = error(better)
    assert least < 0.9 * error(rows_of(graph, second))
    for _ in range(5):
        assert error((better + rng.normal(0, 0.02, better.shape)).astype(np.float32)) > least


def test_patches_leave_the_given_graphs_alone_and_can_be_replaced() -> None:
    graph = network("Conv")
    calls = calls_of(graph, 1)
    first, second = (n.name for n in graph.layers())
    rounded = with_rounded_activations(graph, PLANS)
    before = graph.to_proto().SerializeToString(), rounded.to_proto().SerializeToString()
    sweeps = MismatchSweeps(graph, rounded, observe, calls)
    start = sweeps.moments([second])[second]
    own = rows_of(graph, first)
    sweeps.patch(first, coarse(own))
    changed = sweeps.moments([second])[second]
    sweeps.patch(first, own)
    again = sweeps.moments([second])[second]
    assert not np.array_equal(start.matrix, changed.matrix)
    np.testing.assert_array_equal(start.mean, changed.mean)
    np.testing.assert_array_equal(start.matrix, again.matrix)
    assert before == (graph.to_proto().SerializeToString(), rounded.to_proto().SerializeToString())


def test_a_layer_that_shares_its_weight_is_patched_alone() -> None:
    graph = LpGraph.from_proto(
        parse_model("m (float[9,4] x) => (float[9,4] y) <float[4,4] w> "
                    "{ a = MatMul (x, w) b = MatMul (a, w) y = MatMul (b, w) }")
    )  # fmt: skip
    first, second, third = (n.name for n in graph.layers())
    calls = calls_of(graph, 2)
    sweeps = MismatchSweeps(graph, graph, observe, calls)
    sweeps.patch(first, 2 * rows_of(graph, first))
    found = sweeps.moments([first, second, third])
    for n, factor in ((first, 1), (second, 2), (third, 2)):
        np.testing.assert_allclose(
            found[n].cross * factor, by_float_inputs(graph, n, found[n]), rtol=1e-5, atol=1e-5
        )
        means = mean_products(graph, n, found[n].rounded_mean)
        np.testing.assert_allclose(found[n].mean * factor, means, rtol=1e-5, atol=1e-6)


def test_a_matmul_takes_no_bias() -> None:
    graph = network("MatMul")
    name = graph.layers()[0].name
    with pytest.raises(PassError, match="no bias"):
        MismatchSweeps(graph, graph, observe, []).patch(name, rows_of(graph, name), np.zeros(6, np.float32))


def test_layers_that_read_alike_share_and_sweeps_keep_to_the_memory() -> None:
    graph = LpGraph.from_proto(
        parse_model("m (float[N,4] x) => (float[N,4] y, float[N,4] z, float[N,4] u) "
                    "<float[4,4] a, float[4,4] b, float[4,4] c> "
                    "{ y = MatMul (x, a) z = MatMul (x, b) r = Relu (y) u = MatMul (r, c) }")
    )  # fmt: skip
    names = [n.name for n in graph.layers()]
    calls = [{"x": np.random.default_rng(i).normal(size=(5, 4)).astype(np.float32)} for i in range(2)]
    steps: list[tuple[int, int]] = []
    small = MismatchSweeps(graph, graph, observe, calls, memory_bytes=1)
    found = small.moments(names, lambda *s: steps.append(s))
    whole = MismatchSweeps(graph, graph, observe, calls).moments(names)
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert whole[names[0]].matrix is whole[names[1]].matrix
    assert list(found) == list(whole) == names
    for n in names:
        np.testing.assert_array_equal(found[n].cross, whole[n].cross)


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ("y = ConvTranspose (q, w)", "rows of ConvTranspose"),
        ("y = MatMul (e, a)", "empty in all samples"),
    ],
)
def test_a_layer_without_moments_says_why(nodes: str, reason: str) -> None:
    text = (
        f"""m (float[1,4,3,3] q, float[E,4] e) => (float y) <float[4,2,2,2] w, float[4,4] a> {{ {nodes} }}"""
    )
    graph = LpGraph.from_proto(parse_model(text, check=False))
    call = {"q": np.ones((1, 4, 3, 3), np.float32), "e": np.ones((0, 4), np.float32)}
    name = graph.layers()[0].name
    found = MismatchSweeps(graph, graph, observe, [call]).moments([name])
    assert not found
    assert reason in found.left_out[name]


def test_inputs_whose_shape_follows_from_rounded_values_are_left_out() -> None:
    graph = LpGraph.from_proto(
        parse_model("""m (float[1,8] x) => (float[A,2] y) <float[8,8] v, float[2,2] u> {
            a = MatMul (x, v)
            r = Relu (a)
            n = NonZero (r)
            t = Transpose <perm = [1, 0]> (n)
            c = Cast <to = 1> (t)
            y = MatMul (c, u) }""")
    )
    first, second = (n.name for n in graph.layers())
    sweeps = MismatchSweeps(graph, graph, observe, calls_of(graph, 1))
    sweeps.patch(first, np.zeros_like(rows_of(graph, first)))
    assert "another shape" in sweeps.moments([second]).left_out[second]


def test_an_activation_that_is_not_finite_is_named() -> None:
    graph = network("Gemm")
    first, second = (n.name for n in graph.layers())
    sweeps = MismatchSweeps(graph, graph, observe, calls_of(graph, 1))
    sweeps.patch(first, np.full_like(rows_of(graph, first), 3e38))
    with pytest.raises(CalibrationError, match="r: activation is not finite"):
        sweeps.moments([second])


def test_moments_do_not_depend_on_what_is_known_to_change() -> None:
    graph = network("Gemm")
    calls, names = calls_of(graph), [n.name for n in graph.layers()]
    rounded = with_rounded_activations(graph, PLANS)
    found = []
    for layers in (None, names):
        sweeps = MismatchSweeps(graph, rounded, observe, calls, layers=layers)
        sweeps.moments(names[:1])
        sweeps.patch(names[0], coarse(rows_of(graph, names[0])), np.full(6, 0.1, np.float32))
        found.append(sweeps.moments(names[1:])[names[1]])
    np.testing.assert_allclose(found[0].matrix, found[1].matrix, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found[0].cross, found[1].cross, rtol=1e-6, atol=1e-6)
    with pytest.raises(PassError, match="settled before"):
        sweeps.patch(names[0], rows_of(graph, names[0]))
