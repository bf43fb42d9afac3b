"""Gram matrices against the outputs that ONNX Runtime gives: E[y y^T] = W H W^T, with more rows in W than inputs."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from lpcompile.analysis import grams
from lpcompile.analysis.calibration import RunFeeds
from lpcompile.analysis.grams import Gram, gather_grams
from lpcompile.errors import CalibrationError
from lpcompile.ir.graph import LpGraph
from lpcompile.quant.rows import to_rows
from lpcompile.runtime.execution import observer
from tests.support import Array, parse_model, run_model

CONVS = {
    "plain": ("2,3,5,6", "14,3,2,2", "group = 1"),
    "strides and pads": ("3,2,7,8", "20,2,3,3", "strides = [2, 3], pads = [1, 0, 2, 1]"),
    "dilations": ("2,2,8,7", "20,2,3,3", "dilations = [2, 1], pads = [2, 1, 2, 1]"),
    "same upper": ("2,2,7,8", "20,2,3,2", 'auto_pad = "SAME_UPPER", strides = [2, 2]'),
    "same lower": ("2,2,7,8", "20,2,3,2", 'auto_pad = "SAME_LOWER", strides = [2, 2]'),
    "valid": ("2,2,7,8", "20,2,3,2", 'auto_pad = "VALID", strides = [2, 1]'),
    "grouped": ("2,6,5,5", "24,3,2,2", "group = 2, pads = [0, 1, 1, 0]"),
    "depthwise": ("2,5,6,6", "50,1,3,3", "group = 5, pads = [1, 1, 1, 1], strides = [2, 2]"),
    "1-D": ("3,4,9", "16,4,3", "pads = [1, 1], strides = [2]"),
    "3-D": ("2,2,4,5,3", "20,2,2,2,2", "pads = [0, 1, 0, 1, 0, 1]"),
    "pointwise": ("3,6,4,5", "8,6,1,1", "strides = [1, 2]"),
}
MATRICES = {
    "Gemm": ("40,6", "y = Gemm (x, w)"),
    "transposed Gemm": ("6,40", "y = Gemm <transA = 1> (x, w)"),
    "MatMul": ("40,6", "y = MatMul (x, w)"),
    "batched MatMul": ("4,3,5,6", "y = MatMul (x, w)"),
    "one row": ("6", "y = MatMul (x, w)"),
}


def observe(graph: LpGraph, tensors: Sequence[str]) -> RunFeeds:
    return observer(graph, tensors, threads=1)


def conv(name: str) -> LpGraph:
    x, w, attributes = CONVS[name]
    rank = x.count(",")
    y = ",".join("NCDHW"[: rank + 1])
    return LpGraph.from_proto(
        parse_model(f"m (float[{x}] x) => (float[{y}] y) <float[{w}] w> {{ c = Relu (x) "
                    f"y = Conv <{attributes}> (c, w) }}")
    )  # fmt: skip


def matrix(name: str) -> LpGraph:
    x, node = MATRICES[name]
    y = ",".join("ABCD"[: x.count(",") + 1])
    return LpGraph.from_proto(parse_model(f"m (float[{x}] x) => (float[{y}] y) <float[6,9] w> {{ {node} }}"))


def calls_of(graph: LpGraph, count: int = 3) -> list[dict[str, Array]]:
    rng = np.random.default_rng(1)
    shapes = {v.name: [int(d or 0) for d in v.shape or ()] for v in graph.inputs}
    return [
        {n: np.asarray(rng.normal(0.3, 1, s), np.float32) for n, s in shapes.items()} for _ in range(count)
    ]


def output_columns(graph: LpGraph, calls: Sequence[Mapping[str, Array]]) -> Array:
    """(G, C_out / G, positions of all calls) in float64."""
    node = graph.layers()[0]
    weight = node.inputs[1]
    assert weight is not None
    ys = [run_model(graph.to_proto(), c)["y"].astype(np.float64) for c in calls]
    ys = [np.moveaxis(y, 1, -1) if node.op == "Conv" else y for y in ys]
    columns = np.concatenate([y.reshape(-1, y.shape[-1]) for y in ys]).T
    return columns.reshape(int(node.attrs.get("group", 1)), -1, columns.shape[-1])


def predicted(graph: LpGraph, gram: Gram) -> tuple[Array, Array]:
    """Second moments and means of outputs, by the matrix."""
    node = graph.layers()[0]
    weight = node.inputs[1]
    assert weight is not None
    rows = to_rows(node.op, weight.values).astype(np.float64)
    w = rows.reshape(len(gram.matrix), -1, rows.shape[-1])
    return w @ gram.matrix @ w.swapaxes(-1, -2), (w @ gram.mean[..., None])[..., 0]


@pytest.mark.parametrize("graph", [*map(conv, CONVS), *map(matrix, MATRICES)], ids=[*CONVS, *MATRICES])
def test_the_matrix_tells_the_second_moments_of_outputs(graph: LpGraph) -> None:
    calls = calls_of(graph)
    name = graph.layers()[0].name
    gram = gather_grams(graph, [name], observe, calls)[name]
    y = output_columns(graph, calls)
    moments, means = predicted(graph, gram)
    assert gram.rows == y.shape[-1]
    np.testing.assert_allclose(moments, y @ y.swapaxes(-1, -2) / y.shape[-1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(means, y.mean(-1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("graph", [conv("depthwise"), conv("strides and pads"), matrix("MatMul")])
def test_matrices_are_symmetric_and_not_negative(graph: LpGraph) -> None:
    name = graph.layers()[0].name
    gram = gather_grams(graph, [name], observe, calls_of(graph, 1), most_rows=4)[name]
    h = gram.matrix.astype(np.float64)
    np.testing.assert_array_equal(h, h.swapaxes(-1, -2))
    values = np.linalg.eigvalsh(h)
    assert values.min() > -1e-6 * values.max()
    np.testing.assert_array_less(np.square(gram.mean), np.diagonal(h, axis1=1, axis2=2) + 1e-6)


def test_calls_of_any_shape_count_by_their_positions() -> None:
    graph = LpGraph.from_proto(
        parse_model("m (float[N,2,H,W] x) => (float[N,9,A,B] y) <float[9,2,2,2] w> { y = Conv (x, w) }")
    )
    rng = np.random.default_rng(0)
    shapes = [(1, 2, 4, 5), (3, 2, 6, 3), (0, 2, 4, 4), (2, 2, 2, 2)]
    calls = [{"x": rng.normal(i, 1, s).astype(np.float32)} for i, s in enumerate(shapes)]
    name = graph.layers()[0].name
    gram = gather_grams(graph, [name], observe, calls)[name]
    y = output_columns(graph, [c for c in calls if c["x"].size])
    np.testing.assert_allclose(predicted(graph, gram)[0], y @ y.swapaxes(-1, -2) / y.shape[-1], rtol=1e-4)


@pytest.mark.thorough
def test_a_sample_of_positions_is_seeded_bounded_and_unbiased() -> None:
    graph = LpGraph.from_proto(
        parse_model("m (float[N,1,H,16] x) => (float[N,4,A,B] y) <float[4,1,1,3] w> { y = Conv (x, w) }")
    )
    rng = np.random.default_rng(0)
    calls = [
        {"x": (rng.normal(size=(1, 1, 8 * (1 + 3 * (i % 2)), 16)) * (1 + i)).astype(np.float32)}
        for i in range(4)
    ]
    name = graph.layers()[0].name
    one, again, other = (
        gather_grams(graph, [name], observe, calls, most_rows=64, seed=s)[name] for s in (0, 0, 1)
    )
    assert one.rows == 64
    np.testing.assert_array_equal(one.matrix, again.matrix)
    assert not np.array_equal(one.matrix, other.matrix)
    exact = gather_grams(graph, [name], observe, calls, most_rows=10**9)[name]
    draws = [gather_grams(graph, [name], observe, calls, most_rows=64, seed=s)[name] for s in range(200)]
    scatter = np.std([d.matrix for d in draws], axis=0) / np.sqrt(len(draws))
    assert np.all(np.abs(np.mean([d.matrix for d in draws], axis=0) - exact.matrix) < 4 * scatter)


TWO_READERS = """m (float[N,4,6,6] x) => (float[N,8,6,6] y, float[N,8,6,6] z, float[N,8,3,3] v)
    <float[8,4,1,1] a, float[8,4,1,1] b, float[8,4,1,1] c> {
        r = Relu (x)
        y = Conv (r, a)
        z = Conv <dilations = [2, 2]> (r, b)
        v = Conv <strides = [2, 2]> (r, c) }"""


def test_layers_that_read_alike_share_a_matrix() -> None:
    graph = LpGraph.from_proto(parse_model(TWO_READERS))
    a, b, c = (n.name for n in graph.layers())
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 6)).astype(np.float32)
    found = gather_grams(graph, [a, b, c], observe, [{"x": x}])
    assert found[a] is found[b]
    assert found[a] is not found[c]
    assert found[c].rows == 18


def test_sweeps_keep_to_the_memory_and_change_nothing() -> None:
    graph = LpGraph.from_proto(parse_model(TWO_READERS))
    names = [n.name for n in graph.layers()]
    calls = [{"x": np.random.default_rng(i).normal(size=(2, 4, 6, 6)).astype(np.float32)} for i in range(2)]
    steps: list[tuple[int, int]] = []
    opened: list[list[str]] = []

    def counted(graph: LpGraph, tensors: Sequence[str]) -> RunFeeds:
        opened.append(list(tensors))
        return observe(graph, tensors)

    whole = gather_grams(graph, names, counted, calls)
    assert len(opened) == 1
    parts = gather_grams(graph, names, counted, calls, memory_bytes=1, progress=lambda *s: steps.append(s))
    assert len(opened[1:]) == 2
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert list(parts) == list(whole)
    for name, gram in parts.items():
        np.testing.assert_array_equal(gram.matrix, whole[name].matrix)


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ("y = ConvTranspose (x, w)", "rows of ConvTranspose are input channels"),
        ("y = Gemm <transB = 1> (m, a)", "not in the form x @ W"),
        ("y = MatMul (m, b)", "its weight is no matrix"),
        ("y = MatMul (m, u)", "its weight is no matrix"),
        ("y = MatMul (a, m)", "its second input is no constant weight"),
        ("y = MatMul (a, v)", "its input is constant"),
        ("y = Relu (m)", "Relu is no layer"),
        ("y = MatMul (e, a)", "its input is empty in all samples"),
    ],
)
def test_a_layer_without_a_matrix_says_why(nodes: str, reason: str) -> None:
    text = f"""m (float[1,4,3,3] x, float[4,4] m, float[E,4] e) => (float y)
        <float[4,2,2,2] w, float[4,4] a, float[2,4,3] b, float[4] u, float[4,4] v> {{ {nodes} }}"""
    graph = LpGraph.from_proto(parse_model(text, check=False))
    name = graph.nodes()[0].name
    calls = calls_of(LpGraph.from_proto(parse_model(text.replace("E,4", "0,4"), check=False)), 2)
    found = gather_grams(graph, [name], observe, calls)
    assert not found
    assert reason in found.left_out[name]


def test_a_matrix_that_is_too_large_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grams, "MOST_BYTES", 36)
    graph = matrix("MatMul")
    found = gather_grams(graph, [graph.layers()[0].name], observe, calls_of(graph))
    assert "6 inputs is too large" in found.left_out[graph.layers()[0].name]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_activation_that_is_not_finite_is_named(bad: float) -> None:
    graph = conv("plain")
    calls = calls_of(graph)
    calls[1]["x"][0, 1, 2, 2:4] = bad, -bad
    replaced = LpGraph.from_proto(
        parse_model("m (float[2,3,5,6] x) => (float[N,C,H,W] y) <float[14,3,2,2] w> "
                    "{ c = Identity (x) y = Conv (c, w) }")
    )  # fmt: skip
    with pytest.raises(CalibrationError, match="c: activation is not finite"):
        gather_grams(replaced, [replaced.layers()[0].name], observe, calls)


def test_squares_beyond_float32_are_no_error() -> None:
    graph = matrix("MatMul")
    calls = calls_of(graph)
    calls[0]["x"][0] *= np.float32(1e20)
    name = graph.layers()[0].name
    gram = gather_grams(graph, [name], observe, calls)[name]
    assert np.isfinite(gram.matrix).all()
    expected = np.square(np.concatenate([c["x"] for c in calls]).astype(np.float64)).mean(0)
    np.testing.assert_allclose(
        np.diagonal(gram.matrix[0]), np.minimum(expected, np.finfo(np.float32).max), rtol=1e-5
    )


def test_an_input_that_never_changes_has_a_matrix_of_rank_one() -> None:
    graph = matrix("MatMul")
    calls = [{"x": np.tile(np.arange(6, dtype=np.float32), (40, 1))}]
    name = graph.layers()[0].name
    gram = gather_grams(graph, [name], observe, calls)[name]
    np.testing.assert_allclose(gram.matrix[0], np.outer(np.arange(6), np.arange(6)), rtol=1e-6)
    np.testing.assert_allclose(gram.mean[0], np.arange(6))


@pytest.mark.parametrize("most_rows", [None, 24])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_halves_are_those_of_every_other_call_and_combine_to_the_whole(
    count: int, most_rows: int | None
) -> None:
    graph = LpGraph.from_proto(
        parse_model(
            "m (float[N,4,H,6] x) => (float[N,4,A,B] y) <float[4,2,2,3] w> { y = Conv <group = 2> (x, w) }"
        )
    )
    rng = np.random.default_rng(0)
    calls = [{"x": rng.normal(i, 1 + i, (1 + i, 4, 3 + i, 6)).astype(np.float32)} for i in range(count)]
    name = graph.layers()[0].name
    whole = gather_grams(graph, [name], observe, calls, most_rows=most_rows)[name]
    first, second = whole.halves
    assert whole.rows == first.rows + second.rows
    assert not first.halves
    positions = [(1 + i) * (2 + i) * 4 for i in range(count)]
    shares = [sum(positions[part::2]) / sum(positions) for part in range(2)]
    for attribute in ("matrix", "mean"):
        together = sum(s * getattr(h, attribute) for s, h in zip(shares, whole.halves, strict=True))
        np.testing.assert_allclose(getattr(whole, attribute), together, rtol=1e-5, atol=1e-6)
    if most_rows is None:
        for part, found in enumerate(whole.halves):
            alone = gather_grams(graph, [name], observe, calls[part::2])[name]
            np.testing.assert_allclose(found.matrix, alone.matrix, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(found.mean, alone.mean, rtol=1e-6)
            assert found.rows == alone.rows


def test_one_call_has_no_halves_and_an_empty_one_makes_none() -> None:
    graph = LpGraph.from_proto(
        parse_model("m (float[N,4] x) => (float[N,3] y) <float[4,3] w> { y = MatMul (x, w) }")
    )
    name, rng = graph.layers()[0].name, np.random.default_rng(0)
    full, empty = ({"x": rng.normal(size=(n, 4)).astype(np.float32)} for n in (5, 0))
    one = gather_grams(graph, [name], observe, [full])[name]
    assert one.halves == ()
    beside = gather_grams(graph, [name], observe, [full, empty])[name]
    assert beside.halves == ()
    np.testing.assert_array_equal(beside.matrix, one.matrix)
