"""Every `lpcompile` call of a compiled model against the numpy reference, on a sample of output positions.

One run of ONNX Runtime gives the tensors around the calls; numpy computes some positions of each output again
from the inputs that the runtime saw, so that a difference shows at the call that made it.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from lpcompile.ir import block_matmul
from lpcompile.ir.function import DOMAIN
from lpcompile.runtime.reference import WEIGHTS, expanded_weights, layer_rows, outputs_of, whole_outputs
from lpcompile.runtime.reference_block import block_bound
from lpcompile.runtime.reference_call import (
    DYADIC_ELEMENTWISE,
    FLOAT8_VALUES,
    FLOAT8_WEIGHTS,
    LAYERS,
    WIDE_WEIGHTS,
    Call,
)
from lpcompile.runtime.sampling import chosen
from lpcompile.runtime.session import Session

_SAMPLED = "lpcompile/sampled/"
_PRODUCTS = 4e6  # of one layer, some 1 ms: layers with many weights have fewer positions computed again
_FEWEST = 4
ELEMENTWISE_STEP = 1  # ONNX Runtime's elementwise QLinear kernels may differ by one step at ties
BLOCK_BOUND = 1  # BlockQuantMatMul: half a step of every input, the unit of its check
EXACT = (*LAYERS, *DYADIC_ELEMENTWISE, FLOAT8_WEIGHTS, WIDE_WEIGHTS, FLOAT8_VALUES)


@dataclass(frozen=True, slots=True)
class LayerCheck:
    """One call and how far the runtime is from the reference.

    Attributes:
        name: of the node; of the layer for expanded weights.
        op: name of the function.
        compared: numbers compared.
        different: how many differ.
        largest_step: the largest difference, in codes; for float outputs in units of the largest magnitude; of
            BlockQuantMatMul in units of what its rounding of inputs allows, and `different` counts what is beyond.
    """

    name: str
    op: str
    compared: int
    different: int
    largest_step: float

    @property
    def wrong(self) -> bool:
        """Whether that is more than the definition of the call allows."""
        if self.op.startswith(block_matmul.FAMILY):
            return self.largest_step > BLOCK_BOUND
        exact = self.op.startswith(EXACT)
        return self.largest_step > (0 if exact else ELEMENTWISE_STEP)


def check_layers(
    model: ModelProto,
    feeds: Mapping[str, np.ndarray],
    *,
    positions: int = 64,
    seed: int = 0,
    threads: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[LayerCheck]:
    """Compare every call of a compiled model with the reference.

    Args:
        model: with calls of `lpcompile` functions; one without has nothing to check.
        feeds: of one run.
        positions: most output positions of a layer that are computed again, all channels of each.
        seed: of the draw of positions.
        threads: of the runtime; 0 leaves it to the runtime.
        progress: called with (done, total).

    Raises:
        ModelError: the model does not load or run.
    """
    calls = [(n, Call.of(n)) for n in model.graph.node if n.domain == DOMAIN]
    if not calls:
        return []
    rng = np.random.default_rng(seed)
    constants = {t.name: t for t in model.graph.initializer}
    samples = {n.output[0]: _weight_sample(c, positions, rng) for n, c in calls if c.family in WEIGHTS}
    given = {i.name for i in model.graph.input} | constants.keys()
    shown = (
        {name for n, c in calls if c.family not in WEIGHTS for name in (*n.input, *n.output)} - given - {""}
    )
    with showing(model, shown - {o.name for o in model.graph.output}, samples):
        session = Session(model, threads=threads)
    tensors = session.run(feeds, sorted(shown) + [_SAMPLED + name for name in samples])
    del session  # its weights would stand beside those that numpy expands

    def array(name: str) -> NDArray[Any]:
        return numpy_helper.to_array(constants[name]) if name in constants else {**feeds, **tensors}[name]

    found = []
    for done, (node, call) in enumerate(calls):
        if progress is not None:
            progress(done, len(calls))
        inputs = [array(name) for name in node.input]
        if call.family in WEIGHTS:
            weights = expanded_weights(call, inputs)
            at = samples[node.output[0]]
            found.append(_compared(node, weights.reshape(-1)[at], tensors[_SAMPLED + node.output[0]]))
        elif call.is_layer and inputs[0].dtype.kind == "f" and not np.isfinite(inputs[0]).all():
            found.append(LayerCheck(node.name, node.op_type, 0, 0, 0.0))  # NaN has no range
        elif call.is_layer:
            rows = layer_rows(call, inputs)
            limit = min(positions, max(_FEWEST, int(_PRODUCTS / max(rows.values.size, 1))))
            wanted, where, _ = outputs_of(call)(call, rows, inputs, limit, rng)
            bound = block_bound(rows, inputs[0], where) if call.family == block_matmul.FAMILY else None
            found.append(_compared(node, wanted, tensors[node.output[0]][where], bound))
        else:
            found.append(_compared(node, whole_outputs(call, inputs), tensors[node.output[0]]))
    return found


def _weight_sample(call: Call, positions: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Flat indices into expanded weights: as many numbers as a layer of 64 channels has in its sample."""
    return chosen(prod(call.attributes["weight_shape"]), 64 * positions, rng)


@contextmanager
def showing(
    model: ModelProto, names: set[str], samples: Mapping[str, NDArray[np.intp]] = MappingProxyType({})
) -> Iterator[None]:
    """Inner tensors as further outputs for a while, without a copy of the model; of weights only a sample."""
    graph = model.graph
    before = len(graph.output), len(graph.node), len(graph.initializer)
    types = {v.name: v for v in graph.value_info}
    graph.output.extend(types.get(n, ValueInfoProto(name=n)) for n in sorted(names))
    for name, at in samples.items():
        flat, index, out = (_SAMPLED + role + name for role in ("flat/", "index/", ""))
        graph.initializer.append(numpy_helper.from_array(np.array([-1], np.int64), flat + "/shape"))
        graph.initializer.append(numpy_helper.from_array(at.astype(np.int64), index))
        graph.node.append(helper.make_node("Reshape", [name, flat + "/shape"], [flat]))
        graph.node.append(helper.make_node("Gather", [flat, index], [out]))
        graph.output.append(helper.make_tensor_value_info(out, TensorProto.FLOAT, [len(at)]))
    try:
        yield
    finally:
        del graph.output[before[0] :], graph.node[before[1] :], graph.initializer[before[2] :]


def _compared(
    node: NodeProto,
    wanted: NDArray[Any],
    found: NDArray[Any],
    bound: NDArray[np.float64] | None = None,
) -> LayerCheck:
    a, b = wanted.astype(np.float64), found.astype(np.float64)
    apart = np.abs(a - b)
    if bound is not None:
        apart = np.divide(apart, bound, out=np.where(apart > 0, np.inf, 0.0), where=bound > 0)
        return LayerCheck(
            node.name, node.op_type, a.size, int(np.count_nonzero(apart > 1)), float(apart.max(initial=0))
        )
    step = float(apart.max(initial=0))
    if wanted.dtype == np.float32 and step > 0:
        step /= float(np.abs(a).max()) or 1.0
    name = node.name.removesuffix("/weight") if node.op_type.startswith(WEIGHTS) else node.name
    return LayerCheck(name, node.op_type, a.size, int(np.count_nonzero(a != b)), step)
