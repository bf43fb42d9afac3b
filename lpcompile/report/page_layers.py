"""Every layer: its format, what it loses, and why it got what it got."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lpcompile.counted import counted
from lpcompile.formats.planned import short_name
from lpcompile.report.page_charts import Bar, bars, keys, points
from lpcompile.report.page_tables import Column, html_table, is_number, section

Layer = Mapping[str, Any]
LEVELS = 5
NO_LEVEL = "level-0"
MOST_BARS = 120
COLUMNS = (
    Column("layer"), Column("op"), Column("format"), Column("granularity"), Column("activations"), Column("rounding"),
    Column("rank", 3), Column("bits a weight", 3), Column("weights", 3, "bytes"), Column("MACs", 3),
    Column("alone", 3, "dB"), Column("at the output", 3, "dB"), Column("sensitivity", 3), Column("energy", 3, "pJ"),
    Column("reason"),
)  # fmt: skip

TABLES = (
    Column("looked up by"), Column("shape"), Column("format"), Column("stored", 3, "bytes"),
    Column("as floats", 3, "bytes"), Column("rows alone", 3, "dB"), Column("reason"),
)  # fmt: skip


def layers(report: Mapping[str, Any]) -> str:
    """Charts and the table."""
    found = report["layers"]
    levels = sensitivity_levels(found)
    shown = list(zip(found, levels, strict=True))
    worst = sorted(range(len(found)), key=lambda i: _loss(found[i]), reverse=True)
    kept = [shown[i] for i in sorted(worst[:MOST_BARS])]
    rows = [
        (layer["name"], [Bar(layer["bits_per_weight"], _told(layer), level)])
        for layer, level in kept
        if is_number(layer.get("bits_per_weight"))
    ]
    more = f" ({len(rows)} of {len(found)}, those that lose most)" if len(rows) < len(found) else ""
    coloured = "" if all(level == NO_LEVEL for level in levels) else "; darker: more sensitive"
    spots = [
        (layer["bits_per_weight"], layer["sqnr_db_local"], f"{layer['name']}: {_told(layer)}", level)
        for layer, level in shown
        if is_number(layer.get("bits_per_weight")) and is_number(layer.get("sqnr_db_local"))
    ]
    return section(
        "layers",
        "Layers",
        bars(f"Bits a weight of each layer{more}{coloured}; the reason on hover", "bits", rows),
        _keys(levels),
        points(
            "Accuracy against bits, layer by layer", "bits a weight", "output of the layer alone, dB", spots
        ),
        _assignments(report),
        html_table(f"{counted(len(found), 'layer')} with weights", COLUMNS, [_row(layer) for layer in found]),
        html_table("Tables whose rows are looked up", TABLES, map(_table_row, report.get("tables") or [])),
    )


def sensitivity_levels(found: Sequence[Layer]) -> list[str]:
    """A colour for each layer: by the logarithm of its sensitivity; NO_LEVEL where it is not known."""
    given = [layer.get("sensitivity") for layer in found]
    values = [float(v) if v is not None and is_number(v) and v > 0 else None for v in given]
    logs = [math.log10(v) for v in values if v is not None]
    if not logs:
        return [NO_LEVEL] * len(found)
    low, room = min(logs), max(max(logs) - min(logs), 1e-9)
    return [
        NO_LEVEL if v is None else f"level-{1 + min(LEVELS - 1, int(LEVELS * (math.log10(v) - low) / room))}"
        for v in values
    ]


def _keys(levels: Sequence[str]) -> str:
    if all(level == NO_LEVEL for level in levels):
        return ""
    names = {1: "least sensitive", LEVELS: "most sensitive"}
    shown = [(f"level-{i}", names.get(i, "")) for i in range(1, LEVELS + 1)]
    return keys([*shown, *([(NO_LEVEL, "not known")] if NO_LEVEL in levels else [])])


def _loss(layer: Layer) -> float:
    """Larger for a layer that loses more: by its share of the output's noise, else by its own."""
    for key in ("sqnr_db_end", "sqnr_db_local"):
        if is_number(layer.get(key)):
            return -float(layer[key])
    return -math.inf


def _told(layer: Layer) -> str:
    parts = [short_name(layer["weight_format"]), f"{layer['bits_per_weight']:.2f} bits"]
    if is_number(layer.get("sqnr_db_local")):
        parts.append(f"{layer['sqnr_db_local']:.1f} dB alone")
    if is_number(layer.get("sensitivity")):
        parts.append(f"sensitivity {layer['sensitivity']:.3g}")
    return "; ".join([*parts, *([layer["reason"]] if layer.get("reason") else [])])


def _row(layer: Layer) -> tuple[Any, ...]:
    keys_of = (
        "weight_granularity", "activation_format", "rounding", "rank", "bits_per_weight", "weight_bytes", "macs",
        "sqnr_db_local", "sqnr_db_end", "sensitivity", "energy_pj", "reason",
    )  # fmt: skip
    return layer["name"], layer["op"], short_name(layer["weight_format"]), *(layer.get(k) for k in keys_of)


def _table_row(table: Mapping[str, Any]) -> tuple[Any, ...]:
    shape = " x ".join(map(str, table["shape"]))
    keys_of = ("format", "bytes", "float_bytes", "sqnr_db", "reason")
    return table["name"], shape, *(table.get(k) for k in keys_of)


def _assignments(report: Mapping[str, Any]) -> str:
    """Whole assignments that were measured: what was decided stood among them."""
    found = [
        (key.removeprefix("measured_loss[").removesuffix("]"), value)
        for p in report["passes"]
        if p["name"] == "assign-formats"
        for key, value in p["metrics"].items()
        if key.startswith("measured_loss[") and is_number(value)
    ]
    rows = [(name, [Bar(value, f"{value:.4g}")]) for name, value in sorted(found, key=lambda f: f[1])]
    return bars("Whole assignments measured with all layers rounded: the loss of each", "loss", rows)
