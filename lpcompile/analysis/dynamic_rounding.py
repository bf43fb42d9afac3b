"""Inputs whose ranges are measured at run time, rounded in a float graph as their kernels round them.

One range a tensor and call (Kernel.DYNAMIC: DynamicQuantizeLinear, uint8), or one magnitude for each row and run of 32
inputs (Kernel.NBITS: MatMulNBits at accuracy level 4, int8).
"""

from collections.abc import Sequence

import numpy as np

from lpcompile.ir.block_matmul import BLOCK, LARGEST_CODE
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.value import Value
from lpcompile.plan import AT_RUN_TIME, Kernel

REDUCES_BY_INPUT = 18  # opset from which axes are an input
_TINY = np.finfo(np.float32).tiny


def round_dynamic_inputs(graph: LpGraph) -> None:
    """Make layers that are planned to measure ranges at run time read rounded inputs; their other readers stay.

    Args:
        graph: float graph and plan; changed.
    """
    made: dict[tuple[str, Kernel], Value] = {}
    for name, layer in graph.plan.layers.items():
        if layer.kernel not in AT_RUN_TIME:
            continue
        node = graph.node(name)
        x = node.inputs[0]
        assert x is not None
        key = (x.name, layer.kernel)
        if key not in made:
            rounds = _by_tensor if layer.kernel is Kernel.DYNAMIC else _by_blocks
            made[key] = rounds(graph, x)
            graph.set_type(made[key], x.dtype, x.shape)
        node.set_input(0, made[key])


def _by_tensor(graph: LpGraph, x: Value) -> Value:
    name = graph.fresh(f"{x.name}/dynamic")
    codes = graph.add_node("DynamicQuantizeLinear", [x], 3, name=name).outputs
    return only(graph.add_node("DequantizeLinear", codes, name=f"{name}/float").outputs)


def _by_blocks(graph: LpGraph, x: Value) -> Value:
    name = f"{x.name}/blocks"

    def constant(label: str, value: object, dtype: type) -> Value:
        return graph.constant(f"{name}/{label}", np.asarray(value, dtype))

    def op(kind: str, *inputs: Value, **attrs: object) -> Value:
        return only(graph.add_node(kind, inputs, name=graph.fresh(name), attrs=attrs).outputs)

    rows = op("Reshape", x, constant("shape", [-1, BLOCK], np.int64))
    magnitudes = op("Abs", rows)
    if graph.opset < REDUCES_BY_INPUT:
        largest = op("ReduceMax", magnitudes, axes=[1], keepdims=1)
    else:
        largest = op("ReduceMax", magnitudes, constant("axis", [1], np.int64), keepdims=1)
    step = op(
        "Max",
        op("Div", largest, constant("codes", LARGEST_CODE, np.float32)),
        constant("least", _TINY, np.float32),
    )
    return op("Reshape", op("Mul", op("Round", op("Div", rows, step)), step), op("Shape", x))


def only(outputs: Sequence[Value | None]) -> Value:
    """The first output of a node."""
    found = outputs[0]
    assert found is not None
    return found
