"""`equalize`: the float network stays whatever the factors are, what may not be scaled says why, and rounding gains."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, numpy_helper

from lpcompile.errors import PassOptionError
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.scaling_groups import ScalingGroup, scaling_groups
from lpcompile.passes.scaling_folds import fold, fold_obstacle
from lpcompile.pipeline import Pipeline
from lpcompile.plan import ActivationOptions
from lpcompile.registry import pass_class, split_pipeline
from tests.quantizing import GRAPH_PASSES, NO_COSTS, Quantized, quantized
from tests.support import assert_same_outputs, graph_of, parse_model

EQUAL = f"{GRAPH_PASSES},equalize"
PLAN = f"{NO_COSTS},quantize-weights{{format=fixp4,rule=output-mse}},correct-bias"

SCALABLE = {
    "convolutions": """m (float[2,4,9,9] x) => (float[2,5,5,5] y)
        <float[8,4,3,3] w1, float[8] b1, float[5,8,3,3] w2, float[5] b2> {
        a = Conv (x, w1, b1)  r = Relu (a)  y = Conv (r, w2, b2) }""",
    "depthwise": """m (float[2,4,9,9] x) => (float[2,8,5,5] y) <float[8,4,3,3] w1, float[8,1,3,3] w2, float[8,1,1] s> {
        a = Conv (x, w1)  r = PRelu (a, s)  y = Conv <group = 8> (r, w2) }""",
    "two readers, one pooled": """m (float[2,4,9,9] x) => (float[2,5,3,3] y, float[2,6,7,7] z)
        <float[8,4,3,3] w1, float[5,8,1,1] w2, float[6,4,1,1] w3> { a = Conv (x, w1)  r = LeakyRelu (a)
        p = AveragePool <kernel_shape = [2,2], strides = [2,2]> (r)
        y = Conv (p, w2)  z = Conv <group = 2> (r, w3) }""",
    "residual stream": """m (float[2,4,6,6] x) => (float[2,3] y)
        <float[8,4,1,1] w1, float[8] b1, float[8,8,1,1] w2, float[8] b2, float[8,3] w3> {
        a = Conv (x, w1, b1)  r = Relu (a)  c = Conv (r, w2, b2)  s = Add (r, c)  t = Relu (s)
        p = GlobalAveragePool (t)  f = Flatten (p)  y = Gemm (f, w3) }""",
    "joined": """m (float[2,4,6,6] x) => (float[2,5,6,6] y) <float[8,4,1,1] w1, float[6,4,1,1] w2, float[5,14,1,1] w3> {
        a = Conv (x, w1)  b = Conv (x, w2)  r = Relu (a)  s = Relu (b)  c = Concat <axis = 1> (r, s)
        y = Conv (c, w3) }""",
    "padded": """m (float[2,4,6,6] x) => (float[2,5,3,3] y)
        <float[6,4,1,1] w1, float[5,10,1,1] w2, int64[8] pads = {0, 2, 0, 0, 0, 2, 0, 0},
         int64[2] starts = {0, 0}, int64[2] ends = {6, 6}, int64[2] axes = {2, 3}, int64[2] steps = {2, 2}> {
        a = Conv (x, w1)  r = Relu (a)  s = Slice (r, starts, ends, axes, steps)  p = Pad (s, pads)
        y = Conv (p, w2) }""",
    "padded along two axes": """m (float[2,3,8] x) => (float[2,7] y)
        <float[8] g, float[36,7] w, int64[6] pads = {0, 0, 1, 0, 1, 0}> { n = LayerNormalization <axis = -1> (x, g)
        p = Pad (n, pads)  f = Flatten (p)  y = MatMul (f, w) }""",
    "matrix products": """m (float[2,5,6] x) => (float[2,5,3] y) <float[6,8] w1, float[8] b1, float[8,3] w2> {
        a = MatMul (x, w1)  b = Add (b1, a)  r = Relu (b)  y = MatMul (r, w2) }""",
    "norm": """m (float[2,5,8] x) => (float[2,5,3] y, float[2,5,4] z)
        <float[8] g, float[8] h, float[8,3] w1, float[8,4] w2> {
        n = LayerNormalization <axis = -1> (x, g, h)  y = MatMul (n, w1)  z = MatMul (n, w2) }""",
    "norm of single operators": """m (float[2,5,8] x) => (float[2,5,3] y) <float[8] g, float[8] h, float[8,3] w> {
        s = Softmax (x)  n = Mul (s, g)  t = Add (n, h)  y = MatMul (t, w) }""",
    "division by channel": """m (float[2,5,8] x) => (float[2,5,3] y) <float[8] scale, float[8,3] w> {
        s = Softmax (x)  n = Div (s, scale)  y = MatMul (n, w) }""",
    "batch norm": """m (float[2,8,5,5] x) => (float[2,3,5,5] y)
        <float[8] g, float[8] h, float[8] mean, float[8] var, float[3,8,1,1] w> {
        s = Softmax (x)  n = BatchNormalization (s, g, h, mean, var)  r = Relu (n)  y = Conv (r, w) }""",
    "gate": """m (float[2,5,6] x) => (float[2,5,3] y) <float[6,8] w1, float[6,8] w2, float[8,3] w3> {
        a = MatMul (x, w1)  b = MatMul (x, w2)  g = Sigmoid (a)  p = Mul (g, b)  y = MatMul (p, w3) }""",
    "transposed convolution": """m (float[2,4,5,5] x) => (float[2,3,6,6] y) <float[4,8,2,2] w1, float[3,8,1,1] w2> {
        a = ConvTranspose (x, w1)  r = Relu (a)  y = Conv (r, w2) }""",
    "reduced": """m (float[2,4,6,6] x) => (float[2,3] y) <float[8,4,1,1] w1, float[8,3] w2> {
        a = Conv (x, w1)  r = Relu (a)  p = ReduceMean <axes = [2,3], keepdims = 0> (r)  y = MatMul (p, w2) }""",
    "values of attention": """m (float[2,5,8] x) => (float[2,5,3] y)
        <float[8,24] w1, float[24] b1, float[8,3] w2, int64[4] heads = {0, 0, 2, 4}, int64[3] flat = {0, 0, 8}> {
        a = MatMul (x, w1)  b = Add (a, b1)  q, k, v = Split <axis = 2> (b)
        qh = Reshape (q, heads)  qt = Transpose <perm = [0,2,1,3]> (qh)
        kh = Reshape (k, heads)  kt = Transpose <perm = [0,2,3,1]> (kh)
        vh = Reshape (v, heads)  vt = Transpose <perm = [0,2,1,3]> (vh)
        s = MatMul (qt, kt)  p = Softmax (s)  o = MatMul (p, vt)  ot = Transpose <perm = [0,2,1,3]> (o)
        f = Reshape (ot, flat)  y = MatMul (f, w2) }""",
}


def free(groups: list[ScalingGroup]) -> int:
    return sum(g.size - 1 for g in groups)


@pytest.mark.sweep
@pytest.mark.parametrize("what", SCALABLE)
@given(seed=st.integers(0, 2**16))
@settings(max_examples=5, deadline=None)
def test_any_factors_leave_the_float_network(what: str, seed: int) -> None:
    graph = graph_of(SCALABLE[what])
    groups, _ = scaling_groups(graph)
    assert free(groups) >= 8 - 2 * (what == "padded")
    rng = np.random.default_rng(seed)
    for group in groups:
        assert fold_obstacle(group) == ""
        s = rng.uniform(0.1, 4, group.size)
        s[0] = 1
        fold(graph, group, s)
    after = graph.to_proto()
    before = parse_model(SCALABLE[what])
    assert after.graph.node != before.graph.node  # tensors are renamed
    assert_same_outputs(before, after, rtol=1e-5, seed=seed)


def test_only_values_of_attention_are_free() -> None:
    (group,), _ = scaling_groups(graph_of(SCALABLE["values of attention"]))
    written = next(p for p in group.parts if p.node.op == "MatMul" and len(p.index) == 24)
    assert not written.index[:16].any()
    assert len(np.unique(written.index[16:])) == 8 == group.size - 1


def test_factors_of_a_scale_are_those_of_each_channel() -> None:
    graph = graph_of(SCALABLE["norm"])
    (group,), _ = scaling_groups(graph)
    before = {n: graph.value(n).values.astype(np.float64) for n in ("g", "h", "w1")}
    s = np.concatenate([[1.0], np.linspace(0.5, 2, 8)])
    fold(graph, group, s)
    norm, first = graph.nodes("LayerNormalization")[0], graph.nodes("MatMul")[0]
    index = group.tensors[next(iter(group.tensors))].reshape(-1)
    for value, name in zip(norm.inputs[1:], "gh", strict=True):
        assert value is not None
        np.testing.assert_allclose(value.values, before[name] / s[index], rtol=1e-6)
    assert first.inputs[1] is not None
    np.testing.assert_allclose(first.inputs[1].values, before["w1"] * s[index][:, None], rtol=1e-6)


def test_shared_weights_are_not_scaled_for_others() -> None:
    text = """m (float[2,5,8] x) => (float[2,5,8] y, float[2,5,8] z) <float[8] g, float[8,8] w> {
        n = LayerNormalization <axis = -1> (x, g)  y = MatMul (n, w)  z = MatMul (x, w) }"""
    graph = graph_of(text)
    groups, skipped = scaling_groups(graph)
    assert [g.size for g in groups] == [9]
    assert len(skipped) == 1
    fold(graph, groups[0], np.linspace(1, 2, 9))
    assert_same_outputs(parse_model(text), graph.to_proto(), rtol=1e-5)


def test_what_a_body_reads_stays() -> None:
    text = """m (float[2,5,8] x, bool c) => (float[2,5,3] y, float[2,5,8] z) <float[8] g, float[8,3] w> {
        n = LayerNormalization <axis = -1> (x, g)  y = MatMul (n, w)
        z = If (c) <then_branch = a () => (float[2,5,8] t) { t = Relu (n) },
                    else_branch = b () => (float[2,5,8] e) { e = Neg (n) }> }"""
    groups, skipped = scaling_groups(graph_of(text))
    assert groups == []
    assert list(skipped.values()) == ["its result is read from outside"]


HELD = {
    "'x' is a graph input": "y = MatMul (x, w)",
    "its result is read from outside": "y = LayerNormalization <axis = -1> (x, g)  z = MatMul (y, w)",
    "Sigmoid makes its input": "a = Sigmoid (x)  y = MatMul (a, w)",
    "Softmax reads its result": "n = LayerNormalization <axis = -1> (x, g)  z = MatMul (n, w)  y = Softmax (n)",
    "LayerNormalization reads its result": """n = LayerNormalization <axis = -1> (x, g)  z = MatMul (n, w)
        y = LayerNormalization <axis = -1> (n, g)""",
    "a product of two tensors makes its input": "a = Sigmoid (x)  b = Tanh (x)  p = Mul (a, b)  y = MatMul (p, w)",
    "both operands of Mul would be scaled": """n = LayerNormalization <axis = -1> (x, g)  z = MatMul (n, w)
        r = Relu (n)  p = Mul (n, r)  y = MatMul (p, w)""",
    "Mul reads its result": """n = LayerNormalization <axis = -1> (x, g)  z = MatMul (n, w)  y = Mul (n, n)""",
    "Div divides by its result": """n = LayerNormalization <axis = -1> (x, g)  z = MatMul (n, w)  y = Div (g, n)""",
    "Clip has other bounds than 0 and a positive number": """n = LayerNormalization <axis = -1> (x, g)
        low = Constant <value = float {-1.0}> ()  c = Clip (n, low)  y = MatMul (c, w)""",
    "scale and shift of LayerNormalization are not constants for each channel": """k = Identity (v)
        n = LayerNormalization <axis = -1> (x, k)  y = MatMul (n, w)""",
    "Max has constant terms": "n = LayerNormalization <axis = -1> (x, g)  m = Max (n, g)  y = MatMul (m, w)",
    "Add repeats a term": """n = LayerNormalization <axis = -1> (x, g)  m = ReduceMean <axes = [-1]> (n)
        s = Add (n, m)  y = MatMul (s, w)""",
    "the weights of MatMul are not constant": """n = LayerNormalization <axis = -1> (x, g)  z = MatMul (n, w)
        y = MatMul (w, n)""",
}


N = "n = LayerNormalization <axis = -1> (x, g)"
SHAPES = {  # with shapes of their own
    "the channels of Gemm are on another axis": """m (float[8,8] x) => (float[8,3] y, float[8,3] z)
        <float[8] g, float[8,3] w> { n = LayerNormalization <axis = -1> (x, g)  y = MatMul (n, w)
        z = Gemm <transA = 1> (n, w) }""",
    "both operands of MatMul would be scaled": f"""m (float[2,8,8] x) => (float[2,8,8] y, float[2,8,8] z)
        <float[8] g, float[8,8] w> {{ {N}  z = MatMul (n, w)  y = MatMul (n, n) }}""",
    "the operands of MatMul differ in rank": f"""m (float[2,8,8] x, float[8,5] v) => (float[2,8,5] y, float[2,8,8] z)
        <float[8] g, float[8,8] w> {{ {N}  z = MatMul (n, w)  y = MatMul (n, v) }}""",
    "the operands of MatMul are broadcast": """m (float[2,3,5] a, float[1,5,4] x) => (float[3,4] y)
        <float[4] g, float[8,4] w> { n = LayerNormalization <axis = -1> (x, g)  p = MatMul (a, n)
        t = Transpose <perm = [1,0,2]> (p)  f = Flatten (t)
        y = MatMul (f, w) }""",
    "MaxPool has further results": """m (float[2,4,6,6] x) => (float[2,3,3,3] y, int64[2,4,3,3] i)
        <float[4,4,1,1] v, float[3,4,1,1] w> { a = Conv (x, v)
        p, i = MaxPool <kernel_shape = [2,2], strides = [2,2]> (a)  y = Conv (p, w) }""",
    "the slope of PRelu is not constant": f"""m (float[2,8,8] x, float[8] v) => (float[2,8,3] y)
        <float[8] g, float[8,3] w> {{ {N}  p = PRelu (n, v)  y = MatMul (p, w) }}""",
    "the axes of ReduceMax are not known": f"""m (float[2,8,8] x) => (float[1,1,1] y, float[2,8,3] z)
        <float[8] g, float[8,3] w> {{ {N}  z = MatMul (n, w)  y = ReduceMax (n) }}""",
    "the axes of Slice are not known": f"""m (float[2,8,8] x, int64[1] a) => (float[2,8,3] y, float[2,8,d] z)
        <float[8] g, float[8,3] w, int64[1] o = {{0}}, int64[1] e = {{3}}> {{ {N}  y = MatMul (n, w)
        z = Slice (n, o, e, a) }}""",
    "what Pad adds is not known": f"""m (float[2,8,8] x, int64[6] p) => (float[2,8,3] y, float[a,b,c] z)
        <float[8] g, float[8,3] w> {{ {N}  y = MatMul (n, w)  z = Pad (n, p) }}""",
    "Pad adds other numbers than zeros": f"""m (float[2,8,8] x) => (float[2,8,3] y, float[2,8,9] z)
        <float[8] g, float[8,3] w, int64[6] p = {{0, 0, 1, 0, 0, 0}}> {{ {N}  y = MatMul (n, w)
        z = Pad <mode = "edge"> (n, p) }}""",
    "Reshape mixes channels with other axes": f"""m (float[2,8,8] x) => (float[2,16,3] y)
        <float[8] g, float[4,3] w, int64[3] to = {{2, 16, 4}}, int64[3] back = {{2, 8, 8}}> {{ {N}
        r = Reshape (n, to)  y = MatMul (r, w) }}""",
    "the terms of Add differ in rank": f"""m (float[2,8,8] x, float[8] v) => (float[2,8,3] y)
        <float[8] g, float[8,3] w> {{ {N}  k = Relu (v)  s = Add (n, k)  y = MatMul (s, w) }}""",
    "Mul changes the rank": """m (float[8] x) => (float[2,8,3] y) <float[8] g, float[2,8,8] h, float[8,3] w> {
        n = LayerNormalization <axis = -1> (x, g)  s = Mul (n, h)  y = MatMul (s, w) }""",
    "further results of LayerNormalization are read": """m (float[2,8,8] x) => (float[2,8,3] y)
        <float[8] g, float[8,3] w, float[1,3] v> { n, mean = LayerNormalization <axis = -1> (x, g)
        y = MatMul (mean, v) }""",
    "its channels are not on the usual axis": """m (float[8,2] x) => (float[2,3] y) <float[8,3] w> {
        r = Relu (x)  y = Gemm <transA = 1> (r, w) }""",
}


@pytest.mark.parametrize("reason", SHAPES)
def test_shapes_that_do_not_fit_say_why(reason: str) -> None:
    graph = LpGraph.from_proto(parse_model(SHAPES[reason], check=False))
    graph.infer_shapes()
    _, skipped = scaling_groups(graph)
    assert reason in skipped.values()


@pytest.mark.parametrize("reason", HELD)
def test_what_may_not_be_scaled_says_why(reason: str) -> None:
    outputs = "float[2,8,8] y" + (", float[2,8,8] z" if "z =" in HELD[reason] else "")
    text = f"m (float[2,8,8] x, float[8] v) => ({outputs}) <float[8] g, float[8,8] w> {{ {HELD[reason]} }}"
    groups, skipped = scaling_groups(graph_of(text))
    assert groups == []
    assert reason in skipped.values()


def uneven(text: str, *names: str) -> ModelProto:
    """A model in which these weights give channels of very different ranges."""
    model = parse_model(text)
    for tensor in model.graph.initializer:
        if tensor.name in names:
            w = numpy_helper.to_array(tensor)
            gain = np.logspace(0, -2, w.shape[0], dtype=np.float32)
            tensor.CopyFrom(numpy_helper.from_array(w * gain.reshape(-1, *[1] * (w.ndim - 1)), tensor.name))
    return model


def gain_db(model: ModelProto) -> tuple[float, Quantized]:
    with_it, without = quantized(model, PLAN, graph_passes=EQUAL), quantized(model, PLAN)
    return float(np.mean([with_it.sqnr_db(seed=i) - without.sqnr_db(seed=i) for i in range(4)])), with_it


@pytest.mark.thorough
@pytest.mark.parametrize(("what", "names"), [("convolutions", ("w1", "b1")), ("norm", ("g", "h"))])
def test_uneven_channels_gain(what: str, names: tuple[str, ...]) -> None:
    model = uneven(SCALABLE[what], *names)
    for tensor in model.graph.initializer:  # layers after it make them count alike
        if tensor.name.startswith("w") and tensor.name not in names:
            w = numpy_helper.to_array(tensor)
            axis = 1 if w.ndim == 4 else 0
            gain = np.logspace(0, 2, 8, dtype=np.float32).reshape(
                [8 if i == axis else 1 for i in range(w.ndim)]
            )
            tensor.CopyFrom(numpy_helper.from_array(w * gain, tensor.name))
    gained, found = gain_db(model)
    report = found.reports["equalize"]
    assert report.changes
    assert all("dB" in c.after for c in report.changes)
    assert gained > 3
    assert found.rerun("equalize")["equalize"].changes == []


def test_bounds_are_not_met() -> None:
    text = """m (float[2,4,9,9] x) => (float[2,5,7,7] y) <float[8,4,3,3] w1, float[8] b1, float[5,8,1,1] w2> {
        a = Conv (x, w1, b1)  low = Constant <value = float {0.0}> ()  high = Constant <value = float {6.0}> ()
        r = Clip (a, low, high)  y = Conv (r, w2) }"""
    model = uneven(text, "w1", "b1")
    for tensor in model.graph.initializer:
        if tensor.name == "w2":
            w = numpy_helper.to_array(tensor)
            gain = np.logspace(0, 2, 8, dtype=np.float32)
            tensor.CopyFrom(numpy_helper.from_array(w * gain.reshape(1, 8, 1, 1), tensor.name))
        if tensor.name == "b1":  # one channel meets the bound: it must stay as it is
            tensor.CopyFrom(numpy_helper.from_array(np.eye(8, dtype=np.float32)[0] * 6, tensor.name))
    found = quantized(model, NO_COSTS, graph_passes=EQUAL)
    assert found.reports["equalize"].changes
    for seed in range(5):
        assert_same_outputs(model, found.graph.to_proto(), rtol=1e-4, seed=seed)
    before = next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "w1")
    conv = found.graph.nodes("Conv")[0]
    assert conv.inputs[1] is not None
    np.testing.assert_array_equal(conv.inputs[1].values[0], before[0])
    assert abs(conv.inputs[1].values[7]).max() > 2 * abs(before[7]).max()


def test_bounds_of_matrix_products_are_not_met() -> None:
    text = """m (float[20,8] x) => (float[20,5] y) <float[8,8] w1, float[8] b1, float[8,5] w2> {
        a = Gemm (x, w1, b1)  low = Constant <value = float {0.0}> ()  high = Constant <value = float {6.0}> ()
        r = Clip (a, low, high)  y = Gemm (r, w2) }"""
    model = parse_model(text)
    reach = np.logspace(0, -2, 8, dtype=np.float32)
    for tensor in model.graph.initializer:
        w = numpy_helper.to_array(tensor)
        if tensor.name == "w1":
            tensor.CopyFrom(numpy_helper.from_array(w * reach, "w1"))
        elif tensor.name == "w2":
            tensor.CopyFrom(numpy_helper.from_array(w / reach[:, None], "w2"))
        else:
            tensor.CopyFrom(numpy_helper.from_array(np.eye(8, dtype=np.float32)[0] * 6, "b1"))
    found = quantized(model, NO_COSTS, graph_passes=EQUAL)
    assert found.reports["equalize"].changes
    for seed in range(5):
        assert_same_outputs(model, found.graph.to_proto(), rtol=1e-4, seed=seed)


def test_bounds_along_several_axes_hold_all() -> None:
    text = """m (float[2,4,3,3] x) => (float[2,7] y) <float[4,4,1,1] v, float[9,7] w, int64[2] to = {-1, 9}> {
        low = Constant <value = float {0.0}> ()  high = Constant <value = float {6.0}> ()
        n = Conv (x, v)  c = Clip (n, low, high)  f = Reshape (c, to)  z = MatMul (f, w)  y = Relu (z) }"""
    groups, skipped = scaling_groups(graph_of(text.replace("float[2,7] y", "float[8,7] y")))
    assert groups == []
    assert "Clip bounds factors of several axes" in skipped.values()


def test_layers_that_give_nothing_stay() -> None:
    text = """m (float[2,5,8] x) => (float[2,5,8] y) <float[8] g, float[8,8] w> {
        n = LayerNormalization <axis = -1> (x, g)  y = MatMul (n, w) }"""
    model = parse_model(text)
    for tensor in model.graph.initializer:
        if tensor.name == "w":
            tensor.CopyFrom(numpy_helper.from_array(np.zeros((8, 8), np.float32), "w"))
    report = quantized(model, PLAN, graph_passes=EQUAL).reports["equalize"]
    assert report.changes == []
    assert [s.reason for s in report.skips] == ["no factors that were tried lose less"]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (np.float32(np.inf), "the constants of n are not finite floats"),
        (np.float32(1e38), "the constants of n are not finite floats"),
    ],
)
def test_constants_that_cannot_take_factors_in(bad: np.float32, reason: str) -> None:
    text = """m (float[2,5,8] x) => (float[2,5,8] y) <float[8] g, float[8,8] w> {
        n = LayerNormalization <axis = -1> (x, g)  y = MatMul (n, w) }"""
    graph = graph_of(text)
    norm = graph.nodes("LayerNormalization")[0]
    norm.set_input(1, graph.constant("bad", np.full(8, bad)))
    (group,), _ = scaling_groups(graph)
    assert fold_obstacle(group) == reason.replace("of n", f"of {norm.name}")


def test_without_samples_nothing_is_scaled() -> None:
    report = quantized(SCALABLE["norm"], NO_COSTS, calls=0, graph_passes=EQUAL).reports["equalize"]
    assert not report.changes
    assert not report.skips


def test_plans_of_later_passes_are_known_before() -> None:
    passes = split_pipeline(
        "fold-batchnorm,equalize,quantize-activations{format=uint4,matmul=static,cost=none}"
    )
    planned = Pipeline(tuple(pass_class(n).configured(o) for n, o in passes)).planned_activations
    assert planned == ActivationOptions("uint4", "static", timed=False)
    assert Pipeline((pass_class("fold-batchnorm").configured({}),)).planned_activations is None


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(PassOptionError, match="option 'method' is one of output-error, ranges"):
        pass_class("equalize").configured({"method": "guess"})
