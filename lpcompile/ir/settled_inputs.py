"""Inputs that take one value for good: what hangs on them folds, as the branch that a sample rate chooses."""

from collections.abc import Mapping

import numpy as np

from lpcompile.errors import InputError
from lpcompile.ir.graph import LpGraph

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def settle_inputs(graph: LpGraph, values: Mapping[str, float]) -> None:
    """Make constants of inputs, every element of which has the value; axes without a fixed size have one element.

    Raises:
        InputError: there is no such input, it is an output too, its element type cannot hold the value, or it was the
            last one.
    """
    inputs = {v.name: v for v in graph.inputs}
    for name, number in values.items():
        if name not in inputs:
            raise InputError(
                f"the model has no input '{name}'", hint=f"it takes {', '.join(inputs) or 'nothing'}"
            )
        found = inputs[name]
        if found.is_output:
            raise InputError(f"input '{name}' is an output, too: it cannot be settled", hint="leave it out")
        if found.dtype is None or found.dtype.kind not in "fiub":
            raise InputError(f"input '{name}' takes no numbers", hint="leave it out")
        with np.errstate(over="ignore", invalid="ignore"):
            held = np.asarray(number).astype(found.dtype)
        if found.dtype.kind != "f" and float(held) != number:
            raise InputError(f"input '{name}' is {found.dtype}, which cannot hold {number:g}")
        shape = [d if isinstance(d, int) else 1 for d in found.shape or ()]
        graph.settle_input(found, np.full(shape, held))
    if inputs and not graph.inputs:
        raise InputError(
            "no input is left: every output would be a constant",
            hint="settle what chooses between branches, as a sample rate; leave the data out",
        )


def branch_advice(graph: LpGraph, feeds: Mapping[str, np.ndarray]) -> str:
    """What would bring layers out of the branches of an If; empty where no input of one number is fed.

    Args:
        graph: as it came.
        feeds: of one call, whose values are named.
    """
    held = sum(n.op in LAYERS for branch in graph.nodes("If") for b in branch.subgraphs for n in b.nodes())
    numbers = [
        v for v in graph.inputs if v.dtype is not None and v.dtype.kind in "iub" and v.shape in ((), (1,))
    ]
    given = [
        f"{v.name}={feeds[v.name].reshape(-1)[0]:g}" for v in numbers if np.size(feeds.get(v.name, ())) == 1
    ]
    if not held or not given:
        return ""
    return f"{held} layers stand in branches, which stay float; if an input chooses them: --input-value {given[0]}"


def values_text(values: Mapping[str, float]) -> str:
    """Values as one line, `sr=16000,mode=1`."""
    return ",".join(f"{name}={number!r}" for name, number in values.items())


def values_of(text: str) -> dict[str, float]:
    """What `values_text` wrote.

    Raises:
        InputError: it is in another form.
    """
    found: dict[str, float] = {}
    for item in filter(None, text.split(",")):
        name, _, number = item.rpartition("=")
        try:
            found[name] = float(number)
        except ValueError:
            found.pop(name, None)
        if not name or name not in found or not np.isfinite(found[name]):
            raise InputError(f"'{item}' is no value of an input", hint="for example sr=16000")
    return found
