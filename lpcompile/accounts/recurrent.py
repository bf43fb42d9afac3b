"""Recurrent layers on integers: products of 8 bits, gates in floats, inputs and states rounded at every step."""

from collections import Counter
from dataclasses import replace

from lpcompile.accounts.elementwise import quantise
from lpcompile.accounts.entries import Entry, Work
from lpcompile.accounts.sizes import code_bytes, dims_of, elements, nbytes
from lpcompile.accounts.spending import Spending
from lpcompile.analysis.arithmetic import Kind, Operation
from lpcompile.ir.node import Node
from lpcompile.plan import Kernel, QuantPlan


def runs_on_integers(plan: QuantPlan, node: Node) -> bool:
    """Whether a node is a recurrent layer that is planned so."""
    cell = plan.recurrent.get(node.name)
    return cell is not None and cell.kernel is Kernel.DYNAMIC


def on_integers(node: Node, entry: Entry) -> Entry:
    """A recurrent layer whose products are of 8 bits; its gates compute in floats."""
    work: Work = Counter()
    for (name, operation), times in entry.work.items():
        mac = operation.kind is Kind.MAC
        work[name, Operation(Kind.MAC, 8, 8, floats=False) if mac else operation] += times
    macs = sum(times for (_, operation), times in entry.work.items() if operation.kind is Kind.MAC)
    held = sum(nbytes(v) for v in node.inputs[1:3])
    return replace(entry, work=work, ace=64.0 * macs, bytes=entry.bytes - held + held // 4)


def rounded_states(node: Node) -> Entry:
    """Inputs of all steps, and the hidden numbers of each but the last, are rounded at run time."""
    x, states = node.inputs[0], node.inputs[2]
    s = Spending()
    steps, batch = dims_of(x)[:2]
    directions, _, hidden = dims_of(states)
    quantise(s, elements(x) + steps * batch * directions * hidden, measured=True)
    return Entry(
        f"{node.name}/quantize", "QuantizeLinear", s.work, 0.0, nbytes(x) + code_bytes(8) * elements(x)
    )
