"""The report as a few lines for a terminal."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lpcompile.assignment.mac_energy import PAPER_OVERHEAD
from lpcompile.counted import counted
from lpcompile.formats.planned import short_name
from lpcompile.report.advice import GENERATED, advice, float_reasons, layer_lines
from lpcompile.report.cost import cost_line
from lpcompile.report.table import bytes_text, db_text, table

WARNINGS_SHOWN = 3
REASONS_SHOWN = 2
STEPS_SHOWN = 9


def summary(report: Mapping[str, Any], written: Sequence[Path] | None = None) -> str:
    """One screen: what became of the layers, what it gained and cost, where it loses most, what to try next.

    Args:
        report: schema 1.
        written: files of the output folder; empty after a dry run, None where an old report is shown again.
    """
    lines = [_title(report), _layers(report), _weights(report)]
    found = (
        _posits(report),
        _search(report),
        _quality(report),
        _metric(report),
        _checked(report),
        cost_line(report),
        _effort(report),
        _program(report),
        _energy(report),
    )
    lines += [line for line in found if line]
    lines += _ledger(report)
    lines += _worst(report)
    lines += _floats(report)
    warnings = [str(w) for w in report.get("warnings", [])]
    lines += [f"warning   {w}" for w in warnings[:WARNINGS_SHOWN]]
    if len(warnings) > WARNINGS_SHOWN:
        lines.append(f"          and {len(warnings) - WARNINGS_SHOWN} more warnings, see report.json")
    if written:
        folder = written[0].parent
        lines.append(f"wrote     {folder}: {', '.join(p.name for p in written)}")
        lines += _next(report, folder)
    elif written is not None:
        lines.append("wrote     nothing (dry run)")
    return "\n".join(lines)


def pass_times(report: Mapping[str, Any]) -> str:
    """A table of passes: time, changes, skips."""
    rows = [
        (p["name"], round(1000 * p["seconds"], 1), len(p["changes"]), len(p["skips"]))
        for p in report["passes"]
    ]
    total = ("total", round(sum(r[1] for r in rows), 1), sum(r[2] for r in rows), sum(r[3] for r in rows))
    return table(("pass", "ms", "changes", "skips"), [*rows, total])


def _title(report: Mapping[str, Any]) -> str:
    path = Path(str(report["model"].get("path") or "model")).name
    created = report.get("created_with", {})
    return f"{path} for {report['target']}, recipe {report['recipe']}, seed {created.get('seed', 0)}"


def _layers(report: Mapping[str, Any]) -> str:
    layers = report["layers"]
    by_format = Counter(short_name(layer["weight_format"]) for layer in layers)
    shown = ", ".join(f"{n} {name}" for name, n in by_format.most_common(5))
    if len(by_format) > 5:
        shown += f", {sum(n for _, n in by_format.most_common()[5:])} others"
    ranks = sorted(layer["rank"] for layer in layers if layer.get("rank"))
    if ranks:
        span = f"{ranks[0]}" if ranks[0] == ranks[-1] else f"{ranks[0]} to {ranks[-1]}"
        shown += f"; {len(ranks)} with side paths of rank {span}"
    return f"layers    {len(layers)} with weights: {shown}" if layers else "layers    none with weights"


def _weights(report: Mapping[str, Any]) -> str:
    totals, size = report["totals"], (report.get("verification") or {}).get("bytes") or {}
    text = f"weights   {totals['bits_per_weight']:.3g} bits each, {bytes_text(totals['weight_bytes'])}"
    if not totals["weight_bytes"]:  # what stands in bodies of control flow is not looked into
        text = "weights   none that are counted"
    if tables := report.get("tables"):
        formats = " and ".join(sorted({t["format"] for t in tables}))
        count = f"{len(tables)} tables" if len(tables) > 1 else "a table"
        text += f"; {count} in {formats}, {bytes_text(sum(t['bytes'] for t in tables))}"
    before, after = size.get("float"), size.get("compiled", totals.get("file_bytes"))
    if before and after:
        text += f"; file {bytes_text(before)} -> {bytes_text(after)} ({after / before:.2f}x)"
    return text


def _posits(report: Mapping[str, Any]) -> str:
    """How much is posits, and what their MACs take against fixed point by the model of `assignment.mac_energy`."""
    totals = report["totals"]
    if not totals.get("posit_fraction"):
        return ""
    text = f"posits    {totals['posit_fraction']:.3g} of the weights, {totals['posit_mac_fraction']:.3g} of the MACs"
    overhead = totals.get("mac_energy_overhead")
    if overhead is None:
        return f"{text}; none on integers"
    by_weights, (low, high) = totals["mac_energy_overhead_by_parameters"], totals["mac_energy_overhead_range"]
    return (
        f"{text}; MAC energy {overhead:+.2%} against fixp4 ({low:+.2%} to {high:+.2%} with other shifters), "
        f"{by_weights:+.2%} by weights (paper: {PAPER_OVERHEAD:+.2%})"
    )


def _quality(report: Mapping[str, Any]) -> str:
    quality = report.get("quality") or {}
    if not quality.get("samples"):
        return "quality   not measured"
    parts = []
    if quality.get("sqnr_db_output") is not None:
        parts.append(f"SQNR {db_text(quality['sqnr_db_output'], quality.get('sqnr_error_db'))}")
    if quality.get("top1_agreement") is not None:
        parts.append(f"agreement {quality['top1_agreement']:.3f}")
    return f"quality   {', '.join(parts) or 'no float output'} against float on {_samples(quality)}"


def _search(report: Mapping[str, Any]) -> str:
    """What the outer loop found: the fewest bits that meet the measured bounds."""
    search = report.get("search")
    if not search or "evaluated" not in search:  # a bound on energy alone needs few trials
        return ""
    quality = report.get("quality") or {}
    values = {
        "sqnr-db": quality.get("sqnr_db_output"),
        "agreement": quality.get("top1_agreement"),
        "metric-drop": (report.get("metric") or {}).get("drop"),
    }
    bounds = search["bounds"].items()
    shown = ", ".join(f"{k} {_figure(values.get(k))} (bound {b:g})" for k, b in bounds)
    return f"search    {search['avg_bits']:.2f} bits after {search['evaluated']} evaluations: {shown}"


def _effort(report: Mapping[str, Any]) -> str:
    note = (report.get("effort") or {}).get("note")
    return f"effort    {note}" if note else ""


def _ledger(report: Mapping[str, Any]) -> list[str]:
    """A row for each step that a float simulation was measured after; see `lpcompile.ledger`."""
    steps = report.get("ledger", [])
    if len(steps) > STEPS_SHOWN:  # those that changed nothing say least
        steps = [e for e in steps if e["kept"] or e["seconds"] is None][-STEPS_SHOWN:]
    logits = any(e.get("logits_gain_db") is not None for e in steps)
    rows = [_step(e, logits=logits) for e in steps]
    if len(rows) < 2:  # the line of the quality says as much
        return []
    basis = report["ledger_basis"]
    which = "" if basis["held_back"] else " that also decided"
    further = ("of logits",) if logits else ()
    shown = table(("step", "SQNR dB", "gain dB", *further, "seconds", ""), rows).splitlines()
    outputs = basis.get("outputs", 1)
    mean = f", mean of {outputs} outputs" if outputs > 1 else ""
    first = (
        f"gains     of each step, simulated in floats on {counted(basis['samples'], 'sample')}{which}{mean}"
    )
    return [first, *(f"          {line}" for line in shown)]


def _step(entry: Mapping[str, Any], *, logits: bool) -> tuple[object, ...]:
    seconds = entry["seconds"]
    took = "" if seconds is None else f"{seconds:.1f}"
    compared = seconds is None
    left = "" if entry["kept"] else "for comparison" if compared else "changed nothing"
    gains = [_gain(entry, of) if entry["kept"] or compared else "" for of in ("", "logits_")[: 1 + logits]]
    return entry["step"], f"{entry['sqnr_db']:.2f}", *gains, took, left


def _gain(entry: Mapping[str, Any], of: str) -> str:
    gain, error = entry.get(f"{of}gain_db"), entry.get(f"{of}gain_error_db")
    return "" if gain is None else f"{gain:+.2f}" + ("" if error is None else f" +- {error:.2f}")


def _metric(report: Mapping[str, Any]) -> str:
    metric = report.get("metric")
    if not metric:
        return ""
    return f"metric    {metric['float']:.4g} -> {metric['compiled']:.4g} by {metric['function']}"


def _figure(value: float | None) -> str:
    return "not known" if value is None else f"{value:.3g}"


def _samples(quality: Mapping[str, Any]) -> str:
    if quality.get("source") == GENERATED:
        return counted(quality["samples"], "generated input")
    if quality.get("held_back", True):
        return counted(quality["samples"], "held-back sample")
    return f"{counted(quality['samples'], 'sample')} that also decided"


def _checked(report: Mapping[str, Any]) -> str:
    verification = report.get("verification") or {}
    if not verification:
        return ""
    parts = [name for name in ("loads", "runs") if verification.get(name)]
    if verification.get("integer_layers_checked"):
        parts.append(
            f"{counted(verification['integer_layers_checked'], 'layer', 'equals', 'equal')} the numpy reference"
        )
    times = verification.get("latency_ms") or {}
    if times.get("float") and times.get("compiled"):
        quartiles = verification.get("latency_ratio")  # of pairs of runs, steadier than the ratio of medians
        ratio = 1 / quartiles[1] if quartiles else times["float"] / times["compiled"]
        pace = f"{ratio:.2f}x faster" if ratio >= 1 else f"{1 / ratio:.2f}x slower"
        parts.append(f"{times['float']:.3g} ms -> {times['compiled']:.3g} ms ({pace})")
    return f"checked   in ONNX Runtime: {', '.join(parts)}" if parts else ""


def _program(report: Mapping[str, Any]) -> str:
    """The program of a machine: its size, and how far it is proven and tried."""
    program, machine = report.get("program"), report.get("machine")
    if not program or not machine:
        return ""
    verification = report["verification"]
    tiles, lossless = verification["tiles"], verification["lossless_tiles"]
    conventions = (report.get("energy") or {}).get("conventions") or {}
    what = "sample" if conventions.get("batch", 1) == 1 else "call"
    tried = {True: f"; a simulated {what} equals ONNX Runtime", False: f"; a simulated {what} differs"}
    return (
        f"program   {machine['name']}: {program['instructions']} instructions, {bytes_text(program['bytes'])}, "
        f"{lossless} of {tiles} tiles lossless{tried.get(verification.get('bit_exact_sim'), '')}"
    )


def _energy(report: Mapping[str, Any]) -> str:
    energy, totals = report.get("energy"), report["totals"]
    if not energy:
        return ""
    scopes, digital = energy["tops_per_w"], energy["digital_int8"]
    batch, host = energy["conventions"]["batch"], energy["host_nodes"]
    per = "a sample" if batch == 1 else f"a call of {batch}"
    nodes = "1 host node" if host == 1 else f"{host} host nodes"
    counted = f" ({nodes} not counted)" if host else ""
    side = ""
    if energy["side_path_macs"]:
        side = f"{scopes['with_side_paths']:.3g} with side paths ({energy['side_path_pj'] / 1e6:.3g} uJ), "
    text = (
        f"energy    {totals['energy_pj'] / 1e6:.3g} uJ and {totals['latency_ns'] / 1e3:.3g} us {per}; "
        f"{scopes['mac_only']:.3g} TOPS/W of MACs only, {side}{scopes['system']:.3g} of the machine{counted} "
        f"({energy['assumed_share']:.0%} assumed)"
    )
    if not digital["energy_pj"]:
        return text
    weights = "in its SRAM" if digital["compared"] == "resident" else "from DRAM"
    return f"{text}; digital int8, weights {weights}: {digital['energy_pj'] / 1e6:.3g} uJ"


def _worst(report: Mapping[str, Any]) -> list[str]:
    """The layers that cost the outputs most."""
    rows = layer_lines(report)
    if not rows:
        return []
    alone = any(r.get("sqnr_db_end") is not None for r in report["layers"])
    what = "of the model, were no other rounded" if alone else "of their own outputs"
    shown = table(("layer", "weights", "inputs", "dB"), rows).splitlines()
    return [f"worst     layers, by SQNR {what}", *(f"          {line}" for line in shown)]


def _floats(report: Mapping[str, Any]) -> list[str]:
    """Why layers stayed float, where that was not asked for."""
    if report["recipe"] == "fp32":
        return []
    reasons = float_reasons(report)
    count = sum(n for _, n in reasons)
    if not count or not any("reason" in r for r in report["layers"]):
        return []
    shown = [f"          {n}: {reason}" for reason, n in reasons[:REASONS_SHOWN]]
    if len(reasons) > REASONS_SHOWN:
        shown.append(f"          and {len(reasons) - REASONS_SHOWN} more reasons, see report.json")
    return [f"float     {count} of {len(report['layers'])} layers stayed so", *shown]


def _next(report: Mapping[str, Any], folder: Path) -> list[str]:
    found = advice(report)
    if report.get("program"):
        found.insert(
            0, f"'lpcompile sim {folder}/program.lpcim --input FEEDS.npz --output RESULT.npz' executes it"
        )
    found.append(
        f"'lpcompile inspect {folder}' lists the layers; edit decisions.toml and replay it with --decisions"
    )
    return [f"{'next' if i == 0 else '':<10}{line}" for i, line in enumerate(found)]
