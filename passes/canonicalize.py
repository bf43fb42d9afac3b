"""Spell the same computation in one way, so that later passes and backends meet few forms.

Each rule looks at one concept and stands in the module it is imported from. They run until none finds more.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from lpcompile.ir.exporter_notes import drop_exporter_notes
from lpcompile.ir.facts import Fact
from lpcompile.ir.graph import LpGraph
from lpcompile.passes.drop_noops import drop_noops, merge_data_movement
from lpcompile.passes.einsum_to_matmul import einsum_to_matmul
from lpcompile.passes.explicit_padding import explicit_kernel_shape, explicit_pads, merge_pad
from lpcompile.passes.mean_to_pool import mean_to_pool
from lpcompile.passes.merge_clips import merge_clips, merge_hard_swish
from lpcompile.passes.node_replacement import remove_dead
from lpcompile.passes.normalise_gemm import matmul_add_to_gemm, normalise_gemm
from lpcompile.passes.plain_pools import explicit_ceil, plain_dilations
from lpcompile.passes.scalar_range import scalar_range
from lpcompile.passes.split_fused import split_fused
from lpcompile.pipeline import Pass, PassContext
from lpcompile.records import PassReport

Rule = Callable[[LpGraph, PassReport], None]

RULES: tuple[Rule, ...] = (
    split_fused,
    drop_noops,
    merge_data_movement,
    explicit_kernel_shape,
    explicit_pads,
    explicit_ceil,
    plain_dilations,
    merge_pad,
    merge_clips,
    merge_hard_swish,
    mean_to_pool,
    einsum_to_matmul,
    matmul_add_to_gemm,
    normalise_gemm,
    scalar_range,
)


@dataclass(frozen=True, slots=True)
class Canonicalize(Pass):
    """Drop what does nothing (an exporter's notes, too), merge what belongs together, write out what is implied."""

    name: ClassVar[str] = "canonicalize"
    summary: ClassVar[str] = "one spelling for padding, clips, pools and matrix products; no-ops removed"
    establishes: ClassVar[frozenset[Fact]] = frozenset({Fact.CANONICAL, Fact.SHAPES})

    def run(self, graph: LpGraph, ctx: PassContext) -> PassReport:
        """Apply every rule until none changes anything; the skips are those of the last round."""
        report = PassReport(self.name)
        nodes, size = drop_exporter_notes(graph)
        if size:
            report.change("", f"notes of the exporter at {nodes} nodes left out: {size} bytes")
        graph.infer_shapes()
        while True:
            sweep = PassReport(self.name)
            for rule in RULES:
                rule(graph, sweep)
                remove_dead(graph)
            report.changes += sweep.changes
            if not sweep.changes:
                report.skips = sweep.skips
                return report
