"""Inputs whose ranges are measured at run time, rounded in a float graph as their kernels round them.

One range a tensor and call (Kernel.DYNAMIC: DynamicQuantizeLinear, uint8), or one magnitude for each row and run of 32
inputs (Kernel.NBITS: MatMulNBits at accuracy level 4, int8).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lpcompile.ir.block_matmul import BLOCK, LARGEST_CODE
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.value import Value
from lpcompile.plan import AT_RUN_TIME, Kernel

REDUCES_BY_INPUT = 18  # opset from which axes are an input
_TINY = np.finfo(np.float32).tiny


@dataclass(frozen=True)
class DynamicInput:
    """A tensor whose range is measured at run time.

    Attributes:
        name: of the tensor.
        kernel: how; of Kernel.DYNAMIC and Kernel.NBITS.
        readers: layers that read it so.
    """

    name: str
    kernel: Kernel
    readers: tuple[str, ...]


def dynamic_inputs(graph: LpGraph) -> list[DynamicInput]:
    """Those of a graph's plan, in the order of its layers."""
    readers: dict[tuple[str, Kernel], list[str]] = {}
    for name, layer in graph.plan.layers.items():
        x = graph.node(name).inputs[0] if layer.kernel in AT_RUN_TIME else None
        if x is not None:
            readers.setdefault((x.name, layer.kernel), []).append(name)
    return [DynamicInput(*key, tuple(names)) for key, names in readers.items()]


def round_dynamic_inputs(graph: LpGraph, chosen: Callable[[int], Value] | None = None) -> None:
    """Make layers that are planned to measure ranges at run time read rounded inputs; their other readers stay.

    Args:
        graph: float graph and plan; changed.
        chosen: gives a bool tensor by the index in `dynamic_inputs`: in runs where it is false they read floats.
    """
    for i, dynamic in enumerate(dynamic_inputs(graph)):
        x = graph.value(dynamic.name)
        rounded = (_by_tensor if dynamic.kernel is Kernel.DYNAMIC else _by_blocks)(graph, x)
        graph.set_type(rounded, x.dtype, x.shape)
        if chosen is not None:
            name = graph.fresh(f"{x.name}/chosen")
            rounded = only(graph.add_node("Where", [chosen(i), rounded, x], name=name).outputs)
            graph.set_type(rounded, x.dtype, x.shape)
        for reader in dynamic.readers:
            graph.node(reader).set_input(0, rounded)


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
