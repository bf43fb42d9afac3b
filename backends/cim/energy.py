"""Prices what was executed: counts of events times energies of the machine, kept by component and ONNX node.

Counts are summed first and priced once for each (node, path, event), so the sums over components, over nodes, and
the total are sums of the same products. [cim-machine 3]
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lpcompile.backends.cim.activity import (
    GROUPED,
    MODES,
    MVMS,
    Executed,
    Site,
    Stirred,
    fixed_counts,
    hp_macs,
    mvm_counts,
    site_of,
    stirred,
)
from lpcompile.backends.cim.energy_report import EnergyReport, Totals, in_order
from lpcompile.backends.cim.events import LEAKAGE, PRICES, Event
from lpcompile.backends.cim.latency import TIMING_KEYS
from lpcompile.backends.cim.machine import MachineDescription
from lpcompile.backends.cim.operands import group_index, planes_of
from lpcompile.backends.cim.plane_counts import PlaneCounts
from lpcompile.backends.cim.program import Instruction, Program

MAIN, HP, LOADING, OTHER = "main", "hp", "loading", "other"
_PATHS = {"MVM": MAIN, "MVMP": MAIN, "VMM": HP, "VDW": HP, "WPROG": LOADING}


@dataclass(frozen=True, slots=True)
class _Place:
    """Instructions that are alike but for their data; `indices` stands for all that lead to the same group."""

    node: str
    core: int
    word: Instruction
    group: int
    indices: tuple[int, ...]

    @property
    def key(self) -> tuple[str, str]:
        """Node and path."""
        return self.node, _PATHS.get(self.word.mnemonic, OTHER)


@dataclass(slots=True)
class _Sums:
    """What several instructions of one place did together."""

    times: int = 0
    cycles: int = 0
    driven: float = 0.0
    hits: float = 0.0
    steps: float = 0.0
    clipped: int = 0
    uncounted: bool = False


@dataclass
class _Tally:
    """What has been executed so far, and after `finish` what it comes to."""

    machine: MachineDescription
    program: Program
    mode: str
    planes: PlaneCounts
    places: defaultdict[_Place, _Sums] = field(default_factory=lambda: defaultdict(_Sums))
    sites: dict[tuple[Instruction, int], Site] = field(default_factory=dict)
    events: defaultdict[tuple[str, str], defaultdict[Event, float]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(float))
    )
    macs: defaultdict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))
    used: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    busy: Counter[str] = field(default_factory=Counter)
    cores: set[int] = field(default_factory=set)
    macros: set[tuple[int, int]] = field(default_factory=set)
    uncounted: bool = False
    end: int = 0

    def take(self, done: Executed) -> None:
        """Count one instruction."""
        word, group = done.instruction, -1
        indices: tuple[int, ...] = ()
        if word.mnemonic in GROUPED:
            group = group_index(self.program, word, done.indices)
            indices = (min(done.indices[0], 1),) if done.indices else ()  # whether INIT holds
        sums = self.places[_Place(done.node, done.core, word, group, indices)]
        sums.times += 1
        sums.cycles += done.end_cycle - done.start_cycle
        self.end = max(self.end, done.end_cycle)
        if word.mnemonic not in MVMS:
            return
        site = self.sites.get((word, group))
        if site is None:
            site = site_of(self.machine, self.program, word, group, self.planes)
            self.sites[word, group] = site
        moved = stirred(self.machine, done, self.mode, site)
        sums.driven += moved.driven
        sums.hits += moved.hits
        sums.steps += moved.steps
        sums.clipped += done.clipped or 0
        sums.uncounted |= done.clipped is None

    def finish(self) -> None:
        """Turn the sums into events."""
        for place, sums in self.places.items():
            self.busy[place.node] += sums.cycles
            found = self.events[place.key]
            word, group = place.word, place.group if place.group >= 0 else None
            fixed = fixed_counts(self.machine, self.program, word, place.core, place.indices, group)
            for event, n in fixed.items():
                found[event] += n * sums.times
            self.macs[place.key] += hp_macs(word, self.program.descriptors) * sums.times
            if word.mnemonic in MVMS:
                self._finish_mvm(place, sums)

    def _finish_mvm(self, place: _Place, sums: _Sums) -> None:
        site = self.sites[place.word, place.group]
        shape, group = site.shape, site.group
        moved = Stirred(sums.driven, sums.hits, sums.steps)
        counts = mvm_counts(self.machine, site, moved, sums.times)
        found = self.events[place.key]
        for event, n in counts.items():
            found[event] += n
        source = self.program.descriptors[place.word.b]
        whole = 1.0 if place.word.mnemonic == "MVM" else 1 / planes_of(source)
        self.macs[place.key] += sums.times * shape.macs * whole
        steps = sums.times * shape.positions * shape.steps
        for name, used in {
            "rows": steps * shape.rows,
            "all rows": steps * shape.blocks * max(self.machine.macro.rows_active, group.block_rows),
            "columns": steps * shape.blocks * shape.columns,
            "all columns": steps * shape.blocks * shape.crossed,
            "conversions": counts[Event.CONVERSION],
            "lossless": counts[Event.CONVERSION] * group.lossless,
            "clipped": sums.clipped,
            "cycles": sums.cycles,
        }.items():
            self.used[name] += used
        self.uncounted |= sums.uncounted
        self.cores.add(place.core)
        self.macros.update((place.core, group.first_macro + i) for i in range(group.across * group.down))


def price(
    machine: MachineDescription,
    program: Program,
    executed: Iterable[Executed],
    mode: str = "stat",
    batch: int = 1,
    boot: Iterable[Executed] = (),
    macs: Mapping[str, float] | None = None,
) -> EnergyReport:
    """Energy of a run.

    Args:
        machine: that it ran on.
        program: whose tables its instructions point into.
        executed: every instruction of the run, in any order; WPROGs among them are reloads, and count.
        mode: "exact" (counts of a simulation) or "stat" (densities).
        batch: samples that the run served; a convention of the report, nothing is divided by it.
        boot: instructions of the boot, which happens once: priced apart, in no sum but `boot_pj`.
        macs: products of a node in the network, of the whole run. A program alone does not tell them from those with
            the zeros between groups, which the arrays do as well: without this they count as work.

    Raises:
        ProgramError: mode "exact", and an MVM carries no counts.
        ValueError: there is no such mode.
    """
    if mode not in MODES:
        raise ValueError(f"mode {mode!r} is none of {', '.join(MODES)}")
    tally = _Tally(machine, program, mode, PlaneCounts(program))
    for done in executed:
        tally.take(done)
    tally.finish()
    for node, found in (macs or {}).items():
        if tally.macs.get((node, MAIN)):
            tally.macs[node, MAIN] = found
    once = tuple(boot)
    boot_pj = price(machine, program, once, mode).totals.energy_pj if once else 0.0
    return _report(tally, batch, boot_pj)


def _report(tally: _Tally, batch: int, boot_pj: float) -> EnergyReport:
    machine = tally.machine
    parts: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    by_path: defaultdict[str, list[float]] = defaultdict(list)
    mac_only: list[float] = []
    assumed: list[float] = []
    keys: set[str] = set()
    with_macros = {node for (node, path), macs in tally.macs.items() if path == MAIN and macs}
    for (node, path), counts in tally.events.items():
        for event, n in counts.items():
            cost = PRICES[event]
            if not n:
                continue
            energy = n * cost.energy_pj(machine)
            parts[node][cost.component].append(energy)
            by_path["side" if path == HP and node in with_macros else path].append(energy)
            if cost.in_macro and path == MAIN:
                mac_only.append(energy)
            if machine.assumed(cost.key):
                assumed.append(energy)
                keys.add(cost.key)
    latency_ns = tally.end / machine.chip.clock_mhz * 1e3
    leakage_pj = machine.energy.leakage_mw * latency_ns  # mW * ns = pJ
    for node, share in _shares(tally.busy).items():
        parts[node][LEAKAGE].append(leakage_pj * share)
    if leakage_pj and machine.assumed("energy.leakage_mw"):
        assumed.append(leakage_pj)
        keys.add("energy.leakage_mw")
    by_layer = {node: in_order({k: math.fsum(v) for k, v in p.items()}) for node, p in parts.items()}
    names = dict.fromkeys(name for p in by_layer.values() for name in p)
    components = in_order({name: math.fsum(p.get(name, 0.0) for p in by_layer.values()) for name in names})
    totals = Totals(
        energy_pj=math.fsum(components.values()),
        mac_only_pj=math.fsum(mac_only),
        side_path_pj=math.fsum(by_path["side"]),
        hp_pj=math.fsum(by_path[HP]),
        weight_loading_pj=math.fsum(by_path[LOADING]),
        boot_pj=boot_pj,
        leakage_pj=leakage_pj,
        latency_ns=latency_ns,
        macs=_macs(tally, MAIN, with_macros),
        side_macs=_macs(tally, HP, with_macros),
        hp_macs=sum(n for (node, path), n in tally.macs.items() if path == HP and node not in with_macros),
    )
    used = tally.used
    return EnergyReport(
        components=components,
        by_layer=by_layer,
        totals=totals,
        conventions=conventions(machine, tally.mode, batch),
        assumed_pj=math.fsum(assumed),
        assumptions=tuple(found for found in machine.assumptions() if found[0] in keys),
        timing_assumptions=tuple(found for found in machine.assumptions() if found[0] in TIMING_KEYS)
        if tally.end
        else (),
        utilisation=_utilisation(tally),
        lossless_share=used["lossless"] / used["conversions"] if used["conversions"] else None,
        clip_rate=used["clipped"] / used["conversions"]
        if used["conversions"] and not tally.uncounted
        else None,
    )


def conventions(machine: MachineDescription, mode: str, batch: int) -> dict[str, Any]:
    """What the figures of a report hold under."""
    energy = machine.energy
    activity = (
        "counted in simulation"
        if mode == "exact"
        else f"bit-plane densities; {energy.input_density:g} where none was measured"
    )
    return {
        "ops_per_mac": energy.ops_per_mac,
        "scope": "totals, components and by_layer: everything on the chip, and DRAM, while a device stage runs",
        "headline_scope": f"what the machine's own figure was published for, and no more; {energy.scope}",
        "units": "components and by_layer: pJ of the whole run, batch samples together",
        "host": "host stages, conversions at the edges among them: no energy, no time",
        "time": "cycles of the machine's description; assumptions used for 'time' are those of latency and leakage",
        "node_nm": machine.chip.node_nm,
        "vdd_v": machine.chip.vdd_v,
        "vdd": machine.chip.vdd_v,
        "activity": activity,
        "batch": batch,
        "leakage": f"{energy.leakage_mw:g} mW over the time of the run, to nodes by their busy cycles",
        "weight_loading": "once at boot: boot_pj, in no other figure; reloads count: weight_loading_pj",
        "calibration": energy.calibration,
    }


def _macs(tally: _Tally, path: str, nodes: set[str]) -> float:
    return sum(n for (node, found), n in tally.macs.items() if found == path and node in nodes)


def _shares(busy: Counter[str]) -> dict[str, float]:
    total = sum(busy.values())
    if total:
        return {node: n / total for node, n in busy.items()}
    return {node: 1 / len(busy) for node in busy}


def _utilisation(tally: _Tally) -> dict[str, float]:
    used, machine = tally.used, tally.machine

    def share(part: float, whole: float) -> float:
        return part / whole if whole else 0.0

    return {
        "macros": share(len(tally.macros), machine.core_count * machine.core.macros),
        "rows": share(used["rows"], used["all rows"]),
        "columns": share(used["columns"], used["all columns"]),
        "cim_time": share(used["cycles"], len(tally.cores) * tally.end),
    }
