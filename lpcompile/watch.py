"""What happens after each pass beyond it: observers, the ledger, temporaries, and with --verify a comparison."""

from collections.abc import Sequence
from dataclasses import dataclass

from onnx import ModelProto

from lpcompile.analysis.calibration import Feeds
from lpcompile.errors import PassError
from lpcompile.ir.graph import LpGraph
from lpcompile.ledger import Ledger
from lpcompile.materialise import materialise
from lpcompile.pipeline import Observer, Pass
from lpcompile.plan import Kernel, QuantPlan
from lpcompile.records import PassReport
from lpcompile.runtime.compare import Comparison
from lpcompile.runtime.session import Session
from lpcompile.target import Options


@dataclass
class Watch:
    """After each pass: tell the observer and the ledger, keep temporaries, and with --verify compare outputs."""

    options: Options
    calls: Sequence[Feeds]
    expected: Sequence[Feeds]
    observe: Observer
    temporaries: dict[str, ModelProto]
    ledger: Ledger

    @property
    def compares(self) -> bool:
        """Whether the graph is wanted as each pass left it."""
        return bool(self.options.save_temps or self.options.verify or self.options.print_after)

    def after(self, index: int, done: Pass, graph: LpGraph, report: PassReport) -> None:
        """Called by the pipeline."""
        options = self.options
        if options.save_temps:
            shown, _ = materialise(_rounded(graph))
            self.temporaries[f"passes/{index:02d}-{done.name}.onnx"] = shown.to_proto()
        if options.verify and self.calls:
            shown, _ = materialise(_rounded(graph))
            session = Session(shown.to_proto(), threads=options.threads)
            found = Comparison()
            for feeds, wanted in zip(self.calls, self.expected, strict=True):
                found.update(wanted, session.run(feeds))
            if found.sqnr_db is not None:
                report.metrics["sqnr_db"] = found.sqnr_db
                if done.exact and found.sqnr_db < 80:  # 1e-4 of the output's norm
                    raise PassError(
                        f"pass '{done.name}' changed the outputs: SQNR {found.sqnr_db:.1f} dB",
                        hint="this is a bug of lpcompile: please report it with the model",
                    )
        self.ledger.after(index, done, graph, report)
        self.observe(index, done, graph, report)


def _rounded(graph: LpGraph) -> LpGraph:
    """The graph as it can be shown: float as long as layers are planned whose codes no pass has chosen yet."""
    if all(v.kernel is Kernel.FLOAT or v.tensor is not None for v in graph.plan.layers.values()):
        return graph
    shown = graph.copy()
    shown.plan = QuantPlan()
    return shown
