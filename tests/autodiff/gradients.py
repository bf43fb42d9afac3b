"""Gradients by the compiler and by central differences in float64, both run by onnx's reference evaluator."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from lpcompile.autodiff.reverse import add_gradients
from lpcompile.ir.graph import LpGraph

F64 = NDArray[np.float64]
Array = NDArray[Any]


class Erf(OpRun):
    """The error function in the type of its input; onnx's own rounds to float32."""

    def _run(self, x: Array) -> tuple[Array]:
        return (np.vectorize(math.erf, otypes=[x.dtype])(x),)


class Gelu(OpRun):
    """x times the normal distribution function, which onnx's own builds from its Erf."""

    def _run(self, x: Array, approximate: str = "none") -> tuple[Array]:
        if approximate == "tanh":
            return (0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),)
        return (0.5 * x * (1 + np.vectorize(math.erf, otypes=[x.dtype])(x / math.sqrt(2))),)


def evaluator(model: ModelProto) -> ReferenceEvaluator:
    """What runs a model in the types that it declares."""
    return ReferenceEvaluator(model, new_ops=[Erf, Gelu])


def gradients_of(
    model: ModelProto, feeds: Mapping[str, Array], wanted: Sequence[str], seed: int = 0
) -> tuple[dict[str, F64], dict[str, F64]]:
    """Gradients of sum(v * y) over all outputs y, v random: (by add_gradients, by central differences)."""
    graph = LpGraph.from_proto(model)
    graph.infer_shapes()
    evaluate = evaluator(model)
    names = [o.name for o in model.graph.output]
    outputs = dict(zip(names, evaluate.run(None, dict(feeds)), strict=True))
    rng = np.random.default_rng(seed)
    probes = {n: rng.normal(size=np.shape(y)) for n, y in outputs.items() if np.asarray(y).dtype.kind == "f"}
    seeds = {n: graph.constant(f"probe_{n}", v.astype(outputs[n].dtype)) for n, v in probes.items()}
    found = add_gradients(graph, seeds, wanted)
    kept = {n: v for n, v in found.items() if v is not None}
    for value in kept.values():
        graph.add_output(value)
    results = evaluator(graph.to_proto()).run([v.name for v in kept.values()], dict(feeds))
    ours = dict(zip(kept, results, strict=True))
    base = {n: np.asarray(feeds[n] if n in feeds else graph.value(n).values) for n in wanted}
    ours = {n: ours.get(n, np.zeros(base[n].shape)) for n in wanted}
    return ours, {n: _differences(model, feeds, n, base[n], probes) for n in wanted}


def _differences(
    model: ModelProto, feeds: Mapping[str, Array], name: str, x: Array, probes: Mapping[str, F64]
) -> F64:
    weights = [t for t in model.graph.initializer if t.name != name]
    changed = ModelProto()
    changed.CopyFrom(model)
    if name not in feeds:  # a constant: fed from now on
        import onnx

        del changed.graph.initializer[:]
        changed.graph.initializer.extend(weights)
        changed.graph.input.append(
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        )
    evaluate = evaluator(changed)

    def loss(value: Array) -> float:
        results = evaluate.run(list(probes), {**feeds, name: value})
        return float(sum((v * y).sum() for v, y in zip(probes.values(), results, strict=True)))

    found, step = np.zeros(x.shape), 1e-5
    for index in np.ndindex(x.shape):
        moved = x.copy()
        moved[index] += step
        high = loss(moved)
        moved[index] -= 2 * step
        found[index] = (high - loss(moved)) / (2 * step)
    return found
