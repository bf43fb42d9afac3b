"""A sensitivity document for the terminal, as CSV and as charts."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lpcompile.counted import counted
from lpcompile.report import svg
from lpcompile.report.table import table

NAME_MOST, BAR_MOST = 44, 28
UNITS = {
    "kl": "KL to the float model, nats a sample",
    "sampled": "KL to the float model, nats a sample",
    "labels": "empirical Fisher of the cross-entropy, a sample",
    "probe": "half the output noise over signal power",
    "logits": "half the noise of logit differences over their signal power",
    "mse": "half the squared error of the outputs, a sample",
}


def text_of(document: Mapping[str, Any]) -> str:
    """Tables of layers and activations with bars, rank correlations and times."""
    lines = [headline(document), ""]
    lines += _section(document["layers"], "layer", ("op", "macs"))
    if document["activations"]:
        lines += ["", *_section(document["activations"], "activation", ())]
    for key, what in (("correlation", "layers"), ("activation_correlation", "activations")):
        columns = document[key]["columns"]
        if len(columns) > 1:
            rows = [
                [c, *map(_rounded, row)] for c, row in zip(columns, document[key]["spearman"], strict=True)
            ]
            lines += ["", table((f"rank correlation, {what}", *columns), rows)]
    times = ", ".join(f"{k} {v:.1f} s" for k, v in document["seconds"].items())
    lines += ["", f"time: {times}; {document['total_seconds']:.1f} s in all"]
    return "\n".join(lines)


def headline(document: Mapping[str, Any]) -> str:
    """What was measured, on what, in which unit."""
    loss = document["loss"]
    said = "" if loss is None else f"; loss {loss} ({UNITS[loss]})"
    metric = document.get("metric")
    measured = "" if metric is None else f"; {metric['function']} of the float model {metric['float']:.4g}"
    activations = document["activation_format"]
    both = "" if activations is None else f", activations {activations}"
    return (
        f"{counted(document['samples'], 'sample')}, weights {document['format']} per {document['granularity']}{both}, "
        f"one at a time{said}{measured}"
    )


def _section(rows: Sequence[Mapping[str, Any]], what: str, facts: Sequence[str]) -> list[str]:
    if not rows:
        return []
    columns = list(rows[0]["scores"])
    first = [r["scores"][columns[0]] for r in rows]
    lengths = bar_lengths(first, BAR_MOST)
    cells = [
        [
            shortened(r["name"]),
            *(r[f] for f in facts),
            *(r["scores"][c] for c in columns),
            "#" * n,
        ]
        for r, n in zip(rows, lengths, strict=True)
    ]
    return [table((what, *facts, *columns, f"{columns[0]} (log)"), cells)]


def bar_lengths(values: Sequence[float], most: int) -> list[int]:
    """Lengths of bars on a logarithmic axis from a tenth of the least positive value; 0 for what is not positive."""
    positive = [v for v in values if v > 0 and math.isfinite(v)]
    if not positive:
        return [0] * len(values)
    low, high = math.log10(min(positive)) - 0.1, math.log10(max(positive))
    span = max(high - low, 1e-9)
    return [max(1, round((math.log10(v) - low) / span * most)) if v > 0 else 0 for v in values]


def shortened(name: str) -> str:
    """A name that fits the table: its end, which differs more often than its start."""
    return name if len(name) <= NAME_MOST else "..." + name[3 - NAME_MOST :]


def csv_of(document: Mapping[str, Any]) -> str:
    """One row a layer and activation, with all scores and their standard errors."""
    columns = list(
        dict.fromkeys(c for k in ("layers", "activations") for r in document[k] for c in r["scores"])
    )
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    errors = [f"{c} standard error" for c in columns]
    writer.writerow(["kind", "name", "op", "weight_shape", "macs", "weight_error", *columns, *errors])
    for kind, key in (("weights", "layers"), ("activation", "activations")):
        for r in document[key]:
            shape = "x".join(map(str, r.get("weight_shape", ())))
            facts = [kind, r["name"], r.get("op", ""), shape, r.get("macs", ""), r.get("weight_error", "")]
            scores = [r["scores"].get(c, "") for c in columns]
            writer.writerow([*facts, *scores, *(r["standard_errors"].get(c, "") for c in columns)])
    return out.getvalue()


def bar_chart(document: Mapping[str, Any]) -> str:
    """The layers by their first score as SVG."""
    rows = document["layers"]
    column = next(iter(rows[0]["scores"]))
    loss = document["loss"]
    unit = f"{column}; {UNITS[loss]}" if loss is not None and not column.startswith("measured") else column
    items = [(r["name"], r["scores"][column], r["standard_errors"][column]) for r in rows]
    return svg.bars(f"Sensitivity of weights, {document['format']} one layer at a time", unit, items)


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 3)
