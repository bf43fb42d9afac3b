"""What the machines' constants say of published chips: the table of `docs/cim/energy.md`, derived anew."""

from tests.bench.bench_table import Bench, Table
from tests.bench.cim_validation.page import all_points


def measure(bench: Bench) -> Table:
    """Every point of validation; the kind says what a row is worth."""
    made = Table(
        "published values",
        ("machine", "what", "predicted", "published", "error", "kind", "calibrated or assumed"),
    )
    for p in all_points():
        made.rows.append(
            (
                p.machine,
                p.what,
                f"{p.predicted:.4g}",
                f"{p.published:.4g}",
                f"{100 * p.error:+.1f} %",
                p.kind,
                p.note,
            )
        )
    made.notes.append(
        "input: fitted to this very value; accounting: the same constants went in; predicted: nothing was fitted"
    )
    return made
