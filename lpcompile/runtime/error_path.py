"""How the error of one model against another grows along the graph, and where it enters.

The relative noise of a tensor is r = 10^(-SQNR/10). A node lets error in where its output lies DOUBLED_DB below its
noisiest source, and r is at least SHARE of that of the noisiest output: less would not be seen at the end. Tensors
that are the same up to a scale and a shift of channels have another meaning in the second model: what comes before them
counts in their place.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from lpcompile.runtime.channel_fit import ChannelFit
from lpcompile.runtime.compare import EXACT_DB, Comparison
from lpcompile.runtime.tensors import Origin, SharedTensors

DOUBLED_DB = 3.0
SHARE = 0.05
RESCALED_DB = 10.0  # that a fit of channels must gain


@dataclass(frozen=True)
class PathPoint:
    """One tensor of both models.

    Attributes:
        name: of it, as in the first model.
        origin: the node that gives it, and the compared tensors before that.
        sqnr_db: of the second model against the first; None for integers.
        sources_db: the least of what it is computed from; EXACT_DB for inputs of the model.
        enters: whether this node lets error in.
        rescaled: whether the second model holds it with channels scaled, as where a norm was folded in.
    """

    name: str
    origin: Origin
    sqnr_db: float | None
    sources_db: float
    enters: bool
    rescaled: bool


@dataclass(frozen=True)
class ErrorPath:
    """Every shared tensor in graph order, and the outputs by themselves.

    Attributes:
        points: of the tensors that could be compared.
        comparison: of all of them.
        outputs: of the outputs alone.
        unlike: shared names under which the models have tensors of different shapes.
    """

    points: list[PathPoint]
    comparison: Comparison
    outputs: Comparison
    unlike: list[str]

    @property
    def entries(self) -> list[PathPoint]:
        """The points where error enters, in graph order."""
        return [p for p in self.points if p.enters]


def error_path(shared: SharedTensors, calls: Iterable[Mapping[str, np.ndarray]]) -> ErrorPath:
    """Run both models and compare every tensor that they share.

    Args:
        shared: the models.
        calls: feeds.

    Raises:
        ModelError: outputs have different shapes, or a model does not run.
    """
    inner, outputs = Comparison(), Comparison()
    unlike: dict[str, None] = {}
    fits = {name: ChannelFit() for name in shared.origins}
    for call in calls:
        a, b = shared.first(call), shared.second(call)
        given = {n: v for n, v in a.items() if shared.origins[n].is_output}
        outputs.update(given, b)
        unlike |= dict.fromkeys(n for n in a if a[n].shape != b[n].shape)
        alike = {n: v for n, v in a.items() if n not in unlike}
        inner.update(alike, b)
        for name, value in alike.items():
            fits[name].update(value, b[name])
    found = {n: c.sqnr_db for n, c in inner.tensors.items() if n not in unlike}
    rescaled = {
        n
        for n, db in found.items()
        if db is not None and not shared.origins[n].is_output and fits[n].fit_db - max(db, 0.0) >= RESCALED_DB
    }
    return ErrorPath(_points(shared.origins, found, rescaled, outputs.sqnr_db), inner, outputs, list(unlike))


def _points(
    origins: Mapping[str, Origin],
    found: Mapping[str, float | None],
    rescaled: Collection[str],
    output_db: float | None,
) -> list[PathPoint]:
    worst_seen = EXACT_DB if output_db is None else output_db
    least_noise = SHARE * 10 ** (-worst_seen / 10)
    points: list[PathPoint] = []
    sent_on: dict[str, float] = {}  # what readers of a tensor count as its SQNR
    for name, db in found.items():
        sources_db = min((sent_on.get(s, EXACT_DB) for s in origins[name].sources), default=EXACT_DB)
        own = db is not None and name not in rescaled
        enters = own and db is not None and sources_db - db >= DOUBLED_DB and 10 ** (-db / 10) >= least_noise
        sent_on[name] = db if own and db is not None else sources_db
        points.append(PathPoint(name, origins[name], db, sources_db, enters, name in rescaled))
    return points
