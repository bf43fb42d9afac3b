"""Store tables whose rows are looked up, as embeddings, in int8 with a scale a row, or in half precision.

No layer multiplies by them, so that rounding of weights never meets them, and in a small language model they are most
of what 4-bit layers leave: 9 of 15 MB of a MiniLM. A row has a scale of its own, and only the rows that are looked up
are ever expanded. What that costs is measured on the outputs of the float network; a table that costs too much takes
half precision, or stays.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from lpcompile import option_checks
from lpcompile.errors import FormatError
from lpcompile.formats.arrays import F32
from lpcompile.ir.facts import Fact
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value
from lpcompile.passes.constant_inputs import output_at
from lpcompile.passes.tolerated import Noise, tolerated
from lpcompile.pipeline import Pass, PassContext
from lpcompile.plan import TablePlan
from lpcompile.quant.row_table import FORMATS, row_table
from lpcompile.records import PassReport

INT8, HALF = FORMATS
LEAST_BYTES = 4096  # below, the nodes that read codes take what codes save
LEAST_ROW = 16  # numbers that share a float32 scale
FLOATS = (np.dtype(np.float32), np.dtype(np.float16))

ON_REQUEST = "kept float on request"
OTHERS = "something other than a look-up of rows reads the table as well"
SMALL = f"the table takes fewer than {LEAST_BYTES} bytes"
NARROW = f"a row has fewer than {LEAST_ROW} numbers: scales would take what codes save"
OUTSIDE = "its rows are known outside by name"
NOT_FINITE = "it holds values that are not finite"
AS_ASKED = "half precision, as the pass was asked for"
NO_HALF = "half precision holds it already, or cannot hold it"
NOT_DECIDED = "the decisions leave it float"


@dataclass(frozen=True, slots=True)
class QuantizeEmbeddings(Pass):
    """Tables of Gather in fewer bytes.

    Attributes:
        format: int8, which is measured; float16, which loses next to nothing and twice the bytes.
        least-db: output SQNR that all tables together may leave; the tables that cost most are stored in half precision
            or float until it is kept. Without samples nothing is measured, and all that can take int8.
    """

    name: ClassVar[str] = "quantize-embeddings"
    summary: ClassVar[str] = (
        "tables whose rows are looked up in int8 with a scale a row, or in half precision"
    )
    exact: ClassVar[bool] = False
    requires: ClassVar[frozenset[Fact]] = frozenset({Fact.ACTIVATIONS_QUANTIZED})

    format: str = INT8
    least_db: float = 35.0

    def __post_init__(self) -> None:
        option_checks.one_of("format", self.format, FORMATS)
        option_checks.positive("least-db", self.least_db)

    def run(self, graph: LpGraph, ctx: PassContext) -> PassReport:
        """Plan every table; those that are planned already stay as they are."""
        report = PassReport(self.name)
        readers: dict[str, list[Node]] = {}
        for node in graph.nodes("Gather"):
            if node.name in graph.plan.tables or not _looks_up_floats(node):
                continue
            if reason := _obstacle(graph, ctx, node):
                report.skip(node, reason)
            else:
                readers.setdefault(_table(node).name, []).append(node)
        if ctx.decisions is not None:
            self._replay(graph, ctx.decisions.tables, readers, report)
            return report
        tables = list(readers.values())
        if self.format == HALF:
            for nodes in tables:
                for node in nodes:
                    if _wider(_table(node)):
                        _plan(graph, node, TablePlan(HALF, reason=AS_ASKED), report)
                    else:
                        report.skip(node, NO_HALF)
            report.metrics["tables"] = len(graph.plan.tables)
            return report
        noise = Noise(graph, ctx) if tables else None

        def db(numbers: Sequence[int]) -> float:
            assert noise is not None
            return noise.db(_rounded(graph, [tables[i] for i in numbers]))

        found = tolerated(len(tables), db if noise and noise.measures else None, self.least_db, "in int8")
        for number, (nodes, reason) in enumerate(zip(tables, found.reasons, strict=True)):
            fmt = INT8 if number in found.kept else _wider(_table(nodes[0]))
            for node in nodes:
                if fmt:
                    _plan(graph, node, TablePlan(fmt, reason=reason), report)
                else:
                    report.skip(node, reason)
        report.metrics["tables"] = len(graph.plan.tables)
        return report

    def _replay(
        self,
        graph: LpGraph,
        decided: Mapping[str, TablePlan],
        readers: Mapping[str, Sequence[Node]],
        report: PassReport,
    ) -> None:
        for node in (n for nodes in readers.values() for n in nodes):
            if node.name in decided:
                _plan(graph, node, replace(decided[node.name], codes_sha256=""), report)
            else:
                report.skip(node, NOT_DECIDED)
        report.metrics["tables"] = len(graph.plan.tables)


def _rounded(graph: LpGraph, tables: Iterable[Sequence[Node]]) -> LpGraph:
    """A copy in which these tables hold what int8 makes of them."""
    copy = graph.copy()
    for nodes in tables:
        table = _table(nodes[0])
        values = row_table(_floats(table), _axis(nodes[0]), INT8).values
        rounded = copy.constant(f"{nodes[0].name}/rounded_table", values.astype(table.dtype))
        for node in nodes:
            copy.node(node.name).set_input(0, rounded)
    return copy


def _wider(table: Value) -> str:
    """Half precision, where that saves anything and holds the values; else empty: floats."""
    if table.dtype == np.float16:
        return ""
    try:
        row_table(table.values, 0, HALF)
    except FormatError:
        return ""
    return HALF


def _plan(graph: LpGraph, node: Node, wanted: TablePlan, report: PassReport) -> None:
    table = _table(node)
    stored = row_table(_floats(table), _axis(node), wanted.format)
    graph.plan = graph.plan.with_table(node.name, replace(wanted, table=stored, codes_sha256=stored.sha256))
    report.change(node, f"table in {wanted.format}", f"{table.nbytes} bytes", f"{stored.nbytes} bytes")


def _table(node: Node) -> Value:
    table = node.inputs[0]
    assert table is not None
    return table


def _floats(table: Value) -> F32:
    return table.values.astype(np.float32)


def _axis(node: Node) -> int:
    return int(node.attrs.get("axis", 0))


def _looks_up_floats(node: Node) -> bool:
    table, indices = node.inputs[0], node.inputs[1]
    if node.domain or table is None or indices is None or indices.is_constant or not table.is_constant:
        return False
    return table.dtype in FLOATS and table.shape is not None and len(table.shape) > 1


def _obstacle(graph: LpGraph, ctx: PassContext, node: Node) -> str:
    """Why a table stays float; empty where it need not."""
    table = _table(node)
    if node.name in ctx.keep_float:
        return ON_REQUEST
    if table.nbytes < LEAST_BYTES:
        return SMALL
    if table.values.size < LEAST_ROW * table.dims[_axis(node)]:
        return NARROW
    if output_at(node).used_in_subgraph:
        return OUTSIDE
    layers = {n.name for n in graph.layers()}
    alike = [n for n in table.consumers if n.op == "Gather" and not n.domain and _axis(n) == _axis(node)]
    others = [n for n in table.consumers if n not in alike and n.name not in layers]
    if others or table.is_output or table.used_in_subgraph or any(n.inputs[0] != table for n in alike):
        return OTHERS
    return "" if np.isfinite(table.values).all() else NOT_FINITE
