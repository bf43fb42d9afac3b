"""Checks a machine description and reads its values: every number has a range, a unit in its key, and a source.

A file is complete: nothing is inherited and nothing has a default, so that each number of a report stands in one file,
with the source that it has there (docs/decisions/0021-machines-as-whole-files.md).
"""

import difflib
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from lpcompile.backends.cim.machine_sections import SECTIONS, Limits, stem_of, unit_of
from lpcompile.errors import MachineDescriptionError

SCHEMA = 1
MOST_BYTES = 256 << 10
MOST_TEXT = 500
HEADER = ("schema", "name", "summary")
ASSUMED = "assumed:"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)
_SHAPE_HINT = 'write { value = ..., source = "author2022, table 1" }, or a source that starts with "assumed:"'
_START_HINT = "'lpcompile machines reference --toml' prints a description to start from"


def read_toml(text: str, where: str) -> dict[str, Any]:
    """The tables of a description.

    Raises:
        MachineDescriptionError: it is too long, or no TOML.
    """
    if len(text) > MOST_BYTES:
        raise MachineDescriptionError("more than 256 KiB", where=where, hint=_START_HINT)
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a TOMLDecodeError, or a number of thousands of digits
        raise MachineDescriptionError(f"not TOML: {error}", where=where, hint=_START_HINT) from error


def read_header(data: Mapping[str, Any], where: str) -> tuple[str, str]:
    """Name and summary, after a look at all keys of the top level.

    Raises:
        MachineDescriptionError: an unknown key or section, a missing one, another schema, a name that is none.
    """
    for key in data:
        if key not in HEADER and key not in SECTIONS:
            near = _near(key, [*SECTIONS, *HEADER])
            raise MachineDescriptionError(f"{_bare(key)}: unknown section", where=where, hint=near)
    if data.get("schema") != SCHEMA or not isinstance(data["schema"], int) or data["schema"] is True:
        hint = f"write 'schema = {SCHEMA}' at the top"
        raise MachineDescriptionError(f"schema: must be {SCHEMA}", where=where, hint=hint)
    name, summary = (_text(data.get(key), key, where) for key in ("name", "summary"))
    if not _NAME.fullmatch(name):
        hint = "lower-case letters, digits, '-', '_' and '.', at most 64"
        raise MachineDescriptionError(f"name: {_shown(name)} is no name", where=where, hint=hint)
    return name, summary


def read_section(name: str, data: Mapping[str, Any], where: str) -> tuple[Any, dict[str, str]]:
    """The record of a section, and the sources of its values by full key.

    Raises:
        MachineDescriptionError: a key is unknown, missing, of the wrong type, out of range, or has no source.
    """
    table = data.get(name)
    if not isinstance(table, Mapping):
        what = "missing section" if table is None else "must be a section"
        raise MachineDescriptionError(f"{name}: {what}", where=where, hint=f"write [{name}]; {_START_HINT}")
    limits = {f.name: f.metadata["limits"] for f in fields(SECTIONS[name])}
    for key in table:
        if key not in limits:
            raise _unknown(name, key, list(limits), where)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for key, limit in limits.items():
        full = f"{name}.{key}"
        if key not in table:
            raise MachineDescriptionError(f"{full}: missing", where=where, hint=_missing_hint(full, limit))
        values[key], source = _value(table[key], full, limit, where)
        if source:
            sources[full] = source
    return SECTIONS[name](**values), sources


def _value(found: Any, key: str, limits: Limits, where: str) -> tuple[Any, str]:
    if limits.flag:
        if not isinstance(found, bool):
            hint = f"write '{key.rpartition('.')[2]} = true'"
            raise MachineDescriptionError(f"{key}: must be true or false", where=where, hint=hint)
        return found, ""
    if limits.text:
        text = _text(found, key, where)
        if limits.words and text not in limits.words:
            raise MachineDescriptionError(
                f"{key}: {_shown(text)} is not possible", where=where, hint=_near(text, limits.words)
            )
        return text, ""
    if not isinstance(found, Mapping):
        what = "no source" if _is_number(found) else "must be a number with a source"
        raise MachineDescriptionError(f"{key}: {what}", where=where, hint=_SHAPE_HINT)
    for inner in found:
        if inner not in ("value", "source"):
            hint = _near(inner, ("value", "source"))
            raise MachineDescriptionError(f"{key}.{_bare(inner)}: unknown key", where=where, hint=hint)
    for inner in ("value", "source"):
        if inner not in found:
            raise MachineDescriptionError(f"{key}.{inner}: missing", where=where, hint=_SHAPE_HINT)
    return _number(found["value"], key, limits, where), _source(found["source"], key, where)


def _number(found: Any, key: str, limits: Limits, where: str) -> float | int:
    unit = unit_of(key)
    if not _is_number(found):
        raise MachineDescriptionError(
            f"{key}: {_shown(found)} is no number",
            where=where,
            hint=f"a number{f' in {unit}' if unit else ''}",
        )
    if limits.whole and isinstance(found, float) and not found.is_integer():
        raise MachineDescriptionError(
            f"{key}: {_shown(found)} is not whole", where=where, hint="it counts things: a whole number"
        )
    if not (limits.low <= found <= limits.high):  # NaN and infinity as well
        hint = f"{limits.low:g} to {limits.high:g}{f' {unit}' if unit else ''}"
        raise MachineDescriptionError(f"{key}: {_shown(found)} is out of range", where=where, hint=hint)
    return int(found) if limits.whole else float(found)


def _source(found: Any, key: str, where: str) -> str:
    text = _text(found, f"{key}.source", where)
    if text.lower().startswith(ASSUMED) and text.removeprefix(ASSUMED).strip() in ("", text):
        hint = 'write "assumed: " in lower case, and what the assumption is'
        raise MachineDescriptionError(f"{key}.source: assumes nothing", where=where, hint=hint)
    return text


def _text(found: Any, key: str, where: str) -> str:
    if found is None:
        raise MachineDescriptionError(f"{key}: missing", where=where, hint=_START_HINT)
    if not isinstance(found, str) or not found.strip():
        raise MachineDescriptionError(f"{key}: must be text", where=where, hint="put it in quotes")
    if len(found) > MOST_TEXT or not found.isprintable():
        hint = f"one line of at most {MOST_TEXT} printable characters"
        raise MachineDescriptionError(f"{key}: not one short line", where=where, hint=hint)
    return found.strip()


def _unknown(section: str, key: str, known: list[str], where: str) -> MachineDescriptionError:
    message = f"{section}.{_bare(key)}: unknown key"
    same = [k for k in known if unit_of(k) and stem_of(k) in (key, stem_of(key))]
    like = [k for k in same if k[-1] == key[-1]] or same  # pJ for fJ, us for ns
    if same and key == stem_of(same[0]):
        hint = "write the unit in the key: " + " or ".join(f"'{section}.{k}'" for k in same)
    elif same:
        hint = f"the unit is {unit_of(like[0])}: write '{section}.{like[0]}' and convert the value"
    else:
        hint = _near(key, known, f"{section}.")
    return MachineDescriptionError(message, where=where, hint=hint)


def _missing_hint(key: str, limits: Limits) -> str:
    last = key.rpartition(".")[2]
    if limits.flag:
        return f"write '{last} = true' or '{last} = false'"
    if limits.text:
        return f"write '{last} = \"{limits.words[0] if limits.words else '...'}\"'"
    return f"write '{last} = {{ value = ..., source = \"...\" }}'; nothing is inherited"


def _near(key: str, known: Any, prefix: str = "") -> str:
    near = difflib.get_close_matches(key, list(known), n=1)
    return f"did you mean '{prefix}{near[0]}'?" if near else f"there are: {', '.join(known)}"


def _is_number(found: Any) -> bool:
    return isinstance(found, (int, float)) and not isinstance(found, bool)


def _shown(found: Any) -> str:
    if isinstance(found, float) and not math.isfinite(found):
        return str(found)
    if isinstance(found, int) and abs(found) > 1 << 64:
        return "a huge number"  # str() refuses thousands of digits
    text = f"{found:g}" if isinstance(found, float) else repr(found) if isinstance(found, str) else str(found)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _bare(key: str) -> str:
    return key if key.isprintable() and len(key) <= 40 else _shown(key)
