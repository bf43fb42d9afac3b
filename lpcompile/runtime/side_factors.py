"""The factors of side paths that stay apart in a compiled model: read them, and put others in their place.

Nothing is compiled anew: codes, scales and functions stay, only the constants of the path that a call reads change. So
one quantised network serves many adapters. Where a path is concatenated to its layer, samples tell how far new factors
reach.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

from lpcompile.errors import InputError
from lpcompile.formats.arrays import F32
from lpcompile.ir.bodies import bodies_of, captured_names
from lpcompile.ir.function import DOMAIN
from lpcompile.ir.separate_path import PATH_INPUTS
from lpcompile.materialise.layers import concat_arrays, path_arrays
from lpcompile.plan import CONCAT_IN
from lpcompile.quant.concat_path import (
    WITHIN_PAIRS,
    ConcatNumbers,
    HiddenSample,
    concat_numbers,
    concat_path,
)
from lpcompile.quant.dyadic import Codes
from lpcompile.quant.side_numbers import SideNumbers, side_numbers
from lpcompile.quant.side_path import LARGEST, side_path
from lpcompile.runtime.path_samples import path_samples
from lpcompile.runtime.reference import stored_weights
from lpcompile.runtime.reference_call import Call
from lpcompile.runtime.reference_weights import Rows, decode_rows

Factors = Mapping[str, tuple[F32, F32]]
RANK = "lpcompile.rank"  # key of a node's metadata
LARGEST_CODE = 255
NO_PATHS = "compile it with insert-lora{lowering=separate} or concat-in, and without --emit"
MOST_COLUMNS = 32  # of a rank of other factors, where one product reads them and the inputs
_MOST_LOST = 0.1  # of their product, relative, before factors are refused


def side_factors(model: ModelProto) -> dict[str, tuple[F32, F32]]:
    """Factors of the side paths of a compiled model that stay apart.

    Args:
        model: compiled with side paths that stay apart; calls of functions, not inlined.

    Returns:
        Layer -> B (C, r) and A (r, K), float32: the weights of the layer are those of its codes plus B A.

    Raises:
        InputError: no layer has such a path.
    """
    found = {}
    for node, call, arrays in _layers(model):
        a, b, m = (arrays[name].astype(np.float64) for name in node.input[-call.path_inputs :][:3])
        if call.path == CONCAT_IN:
            scale = _rows(call, node, arrays).scale.astype(np.float64).reshape(-1)
            starts, kept = _columns(a)
            a, b, m = a[:, starts[kept]], np.add.reduceat(b, starts)[kept], m[starts[kept]]
        else:
            scale = arrays[node.input[-2]].astype(np.float64)
        found[node.name] = (np.asarray(scale[:, None] * b.T * m, np.float32), np.asarray(a.T, np.float32))
    return found


def swap_factors(model: ModelProto, factors: Factors, *, calibration: Any = None) -> ModelProto:
    """A copy of a model with other factors, of any rank, in 8 bits again.

    Args:
        model: compiled with side paths that stay apart; calls of functions, not inlined.
        factors: layer -> B (C, r) and A (r, K), real numbers; layers that are not named keep theirs. Zeros take a path
            away.
        calibration: samples as for compiling; paths that are concatenated to their layers need some, by which the bits
            of new factors are shared out.

    Returns:
        The copy.

    Raises:
        InputError: no such layer, another shape, numbers that are not finite or that no path can hold, no samples.
        CalibrationError: the samples are unreadable or do not fit.
    """
    made = ModelProto()
    made.CopyFrom(model)
    layers = {node.name: (node, call, arrays) for node, call, arrays in _layers(made)}
    for name in factors:
        if name not in layers:
            raise InputError(
                f"layer '{name}' has no side path that stays apart",
                hint=f"layers that do: {', '.join(layers)}",
            )
    samples = _samples(
        made, {n: layers[n][0] for n in factors if layers[n][1].path == CONCAT_IN}, calibration
    )
    for name, (b, a) in factors.items():
        node, call, arrays = layers[name]
        rows = _rows(call, node, arrays)
        _check(name, rows, b, a)
        if call.path == CONCAT_IN:
            sample = replace(samples[name], largest=_largest_factor(call, node, arrays))
            found = concat_arrays(_concat_numbers(name, rows, b, a, sample))
        else:
            found = path_arrays(_numbers(name, rows, b, a, _codes(call, node, arrays)))
        first = len(node.input) - call.path_inputs
        for at, (role, array) in enumerate(found.items(), start=first):
            node.input[at] = _fresh(made, f"{name}/{role}")  # others may read the old one too
            made.graph.initializer.append(numpy_helper.from_array(array, node.input[at]))
        for entry in node.metadata_props:
            if entry.key == RANK:
                entry.value = str(_rank(call, found))
    _drop_unread(made)
    return made


def read_factors(arrays: Mapping[str, NDArray[np.floating]], where: str = "") -> dict[str, tuple[F32, F32]]:
    """Factors from arrays called "LAYER/b" and "LAYER/a", as `written_factors` names them.

    Raises:
        InputError: another name, or one of a pair.
    """
    names = sorted({k.rpartition("/")[0] for k in arrays})
    missing = [f"{n}/{role}" for n in names for role in "ba" if f"{n}/{role}" not in arrays]
    if missing or not names or any(k.rpartition("/")[2] not in ("a", "b") for k in arrays):
        raise InputError(
            f"factors are pairs of arrays 'LAYER/b' and 'LAYER/a'{_lacks(missing)}",
            where=where,
            hint="'lpcompile factors MODEL --save FILE.npz' writes such a file",
        )
    return {n: (np.asarray(arrays[f"{n}/b"]), np.asarray(arrays[f"{n}/a"])) for n in names}


def written_factors(factors: Factors) -> dict[str, F32]:
    """Arrays by the names that a file gives them."""
    return {f"{name}/{role}": f for name, pair in factors.items() for role, f in zip("ba", pair, strict=True)}


def _lacks(missing: list[str]) -> str:
    return f"; there is no '{missing[0]}'" if missing else ""


def _layers(model: ModelProto) -> Iterator[tuple[NodeProto, Call, dict[str, NDArray[np.generic]]]]:
    """Calls with a path that stays apart, and the constants that they read."""
    constants = {t.name: t for t in model.graph.initializer}
    there = False
    for node in model.graph.node:
        if node.domain == DOMAIN and (call := Call.of(node)).path:
            there = True
            yield node, call, {n: numpy_helper.to_array(constants[n]) for n in node.input if n in constants}
    if not there:
        raise InputError("no layer of the model has a side path that stays apart", hint=NO_PATHS)


def _codes(call: Call, node: NodeProto, arrays: Mapping[str, NDArray[np.generic]]) -> Codes | None:
    """Of a layer's input; None where its range is found at run time."""
    if call.family == "DynamicQuantMatMul":
        return None
    return Codes(int(arrays[node.input[2]]), 0, LARGEST_CODE)


def _rows(call: Call, node: NodeProto, arrays: Mapping[str, NDArray[np.generic]]) -> Rows:
    """Weights of the main path."""
    return decode_rows(call, stored_weights(call, [arrays.get(i, np.zeros(0)) for i in node.input]))


def _samples(model: ModelProto, layers: Mapping[str, NodeProto], data: Any) -> dict[str, HiddenSample]:
    """Of what layers read whose path is concatenated to them."""
    if not layers:
        return {}
    if data is None:
        raise InputError(
            f"new factors of layer '{next(iter(layers))}' need samples, for their bits depend on what it reads",
            hint="give the samples that the model was compiled with: calibration=, or --calibration-data",
        )
    return path_samples(model, layers, data)


def _columns(a: NDArray[np.generic]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Of (K, r) factors beside inputs: where runs of equal columns start, and which are no zeros.

    Those of zeros only make good for zero points, so that one of them stands for a path that was taken away.
    """
    starts = np.flatnonzero(np.r_[True, (a[:, 1:] != a[:, :-1]).any(axis=0)])
    kept: NDArray[np.bool_] = np.any(a[:, starts] != 0, axis=0)
    return starts, kept if kept.any() else np.ones(len(starts), np.bool_)


def _rank(call: Call, found: Mapping[str, NDArray[Any]]) -> int:
    a = found[PATH_INPUTS[0]]
    return int(_columns(a)[1].sum()) if call.path == CONCAT_IN else a.shape[1]


def _check(name: str, rows: Rows, b: F32, a: F32) -> None:
    outputs, inputs = rows.values.shape
    fits = np.ndim(b) == np.ndim(a) == 2 and b.shape == (outputs, a.shape[0]) and a.shape[1] == inputs
    if not fits or not a.shape[0]:
        raise InputError(
            f"layer '{name}': factors of shape {np.shape(b)} and {np.shape(a)} for {outputs} outputs and "
            f"{inputs} inputs",
            hint="B is (outputs, rank), A is (rank, inputs)",
        )
    if not (np.isfinite(b).all() and np.isfinite(a).all()):
        raise InputError(f"layer '{name}': factors hold NaN or infinity", hint="repair the file")


def _out_of_range(name: str) -> InputError:
    return InputError(
        f"layer '{name}': factors are too small or too large beside its weights",
        hint="B A is to be of the size of the weights' errors",
    )


def _numbers(name: str, rows: Rows, b: F32, a: F32, x: Codes | None) -> SideNumbers:
    outputs, inputs = rows.values.shape
    scale = np.asarray(np.broadcast_to(rows.scale, (outputs,)), np.float32)
    largest = int(np.abs(rows.values.astype(np.int16)).max(initial=0))
    path = side_path(b, a, rows.values, scale, largest=largest, apart=True)
    if path is not None:
        return side_numbers(path, x, scale)
    if np.any(b) and np.any(a):
        raise _out_of_range(name)
    a8, b8 = np.zeros((1, inputs), np.int8), np.zeros((outputs, 1), np.int8)
    ones, zeros = np.ones(1, np.float32), np.zeros(outputs, np.float32)
    return SideNumbers(a8, b8, ones, zeros, np.asarray(1, np.float32))


def _concat_numbers(name: str, rows: Rows, b: F32, a: F32, sample: HiddenSample) -> ConcatNumbers:
    outputs, inputs = rows.values.shape
    path = concat_path(b, a, rows.scale, sample, columns=MOST_COLUMNS)
    if path is not None:
        wanted = (np.asarray(b, np.float64) / rows.scale.reshape(-1, 1)) @ a
        if np.linalg.norm(path.product() - wanted) > _MOST_LOST * np.linalg.norm(wanted):
            raise _out_of_range(name)
        return concat_numbers(path)
    if np.any(b) and np.any(a):
        raise _out_of_range(name)
    a8, b8 = np.zeros((1, inputs), np.int8), np.zeros((outputs, 1), np.int8)
    return ConcatNumbers(a8, b8, np.ones(1, np.float32))


def _largest_factor(call: Call, node: NodeProto, arrays: Mapping[str, NDArray[np.generic]]) -> int:
    """As the factors that are there have it: neighbours that keep within int16 still do with others."""
    there = [arrays[n] for n in node.input[len(node.input) - call.path_inputs :] if n in arrays]
    largest = max(int(np.abs(f.astype(np.int16)).max(initial=0)) for f in there if f.dtype == np.int8)
    return WITHIN_PAIRS if largest <= WITHIN_PAIRS else LARGEST


def _fresh(model: ModelProto, stem: str) -> str:
    """A name that no tensor of the graph has."""
    graph = model.graph
    taken = {t.name for t in graph.initializer} | {v.name for v in graph.input}
    taken |= {name for n in graph.node for name in n.output}
    name, number = stem, 1
    while name in taken:
        name, number = f"{stem}_{number}", number + 1
    return name


def _drop_unread(model: ModelProto) -> None:
    """Take out constants that nothing reads any more."""
    read = {v.name for v in model.graph.output}
    for node in model.graph.node:
        read.update(node.input, *(captured_names(body.proto) for body in bodies_of(node)))
    kept = [t for t in model.graph.initializer if t.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
