"""What every model must pass before a pass sees it, whoever wrote it."""

from lpcompile.ir import shapes
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.layer_checks import check_layers
from lpcompile.ir.verify import require_sound


def admit(graph: LpGraph) -> None:
    """Check nodes against their schemas and the constants of layers against each other; mend declared shapes.

    Raises:
        ModelError: what is wrong; `where` names the node.
    """
    require_sound(graph)
    check_layers(graph)
    shapes.drop_contradictions(graph)
