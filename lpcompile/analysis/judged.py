"""Where plans are told apart: at what the last softmax reads, where every float output has one, else at the outputs.

A softmax that is nearly all 0 and 1 shows the noise of the few samples that are in doubt, and of these alone:
docs/decisions/0052.
"""

from dataclasses import dataclass

from lpcompile.analysis.gradients import read_logits
from lpcompile.autodiff.losses import float_outputs
from lpcompile.ir.graph import LpGraph


@dataclass(frozen=True, slots=True)
class Judged:
    """Tensors whose noise judges plans.

    Attributes:
        names: of them; empty where no output holds floats.
        logits: whether they are logits, whose mean over the classes is no noise.
    """

    names: tuple[str, ...]
    logits: bool

    @classmethod
    def of(cls, graph: LpGraph) -> "Judged":
        """Of a graph."""
        outputs = float_outputs(graph)
        logits = read_logits(outputs)
        return cls(tuple(logits or (v.name for v in outputs)), logits is not None)
