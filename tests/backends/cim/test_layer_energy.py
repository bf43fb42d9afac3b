"""Energies of layers before lowering against those of compiled and simulated networks, priced by counts."""

import functools
import math
from typing import Any

import numpy as np
import pytest

import lpcompile
from lpcompile.analysis.macs import layer_shape
from lpcompile.backends.cim.events import PRICES
from lpcompile.backends.cim.layer_energy import layer_energy, planes_of_format
from lpcompile.backends.cim.machine import MachineDescription, machine_names
from lpcompile.errors import TargetError
from lpcompile.formats.base import resolve
from lpcompile.ir.io import load
from lpcompile.registry import target
from lpcompile.target import LayerShape
from tests.networks import shipped, shipped_data
from tests.support import Array

READ_OUT = ("columns", "converters", "shift-add")
EXACT = (*READ_OUT, "accumulation", "vector", "hp unit")
LEFT_OUT = ("dram", "instructions")
CASES = (
    ("digits_resnet", "int8", "uint8", "npp-bitplane-sram"),
    ("digits_resnet", "fixp4", "uint4", "isaac-ce"),
    ("digits_mobilenet", "posit4", "uint8", "npp-bitplane-sram"),
)


@functools.cache
def compiled(name: str, fmt: str, activation: str, machine: str) -> dict[str, Any]:
    recipe: dict[str, Any] = {"recipe": "int8"} if fmt == "int8" else {"recipe": "w4a8", "weight_format": fmt}
    made = lpcompile.compile(
        shipped(name),
        target="cim",
        calibration=shipped_data(name),
        activation_format=activation,
        machine=machine,
        effort=0,  # any codes will do
        **recipe,
    )
    return dict(made.report)


@functools.cache
def shapes(name: str) -> dict[str, LayerShape]:
    graph = load(shipped(name))
    graph.infer_shapes()
    return {n.name: layer_shape(n) for n in graph.layers()}


def both(
    name: str, fmt: str, activation: str, machine: str
) -> list[tuple[dict[str, float], dict[str, float]]]:
    """Components of each layer, estimated and found."""
    report, found = compiled(name, fmt, activation, machine), []
    description = MachineDescription.load(machine)
    for row in report["layers"]:
        bits = {"uint8": 8, "uint4": 4}[row["activation_format"]]
        estimate = layer_energy(description, shapes(name)[row["name"]], resolve(fmt), bits)
        parts: dict[str, float] = {"leakage": estimate.leakage_pj}
        for event, n in estimate.events.items():
            price = PRICES[event]
            parts[price.component] = parts.get(price.component, 0.0) + n * price.energy_pj(description)
        assert math.fsum(parts.values()) == pytest.approx(estimate.energy_pj)
        exact = report["energy"]["by_layer"][row["name"]]
        found.append((parts, {k: v for k, v in exact.items() if k not in LEFT_OUT}))
    return found


@pytest.mark.sweep
@pytest.mark.parametrize(("name", "fmt", "activation", "machine"), CASES)
def test_read_out_and_arithmetic_are_exact(name: str, fmt: str, activation: str, machine: str) -> None:
    """What formats change most follows from shapes alone: planes of the image times planes of the input.

    A layer may need fewer planes than its format: posits that leave the largest out need 5 of 6.
    """
    for estimate, exact in both(name, fmt, activation, machine):
        for component in EXACT:
            counted, found = estimate.get(component, 0.0), exact.get(component, 0.0)
            if fmt == "posit4" and component in READ_OUT:
                assert found * (1 - 1e-9) <= counted <= found * 6 / 5 * (1 + 1e-9), component
            else:
                assert counted == pytest.approx(found, rel=1e-9), component


@pytest.mark.sweep
@pytest.mark.parametrize(("name", "fmt", "activation", "machine"), CASES)
def test_the_estimate_of_a_layer_is_within_a_factor_of_two(
    name: str, fmt: str, activation: str, machine: str
) -> None:
    """Transport and leakage depend on the whole network; sums over layers are within 30 %, and the order holds."""
    sums: Array = np.array(
        [[math.fsum(e.values()), math.fsum(x.values())] for e, x in both(name, fmt, activation, machine)]
    )
    ratios: Array = sums[:, 0] / sums[:, 1]
    assert ratios.min() > 0.5
    assert ratios.max() < 2
    assert float(sums[:, 0].sum()) == pytest.approx(float(sums[:, 1].sum()), rel=0.3)
    ranks: Array = sums.argsort(axis=0).argsort(axis=0)
    assert float(np.corrcoef(ranks.T)[0, 1]) > 0.85


def conv(inputs: int, outputs: int, group: int = 1) -> LayerShape:
    return LayerShape("Conv", 4, inputs // group * 9, outputs, 64, group, (3, 3), inputs * 64)


@pytest.mark.parametrize("machine", machine_names())
@pytest.mark.parametrize(
    "layer", [conv(64, 64), conv(64, 128, 2), LayerShape("Gemm", 2, 500, 10, 1, 1, (), 500)]
)
def test_fewer_planes_take_less(machine: str, layer: LayerShape) -> None:
    description = MachineDescription.load(machine)

    def energy(fmt: str, bits: int, group_size: int = 0) -> float:
        found = layer_energy(description, layer, resolve(fmt), bits, group_size=group_size)
        return found.energy_pj - found.leakage_pj  # time falls where more planes spread over more converters

    by_planes = [energy(f, 8) for f in ("fixp4", "posit4", "int8")]
    assert by_planes == sorted(by_planes)
    assert energy("fixp4", 4) < by_planes[0] < by_planes[-1]
    assert energy("nf4", 8) == by_planes[-1] == energy("fixp4", 8, group_size=32)


def test_planes_are_those_of_the_notes() -> None:
    """Notes cim-machine.md 1.5."""
    found = {
        f: len(planes_of_format(resolve(f)).coefficients) for f in ("int4", "fixp4", "int8", "posit4", "nf4")
    }
    assert found == {"int4": 4, "fixp4": 4, "int8": 8, "posit4": 6, "nf4": 8}
    assert len(planes_of_format(resolve("posit4"), 32).coefficients) == 8


def test_one_position_by_hand() -> None:
    """63 rows and 16 outputs in fixp4 on the 63-row machine: one block, 8 input planes, 64 columns."""
    machine = MachineDescription.load("npp-bitplane-sram")
    shape = LayerShape("MatMul", 2, 63, 16, 1, input_elements=63)
    estimate = layer_energy(machine, shape, resolve("fixp4"), 8)
    columns, driven = 8 * 64, 8 * 0.5 * 63
    array_fj = columns * (6 + 1.4) + driven * (256 * 0.048 + 64 * 0.5 * 0.512)
    local_fj = 1250 * ((63 + 4 * 16 + 16) + (63 + 4 * 16 + 16))
    near = sorted(x + y for x in range(8) for y in range(8))[:32]
    moved_fj = (63 + 16) * (7070 + 648 * np.mean(near))
    expected = 1e-3 * (array_fj + local_fj + moved_fj + 16 * (100 + 350))
    assert estimate.energy_pj - estimate.leakage_pj == pytest.approx(expected)
    cycles = 8 * 1  # a step: 64 columns on 64 converters
    assert estimate.leakage_pj == pytest.approx(20 * cycles * 2 / 4)


def test_weights_that_do_not_stay_come_from_dram_every_time() -> None:
    """63 by 16 weights of 4 planes, and a flag for each of the 64 columns of the block."""
    machine = MachineDescription.load("npp-bitplane-sram")
    shape = LayerShape("MatMul", 2, 63, 16, 1, input_elements=63)
    stays, comes = (layer_energy(machine, shape, resolve("fixp4"), 8, resident=r) for r in (True, False))
    bits = 4 * 16 * 63
    near = np.mean(sorted(x + y for x in range(8) for y in range(8))[:32])
    expected = bits * 0.05 + (bits + 64) * 3.7 + (bits + 64) / 8 * near * 0.648
    assert comes.energy_pj - stays.energy_pj == pytest.approx(expected)


@pytest.mark.parametrize(
    ("layer", "fmt", "text"),
    [
        (conv(8, 8), "posit8", "no int8 image"),
        (LayerShape("ConvTranspose", 4, 72, 8, 64, 1, (3, 3), 512), "int8", "no ConvTranspose"),
        (LayerShape("MatMul", 2, 8, 8, None), "int8", "symbolic"),
    ],
)
def test_layers_that_the_machine_does_not_run_have_no_energy(layer: LayerShape, fmt: str, text: str) -> None:
    with pytest.raises(TargetError, match=text):
        target("cim").layer_energy_pj(layer, resolve(fmt), 8)
