"""What `lpcompile formats` knows, on one page."""

import numpy as np

from lpcompile.formats.base import NumberFormat, description, format_names, resolve
from lpcompile.formats.group import has_group_table
from lpcompile.registry import TARGETS, target
from tests.documents.generated.markdown import NOTE, joined, table


def page() -> str:
    """docs/reference/formats.md."""
    rows = [_row(resolve(name)) for name in format_names()]
    small = [resolve(n) for n in format_names() if resolve(n).bits == 4]
    return joined(
        "# Number formats",
        f"{NOTE} `lpcompile formats NAME` prints every code of one.",
        "The *int8 image* is what a format's values are in integer arithmetic: a layer in such a format runs as an 8-bit one. "
        "*exact*: the values are multiples of one step. *rounded*: the compiled layer is defined by the rounded image. "
        "*none*: the weights become floats when the model is loaded. *Groups*: takes integer group scales.",
        table(
            ("format", "bits", "values", "largest", "int8 image", "groups", "integer layers on", "what"), rows
        ),
        "Further names: `posit4es1` and the like are posit(n, es); `lut4` has a table of 16 values learned for each layer, and is "
        "stored as `lut4:` and 32 hexadecimal digits, the 16 int8 values in code order.",
        "## Values of the 4-bit formats",
        "From code 0 on; `-`: a reserved code.",
        table(("format", "values by code"), [(f"`{f.name}`", _values(f)) for f in small]),
    )


def _row(fmt: NumberFormat) -> tuple[object, ...]:
    image = "none" if fmt.image() is None else "exact" if fmt.image_exact else "rounded"
    groups = "yes" if has_group_table(fmt) else ""
    where = ", ".join(f"`{name}`" for name in TARGETS if target(name).supports("Conv", fmt).yes)
    return (
        f"`{fmt.name}`",
        fmt.bits,
        len(fmt.grid()),
        f"{fmt.max:g}",
        image,
        groups,
        where,
        description(fmt.name),
    )


def _values(fmt: NumberFormat) -> str:
    return " ".join("-" if np.isnan(v) else f"{v:.4g}" for v in fmt.table())
