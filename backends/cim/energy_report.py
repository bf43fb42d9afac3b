"""What a priced run leaves: energies by component and ONNX node, totals, and the conventions they hold under."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lpcompile.backends.cim.events import COMPONENTS

Assumption = tuple[str, float, str]
ENERGY, TIME = "energy", "time"


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums of a run; energies in pJ.

    Attributes:
        energy_pj: everything.
        mac_only_pj: wordlines, cells, read-out and shift-add of matrix products; no accumulation over blocks.
        side_path_pj: dense products of the hp unit in nodes that also run on macros.
        hp_pj: other products of the hp unit.
        weight_loading_pj: reloads of weights during the run, with the transport of the bits.
        boot_pj: of loading them once before it; in no other sum.
        leakage_pj: over the time of the run.
        latency_ns: of the run.
        macs, side_macs, hp_macs: of the whole run: on macros; on side paths; other products of the hp unit.
    """

    energy_pj: float
    mac_only_pj: float
    side_path_pj: float
    hp_pj: float
    weight_loading_pj: float
    boot_pj: float
    leakage_pj: float
    latency_ns: float
    macs: float
    side_macs: float
    hp_macs: float


@dataclass(frozen=True, slots=True)
class EnergyReport:
    """Energy of a run.

    Attributes:
        components: pJ of each component, in a fixed order.
        by_layer: pJ of each component of each ONNX node; "" is what no MARK covers.
        totals: sums.
        conventions: what the figures hold under: numbers and sentences.
        assumed_pj: of energy_pj, what is priced by a number that is an assumption.
        assumptions: (key, value, source) of those numbers.
        timing_assumptions: the same of numbers that the cycle model reads, so that latency and leakage rest on them.
        utilisation: shares between 0 and 1: "macros" of the chip, "rows" and "columns" of a step, "cim_time".
        lossless_share: of conversions, those of blocks that are proven lossless; None without converters.
        clip_rate: of conversions, those that left the range; None where it was not counted.
    """

    components: Mapping[str, float]
    by_layer: Mapping[str, Mapping[str, float]]
    totals: Totals
    conventions: Mapping[str, Any]
    assumed_pj: float
    assumptions: tuple[Assumption, ...]
    timing_assumptions: tuple[Assumption, ...]
    utilisation: Mapping[str, float]
    lossless_share: float | None
    clip_rate: float | None

    @property
    def assumed_share(self) -> float:
        """Share of the energy that rests on assumptions."""
        return self.assumed_pj / self.totals.energy_pj if self.totals.energy_pj else 0.0

    def tops_per_w(self) -> dict[str, float]:
        """Operations per joule, in 1e12, by scope.

        Work counts the MACs of the network; a side path repairs a layer and counts as none, except in "..._all".
        Reloads of weights count as system energy; the boot counts in none.
        """
        sums, ops = self.totals, self.conventions["ops_per_mac"]
        side = sums.mac_only_pj + sums.side_path_pj
        return {
            "mac_only": _tops(ops * sums.macs, sums.mac_only_pj),
            "with_side_paths": _tops(ops * sums.macs, side),
            "with_side_paths_all": _tops(ops * (sums.macs + sums.side_macs), side),
            "system": _tops(ops * (sums.macs + sums.hp_macs), sums.energy_pj),
        }

    def to_json(self) -> dict[str, Any]:
        """The sections `energy`, `totals` and `assumptions` of report.json, schema 1."""
        sums, scopes = self.totals, self.tops_per_w()
        return {
            "energy": {
                "components": dict(self.components),
                "by_layer": {node: dict(parts) for node, parts in self.by_layer.items()},
                "conventions": dict(self.conventions),
                "assumed_share": self.assumed_share,
                "utilisation": dict(self.utilisation),
                "lossless_share": self.lossless_share,
                "clip_rate": self.clip_rate,
                "tops_per_w": scopes,
                "main_path_macs": sums.macs,
                "side_path_macs": sums.side_macs,
                "hp_macs": sums.hp_macs,
                "mac_only_pj": sums.mac_only_pj,
                "side_path_pj": sums.side_path_pj,
                "hp_pj": sums.hp_pj,
                "weight_loading_pj": sums.weight_loading_pj,
                "boot_pj": sums.boot_pj,
                "leakage_pj": sums.leakage_pj,
            },
            "totals": {
                "energy_pj": sums.energy_pj,
                "latency_ns": sums.latency_ns,
                "tops_per_w": scopes["system"],
                "tops_per_w_mac_only": scopes["mac_only"],
            },
            "assumptions": self._assumptions(),
        }

    def _assumptions(self) -> list[dict[str, Any]]:
        """Each assumed number once, with what it is used for."""
        used: dict[Assumption, list[str]] = {}
        for purpose, found in ((ENERGY, self.assumptions), (TIME, self.timing_assumptions)):
            for assumption in found:
                used.setdefault(assumption, []).append(purpose)
        return [
            {"what": f"{key} = {value:g}", "source": source, "used_for": purposes}
            for (key, value, source), purposes in used.items()
        ]

    def layer_pj(self, node: str) -> float:
        """Energy of one node."""
        return sum(self.by_layer.get(node, {}).values())


def in_order(parts: Mapping[str, float]) -> dict[str, float]:
    """Components in the fixed order, those without energy left out."""
    return {name: parts[name] for name in COMPONENTS if parts.get(name)}


def _tops(ops: float, energy_pj: float) -> float:
    return ops / energy_pj if energy_pj else 0.0
