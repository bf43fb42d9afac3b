"""Measure the kernels of a MatMul with few rows, MatMulNBits among them: part of `measure`.

Chains of K x N and N x K layers, all kernels of one shape in turn, CPU time of one thread for a whole run divided by
the layers: unlike kernel times alone this holds what QuantizeLinear and its kin cost. A chain has 16 million weights,
as far as 64 layers go, so that they do not stay in the caches between runs: a decoder reads each of its weights once.
"""

import statistics
import time
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from lpcompile.ir.block_matmul import BLOCK, OP, accuracy_attributes
from lpcompile.ir.runtime_operators import RUNTIME_DOMAIN

WEIGHTS, FEWEST, MOST, ROUNDS = 16 << 20, 4, 64, 31
ROWS = (1, 2, 3, 4, 8)
SIZES = [(256, 256), (384, 384), (384, 1536), (768, 768), (768, 3072), (1024, 1024), (2048, 2048)]
KERNELS = ("float", "integer", "float-out", "dynamic", "nbits")
Rows = list[tuple[dict[str, float], float]]


class _Chain:
    """Nodes and initialisers of a chain under construction."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants = [
            _named("s", np.array(0.05, np.float32)),
            _named("z", np.array(128, np.uint8)),
        ]

    def op(self, op: str, inputs: list[str], *outputs: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(op, inputs, list(outputs), **attributes))

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        self.constants.append(_named(name, value))
        return name


def _named(name: str, value: NDArray[np.generic]) -> TensorProto:
    return numpy_helper.from_array(value, name)


def _depth(inputs: int, outputs: int) -> int:
    return max(FEWEST, min(MOST, WEIGHTS // (inputs * outputs))) // 2 * 2


def chain(rows: int, inputs: int, outputs: int, kernel: str) -> onnx.ModelProto:
    """A chain of layers, `inputs` x `outputs` and back, under one of KERNELS."""
    rng, c, depth = np.random.default_rng(0), _Chain(), _depth(inputs, outputs)
    for i in range(depth):
        k, n = (inputs, outputs) if i % 2 == 0 else (outputs, inputs)
        _layer(c, i, rng.integers(-127, 128, (k, n)).astype(np.int8), kernel)
    kind = TensorProto.UINT8 if kernel == "integer" else TensorProto.FLOAT
    used = {name for node in c.nodes for name in node.input}
    graph = helper.make_graph(
        c.nodes,
        "chain",
        [helper.make_tensor_value_info("x0", kind, [rows, inputs])],
        [helper.make_tensor_value_info(f"x{depth}", kind, None)],
        [t for t in c.constants if t.name in used],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(RUNTIME_DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def _layer(c: _Chain, i: int, w8: NDArray[np.int8], kernel: str) -> None:
    (k, n), x, y = w8.shape, f"x{i}", f"x{i + 1}"
    if kernel == "float":
        c.op("MatMul", [x, c.constant(f"w{i}", w8 * np.float32(1e-4))], y)
        return
    if kernel == "nbits":
        shape, codes = (n, k // BLOCK, BLOCK // 2), w8.astype(np.uint8)[: k // 2]
        c.constant(f"w{i}", np.resize(codes, shape))
        c.constant(f"ws{i}", np.full(shape[:2], 1e-3, np.float32))
        attributes = {**accuracy_attributes(), "K": k, "N": n}
        c.op(OP, [x, f"w{i}", f"ws{i}"], y, domain=RUNTIME_DOMAIN, **attributes)
        return
    c.constant(f"w{i}", w8)
    c.constant(f"ws{i}", np.full(n, 0.01, np.float32))
    c.constant(f"wz{i}", np.zeros(n, np.int8))
    if kernel == "integer":
        c.op("QLinearMatMul", [x, "s", "z", f"w{i}", f"ws{i}", f"wz{i}", "s", "z"], y)
    elif kernel == "float-out":
        c.op("QuantizeLinear", [x, "s", "z"], f"q{i}")
        c.op("DequantizeLinear", [f"q{i}", "s", "z"], f"d{i}")
        c.op("DequantizeLinear", [f"w{i}", f"ws{i}", f"wz{i}"], f"v{i}", axis=1)
        c.op("MatMul", [f"d{i}", f"v{i}"], y)
    else:
        c.op("DynamicQuantizeLinear", [x], f"q{i}", f"t{i}", f"o{i}")
        c.op("MatMulInteger", [f"q{i}", f"w{i}", f"o{i}"], f"a{i}")
        c.op("Cast", [f"a{i}"], f"c{i}", to=1)
        c.op("Mul", [f"t{i}", f"ws{i}"], f"u{i}")
        c.op("Mul", [f"c{i}", f"u{i}"], y)


def _run_ns(rows: int, inputs: int, outputs: int) -> dict[str, float]:
    """Median nanoseconds of one layer under each kernel, runs interleaved."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    sessions = {
        k: onnxruntime.InferenceSession(chain(rows, inputs, outputs, k).SerializeToString(), options)
        for k in KERNELS
    }
    x = np.random.default_rng(0).integers(0, 9, (rows, inputs))
    feeds = {k: {"x0": x.astype(np.uint8 if k == "integer" else np.float32)} for k in KERNELS}
    found: dict[str, list[float]] = {k: [] for k in KERNELS}
    for _ in range(ROUNDS):
        for k, session in sessions.items():
            start = time.thread_time_ns()
            session.run(None, feeds[k])
            found[k].append((time.thread_time_ns() - start) / _depth(inputs, outputs))
    return {k: statistics.median(v) for k, v in found.items()}


def few_rows() -> dict[str, Rows]:
    """What `measure` fits: terms and nanoseconds by "<rows>-row.<kernel>", for every number of rows by itself."""
    found: dict[str, Rows] = {f"{rows}-row.{k}": [] for rows in ROWS for k in KERNELS}
    for inputs, outputs in SIZES:
        for rows in ROWS:
            terms = {"fixed_ns": 1.0, "ns_per_weight": float(inputs * outputs)}
            for k, ns in _run_ns(rows, inputs, outputs).items():
                found[f"{rows}-row.{k}"].append((terms, ns))
    return found
