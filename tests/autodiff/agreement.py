"""Gradients of small models: against differences along random directions in float64, and by ONNX Runtime in float32."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto
from onnx.reference import ReferenceEvaluator

from lpcompile.autodiff.reverse import add_gradients
from lpcompile.ir.graph import LpGraph
from tests.support import assert_close, parse_model, random_feeds, run_model

Array = NDArray[Any]
Run = Callable[[ModelProto, Mapping[str, Array]], dict[str, Array]]
PROBE_SEED = 20
_DIRECTIONS = 3


def assert_gradients(
    text: str,
    wanted: Sequence[str],
    feeds: Mapping[str, Array] | None = None,
    *,
    opset: int = 17,
    by: Run | None = None,
    step: float = 1e-5,
    single: float = 1e-4,
    runtime: bool = True,
) -> None:
    """The gradients of sum(v * y) over all float outputs y, v random, agree with differences of that sum.

    Args:
        text: the model, in the syntax of onnx.parser, with `double` tensors.
        wanted: inputs or weights.
        feeds: random ones by default.
        opset: of the model.
        by: what runs the model in float64; by default onnx's reference evaluator.
        step: of the differences.
        single: tolerance of the float copy in ONNX Runtime, over the largest magnitude.
        runtime: compare that copy, too.
    """
    text = text.replace("<>", "")
    model = parse_model(text, opset=opset, ir_version=10, check=False)
    feeds = random_feeds(model) if feeds is None else feeds
    ours = gradients_by(by or reference, model, feeds, wanted)
    probes = probes_of((by or reference)(model, feeds))
    for name in wanted:
        _assert_directions(by or reference, model, feeds, name, ours[name], probes, step)
    if runtime:
        floats = {n: x.astype(np.float32) if x.dtype == np.float64 else x for n, x in feeds.items()}
        copy = parse_model(text.replace("double", "float"), opset=opset, ir_version=10, check=False)
        found = gradients_by(run_model, copy, floats, wanted)
        for name in wanted:
            assert_close(found[name].astype(np.float64), ours[name].astype(np.float64), single, name)


def gradients_by(
    run: Run, model: ModelProto, feeds: Mapping[str, Array], wanted: Sequence[str]
) -> dict[str, Array]:
    """The gradients, computed by the compiler's graph in a runtime."""
    graph = LpGraph.from_proto(model)
    graph.infer_shapes()
    outputs = run(model, feeds)
    seeds = {
        n: graph.constant(f"probe_{n}", v.astype(outputs[n].dtype)) for n, v in probes_of(outputs).items()
    }
    found = add_gradients(graph, seeds, wanted)
    for value in found.values():
        if value is not None:
            graph.add_output(value)
    results = run(graph.to_proto(), feeds)
    shapes = {n: np.shape(feeds[n] if n in feeds else graph.value(n).values) for n in wanted}
    return {n: np.zeros(shapes[n]) if v is None else results[v.name] for n, v in found.items()}


def probes_of(outputs: Mapping[str, Array]) -> dict[str, Array]:
    """A random weight for each element of the float outputs."""
    rng = np.random.default_rng(PROBE_SEED)
    return {n: rng.normal(size=np.shape(y)) for n, y in outputs.items() if np.asarray(y).dtype.kind == "f"}


def reference(model: ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs by onnx's reference evaluator."""
    names = [o.name for o in model.graph.output]
    return dict(zip(names, map(np.asarray, ReferenceEvaluator(model).run(names, dict(feeds))), strict=True))


def _assert_directions(
    run: Run,
    model: ModelProto,
    feeds: Mapping[str, Array],
    name: str,
    gradient: Array,
    probes: Mapping[str, Array],
    step: float,
) -> None:
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    base = np.asarray(feeds[name] if name in feeds else weights[name])
    assert gradient.shape == base.shape, f"{name}: {gradient.shape} is not {base.shape}"
    rng = np.random.default_rng(1)
    for _ in range(_DIRECTIONS):
        way = rng.normal(size=base.shape)
        ends = []
        for sign in (1, -1):
            moved = (base + sign * step * way).astype(base.dtype)
            changed = ModelProto()
            changed.CopyFrom(model)
            if name in weights:
                kept = [t for t in changed.graph.initializer if t.name != name]
                del changed.graph.initializer[:]
                changed.graph.initializer.extend([*kept, onnx.numpy_helper.from_array(moved, name)])
            outputs = run(changed, {n: moved if n == name else x for n, x in feeds.items()})
            ends.append(sum(float((v * outputs[n]).sum(dtype=np.float64)) for n, v in probes.items()))
        found = float((gradient * way).sum(dtype=np.float64))
        bound = 1e-5 * max(float(np.linalg.norm(gradient)), 1e-3) * float(np.linalg.norm(way))
        assert abs(found - (ends[0] - ends[1]) / (2 * step)) <= bound, name
