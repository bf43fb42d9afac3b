"""Raising the opset changes no output, or says why it cannot be done."""

import onnx
import pytest

from lpcompile.ir.graph import LpGraph
from lpcompile.ir.verify import verify_graph
from tests.support import assert_same_outputs, parse_model

# (from, types, nodes): every operator whose form or meaning changed between 7 and 18 and that models use.
CASES = {
    "conv-bn": (
        7,
        "float[1,3,6,6] x) => (float[1,4,6,6] y)"
        " <float[4,3,3,3] w, float[4] scale, float[4] b, float[4] m, float[4] var>",
        "t = Conv <pads = [1,1,1,1]> (x, w)  y = BatchNormalization (t, scale, b, m, var)",
    ),
    "dropout": (7, "float[2,3] x) => (float[2,3] y)", "t = Dropout <ratio = 0.4> (x)  y = Relu (t)"),
    "dropout-mask-unread": (7, "float[2,3] x) => (float[2,3] y)", "t, mask = Dropout (x)  y = Relu (t)"),
    "clip": (
        8,
        "float[2,9] x) => (float[2,9] y)",
        "t = Clip <min = -0.5, max = 0.5> (x)  y = Clip <min = 0.0> (t)",
    ),
    "clip-none": (8, "float[2,9] x) => (float[2,9] y)", "y = Clip (x)"),
    "pad": (8, "float[2,3] x) => (float[4,6] y)", "y = Pad <pads = [1,2,1,1], value = 1.5> (x)"),
    "pad-reflect": (8, "float[3,3] x) => (float[5,5] y)", 'y = Pad <pads = [1,1,1,1], mode = "reflect"> (x)'),
    "squeeze": (
        8,
        "float[2,1,3,1] x) => (float[2,3] y, float[2,1,3] z)",
        "y = Squeeze <axes = [1,3]> (x)  z = Unsqueeze <axes = [1]> (y)",
    ),
    "squeeze-all": (11, "float[2,1,3,1] x) => (float[2,3] y)", "y = Squeeze (x)"),
    "reduce-sum": (
        8,
        "float[2,3,4] x) => (float[2,1,4] y, float[2,3] z, float[1,1,1] s)",
        "y = ReduceSum <axes = [1]> (x)  z = ReduceSum <axes = [2], keepdims = 0> (x)  s = ReduceSum (x)",
    ),
    "reduce-mean": (
        11,
        "float[2,3,4] x) => (float[2,1,4] y, float[2,3] z)",
        "y = ReduceMean <axes = [1]> (x)  z = ReduceMax <axes = [-1], keepdims = 0> (x)",
    ),
    "softmax-last": (8, "float[2,3,4] x) => (float[2,3,4] y)", "y = Softmax <axis = 2> (x)"),
    "softmax-flattened": (8, "float[2,3,4] x) => (float[2,3,4] y)", "y = Softmax (x)"),
    "softmax-symbolic": (11, "float[N,3,4] x) => (float[N,3,4] y)", "y = LogSoftmax <axis = 1> (x)"),
    "hardmax": (11, "float[2,3,4] x) => (float[2,3,4] y)", "y = Hardmax <axis = -1> (x)"),
    "upsample-nearest": (
        8,
        "float[1,2,3,3] x) => (float[1,2,6,9] y)",
        'y = Upsample <mode = "nearest", scales = [1.0, 1.0, 2.0, 3.0]> (x)',
    ),
    "upsample-linear": (
        8,
        "float[1,2,3,3] x) => (float[1,2,6,6] y)",
        'y = Upsample <mode = "linear", scales = [1.0, 1.0, 2.0, 2.0]> (x)',
    ),
    "upsample-9": (
        9,
        "float[1,2,3,3] x) => (float[1,2,6,6] y) <float[4] s = {1, 1, 2, 2}>",
        'y = Upsample <mode = "linear"> (x, s)',
    ),
    "resize-10": (
        10,
        "float[1,2,5,5] x) => (float[1,2,3,3] y, float[1,2,8,8] z, float[1,2,8,8] v)"
        " <float[4] s = {1, 1, 0.6, 0.6}, float[4] u = {1, 1, 1.6, 1.6}>",
        'y = Resize <mode = "nearest"> (x, s)  z = Resize <mode = "linear"> (x, u)  v = Resize (x, u)',
    ),
    "resize-11": (
        11,
        "float[1,2,3,3] x) => (float[1,2,6,6] y) <float[0] roi = {}, float[4] s = {1, 1, 2, 2}>",
        'y = Resize <mode = "cubic"> (x, roi, s)',
    ),
    "slice": (
        8,
        "float[4,5] x) => (float[2,3] y)",
        "y = Slice <axes = [0,1], starts = [1,-4], ends = [3,-1]> (x)",
    ),
    "topk": (8, "float[2,5] x) => (float[2,2] y, int64[2,2] i)", "y, i = TopK <k = 2, axis = 1> (x)"),
    "split": (
        11,
        "float[2,5] x) => (float[2,2] y, float[2,3] z)",
        "y, z = Split <axis = 1, split = [2,3]> (x)",
    ),
    "split-even": (11, "float[2,6] x) => (float[2,3] y, float[2,3] z)", "y, z = Split <axis = 1> (x)"),
    "roi-align": (
        10,
        "float[1,2,6,6] x) => (float[1,2,2,2] y) <float[1,4] rois = {0.5, 1, 4, 5}, int64[1] batch = {0}>",
        "y = RoiAlign <output_height = 2, output_width = 2, sampling_ratio = 2> (x, rois, batch)",
    ),
    "pool": (
        8,
        "float[1,2,7,7] x) => (float[1,2,3,3] y, float[1,2,4,4] z)",
        "y = MaxPool <kernel_shape = [3,3], strides = [2,2]> (x)"
        "  z = AveragePool <kernel_shape = [3,3], strides = [2,2], pads = [1,1,1,1]> (x)",
    ),
    "lstm": (
        7,
        "float[3,1,2] x) => (float[3,1,1,4] y) <float[1,16,2] w, float[1,16,4] r>",
        "y = LSTM <hidden_size = 4> (x, w, r)",
    ),
    "prelu-gemm-matmul": (
        7,
        "float[2,4] x) => (float[2,4] y) <float[4] slope, float[4,4] w, float[4] b>",
        "t = PRelu (x, slope)  u = Gemm (t, w, b)  v = MatMul (u, w)  y = Sum (u, v, x)",
    ),
    "shapes": (
        8,
        "float[2,3,4] x) => (float[2,12] y, int64[3] s) <int64[2] shape = {0, -1}>",
        "t = Reshape (x, shape)  s = Shape (x)  y = Flatten <axis = 1> (t)",
    ),
}


@pytest.mark.sweep
@pytest.mark.parametrize("to", [13, 18, 21])
@pytest.mark.parametrize("case", CASES)
def test_outputs_stay(case: str, to: int) -> None:
    since, types, nodes = CASES[case]
    before = parse_model(f"g ({types} {{ {nodes} }}", opset=since)
    graph = LpGraph.from_proto(before)
    tensors = {
        t.name for n in graph.nodes() for t in n.outputs if t is not None and (t.consumers or t.is_output)
    }
    names = {n.name for n in graph.nodes()}
    assert graph.raise_opset(to) is None
    assert graph.opset == to
    assert graph.notes == [f"opset raised from {since} to {to}"]
    verify_graph(graph)
    after = graph.to_proto()
    onnx.checker.check_model(after, full_check=True)
    assert_same_outputs(before, after, rtol=1e-6)
    assert tensors <= {o for n in after.graph.node for o in n.output}
    assert names <= {n.name for n in after.graph.node}


REFUSED = {
    "spatial batch norm": (
        8,
        13,
        "float[1,3,2] x) => (float[1,3,2] y) <float[3,2] scale, float[3,2] b, float[3,2] m, float[3,2] var>",
        "y = BatchNormalization <spatial = 0> (x, scale, b, m, var)",
        "statistics per element",
    ),
    "hardmax over several axes": (
        8,
        13,
        "float[2,3,4] x) => (float[2,3,4] y)",
        "y = Hardmax (x)",
        "last axis",
    ),
    "uneven resize": (
        10,
        13,
        "float[1,2,5,5] x) => (float[1,2,3,8] y) <float[4] s = {1, 1, 0.6, 1.6}>",
        "y = Resize (x, s)",
        "different rounding",
    ),
    "mask": (8, 13, "float[2] x) => (float[2] y, float[2] m)", "y, m = Dropout (x)", "mask changes"),
    "too new": (13, 999, "float[2] x) => (float[2] y)", "y = Relu (x)", "knows opsets up to"),
    "too old": (5, 13, "float[2] x) => (float[2] y)", "y = Relu (x)", "older than"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_leave_the_graph_as_it_was(case: str) -> None:
    since, to, types, nodes, reason = REFUSED[case]
    model = parse_model(f"g ({types} {{ {nodes} }}", opset=since, check=False)
    graph = LpGraph.from_proto(model)
    before = graph.to_proto()
    assert reason in (graph.raise_opset(to) or "")
    assert graph.to_proto() == before
    assert not graph.notes


def body_model(nodes: str, opset: int) -> LpGraph:
    return LpGraph.from_proto(
        onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : {opset}]>
        g (bool c, float[2,3] x) => (float[2,3] y) {{
            y = If (c) <then_branch = a () => (float[2,3] p) {{ {nodes} }},
                        else_branch = b () => (float[2,3] q) {{ q = Neg (x) }}>
        }}""")
    )


def test_bodies_are_left_alone_or_refused() -> None:
    safe = body_model("p = Relu (x)", 11)
    before = safe.to_proto()
    assert safe.raise_opset(17) is None
    assert_same_outputs(before, safe.to_proto())
    unsafe = body_model("p = Softmax (x)", 11)
    assert unsafe.raise_opset(17) == "node 'If_0' (If): Softmax in its body would have to be rewritten"
    assert unsafe.opset == 11


def test_nothing_to_do() -> None:
    graph = LpGraph.from_proto(parse_model("g (float[2] x) => (float[2] y) { y = Relu (x) }"))
    assert graph.raise_opset(13) is None
    assert graph.opset == 17
    assert not graph.notes


def test_nodes_that_mean_the_same_are_not_touched() -> None:
    model = parse_model("g (float[2,3] x) => (float[2,3] y) <float[3,3] w> { y = MatMul (x, w) }", opset=8)
    graph = LpGraph.from_proto(model)
    node = graph.nodes()[0]
    node.metadata["k"] = "v"
    assert graph.raise_opset(17) is None
    assert graph.nodes() == [node]


def test_rewritten_nodes_keep_their_metadata() -> None:
    text = (
        "g (float[2,300] x) => (float[2,300] y) <float[2,300] w> {t = Add (x, w)  y = Clip <max = 1.0> (t)}"
    )
    model = parse_model(text, opset=8)
    graph = LpGraph.from_proto(model)
    graph.nodes("Clip")[0].metadata["k"] = "v"
    assert graph.raise_opset(13) is None
    assert graph.nodes("Clip")[0].metadata == {"k": "v"}
    assert graph.value("w").nbytes == 2400
