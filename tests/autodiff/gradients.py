"""Gradients by the compiler and by central differences, run by onnx's reference evaluator or by ONNX Runtime."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto
from onnx.reference import ReferenceEvaluator

from lpcompile.autodiff.reverse import add_gradients
from lpcompile.ir.graph import LpGraph
from tests.autodiff.reference_ops import REFERENCE_OPS

F64 = NDArray[np.float64]
Array = NDArray[Any]
# (model, feeds) -> its outputs by name
Run = Callable[[ModelProto, Mapping[str, Array]], dict[str, Array]]


def reference(model: ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs in the types that the model declares, float64 too."""
    evaluator = ReferenceEvaluator(model, new_ops=REFERENCE_OPS)
    return dict(zip(evaluator.output_names, evaluator.run(None, dict(feeds)), strict=True))


def runtime(model: ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs of ONNX Runtime, as it optimises the graph, which has to be valid."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    results = dict(zip(names, session.run(names, dict(feeds)), strict=True))
    ranked = ModelProto()
    ranked.CopyFrom(model)
    for info in ranked.graph.output:
        if not info.type.tensor_type.HasField("shape"):  # the checker asks for a rank
            info.type.tensor_type.shape.dim.extend(
                [onnx.TensorShapeProto.Dimension()] * results[info.name].ndim
            )
    onnx.checker.check_model(ranked, full_check=True)
    return results


def probes_of(outputs: Mapping[str, Array], seed: int = 0) -> dict[str, Array]:
    """Random gradients v of the float outputs y: the loss is sum(v * y)."""
    rng = np.random.default_rng(seed)
    floats = {n: np.asarray(y) for n, y in outputs.items() if np.asarray(y).dtype.kind == "f"}
    return {n: rng.normal(size=y.shape).astype(y.dtype) for n, y in floats.items()}


def reverse_mode(
    model: ModelProto, feeds: Mapping[str, Array], wanted: Sequence[str], run: Run = reference, seed: int = 0
) -> dict[str, Array | None]:
    """Gradients by add_gradients of the loss of `probes_of`; None where there is none."""
    outputs = run(model, feeds)
    graph = LpGraph.from_proto(model)
    graph.infer_shapes()
    seeds = {n: graph.constant(f"probe_{n}", v) for n, v in probes_of(outputs, seed).items()}
    found = add_gradients(graph, seeds, wanted)
    for value in {v.name: v for v in found.values() if v is not None}.values():
        graph.add_output(value)
    results = run(graph.to_proto(), feeds)
    return {n: None if v is None else results[v.name] for n, v in found.items()}


def gradients_of(
    model: ModelProto, feeds: Mapping[str, Array], wanted: Sequence[str], seed: int = 0
) -> tuple[dict[str, Array], dict[str, F64]]:
    """Gradients of sum(v * y) over all outputs y, v random: (by add_gradients, by central differences)."""
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name in wanted}
    base = {n: np.asarray(feeds[n] if n in feeds else weights[n]) for n in wanted}
    found = reverse_mode(model, feeds, wanted, seed=seed)
    ours = {n: np.zeros(base[n].shape) if (v := found[n]) is None else v for n in wanted}
    probes = probes_of(reference(model, feeds), seed)
    return ours, {n: _differences(model, feeds, n, base[n], probes) for n in wanted}


def _differences(
    model: ModelProto, feeds: Mapping[str, Array], name: str, x: Array, probes: Mapping[str, Array]
) -> F64:
    changed = ModelProto()
    changed.CopyFrom(model)
    if name not in feeds:  # a constant: fed from now on
        weights = [t for t in model.graph.initializer if t.name != name]
        del changed.graph.initializer[:]
        changed.graph.initializer.extend(weights)
        changed.graph.input.append(
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        )
    evaluator = ReferenceEvaluator(changed, new_ops=REFERENCE_OPS)

    def loss(value: Array) -> float:
        results = evaluator.run(list(probes), {**feeds, name: value})
        return float(sum((v * y).sum() for v, y in zip(probes.values(), results, strict=True)))

    found, step = np.zeros(x.shape), 1e-5
    for index in np.ndindex(x.shape):
        moved = x.copy()
        moved[index] += step
        high = loss(moved)
        moved[index] -= 2 * step
        found[index] = (high - loss(moved)) / (2 * step)
    return found
