"""Measure ONNX Runtime's kernels here and print a cost table: `python -m tests.bench.kernel_costs NAME > FILE`.

Each layer stands in a small chain, so that layouts settle, and its kernel times come from the runtime's own profile, on
one thread; float and integer graphs alternate. Coefficients, none below zero, are fitted to relative errors.
"""

import json
import statistics
import sys
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.bench.kernel_costs_few_rows import few_rows

DEPTH, RUNS = 3, 40
# (input channels, output channels, size, kernel, stride)
DENSE = [
    (8, 8, 28, 5, 1),
    (16, 16, 32, 3, 1),
    (32, 32, 16, 3, 1),
    (64, 64, 8, 3, 1),
    (64, 64, 56, 3, 1),
    (64, 64, 12, 1, 1),
    (128, 128, 28, 1, 1),
    (256, 256, 14, 1, 1),
    (48, 48, 44, 1, 1),
    (512, 512, 7, 1, 1),
    (1, 8, 28, 5, 1),
    (1, 64, 24, 7, 2),
    (3, 16, 32, 3, 1),
    (3, 32, 224, 3, 2),
    (3, 64, 224, 7, 2),
    (1, 64, 64, 5, 1),
    (64, 9, 64, 3, 1),
    (16, 96, 56, 1, 1),
]
GROUPED = [  # channels, size, kernel, groups
    (32, 12, 3, 8),
    (64, 12, 3, 16),
    (64, 28, 3, 32),
    (128, 14, 3, 32),
    (64, 6, 3, 8),
    (256, 7, 3, 32),
    (128, 28, 3, 4),
    (48, 14, 3, 3),
    (64, 56, 3, 2),
    (128, 28, 1, 4),
    (240, 14, 1, 3),
    (64, 20, 5, 8),
]
ELEMENTWISE = ("Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "LeakyRelu", "Elu", "Add", "Mul")
PLANES = [(16, 16), (32, 24), (64, 28), (32, 56), (96, 56)]  # channels, size
DEPTHWISE = [(64, 12, 3), (96, 56, 3), (144, 28, 3), (384, 14, 3), (960, 7, 3), (48, 44, 5), (96, 22, 5)]
MATRIX = [(1, 128), (1, 640), (1, 1024), (16, 128), (50, 384), (96, 128), (128, 768), (32, 1024)]
EDGES = (1000, 30000, 300000)
KERNEL_OPS = (
    "Conv",
    "FusedConv",
    "QLinearConv",
    "MatMul",
    "Gemm",
    "FusedMatMul",
    "QLinearMatMul",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "QuantizeLinear",
    "Add",
)
Rows = list[tuple[dict[str, float], float]]


def _array(name: str, value: NDArray[np.generic]) -> TensorProto:
    return numpy_helper.from_array(value, name)


def _conv_chain(
    c_in: int, c: int, size: int, k: int, stride: int, group: int, *, integer: bool
) -> onnx.ModelProto:
    """One layer of the asked shape, then, where channels allow, more of the same."""
    rng = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    inits = [_array("s", np.array(0.05, np.float32)), _array("z", np.array(0, np.uint8))]
    inits += [_array("ws", np.full(c, 0.01, np.float32)), _array("wz", np.array(0, np.int8))]
    inits += [_array("b", np.zeros(c, np.int32)), _array("fb", np.zeros(c, np.float32))]
    depth = DEPTH if c_in == c and stride == 1 else 1
    for i in range(depth):
        w = rng.integers(-127, 128, (c, (c_in if i == 0 else c) // group, k, k))
        attrs: dict[str, Any] = {"pads": [k // 2] * 4, "group": group, "strides": [stride] * 2}
        if integer:
            inits.append(_array(f"w{i}", w.astype(np.int8)))
            inputs = [f"x{i}", "s", "z", f"w{i}", "ws", "wz", "s", "z", "b"]
            nodes.append(helper.make_node("QLinearConv", inputs, [f"x{i + 1}"], **attrs))
        else:
            inits.append(_array(f"w{i}", (w * 0.001).astype(np.float32)))
            nodes.append(helper.make_node("Conv", [f"x{i}", f"w{i}", "fb"], [f"y{i}"], **attrs))
            nodes.append(helper.make_node("Relu", [f"y{i}"], [f"x{i + 1}"]))
    return _model(
        nodes, inits, depth, TensorProto.UINT8 if integer else TensorProto.FLOAT, [1, c_in, size, size]
    )


def _elementwise_chain(op: str, c: int, size: int, *, integer: bool) -> onnx.ModelProto:
    """The same chain of 1x1 convolutions, with `op` behind each, so that what the runtime fuses is seen fused."""
    model = _conv_chain(c, c, size, 1, 1, 1, integer=integer)
    nodes: list[onnx.NodeProto] = []
    for i, node in enumerate(n for n in model.graph.node if n.op_type != "Relu"):
        x, y, z = f"x{i}", f"y{i}", f"x{i + 1}"
        node.output[0] = y
        nodes.append(node)
        inputs = [y, x] if op in ("Add", "Mul") else [y]
        if not integer:
            nodes.append(helper.make_node(op, inputs, [z]))
            continue
        nodes += [helper.make_node("DequantizeLinear", [v, "s", "z"], [f"{v}/{i}"]) for v in inputs]
        nodes.append(helper.make_node(op, [f"{v}/{i}" for v in inputs], [f"{z}/f"]))
        nodes.append(helper.make_node("QuantizeLinear", [f"{z}/f", "s", "z"], [z]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _matrix_chain(m: int, k: int, kernel: str) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    nodes, inits = [], [_array("s", np.array(0.05, np.float32)), _array("z", np.array(0, np.uint8))]
    inits += [
        _array("ws", np.full(k, 0.01, np.float32)),
        _array("wz", np.zeros(k, np.int8)),
        _array("b", np.zeros(k, np.float32)),
    ]
    dtype = TensorProto.UINT8 if kernel == "integer" else TensorProto.FLOAT
    for i in range(DEPTH):
        w, x, y = rng.integers(-127, 128, (k, k)), f"x{i}", f"x{i + 1}"
        if kernel == "float":
            inits.append(_array(f"w{i}", (w * 1e-4).astype(np.float32)))
            nodes += [
                helper.make_node("MatMul", [x, f"w{i}"], [f"p{i}"]),
                helper.make_node("Add", [f"p{i}", "b"], [y]),
            ]
            continue
        inits.append(_array(f"w{i}", w.astype(np.int8)))
        if kernel == "integer":
            nodes.append(helper.make_node("QLinearMatMul", [x, "s", "z", f"w{i}", "ws", "wz", "s", "z"], [y]))
        elif kernel == "float-out":
            nodes += [
                helper.make_node("QuantizeLinear", [x, "s", "z"], [f"q{i}"]),
                helper.make_node("DequantizeLinear", [f"q{i}", "s", "z"], [f"d{i}"]),
                helper.make_node("DequantizeLinear", [f"w{i}", "ws", "wz"], [f"v{i}"], axis=1),
                helper.make_node("MatMul", [f"d{i}", f"v{i}"], [f"p{i}"]),
                helper.make_node("Add", [f"p{i}", "b"], [y]),
            ]
        else:
            nodes += [
                helper.make_node("DynamicQuantizeLinear", [x], [f"q{i}", f"t{i}", f"o{i}"]),
                helper.make_node("MatMulInteger", [f"q{i}", f"w{i}", f"o{i}"], [f"a{i}"]),
                helper.make_node("Cast", [f"a{i}"], [f"c{i}"], to=1),
                helper.make_node("Mul", [f"t{i}", "ws"], [f"u{i}"]),
                helper.make_node("Mul", [f"c{i}", f"u{i}"], [f"p{i}"]),
                helper.make_node("Add", [f"p{i}", "b"], [y]),
            ]
    return _model(nodes, inits, DEPTH, dtype, [1, m, k])


def _model(
    nodes: list[onnx.NodeProto], inits: list[TensorProto], depth: int, dtype: int, shape: list[int]
) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x0", dtype, shape)
    y = helper.make_tensor_value_info(f"x{depth}", dtype, None)
    used = {i for n in nodes for i in n.input}
    graph = helper.make_graph(nodes, "chain", [x], [y], [t for t in inits if t.name in used])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _edge(elements: int) -> onnx.ModelProto:
    nodes = [helper.make_node("QuantizeLinear", ["x0", "s", "z"], ["x1"])]
    inits = [_array("s", np.array(0.05, np.float32)), _array("z", np.array(0, np.uint8))]
    x = helper.make_tensor_value_info("x0", TensorProto.FLOAT, [elements])
    y = helper.make_tensor_value_info("x1", TensorProto.UINT8, [elements])
    graph = helper.make_graph(nodes, "edge", [x], [y], inits)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _pool(channels: int, size: int) -> onnx.ModelProto:
    """A MaxPool on integers that come from floats: the kernel that `RecordedCosts.pool_ns` prices."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x0", "s", "z"], ["q"]),
        helper.make_node("MaxPool", ["q"], ["x1"], kernel_shape=[3, 3], strides=[2, 2]),
    ]
    inits = [_array("s", np.array(0.05, np.float32)), _array("z", np.array(0, np.uint8))]
    model = _model(nodes, inits, 1, TensorProto.FLOAT, [1, channels, size, size])
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.UINT8
    return model


def _kernel_ns(model: onnx.ModelProto, layers: int, ops: Collection[str] = KERNEL_OPS) -> float:
    """Nanoseconds of one layer: kernel times of a run, median over runs, divided by the number of layers.

    Only kernels of `ops` count; all do where it is empty.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        spec = session.get_inputs()[0]
        dtype = np.uint8 if spec.type == "tensor(uint8)" else np.float32
        feeds = {spec.name: np.random.default_rng(0).integers(0, 9, spec.shape).astype(dtype)}
        for _ in range(RUNS):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text())
    by_node: dict[str, list[float]] = {}
    for event in events:
        if (
            event.get("cat") == "Node"
            and (not ops or event.get("args", {}).get("op_name") in ops)
            and event["name"].endswith("_kernel_time")
        ):
            by_node.setdefault(event["name"], []).append(event["dur"])
    if not by_node:
        raise RuntimeError(
            f"ONNX Runtime {onnxruntime.__version__} ran none of {', '.join(ops)} for this chain"
        )
    # whole microseconds: the mean of the middle half is finer than a median
    total = sum(statistics.fmean(sorted(v)[len(v) // 4 : -len(v) // 4]) for v in by_node.values())
    return max(200.0, 1e3 * total / layers)


def _fit(rows: Rows) -> dict[str, float]:
    """Coefficients >= 0 with least relative error: coordinate descent on the normal equations."""
    keys = list(rows[0][0])
    a = np.array([[terms[k] / ns for k in keys] for terms, ns in rows])
    x = np.zeros(len(keys))
    for _ in range(2000):
        before = x.copy()
        for j in range(len(keys)):
            rest = 1 - a @ x + a[:, j] * x[j]
            x[j] = max(0.0, float(a[:, j] @ rest / max(a[:, j] @ a[:, j], 1e-30)))
        if np.array_equal(x, before):
            break
    return dict(zip(keys, (float(f"{v:.4g}") for v in x), strict=True))


def measure() -> dict[str, dict[str, float]]:
    """Coefficients by "<kind>.<kernel>", as `RecordedCosts` reads them; "edge": QuantizeLinear, "pool": MaxPool."""
    found: dict[str, Rows] = {}
    shapes = [("dense", *s, 1) for s in DENSE]
    shapes += [("depthwise", c, c, n, k, 1, c) for c, n, k in DEPTHWISE]
    shapes += [("grouped", c, c, n, k, 1, group) for c, n, k, group in GROUPED]
    for kind, c_in, c, size, k, stride, group in shapes:
        pixels = (-(-size // stride)) ** 2
        terms = {
            "fixed_ns": 1.0,
            "ns_per_mac": float(pixels * c * (c_in // group) * k * k),
            "ns_per_output": float(pixels * c),
            "ns_per_patch": float(pixels * k * k * group if k > 1 and kind != "depthwise" else 0),
        }
        for kernel in ("float", "integer"):
            model = _conv_chain(c_in, c, size, k, stride, group, integer=kernel == "integer")
            depth = DEPTH if c_in == c and stride == 1 else 1
            found.setdefault(f"{kind}.{kernel}", []).append((terms, _kernel_ns(model, depth)))
    for m, k in MATRIX:
        terms = {
            "fixed_ns": 1.0,
            "ns_per_mac": float(m * k * k),
            "ns_per_output": float(m * k),
            "ns_per_weight": float(k * k),
        }
        for kernel in ("float", "integer", "float-out", "dynamic"):
            found.setdefault(f"matrix.{kernel}", []).append(
                (terms, _kernel_ns(_matrix_chain(m, k, kernel), DEPTH))
            )
    found |= few_rows()
    for kernel in ("float", "integer"):
        for c, size in PLANES:
            bare = _kernel_ns(_conv_chain(c, c, size, 1, 1, 1, integer=kernel == "integer"), DEPTH, ())
            for op in ELEMENTWISE:
                whole = _kernel_ns(_elementwise_chain(op, c, size, integer=kernel == "integer"), DEPTH, ())
                terms = {"fixed_ns": 1.0, "ns_per_element": float(c * size * size)}
                found.setdefault(f"{op}.{kernel}", []).append((terms, max(200.0, whole - bare)))
    found["edge"] = [({"fixed_ns": 1.0, "ns_per_element": float(n)}, _kernel_ns(_edge(n), 1)) for n in EDGES]
    found["pool"] = [
        ({"pool_ns_per_element": float(c * size * size)}, _kernel_ns(_pool(c, size), 1, ("MaxPool",)))
        for c, size in PLANES
    ]
    fits = {key: _fit(rows) for key, rows in found.items()}
    for key, rows in found.items():
        shown = ", ".join(
            f"{ns / 1e3:.1f} ({sum(fits[key][t] * v for t, v in terms.items()) / 1e3:.1f})"
            for terms, ns in rows
        )
        print(f"# {key}, us measured (fitted): {shown}", file=sys.stderr)
    return fits


def table(name: str, kernels: Mapping[str, Mapping[str, float]]) -> str:
    """The measurements as TOML, which `RecordedCosts.parse` reads."""
    lines = [f"name = {json.dumps(name, ensure_ascii=False)}", f'onnxruntime = "{onnxruntime.__version__}"']
    sections: dict[str, dict[str, float]] = {}
    for key, coefficients in kernels.items():
        part = "elementwise" if key.split(".")[0] in ELEMENTWISE else "kernels"
        section = "quantize" if key in ("edge", "pool") else f"{part}.{key}"
        sections.setdefault(section, {}).update(coefficients)
    for section, coefficients in sections.items():
        lines += ["", f"[{section}]", *(f"{k} = {v}" for k, v in coefficients.items())]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> None:
    """Print the table of this machine, under the name that is the only argument, "here" by default."""
    if len(arguments) > 1 or arguments[:1] in (["-h"], ["--help"]):
        raise SystemExit("usage: python -m tests.bench.kernel_costs [NAME] > FILE")
    print(table(arguments[0] if arguments else "here", measure()))


if __name__ == "__main__":
    main(sys.argv[1:])
