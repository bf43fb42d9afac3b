"""Models for tests, and comparisons through ONNX Runtime, the oracle of every graph."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, ValueInfoProto

from lpcompile.ir.graph import LpGraph

Array = NDArray[Any]

# What a symbolic dimension becomes in random feeds.
_SYMBOL_SIZE = 2


def parse_model(
    text: str, *, seed: int = 0, opset: int = 17, ir_version: int = 8, check: bool = True
) -> ModelProto:
    """A model from the syntax of onnx.parser, checked unless told otherwise.

    The header may be left out. Tensors that are declared in the second `<...>` without a value, and that no
    node fills, become weights: a draw that depends on `seed` and the name only, N(0, 0.3) for floats
    (|.| + 0.5 where the name holds "var" or "scale"), -3..3 for integers.
    """
    if not text.lstrip().startswith("<"):
        text = f'<ir_version: {ir_version}, opset_import: ["" : {opset}]>\n{text}'
    model = onnx.parser.parse_model(text)
    graph = model.graph
    filled = {name for node in graph.node for name in node.output}
    for info in [i for i in graph.value_info if i.name not in filled]:
        graph.initializer.append(onnx.numpy_helper.from_array(seeded_weight(info, seed), info.name))
        graph.value_info.remove(info)
    if check:
        onnx.checker.check_model(model, full_check=True)
    return model


def graph_of(text: str) -> LpGraph:
    """A graph with shapes from the syntax of onnx.parser, by `parse_model`."""
    graph = LpGraph.from_proto(parse_model(text))
    graph.infer_shapes()
    return graph


def constants_of(model: ModelProto) -> dict[str, Array]:
    """Initialisers of a model by name."""
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}


def seeded_weight(info: ValueInfoProto, seed: int) -> Array:
    """The weight that `parse_model` gives to a declared tensor."""
    rng = np.random.default_rng([seed, zlib.crc32(info.name.encode())])
    tensor = info.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    shape = [d.dim_value for d in tensor.shape.dim]
    if dtype.kind in "iu":
        return rng.integers(0 if dtype.kind == "u" else -3, 4, shape).astype(dtype)
    weight = rng.normal(0, 0.3, shape)
    if "var" in info.name or "scale" in info.name:
        weight = np.abs(weight) + 0.5
    return weight.astype(dtype)


def conv_bn_model(*, group: int = 1, tail: str = "", channels: int = 8, bias: bool = True) -> ModelProto:
    """Conv (t) and BatchNormalization (y); `tail` is a further node, its output a further graph output."""
    extra = tail.split("=")[0].strip()
    outputs = f"float[1,{channels},6,6] y" + (f", float[1,{channels},6,6] {extra}" if extra else "")
    c = channels
    return parse_model(f"""
        conv_bn (float[1,{c},6,6] x) => ({outputs})
        <float[{c},{c // group},3,3] w, float[{c}] b,
         float[{c}] scale, float[{c}] beta, float[{c}] mean, float[{c}] var>
        {{
            t = Conv <group = {group}, pads = [1, 1, 1, 1]> ({"x, w, b" if bias else "x, w"})
            y = BatchNormalization (t, scale, beta, mean, var)
            {tail}
        }}""")


def random_feeds(model: ModelProto, *, seed: int = 0) -> dict[str, Array]:
    """Random inputs of a model: N(0, 1) for floats, 0..3 for integers; symbolic dimensions are 2."""
    weights = {t.name for t in model.graph.initializer}
    feeds: dict[str, Array] = {}
    for info in model.graph.input:
        if info.name in weights:
            continue
        rng = np.random.default_rng([seed, zlib.crc32(info.name.encode())])
        tensor = info.type.tensor_type
        shape = [d.dim_value if d.dim_value > 0 else _SYMBOL_SIZE for d in tensor.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if tensor.elem_type == TensorProto.STRING:
            feeds[info.name] = np.full(shape, "monday", np.object_)
        elif dtype.kind == "b":
            feeds[info.name] = rng.integers(0, 2, shape).astype(bool)
        elif dtype.kind in "iu":
            feeds[info.name] = rng.integers(0, 4, shape).astype(dtype)
        else:
            feeds[info.name] = rng.normal(0, 1, shape).astype(dtype)
    return feeds


def run_model(model: ModelProto | bytes, feeds: Mapping[str, Array] | None = None) -> dict[str, Any]:
    """Outputs of a model in ONNX Runtime at its default optimisation level; random feeds by default."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if feeds is None:
        feeds = random_feeds(model if isinstance(model, ModelProto) else onnx.load_from_string(model))
    data = model.SerializeToString() if isinstance(model, ModelProto) else model
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def assert_same_outputs(
    before: ModelProto,
    after: ModelProto,
    rtol: float = 0.0,
    *,
    feeds: Mapping[str, Array] | None = None,
    seed: int = 0,
) -> None:
    """Both models give the same outputs under the same names.

    Args:
        before: the original; feeds are drawn for its inputs.
        after: the model to compare with it.
        rtol: largest difference, relative to the largest magnitude of that output; 0 asks for equality.
        feeds: inputs, random ones by default.
        seed: of the random inputs.
    """
    feeds = random_feeds(before, seed=seed) if feeds is None else feeds
    wanted, found = run_model(before, feeds), run_model(after, feeds)
    assert list(found) == list(wanted)
    for name, expected in wanted.items():
        assert_close(found[name], expected, rtol, name)


def assert_close(found: Any, expected: Any, rtol: float, name: str = "") -> None:
    """Two outputs agree within `rtol` of the largest magnitude; sequences element by element."""
    if isinstance(expected, list):
        assert len(found) == len(expected), name
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other, rtol, name)
        return
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.dtype == expected.dtype, f"{name}: {found.dtype} is not {expected.dtype}"
    assert found.shape == expected.shape, f"{name}: {found.shape} is not {expected.shape}"
    if rtol == 0 or expected.dtype.kind not in "fc":
        np.testing.assert_array_equal(found, expected, err_msg=name)
    elif expected.size:
        np.testing.assert_allclose(
            found, expected, rtol=0, atol=rtol * max(float(np.nanmax(np.abs(expected))), 1e-6), err_msg=name
        )


def graph_lines(graph: LpGraph) -> list[str]:
    """One line a node in execution order: `t = Conv(x, w)`, other domains as `y = lpcompile.QuantConv(x)`."""
    return [
        f"{', '.join(n.output_names)} = {f'{n.domain}.' * bool(n.domain)}{n.op}({', '.join(n.input_names)})"
        for n in graph.nodes()
    ]


def assert_graph(graph: LpGraph | ModelProto, lines: Sequence[str]) -> None:
    """The graph has exactly these nodes, written as `graph_lines` writes them."""
    graph = LpGraph.from_proto(graph) if isinstance(graph, ModelProto) else graph
    assert graph_lines(graph) == list(lines)
