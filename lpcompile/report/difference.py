"""What two compilations of a model decided and reached differently, from their reports alone."""

from collections.abc import Iterator, Mapping
from typing import Any

from lpcompile.errors import InputError

DECISIONS = (
    *("weight_format", "weight_granularity", "activation_format", "rounding", "rank"),
    "reason",
)
FIGURES = ("bits_per_weight", "weight_bytes", "acev2", "energy_pj", "sqnr_db_local")
SETTINGS = (
    *(("model", "sha256"), ("target",), ("recipe",), ("created_with", "seed")),
    ("machine", "name"),
)
# what is compared as a whole: (name, where it stands in a report)
WHOLE = (
    ("sqnr_db", ("quality", "sqnr_db_output")),
    ("top1_agreement", ("quality", "top1_agreement")),
    ("kl", ("quality", "kl")),
    ("max_abs_error", ("quality", "max_abs_error")),
    ("metric", ("metric", "compiled")),
    ("bits_per_weight", ("totals", "bits_per_weight")),
    ("weight_bytes", ("totals", "weight_bytes")),
    ("file_bytes", ("totals", "file_bytes")),
    ("ace", ("totals", "ace")),
    ("acev2", ("totals", "acev2")),
    ("energy45nm_pj", ("totals", "energy45nm_pj")),
    ("energy_pj", ("totals", "energy_pj")),
    ("latency_ns", ("totals", "latency_ns")),
    ("latency_ms", ("verification", "latency_ms", "compiled")),
)


def difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, figures of the whole, and layers that differ.

    Args:
        a: a report of schema 1.
        b: another one.

    Returns:
        settings: [{name, a, b}] that differ; whole: [{name, a, b}] that either knows; layers: [{name, decided, a, b}]
        in the order of `a`, a and b by the names of DECISIONS and FIGURES, `decided` those of DECISIONS that differ;
        same: how many layers are decided alike; tables: [{name, a, b}], formats of those that are stored differently,
        None for one that stays float; only_in_a, only_in_b: names of layers.

    Raises:
        InputError: the reports are of different models.
    """
    first, second = _layers(a), _layers(b)
    common = [name for name in first if name in second]
    if (first or second) and not common:
        raise InputError(
            "the reports have no layer in common",
            hint="compare two compilations of one model",
        )
    layers = [row for name in common if (row := _layer(name, first[name], second[name]))["decided"]]
    return {
        "settings": list(_settings(a, b)),
        "whole": list(_whole(a, b)),
        "layers": layers,
        "same": len(common) - len(layers),
        "tables": list(_tables(a, b)),
        "only_in_a": [n for n in first if n not in second],
        "only_in_b": [n for n in second if n not in first],
    }


def _layers(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {layer["name"]: layer for layer in report["layers"]}


def _tables(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    first, second = ({t["name"]: t["format"] for t in r.get("tables") or ()} for r in (a, b))
    for name in dict.fromkeys([*first, *second]):
        yield from _pair(name, first.get(name), second.get(name), equal=False)


def _layer(name: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    keys = [k for k in (*DECISIONS, *FIGURES) if k in a or k in b]
    first, second = ({k: row.get(k) for k in keys} for row in (a, b))
    decided = [k for k in DECISIONS if first.get(k) != second.get(k) and k != "reason"]
    return {"name": name, "decided": decided, "a": first, "b": second}


def _settings(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for path in SETTINGS:
        yield from _pair(".".join(path), _at(a, path), _at(b, path), equal=False)
    options = [_at(r, ("created_with", "options")) or {} for r in (a, b)]
    for key in sorted({*options[0], *options[1]} - {"recipe", "force", "seed"}):
        yield from _pair(f"options.{key}", options[0].get(key), options[1].get(key), equal=False)
    versions = [_at(r, ("created_with", "versions")) or {} for r in (a, b)]
    for key in sorted({*versions[0], *versions[1]}):
        yield from _pair(f"versions.{key}", versions[0].get(key), versions[1].get(key), equal=False)


def _whole(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name, path in WHOLE:
        yield from _pair(name, _at(a, path), _at(b, path), equal=True)


def _pair(name: str, a: Any, b: Any, *, equal: bool) -> Iterator[dict[str, Any]]:
    """A row, where somebody knows a value; rows of equal values only with `equal`."""
    if (a is not None or b is not None) and (equal or a != b):
        yield {"name": name, "a": a, "b": b}


def _at(report: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    found: Any = report
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found
