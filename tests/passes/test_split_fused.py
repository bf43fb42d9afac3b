"""`canonicalize`: what ONNX Runtime's optimiser fused."""

import tempfile
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto, load

import lpcompile
from lpcompile.ir.graph import LpGraph
from lpcompile.passes.canonicalize import Canonicalize
from lpcompile.runtime.compare import compare
from tests.passes.rewriting import CONTEXT
from tests.support import Array, assert_same_outputs, parse_model, run_model


def fused(text: str, opset: int = 17) -> ModelProto:
    """A model with operators of the runtime, spelled by the parser as `ms.Op`."""
    return parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1]>\n{text}'.replace(
            "ms.", "com.microsoft."
        ),
        check=False,
    )


CONV = """m (float[N,3,8,8] x) => (float[] y) <float[4,3,3,3] w, float[4] b, float[1,4,6,6] z> {{
    y = ms.FusedConv <kernel_shape = [3, 3], {attributes}> (x, w, b{z}) }}"""
GEMM = """m (float[5,6] x) => (float[] y) <float[6,7] w, float[7] b> {{
    y = ms.FusedGemm <alpha = 0.5, {attributes}> (x, w, b) }}"""


@pytest.mark.parametrize(
    ("attributes", "z", "ops"),
    [
        ('activation = "Relu"', "", ["Conv", "Relu"]),
        ('activation = "Sigmoid"', "", ["Conv", "Sigmoid"]),
        ('activation = "LeakyRelu", activation_params = [0.3]', "", ["Conv", "LeakyRelu"]),
        ('activation = "Clip", activation_params = [-0.2, 0.4]', "", ["Conv", "Clip"]),
        ('activation = "HardSigmoid", activation_params = [0.3, 0.4]', "", ["Conv", "HardSigmoid"]),
        ('activation = "Relu", strides = [1, 1]', ", z", ["Conv", "Add", "Relu"]),
    ],
)
def test_convolutions(attributes: str, z: str, ops: list[str]) -> None:
    same_in_parts(CONV.format(attributes=attributes, z=z), {"x": (1, 3, 8, 8)}, ops)


@pytest.mark.parametrize(
    ("attributes", "activation"),
    [('activation = "Relu"', "Relu"), ('activation = "LeakyRelu", activation_alpha = 0.2', "LeakyRelu")],
)
def test_matrix_products_with_activations(attributes: str, activation: str) -> None:
    same_in_parts(GEMM.format(attributes=attributes), {"x": (5, 6)}, ["Gemm", activation])


@pytest.mark.parametrize(
    ("x", "w", "attributes", "ops"),
    [
        ("N,5,6", "6,7", "alpha = 1.0", ["MatMul"]),
        ("N,5,6", "7,6", "transB = 1, alpha = 0.25", ["MatMul", "Mul"]),
        ("2,6,5", "6,7", "transA = 1", ["Transpose", "MatMul"]),
    ],
)
def test_products_with_a_factor(x: str, w: str, attributes: str, ops: list[str]) -> None:
    text = f"m (float[{x}] x) => (float[] y) <float[{w}] w> {{ y = ms.FusedMatMul <{attributes}> (x, w) }}"
    same_in_parts(text, {"x": tuple(2 if d == "N" else int(d) for d in x.split(","))}, ops)


ATTENTION = """m (float[N,5,8] x{mask}) => (float[] y) <float[8,24] w, float[24] b> {{
    y = ms.Attention <num_heads = 2{attributes}> (x, w, b{read}) }}"""


@pytest.mark.parametrize("attributes", ["", ", unidirectional = 1", ", scale = 0.7"])
def test_attention(attributes: str) -> None:
    text = ATTENTION.format(mask="", read="", attributes=attributes)
    same_in_parts(text, {"x": (3, 5, 8)}, ["MatMul", "Add", "Split", "com.microsoft::MultiHeadAttention"])


def test_attention_with_a_mask_of_keys() -> None:
    text = ATTENTION.format(mask=", int32[N,5] keys", read=", keys", attributes="")
    keys = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]], np.int32)
    ops = ["MatMul", "Add", "Split", "com.microsoft::MultiHeadAttention"]
    same_in_parts(text, {"x": (3, 5, 8)}, ops, keys=keys)


SKIP = """m (float[N,5,6] x, float[N,5,8] s) => ({outputs}) <float[6,8] w, float[8] b, float[8] g, float[8] h> {{
    p = MatMul (x, w)  {result} = ms.{op} <epsilon = 0.01> ({read}) }}"""


@pytest.mark.parametrize(
    ("op", "read", "norm", "adds"),
    [
        ("SkipLayerNormalization", "p, s, g, h, b", ["LayerNormalization"], 2),
        ("SkipLayerNormalization", "s, p, g, h, b", ["LayerNormalization"], 2),
        ("SkipLayerNormalization", "p, s, g, h", ["LayerNormalization"], 1),
        ("SkipLayerNormalization", "p, s, g", ["LayerNormalization"], 1),
        ("SkipSimplifiedLayerNormalization", "p, s, g, b", ["SimplifiedLayerNormalization"], 2),
        ("SkipSimplifiedLayerNormalization", "p, s, g", ["SimplifiedLayerNormalization"], 1),
    ],
)
@pytest.mark.parametrize("summed", [False, True])
def test_norms_that_add(op: str, read: str, norm: list[str], adds: int, summed: bool) -> None:
    outputs, result = ("float[] y, float[] t", "y, , , t") if summed else ("float[] y", "y")
    text = SKIP.format(op=op, read=read, outputs=outputs, result=result)
    same_in_parts(text, {"x": (2, 5, 6), "s": (2, 5, 8)}, ["MatMul", *["Add"] * adds, *norm])


def test_the_bias_of_a_norm_is_that_of_the_layer_before_it() -> None:
    text = SKIP.format(op="SkipLayerNormalization", read="s, p, g, h, b", outputs="float[] y", result="y")
    graph = LpGraph.from_proto(fused(text))
    Canonicalize().run(graph, CONTEXT)
    product, bias = graph.nodes()[:2]
    assert bias.input_names == [*product.output_names, "b"]


ERF, TANH = ["Div", "Erf", "Add", "Mul", "Mul"], ["Mul", "Pow", "Mul", "Add", "Mul", "Tanh", "Add", "Mul"]


@pytest.mark.parametrize(
    ("call", "ops"),
    [
        ("BiasGelu (p, b)", ["Add", *ERF]),
        ("Gelu (p)", ERF),
        ("FastGelu (p)", TANH),
        ("FastGelu (p, b)", ["Add", *TANH]),
        ("QuickGelu <alpha = 1.3> (p)", ["Mul", "Sigmoid", "Mul"]),
        ("QuickGelu <alpha = 1.0> (p)", ["Sigmoid", "Mul"]),
    ],
)
def test_activations_are_spelled_as_the_runtime_fuses_them(call: str, ops: list[str]) -> None:
    text = f"""m (float[N,5,6] x) => (float[] y) <float[6,8] w, float[8] b, float[8,4] v> {{
        p = MatMul (x, w)  q = ms.{call}  y = MatMul (q, v) }}"""
    graph = same_in_parts(text, {"x": (2, 5, 6)}, ["MatMul", *ops, "MatMul"], ordered=False)
    assert call.split(" ")[0].removeprefix("Bias") in fused_by_the_runtime(graph)


EMBEDDING = """m (int32[N,5] i, int32[N,5] k{more}) => ({outputs})
    <float[9,8] w, float[6,8] p, float[2,8] t, float[8] g, float[8] h, float[8,4] o> {{
    {result} = ms.EmbedLayerNormalization <epsilon = 0.01> (i, {read})  y = MatMul (e, o) }}"""
IDS = {
    "i": np.array([[1, 8, 0, 3, 3], [2, 2, 4, 7, 5]], np.int32),
    "k": np.array([[0, 0, 1, 1, 1], [0, 1, 1, 0, 0]], np.int32),
}


@pytest.mark.parametrize(
    ("read", "outputs", "result", "gathers"),
    [
        ("k, w, p, t, g, h", "float[] y", "e, n", 3),
        (", w, p, , g, h", "float[] y", "e, n", 2),
        ("k, w, p, t, g, h, k", "float[] y, int32[] n, float[] s", "e, n, s", 3),
    ],
)
def test_embeddings(read: str, outputs: str, result: str, gathers: int) -> None:
    before = fused(EMBEDDING.format(more="", read=read, outputs=outputs, result=result))
    graph = LpGraph.from_proto(before)
    Canonicalize().run(graph, CONTEXT)
    assert sum(n.op == "Gather" and n.inputs[0].is_constant for n in graph.nodes() if n.inputs[0]) == gathers
    assert_same_outputs(before, graph.to_proto(), 1e-5, feeds=IDS)


def test_places_that_are_given() -> None:
    before = fused(
        EMBEDDING.format(
            more=", int32[N,5] q", read="k, w, p, t, g, h, , q", outputs="float[] y", result="e, n"
        )
    )
    graph = LpGraph.from_proto(before)
    Canonicalize().run(graph, CONTEXT)
    places = np.array([[5, 4, 3, 2, 1], [0, 0, 0, 1, 1]], np.int32)
    assert_same_outputs(before, graph.to_proto(), 1e-5, feeds={**IDS, "q": places})


@pytest.mark.parametrize("opset", [11, 12, 13, 18])
def test_attention_over_words_that_a_mask_counts(opset: int) -> None:
    """The forms that a BERT is saved in: the count comes from the embedding."""
    text = """m (int32[N,5] i, int32[N,5] m) => (float[] y) <float[9,8] t, float[6,8] p, float[8] g, float[8] h,
        float[8,24] w, float[24] b> {
        e, n = ms.EmbedLayerNormalization (i, , t, p, , g, h, m)  y = ms.Attention <num_heads = 2> (e, w, b, n) }"""
    before = fused(text, opset)
    graph = LpGraph.from_proto(before)
    Canonicalize().run(graph, CONTEXT)
    assert len(graph.layers()) == 1
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32)
    assert_same_outputs(before, graph.to_proto(), 1e-5, feeds={"i": IDS["i"], "m": mask})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            SKIP.format(
                op="SkipLayerNormalization", read="p, s, g", outputs="float[] y", result="y, m"
            ).replace("float[] y)", "float[] y, float[] m)"),
            "its means or deviations are read",
        ),
        (
            EMBEDDING.format(more="", read="k, w, p, t, g, h", outputs="float[] y, int32[] n", result="e, n"),
            "its count of words is read, and there is no mask",
        ),
        (CONV.format(attributes='activation = "Gelu"', z=""), "activation Gelu is not known"),
        (
            ATTENTION.format(mask=", int32[M] ends", read=", ends", attributes=""),
            "its mask is not one of keys",
        ),
        (
            "m (float[N,5,6] x) => (float[] y) <float[6,7] w> { y = ms.FusedMatMul <transBatchA = 1> (x, w) }",
            "batch axes are transposed",
        ),
    ],
)
def test_what_stays_says_why(text: str, reason: str) -> None:
    graph = LpGraph.from_proto(fused(text))
    report = Canonicalize().run(graph, CONTEXT)
    assert [s.reason for s in report.skips] == [reason]
    assert not report.changes


def test_a_model_that_the_runtime_saved_is_quantised(tmp_path: Path) -> None:
    model = parse_model("""m (float[N,3,8,8] x) => (float[N,10] y)
        <float[16,3,3,3] w, float[16] b, float[16,16,3,3] v, float[16] c, float[16,10] o> {
        t = Conv <pads = [1, 1, 1, 1]> (x, w, b)  u = Relu (t)  s = Conv <pads = [1, 1, 1, 1]> (u, v, c)  r = Relu (s)
        p = GlobalAveragePool (r)  f = Flatten (p)  y = MatMul (f, o) }""")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "saved.onnx")
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    saved = load(tmp_path / "saved.onnx")
    assert "FusedConv" in [n.op_type for n in saved.graph.node]
    rng = np.random.default_rng(0)
    calls = [{"x": rng.standard_normal((2, 3, 8, 8)).astype(np.float32)} for _ in range(8)]
    made = lpcompile.compile(saved, calibration=calls[:-1], recipe="int8")
    assert [r["weight_format"] for r in made.report["layers"]] == ["int8"] * 3
    found = compare([(run_model(model, calls[-1]), run_model(made.model, calls[-1]))]).sqnr_db
    assert found is not None
    assert found > 30


def fused_by_the_runtime(graph: LpGraph) -> set[str]:
    """Operators of `com.microsoft` in what ONNX Runtime makes of a graph, without what says that they add a bias."""
    options = ort.SessionOptions()
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = f"{folder}/saved.onnx"
        ort.InferenceSession(
            graph.to_proto().SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return {
            n.op_type.removeprefix("Bias")
            for n in load(options.optimized_model_filepath).graph.node
            if n.domain
        }


def same_in_parts(
    text: str, shapes: dict[str, tuple[int, ...]], ops: list[str], *, ordered: bool = True, **more: Array
) -> LpGraph:
    before = fused(text)
    graph = LpGraph.from_proto(before)
    Canonicalize().run(graph, CONTEXT)
    assert (graph.ops() if ordered else sorted(graph.ops())) == (ops if ordered else sorted(ops))
    assert len(graph.layers()) == max(1, ops.count("MatMul"))
    assert graph.outputs[0].shape is not None or ops[-1].startswith("com.")
    rng = np.random.default_rng(3)
    feeds = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()} | more
    assert_same_outputs(before, graph.to_proto(), 1e-5, feeds=feeds)
    assert not Canonicalize().run(graph, CONTEXT).changes
    return graph
