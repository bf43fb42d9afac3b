"""What runs on integers: ONNX Runtime's own optimised graph is the witness."""

from collections import Counter
from pathlib import Path

import onnx
import onnxruntime as ort
import pytest

from lpcompile.analysis.regions import find_regions
from lpcompile.analysis.ties import OUTSIDE
from lpcompile.backends.ort.target import OrtTarget
from lpcompile.ir.graph import LpGraph
from lpcompile.plan import Kernel
from tests.networks import shipped
from tests.quantizing import NO_COSTS, PLAN_PASSES, Quantized, quantized
from tests.support import parse_model

STEM = """<float[8,3,3,3] w1, float[8] b1, float[8,8,3,3] w2, float[8] b2, float[4,8,1,1] w3,
 float[6,16,1,1] w4, float zero = {0.0}, float six = {6.0}>"""


def fused_ops(found: Quantized, tmp_path: Path) -> Counter[str]:
    """Operators that ONNX Runtime runs in the end, and on which sides of them floats are."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(found.emitted().SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(n.op_type for n in onnx.load(tmp_path / "optimised.onnx").graph.node)


INTEGER_GRAPHS = {
    "residual": """{
        a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
        r = Relu (a)
        c = Conv <pads = [1, 1, 1, 1]> (r, w2, b2)
        s = Add (c, r)
        t = Relu (s)
        y = Conv (t, w3)
    }""",
    "concat of what only it reads": """{
        a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
        r = Relu (a)
        b = Conv <pads = [1, 1, 1, 1]> (r, w2, b2)
        c = Conv <pads = [1, 1, 1, 1]> (r, w2, b2)
        j = Concat <axis = 1> (b, c)
        y = Conv (j, w4)
    }""",
    "pools": """{
        a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
        m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a)
        b = Conv <pads = [1, 1, 1, 1]> (m, w2, b2)
        v = AveragePool <kernel_shape = [2, 2]> (b)
        y = Conv (v, w3)
    }""",
    "a clamp that two read": """{
        a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
        b = Conv <pads = [1, 1, 1, 1]> (a, w2, b2)
        k = Clip (a, zero, six)
        s = Add (k, b)
        y = Conv (s, w3)
    }""",
    "moves": """{
        a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
        t = Transpose <perm = [0, 1, 3, 2]> (a)
        u = DepthToSpace <blocksize = 2> (t)
        d = SpaceToDepth <blocksize = 2> (u)
        y = Conv (d, w3)
    }""",
}


@pytest.mark.sweep
@pytest.mark.parametrize("name", INTEGER_GRAPHS)
def test_no_tensor_between_quantised_layers_goes_to_floats_and_back(name: str, tmp_path: Path) -> None:
    found = quantized(f"m (float[1,3,8,8] x) => (float[1,C,H,W] y) {STEM} {INTEGER_GRAPHS[name]}")
    ops = fused_ops(found, tmp_path)
    assert ops["QuantizeLinear"] == 1, ops  # of x
    assert ops["DequantizeLinear"] == 1, ops  # of y
    assert not ops.keys() & {"Conv", "Add", "Relu", "FusedConv"}, ops  # a Clip that is left works on codes
    assert found.sqnr_db() > 25


def test_a_concat_requantises_an_operand_whose_range_is_much_smaller(tmp_path: Path) -> None:
    model = parse_model("""m (float[1,3,8,8] x) => (float[1,C,8,8] y)
        <float[8,3,3,3] w1, float[8] b1, float[8,8,3,3] w2, float[8,8,1,1] w3, float[4,16,1,1] w4> {
            a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
            b = Conv <pads = [1, 1, 1, 1]> (a, w2)
            j = Concat <axis = 1> (a, b)
            e = Conv (a, w3)
            f = Conv (j, w4)
            y = Concat <axis = 1> (e, f)
        }""")
    for weight in model.graph.initializer:
        if weight.name == "w2":
            values = onnx.numpy_helper.to_array(weight) * 40
            weight.CopyFrom(onnx.numpy_helper.from_array(values.astype("float32"), "w2"))
    found = quantized(model)
    plans = found.graph.plan.activations
    assert plans["a"].scale * 8 < plans["j"].scale == plans["b"].scale
    assert plans["b"].tie_group == plans["j"].tie_group != plans["a"].tie_group
    ops = fused_ops(found, tmp_path)
    assert ops["QLinearConcat"] == 1
    assert ops["QuantizeLinear"] == 1
    for form in ("functions", "standard", "qdq"):
        assert found.sqnr_db(form=form) > 30


def regions_of(text: str) -> tuple[dict[str, str], dict[str, str]]:
    graph = LpGraph.from_proto(parse_model(text, check=False))
    graph.infer_shapes()
    layers = [n for n in graph.layers() if n.op == "Conv"]
    found = find_regions(graph, OrtTarget(), layers)
    by_op = {graph.node(n).op: why for n, why in found.elementwise.items()}
    skipped = {graph.node(n).op: why for n, why in found.skipped.items()}
    return by_op, skipped


def between(nodes: str, *, extra: str = "", weights: str = "", head: str = "m (float[1,3,8,8] x") -> str:
    """Two convolutions with something between `a` and `z`."""
    return f"""{head}{extra}) => (float[1,3,H,W] y) <float[3,3,1,1] w1, float[3,3,1,1] w2{weights}>
        {{ a = Conv (x, w1)  {nodes}  y = Conv (z, w2) }}"""


@pytest.mark.parametrize(
    ("text", "op", "reason"),
    [
        (between("z = Softmax (a)"), "Softmax", "no integer form of Softmax"),
        (between("z = Add (a, c)", weights=", float[1,1,1] c"), "Add", "one operand is a constant"),
        (
            between("t = Mul (a, c)  z = Add (t, c)", weights=", float[3,1,1] c"),
            "Mul",
            "with the scale or shift beside it, it would round twice",
        ),
        (
            between("z = Mul (a, c)", weights=", float[1,1,W] c").replace("W]", "8]"),
            "Mul",
            "its channels are not those of a convolution",
        ),
        (between("z = Add (a, q)", extra=", float[1,3,8,8] q"), "Add", "its input is float"),
        (between("z = Clip (a, low)", extra=", float low"), "Clip", "its bounds are not constant"),
        (
            between("z = Pad (a, p, v)", extra=", float v", weights=", int64[8] p = {0,0,1,1,0,0,1,1}"),
            "Pad",
            "the padding value is not constant",
        ),
        (
            between('z = Resize <mode = "linear"> (a, , s)', weights=", float[4] s = {1.0,1.0,2.0,2.0}"),
            "Resize",
            "only nearest selects without computing",
        ),
        (
            between("z, i = MaxPool <kernel_shape = [2, 2]> (a)").replace("=> (", "=> (int64[1,3,7,7] i, "),
            "MaxPool",
            "its indices are read",
        ),
        (
            between('z = AveragePool <kernel_shape = [2, 2], auto_pad = "SAME_UPPER"> (a)'),
            "AveragePool",
            "padding depends on the input shape",
        ),
        (
            """m (float[1,3,8,8] x) => (float[1,3,8,8] y) <float[3,3,1,1] w> {
                a = Conv (x, w)  b = Sigmoid (a)  y = Exp (b)
            }""",
            "Sigmoid",
            "nothing after it reads integers",
        ),
    ],
)
def test_each_reason_to_stay_float(text: str, op: str, reason: str) -> None:
    chosen, skipped = regions_of(text)
    assert skipped[op] == reason
    assert op not in chosen


def test_what_was_asked_to_stay_float_stays() -> None:
    graph = LpGraph.from_proto(parse_model(between("z = Sigmoid (a)")))
    name = graph.nodes("Sigmoid")[0].name
    found = find_regions(graph, OrtTarget(), graph.layers(), frozenset({name}))
    assert found.skipped == {name: "kept float on request"}
    assert found.elementwise == {}


def test_an_operator_whose_integer_kernel_came_later_waits_for_it() -> None:
    graph = LpGraph.from_proto(parse_model(between("z = HardSwish (a)")))
    graph.opset_imports[""] = 13
    found = find_regions(graph, OrtTarget(), graph.layers())
    assert list(found.skipped.values()) == ["HardSwish takes uint8 from opset 14 on"]


def test_a_clamp_is_absorbed_by_the_layer_or_the_sum_before_it() -> None:
    graph = LpGraph.from_proto(
        parse_model(between("r = Relu (a)  b = Conv (r, w1)  s = Add (b, r)  z = Relu (s)"))
    )
    found = find_regions(graph, OrtTarget(), graph.layers())
    first, add = graph.layers()[0].name, graph.nodes("Add")[0].name
    assert [found.elementwise[n.name] for n in graph.nodes("Relu")] == [
        f"absorbed by {first}",
        f"absorbed by {add}",
    ]
    assert found.elementwise[add] == "between quantised layers"
    assert found.tensors == ["x", "r", "b", "z", "y"]


def test_moves_tie_and_readers_are_known() -> None:
    graph = LpGraph.from_proto(
        parse_model("""m (float[1,4,8,8] x) => (float[1,4,H,W] y, float[1,4,4,4] p)
        <float[4,4,1,1] w1, float[4,8,1,1] w2> {
            a = Conv (x, w1)
            p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a)
            j = Concat <axis = 1> (p, p)
            y = Conv (j, w2)
        }""")
    )
    found = find_regions(graph, OrtTarget(), graph.layers())
    groups = {g.members: g.readers for g in found.groups}
    last = graph.layers()[1].name
    assert groups[("a", "p")] == {graph.nodes("Concat")[0].name, OUTSIDE}
    assert groups[("j",)] == {last}
    assert [(j.inputs, j.output) for j in found.joins] == [(("p", "p"), "j")]


def test_a_transformer_block_keeps_what_needs_floats_and_quantises_every_weight() -> None:
    found = quantized(onnx.load(shipped("digits_transformer")), PLAN_PASSES)
    graph, plan = found.graph, found.graph.plan
    for node in graph.nodes("Softmax", "LayerNormalization", "Erf", "Gelu"):
        assert node.name not in plan.elementwise
    residual = [
        node
        for node in graph.nodes("Add")
        for value in node.outputs
        if value is not None and any(r.op == "LayerNormalization" for r in value.consumers)
    ]
    assert residual
    assert not {n.name for n in residual} & plan.elementwise.keys()
    constant = [
        n for n in graph.nodes("MatMul", "Gemm") if n.inputs[1] is not None and n.inputs[1].is_constant
    ]
    assert len(constant) >= 6  # Q, K, V, output and both of the feed-forward part
    for node in constant:
        layer = plan.layers[node.name]
        assert layer.tensor is not None, node.name
        assert layer.kernel in (Kernel.FLOAT_OUT, Kernel.INTEGER, Kernel.DYNAMIC)


def test_layers_in_bodies_are_left_as_they_are() -> None:
    found = quantized(
        """m (float[2,6] x, bool c) => (float[2,3] y) <float[6,6] w, float[6] b, float[6,3] v> {
            h = Gemm (x, w, b)
            y = If (c) <then_branch = t () => (float[2,3] p) { p = MatMul (h, v) },
                        else_branch = e () => (float[2,3] q) { r = Relu (h)  q = MatMul (r, v) }>
        }""",
        NO_COSTS,
    )
    assert [found.layer("Gemm").kernel] == [Kernel.FLOAT_OUT]
    assert len(found.layers) == 1
    assert found.graph.plan.elementwise == {}
