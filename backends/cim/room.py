"""Bytes of a local buffer that a layer takes beside its input: one count for cutting it and for its tiles."""

from lpcompile.backends.cim.memory import ALIGN
from lpcompile.backends.cim.program import DTYPE_BYTES
from lpcompile.backends.cim.work import Dense, Depthwise, Product

ACC_BYTES, CODE_BYTES = 4, 1


def output_bytes(work: Dense | Depthwise) -> int:
    """Bytes of one output of one position: accumulator, code, operands of the steps that finish it."""
    operands = sum(DTYPE_BYTES[f.other.dtype] for f in work.steps if f.other is not None)
    wide = sum(ACC_BYTES for f in work.steps if isinstance(f.step, Product))
    return ACC_BYTES + CODE_BYTES + operands + wide + (ACC_BYTES if has_side(work) else 0)


def hidden_bytes(work: Dense | Depthwise) -> int:
    """Bytes of the numbers between the two products of a side path, of one position: sums and 16-bit numbers."""
    if not isinstance(work, Dense) or work.side is None:
        return 0
    return (ACC_BYTES + DTYPE_BYTES["i16"]) * len(work.side.second)


def factor_bytes(work: Dense | Depthwise) -> int:
    """Bytes of the factors of a side path: each core holds both whole."""
    if not isinstance(work, Dense) or work.side is None:
        return 0
    return work.side.first.size + work.side.second.size + 2 * ALIGN


def has_side(work: Dense | Depthwise) -> bool:
    """Whether a side path adds to the accumulators."""
    return isinstance(work, Dense) and work.side is not None


def tile_slack(work: Dense | Depthwise) -> int:
    """Bytes that aligning the tiles can cost: input, accumulators, codes, and those of the steps."""
    steps = sum((f.other is not None) + isinstance(f.step, Product) for f in work.steps)
    return ALIGN * (3 + steps + 3 * has_side(work))
