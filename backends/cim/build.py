"""From the reference graph to what a machine runs: program, proofs, a simulated sample, energy. [cim-machine 5]."""

from collections.abc import Mapping
from typing import Any

from lpcompile.backends.cim.activity_record import ActivityRecord
from lpcompile.backends.cim.assembler import disassemble
from lpcompile.backends.cim.container import size_without_weights, to_bytes
from lpcompile.backends.cim.digital_int8 import LEFT_OUT, compare_digital
from lpcompile.backends.cim.energy import price
from lpcompile.backends.cim.energy_report import EnergyReport
from lpcompile.backends.cim.host_reasons import host_nodes, require_none
from lpcompile.backends.cim.lowering import Lowered, lower
from lpcompile.backends.cim.machine import MachineDescription
from lpcompile.backends.cim.machine_timing import MachineTiming
from lpcompile.backends.cim.program import DeviceStage
from lpcompile.backends.cim.proofs import Proofs, prove
from lpcompile.backends.cim.simulator.capacities import Capacities
from lpcompile.backends.cim.simulator.simulator import Simulator
from lpcompile.backends.cim.timeline import timeline
from lpcompile.backends.cim.trial import batch_of, codes_agree, try_sample
from lpcompile.counted import counted
from lpcompile.errors import PassError
from lpcompile.ir.graph import LpGraph
from lpcompile.progress import Progress, no_progress
from lpcompile.quant.dyadic_numbers import DyadicNumbers
from lpcompile.target import Options, Products, Trial

DEFAULT_MACHINE = "npp-bitplane-sram"
WHAT, PARTS = "building the program", 4  # the last two are a simulated sample and its energy
PROGRAM, ASSEMBLY = "program.lpcim", "program.lpcasm"


def build(
    reference: LpGraph,
    numbers: DyadicNumbers,
    options: Options,
    trial: Trial | None,
    progress: Progress = no_progress,
) -> Products:
    """Program, assembler text and report of a reference graph; see `Target.build`."""
    machine = MachineDescription.load(options.machine or DEFAULT_MACHINE)
    progress(WHAT, 0, PARTS)
    lowered = lower(reference, numbers, machine, options.host)
    on_host = host_nodes(reference, lowered.host)
    if options.strict:
        require_none(on_host)
    program = lowered.program
    progress(WHAT, 1, PARTS)
    proofs = prove(program, Capacities.of(machine))
    if not proofs.hold:
        kind, first = next(iter(proofs.first.items()))
        raise PassError(
            f"the program fails its proofs ({kind}): {first}", hint="please report it with the model"
        )
    files = {PROGRAM: to_bytes(program), ASSEMBLY: disassemble(program).encode()}
    report: dict[str, Any] = {
        "machine": _machine(machine),
        "program": _program(lowered, proofs, files),
        "host": [{"node": n, "reason": r} for n, r in on_host.items()],
        "verification": {"proofs": proofs.document(), **_tiles(proofs)},
    }
    warnings = _warnings(lowered, proofs, on_host)
    progress(WHAT, 2, PARTS)
    if trial is not None and any(isinstance(s, DeviceStage) for s in program.stages):
        report = _with_run(report, lowered, machine, proofs, reference, trial)
    progress(WHAT, PARTS, PARTS)
    return Products(files, report, warnings)


def _with_run(
    report: dict[str, Any],
    lowered: Lowered,
    machine: MachineDescription,
    proofs: Proofs,
    reference: LpGraph,
    trial: Trial,
) -> dict[str, Any]:
    """The report with one sample executed, compared with ONNX Runtime, and priced."""
    record = ActivityRecord(exact=True)
    simulator = Simulator(
        lowered.program,
        Capacities.of(machine),
        timing=MachineTiming(machine),
        observer=record,
        check_races=False,  # proven above
    )
    verification = {**report["verification"]}
    result = try_sample(simulator, reference, trial)
    verification["bit_exact_sim"] = result.exact
    if proofs.groups == proofs.lossless_groups and not result.exact:
        verification["bit_exact_codes"] = codes_agree(simulator, reference, trial)
        if not verification["bit_exact_codes"]:
            raise PassError(
                "the simulated program and ONNX Runtime give different integers",
                hint="this is a bug of lpcompile: please report it with the model",
            )
    energy = price(
        machine,
        lowered.program,
        record.run,
        "exact",
        batch_of(reference),
        record.boot,
        {layer.name: layer.macs for layer in lowered.layers},
    )
    found = energy.to_json()
    stays = lowered.placement.resident and not energy.totals.weight_loading_pj
    digital = compare_digital(lowered.layers, stays=stays)
    found["energy"] = {
        **found["energy"],
        "conventions": {**energy.conventions, "digital_int8": f"leaves out {LEFT_OUT}"},
        "host_nodes": len(report["host"]),
        "digital_int8": digital.to_json(),
    }
    found["totals"] = {**found["totals"], **_side_paths(energy), "cycles": result.cycles}
    energies = {n: energy.layer_pj(n) for n in energy.by_layer}
    drawn = timeline(record.run, machine.chip.clock_mhz, machine.core_count)
    return {**report, **found, "verification": verification, "layer_energy_pj": energies, "timeline": drawn}


def _machine(machine: MachineDescription) -> dict[str, Any]:
    return {
        "name": machine.name,
        "sha256": machine.sha256,
        "summary": machine.summary,
        "cores": machine.core_count,
        "macros": machine.core_count * machine.macros_per_core,
    }


def _program(lowered: Lowered, proofs: Proofs, files: Mapping[str, bytes]) -> dict[str, Any]:
    program, placement = lowered.program, lowered.placement
    return {
        "instructions": sum(len(c.boot) + sum(map(len, c.run)) for c in program.cores),
        "bytes": len(files[PROGRAM]),
        "bytes_without_weights": size_without_weights(program),
        "text_bytes": len(files[ASSEMBLY]),
        "weight_plane_bytes": len(program.weights),
        "segments": len(set(placement.segments)),
        "weights_stay": placement.resident,
        "copies": lowered.copies,
        "spilled_bytes": lowered.spilled,
        "columns": proofs.columns,
        "inverted_columns": proofs.inverted_columns,
    }


def _tiles(proofs: Proofs) -> dict[str, Any]:
    return {"lossless_tiles": proofs.lossless_groups, "tiles": proofs.groups}


def _side_paths(energy: EnergyReport) -> dict[str, Any]:
    whole = energy.totals.macs + energy.totals.side_macs
    return {"side_path_mac_fraction": energy.totals.side_macs / whole if whole else 0.0}


def _warnings(lowered: Lowered, proofs: Proofs, on_host: Mapping[str, str]) -> list[str]:
    found = []
    if not any(isinstance(s, DeviceStage) for s in lowered.program.stages):
        found.append("nothing runs on the machine, so there is no energy and no simulated sample")
    elif not lowered.program.groups:
        found.append("no layer runs on the arrays")
    if not lowered.placement.resident:
        segments = len(set(lowered.placement.segments))
        found.append(
            f"the weights do not fit the machine together: they are written in {segments} segments, every time"
        )
    if lowered.spilled:
        found.append(
            f"{lowered.spilled} bytes of activations find no room in the global buffer and go off chip"
        )
    if proofs.lossless_groups < proofs.groups:
        found.append(
            f"{proofs.groups - proofs.lossless_groups} of {proofs.groups} tiles may leave the converter's range: "
            "the program then differs from model.onnx"
        )
    if on_host:
        found.append(f"{counted(len(on_host), 'node', 'runs', 'run')} on the host, listed under 'host'")
    return found
