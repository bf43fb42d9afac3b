"""One sample through the simulated program, beside the same sample in ONNX Runtime."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, ValueInfoProto

from lpcompile.backends.cim.program import DeviceStage, HostStage
from lpcompile.backends.cim.simulator.simulator import Simulator
from lpcompile.ir.graph import LpGraph
from lpcompile.target import Trial

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Tried:
    """What a sample showed.

    Attributes:
        exact: whether every output is that of ONNX Runtime, bit for bit.
        cycles, boot_cycles: that it took.
    """

    exact: bool
    cycles: int
    boot_cycles: int


def try_sample(simulator: Simulator, reference: LpGraph, trial: Trial) -> Tried:
    """Run the first sample of a trial and compare its outputs."""
    one = first_samples(reference, trial.feeds, 1)
    if all(one[k].shape == np.shape(v) for k, v in trial.feeds.items()):
        wanted = trial.outputs
    else:
        wanted = trial.run_model(reference.to_proto().SerializeToString(), one)
    result = simulator.run(one, trial.run_model)
    exact = all(same(wanted[k], v) for k, v in result.outputs.items())
    return Tried(exact and _second_agrees(simulator, reference, trial), result.cycles, result.boot_cycles)


def _second_agrees(simulator: Simulator, reference: LpGraph, trial: Trial) -> bool:
    """Whether two samples of a batch are right together, which tells of nodes that mix samples."""
    two = first_samples(reference, trial.feeds, 2)
    batch = [k for k in two if has_batch(reference, k)]
    if not batch or any(len(two[k]) < 2 for k in batch):
        return True
    observer, simulator.observer = simulator.observer, None
    found = simulator.run(two, trial.run_model).outputs
    simulator.observer = observer
    wanted = trial.run_model(reference.to_proto().SerializeToString(), two)
    return all(same(wanted[k], v) for k, v in found.items())


def codes_agree(simulator: Simulator, reference: LpGraph, trial: Trial) -> bool:
    """Whether all that leaves the machine is right when the host's floats are those of the whole model.

    ONNX Runtime fuses a whole model otherwise than its parts, so floats between two device stages may differ in
    their last bits; what the machine makes of equal integers may not.
    """
    stages = simulator.program.stages
    names = {
        t
        for s in stages
        for t in (
            *((p.name for p in (*s.inputs, *s.outputs)) if isinstance(s, DeviceStage) else ()),
            *(s.outputs if isinstance(s, HostStage) else ()),
        )
    }
    one = first_samples(reference, trial.feeds, 1)
    known = trial.run_model(exposing(reference.to_proto(), names).SerializeToString(), one)
    outputs_of = {s.model: s.outputs for s in stages if isinstance(s, HostStage)}
    agree = True

    def as_known(model: bytes, feeds: Arrays) -> Arrays:
        nonlocal agree
        agree &= all(same(known[k], v) for k, v in feeds.items() if k in known)
        return {k: known[k] for k in outputs_of[model]}

    result = simulator.run(one, as_known)
    return agree and all(same(known[k], v) for k, v in result.outputs.items() if k in known)


def exposing(proto: ModelProto, names: set[str]) -> ModelProto:
    """The model with further tensors as outputs."""
    there = {v.name for v in proto.graph.output}
    for name in sorted(names - there):
        proto.graph.output.append(ValueInfoProto(name=name))
    return proto


def has_batch(reference: LpGraph, name: str) -> bool:
    """Whether the first axis of an input is a symbolic batch."""
    shape = next(v.shape for v in reference.inputs if v.name == name)
    return bool(shape) and not isinstance((shape or ())[0], int)


def first_samples(reference: LpGraph, feeds: Arrays, count: int) -> dict[str, NDArray[Any]]:
    """The first samples of a call; inputs without a symbolic batch axis whole."""
    return {k: v[:count] if has_batch(reference, k) else v for k, v in feeds.items()}


def batch_of(reference: LpGraph) -> int:
    """Samples of a call: the fixed first axis that all inputs share; 1 where it is symbolic."""
    firsts = {v.shape[0] if v.shape else 1 for v in reference.inputs}
    found = firsts.pop() if len(firsts) == 1 else 1
    return found if isinstance(found, int) else 1


def same(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Equal numbers of one type and shape; NaN equals NaN."""
    floats = a.dtype.kind == "f"
    return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=floats)
