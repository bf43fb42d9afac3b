"""`lpcompile machines`: compute-in-memory machines that there are, and every number of one with its source."""

from typing import Any

import click

from lpcompile.cli._options import common_options
from lpcompile.cli._output import Output


@click.command(short_help="Compute-in-memory machines.")
@click.argument("name", required=False, metavar="[NAME|FILE.toml]")
@click.option("--toml", is_flag=True, help="Print the description itself, ready to copy and edit.")
@common_options
def machines(output: Output, name: str | None, toml: bool) -> None:
    """List the machines, or show every number of the machine NAME or FILE.toml with its unit and source."""
    from lpcompile.backends.cim.machine import MachineDescription, machine_names, machine_text

    if name is None:
        if toml:
            raise click.UsageError("--toml takes the name of a machine")
        _list(output, [MachineDescription.load(n) for n in machine_names()])
        return
    machine = MachineDescription.load(name)
    if toml:
        text = machine_text(name)
        output.answer({"name": machine.name, "toml": text}, text.rstrip())
        return
    document = _document(machine)
    output.answer(document, _text(machine, document))


def _list(output: Output, found: list[Any]) -> None:
    from lpcompile.report.table import table

    rows = [
        {
            "name": m.name,
            "cores": m.core_count,
            "macros": m.core_count * m.core.macros,
            "rows": m.macro.rows_active,
            "adc_bits": m.adc_bits,
            "assumptions": len(m.assumptions()),
            "numbers": len(m.sources),
            "summary": m.summary,
        }
        for m in found
    ]
    header = ("machine", "cores", "macros", "rows read", "ADC bits", "assumed", "what")
    cells = [
        (
            r["name"],
            r["cores"],
            r["macros"],
            r["rows"],
            r["adc_bits"],
            f"{r['assumptions']} of {r['numbers']}",
            r["summary"],
        )
        for r in rows
    ]
    text = table(header, cells) + "\n\n'lpcompile machines NAME' shows the numbers and sources of one."
    output.answer({"machines": rows}, text)


def _document(machine: Any) -> dict[str, Any]:
    from lpcompile.backends.cim.machine_figures import WIDTHS, figures
    from lpcompile.backends.cim.machine_sections import unit_of

    derived: dict[str, Any] = {
        "lossless_rows": machine.lossless_rows(complement=False),
        "lossless_rows_complement": machine.lossless_rows(complement=True)
        if machine.macro.complement
        else None,
        "row_pages": machine.row_pages,
    }
    for bits in WIDTHS:
        found = figures(machine, bits, bits)
        derived |= {
            f"weights_{bits}_bits": found.weights,
            f"peak_tops_{bits}_bits": found.peak_tops,
            f"mac_fj_{bits}_bits": found.mac_fj,
            f"tops_per_w_mac_only_{bits}_bits": found.tops_per_w_mac_only,
        }
    return {
        "name": machine.name,
        "summary": machine.summary,
        "sha256": machine.sha256,
        "values": [
            {
                "key": key,
                "value": value,
                "unit": unit_of(key),
                "source": machine.sources.get(key),
                "assumed": machine.assumed(key),
            }
            for key, value in machine.values().items()
        ],
        "assumptions": len(machine.assumptions()),
        "derived": derived,
    }


def _text(machine: Any, document: dict[str, Any]) -> str:
    from lpcompile.backends.cim.machine_figures import WIDTHS
    from lpcompile.report.table import table

    derived = document["derived"]
    rows = [(v["key"], _shown(v["value"]), v["unit"], v["source"] or "") for v in document["values"]]
    by_width = [
        (what, *(derived[f"{key}_{bits}_bits"] for bits in WIDTHS))
        for what, key in (
            ("weights on the chip", "weights"),
            ("peak TOPS", "peak_tops"),
            ("MAC, fJ, inside a macro", "mac_fj"),
            ("TOPS/W, MAC only", "tops_per_w_mac_only"),
        )
    ]
    inverted = derived["lossless_rows_complement"]
    lossless = f"rows read without loss: {derived['lossless_rows']}"
    lossless += "" if inverted is None else f", with inverted columns {inverted}"
    return "\n".join(
        (
            f"{machine.name}: {machine.summary}",
            f"sha256 {document['sha256']}",
            "",
            table(("key", "value", "unit", "source"), rows),
            "",
            table(("follows from these", *(f"{b} by {b} bits" for b in WIDTHS)), by_width),
            f"{lossless}; this machine reads {machine.macro.rows_active}, {derived['row_pages']} times a macro",
            f"{document['assumptions']} of {len(machine.sources)} numbers are assumptions",
        )
    )


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
