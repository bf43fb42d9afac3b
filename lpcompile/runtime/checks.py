"""Whether a model file is sound. [architecture 7].

Each check says what it found; nothing is raised for a model that fails one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, ModelProto
from onnx.defs import onnx_opset_version

from lpcompile.analysis.inputs import Feeds
from lpcompile.counted import counted
from lpcompile.errors import LpcompileError, ModelError
from lpcompile.ir.function import DOMAIN
from lpcompile.ir.io import load
from lpcompile.runtime.layer_check import check_layers
from lpcompile.runtime.session import Session
from lpcompile.runtime.sizes import Sizes, constant_bytes

LAYERS = "layers"  # the name of the check of calls
POSITIONS = 64  # of each layer's output, seeded
STANDARD_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")


@dataclass(frozen=True, slots=True)
class Check:
    """One check and what it found."""

    name: str
    ok: bool
    detail: str


def check_file(path: Path, reference: Path | None = None) -> list[Check]:
    """Structure of a file: interface of the graph, dead initialisers, function bodies, size.

    Args:
        path: the compiled model.
        reference: the float model that it was compiled from.

    Raises:
        ModelError: a file cannot be read.
    """
    graph = load(path)
    proto = _proto(path)
    checks = [_opset(graph.opset), dead_initialisers(proto), function_bodies(proto)]
    if reference is not None:
        source = load(reference)
        before, after = ([(v.name, v.dtype) for v in [*g.inputs, *g.outputs]] for g in (source, graph))
        same = before == after
        checks.append(
            Check("interface", same, "same inputs and outputs" if same else f"{before} became {after}")
        )
        allowed = Sizes.of_graph(source, _file_bytes(reference))
        checks.append(_size(allowed, Sizes(constant_bytes(proto), _file_bytes(path))))
    return checks


def check_outputs(session: Session, calls: Sequence[Feeds]) -> list[Check]:
    """Whether a loaded model runs and gives finite floats.

    Raises:
        InputError: the feeds do not fit.
    """
    bad: list[str] = []
    for feeds in calls:
        try:
            outputs = session.run(feeds)
        except ModelError as error:
            return [Check("runs", False, error.message)]
        bad += [
            n for n, x in outputs.items() if x.dtype.kind == "f" and not np.isfinite(x).all() and n not in bad
        ]
    loads = Check("loads", True, "in ONNX Runtime at its default optimisation level")
    finite = Check(
        "finite",
        not bad,
        f"NaN or infinity in {', '.join(bad)}" if bad else "every value of every output",
    )
    return [loads, Check("runs", True, counted(len(calls), "call")), finite]


def check_calls(path: Path, calls: Sequence[Feeds]) -> list[Check]:
    """Whether every layer of a compiled model gives what it says, on this machine and the first call.

    Returns:
        Nothing where the model has no calls of `lpcompile` functions to hold against their definitions.

    Raises:
        InputError: the feeds do not fit.
    """
    proto = onnx.load(path)
    if not calls or not any(n.domain == DOMAIN for n in proto.graph.node):
        return []
    try:
        found = check_layers(proto, calls[0], positions=POSITIONS)
    except LpcompileError as error:
        return [Check(LAYERS, False, error.message)]
    except (LookupError, TypeError, ValueError) as error:  # of a file that was edited
        return [Check(LAYERS, False, f"calls that cannot be read: {error}")]
    wrong = [c.name for c in found if c.wrong]
    what = f"{', '.join(wrong[:3])}{', ...' if len(wrong) > 3 else ''}"
    differ = f"{counted(len(wrong), 'call', 'differs', 'differ')} from the numpy reference, of {len(found)}: {what}"
    same = f"{counted(len(found), 'call', 'equals', 'equal')} the numpy reference"
    return [Check(LAYERS, not wrong, differ if wrong else same)]


def dead_initialisers(proto: ModelProto) -> Check:
    """Initialisers that no node reads and no output shows."""
    used = _read_names(proto.graph) | {o.name for o in proto.graph.output}
    stored = [t.name for t in proto.graph.initializer] + [
        t.values.name for t in proto.graph.sparse_initializer
    ]
    dead = [name for name in stored if name not in used]
    detail = f"{len(dead)} dead: {', '.join(dead[:3])}" if dead else f"{len(stored)}, all used"
    return Check("initialisers", not dead, detail)


def function_bodies(proto: ModelProto) -> Check:
    """Operators outside the standard domains that have no body in the model."""
    bodies = {(f.domain, f.name) for f in proto.functions}
    nodes = [*proto.graph.node, *(n for f in proto.functions for n in f.node)]
    calls = {(n.domain, n.op_type) for n in nodes if n.domain not in STANDARD_DOMAINS}
    missing = sorted(f"{domain}::{name}" for domain, name in calls - bodies)
    detail = f"no body for {', '.join(missing)}" if missing else counted(len(bodies), "function")
    return Check("functions", not missing, detail)


def _size(allowed: Sizes, found: Sizes) -> Check:
    constants = f"{allowed.constant_bytes:,} -> {found.constant_bytes:,} bytes of constants"
    detail = f"{allowed.file_bytes:,} -> {found.file_bytes:,} bytes, {constants}"
    return Check("size", not found.excess(allowed), detail)


def _opset(opset: int) -> Check:
    known = onnx_opset_version()
    return Check("opset", opset <= known, f"{opset}, the installed onnx knows {known}")


def _read_names(graph: GraphProto) -> set[str]:
    """Names that nodes read, those in control-flow bodies included."""
    names: set[str] = set()
    for node in graph.node:
        names.update(node.input)
        for attribute in node.attribute:
            bodies = [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]
            for body in bodies:
                names |= _read_names(body) | {o.name for o in body.output}
    return names


def _proto(path: Path) -> ModelProto:
    proto = ModelProto()
    proto.ParseFromString(path.read_bytes())
    return proto


def _file_bytes(path: Path) -> int:
    data = path.with_name(path.name + ".data")
    return path.stat().st_size + (data.stat().st_size if data.exists() else 0)
