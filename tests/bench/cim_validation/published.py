"""Published values with their sources, as data: `published.toml`."""

import tomllib
from functools import cache
from pathlib import Path
from typing import Any


@cache
def _tables() -> dict[str, Any]:
    return tomllib.loads((Path(__file__).parent / "published.toml").read_text(encoding="utf-8"))


def published(section: str, key: str) -> float:
    """A published value."""
    return float(_tables()[section][key]["value"])


def sources() -> dict[str, str]:
    """The source of every published value, by full key."""
    return {f"{s}.{k}": entry["source"] for s, keys in _tables().items() for k, entry in keys.items()}
