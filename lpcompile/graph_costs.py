"""What whole graphs cost: the model as it came, and what a plan makes of it. [neseem2024].

Batch norms of a model that came are still in it; only constants are folded, because nobody pays for them in a call.
"""

import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import onnx

from lpcompile import registry
from lpcompile.accounts.entries import Account
from lpcompile.accounts.graphs import float_account
from lpcompile.accounts.planned import planned_account
from lpcompile.accounts.sizes import settled
from lpcompile.analysis.arithmetic import Coefficients
from lpcompile.analysis.calibration import Calibration
from lpcompile.assignment.requantisation import targets_own
from lpcompile.ir import io
from lpcompile.ir.admission import admit
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.runtime_operators import RUNTIME_DOMAIN
from lpcompile.ir.settled_inputs import settle_inputs
from lpcompile.pipeline import PassContext, Pipeline
from lpcompile.provenance import located, sha256_of
from lpcompile.report.cost import cost_document
from lpcompile.runtime.execution import run_once
from lpcompile.target import Target

FOLDS = ("fold-constants", {"growth-bytes": "0"})
SPELLS = ("canonicalize", dict[str, str]())  # where operators of the runtime hide what is counted

Shapes = Mapping[str, Sequence[int]]
NONE: Shapes = MappingProxyType({})


def shapes_of(calibration: Calibration | None) -> Shapes:
    """Shapes of the first call of the samples."""
    if calibration is None or not calibration.calls:
        return NONE
    return {name: array.shape for name, array in calibration.calls[0].items()}


def float_costs(graph: LpGraph, sample: Shapes = NONE) -> Account:
    """Account of a float model as it came; a symbolic batch is 1.

    Args:
        graph: with shapes; it is not changed.
        sample: shapes of inputs in a call, which settle other symbolic axes.
    """
    hidden = any(n.domain == RUNTIME_DOMAIN for n in graph.nodes())
    return float_account(
        _folded(settled(_changed(graph.copy(), *SPELLS) if hidden else graph.copy(), sample))
    )


def planned_costs(graph: LpGraph, target: Target, sample: Shapes = NONE, *, dyadic: bool) -> Account:
    """Account of a graph and its plan as a target runs them; a symbolic batch is 1.

    Args:
        graph: float, with shapes and its plan; it is not changed.
        target: its rules say which functions are tables.
        sample: as above.
        dyadic: whether its integers were made so.
    """
    fixed = settled(graph, sample)
    shaped = fixed if fixed is graph else _folded(fixed)
    return planned_account(shaped, targets_own(dyadic=dyadic), tables=target.rules.tables)


def _folded(graph: LpGraph) -> LpGraph:
    """The graph, changed: what is computed from constants or from sizes, now that these are known, is a constant."""
    return _changed(graph, *FOLDS)


def _changed(graph: LpGraph, name: str, options: Mapping[str, str]) -> LpGraph:
    Pipeline((registry.pass_class(name).configured(options),)).run(graph, PassContext(run=run_once))
    return graph


def model_costs(
    source: str | os.PathLike[str] | bytes | onnx.ModelProto,
    *,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    input_values: Mapping[str, float] | None = None,
    coefficients: Coefficients | None = None,
) -> dict[str, Any]:
    """Account of a model as a document of plain values; nothing is compiled.

    Args:
        source: path, bytes or proto of a float model.
        input_shapes: concrete shapes of inputs.
        input_values: of inputs that take one for good.
        coefficients: of ACEv2; None: the set as it stands.

    Raises:
        LpcompileError: of what the user gave.
    """
    with located(source):
        graph = io.load(source)
        settle_inputs(graph, input_values or {})
        admit(graph)
        graph.infer_shapes(dict(input_shapes or {}))
        found = float_costs(graph)
    return {
        "schema": 1,
        "model": {
            "path": os.fspath(source) if isinstance(source, (str, os.PathLike)) else None,
            "sha256": sha256_of(source),
        },
        "cost": cost_document({"before": found}, coefficients),
    }
