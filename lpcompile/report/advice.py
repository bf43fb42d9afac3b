"""What to try next, derived from a report: each piece an option, and why."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lpcompile.counted import counted
from lpcompile.formats.planned import format_of, short_name

Report = Mapping[str, Any]
FLOATS = ("float16", "bfloat16", "float32", "float64")
GENERATED = "generated inputs"  # quality.source where the user gave no samples
LOW_DB, LEAST_AGREEMENT = 20.0, 0.985  # below, networks are seen to lose accuracy
MANY_SAMPLES = 100  # from which agreement says more than decibels
HIGH_DB = 30.0  # above, there is room for fewer bits
NARROW = "uint4"
MOST = 3
WORST = 5
BODY = "inside a control-flow body"
DIFFERS = "from the numpy reference"
MANY = 0.3  # share of layers that stayed float


def advice(report: Report) -> list[str]:
    """At most MOST pieces, the most urgent first."""
    return list(dict.fromkeys(_pieces(report)))[:MOST]


def worst_layers(report: Report, most: int = WORST) -> list[Mapping[str, Any]]:
    """Quantised layers whose rounding alone costs the outputs most, worst first; none where it was not estimated."""
    known = [r for r in report["layers"] if layer_db(r) is not None and not is_float(r)]
    return sorted(known, key=lambda r: layer_db(r) or 0.0)[:most]


def layer_db(layer: Mapping[str, Any]) -> float | None:
    """SQNR of the model were no other layer rounded; where that was not estimated, of the layer's own output."""
    end: float | None = layer.get("sqnr_db_end")
    local: float | None = layer.get("sqnr_db_local")
    return local if end is None else end


def is_float(layer: Mapping[str, Any]) -> bool:
    """Whether a layer stayed float."""
    return layer["weight_format"] in FLOATS


def float_reasons(report: Report) -> list[tuple[str, int]]:
    """Why layers stayed float, and how many for each reason, the most frequent first."""
    return Counter(str(r.get("reason") or "no reason") for r in report["layers"] if is_float(r)).most_common()


def _pieces(report: Report) -> Iterator[str]:
    layers, quality = report["layers"], report.get("quality") or {}
    floats = [r for r in layers if is_float(r)]
    plain = report["recipe"] == "fp32"
    if layers and not plain and len(floats) == len(layers):
        yield _for_floats(report)
        return
    if quality.get("source") == GENERATED:
        if any(r.get("activation_format") in ("uint8", NARROW) for r in layers):
            yield "--calibration-data DATA: ranges from real samples fit better than generated ones"
        else:
            yield "--calibration-data DATA gives integer activations, which are faster"
    low = _is_low(quality)
    if low and not plain:
        yield from _for_more_quality(report)
    if layers and not plain and not low and len(floats) >= MANY * len(layers):
        yield _for_floats(report)
    if not low and not plain:
        yield from _for_fewer_bits(report)
    if report.get("target") == "ort" and not (report.get("verification") or {}).get("latency_ms"):
        yield "--benchmark times it against the float model; what is slower falls back"


def _is_low(quality: Mapping[str, Any]) -> bool:
    db, agreement = quality.get("sqnr_db_output"), quality.get("top1_agreement")
    if agreement is not None and (agreement < LEAST_AGREEMENT or quality.get("samples", 0) >= MANY_SAMPLES):
        return bool(agreement < LEAST_AGREEMENT)
    return db is not None and bool(db < LOW_DB)


def _for_floats(report: Report) -> str:
    (reason, count), *_ = float_reasons(report)
    if BODY in reason:
        return "export the model with its If, Loop and Scan unrolled: layers in their bodies are left as they are"
    if report.get("quality", {}).get("source") == GENERATED:
        return "--calibration-data DATA: without samples few layers can run on integers"
    stayed = f"{counted(count, 'layer')} stayed float: {reason}"
    if DIFFERS in reason:
        return f"{stayed}; report it with the model"
    return f"'lpcompile passes quantize-activations' has what decides it: {stayed}"


def _for_more_quality(report: Report) -> Iterator[str]:
    options = (report.get("created_with") or {}).get("options") or {}
    layers = [r for r in report["layers"] if not is_float(r)]
    few = [r for r in layers if _bits(r) < 8]
    narrow = any(r.get("activation_format") == NARROW for r in layers)
    if (few or narrow) and int(options.get("effort", 0)) < 2:
        yield "-O2: learns codes and narrow ranges block by block, in minutes"
    worst = [r for r in worst_layers(report) if _bits(r) < 8]
    if worst:
        yield f"{_pattern(worst[0]['name'])}: the layer that loses most, in 8 bits"
    elif layers and not few and (kept := worst_layers(report, 1)):
        yield f"--keep-float '{kept[0]['name']}': the layer that loses most"
    if narrow:
        yield "--activation-format uint8: activations of 4 bits lose more than weights do"
    if few and report["recipe"] == "auto":
        bits = report["totals"]["bits_per_weight"]
        yield f"--budget avg-bits={bits + 0.5:.3g}: half a bit more a weight, where it pays most"
    elif few:
        yield "--recipe auto --budget sqnr-db=20: the fewest bits that reach it"


def _for_fewer_bits(report: Report) -> Iterator[str]:
    db = (report.get("quality") or {}).get("sqnr_db_output")
    options = (report.get("created_with") or {}).get("options") or {}
    if options.get("decisions") or options.get("budget"):  # asked for as it is
        return
    layers = [r for r in report["layers"] if not is_float(r)]
    wide = [r for r in layers if _bits(r) >= 8]
    if db is None or db < HIGH_DB or not wide:
        return
    if len(wide) == len(layers):
        yield "--recipe w4a8 halves the file again; --recipe auto takes the best format for each layer"
    elif report["recipe"] == "auto":
        yield f"--budget sqnr-db={db - 6:.0f}: the fewest bits that keep it, there is room"


def _bits(layer: Mapping[str, Any]) -> int:
    return 32 if is_float(layer) else format_of(short_name(layer["weight_format"])).bits


def _pattern(name: str) -> str:
    return f"--layer-format '{re.escape(name)}=int8'"


def layer_lines(report: Report) -> Sequence[tuple[object, ...]]:
    """Rows for the worst layers: name, format, activations, SQNR alone."""
    return [
        (
            r["name"],
            short_name(r["weight_format"]),
            r.get("activation_format", ""),
            f"{layer_db(r):.1f}",
        )
        for r in worst_layers(report)
    ]
