"""RNN, GRU and LSTM: unrolled to elementary operators, through which the chain rule runs (backpropagation in time)."""

from collections.abc import Sequence

import numpy as np

from lpcompile.autodiff.builder import GradientBuilder
from lpcompile.autodiff.registry import Gradient, rule
from lpcompile.autodiff.reverse import add_gradients
from lpcompile.autodiff.rules.unrolled import Unroller
from lpcompile.autodiff.rules.unrolled_cells import CELLS, Cell, Step
from lpcompile.errors import GradientError
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value

_LENGTHS = 4  # index of sequence_lens
# Of 20 nodes each, and as many on the way back: more take the runtime longer to load than to run.
MOST_STEPS = 512


@rule("RNN", "GRU", "LSTM")
def recurrent(
    b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]
) -> list[Gradient]:
    """The gradients of the unrolled copy; what it starts from are copies, so that nothing outside counts twice."""
    steps = _steps(node)
    copies = [None if v is None or i == _LENGTHS else b.copy(v) for i, v in enumerate(node.inputs)]
    copies += [None] * (8 - len(copies))
    outputs = unrolled(b, node, copies, steps)
    seeds = {o.name: g for o, g in zip(outputs, grads, strict=False) if g is not None}
    asked = {i: c.name for i, c in enumerate(copies) if c is not None and wanted[i]}
    found = add_gradients(b.graph, seeds, list(asked.values()), prefix=b.prefix)
    return [found[asked[i]] if i in asked else None for i in range(len(wanted))]


def _steps(node: Node) -> int:
    x = node.inputs[0]
    axis = 1 if int(node.attrs.get("layout", 0)) else 0
    steps = None if x is None or x.shape is None else x.shape[axis]
    if not isinstance(steps, int):
        raise GradientError(
            f"the sequence length of {node.op} is not known",
            where=node.name,
            hint="give the model's input a fixed shape",
        )
    if steps > MOST_STEPS:
        raise GradientError(
            f"{node.op} of {steps} steps is too long to unroll",
            where=node.name,
            hint="sensitivity can be measured forward only (--metric measured)",
        )
    lengths = node.inputs[_LENGTHS] if len(node.inputs) > _LENGTHS else None
    if lengths is not None and not (lengths.is_constant and (lengths.values == steps).all()):
        raise GradientError(
            f"{node.op} with sequences of several lengths has no gradient",
            where=node.name,
            hint="sensitivity can be measured forward only (--metric measured)",
        )
    return steps


def unrolled(b: GradientBuilder, node: Node, inputs: Sequence[Value | None], steps: int) -> list[Value]:
    """Y, Y_h and, of an LSTM, Y_c, as the node would give them."""
    x, weight = inputs[0], inputs[1]
    assert x is not None
    assert weight is not None
    assert x.shape is not None
    batch_first = bool(node.attrs.get("layout", 0))
    u = Unroller(b, x, batch=x.shape[0 if batch_first else 1], hidden=int(node.attrs["hidden_size"]))
    if batch_first:
        x = u.made("Transpose", x, shape=(x.shape[1], x.shape[0], x.shape[2]), perm=[1, 0, 2])
    direction = str(node.attrs.get("direction", "forward"))
    ways = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
    runs = [_direction(u, node, x, inputs, steps, d, len(ways), backwards=way) for d, way in enumerate(ways)]
    states = [[u.unsqueezed(run[t][0], 0) for run in runs] for t in range(steps)]
    every = [u.unsqueezed(u.joined(s, 0), 0) for s in states]
    last = [run[0 if way else -1] for run, way in zip(runs, ways, strict=True)]
    outputs = [u.joined(every, 0), u.joined([u.unsqueezed(s[0], 0) for s in last], 0)]
    if node.op == "LSTM":
        cells = [s[1] for s in last if s[1] is not None]
        outputs.append(u.joined([u.unsqueezed(c, 0) for c in cells], 0))
    if batch_first:
        turned = ([2, 0, 1, 3], [1, 0, 2], [1, 0, 2])
        outputs = [u.turned(o, perm) for o, perm in zip(outputs, turned, strict=False)]
    return outputs


def _direction(
    u: Unroller,
    node: Node,
    x: Value,
    inputs: Sequence[Value | None],
    steps: int,
    d: int,
    ways: int,
    *,
    backwards: bool,
) -> list[Step]:
    """The state after each step of the sequence, in its own order."""
    batch_first = bool(node.attrs.get("layout", 0))
    _, weight, recurrence, bias, _, hidden, memory, peephole = inputs
    assert weight is not None
    assert recurrence is not None
    if batch_first:
        hidden, memory = (None if s is None else u.turned(s, [1, 0, 2]) for s in (hidden, memory))
    make: type[Cell] = CELLS[node.op]
    cell = make(
        u,
        node,
        d,
        ways,
        weight=u.piece(weight, 0, d, ways),
        recurrence=u.piece(recurrence, 0, d, ways),
        bias=None if bias is None else u.piece(bias, 0, d, ways),
        peephole=None if peephole is None else u.piece(peephole, 0, d, ways),
    )
    projected = u.split(cell.projected(x), 0, [1] * steps)
    state: tuple[Value | None, Value | None] = (
        None if hidden is None else u.piece(hidden, 0, d, ways),
        None if memory is None else u.piece(memory, 0, d, ways),
    )
    found: list[Step] = []
    for t in np.arange(steps)[:: -1 if backwards else 1]:
        step = cell.step(u.squeezed(projected[t], 0), state)
        found.append(step)
        state = step
    return found[::-1] if backwards else found
