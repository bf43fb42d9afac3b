"""`merge-branches`: the same outputs from one convolution, in ONNX Runtime and in float64, in every form."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto
from onnx.reference import ReferenceEvaluator

import lpcompile
from lpcompile.ir.graph import LpGraph
from lpcompile.passes.merge_branches import MergeBranches
from lpcompile.pipeline import PassContext
from tests.passes.rewriting import rewrite
from tests.support import Array, parse_model, random_feeds

RTOL = 1e-5
EXACT = 1e-12  # of sums in float64; epsilons are float32 in the file
NORM = "float[4] scale, float[4] beta, float[4] mean, float[4] var"
SQUARE = "a = Conv <pads = [1, 1, 1, 1]> (x, w, b)"
POINT = "p = Conv (x, v)"
BN = "n = BatchNormalization (x, scale, beta, mean, var)"
CONSTANTS = f"float[4,4,3,3] w, float[4] b, float[4,4,1,1] v, float[1,4,1,1] scale4, {NORM}"

FORMS = {
    "two kernels": f"{SQUARE} {POINT} y = Add (a, p)",
    "the tensor itself": f"{SQUARE} y = Add (x, a)",
    "its norm": f"{SQUARE} {BN} y = Add (a, n)",
    "three, nested": f"{SQUARE} {POINT} {BN} s = Add (n, p) y = Add (a, s)",
    "three, as Sum": f"{SQUARE} {POINT} {BN} y = Sum (p, a, n)",
    "one, as Sum": f"{SQUARE} {POINT} t = Sum (p) y = Add (t, a)",
    "the tensor twice": f"{SQUARE} t = Add (x, x) y = Add (t, a)",
    "scaled and shifted": f"{SQUARE} s = Mul (x, scale4) t = Sub (scale4, s) y = Add (a, t)",
    "a mean that counts its padding": f"""{SQUARE}
        m = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1> (x) y = Add (a, m)""",
    "a norm of a scaled mean": f"""{SQUARE} s = Mul (x, scale4)
        m = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1> (s)
        n = BatchNormalization (m, scale, beta, mean, var) y = Add (a, n)""",
    "a constant beside them": f"{SQUARE} {POINT} s = Add (a, scale4) y = Add (s, p)",
    "a norm behind them": f"""{SQUARE} {POINT} s = Add (a, p)
        y = BatchNormalization (s, scale, beta, mean, var)""",
    "sums of sums": f"""{SQUARE} {POINT} s = Add (a, p) t = BatchNormalization (s, scale, beta, mean, var)
        y = Add (x, t)""",
    "VALID": """a = Conv <auto_pad = "VALID"> (x, v) y = Add (a, x)""",
}


def model(body: str, constants: str = CONSTANTS, *, x: str = "1,4,6,6", y: str = "1,4,6,6") -> str:
    return f"m (float[{x}] x) => (float[{y}] y) <{constants}> {{ {body} }}"


def in_float64(model: ModelProto, feeds: dict[str, Array]) -> Array:
    outputs: Any = ReferenceEvaluator(model).run(None, feeds)
    return np.asarray(outputs[0])


def assert_exact(text: str) -> LpGraph:
    """Weights and sums in float64, by an evaluator that is not ONNX Runtime; the graph."""
    before = parse_model(text.replace("float[", "double["))
    twin = ModelProto()
    twin.CopyFrom(before)
    graph = LpGraph.from_proto(twin)
    assert MergeBranches().run(graph, PassContext()).changes
    feeds = random_feeds(before)
    wanted, found = (in_float64(m, feeds) for m in (before, graph.to_proto()))
    assert wanted.dtype == np.float64
    np.testing.assert_allclose(found, wanted, rtol=EXACT, atol=EXACT * np.abs(wanted).max())
    return graph


@pytest.mark.parametrize("body", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("opset", [11, 17])
def test_every_form_becomes_one_convolution(body: str, opset: int) -> None:
    graph, report = rewrite(MergeBranches(), parse_model(model(body), opset=opset), rtol=RTOL)
    assert graph.ops() == ["Conv"]
    assert report.changes[0].what.startswith("it does the work of ")
    assert not report.skips


@pytest.mark.parametrize("body", FORMS.values(), ids=FORMS)
def test_every_form_is_exact(body: str) -> None:
    assert assert_exact(model(body)).ops() == ["Conv"]


SHAPES = {
    "one axis": model(
        "a = Conv <pads = [2, 2]> (x, w) p = Conv (x, v) s = Add (a, p) y = Add (s, x)",
        "float[4,4,5] w, float[4,4,1] v",
        x="2,4,9",
        y="2,4,9",
    ),
    "three axes": model(
        "a = Conv <pads = [1, 1, 1, 1, 1, 1]> (x, w) p = Conv <pads = [0, 0, 1, 0, 0, 1]> (x, v) y = Add (a, p)",
        "float[3,2,3,3,3] w, float[3,2,1,1,3] v",
        x="1,2,4,5,6",
        y="1,3,4,5,6",
    ),
    "groups": model(
        "a = Conv <group = 2, pads = [1, 1, 1, 1]> (x, w) p = Conv <group = 2> (x, v) s = Add (a, p) y = Add (s, x)",
        "float[4,2,3,3] w, float[4,2,1,1] v",
    ),
    "depthwise, with a factor": model(
        "a = Conv <group = 4, pads = [1, 1, 1, 1]> (x, w) p = Conv <group = 4> (x, v) y = Add (a, p)",
        "float[8,1,3,3] w, float[8,1,1,1] v",
        y="1,8,6,6",
    ),
    "depthwise beside dense": model(
        "a = Conv <pads = [1, 1, 1, 1]> (x, w) p = Conv <group = 4, pads = [1, 1, 1, 1]> (x, v) y = Add (p, a)",
        "float[4,4,3,3] w, float[4,1,3,3] v",
    ),
    "two groups beside dense": model(
        "a = Conv <pads = [1, 1, 1, 1]> (x, w) p = Conv <group = 2> (x, v) y = Add (p, a)",
        "float[6,4,3,3] w, float[6,2,1,1] v",
        y="1,6,6,6",
    ),
    "depthwise and the tensor": model(
        "a = Conv <group = 4, pads = [3, 3, 3, 3]> (x, w) y = Add (x, a)", "float[4,1,7,7] w"
    ),
    "strides": model(
        """a = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, w) p = Conv <strides = [2, 2]> (x, v)
           y = Add (a, p)""",
        "float[4,4,3,3] w, float[4,4,1,1] v",
        x="1,4,7,8",
        y="1,4,4,4",
    ),
    "strides, padded at the end": model(
        """a = Conv <strides = [2, 2], pads = [0, 0, 1, 1]> (x, w) p = Conv <strides = [2, 2]> (x, v)
           y = Add (a, p)""",
        "float[4,4,3,3] w, float[4,4,1,1] v",
        x="1,4,6,8",
        y="1,4,3,4",
    ),
    "crosses": model(
        """a = Conv <pads = [1, 1, 1, 1]> (x, w) h = Conv <pads = [0, 1, 0, 1]> (x, h1)
           v = Conv <pads = [1, 0, 1, 0]> (x, v1) s = Add (a, h) y = Add (s, v)""",
        "float[5,4,3,3] w, float[5,4,1,3] h1, float[5,4,3,1] v1",
        y="1,5,6,6",
    ),
    "uneven padding": model(
        """a = Conv <pads = [1, 2, 3, 2]> (x, w) p = Conv <pads = [0, 0, 1, 1]> (x, v)
           y = Add (a, p)""",
        "float[4,4,5,5] w, float[4,4,2,2] v",
    ),
    "one dilation": model(
        "a = Conv <dilations = [2, 2], pads = [2, 2, 2, 2]> (x, w) y = Add (a, x)", "float[4,4,3,3] w"
    ),
    "other dilations": model(
        """a = Conv <group = 4, pads = [3, 3, 3, 3]> (x, w)
           d = Conv <group = 4, dilations = [2, 3], pads = [2, 3, 2, 3]> (x, v) y = Add (a, d)""",
        "float[4,1,7,7] w, float[4,1,3,3] v",
    ),
}


@pytest.mark.parametrize("text", SHAPES.values(), ids=SHAPES)
def test_every_shape_of_kernel(text: str) -> None:
    graph, report = rewrite(MergeBranches(), text, rtol=RTOL)
    assert graph.ops() == ["Conv"]
    assert not report.skips
    assert_exact(text)


def test_a_dilation_stays_where_all_taps_have_it() -> None:
    graph, _ = rewrite(MergeBranches(), SHAPES["one dilation"], rtol=RTOL)
    assert graph.nodes()[0].attrs["kernel_shape"] == [3, 3]
    assert graph.nodes()[0].attrs["dilations"] == [2, 2]


@st.composite
def geometries(draw: st.DrawFn) -> str:
    """Two or three convolutions of one input along one axis, whose outputs are of one size."""
    channels, stride = draw(st.sampled_from([2, 4])), draw(st.integers(1, 3))
    extra = draw(st.integers(0, 2))
    branches, weights, names = [], [], []
    for i in range(draw(st.integers(2, 3))):
        kernel, dilation = draw(st.integers(1, 5)), draw(st.integers(1, 3))
        group = draw(st.sampled_from([1, 2, channels]))
        reach = (kernel - 1) * dilation + extra
        begin = draw(st.integers(0, reach))
        weights.append(f"float[4,{channels // group},{kernel}] w{i}, float[4] b{i}")
        names.append(f"t{i}")
        branches.append(
            f"t{i} = Conv <group = {group}, strides = [{stride}], dilations = [{dilation}],"
            f" pads = [{begin}, {reach - begin}]> (x, w{i}, b{i})"
        )
    return model(
        f"{' '.join(branches)} y = Sum ({', '.join(names)})",
        ", ".join(weights),
        x=f"2,{channels},11",
        y="2,4,n",
    )


@pytest.mark.thorough
@given(text=geometries(), seed=st.integers(0, 2**16))
def test_any_geometry(text: str, seed: int) -> None:
    before = parse_model(text, seed=seed)
    weights = sum(t.dims[0] * t.dims[1] * t.dims[2] for t in before.graph.initializer if len(t.dims) == 3)
    graph, _ = rewrite(MergeBranches(), before, rtol=RTOL)
    kept = [n.inputs[1] for n in graph.nodes("Conv")]
    assert sum(w.values.size for w in kept if w is not None) <= weights


@pytest.mark.parametrize("x", ["N,4,H,W", "N,4,6,W"])
def test_sizes_that_are_not_known(x: str) -> None:
    rewrite_one(model(f"{SQUARE} {POINT} {BN} s = Add (n, p) y = Add (a, s)", x=x, y="a,4,b,c"))


def rewrite_one(text: str) -> None:
    graph, _ = rewrite(MergeBranches(), text, rtol=RTOL)
    assert graph.ops() == ["Conv"]


def test_operands_of_another_tensor_stay() -> None:
    body = f"r = Relu (x) c = Conv (r, v) {SQUARE} {POINT} s = Sum (a, c, r) t = Add (s, p) y = Add (t, x)"
    graph, report = rewrite(MergeBranches(), model(body), rtol=RTOL)
    assert sorted(graph.ops()) == ["Conv", "Conv", "Relu", "Sum"]
    assert len(report.changes) == 2
    assert not report.skips


def test_what_a_convolution_gives_beside_a_convolution_of_it() -> None:
    body = "t = Conv (x, v) a = Conv <pads = [1, 1, 1, 1]> (t, w) y = Add (t, a)"
    graph, _ = rewrite(MergeBranches(), model(body), rtol=RTOL)
    assert graph.ops() == ["Conv", "Conv"]


def test_a_residual_sum_around_them_stays() -> None:
    body = f"""{SQUARE} r = Relu (a) c = Conv <pads = [1, 1, 1, 1]> (r, w2) d = Conv (r, v) s = Add (c, d)
        y = Add (x, s)"""
    graph, _ = rewrite(MergeBranches(), model(body, f"{CONSTANTS}, float[4,4,3,3] w2"), rtol=RTOL)
    assert graph.ops() == ["Conv", "Relu", "Conv", "Add"]


def test_two_of_three_where_the_third_would_cost_more() -> None:
    body = (
        "a = Conv (x, v) p = Conv (x, v2) d = Conv <group = 4, pads = [1, 1, 1, 1]> (x, w) y = Sum (a, d, p)"
    )
    text = model(body, "float[4,4,1,1] v, float[4,4,1,1] v2, float[4,1,3,3] w")
    graph, _ = rewrite(MergeBranches(), text, rtol=RTOL)
    assert sorted(graph.ops()) == ["Conv", "Conv", "Sum"]


def test_an_output_keeps_its_name_and_the_larger_layer_its_own() -> None:
    body = "[point] p = Conv (x, v) [square] a = Conv <pads = [1, 1, 1, 1]> (x, w, b) [sum] y = Add (p, a)"
    graph, report = rewrite(MergeBranches(), model(body), rtol=RTOL)
    assert [n.name for n in graph.nodes()] == ["square"]
    assert [(c.node, c.what) for c in report.changes] == [("square", "it does the work of point too")]


def test_weights_that_both_branches_read_are_kept_for_others() -> None:
    body = "a = Conv (x, v) p = Conv (x, v) s = Add (a, p) r = Relu (s) y = Conv (r, v)"
    rewritten, report = rewrite(MergeBranches(), model(body), rtol=RTOL)
    assert rewritten.ops() == ["Conv", "Conv", "Add", "Relu", "Conv"]
    assert len(report.skips) == 2  # each would need a copy of its own


def test_half_precision_weights() -> None:
    text = model(f"{SQUARE} {POINT} y = Add (a, p)").replace("float[", "float16[")
    graph, _ = rewrite(MergeBranches(), text, rtol=5e-3)
    weight = graph.nodes("Conv")[0].inputs[1]
    assert weight is not None
    assert weight.dtype == np.float16


def test_long_sums_are_no_recursion() -> None:
    terms = " ".join(f"t{i} = Add (t{i - 1}, x)" for i in range(1, 1100))
    graph = LpGraph.from_proto(
        parse_model(model(f"t0 = Conv (x, v) {terms} y = Add (t1099, x)"), check=False)
    )
    assert len(MergeBranches().run(graph, PassContext()).changes) == 1
    assert graph.ops() == ["Conv"]


def test_a_compilation_and_its_replay(tmp_path: Path) -> None:
    body = f"""[one] {SQUARE} [two] {POINT} [norm] {BN} s = Add (n, p) t = Add (a, s) r = Relu (t)
        [last] y = Conv (r, v)"""
    before = parse_model(model(body))
    calls = [random_feeds(before, seed=i) for i in range(6)]
    made = lpcompile.compile(before, calibration=calls, recipe="int8")
    assert [layer["name"] for layer in made.report["layers"]] == ["one", "last"]
    (tmp_path / "decisions.toml").write_text(made.decisions)
    again = lpcompile.compile(before, calibration=calls, decisions=tmp_path / "decisions.toml")
    assert again.model.SerializeToString() == made.model.SerializeToString()
