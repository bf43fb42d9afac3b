"""The hp unit: VMM (dense products) and VDW (depthwise windows), int8 or int16 weights from the local buffer."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcompile.backends.cim.program import DTYPE_RANGES, INIT
from lpcompile.backends.cim.simulator.context import Context, Effect
from lpcompile.backends.cim.simulator.integers import add_into, product
from lpcompile.backends.cim.simulator.operands import Operand
from lpcompile.backends.cim.simulator.streams import Operation
from lpcompile.backends.cim.simulator.timing import Work
from lpcompile.backends.cim.simulator.vector import local
from lpcompile.backends.cim.simulator.windows import expand


def dense(context: Context, operation: Operation) -> Effect:
    """VMM d, s, w."""
    word = operation.instruction
    d, result = context.write(operation, word.a)
    s, source = context.read(operation, word.b)
    w, weights = context.read(operation, word.c)
    local(operation, d, s, w)
    shape = context.window_shape(operation, s)
    if w.descriptor.dtype not in ("i8", "i16") or len(w.counts) != 2 or w.counts[0] != shape.rows:
        raise operation.fault(f"weights are i8 or i16 of {shape.rows} rows by outputs")
    _destination(operation, d, w.counts[1], math.prod(shape.positions))
    pad = _pad(operation, s)
    work = _work(context, operation, d, math.prod(shape.positions), d.elements * shape.rows)
    limits = _most(s), _most(w)

    def effect() -> Work:
        x = expand(source, s.descriptor.window, pad).reshape(-1, shape.rows)
        try:
            sums = product(x, weights, *limits)
        except OverflowError:
            raise operation.fault("a sum may leave the range of int64") from None
        _add(operation, result, sums)
        context.counters.hp_macs += work.macs
        return work

    return effect


def depthwise(context: Context, operation: Operation) -> Effect:
    """VDW d, s, w."""
    word = operation.instruction
    d, result = context.write(operation, word.a)
    s, source = context.read(operation, word.b)
    w, weights = context.read(operation, word.c)
    local(operation, d, s, w)
    shape = context.window_shape(operation, s)
    taps, channels = math.prod(shape.kernel), s.counts[-1]
    if s.descriptor.window is None or w.descriptor.dtype != "i8" or len(w.counts) != 3:
        raise operation.fault("VDW takes a windowed source and i8 weights (taps, channels, multiplier)")
    if w.counts[:2] != (taps, channels):
        raise operation.fault(f"weights are of {w.counts[:2]}, the windows of {(taps, channels)}")
    if s.descriptor.dtype == "i32":
        raise operation.fault("sources of VDW have at most 16 bits")
    outputs = channels * w.counts[2]
    _destination(operation, d, outputs, math.prod(shape.positions))
    pad = _pad(operation, s)
    work = _work(context, operation, d, math.prod(shape.positions), d.elements * taps)
    # float32 is twice as fast, and exact while sums stay below 2^24
    kind: Any = np.float32 if taps * _most(s) * 128 < 1 << 24 else np.float64
    everywhere = (slice(None),) * len(shape.positions)
    taps_at: list[tuple[Any, ...]] = [(*everywhere, *map(int, at)) for at in np.ndindex(*shape.kernel)]

    def effect() -> Work:
        windows = expand(source.astype(kind), s.descriptor.window, pad)[..., None]
        factors = weights.astype(kind)
        sums = np.zeros((*shape.positions, channels, w.counts[2]), kind)
        products = np.empty_like(sums)
        for factor, tap in zip(factors, taps_at, strict=True):
            np.multiply(windows[tap], factor, out=products)
            sums += products
        _add(operation, result, sums)
        context.counters.hp_macs += work.macs
        return work

    return effect


def _destination(operation: Operation, d: Operand, outputs: int, positions: int) -> None:
    if d.descriptor.dtype != "i32" or d.descriptor.window is not None:
        raise operation.fault("the destination is i32, without a window")
    if not d.counts or d.counts[-1] != outputs or math.prod(d.counts[:-1]) != positions:
        raise operation.fault(f"the destination has counts {d.counts} for {positions} positions of {outputs}")


def _pad(operation: Operation, s: Operand) -> int:
    window = s.descriptor.window
    low, high = DTYPE_RANGES[s.descriptor.dtype]
    pad = 0 if window is None else window.pad_value
    if not low <= pad <= high:
        raise operation.fault(f"the pad value {pad} is no {s.descriptor.dtype}")
    return pad


def _work(context: Context, operation: Operation, d: Operand, positions: int, macs: int) -> Work:
    if macs > context.limits.macs:
        raise operation.fault(f"more than the limit of {context.limits.macs} multiply-accumulates")
    return Work(d.elements, d.elements * 4, positions=positions, macs=macs, indices=operation.indices)


def _most(operand: Operand) -> int:
    low, high = DTYPE_RANGES[operand.descriptor.dtype]
    return max(-low, high)


def _add(operation: Operation, result: NDArray[Any], sums: NDArray[Any]) -> None:
    init = bool(operation.instruction.flags & INIT) and not (operation.indices and operation.indices[0])
    found = sums.reshape(result.shape)
    if not add_into(result, found, int(found.min()), int(found.max()), init=init):
        raise operation.fault("an accumulator leaves the range of int32")
