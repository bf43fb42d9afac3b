"""What nodes without weights cost on codes: integers at their widths, one requantisation each.

An activation that only clamps is the clip of the node before it. Functions of one tensor are looked up.
"""

from math import prod

from lpcompile.accounts import functions as f
from lpcompile.accounts.code_flow import CodeFlow
from lpcompile.accounts.elementwise import class_of_product, dequantise, first, quantise
from lpcompile.accounts.entries import Entry
from lpcompile.accounts.nodes import RULES, VIEWS
from lpcompile.accounts.sizes import dims_of, elements
from lpcompile.accounts.spending import Spending
from lpcompile.analysis.arithmetic import ACCUMULATOR_BITS, Kind, Operation
from lpcompile.analysis.cost_classes import ACTIVATION, NORM, OTHER, POOL, RESIDUAL, SCALE
from lpcompile.assignment.requantisation import Requantisation
from lpcompile.ir.forms import Form, form_of
from lpcompile.ir.movement import bounds
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value
from lpcompile.materialise.functions import Unit
from lpcompile.materialise.movement import code_bounds

LOOKED_UP = ("LeakyRelu", "Sigmoid")  # QLinearLeakyRelu and QLinearSigmoid are tables in ONNX Runtime, too


def entry_on_codes(
    flow: CodeFlow, unit: Unit, by: Requantisation, *, tables: bool, in_activation: bool
) -> Entry:
    """The entry of a piece of integer work without weights.

    Args:
        flow: of the graph.
        unit: the work.
        by: what it requantises by.
        tables: whether functions of one tensor are tables; else the runtime has few of them.
        in_activation: see `Spending`.

    Raises:
        UnknownSizeError: a size that a call decides.
    """
    node, form = unit.node, Form.TABLE if unit.cone is not None else form_of(unit.node)
    reads = flow.codes_read(node)
    bits = max((flow.bits(v) for v in reads), default=8)
    s = Spending(bits, floats=False, in_activation=in_activation)
    outputs = elements(unit.output if unit.output is not None else first(node))
    if form is Form.MOVE:
        _move(flow, s, node, reads, by, tables=tables)
    elif form is Form.CLAMP:
        _clamp(flow, s, node, outputs)
    elif form is Form.SUM:  # (a * m_a + b * m_b + c) >> k
        s.add(SCALE, by.multiply(bits), 2 * outputs)
        s.add(RESIDUAL, by.add, 2 * outputs)
        _finish(s, by, outputs)
    elif form is Form.PRODUCT:
        s.spend(s.role(class_of_product(node)), f.MULTIPLY, outputs)
        _requantise(s, SCALE, by, outputs, 2 * bits)
    elif form is Form.NORM:
        _requantise(s, NORM, by, outputs, bits)
    elif form in (Form.POOL, Form.GLOBAL_POOL):
        window = node.attrs["kernel_shape"] if form is Form.POOL else dims_of(reads[0])[2:]
        add = Operation(Kind.ADD, ACCUMULATOR_BITS, ACCUMULATOR_BITS)
        s.add(POOL, add, outputs * (int(prod(window)) - 1))
        _requantise(s, SCALE, by, outputs)
    elif tables or node.op in LOOKED_UP:
        s.spend(ACTIVATION, f.FREE, outputs)
    else:
        s = _in_floats(flow, node, reads, outputs)
    stays = node.op in VIEWS and not s.work
    moved = 0 if stays else sum(flow.code_bytes(v) for v in (*reads, *flow.outputs(unit)))
    return Entry(node.name, node.op, s.work, s.ace, moved)


def clip(s: Spending, count: int, by: Requantisation) -> None:
    """The end of a requantisation: two comparisons."""
    compare = Operation(Kind.COMPARE, ACCUMULATOR_BITS, ACCUMULATOR_BITS, floats=by.floats)
    s.add(SCALE, compare, 2 * count)


def _requantise(s: Spending, name: str, by: Requantisation, count: int, bits: int = ACCUMULATOR_BITS) -> None:
    s.add(name, by.multiply(bits), count)
    s.add(name, by.add, count)
    _finish(s, by, count)


def _finish(s: Spending, by: Requantisation, count: int) -> None:
    if by.shift is not None:
        s.add(SCALE, by.shift, count)
    clip(s, count, by)


def _in_floats(flow: CodeFlow, node: Node, reads: list[Value], outputs: int) -> Spending:
    """An operator that the runtime has no integers for: it computes floats between codes."""
    s = Spending()
    for value in reads:
        dequantise(s, elements(value), flow.bits(value))
    RULES[node.op](node, s)
    quantise(s, outputs)
    return s


def _move(
    flow: CodeFlow, s: Spending, node: Node, reads: list[Value], by: Requantisation, *, tables: bool
) -> None:
    """Codes of another scale than the result's are scaled on the way, or looked up."""
    y = first(node)
    target = None if y is None else flow.plan.activations.get(y.name)
    for value in reads:
        plan = flow.plan.activations[value.name]
        alike = target is None or (plan.scale, plan.zero_point) == (target.scale, target.zero_point)
        if not alike and tables:
            s.spend(SCALE, f.FREE, elements(value))
        elif not alike:
            _requantise(s, SCALE, by, elements(value), flow.bits(value))
    if node.op in RULES:
        RULES[node.op](node, s)


def _clamp(flow: CodeFlow, s: Spending, node: Node, outputs: int) -> None:
    """Only bounds inside the range of the tensor compare."""
    y, limits = first(node), bounds(node)
    plan = None if y is None else flow.plan.activations.get(y.name)
    assert plan is not None
    assert limits is not None
    low, high = code_bounds(limits, plan)
    s.spend(OTHER, f.COMPARE, ((low > 0) + (high < plan.code_max)) * outputs)
