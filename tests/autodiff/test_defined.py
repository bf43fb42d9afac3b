"""Operators that are differentiated through their definition, and the definitions against ONNX Runtime."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto

from lpcompile.autodiff.reverse import add_gradients
from lpcompile.errors import GradientError
from lpcompile.ir.definitions import definition
from lpcompile.ir.graph import LpGraph
from tests.autodiff.agreement import assert_gradients
from tests.autodiff.gradients import probes_of, reverse_mode
from tests.support import assert_close, parse_model, random_feeds, run_model

ATTENTION = {
    "plain": "(double[2,5,8] q, double[2,5,8] k, double[2,5,8] v) => (double[2,5,8] y) "
    "{ y = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v) }",
    "of any length": "(double[N,T,8] q, double[N,T,8] k, double[N,T,8] v) => (double[N,T,8] y) "
    "{ y = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v) }",
    "causal": "(double[2,5,8] q, double[2,5,8] k, double[2,5,8] v) => (double[2,5,8] y) "
    "{ y = Attention <q_num_heads = 2, kv_num_heads = 2, is_causal = 1> (q, k, v) }",
    "grouped": "(double[2,5,8] q, double[2,6,4] k, double[2,6,4] v) => (double[2,5,8] y) "
    "{ y = Attention <q_num_heads = 4, kv_num_heads = 2, scale = 0.7> (q, k, v) }",
    "four axes, a mask": "(double[2,2,5,4] q, double[2,2,6,4] k, double[2,2,6,3] v) => (double[2,2,5,3] y) "
    "<double[5,6] m> { y = Attention (q, k, v, m) }",
    "capped": "(double[2,2,5,4] q, double[2,2,6,4] k, double[2,2,6,3] v) => (double[2,2,5,3] y) "
    "{ y = Attention <softcap = 2.0> (q, k, v) }",
}  # fmt: skip


def feeds_of(text: str, opset: int) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(3)
    graph = LpGraph.from_proto(parse_model(text, opset=opset, ir_version=10, check=False))
    lengths = {"N": 2, "T": 3}
    return {
        i.name: rng.normal(0, 0.7, [d if isinstance(d, int) else lengths[str(d)] for d in i.shape or ()])
        for i in graph.inputs
    }


@pytest.mark.parametrize("form", ATTENTION)
def test_attention(form: str) -> None:
    text = f"net {ATTENTION[form]}"
    assert_gradients(text, ["q", "k", "v"], feeds_of(text, 23), opset=23)


def test_attention_with_one_input_for_all_and_a_learned_mask() -> None:
    text = (
        "net (double[2,5,8] x) => (double[2,5,8] y) <double[5,5] m> "
        "{ y = Attention <q_num_heads = 2, kv_num_heads = 2> (x, x, x, m) }"
    )
    assert_gradients(text, ["x", "m"], opset=23)


@pytest.mark.parametrize(
    "text",
    [
        "(double[2,3,4,8] x) => (double[2,3,4,8] y) <double[2,4,4] c, double[2,4,4] s> "
        "{ y = RotaryEmbedding (x, c, s) }",
        "(double[2,3,4,8] x) => (double[2,3,4,8] y) <double[9,4] c, double[9,4] s, int64[2,4] p = {1,2,3,4,8,7,6,5}> "
        "{ y = RotaryEmbedding <interleaved = 1> (x, c, s, p) }",
        "(double[2,4,24] x) => (double[2,4,24] y) <double[2,4,2] c, double[2,4,2] s> "
        "{ y = RotaryEmbedding <num_heads = 3, rotary_embedding_dim = 4> (x, c, s) }",
    ],
)
def test_rotary_embedding(text: str) -> None:
    assert_gradients(f"net {text}", ["x", "c", "s"], opset=23)


@pytest.mark.parametrize("shape", ["3, 4, 3", "3, 7, 8"])
def test_center_crop_pad(shape: str) -> None:
    text = f"net (double[3,5,6] x) => (double[A,B,C] y) <int64[3] n = {{{shape}}}> {{ y = CenterCropPad (x, n) }}"
    assert_gradients(text, ["x"], opset=18)


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("aligned", [0, 1])
@pytest.mark.parametrize(("mode", "opset"), [("bilinear", 16), ("linear", 20), ("nearest", 20)])
def test_grid_sample(mode: str, opset: int, aligned: int, padding: str) -> None:
    """The definition is what ONNX Runtime gives; its gradients are differences."""
    text = (
        "net (double[2,3,4,5] x, double[2,3,2,2] g) => (double[2,3,3,2] y) "
        f'{{ y = GridSample <mode = "{mode}", align_corners = {aligned}, padding_mode = "{padding}"> (x, g) }}'
    )
    rng = np.random.default_rng(1)
    feeds = {"x": rng.normal(size=(2, 3, 4, 5)), "g": rng.uniform(-1.6, 1.6, (2, 3, 2, 2))}
    model = parse_model(text.replace("double", "float"), opset=opset)
    parts, _ = defined(model)
    floats = {n: a.astype(np.float32) for n, a in feeds.items()}
    assert_close(run_model(parts, floats)["y"], run_model(model, floats)["y"], 1e-5)
    if opset == 20:  # the reference evaluator knows no older form
        assert_gradients(text, ["x"], feeds, opset=opset, single=1e-3)
        # That of the grid by the definition: the reference evaluator computes places in float32.
        found = reverse_mode(parse_model(text, opset=opset), feeds, ["g"])["g"]
        wide, _ = defined(parse_model(text, opset=opset))
        probes = probes_of(run_model(wide, feeds))
        for at in [*np.ndindex(2, 3, 2, 2)][::5]:
            step = np.zeros((2, 3, 2, 2))
            step[at] = 1e-6
            more, less = (run_model(wide, {**feeds, "g": feeds["g"] + s})["y"] for s in (step, -step))
            slope = ((more - less) * probes["y"]).sum() / 2e-6
            assert np.isclose(0.0 if found is None else found[at], slope, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("opset", "text"),
    [
        (
            16,
            "net (float[1,1,4,4] x, float[1,2,2,2] g) => (float[1,1,2,2] y) "
            '{ y = GridSample <mode = "bicubic"> (x, g) }',
        ),
        (20, "net (float[1,1,4,4,4] x, float[1,2,2,2,3] g) => (float[1,1,2,2,2] y) { y = GridSample (x, g) }"),
    ],
)  # fmt: skip
def test_other_grids_have_no_gradient(opset: int, text: str) -> None:
    graph = LpGraph.from_proto(parse_model(text, opset=opset))
    shape = [int(d or 0) for d in graph.outputs[0].shape or ()]
    with pytest.raises(GradientError, match="this form of operator GridSample"):
        add_gradients(graph, {"y": graph.constant("seed", np.ones(shape, np.float32))}, ["x"])


HEADS = {
    "plain": "(float[2,5,8] q, float[2,5,8] k, float[2,5,8] v) => (float[] y) "
    "{ y = com.microsoft.MultiHeadAttention <num_heads = 2> (q, k, v) }",
    "causal, a bias": "(float[2,5,8] q, float[2,5,8] k, float[2,5,8] v) => (float[] y) <float[24] b> "
    "{ y = com.microsoft.MultiHeadAttention <num_heads = 2, unidirectional = 1> (q, k, v, b) }",
    "keys masked": "(float[2,5,8] q, float[2,6,8] k, float[2,6,4] v) => (float[] y) "
    "<int32[2,6] m = {1,1,1,1,0,0,1,1,1,1,1,1}> "
    "{ y = com.microsoft.MultiHeadAttention <num_heads = 2, scale = 0.9> (q, k, v, , m) }",
    "keys of each length": "(float[2,5,8] q, float[2,6,8] k, float[2,6,8] v) => (float[] y) <int32[2] m = {4, 6}> "
    "{ y = com.microsoft.MultiHeadAttention <num_heads = 2> (q, k, v, , m) }",
    "scores added": "(float[2,5,8] q, float[2,6,8] k, float[2,6,8] v) => (float[] y) <float[2,2,5,6] a> "
    "{ y = com.microsoft.MultiHeadAttention <num_heads = 2> (q, k, v, , , a) }",
}


@pytest.mark.parametrize("form", HEADS)
def test_heads_of_the_runtime_are_their_definition(form: str) -> None:
    """It has kernels for float32 only: its definition, which is differentiated, is compared with it."""
    model = heads(HEADS[form])
    parts, whole = defined(model)
    assert_close(run_model(parts, whole)["y"], run_model(model, random_feeds(model))["y"], 1e-6)


@pytest.mark.parametrize("form", HEADS)
def test_multi_head_attention(form: str) -> None:
    """The gradients of the operator in float32 are those of its definition in float64."""
    model, wanted = heads(HEADS[form]), ["q", "k", "v"]
    parts, whole = defined(model)
    ours = reverse_mode(model, random_feeds(model), wanted, run_model)
    oracle = reverse_mode(parts, whole, wanted, run_model)
    for name in wanted:
        assert_close(ours[name], oracle[name], 1e-5, name)
        assert np.abs(np.asarray(ours[name])).max() > 0.01


GROUPS = {  # attributes; batch, new places, places of the past; how many there are of each sample
    "plain": ("", (2, 5, 0), (5, 5)),
    "a past": ("", (1, 3, 4), (7,)),
    "one token": ("do_rotary = 1,", (3, 1, 6), (7, 7, 7)),
    "rotated": ("do_rotary = 1,", (2, 5, 0), (5, 5)),
    "rotated in pairs": ("do_rotary = 1, rotary_interleaved = 1,", (1, 2, 4), (6,)),
    "padded at the end": ("do_rotary = 1,", (2, 5, 0), (3, 5)),
    "pasts of each length": ("do_rotary = 1,", (2, 1, 6), (4, 7)),
    "scaled and capped": ("scale = 0.4, softcap = 3.0,", (1, 4, 3), (7,)),
}


def grouped(form: str, *, packed: bool) -> tuple[ModelProto, dict[str, NDArray[Any]]]:
    """Four heads of sixteen numbers that share two of keys, and what it is fed."""
    attributes, (batch, new, past), places = GROUPS[form]
    widths = "float[B,S,128] q" if packed else "float[B,S,64] q, float[B,S,32] k, float[B,S,32] v"
    given = "q, , " if packed else "q, k, v"
    rotates = ", c, s" if "do_rotary" in attributes else ""
    held = ("float[B,2,P,16] pk, float[B,2,P,16] pv, ", "pk, pv") if past else ("", ", ")
    call = f"GroupQueryAttention <{attributes} num_heads = 4, kv_num_heads = 2> ({given}, {held[1]}, n, t{rotates})"
    model = heads(
        f"({widths}, {held[0]}int32[B] n, int32[1] t, float[9,8] c, float[9,8] s) => "
        f"(float[] y, float[] nk, float[] nv) {{ y, nk, nv = com.microsoft.{call} }}"
    )
    rng, sizes = np.random.default_rng(4), {"B": batch, "S": new, "P": past}
    feeds = {
        i.name: rng.normal(0, 0.7, [d.dim_value or sizes[d.dim_param] for d in i.type.tensor_type.shape.dim])
        for i in model.graph.input
    }
    angles = np.arange(9)[:, None] * 0.5 ** np.arange(8)
    feeds |= {"c": np.cos(angles), "s": np.sin(angles)}
    found: dict[str, NDArray[Any]] = {k: np.asarray(v, np.float32) for k, v in feeds.items()}
    return model, found | {"n": np.array(places, np.int32) - 1, "t": np.array([max(places)], np.int32)}


def grouped_parts(model: ModelProto) -> ModelProto:
    graph = LpGraph.from_proto(model)
    (node,) = graph.nodes()
    parts = definition(node, graph.opset)
    assert parts is not None
    return parts.to_proto()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", GROUPS)
def test_heads_that_share_keys_are_their_definition(form: str, packed: bool) -> None:
    """What places behind the end of a sample give is no one's."""
    model, feeds = grouped(form, packed=packed)
    parts = grouped_parts(model)
    ours = run_model(parts, {i.name: feeds[i.name] for i in parts.graph.input})
    runtimes = run_model(model, feeds)
    counts = GROUPS[form][2]
    for sample, places in enumerate(counts):
        seen = min(feeds["q"].shape[1], places)
        assert_close(ours["y"][sample, :seen], runtimes["y"][sample, :seen], 2e-6)
    for name in ("nk", "nv") if len(set(counts)) == 1 else ():
        assert_close(ours[name], runtimes[name], 1e-6)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", ["plain", "rotated in pairs", "pasts of each length", "scaled and capped"])
def test_group_query_attention(form: str, packed: bool) -> None:
    """The gradients of the operator in float32 are those of its definition in float64."""
    model, feeds = grouped(form, packed=packed)
    parts, wanted = grouped_parts(model), ["q"] if packed else ["q", "k", "v"]
    ours = reverse_mode(model, feeds, wanted, run_model)
    oracle = reverse_mode(parts, {i.name: feeds[i.name] for i in parts.graph.input}, wanted, run_model)
    for name in wanted:
        assert_close(ours[name], oracle[name], 1e-5, name)
        assert np.abs(np.asarray(ours[name])).max() > 0.01


ODD = [
    "(float[1,5,64] q, float[1,5,32] k, int32[1] n, int32[1] t, float[9] c) => (float[] y) "
    "{ y = com.microsoft.GroupQueryAttention <num_heads=4, kv_num_heads=2, do_rotary=1> (q, k, k, , , n, t, c, c) }",
    "(float[1,5,64] q, float[32] k, int32[1] n, int32[1] t) => (float[] y) "
    "{ y = com.microsoft.GroupQueryAttention <num_heads=4, kv_num_heads=2> (q, k, k, , , n, t) }",
    "(float[1,5,64] q, float[1,5,32] k, float[3] p, int32[1] n, int32[1] t) => (float[] y, float[7] z) "
    "{ y, z = com.microsoft.GroupQueryAttention <num_heads=4, kv_num_heads=2> (q, k, k, p, p, n, t) }",
    "(float[1,5,64] q, float[1,5,32] k, int32[1] n, int32[1] t) => (float[] y) "
    '{ y = com.microsoft.GroupQueryAttention <num_heads=4, kv_num_heads=2, scale="x"> (q, k, k, , , n, t) }',
    "(float[1,5,64] q, int64[1] p, float[9] c) => (float[] y) { y = com.microsoft.RotaryEmbedding (q, p, c, c) }",
    "(float[1,5,64] q, int64[1] p, float[9,4] c) => (float[] y) "
    '{ y = com.microsoft.RotaryEmbedding <scale="x"> (q, p, c, c) }',
    '(float[1,5,64] q) => (float[] y) { y = com.microsoft.MultiHeadAttention <num_heads=4, scale="x"> (q, q, q) }',
]


@pytest.mark.parametrize("text", ODD)
def test_tensors_and_numbers_of_another_kind_have_no_definition(text: str) -> None:
    graph = LpGraph.from_proto(heads(text))
    (node,) = graph.nodes()
    assert definition(node, graph.opset) is None


@pytest.mark.parametrize(
    "call",
    [
        "GroupQueryAttention <num_heads = 0, kv_num_heads = 2> (q, k, k, , , n, t)",
        "GroupQueryAttention <num_heads = 4, kv_num_heads = 3> (q, k, k, , , n, t)",
        "GroupQueryAttention <num_heads = -4, kv_num_heads = -2> (q, , , , , n, t)",
        'GroupQueryAttention <num_heads = "4", kv_num_heads = 2> (q, k, k, , , n, t)',
        "GroupQueryAttention <kv_num_heads = 2> (q, k, k, , , n, t)",
        "GroupQueryAttention <num_heads = 4, kv_num_heads = 2> (q, q, q, , , n, t)",
        "MultiHeadAttention <num_heads = 0> (q, q, q)",
        "MultiHeadAttention (q, q, q)",
    ],
)
def test_numbers_of_heads_that_make_no_sense_have_no_definition(call: str) -> None:
    graph = LpGraph.from_proto(
        heads(
            "(float[1,5,64] q, float[1,5,32] k, int32[1] n, int32[1] t) => (float[] y) "
            f"{{ y = com.microsoft.{call} }}"
        )
    )
    graph.infer_shapes()
    (node,) = graph.nodes()
    assert definition(node, graph.opset) is None


@pytest.mark.parametrize(
    ("attributes", "outputs"),
    [
        ("local_window_size = 2,", "float[1,2,T,16] nk"),
        ("", "float[1,2,P,16] nk"),
        ("smooth_softmax = 1,", "float[] nk"),
    ],
)
def test_other_forms_of_shared_keys_have_no_definition(attributes: str, outputs: str) -> None:
    """A window, one buffer of past and present, a sink."""
    graph = LpGraph.from_proto(
        heads(
            f"(float[1,1,64] q, float[1,1,32] k, float[1,2,P,16] p, int32[1] n, int32[1] t) => (float[] y, {outputs}) "
            f"{{ y, nk = com.microsoft.GroupQueryAttention <{attributes} num_heads = 4, kv_num_heads = 2> "
            "(q, k, k, p, p, n, t) }"
        )
    )
    (node,) = graph.nodes()
    assert definition(node, graph.opset) is None


TABLES = "float[9,4] c, float[9,4] s"
EACH = f"<int64[2,5] p = {{0,1,2,3,4,3,4,5,6,7}}, {TABLES}>"
ROTATIONS = {
    "heads joined": f"(float[2,5,32] x) => (float[] y) {EACH} {{ y = com.microsoft.RotaryEmbedding (x, p, c, s) }}",
    "in pairs": f"(float[2,5,32] x) => (float[] y) {EACH} "
    "{ y = com.microsoft.RotaryEmbedding <interleaved = 1> (x, p, c, s) }",
    "heads apart, from a place on": f"(float[2,3,5,8] x) => (float[] y) <int64[1] p = {{2}}, {TABLES}> "
    "{ y = com.microsoft.RotaryEmbedding (x, p, c, s) }",
    "half of each head": f"(float[2,5,32] x) => (float[] y) <int64[1] p = {{0}}, {TABLES}> "
    "{ y = com.microsoft.RotaryEmbedding <num_heads = 2, rotary_embedding_dim = 8> (x, p, c, s) }",
}


@pytest.mark.parametrize("form", ROTATIONS)
def test_rotations_of_the_runtime(form: str) -> None:
    """They are their definition; gradients in float32 are those of that in float64."""
    model = heads(ROTATIONS[form])
    parts, whole = defined(model)
    feeds = random_feeds(model)
    assert_close(run_model(parts, whole)["y"], run_model(model, feeds)["y"], 1e-6)
    ours, oracle = reverse_mode(model, feeds, ["x"], run_model), reverse_mode(parts, whole, ["x"], run_model)
    assert_close(ours["x"], oracle["x"], 1e-5)
    assert np.abs(np.asarray(ours["x"])).max() > 0.01


@pytest.mark.parametrize(
    "text",
    [
        "(float[2,5,1,3,8] q) => (float[] y) { y = com.microsoft.MultiHeadAttention <num_heads = 1> (q) }",
        "(float[2,5,8] q, float[2,5,8] k, float[2,5,8] v, int32[8] m) => (float[] y) "
        "{ y = com.microsoft.MultiHeadAttention <num_heads = 2> (q, k, v, , m) }",
        "(float[2,5,8] q, float[2,5,8] k, float[2,5,8] v, float[2,2,3,4] p) => (float[] y) "
        "{ y = com.microsoft.MultiHeadAttention <num_heads = 2> (q, k, v, , , , p, p) }",
    ],
)
def test_other_forms_have_no_gradient(text: str) -> None:
    graph = LpGraph.from_proto(heads(text))
    seed = graph.constant("seed", np.ones((2, 5, 8), np.float32))
    with pytest.raises(GradientError, match=r"this form of operator com\.microsoft::MultiHeadAttention"):
        add_gradients(graph, {"y": seed}, ["q"])


def heads(text: str, opset: int = 13) -> ModelProto:
    return parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1]> net {text}', check=False
    )


def defined(model: ModelProto) -> tuple[ModelProto, dict[str, NDArray[Any]]]:
    """The definition of a model's only node, and what it is fed: inputs and weights."""
    graph = LpGraph.from_proto(model)
    (node,) = graph.nodes()
    parts = definition(node, graph.opset)
    assert parts is not None
    feeds = random_feeds(model)
    whole = {i.name: feeds[i.name] if i.name in feeds else graph.value(i.name).values for i in parts.inputs}
    return parts.to_proto(), whole
