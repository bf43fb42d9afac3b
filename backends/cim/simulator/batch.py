"""The arrays of a batch: what fits the program's inputs, and each sample's share of it."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcompile.backends.cim.program import Interface, Port
from lpcompile.errors import InputError, ProgramError

PORT_DTYPES = {"u8": np.dtype(np.uint8), "i32": np.dtype(np.int32)}


def check_feeds(inputs: Iterable[Interface], feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The arrays of the program's inputs.

    Raises:
        InputError: one is missing, or has another type or shape.
    """
    found = {}
    for spec in inputs:
        if spec.name not in feeds:
            raise InputError(
                f"no array for the input '{spec.name}'", hint=f"there are: {', '.join(feeds) or 'none'}"
            )
        array = np.asarray(feeds[spec.name])
        if array.dtype != np.dtype(spec.dtype):
            raise InputError(f"input '{spec.name}' takes {spec.dtype}, not {array.dtype}")
        fits = len(array.shape) == len(spec.shape) and all(
            want == have if isinstance(want, int) else have > 0
            for want, have in zip(spec.shape, array.shape, strict=True)
        )
        if not fits:
            raise InputError(f"input '{spec.name}' takes shape {spec.shape}, not {array.shape}")
        found[spec.name] = array
    return found


def samples_of(ports: Iterable[Port], values: Mapping[str, NDArray[Any]]) -> int:
    """How many samples the inputs of a device stage hold.

    Raises:
        ProgramError: a tensor is not there, or not of the port's type and shape.
    """
    counts = set()
    for port in ports:
        if port.name not in values:
            raise ProgramError(f"nothing computes '{port.name}' before the machine reads it")
        array = values[port.name]
        if port.dtype not in PORT_DTYPES or array.dtype != PORT_DTYPES[port.dtype]:
            raise ProgramError(f"'{port.name}' enters the machine as {port.dtype}, not {array.dtype}")
        first = 1 if port.batch_axis else 0
        if array.ndim != len(port.shape) or array.shape[first:] != port.shape[first:]:
            raise ProgramError(f"'{port.name}' enters the machine with shape {port.shape}, not {array.shape}")
        if port.batch_axis:
            counts.add(len(array))
    if len(counts) > 1:
        raise ProgramError(f"inputs of the machine hold {' and '.join(map(str, sorted(counts)))} samples")
    return counts.pop() if counts else 1


def joined(port: Port, samples: list[NDArray[Any]]) -> NDArray[Any]:
    """The batch of an output, from its samples in the port's layout.

    Raises:
        ProgramError: a tensor without batch axis differs from sample to sample.
    """
    shaped = [s.reshape(port.shape) for s in samples]
    if not port.batch_axis and any(not np.array_equal(s, shaped[0]) for s in shaped[1:]):
        raise ProgramError(f"'{port.name}' has no batch axis, but differs from sample to sample")
    return np.concatenate(shaped) if port.batch_axis else shaped[0]
