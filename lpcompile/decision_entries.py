"""The text of one entry of `decisions.toml`, and the mark by which a later edit of it is seen.

A mark is a digest of what the entry decides and one of its reason; hashes of codes take no part. An entry that decides
something else than it was written with, under the reason it was written with, is the user's.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, replace
from types import MappingProxyType
from typing import Any, TypeVar

from lpcompile.errors import DecisionsError
from lpcompile.plan import (
    ActivationPlan,
    LayerPlan,
    QuantPlan,
    RecurrentPlan,
    RequantPlan,
    TablePlan,
    WeightPlan,
)

WEIGHT_KEYS = tuple(f.name for f in fields(WeightPlan))
SIDE_KEYS = ("rank", "side_path", "side_lowering")  # written where there is one
ACTIVATION_KEYS = tuple(f.name for f in fields(ActivationPlan))
REQUANT_KEYS = ("multiplier", "reason")
TABLE_KEYS = ("format", "codes_sha256", "reason")
RECURRENT_KEYS = ("kernel", "codes_sha256", "reason")
MARKED = ("layers", "activations", "requants", "tables", "recurrent")
SHORT = {RequantPlan: REQUANT_KEYS, TablePlan: TABLE_KEYS, RecurrentPlan: RECURRENT_KEYS}
BY_USER = "written by the user"
_DIGITS = 8
Marks = Mapping[str, Mapping[str, str]]
Entry = TypeVar("Entry", LayerPlan, ActivationPlan, RequantPlan, TablePlan, RecurrentPlan)


def toml(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, (int, bool)):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(toml(v) for v in value) + "]"
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def entry_lines(entry: LayerPlan | ActivationPlan | RequantPlan | TablePlan | RecurrentPlan) -> list[str]:
    """The lines of an entry, `reason` the last but of an activation's."""
    for kind, keys in SHORT.items():
        if isinstance(entry, kind):
            return [f"{key} = {toml(getattr(entry, key))}" for key in keys]
    assert isinstance(entry, (LayerPlan, ActivationPlan))
    if isinstance(entry, ActivationPlan):
        known = [key for key in ACTIVATION_KEYS if key != "start" or entry.start]
        return [f"{key} = {toml(getattr(entry, key))}" for key in known]
    lines = [f"kernel = {toml(entry.kernel.value)}"]
    lines += [
        f"{key} = {toml(getattr(entry.weight, key))}"
        for key in WEIGHT_KEYS
        if getattr(entry.weight, key) not in ((), "") and (entry.weight.rank or key not in SIDE_KEYS)
    ]
    read = ("float8_input",) if entry.float8_input else ()
    return [*lines, *(f"{key} = {toml(getattr(entry, key))}" for key in (*read, "codes_sha256", "reason"))]


def mark_of(entry: LayerPlan | ActivationPlan | RequantPlan | TablePlan | RecurrentPlan) -> str:
    """16 hex digits: 8 of what it decides, 8 of its reason."""
    decides = [line for line in entry_lines(entry) if not line.startswith(("codes_sha256 =", "reason ="))]
    return _digest("\n".join(decides)) + _digest(entry.reason)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def mark_lines(plan: QuantPlan) -> list[str]:
    """The tables of marks of a plan."""
    lines: list[str] = []
    for kind in MARKED:
        if entries := getattr(plan, kind):
            lines += ["", f"[unedited.{kind}]"]
            lines += [f"{toml(name)} = {toml(mark_of(entry))}" for name, entry in entries.items()]
    return ["", "# by these an edit is seen, and its reason says so", *lines[1:]] if lines else []


def read_marks(table: Mapping[str, Any]) -> Marks:
    """Marks by kind and name.

    Raises:
        DecisionsError: the table has another form.
    """
    for kind, marks in table.items():
        if kind not in MARKED or not isinstance(marks, dict):
            raise DecisionsError(
                f"'unedited.{kind}' is no table of marks", hint="leave [unedited] as it was written, or out"
            )
    return {kind: {str(k): str(v) for k, v in marks.items()} for kind, marks in table.items()}


def with_reasons_of_user(plan: QuantPlan, marks: Marks) -> QuantPlan:
    """The plan whose edited entries say so; without any marks none can be told, and all stay as they are.

    A reason that was edited, too, is the user's own and stays; entries without a mark are new.
    """
    if not marks:
        return plan
    changed: dict[str, Any] = {
        kind: MappingProxyType(
            {name: _told(entry, marks.get(kind, {}).get(name, "")) for name, entry in entries.items()}
        )
        for kind in MARKED
        if (entries := getattr(plan, kind))
    }
    return replace(plan, **changed)


def _told(entry: Entry, mark: str) -> Entry:
    if not mark:
        return entry if entry.reason else replace(entry, reason=BY_USER)
    decides, why = mark_of(entry)[:_DIGITS], mark_of(entry)[_DIGITS:]
    edited = decides != mark[:_DIGITS] and (why == mark[_DIGITS:] or not entry.reason)
    return replace(entry, reason=BY_USER) if edited else entry
