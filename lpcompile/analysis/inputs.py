"""What a model takes: its inputs, and arrays that fit them or do not."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lpcompile.errors import CalibrationError, InputError

Feeds = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input of a model.

    Attributes:
        name: the name it is fed by.
        dtype: its element type (object: strings).
        shape: dimensions; str: symbolic, None: unknown; None altogether: unknown rank.
    """

    name: str
    dtype: np.dtype
    shape: tuple[int | str | None, ...] | None

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.name} ({self.dtype})"
        return f"{self.name} ({self.dtype}, {shape_text(self.shape)})"


def with_shapes(
    inputs: Sequence[InputSpec], given: Mapping[str, Sequence[int | str | None]]
) -> list[InputSpec]:
    """Inputs with the shapes that were fixed, so that samples are cut as the model will take them."""
    return [replace(spec, shape=tuple(given[spec.name])) if spec.name in given else spec for spec in inputs]


def shape_text(shape: Sequence[int | str | None]) -> str:
    """A shape as it is typed: 1x3x224x224, "scalar" for no dimensions."""
    return "x".join("?" if d is None else str(d) for d in shape) or "scalar"


def select(arrays: Mapping[str, Any], inputs: Sequence[InputSpec], where: str) -> Feeds:
    """The array of every input; arrays for nobody (labels) are left out.

    Raises:
        CalibrationError: an input has no array.
    """
    for spec in inputs:
        if spec.name not in arrays:
            names = [str(a) for a in arrays]
            near = difflib.get_close_matches(spec.name.lower(), [n.lower() for n in names], n=1)
            given = f"is '{next(n for n in names if n.lower() == near[0])}' meant for it? " if near else ""
            if "arr_0" in names:  # what numpy calls arrays that were given none
                given = f"give arrays their names: numpy.savez(FILE, {spec.name}=array). "
            raise CalibrationError(
                f"no array for input '{spec.name}', only for: {', '.join(map(str, arrays)) or 'nothing'}",
                where=where,
                hint=f"{given}the model takes {', '.join(map(str, inputs))}",
            )
    return {spec.name: np.asarray(arrays[spec.name]) for spec in inputs}


def fit(array: np.ndarray, spec: InputSpec, where: str) -> np.ndarray:
    """The array in the input's element type, if that loses nothing but float precision.

    Floats convert to floats and integers to integers that hold their values. Integers for a float input are
    refused: they are nearly always images that were not normalised.

    Raises:
        CalibrationError: another kind of values, values out of range, NaN or infinity.
    """
    kind, wanted = _kind(array.dtype), _kind(spec.dtype)
    if (
        kind == "text"
        and array.dtype.kind == "O"
        and not all(isinstance(a, (str, bytes)) for a in array.flat)
    ):
        kind = "Python objects"
    if kind != wanted:
        hint = f"convert it with array.astype('{spec.dtype}')"
        if (kind, wanted) == ("integers", "floats"):
            hint += " after normalising as the model was trained"
        elif kind == "Python objects":
            hint = "arrays of different lengths: give one mapping of inputs to arrays for each call"
        raise CalibrationError(
            f"array '{spec.name}' holds {kind} ({array.dtype}), the model takes {spec.dtype}",
            where=where,
            hint=hint,
        )
    if kind == "floats" and not np.isfinite(array).all():
        raise CalibrationError(
            f"array '{spec.name}' holds NaN or infinity",
            where=where,
            hint=f"first at {first_index(~np.isfinite(array))}: mend or drop that sample",
        )
    if array.dtype == spec.dtype:
        return array
    with np.errstate(over="ignore"):
        converted = array.astype(spec.dtype)
    lost = not np.isfinite(converted).all() if kind == "floats" else bool((converted != array).any())
    if kind != "text" and lost:
        raise CalibrationError(
            f"array '{spec.name}' holds values that {spec.dtype} cannot hold",
            where=where,
            hint=f"the model takes {spec}",
        )
    return converted


def check_shape(array: np.ndarray, spec: InputSpec, where: str, hint: str = "") -> None:
    """Whether one call's array has the input's rank and fixed dimensions.

    Raises:
        CalibrationError: it has not.
    """
    if spec.shape is None:
        return
    fits = array.ndim == len(spec.shape) and all(
        not isinstance(want, int) or want == have for want, have in zip(spec.shape, array.shape, strict=True)
    )
    if not fits:
        raise CalibrationError(
            f"array '{spec.name}' is {shape_text(array.shape)}, the model takes {shape_text(spec.shape)}",
            where=where,
            hint=_shape_hint(array.shape, spec.shape) or hint or "give each array the shape of its input",
        )


def _shape_hint(have: Sequence[int], want: Sequence[int | str | None]) -> str:
    """What may have gone wrong where an axis is missing, or the axes stand in another order."""
    fixed = [(i, d) for i, d in enumerate(want) if isinstance(d, int)]
    if len(have) == len(want) - 1 and all(have[i - 1] == d for i, d in fixed if i):
        return "the first axis is missing: array[None] is one sample"
    order = (0, len(want) - 1, *range(1, len(want) - 1))  # channels last
    if len(have) == len(want) > 2 and fixed and all(have[order[i]] == d for i, d in fixed if i):
        return f"channels come last in it, and second in the model: array.transpose{order}"
    return ""


def first_index(mask: np.ndarray) -> str:
    """Index of the first true element, for a message."""
    return "index " + ",".join(str(int(i)) for i in np.argwhere(mask)[0]) if mask.ndim else "the scalar"


def _kind(dtype: np.dtype) -> str:
    if dtype.kind == "f" or dtype.name.startswith(("bfloat", "float")):
        return "floats"
    if dtype.kind in "iu" or dtype.name.startswith(("int", "uint")):
        return "integers"
    kinds = {"b": "truth values", "c": "complex numbers", "U": "text", "S": "text", "O": "text", "T": "text"}
    return kinds.get(dtype.kind, "records")


def concrete_shape(spec: InputSpec, given: Mapping[str, Sequence[int]]) -> tuple[int, ...]:
    """The shape to feed: the one given, or the declared one with 1 for what is not fixed.

    Raises:
        InputError: the shape given contradicts the declared one, or there is neither.
    """
    if spec.shape is None and spec.name not in given:
        raise InputError(
            f"input '{spec.name}' declares no shape",
            hint=f"give it one, as --input-shape {spec.name}=1x3x224x224",
        )
    declared = spec.shape if spec.shape is not None else tuple(given[spec.name])
    wanted = given.get(spec.name, [d if isinstance(d, int) else 1 for d in declared])
    fits = len(wanted) == len(declared) and all(
        not isinstance(d, int) or d == w for d, w in zip(declared, wanted, strict=True)
    )
    if not fits:
        raise InputError(
            f"input '{spec.name}' is {shape_text(declared)}, not {shape_text(tuple(wanted))}",
            hint="--input-shape replaces symbolic dimensions; fixed ones must stay",
        )
    return tuple(int(d) for d in wanted)


def check_names(given: Iterable[str], inputs: Sequence[InputSpec]) -> None:
    """Whether every name is that of an input.

    Raises:
        InputError: one is not.
    """
    names = [spec.name for spec in inputs]
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"the model takes {', '.join(map(str, inputs))}"
            raise InputError(f"the model has no input '{name}'", hint=hint)


def random_feeds(
    inputs: Sequence[InputSpec], seed: int, input_shapes: Mapping[str, Sequence[int]] | None = None
) -> Feeds:
    """Feeds of one call for a model without data.

    Floats are standard normal, integers 0 (a valid index wherever one is meant) or 1 in a mask by name,
    truth values true, text "a". Dimensions that are not fixed are 1 unless given.

    Raises:
        InputError: a given shape is of no input, or contradicts it; an input that no memory holds.
    """
    shapes = input_shapes or {}
    check_names(shapes, inputs)
    rng = np.random.default_rng(seed)
    found: Feeds = {}
    for spec in inputs:
        shape = concrete_shape(spec, shapes)
        try:
            found[spec.name] = _random(spec, shape, rng)
        except (MemoryError, ValueError) as error:  # numpy refuses what no address reaches
            raise InputError(
                f"input '{spec.name}' of {' x '.join(map(str, shape))} elements does not fit the memory",
                hint="the model asks for it; give a free axis a size with --input-shape",
            ) from error
    return found


def _random(spec: InputSpec, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    kind = _kind(spec.dtype)
    if kind in {"floats", "complex numbers"}:
        return np.asarray(rng.standard_normal(shape)).astype(spec.dtype)
    if kind == "integers":
        return np.full(shape, 1 if "mask" in spec.name.lower() else 0).astype(spec.dtype)
    if kind == "truth values":
        return np.ones(shape, spec.dtype)
    return np.full(shape, "a", object)
