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

CODES_SUFFIX = "_quantized"  # as ONNX Runtime's tools and ours name the codes of a tensor
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


@dataclass(frozen=True, slots=True)
class Readable:
    """A tensor of one model: under which name it stands there, and how its codes are read (None: floats)."""

    name: str
    affine: Affine | None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a shared tensor comes from in the first model.

    Attributes:
        node, op: that give it.
        sources: the nearest shared tensors, and inputs of the model, that it is computed from.
        is_output: whether the model gives it.
    """

    node: str
    op: str
    sources: tuple[str, ...]
    is_output: bool


@dataclass(frozen=True)
class SharedTensors:
    """Two models that give every tensor which both have.

    Attributes:
        first, second: give them for the feeds of a call, in the order of the first model.
        inputs: of the models.
        origins: of each tensor, in that order.
    """

    first: Run
    second: Run
    inputs: list[InputSpec]
    origins: Mapping[str, Origin]


def open_tensors(first: Path, second: Path, *, threads: int = 0) -> SharedTensors:
    """Two models that give every tensor which both have, in the order of the first.

    The codes of a tensor `t` are found as `t` or as `t_quantized`.

    Raises:
        ModelError: they have no tensor in common, take different inputs, or cannot be loaded.
    """
    graphs = load(first), load(second)
    check_inputs(*([v.name for v in g.inputs] for g in graphs), where=second)
    for graph in graphs:
        graph.infer_shapes()
    found = [_readable_tensors(g) for g in graphs]
    shared = [name for name in found[0] if name in found[1]]
    if not shared:
        hint = "compare models that were compiled from one another, or their outputs with --outputs"
        raise ModelError("the models have no tensor of the same name", where=str(second), hint=hint)
    origins = _origins(graphs[0], {found[0][name].name: name for name in shared})
    opened = [
        _open(g, {name: f[name] for name in shared}, threads) for g, f in zip(graphs, found, strict=True)
    ]
    return SharedTensors(opened[0][1], opened[1][1], opened[0][0].inputs, origins)


def check_inputs(first: list[str], second: list[str], *, where: Path) -> None:
    """Whether two models take the same inputs.

    Raises:
        ModelError: they do not.
    """
    if set(first) != set(second):
        raise ModelError(
            f"the models take different inputs ({', '.join(first)}; {', '.join(second)})",
            where=str(where),
            hint="compare models of the same interface",
        )


def _origins(graph: LpGraph, shared: Mapping[str, str]) -> dict[str, Origin]:
    """By shared name; `shared` is by the name that a tensor has in the graph."""
    found: dict[str, Origin] = {}
    above: dict[str, frozenset[str]] = {v.name: frozenset({v.name}) for v in graph.inputs}
    for node in graph.nodes():
        read = [v.name for v in node.inputs if v is not None and not v.is_constant]
        sources = frozenset[str]().union(*(above.get(name, frozenset()) for name in read))
        for value in [v for v in node.outputs if v is not None]:
            name = shared.get(value.name)
            above[value.name] = sources if name is None else frozenset({name})
            if name is not None:
                found[name] = Origin(node.name, node.op, tuple(sorted(sources)), value.is_output)
    return {name: found[name] for name in shared.values()}


def _open(graph: LpGraph, tensors: Mapping[str, Readable], threads: int) -> tuple[Session, Run]:
    for tensor in tensors.values():
        value = graph.value(tensor.name)
        if not value.is_output:
            graph.add_output(value)
    session = Session(graph.to_proto(), threads=threads)

    def run(feeds: Mapping[str, np.ndarray]) -> Feeds:
        values = session.run(feeds, [t.name for t in tensors.values()])
        return {
            name: values[t.name] if t.affine is None else t.affine.decode(values[t.name])
            for name, t in tensors.items()
        }

    return session, run


def _readable_tensors(graph: LpGraph) -> dict[str, Readable]:
    """Tensors whose real values can be told, by the name that they have in a float model; outputs of any type."""
    found: dict[str, Readable] = {}
    for value in [v for node in graph.nodes() for v in node.outputs if v is not None]:
        if value.dtype is not None and (value.dtype.kind == "f" or value.is_output):
            found[value.name] = Readable(value.name, None)
            continue
        affine = _affine(value)
        if affine is not None:
            found.setdefault(value.name.removesuffix(CODES_SUFFIX), Readable(value.name, affine))
    return found


def _affine(value: Value) -> Affine | None:
    """Scale and zero point where a node reads the codes with both right after them."""
    for node in value.consumers:
        inputs = node.inputs
        for i, read in enumerate(inputs[:-2]):
            scale, zero = inputs[i + 1], inputs[i + 2]
            if read != value or scale is None or zero is None or not (scale.is_constant and zero.is_constant):
                continue
            if scale.dtype == np.dtype(np.float32) and zero.dtype == value.dtype and scale.values.size == 1:
                return Affine(scale.values.reshape(()), zero.values.reshape(()))
    return None
