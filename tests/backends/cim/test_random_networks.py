"""Random networks on random machines: the program computes the integers of model.onnx, bit for bit."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcompile.errors import CalibrationError
from tests.backends.cim.network_checks import check, compiled
from tests.backends.cim.random_machines import machine_for
from tests.backends.cim.random_networks import Network, network
from tests.support import run_model

WEIGHTS, ACTIVATIONS = ("int8", "fixp4", "posit4", "nf4", "pot4"), ("uint8", "uint8", "uint4")
SLOW_PARTS, SLOW_EACH = 20, 110
FEW_MACS = 30_000  # what plain integers multiply in a second


@dataclass(frozen=True)
class Outcome:
    """What became of a seed."""

    runs: bool
    lossless: bool = False


def outcome(seed: int, folder: Path) -> Outcome:
    """Compile the network of a seed and check its program; networks that ONNX Runtime itself refuses are left out."""
    made: Network = network(seed)
    try:
        run_model(made.model, made.calls[0])
    except Exception:  # of any class: the runtime has many
        return Outcome(runs=False)
    rng = np.random.default_rng([seed, 9])
    machine = machine_for(seed)
    try:
        found = compiled(
            made.model,
            made.calls[:-1],
            machine,
            folder,
            weight_format=str(rng.choice(WEIGHTS)),
            activation_format=str(rng.choice(ACTIVATIONS)),
        )
    except CalibrationError:  # values beyond float32
        return Outcome(runs=False)
    plain = seed % 6 == 0 and found.report["totals"]["macs"] < FEW_MACS
    lossless = check(found, machine, made.calls[-1], planes=seed % 3 == 0, interpreter=plain)
    return Outcome(runs=True, lossless=lossless)


@pytest.mark.thorough
@settings(max_examples=20)
@given(st.integers(0, 1_000_000))
def test_programs_compute_what_the_model_does(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    outcome(seed, tmp_path_factory.getbasetemp())


@pytest.mark.slow
@pytest.mark.parametrize("part", range(SLOW_PARTS))
def test_many_programs_compute_what_the_model_does(part: int, tmp_path: Path) -> None:
    seeds = range(part * SLOW_EACH, (part + 1) * SLOW_EACH)
    found = [outcome(seed, tmp_path) for seed in seeds]
    assert sum(f.runs for f in found) > 0.95 * SLOW_EACH
    assert sum(f.lossless for f in found) > 0.8 * SLOW_EACH


@pytest.mark.thorough
def test_the_generator_reaches_every_operator() -> None:
    made = [network(seed) for seed in range(400)]
    ops = {n.op_type for m in made for n in m.model.graph.node}
    wanted = """Conv Gemm MatMul BatchNormalization Relu Clip Sigmoid HardSwish Tanh LeakyRelu Add Mul Sub Div Concat
        Split Slice Transpose Reshape Flatten MaxPool AveragePool GlobalAveragePool Pad Resize DepthToSpace SpaceToDepth
        Gather Squeeze Unsqueeze Softmax Tile Expand"""
    assert set(wanted.split()) <= ops
    assert {m.model.opset_import[0].version for m in made} == {11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21}


def test_a_network_is_a_function_of_its_seed() -> None:
    first, second = network(11), network(11)
    assert first.model.SerializeToString() == second.model.SerializeToString()
    np.testing.assert_array_equal(first.calls[0]["x0"], second.calls[0]["x0"])
    assert len(network(11, steps=1).model.graph.node) <= len(first.model.graph.node)
