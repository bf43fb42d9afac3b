"""`fold-batchnorm` against ONNX Runtime, for every layer, side and spelling."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpcompile.ir.graph import LpGraph
from lpcompile.passes.fold_batchnorm import NO_LAYER, SHARED_INPUT, SHARED_RESULT, FoldBatchnorm
from tests.passes.rewriting import CONTEXT, left_alone, rewrite
from tests.support import conv_bn_model, parse_model

RTOL = 1e-5
BN = "float[{c}] scale, float[{c}] beta, float[{c}] mean, float[{c}] var"


def norm(channels: int) -> str:
    return BN.format(c=channels)


@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize("bias", [True, False])
def test_after_conv(group: int, bias: bool) -> None:
    graph, report = rewrite(FoldBatchnorm(), conv_bn_model(group=group, bias=bias), rtol=RTOL)
    assert graph.ops() == ["Conv"]
    assert [change.what for change in report.changes] == [f"folded into {graph.nodes()[0].name}"]


@pytest.mark.parametrize("group", [1, 2])
def test_after_conv_transpose(group: int) -> None:
    graph, _ = rewrite(
        FoldBatchnorm(),
        f"""
        m (float[2, 4, 5, 5] x) => (float[a, b, c, d] y) <float[4, {6 // group}, 3, 3] w, {norm(6)}>
        {{ t = ConvTranspose <group = {group}, strides = [2, 2]> (x, w)
           y = BatchNormalization <epsilon = 0.1> (t, scale, beta, mean, var) }}""",
        rtol=RTOL,
    )
    assert graph.ops() == ["ConvTranspose"]


@pytest.mark.parametrize(
    ("weight", "gemm"),
    [
        ("float[4, 6] w", "Gemm (x, w)"),
        ("float[6, 4] w, float[6] b", "Gemm <transB = 1> (x, w, b)"),
        ("float[6, 4] w, float[1, 6] b", "Gemm <transB = 1, alpha = 0.5, beta = 3.0> (x, w, b)"),
        ("float[4, 6] w, float b", "Gemm <beta = 0.0> (x, w, b)"),
    ],
)
def test_after_gemm(weight: str, gemm: str) -> None:
    graph, _ = rewrite(
        FoldBatchnorm(),
        f"""
        m (float[N, 4] x) => (float[N, 6] y) <{weight}, {norm(6)}>
        {{ t = {gemm}  y = BatchNormalization (t, scale, beta, mean, var) }}""",
        rtol=RTOL,
    )
    assert graph.ops() == ["Gemm"]


@pytest.mark.parametrize("add", ["", "t = Add (p, row)", "t = Add (row, p)"])
def test_after_matmul(add: str) -> None:
    product = "p" if add else "t"
    graph, _ = rewrite(
        FoldBatchnorm(),
        f"""
        m (float[N, 4] x) => (float[N, 6] y) <float[4, 6] w, float[6] row, {norm(6)}>
        {{ {product} = MatMul (x, w)  {add}  y = BatchNormalization (t, scale, beta, mean, var) }}""",
        rtol=RTOL,
    )
    assert graph.ops() == ["MatMul", "Add"]


DISGUISES = [
    "t = Mul (c, g)  y = Add (t, h)",
    "t = Sub (c, h)  u = Div (t, scale)  v = Mul (g, u)  y = Add (h, v)",
    "y = Mul (one, c)",
    "y = Sub (h, c)",
    "y = Add (c, h)",
    "t = BatchNormalization (c, f, f, f, scale1)  y = Mul (t, g)",
]


@pytest.mark.parametrize("body", DISGUISES)
def test_batchnorms_in_disguise_after_conv(body: str) -> None:
    graph, _ = rewrite(
        FoldBatchnorm(),
        f"""
        m (float[1, 3, 6, 6] x) => (float[1, 4, 6, 6] y)
        <float[4, 3, 3, 3] w, float[4, 1, 1] g, float[1, 4, 1, 1] h, float[4, 1, 1] scale, float one,
         float[4] f, float[4] scale1>
        {{ c = Conv <pads = [1, 1, 1, 1]> (x, w)  {body} }}""",
        rtol=RTOL,
    )
    assert graph.ops() == ["Conv"]


@pytest.mark.parametrize("body", ["t = Mul (p, g)  y = Add (t, h)", "t = Add (p, h)  y = Mul (t, g)"])
@pytest.mark.parametrize("shape", ["2, 4", "2, 3, 4"])
def test_batchnorms_in_disguise_after_matmul(body: str, shape: str) -> None:
    graph, _ = rewrite(
        FoldBatchnorm(),
        f"""
        m (float[{shape}] x) => (float[{shape.replace("4", "6")}] y) <float[4, 6] w, float[6] g, float[6] h>
        {{ p = MatMul (x, w)  {body} }}""",
        rtol=RTOL,
    )
    assert graph.ops() == ["MatMul", "Add"]


def test_two_sums_after_matmul_become_one() -> None:
    graph, _ = rewrite(
        FoldBatchnorm(),
        """
        m (float[2, 4] x) => (float[2, 6] y) <float[4, 6] w, float[6] g, float[6] h>
        { p = MatMul (x, w)  t = Add (p, g)  y = Sub (t, h) }""",
        rtol=RTOL,
    )
    assert graph.ops() == ["MatMul", "Add"]


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("padding", ["", 'auto_pad = "VALID",'])
def test_before_an_unpadded_conv(group: int, padding: str) -> None:
    graph, _ = rewrite(
        FoldBatchnorm(),
        f"""
        m (float[1, 4, 6, 6] x) => (float[a, b, c, d] y)
        <float[6, {4 // group}, 3, 3] w, float[6] b, {norm(4)}>
        {{ t = BatchNormalization (x, scale, beta, mean, var)
           y = Conv <{padding} group = {group}> (t, w, b) }}""",
        rtol=RTOL,
    )
    assert graph.ops() == ["Conv"]


def test_a_scale_goes_through_padding() -> None:
    graph, _ = rewrite(
        FoldBatchnorm(),
        """
        m (float[1, 4, 6, 6] x) => (float[a, b, c, d] y) <float[6, 4, 3, 3] w, float[1, 4, 1, 1] g>
        { t = Div (x, g)  y = Conv <pads = [1, 1, 1, 1]> (t, w) }""",
        rtol=RTOL,
    )
    assert graph.ops() == ["Conv"]


@pytest.mark.parametrize(
    ("weight", "attributes"),
    [("float[4, 6] w", "alpha = 1.0"), ("float[6, 4] w", "transB = 1, alpha = 0.5, beta = 2.0")],
)
def test_before_gemm(weight: str, attributes: str) -> None:
    graph, _ = rewrite(
        FoldBatchnorm(),
        f"""
        m (float[N, 4] x) => (float[N, 6] y) <{weight}, float[6] b, {norm(4)}>
        {{ t = BatchNormalization (x, scale, beta, mean, var)  y = Gemm <{attributes}> (t, w, b) }}""",
        rtol=RTOL,
    )
    assert graph.ops() == ["Gemm"]


@pytest.mark.parametrize("opset", [7, 8, 9, 14, 15])
def test_all_versions_of_batchnormalization(opset: int) -> None:
    model = conv_bn_model()
    model.opset_import[0].version = opset
    graph, _ = rewrite(FoldBatchnorm(), model, rtol=RTOL)
    assert graph.ops() == ["Conv"]


def test_half_precision_weights() -> None:
    graph, _ = rewrite(
        FoldBatchnorm(),
        """
        m (float16[1, 3, 6, 6] x) => (float16[a, b, c, d] y)
        <float16[4, 3, 3, 3] w, float16[4] scale, float16[4] beta, float16[4] mean, float16[4] var>
        { t = Conv (x, w)  y = BatchNormalization (t, scale, beta, mean, var) }""",
        rtol=5e-3,
    )
    weight = graph.nodes("Conv")[0].inputs[1]
    assert weight is not None
    assert weight.dtype == np.float16


@pytest.mark.thorough
@given(epsilon=st.floats(1e-6, 1.0), seed=st.integers(0, 2**16), group=st.sampled_from([1, 2, 8]))
def test_any_statistics(epsilon: float, seed: int, group: int) -> None:
    rewrite(
        FoldBatchnorm(),
        parse_model(
            f"""
            m (float[1, 8, 4, 4] x) => (float[a, b, c, d] y) <float[8, {8 // group}, 3, 3] w, {norm(8)}>
            {{ t = Conv <group = {group}> (x, w)
               y = BatchNormalization <epsilon = {epsilon:.8f}> (t, scale, beta, mean, var) }}""",
            seed=seed,
        ),
        rtol=1e-4,
    )


def test_a_shared_weight_is_copied_for_the_layer_that_folds() -> None:
    graph, report = rewrite(
        FoldBatchnorm(),
        f"""
        m (float[1, 4, 6, 6] x) => (float[a, b, c, d] y) <float[4, 4, 3, 3] w, {norm(4)}>
        {{ t = Conv <pads = [1, 1, 1, 1]> (x, w)  u = BatchNormalization (t, scale, beta, mean, var)
           v = Relu (u)  y = Conv (v, w) }}""",
        rtol=RTOL,
    )
    assert graph.ops() == ["Conv", "Relu", "Conv"]
    assert [change.after for change in report.changes] == ["own copy of a weight that others share"]


def test_a_weight_that_is_a_graph_output_stays_as_it_is() -> None:
    graph, _ = rewrite(
        FoldBatchnorm(),
        f"""
        m (float[1, 4, 6, 6] x) => (float[a, b, c, d] y, float[4, 4, 3, 3] w) <float[4, 4, 3, 3] w, {norm(4)}>
        {{ t = Conv (x, w)  y = BatchNormalization (t, scale, beta, mean, var) }}""",
        rtol=RTOL,
    )
    assert "BatchNormalization" not in graph.ops()


def test_a_result_that_a_body_reads_keeps_its_name() -> None:
    graph, _ = rewrite(
        FoldBatchnorm(),
        f"""
        m (float[1, 4, 6, 6] x, bool k) => (float[1, 4, 6, 6] z) <float[4, 4, 1, 1] w, {norm(4)}>
        {{ t = Conv (x, w)  y = BatchNormalization (t, scale, beta, mean, var)
           z = If (k) <then_branch = g1 () => (float[1, 4, 6, 6] a) {{ a = Neg (y) }},
                       else_branch = g2 () => (float[1, 4, 6, 6] b) {{ b = Exp (y) }}> }}""",
        rtol=RTOL,
    )
    assert graph.ops() == ["Conv", "If"]


CONV = "t = Conv (x, w)  y = BatchNormalization"


@pytest.mark.parametrize(
    ("inputs", "outputs", "body", "reason"),
    [
        ("", "", "y = BatchNormalization (x, scale, beta, mean, var)", NO_LAYER),
        ("", "", "t = Relu (x)  y = BatchNormalization (t, scale, beta, mean, var)", NO_LAYER),
        ("", ", float[a, b, c, d] t", f"{CONV} (t, scale, beta, mean, var)", SHARED_INPUT),
        ("", "", f"{CONV} (t, scale, fed, mean, var)", "its parameters are not constant"),
        (
            "",
            "",
            "t = Conv (x, fed4)  y = BatchNormalization (t, scale, beta, mean, var)",
            "the weight of {layer} is not a float constant",
        ),
        (
            "",
            "",
            "t = Conv (x, w, fed)  y = BatchNormalization (t, scale, beta, mean, var)",
            "the bias of {layer} is not constant",
        ),
        ("", "", f"{CONV} (t, scale, beta, mean, negative)", "its variance is not positive"),
        ("", "", f"{CONV} (t, huge, beta, mean, tiny)", "the folded constants of {layer} are not finite"),
        (
            "",
            "",
            "t = BatchNormalization (x, scale, beta, mean, var)  y = Conv <pads = [1, 1, 1, 1]> (t, w)",
            "the padding of {layer} is not shifted",
        ),
        (
            "",
            ", float[a, b, e, f] t",
            "t = BatchNormalization (x, scale, beta, mean, var)  y = Conv (t, w)",
            SHARED_RESULT,
        ),
        (
            "",
            "",
            "t = BatchNormalization (x, scale, beta, mean, var)  y = Conv (t, fed4)",
            "the weight of {layer} is not a float constant",
        ),
        (
            "",
            "",
            "t = BatchNormalization (x, scale, fed, mean, var)  y = Conv (t, w)",
            "its parameters are not constant",
        ),
        ("", "", "t = Conv (x, w)  y = Mul (t, rows)", "its constant is not one number a channel"),
        ("", "", "t = Conv (x, w)  y = Div (t, zeros)", "it divides by zero"),
    ],
)
def test_why_a_norm_stays(inputs: str, outputs: str, body: str, reason: str) -> None:
    model = parse_model(f"""
        m (float[1, 4, 6, 6] x, float[4] fed, float[4, 4, 1, 1] fed4) => (float[a, b, c, d] y{outputs})
        <float[4, 4, 1, 1] w, float[1, 1, 6, 1] rows, float[4, 1, 1] zeros = {{0, 1, 1, 1}},
         float[4] negative = {{-1, 1, 1, 1}}, float[4] huge = {{3e38, 1, 1, 1}},
         float[4] tiny = {{0, 0, 0, 0}}, {norm(4)}> {{ {body} }}""")
    graph = LpGraph.from_proto(model)
    report = FoldBatchnorm().run(graph, CONTEXT)
    layer = next((n.name for n in graph.nodes("Conv")), "")
    assert report.changes == []
    assert [skip.reason for skip in report.skips] == [reason.format(layer=layer)]


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (
            f"""m (float[2, 3, 4] x) => (float[2, 3, 6] y) <float[4, 6] w, {norm(3)}>
            {{ t = MatMul (x, w)  y = BatchNormalization (t, scale, beta, mean, var) }}""",
            "its channels are not the columns of the matrix product",
        ),
        (
            f"""m (float[2, 4] x) => (float[2, 6] y) <float[4, 6] w, float[2, 1] row, {norm(6)}>
            {{ p = MatMul (x, w)  t = Add (p, row)  y = BatchNormalization (t, scale, beta, mean, var) }}""",
            "what is added before it is not one number a column",
        ),
        (
            f"""m (float[2, 4] x) => (float[2, 6] y) <float[4, 6] w, float[2, 6] c, {norm(6)}>
            {{ t = Gemm (x, w, c)  y = BatchNormalization (t, scale, beta, mean, var) }}""",
            "the bias of {layer} differs by row",
        ),
        (
            f"""m (float[4, 4] x) => (float[4, 6] y) <float[4, 6] w, {norm(4)}>
            {{ t = BatchNormalization (x, scale, beta, mean, var)  y = Gemm <transA = 1> (t, w) }}""",
            "{layer} transposes its input",
        ),
        (
            """m (float[2, 3, 4] x) => (float[2, 3, 6] y) <float[2, 4, 6] w, float[6] g>
            { t = MatMul (x, w)  y = Mul (t, g) }""",
            "the weight of {layer} is not a matrix",
        ),
        (
            """m (float[2, 2] x) => (float[2, 2] y)
            <float[2, 2] w, float[2] g = {2, 3e38}, float[2] row = {1, 9}>
            { p = MatMul (x, w)  t = Add (p, row)  y = Mul (t, g) }""",
            "the folded constants of {layer} are not finite",
        ),
        (
            """m (float[2, 2] x) => (float[2, 2] y)
            <float[2, 2] w = {9, 9, 9, 9}, float[2] g = {2, 3e38}, float[2] row = {0, 0}>
            { p = MatMul (x, w)  t = Add (p, row)  y = Mul (t, g) }""",
            "the folded constants of {layer} are not finite",
        ),
    ],
)
def test_why_a_norm_of_a_matrix_stays(model: str, reason: str) -> None:
    proto = parse_model(model)
    layer = next(n.name for n in LpGraph.from_proto(proto).nodes("Gemm", "MatMul"))
    assert left_alone(FoldBatchnorm(), proto) == [reason.format(layer=layer)]


@pytest.mark.parametrize(
    ("opset", "attributes", "outputs", "reason"),
    [
        (15, "training_mode = 1", "y, m1, v1", "it is in training mode"),
        (9, "", "y, m1, v1", "it has further outputs, as in training"),
        (7, "spatial = 0", "y", "it has statistics for every position (spatial=0)"),
    ],
)
def test_norms_that_train(opset: int, attributes: str, outputs: str, reason: str) -> None:
    # ONNX Runtime runs none of these forms at inference, so the unchanged text is the check.
    model = onnx.parser.parse_model(
        f"""
        <ir_version: 8, opset_import: ["" : {opset}]>
        m (float[1, 4, 6, 6] x) => (float[1, 4, 6, 6] y) <float[4, 4, 1, 1] w, {norm(4)}>
        {{ t = Conv (x, w)  {outputs} = BatchNormalization <{attributes}> (t, scale, beta, mean, var) }}
        """.replace("<> ", "")
    )
    for info in list(model.graph.value_info):
        shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(shape, np.float32), info.name))
    del model.graph.value_info[:]
    graph = LpGraph.from_proto(model)
    report = FoldBatchnorm().run(graph, CONTEXT)
    assert report.changes == []
    assert [skip.reason for skip in report.skips] == [reason]
    assert graph.ops() == ["Conv", "BatchNormalization"]


def test_a_quotient_of_the_other_kind_is_no_norm() -> None:
    model = """
        m (float[1, 4, 6, 6] x) => (float[1, 4, 6, 6] y) <float[4, 4, 1, 1] w, float[4, 1, 1] g>
        { t = Conv (x, w)  y = Div (g, t) }"""
    assert left_alone(FoldBatchnorm(), model) == []


@pytest.mark.parametrize("body", ["y = Add (t, u)", "y = Mul (t, half)", "y = Div (half, t)"])
def test_what_is_no_norm_is_passed_over_in_silence(body: str) -> None:
    model = f"""
        m (float[1, 4, 6, 6] x, float[1, 4, 6, 6] u) => (float[1, 4, 6, 6] y, float[1, 4, 6, 6] t)
        <float[4, 4, 1, 1] w, float half = {{0.5}}> {{ t = Conv (x, w)  {body} }}"""
    assert left_alone(FoldBatchnorm(), model) == []
