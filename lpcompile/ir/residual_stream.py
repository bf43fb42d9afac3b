"""Streams of a transformer: tensors that layers add to and norms read, which can be rotated along their last axis.

x Q in place of x, with Q orthogonal: what writes the stream takes Q in, what reads it takes Q^T in, and norms between
the stream and its readers commute with Q once their gains and shifts are folded into the readers. [ashkboos2024]
"""

from dataclasses import dataclass, field

from lpcompile.ir.graph import LpGraph
from lpcompile.ir.movement import DATA_INPUTS
from lpcompile.ir.node import Node
from lpcompile.ir.runtime_operators import RMS_NORMS
from lpcompile.ir.value import Value

CENTRING = ("LayerNormalization",)
NORMS = (*CENTRING, *RMS_NORMS)
MATRICES = ("Gemm", "MatMul")
SIZES_ONLY = ("Shape", "Size")  # read no numbers


@dataclass(eq=False)
class Stream:
    """One stream.

    Attributes:
        width: size of its last axis.
        tensors: that it consists of, by name.
        writers: layers that give a tensor of it.
        tables: Gathers of rows of a constant.
        terms: additions of a constant -> which input that is.
        norms: that read it -> the layers that read them.
        readers: layers that read it without a norm.
        reason: why it cannot be rotated; empty where it can.
    """

    width: int
    tensors: dict[str, Value] = field(default_factory=dict)
    writers: list[Node] = field(default_factory=list)
    tables: list[Node] = field(default_factory=list)
    terms: dict[Node, int] = field(default_factory=dict)
    norms: dict[Node, list[Node]] = field(default_factory=dict)
    readers: list[Node] = field(default_factory=list)
    reason: str = ""

    @property
    def centred(self) -> bool:
        """Whether a norm subtracts the mean of the channels."""
        return any(n.op in CENTRING for n in self.norms)


def residual_streams(graph: LpGraph) -> list[Stream]:
    """Every stream that a norm reads, in execution order of its first norm.

    Args:
        graph: with shapes.
    """
    found: list[Stream] = []
    for norm in graph.nodes():
        x = norm.inputs[0] if norm.op in NORMS and norm.inputs else None
        if x is None or any(x.name in s.tensors for s in found):
            continue
        width = x.shape[-1] if x.shape else None
        stream = Stream(width if isinstance(width, int) else 0)
        found.append(stream)
        if not isinstance(width, int):
            stream.tensors[x.name] = x
            stream.reason = "its width is not known"
            continue
        _follow(stream, x)
        if not stream.reason and not (stream.writers or stream.tables):
            stream.reason = "nothing writes it"
    return found


def _follow(stream: Stream, start: Value) -> None:
    todo = [start]
    while todo:
        value = todo.pop()
        if value.name in stream.tensors or stream.reason:
            continue
        stream.tensors[value.name] = value
        if value.is_constant or value.producer is None:
            stream.reason = f"{value.name!r} is a {'constant' if value.is_constant else 'graph input'}"
        elif value.is_output or value.used_in_subgraph:
            stream.reason = f"{value.name!r} is read from outside"
        else:
            _made(stream, value.producer, value, todo)
            for node in value.consumers:
                if not stream.reason:
                    _read(stream, node, value, todo)


def _made(stream: Stream, node: Node, value: Value, todo: list[Value]) -> None:
    """What gives a tensor of the stream."""
    w = node.inputs[1] if len(node.inputs) > 1 else None
    if node.op in MATRICES and w is not None and w.is_constant and len(w.dims) == 2:
        stream.writers.append(node)
    elif node.op == "Gather" and node.inputs[0] is not None and node.inputs[0].is_constant:
        table = node.inputs[0]
        if len(table.dims) != 2 or node.attrs.get("axis", 0):
            stream.reason = "its table of rows is no matrix"
            return
        stream.tables.append(node)
    elif node.op in NORMS:
        stream.reason = f"the gain of {node.name} acts on the stream itself (norms after the additions)"
    else:
        _through(stream, node, todo)


def _read(stream: Stream, node: Node, value: Value, todo: list[Value]) -> None:
    """What takes a tensor of the stream."""
    if node.op in SIZES_ONLY and not node.domain:
        return
    if node.op in NORMS and node.inputs[0] == value:
        _normed(stream, node)
    elif node.op in MATRICES and node.inputs[0] == value and _is_layer(node):
        stream.readers.append(node)
    else:
        _through(stream, node, todo)


def _normed(stream: Stream, norm: Node) -> None:
    y = norm.outputs[0]
    axis = int(norm.attrs.get("axis", -1))
    constants = norm.inputs[1:3]
    if y is None or len(norm.outputs) > 1 or axis not in (-1, len(y.shape or ()) - 1):
        stream.reason = f"{norm.name} has further results or another axis"
    elif y.is_output or y.used_in_subgraph:
        stream.reason = f"the result of {norm.name} is read from outside"
    elif any(v is not None and (not v.is_constant or v.dims != (stream.width,)) for v in constants):
        stream.reason = f"scale and shift of {norm.name} are not constants for each channel"
    else:
        readers = [n for n in y.consumers if n.op not in SIZES_ONLY]
        other = [n for n in readers if not (n.op in MATRICES and n.inputs[0] == y and _is_layer(n))]
        if other and other[0].op in ("Add", "Sum"):
            stream.reason = f"the gain of {norm.name} acts on the stream itself (norms after the additions)"
        elif other:
            stream.reason = f"{other[0].op} reads the result of {norm.name}"
        stream.norms[norm] = readers


def _is_layer(node: Node) -> bool:
    w = node.inputs[1]
    return w is not None and w.is_constant and len(w.dims) == 2 and not node.attrs.get("transA", 0)


def _through(stream: Stream, node: Node, todo: list[Value]) -> None:
    """Operators that leave the last axis as it is: sums, multiples, and moves along other axes."""
    y = node.outputs[0]
    moving = [v for v in node.inputs if v is not None and not v.is_constant]
    constants = [i for i, v in enumerate(node.inputs) if v is not None and v.is_constant]
    if node.domain or y is None:
        stream.reason = f"{node.op} is not known"
    elif node.op in ("Add", "Sub", "Sum"):
        if len(constants) > 1 or (constants and not _fits(node.inputs[constants[0]], stream.width)):
            stream.reason = f"the constant of {node.name} is not one number a channel"
            return
        if constants:
            stream.terms[node] = constants[0]
        todo += [y, *moving]
    elif node.op in ("Mul", "Div") and len(constants) == 1 and not (node.op == "Div" and constants == [0]):
        c = node.inputs[constants[0]]
        if c is None or max(c.dims, default=1) != 1:
            stream.reason = f"{node.op} scales its channels"
            return
        todo += [y, *moving]
    elif node.op in ("Identity", "Dropout"):
        todo += [y, *moving]
    elif node.op in (
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Slice",
        "Gather",
        "Expand",
    ) and _keeps_last(node):
        todo += [y, *moving[:1]]
    else:
        made = any(v is not None and v.name in stream.tensors for v in node.outputs)
        stream.reason = f"{node.op} {'makes' if made else 'reads'} it"


def _fits(constant: Value | None, width: int) -> bool:
    return constant is not None and bool(constant.dims) and constant.dims[-1] == width


def _keeps_last(node: Node) -> bool:
    """Whether a move leaves the last axis alone: sizes agree, and no axis argument names it."""
    x, y = node.inputs[DATA_INPUTS[node.op]][0], node.outputs[0]
    if x is None or y is None or not x.shape or not y.shape or x.is_constant:
        return False
    if not isinstance(x.shape[-1], int) or x.shape[-1] != y.shape[-1] or x.shape[-1] == 1:
        return False
    if node.op == "Gather":
        return int(node.attrs.get("axis", 0)) % len(x.shape) != len(x.shape) - 1
    if node.op == "Slice":
        axes = node.inputs[3] if len(node.inputs) > 3 else None
        named = axes.values.reshape(-1) if axes is not None and axes.is_constant else [len(x.shape) - 1]
        return all(int(i) % len(x.shape) != len(x.shape) - 1 for i in named)
    return True
