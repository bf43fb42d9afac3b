"""`lpcompile sim PROGRAM`: a compiled program on the simulated machine."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lpcompile.cli._options import (
    OptionError,
    common_options,
    feeds_option,
    random_feeds_option,
    result_option,
    threads_option,
)
from lpcompile.cli._output import Output
from lpcompile.cli._programs import program_file, refuse_existing_file, write_file
from lpcompile.counted import counted

if TYPE_CHECKING:
    from lpcompile.backends.cim.densities import DensityTable
    from lpcompile.backends.cim.energy_report import EnergyReport
    from lpcompile.backends.cim.program import Program
    from lpcompile.backends.cim.simulator.result import SimulationResult


@click.command(short_help="Run a compute-in-memory program in the simulator.")
@click.argument("program")
@feeds_option
@result_option
@random_feeds_option
@click.option(
    "--machine", metavar="NAME|FILE", help="The machine it was compiled for, if it is not built in."
)
@click.option(
    "--planes", is_flag=True, help="Go plane by plane where one product would do. Slow, same result."
)
@click.option(
    "--trace",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="Write a time line for Chrome or Perfetto.",
)
@click.option(
    "--energy",
    type=click.Choice(("exact", "stat")),
    help="Price the run: by what is counted in it, or by bit densities (of --densities).",
)
@click.option(
    "--densities",
    type=click.Path(path_type=Path),
    metavar="FEEDS.npz",
    help="Other inputs, whose bit densities --energy stat takes.",
)
@click.option(
    "--max-cycles", type=click.IntRange(min=1), metavar="N", help="Give up on a sample after so many."
)
@click.option(
    "--samples", type=click.IntRange(min=1), metavar="N", help="Only the first samples of the batch."
)
@threads_option
@click.option("--force", is_flag=True, help="Overwrite RESULT.npz and FILE.json.")
@common_options
def sim(
    output: Output,
    program: str,
    feeds: Path | None,
    result: Path | None,
    seed: int | None,
    machine: str | None,
    planes: bool,
    trace: Path | None,
    energy: str | None,
    densities: Path | None,
    max_cycles: int | None,
    samples: int | None,
    threads: int,
    force: bool,
) -> None:
    """Run PROGRAM: an .lpcim file, or a folder that a compiled model was written to.

    FEEDS.npz holds arrays named after the inputs of the graph, of its types; what has a batch axis is run sample by
    sample. Without it inputs are random. RESULT.npz gets the outputs of the graph.
    """
    if feeds is not None and seed is not None:
        raise click.UsageError("--input and --random exclude each other")
    # the matrices of one instruction are too small for several threads, which spin while they wait for each other
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    path = program_file(program)
    for file in (result, trace):
        if file is not None:
            refuse_existing_file(file, force=force)

    from lpcompile.backends.cim.activity_record import ActivityRecord
    from lpcompile.backends.cim.container import read_program
    from lpcompile.cli._feeds import tensor_rows, write_npz
    from lpcompile.report.table import table
    from lpcompile.simulation import machine_of, price_record, simulate, trace_text

    read = read_program(path)
    arrays, source = _arrays(read, feeds, seed, samples)
    if feeds is None:
        output.note(f"inputs: {source}")
    table_of_others = _densities(read, energy, densities, machine, threads)
    record = None if energy is None else ActivityRecord(exact=True)
    start = time.perf_counter()
    found = simulate(
        read,
        arrays,
        machine=machine,
        observer=record,
        planes=planes,
        trace=trace is not None,
        max_cycles=max_cycles,
        threads=threads,
    )
    seconds = time.perf_counter() - start
    written = [str(p) for p in (result, trace) if p is not None]
    if result is not None:
        write_npz(result, found.outputs, force=force)
    if trace is not None:
        write_file(trace, trace_text(found, machine_of(read, machine)).encode())
    rows = list(tensor_rows(found.outputs))
    document = {"program": str(path), "feeds": source, **figures(found), "seconds": seconds, "outputs": rows}
    text = table(
        ("output", "type", "shape", "min", "max", "mean"),
        [
            (r["name"], r["dtype"], "x".join(map(str, _shape(r))) or "scalar", r["min"], r["max"], r["mean"])
            for r in rows
        ],
    )
    shown = figures(found)
    text += (
        f"\n{counted(shown['samples'], 'sample')}, {shown['cycles_per_sample']} cycles a sample, "
        f"boot {shown['boot_cycles']}; "
        f"{shown['macs']:,} MACs in {shown['mvms']:,} MVMs, {shown['explicit_mvms']:,} of them plane by plane, "
        f"{shown['hp_macs']:,} on the hp unit"
    )
    if shown["changed_conversions"]:
        text += f"\n{shown['changed_conversions']} conversions read something else than the count"
    if record is not None:
        priced = price_record(read, record, found.samples, machine=machine, densities=table_of_others)
        document |= priced.to_json()
        text += "\n\n" + energy_table(priced, found.samples)
    output.answer({**document, "written": written}, "\n".join([text, *(f"wrote {w}" for w in written)]))


def energy_table(priced: "EnergyReport", samples: int) -> str:
    """Components of the energy, one sample on the average."""
    from lpcompile.report.table import table

    whole = priced.totals.energy_pj
    rows = [(name, pj / samples, f"{pj / whole:.1%}") for name, pj in priced.components.items()]
    return (
        table(("component", "pJ a sample", "share"), [*rows, ("total", whole / samples, "")])
        + f"\n{priced.assumed_share:.0%} rests on assumptions; host stages are not counted"
    )


def _densities(
    program: "Program", energy: str | None, densities: Path | None, machine: str | None, threads: int
) -> "DensityTable | None":
    """Densities of the inputs in --densities, which --energy stat needs."""
    if (energy == "stat") != (densities is not None):
        raise OptionError(
            "--energy stat and --densities go together", "give --densities FEEDS.npz with other inputs"
        )
    if densities is None:
        return None
    from lpcompile.simulation import price_run

    others, _ = _arrays(program, densities, None, None)
    return price_run(program, others, machine=machine, threads=threads).densities


def figures(found: "SimulationResult") -> dict[str, Any]:
    """What a simulation counted, as data."""
    counters = {name: getattr(found.counters, name) for name in found.counters.__dataclass_fields__}
    return {
        "samples": found.samples,
        "cycles": found.cycles,
        "cycles_per_sample": -(-found.cycles // found.samples),
        "boot_cycles": found.boot_cycles,
        **counters,
    }


def _arrays(
    program: "Program", feeds: Path | None, seed: int | None, samples: int | None
) -> tuple[dict[str, Any], str]:
    import numpy as np

    from lpcompile.analysis.inputs import InputSpec
    from lpcompile.cli._feeds import calls_of

    specs = [InputSpec(i.name, np.dtype(i.dtype), i.shape) for i in program.inputs]
    calls, source = calls_of(specs, feeds=feeds, data=None, seed=seed or 0, shapes={})
    arrays = dict(calls[0])
    for spec in program.inputs:
        if samples is not None and spec.shape and not isinstance(spec.shape[0], int):
            arrays[spec.name] = arrays[spec.name][:samples]
    return arrays, source


def _shape(row: dict[str, object]) -> list[Any]:
    shape = row["shape"]
    return shape if isinstance(shape, list) else []
