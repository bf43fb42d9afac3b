"""`report.json`: one document, schema 1. [architecture 2]."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lpcompile.errors import InputError

SCHEMA = 1


def to_json(report: Mapping[str, Any]) -> str:
    """The report as text; keys keep their order, NaN and infinity become null."""
    return json.dumps(plain(report), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read_report(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a `report.json`.

    Raises:
        InputError: not readable, not a report, or of another schema.
    """
    where = os.fspath(path)
    hint = "give the report.json that 'lpcompile MODEL' wrote"
    try:
        found = json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=where, hint=hint) from error
    except ValueError as error:
        raise InputError(f"not JSON: {error}", where=where, hint=hint) from error
    if not isinstance(found, dict) or "schema" not in found:
        raise InputError("not a report", where=where, hint=hint)
    if found["schema"] != SCHEMA:
        raise InputError(
            f"schema {found['schema']} is not known, only {SCHEMA}",
            where=where,
            hint="read it with the version of lpcompile that wrote it",
        )
    return found


def plain(value: Any) -> Any:
    """The value in JSON's own types."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, bool) or value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if hasattr(value, "item"):  # numpy scalars
        return plain(value.item())
    return str(value)
