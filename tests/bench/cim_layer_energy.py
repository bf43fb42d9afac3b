"""Energies of layers estimated before lowering, against those of simulated networks: how near, and in which order."""

import math

import numpy as np
from numpy.typing import NDArray

from lpcompile.analysis.macs import layer_shape
from lpcompile.backends.cim.build import DEFAULT_MACHINE
from lpcompile.backends.cim.events import PRICES
from lpcompile.backends.cim.layer_energy import LayerEnergy, layer_energy
from lpcompile.backends.cim.machine import MachineDescription
from lpcompile.formats.base import resolve
from lpcompile.ir.io import load
from tests.bench.bench_table import Bench, Table
from tests.zoo.cim_networks import with_formats
from tests.zoo.entries import Zoo

ENTRIES = ("resnet20_cifar10", "mobilenetv2_imagenet", "tiny_dscnn_kws", "tiny_autoencoder_toycar")
FORMATS = (("int8", "uint8"), ("posit4", "uint8"), ("fixp4", "uint8"), ("fixp4", "uint4"))
MACHINES = (DEFAULT_MACHINE, "isaac-ce")
SAMPLES = 4
LEFT_OUT = ("dram", "instructions", "cell writes")  # of layers: no matter of formats, or of the whole network
APART = 1.05  # formats of a layer closer than this are not ordered
HEADER = ("network", "machine", "layers", "sum, estimate / exact", "least", "median", "most", "rank correlation",
          "formats ordered alike", "of pairs")  # fmt: skip


def measure(bench: Bench) -> Table:
    """One row a network and machine, over all formats."""
    made = Table("energy of a layer before lowering / after simulation", HEADER)
    assert bench.zoo is not None
    for name in bench.names(ENTRIES, ENTRIES[-2:]):
        for machine in MACHINES:
            made.rows.append((name, machine, *_row(bench.zoo, name, machine)))
    made.notes += [
        f"formats: {', '.join(f'{w} x {a}' for w, a in FORMATS)}; without {', '.join(LEFT_OUT)}",
        f"pairs: two formats of one layer whose simulated energies differ by more than {APART - 1:.0%}",
    ]
    return made


def _row(zoo: Zoo, name: str, machine: str) -> tuple[int | float | str, ...]:
    pairs = [_energies(zoo, name, weights, activations, machine) for weights, activations in FORMATS]
    known = [n for n in pairs[0] if all(n in p for p in pairs)]
    found = np.array([[p[n] for n in known] for p in pairs])  # (formats, layers, 2)
    ratios = found[..., 0] / found[..., 1]
    flat = found.reshape(-1, 2)
    ranks: NDArray[np.int64] = flat.argsort(axis=0).argsort(axis=0)
    alike = compared = 0
    for i in range(len(FORMATS)):
        for j in range(i):
            change = found[i] / found[j]
            apart = np.abs(np.log(change[:, 1])) > math.log(APART)
            compared += int(apart.sum())
            alike += int(((np.log(change[:, 0]) * np.log(change[:, 1]) > 0) & apart).sum())
    return (
        len(known),
        round(float(flat[:, 0].sum() / flat[:, 1].sum()), 2),
        *(round(float(np.quantile(ratios, q)), 2) for q in (0, 0.5, 1)),
        round(float(np.atleast_2d(np.corrcoef(ranks.T))[0, 1]), 3),
        alike,
        compared,
    )


def _without_loading(estimate: LayerEnergy, machine: MachineDescription) -> float:
    """What is left of an estimate without the components of LEFT_OUT."""
    return estimate.energy_pj - math.fsum(
        n * PRICES[e].energy_pj(machine)
        for e, n in estimate.events.items()
        if PRICES[e].component in LEFT_OUT
    )


def _energies(
    zoo: Zoo, name: str, weights: str, activations: str, machine: str
) -> dict[str, tuple[float, float]]:
    """Estimated and simulated pJ of the layers on the machine, by name."""
    report = with_formats(zoo, name, weights, activations, SAMPLES, machine=machine).made.report
    description = MachineDescription.load(machine)
    graph = load(zoo.model(name))
    graph.infer_shapes()
    shapes = {n.name: layer_shape(n) for n in graph.layers()}
    found = {}
    for row in report["layers"]:
        shape, parts = shapes.get(row["name"]), report["energy"]["by_layer"].get(row["name"])
        if parts is None or shape is None or shape.rows is None or "int" not in row["activation_format"]:
            continue
        bits = 4 if row["activation_format"] == "uint4" else 8
        exact = math.fsum(v for k, v in parts.items() if k not in LEFT_OUT)
        batch = report["energy"]["conventions"]["batch"]
        stays = bool(report["program"]["weights_stay"])
        estimate = layer_energy(description, shape, resolve(row["weight_format"]), bits, resident=stays)
        found[row["name"]] = (_without_loading(estimate, description), exact / batch)
    return found
