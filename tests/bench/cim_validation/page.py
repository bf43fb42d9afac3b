"""The tables of `docs/cim/energy.md`, derived from the machines and the published values every time."""

from collections.abc import Iterable, Sequence

from lpcompile.backends.cim.digital_int8 import price_digital
from lpcompile.backends.cim.machine import MachineDescription, machine_names
from lpcompile.backends.cim.machine_figures import figures, mac_fj
from lpcompile.errors import InputError
from tests.bench.cim_validation import dcim, isaac, neurosim, npp
from tests.bench.cim_validation.point import Point
from tests.bench.cim_validation.published import sources
from tests.bench.cim_validation.vgg8 import vgg8

START, END = "<!-- derived tables -->", "<!-- end of derived tables -->"


def all_points() -> list[Point]:
    """Every row of the page."""
    return [*npp.points(), *isaac.points(), *dcim.points(), *neurosim.points()]


def page() -> str:
    """The derived part of the page, in Markdown."""
    return "\n\n".join(
        (
            "### Predictions and published values",
            _points_table(),
            "### `npp-bitplane-sram` with rank-8 side paths",
            _side_path_table(),
            "### What of `npp-bitplane-sram` is assumed",
            _assumption_table(npp.NAME),
            "### How much of each machine is assumed",
            _machine_table(),
            "### What inverted columns would save",
            _complement_table(),
            "### VGG-8 on the conventional int8 accelerator, weights fetched from DRAM",
            _digital_table(),
            "### Sources of the published values",
            _table(("value", "source"), [(f"`{key}`", text) for key, text in sources().items()]),
        )
    )


def replaced(document: str) -> str:
    """A document with what stands between the two marks derived anew.

    Raises:
        InputError: the marks are not there.
    """
    before, start, rest = document.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise InputError("the page has no place for the tables", hint=f"put '{START}' and '{END}' into it")
    return f"{before}{START}\n\n{page()}\n\n{END}{after}"


def _points_table() -> str:
    header = ("machine", "what", "predicted", "published", "error", "kind", "calibrated or assumed")
    rows = [
        (
            f"`{p.machine}`",
            p.what,
            f"{p.predicted:.4g}",
            f"{p.published:.4g}",
            _percent(p.error),
            p.kind,
            p.note,
        )
        for p in all_points()
    ]
    return _table(header, rows, right=(2, 3, 4))


def _side_path_table() -> str:
    header = (
        "width",
        "side MACs / main MACs",
        "TOPS/W",
        "side MACs counted as work",
        "side path's share of energy",
    )
    rows = [
        (str(width), f"{rho:.3g}", f"{tops:.1f}", f"{everything:.1f}", _percent(share).lstrip("+"))
        for width, rho, tops, everything, share in npp.side_path_rows()
    ]
    return _table(header, rows, right=range(5))


def _assumption_table(name: str) -> str:
    machine = MachineDescription.load(name)
    rows = [
        (f"`{key}`", f"{value:g}", source.removeprefix("assumed: "))
        for key, value, source in machine.assumptions()
    ]
    return _table(("key", "value", "assumption"), rows, right=(1,))


def _machine_table() -> str:
    header = ("machine", "numbers", "assumed", "fJ a MAC, 4 by 4", "TOPS/W", "8 by 8", "TOPS/W")
    rows = []
    for machine in map(MachineDescription.load, machine_names()):
        four, eight = (figures(machine, bits, bits) for bits in (4, 8))
        rows.append(
            (
                f"`{machine.name}`",
                str(len(machine.sources)),
                str(len(machine.assumptions())),
                *(f"{x:.4g}" for f in (four, eight) for x in (f.mac_fj, f.tops_per_w_mac_only)),
            )
        )
    return _table(header, rows, right=range(1, 7))


def _complement_table() -> str:
    header = ("machine", "rows", "fJ a MAC, 4 by 4", "rows with inverted columns", "fJ a MAC", "change")
    rows = []
    for machine in map(MachineDescription.load, machine_names()):
        if machine.macro.complement:
            plain, twice = (machine.lossless_rows(complement=c) for c in (False, True))
            before, after = mac_fj(machine, 4, 4, plain), mac_fj(machine, 4, 4, twice, corrected=True)
            cells = (str(plain), f"{before:.4g}", str(twice), f"{after:.4g}", _percent(after / before - 1))
            rows.append((f"`{machine.name}`", *cells))
    return _table(header, rows, right=range(1, 6))


def _digital_table() -> str:
    report = price_digital(layer.digital for layer in vgg8())
    rows = [(name, f"{energy * 1e-6:.2f}") for name, energy in report.components.items()]
    rows += [("total", f"{report.energy_pj * 1e-6:.2f}"), ("TOPS/W", f"{report.tops_per_w:.3g}")]
    rows += [("share that rests on assumptions", _percent(report.assumed_share).lstrip("+"))]
    return _table(("component", "uJ an image"), rows, right=(1,))


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> str:
    to_right = set(right)
    marks = ["--:" if i in to_right else "---" for i in range(len(header))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, marks, *rows))


def _percent(share: float) -> str:
    text = f"{100 * share:+.1f} %"
    return "0.0 %" if text in ("+0.0 %", "-0.0 %") else text
