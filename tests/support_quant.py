"""Small quantised models: float models as text, planned by hand, and what ONNX Runtime makes of them."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

from lpcompile.formats.base import resolve
from lpcompile.ir.function import DOMAIN
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.product_order import product_order
from lpcompile.materialise import materialise
from lpcompile.plan import ActivationPlan, Kernel, LayerPlan, QuantPlan, WeightPlan
from lpcompile.quant.fit import fit
from lpcompile.quant.low_rank import low_rank
from lpcompile.quant.rows import to_rows
from lpcompile.quant.side_path import side_path
from lpcompile.quant.within_int16 import within_int16
from lpcompile.runtime.reference import run_node
from tests.exact_sums import as_users_have_them
from tests.support import parse_model, random_feeds, run_model

Array = NDArray[Any]
LUT4 = "lut4:80a0b8ccdce8f400081018222e405a7f"
IMAGE_FORMATS = ("int8", "int4", "fixp4", "posit4", "nf4", "pot4", "float4_e2m1fn", LUT4, "int2", "int3")
WIDE_FORMATS = ("int5", "fixp6", "int7")  # more than 4 bits: no groups
FLOAT_FORMATS = ("posit4es1", "posit6", "float8_e4m3fn", "float8_e5m2")

# One layer each. Odd numbers of weights, K no multiple of 32; the even ones let a byte be looked up at once.
LAYERS: Mapping[str, str] = {
    "conv": """g (float[2,5,9,8] x) => (float[2,7,5,8] y) <float[7,5,3,3] w, float[7] b> {
        y = Conv <kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,1]> (x, w, b) }""",
    "conv-no-bias": """g (float[1,3,6,7] x) => (float[1,7,4,5] y) <float[7,3,3,3] w> {
        y = Conv <kernel_shape=[3,3]> (x, w) }""",
    "conv-grouped-dilated": """g (float[1,10,11,9] x) => (float[1,6,8,5] y) <float[6,5,3,3] w, float[6] b> {
        y = Conv <kernel_shape=[3,3], pads=[1,0,0,0], dilations=[2,2], group=2> (x, w, b) }""",
    "conv-depthwise": """g (float[1,9,7,7] x) => (float[1,9,7,7] y) <float[9,1,3,3] w, float[9] b> {
        y = Conv <kernel_shape=[3,3], pads=[1,1,1,1], group=9> (x, w, b) }""",
    "conv-1d": """g (float[2,5,13] x) => (float[2,7,7] y) <float[7,5,3] w, float[7] b> {
        y = Conv <kernel_shape=[3], pads=[1,1], strides=[2]> (x, w, b) }""",
    "conv-3d": """g (float[1,3,5,6,4] x) => (float[1,5,5,3,4] y) <float[5,3,3,3,3] w, float[5] b> {
        y = Conv <kernel_shape=[3,3,3], pads=[1,1,1,1,1,1], strides=[1,2,1]> (x, w, b) }""",
    "conv-even": """g (float[1,6,7,7] x) => (float[1,7,7,7] y) <float[7,6,3,3] w, float[7] b> {
        y = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (x, w, b) }""",
    "gemm-even": """g (float[5,40] x) => (float[5,9] y) <float[40,9] w, float[9] b> { y = Gemm (x, w, b) }""",
    "gemm": """g (float[5,37] x) => (float[5,9] y) <float[37,9] w, float[9] b> { y = Gemm (x, w, b) }""",
    "gemm-no-bias": "g (float[5,37] x) => (float[5,9] y) <float[37,9] w> { y = Gemm (x, w) }",
    "matmul": "g (float[5,37] x) => (float[5,9] y) <float[37,9] w> { y = MatMul (x, w) }",
    "matmul-rank-3": "g (float[2,5,37] x) => (float[2,5,9] y) <float[37,9] w> { y = MatMul (x, w) }",
}


@dataclass(frozen=True)
class Storing:
    """How weights are stored in a test."""

    format: str = "int8"
    granularity: str = "channel"
    scale_format: str = "float32"
    row_tables: bool = False
    rank: int = 0

    def __str__(self) -> str:
        parts = [self.format[:12], self.granularity, self.scale_format[:7]] + ["rows"] * self.row_tables
        parts += [f"rank{self.rank}"] if self.rank else []
        return "-".join(parts)


GROUP = "group32"
STORINGS = (
    *(Storing(f) for f in IMAGE_FORMATS),
    *(Storing(f) for f in WIDE_FORMATS),
    *(Storing(f, scale_format="ufloat8_e4m4") for f in ("int8", "int6", "int4", "nf4")),
    *(Storing(f, GROUP, "ufloat8_e4m4") for f in IMAGE_FORMATS[1:]),
    Storing("posit4", GROUP),
    Storing(LUT4, row_tables=True),
    Storing(LUT4, scale_format="ufloat8_e4m4", row_tables=True),
)


# a side path beside the codes; `cim` has none yet
SIDE_STORINGS = (
    Storing("fixp4", GROUP, "ufloat8_e4m4", rank=2),
    Storing("nf4", scale_format="ufloat8_e4m4", rank=1),
    Storing("posit4", GROUP, rank=3),
    Storing("int3", "tensor", rank=2),
)


def layer_graph(layer: str, *, opset: int = 17) -> LpGraph:
    """One of LAYERS; the layer is called "layer"."""
    model = parse_model(LAYERS[layer], opset=opset)
    model.graph.node[0].name = "layer"
    return LpGraph.from_proto(model)


def plan_by_hand(
    graph: LpGraph,
    tensors: Mapping[str, str] | Sequence[str],
    *,
    storing: Storing = Storing(),
    kernel: Kernel = Kernel.INTEGER,
    elementwise: Sequence[str] = (),
    ties: Mapping[str, str] | None = None,
    layers: Sequence[str] | None = None,
    feeds: Mapping[str, Array] | None = None,
) -> LpGraph:
    """Give a float graph its plan, with ranges from one run of the float model.

    Args:
        graph: changed in place and returned.
        tensors: what is held in integers; a mapping gives formats, "uint8" is the default.
        storing: of the weights of every layer.
        kernel: of every layer.
        elementwise: names of nodes that run on integers.
        ties: tensor -> the one that it shares scale and zero point with.
        layers: names of those that are quantised; None for all.
        feeds: of that run; random ones by default.
    """
    formats = dict(tensors) if isinstance(tensors, Mapping) else dict.fromkeys(tensors, "uint8")
    values = all_values(graph, feeds)
    roots = {t: (ties or {}).get(t, t) for t in formats}
    activations = {}
    for name in formats:
        members = [values[t] for t in formats if roots[t] == roots[name]]
        low = min(0.0, *(float(v.min()) for v in members))
        high = max(1e-3, *(float(v.max()) for v in members))
        top = (1 << int(formats[name][4:])) - 1
        scale = float(np.float32((high - low) / top))
        activations[name] = ActivationPlan(formats[name], scale, round(-low / scale), roots[name], "test")
    plans = {
        n.name: plan_layer(graph, n.name, storing, kernel)
        for n in graph.layers()
        if layers is None or n.name in layers
    }
    graph.plan = QuantPlan(
        MappingProxyType(plans),
        MappingProxyType(activations),
        MappingProxyType(dict.fromkeys(elementwise, "test")),
    )
    return graph


def plan_layer(graph: LpGraph, name: str, storing: Storing, kernel: Kernel = Kernel.INTEGER) -> LayerPlan:
    """Codes of one layer, rounded to nearest with absmax scales."""
    node = graph.node(name)
    weight = node.inputs[1]
    assert weight is not None
    rows = to_rows(node.op, weight.values)
    fmt = resolve(storing.format)
    granularity = "group" if storing.granularity.startswith("group") else storing.granularity
    tensor = fit(rows, fmt, granularity=granularity, rule="absmax", scale_format=storing.scale_format)
    kept = storing.granularity if tensor.has_integer_groups or granularity != "group" else "channel"
    plan = WeightPlan(fmt.name, kept, "absmax", storing.scale_format)
    if storing.row_tables:
        plan = replace(plan, codebooks=tuple(codebook(i) for i in range(len(rows))))
    if storing.rank:
        factors = low_rank(rows - tensor.dequantize(), storing.rank)
        tensor = replace(tensor, side=side_path(*factors, *tensor.int8_image(), largest=tensor.largest_level))
        plan = replace(plan, rank=storing.rank, side_path="svd")
    return LayerPlan(kernel, plan, tensor, codes_sha256=tensor.digest())


def codebook(row: int) -> str:
    """A table of 16 int8 numbers that differs from row to row, as hexadecimal digits."""
    table = np.sort(np.random.default_rng(row).integers(-127, 128, 16)).astype(np.int8)
    return table.tobytes().hex()


def all_values(graph: LpGraph, feeds: Mapping[str, Array] | None = None) -> dict[str, Array]:
    """Every top-level tensor of a float graph for one call."""
    wider = graph.copy()
    for node in wider.nodes():
        for value in node.outputs:
            if value is not None and not value.is_output:
                wider.add_output(value)
    proto = wider.to_proto()
    feeds = random_feeds(proto) if feeds is None else feeds
    return {**feeds, **run_model(proto, feeds)}


def compiled(graph: LpGraph, form: str = "functions") -> ModelProto:
    """The model of a planned graph."""
    proto = materialise(graph, form)[0].to_proto()
    onnx.checker.check_model(proto, full_check=True)
    return proto


def quantized_layer(
    layer: str,
    storing: Storing = Storing(),
    kernel: Kernel = Kernel.INTEGER,
    *,
    opset: int = 17,
    held: str = "uint8",
    reduce_range: bool = False,
) -> ModelProto:
    """A model of one layer of LAYERS, quantised; with the option its products are exact on every CPU."""
    graph = layer_graph(layer, opset=opset)
    tensors = {"x": "uint8", "y": held} if kernel is Kernel.INTEGER else {"x": "uint8"}
    plan_by_hand(graph, tensors, storing=storing, kernel=kernel)
    if reduce_range:
        keep_within_int16(graph)
    return compiled(graph)


def keep_within_int16(graph: LpGraph) -> None:
    """Exchange codes of a planned graph whose products some CPUs add wrong."""
    for name, layer in graph.plan.layers.items():
        order = product_order(graph.node(name))
        assert layer.tensor is not None
        if order is not None:
            found = within_int16(layer.tensor, layer.tensor.dequantize(), order)
            assert found is not None
            changed = replace(layer, tensor=found, codes_sha256=found.digest())
            graph.plan = graph.plan.with_layer(name, changed)


def with_inner_outputs(model: ModelProto) -> ModelProto:
    """A copy that shows every tensor which a call reads or fills."""
    shown = ModelProto()
    shown.CopyFrom(model)
    names = {
        n for node in model.graph.node if node.domain == DOMAIN for n in (*node.input, *node.output) if n
    }
    names -= {t.name for t in model.graph.initializer} | {i.name for i in model.graph.input}
    names -= {o.name for o in model.graph.output}
    types = {v.name: v for v in model.graph.value_info}
    shown.graph.output.extend(types[n] for n in sorted(names))
    return shown


def call_results(
    model: ModelProto, feeds: Mapping[str, Array] | None = None
) -> list[tuple[NodeProto, Array, Array]]:
    """Every call with what ONNX Runtime gives and what the numpy reference gives for the same inputs."""
    shown = with_inner_outputs(model)
    feeds = random_feeds(model) if feeds is None else feeds
    tensors = {**feeds, **run_model(shown, feeds)}
    tensors |= {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    calls = [n for n in model.graph.node if n.domain == DOMAIN]
    assert calls
    return [(n, tensors[n.output[0]], run_node(n, [tensors[i] for i in n.input])[0]) for n in calls]


def optimised(model: ModelProto, folder: Path, level: str = "ORT_ENABLE_EXTENDED") -> ModelProto:
    """The graph that ONNX Runtime runs."""
    path = folder / f"{zlib.crc32(model.SerializeToString())}.onnx"
    with as_users_have_them():
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
        options.optimized_model_filepath = str(path)
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(path)


def op_types(model: ModelProto) -> list[str]:
    """Operators of a model in its own order."""
    return [n.op_type for n in model.graph.node]


def anatomy(model: ModelProto) -> list[tuple[Any, ...]]:
    """Operators, edges and attributes of a graph; constants known by type and shape, tensors by place."""
    constants = {t.name: (t.data_type, tuple(t.dims)) for t in model.graph.initializer}
    places: dict[str, Any] = {"": "omitted"} | {i.name: ("input", i.name) for i in model.graph.input}
    found = []
    for i, node in enumerate(model.graph.node):
        attributes = sorted(a.SerializeToString(deterministic=True) for a in node.attribute)
        inputs = [constants.get(n) or places[n] for n in node.input]
        found.append((node.domain, node.op_type, inputs, attributes))
        places.update({n: (i, j) for j, n in enumerate(node.output)})
    return [*found, [(o.name, places[o.name]) for o in model.graph.output]]  # type: ignore[list-item]


STORED = ("codes", "multipliers", "tables", "w_scale", "scale_codes", "scale_unit")
ROLES = ("weight", "weight_quantized", "weight_codes", "weight_multipliers", "weight_tables", "weight_scale",
         "weight_scale_codes", "weight_scale_unit", "weight_zero_point", "multiplier", "shift", "scale")  # fmt: skip


def stored_bytes(model: ModelProto, layer: str) -> int:
    """Bytes of the initialisers of a layer's weights and scales, off the file: by inputs of its call, or by name."""
    sizes = {t.name: numpy_helper.to_array(t).nbytes for t in model.graph.initializer}
    functions = {f.name: f for f in model.functions if not f.name.startswith(("Dyadic", "Accumulate"))}
    for node in model.graph.node:
        if node.name in (layer, f"{layer}/weight") and node.op_type in functions:
            inputs = zip(functions[node.op_type].input, node.input, strict=True)
            return sum(sizes[name] for formal, name in inputs if formal in STORED)
    return sum(sizes.get(f"{layer}/{role}", 0) for role in ROLES)


def rounded_over_its_range(x: np.ndarray) -> np.ndarray:
    """A tensor through the standard's DynamicQuantizeLinear and back."""
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    scale = np.float32((high - low) / 255)
    zero = np.clip(np.rint(-low / scale), 0, 255)
    return np.asarray((np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale, np.float32)
