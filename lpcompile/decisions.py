"""`decisions.toml`: the plan as text, with hashes of model, data and codes; edit it and replay it with `--decisions`.

It holds no time, no path and no command line, and the same decisions give the same bytes.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from lpcompile.decision_entries import (
    ACTIVATION_KEYS,
    RECURRENT_KEYS,
    REQUANT_KEYS,
    TABLE_KEYS,
    WEIGHT_KEYS,
    entry_lines,
    mark_lines,
    read_marks,
    toml,
    with_reasons_of_user,
)
from lpcompile.errors import DecisionsError, FormatError
from lpcompile.formats.base import resolve
from lpcompile.formats.planned import format_of
from lpcompile.plan import (
    DUAL_SCALES,
    FLOAT8_FORMAT,
    MERGED,
    ROUNDINGS,
    SIDE_LOWERINGS,
    ActivationPlan,
    Kernel,
    LayerPlan,
    NormPlan,
    QuantPlan,
    RecurrentPlan,
    RequantPlan,
    TablePlan,
    WeightPlan,
)
from lpcompile.quant import dual_rounding, row_table
from lpcompile.quant.double_quantization import check_mode
from lpcompile.quant.fit import LIMITED_RULES, RULES
from lpcompile.quant.low_rank import METHODS
from lpcompile.quant.multipliers import multiplier_bits
from lpcompile.quant.side_path import MOST_RANK

SCHEMA = 1
MOST_BYTES = 64 << 20
WHERE_GIVEN = (
    "input_values",
    "mirror_samples",
    "reduce_range",
)  # of the header: written where there are some
HEADER = ("model_sha256", "data_sha256", "pipeline", "recipe", "target", "seed", "emit", *WHERE_GIVEN)
LAYER_KEYS = ("kernel", *WEIGHT_KEYS, "float8_input", "codes_sha256", "reason")
NORM_KEYS = ("constants_sha256", "reason")
RECURRENT_KERNELS = (Kernel.DYNAMIC.value, Kernel.WEIGHT_ONLY.value)
SCALE_FORMATS = ("float32", "ufloat8_e4m4")
_GRANULARITY = re.compile(r"tensor|channel|group(?:[2-9]|[1-9]\d{1,6})", re.ASCII)
_HINT = "compile once without --decisions and edit the decisions.toml it writes"


@dataclass(frozen=True)
class Decisions:
    """A plan and what it was made for.

    Attributes:
        header: by the names in HEADER; missing ones are "".
        versions: of the packages that took part.
        plan: without codes; they are rounded again.
    """

    header: Mapping[str, str]
    versions: Mapping[str, str]
    plan: QuantPlan = field(default_factory=QuantPlan)


def write_decisions(decisions: Decisions) -> str:
    """The text of a decisions file."""
    lines = [
        "# lpcompile decisions: edit and replay with --decisions FILE",
        f"schema = {SCHEMA}",
        "",
        "[made_for]",
    ]
    known = [key for key in HEADER if decisions.header.get(key) or key not in WHERE_GIVEN]
    lines += [f"{key} = {toml(decisions.header.get(key, ''))}" for key in known]
    lines += ["", "[versions]", *(f"{key} = {toml(v)}" for key, v in sorted(decisions.versions.items()))]
    for kind in ("layers", "activations"):
        lines += _entries(decisions.plan, kind)
    for name, norm in decisions.plan.norms.items():
        lines += ["", f"[norms.{toml(name)}]", *(f"{key} = {toml(getattr(norm, key))}" for key in NORM_KEYS)]
    for kind in ("requants", "tables", "recurrent"):
        lines += _entries(decisions.plan, kind)
    if decisions.plan.elementwise:
        lines += ["", "[elementwise]"]
        lines += [f"{toml(name)} = {toml(reason)}" for name, reason in decisions.plan.elementwise.items()]
    return "\n".join([*lines, *mark_lines(decisions.plan)]) + "\n"


def _entries(plan: QuantPlan, kind: str) -> list[str]:
    found = getattr(plan, kind).items()
    return [line for n, entry in found for line in ("", f"[{kind}.{toml(n)}]", *entry_lines(entry))]


def read_decisions(path: Path) -> Decisions:
    """Read a decisions file.

    Raises:
        DecisionsError: it cannot be read, is not TOML, or has a key or value that means nothing.
    """
    where = str(path)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise DecisionsError("a decisions file of more than 64 MiB", where=where, hint=_HINT)
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise DecisionsError(
            f"cannot read the decisions: {reason}", where=where, hint="check the path"
        ) from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise DecisionsError(f"not TOML: {error}", where=where, hint=_HINT) from error
    try:
        return _parse(data)
    except (DecisionsError, FormatError) as error:
        raise DecisionsError(error.message, where=where, hint=error.hint or _HINT) from error


def _parse(data: dict[str, Any]) -> Decisions:
    kinds = ("layers", "activations", "norms", "requants", "tables", "recurrent", "elementwise")
    parts = ("made_for", "versions", *kinds, "unedited")
    _only(data, ("schema", *parts), "the file")
    if data.get("schema") != SCHEMA:
        raise DecisionsError(f"schema {data.get('schema')!r}, not {SCHEMA}", hint=_HINT)
    tables = {}
    for key in parts:
        tables[key] = data.get(key, {})
        if not isinstance(tables[key], dict):
            raise DecisionsError(f"'{key}' is no table", hint=_HINT)
    _only(tables["made_for"], HEADER, "made_for")
    layers = {name: _layer(name, _table(name, t)) for name, t in tables["layers"].items()}
    activations = {name: _activation(name, _table(name, t)) for name, t in tables["activations"].items()}
    elementwise = {name: str(reason) for name, reason in tables["elementwise"].items()}
    norms = {name: _norm(name, _table(name, t)) for name, t in tables["norms"].items()}
    requants = {name: _requant(name, _table(name, t)) for name, t in tables["requants"].items()}
    row_tables = {name: _row_table(name, _table(name, t)) for name, t in tables["tables"].items()}
    plan = QuantPlan(
        MappingProxyType(layers),
        MappingProxyType(activations),
        MappingProxyType(elementwise),
        MappingProxyType(norms),
        MappingProxyType(requants),
        MappingProxyType(row_tables),
        MappingProxyType({n: _recurrent(n, _table(n, t)) for n, t in tables["recurrent"].items()}),
    )
    plan = with_reasons_of_user(plan, read_marks(tables["unedited"]))
    header = {k: str(v) for k, v in tables["made_for"].items()}
    if (reduced := header.get("reduce_range", "")) not in ("", "on"):
        raise DecisionsError(f"reduce_range = {reduced!r}", hint='it is "on", or left out')
    return Decisions(header, {k: str(v) for k, v in tables["versions"].items()}, plan)


def _table(name: str, table: Any) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise DecisionsError(f"'{name}' is no table", hint=_HINT)
    return table


def _only(table: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in known:
            raise DecisionsError(f"unknown key '{key}' in {where}", hint=f"keys are: {', '.join(known)}")


def _layer(name: str, table: dict[str, Any]) -> LayerPlan:
    _only(table, LAYER_KEYS, f"layer '{name}'")
    try:
        kernel = Kernel(table.get("kernel", "float"))
    except ValueError as error:
        kinds = ", ".join(k.value for k in Kernel)
        raise DecisionsError(
            f"layer '{name}': no kernel '{table['kernel']}'", hint=f"kernels are: {kinds}"
        ) from error
    books = table.get("codebooks", [])
    if not isinstance(books, list):
        raise DecisionsError(f"layer '{name}': 'codebooks' is no list", hint=_HINT)
    for book in books:
        resolve(f"lut4:{book}")
    rank = table.get("rank", 0)
    if isinstance(rank, bool) or not isinstance(rank, int) or not 0 <= rank <= MOST_RANK:
        raise DecisionsError(
            f"layer '{name}': rank {rank!r} is no rank", hint=f"ranks are whole numbers, 0 to {MOST_RANK}"
        )
    given = {k: str(table[k]) for k in WEIGHT_KEYS if k in table and k not in ("codebooks", "rank")}
    if rank:
        given.setdefault("side_path", METHODS[0])
        given.setdefault("side_lowering", MERGED)
    weight = WeightPlan(**given, codebooks=tuple(str(b) for b in books), rank=rank)
    if kernel is not Kernel.FLOAT:
        format_of(weight.format)
        _check_words(name, weight)
        _check_precisions(name, kernel, weight)
    read = table.get("float8_input", 0.0)
    if not _is_power_of_two(read) and read != 0:
        raise DecisionsError(f"layer '{name}': float8_input {read!r} is no power of two", hint=_HINT)
    codes, reason = (str(table.get(key, "")) for key in ("codes_sha256", "reason"))
    return LayerPlan(kernel, weight, codes_sha256=codes, float8_input=float(read), reason=reason)


def _is_power_of_two(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and bool(np.frexp(value)[0] == 0.5)


def _check_words(name: str, weight: WeightPlan) -> None:
    dual = weight.scale_format == DUAL_SCALES
    for key, known in (
        ("scale_rule", dual_rounding.SCALE_RULES if dual else (*RULES, *LIMITED_RULES)),
        ("scale_format", (*SCALE_FORMATS, DUAL_SCALES)),
        ("rounding", dual_rounding.ROUNDINGS if dual else ROUNDINGS),
        ("side_path", METHODS if weight.rank else ("",)),
        ("side_lowering", SIDE_LOWERINGS if weight.rank else ("",)),
    ):
        value = getattr(weight, key)
        if value not in known:
            raise DecisionsError(
                f"layer '{name}': no {key} '{value}'", hint=f"it is one of: {', '.join(known)}"
            )
    if weight.double_quantized:
        try:
            check_mode(weight.double_quantized)
        except FormatError as error:
            raise DecisionsError(f"layer '{name}': {error.message}", hint=error.hint) from error
    if not _GRANULARITY.fullmatch(weight.granularity):
        raise DecisionsError(
            f"layer '{name}': no granularity '{weight.granularity}'",
            hint="it is 'tensor', 'channel', or 'group' and a number of inputs, as 'group32'",
        )


def _check_precisions(name: str, kernel: Kernel, weight: WeightPlan) -> None:
    """Codes that are read as FP8, and FP8 numbers, have one form each, and their kernel no other codes."""
    if weight.scale_format != DUAL_SCALES:
        if kernel is Kernel.FLOAT8:
            raise DecisionsError(
                f"layer '{name}': kernel '{kernel}' needs scale_format '{DUAL_SCALES}'", hint=_HINT
            )
        return
    grouped = weight.granularity.startswith("group")
    narrow = weight.format == "int4" and grouped
    wide = weight.format == FLOAT8_FORMAT and weight.granularity == "channel"
    expanded = kernel in (Kernel.FLOAT8, Kernel.WEIGHT_ONLY)
    if not (narrow or (wide and expanded)):
        raise DecisionsError(
            f"layer '{name}': scales in {DUAL_SCALES} are those of int4 codes in groups that are read as FP8",
            hint='format = "int4", granularity = "group64"; where kernel is "float8" or "weight-only" also FP8 itself: '
            f'format = "{FLOAT8_FORMAT}", granularity = "channel"',
        )


def _activation(name: str, table: dict[str, Any]) -> ActivationPlan:
    _only(table, ACTIVATION_KEYS, f"activation '{name}'")
    fmt = str(table.get("format", "uint8"))
    if fmt not in ("uint8", "uint4", FLOAT8_FORMAT):
        raise DecisionsError(
            f"activation '{name}': no format '{fmt}'",
            hint=f"activations are uint8 or uint4, in FP8 {FLOAT8_FORMAT}",
        )
    scale, zero = table.get("scale"), table.get("zero_point")
    for key, number in (("scale", scale), ("start", table.get("start", 1.0))):
        if (
            isinstance(number, bool)
            or not isinstance(number, (int, float))
            or not 0 < float(np.float32(number)) < np.inf
        ):
            raise DecisionsError(f"activation '{name}': {key} {number!r} is no positive number", hint=_HINT)
    assert scale is not None
    if fmt == FLOAT8_FORMAT and np.frexp(scale)[0] != 0.5:
        raise DecisionsError(f"activation '{name}': scale {scale!r} is no power of two", hint=_HINT)
    top = 0 if fmt == FLOAT8_FORMAT else (1 << int(fmt.removeprefix("uint"))) - 1
    if isinstance(zero, bool) or not isinstance(zero, int) or not 0 <= zero <= top:
        raise DecisionsError(
            f"activation '{name}': zero point {zero!r} is no code of {fmt}", hint=f"codes are 0..{top}"
        )
    texts = {k: str(table.get(k, "")) for k in ("tie_group", "rule", "reason")}
    start = float(np.float32(table.get("start", 0.0)))
    return ActivationPlan(
        fmt, float(np.float32(scale)), zero, texts["tie_group"] or name, texts["rule"], texts["reason"], start
    )


def _norm(name: str, table: dict[str, Any]) -> NormPlan:
    _only(table, NORM_KEYS, f"norm '{name}'")
    return NormPlan(
        constants_sha256=str(table.get("constants_sha256", "")), reason=str(table.get("reason", ""))
    )


def _requant(name: str, table: dict[str, Any]) -> RequantPlan:
    _only(table, REQUANT_KEYS, f"requantisation '{name}'")
    multiplier = str(table.get("multiplier", ""))
    if not multiplier:
        raise DecisionsError(f"requantisation '{name}' names no multiplier", hint=_HINT)
    try:
        multiplier_bits(multiplier)
    except FormatError as error:
        raise DecisionsError(f"requantisation '{name}': {error.message}", hint=error.hint) from error
    return RequantPlan(multiplier, str(table.get("reason", "")))


def _row_table(name: str, table: dict[str, Any]) -> TablePlan:
    _only(table, TABLE_KEYS, f"table '{name}'")
    found = {key: str(table.get(key, "")) for key in TABLE_KEYS}
    if found["format"] not in row_table.FORMATS:
        raise DecisionsError(
            f"table '{name}': no format '{found['format']}'",
            hint=f"it is one of: {', '.join(row_table.FORMATS)}",
        )
    return TablePlan(found["format"], codes_sha256=found["codes_sha256"], reason=found["reason"])


def _recurrent(name: str, table: dict[str, Any]) -> RecurrentPlan:
    _only(table, RECURRENT_KEYS, f"recurrent layer '{name}'")
    found = {key: str(table.get(key, "")) for key in RECURRENT_KEYS}
    if found["kernel"] not in RECURRENT_KERNELS:
        raise DecisionsError(
            f"recurrent layer '{name}': no kernel '{found['kernel']}'",
            hint=f"kernels are: {', '.join(RECURRENT_KERNELS)}; take the entry out, and it stays float",
        )
    return RecurrentPlan(Kernel(found["kernel"]), codes_sha256=found["codes_sha256"], reason=found["reason"])
