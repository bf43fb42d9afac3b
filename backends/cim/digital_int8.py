"""A conventional digital accelerator beside the machine: int8 systolic array, SRAM, DRAM.

An N by N array that keeps weights in place.  A layer's energy is

    macs * (mac + registers) + SRAM bytes * sram + DRAM bits * dram

SRAM bytes: every input once for each N outputs (`macs / N`), every 4-byte partial sum written and read back once for
each N inputs (`8 * macs / N`), every weight once.  DRAM bits: activations that do not fit half of the SRAM go out and
come back; weights as one of two conventions says:

- fetched: every weight comes from DRAM once an inference.
- resident: weights lie in the SRAM for good.  Possible where all of them fit it beside the activations of any layer.

A machine that keeps its weights is compared with `resident` where that is possible, else with `fetched`.  The
accelerator's constants stand in `digital_int8.toml`, each with its source.
"""

import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from typing import Any

FETCHED, RESIDENT = "fetched", "resident"
CONVENTION = (
    "fetched: every weight comes from DRAM once an inference; resident: all weights lie in the SRAM beside the "
    "activations of any layer, null where they do not fit; compared: resident if the machine keeps its weights and "
    "they fit, else fetched; batch as in energy.conventions"
)
LEFT_OUT = (
    "elementwise work, requantisation, pools, control, interconnect, leakage, loading resident weights once, and DRAM "
    "for inputs and outputs of the network that fit half of the SRAM"
)


@dataclass(frozen=True, slots=True)
class DigitalLayer:
    """What is priced of a layer: its MACs, and the bytes of its weights, inputs and outputs at 8 bits."""

    name: str
    macs: float
    weight_bytes: float
    input_bytes: float
    output_bytes: float


@dataclass(frozen=True, slots=True)
class DigitalConstants:
    """Energies of the accelerator, and its sizes."""

    array_width: float
    sram_kib: float
    node_nm: float
    vdd_v: float
    multiply_fj: float
    add_fj: float
    registers_fj: float
    sram_fj_per_byte: float
    dram_pj_per_bit: float


@dataclass(frozen=True, slots=True)
class DigitalReport:
    """Energy of a network on the accelerator, in pJ, by component and by layer."""

    components: Mapping[str, float]
    by_layer: Mapping[str, float]
    macs: float
    node_nm: float
    vdd_v: float
    assumed_share: float

    @property
    def energy_pj(self) -> float:
        """All of it."""
        return math.fsum(self.components.values())

    @property
    def tops_per_w(self) -> float:
        """Two operations a MAC."""
        return 2 * self.macs / self.energy_pj if self.energy_pj else 0.0

    def to_json(self) -> dict[str, Any]:
        """For the report."""
        return {
            "components": dict(self.components),
            "by_layer": dict(self.by_layer),
            "energy_pj": self.energy_pj,
            "tops_per_w": self.tops_per_w,
            "node_nm": self.node_nm,
            "vdd_v": self.vdd_v,
            "assumed_share": self.assumed_share,
        }


@cache
def digital_constants() -> tuple[DigitalConstants, Mapping[str, str]]:
    """The accelerator's numbers, and the source of each."""
    file = resources.files("lpcompile.backends.cim") / "digital_int8.toml"
    data = tomllib.loads(file.read_text(encoding="utf-8"))
    values = {f.name: float(data[f.name]["value"]) for f in fields(DigitalConstants)}
    return DigitalConstants(**values), {name: data[name]["source"] for name in values}


@dataclass(frozen=True, slots=True)
class DigitalComparison:
    """A network on the accelerator by both conventions.

    Attributes:
        fetched: weights come from DRAM.
        resident: they lie in the SRAM; None where they do not fit.
        stays: whether the machine that it is compared with keeps its weights.
        weight_bytes: of all layers.
        sram_kib: of the accelerator.
    """

    fetched: DigitalReport
    resident: DigitalReport | None
    stays: bool
    weight_bytes: float
    sram_kib: float

    @property
    def name(self) -> str:
        """The convention that compares like with like."""
        return RESIDENT if self.stays and self.resident is not None else FETCHED

    @property
    def compared(self) -> DigitalReport:
        """The figures of that convention."""
        return self.resident if self.stays and self.resident is not None else self.fetched

    def to_json(self) -> dict[str, Any]:
        """For the report: the figures that are compared, then both."""
        return {
            **self.compared.to_json(),
            "compared": self.name,
            FETCHED: self.fetched.to_json(),
            RESIDENT: None if self.resident is None else self.resident.to_json(),
            "weight_bytes": self.weight_bytes,
            "sram_kib": self.sram_kib,
            "convention": CONVENTION,
            "left_out": LEFT_OUT,
        }


def compare_digital(layers: Sequence[DigitalLayer], *, stays: bool) -> DigitalComparison:
    """Energy of a network by both conventions.

    Args:
        layers: of the network.
        stays: whether the machine beside it keeps its weights.
    """
    k, _ = digital_constants()
    weights = sum(layer.weight_bytes for layer in layers)
    room = k.sram_kib * 1024 - max((sum(_held(k, layer)) for layer in layers), default=0.0)
    resident = price_digital(layers, resident=True) if weights <= room else None
    return DigitalComparison(price_digital(layers), resident, stays, weights, k.sram_kib)


def price_digital(layers: Iterable[DigitalLayer], *, resident: bool = False) -> DigitalReport:
    """Energy of a network on the conventional accelerator, one inference.

    Args:
        layers: of the network.
        resident: whether weights lie in the SRAM; else each comes from DRAM once.
    """
    k, sources = digital_constants()
    parts: dict[str, list[float]] = {name: [] for name in _KEYS}
    by_layer: dict[str, float] = {}
    macs = 0.0
    for layer in layers:
        found = _layer(k, layer, resident=resident)
        for name, energy in found.items():
            parts[name].append(energy)
        by_layer[layer.name] = by_layer.get(layer.name, 0.0) + math.fsum(found.values())
        macs += layer.macs
    components = {name: math.fsum(energies) for name, energies in parts.items()}
    total = math.fsum(components.values())
    assumed = math.fsum(e for n, e in components.items() if sources[_KEYS[n]].startswith("assumed:"))
    return DigitalReport(components, by_layer, macs, k.node_nm, k.vdd_v, assumed / total if total else 0.0)


_KEYS = {
    "multiply": "multiply_fj",
    "add": "add_fj",
    "registers": "registers_fj",
    "sram": "sram_fj_per_byte",
    "dram": "dram_pj_per_bit",
}


def _held(k: DigitalConstants, layer: DigitalLayer) -> list[float]:
    """Bytes of those activations that stay in the SRAM."""
    return [size for size in (layer.input_bytes, layer.output_bytes) if size <= k.sram_kib * 1024 / 2]


def _layer(k: DigitalConstants, layer: DigitalLayer, *, resident: bool) -> dict[str, float]:
    sram_bytes = 9 * layer.macs / k.array_width + layer.weight_bytes + layer.input_bytes + layer.output_bytes
    spilled = layer.input_bytes + layer.output_bytes - sum(_held(k, layer))
    moved = spilled if resident else layer.weight_bytes + spilled
    return {
        "multiply": layer.macs * k.multiply_fj * 1e-3,
        "add": layer.macs * k.add_fj * 1e-3,
        "registers": layer.macs * k.registers_fj * 1e-3,
        "sram": sram_bytes * k.sram_fj_per_byte * 1e-3,
        "dram": 8 * moved * k.dram_pj_per_bit,
    }
