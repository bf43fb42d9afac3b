"""Inner tensors that two models share by name, quantised ones by their real values."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lpcompile.analysis.inputs import Feeds, InputSpec
from lpcompile.errors import ModelError
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.io import load
from lpcompile.ir.value import Value
from lpcompile.runtime.session import Session

Run = Callable[[Mapping[str, np.ndarray]], Feeds]


@dataclass(frozen=True, slots=True)
class Affine:
    """How codes are read: `scale * (code - zero_point)`."""

    scale: np.ndarray
    zero_point: np.ndarray

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Real values of codes."""
        real = (codes.astype(np.float64) - self.zero_point.astype(np.float64)) * self.scale
        return np.asarray(real.astype(np.float32))


def open_tensors(first: Path, second: Path, *, threads: int = 0) -> tuple[tuple[Run, Run], list[InputSpec]]:
    """Two models that give every tensor which both have, in the order of the first.

    Raises:
        ModelError: they have no tensor in common, or cannot be loaded.
    """
    graphs = load(first), load(second)
    for graph in graphs:
        graph.infer_shapes()
    kinds = [{v.name: _readable(v) for n in g.nodes() for v in n.outputs if v is not None} for g in graphs]
    shared = [name for name, kind in kinds[0].items() if kind is not None and kinds[1].get(name) is not None]
    if not shared:
        raise ModelError(
            "the models have no tensor of the same name",
            where=str(second),
            hint="compare outputs without --tensors",
        )
    sessions = [_session(g, shared, threads) for g in graphs]
    runs = tuple(_decoding(s, shared, k) for s, k in zip(sessions, kinds, strict=True))
    return (runs[0], runs[1]), sessions[0].inputs


def _session(graph: LpGraph, names: list[str], threads: int) -> Session:
    for name in names:
        value = graph.value(name)
        if not value.is_output:
            graph.add_output(value)
    return Session(graph.to_proto(), threads=threads)


def _decoding(session: Session, names: list[str], kinds: Mapping[str, Affine | bool | None]) -> Run:
    def run(feeds: Mapping[str, np.ndarray]) -> Feeds:
        found = session.run(feeds, names)
        for name in names:
            kind = kinds[name]
            if isinstance(kind, Affine):
                found[name] = kind.decode(found[name])
        return found

    return run


def _readable(value: Value) -> Affine | bool | None:
    """True for floats, how to read codes, or None where neither holds."""
    if value.dtype is None:
        return None
    if value.dtype.kind == "f":
        return True
    for node in value.consumers:
        inputs = node.inputs
        for i, read in enumerate(inputs[:-2]):
            scale, zero = inputs[i + 1], inputs[i + 2]
            if read != value or scale is None or zero is None or not (scale.is_constant and zero.is_constant):
                continue
            if scale.dtype == np.dtype(np.float32) and zero.dtype == value.dtype and scale.values.size == 1:
                return Affine(scale.values.reshape(()), zero.values.reshape(()))
    return None
