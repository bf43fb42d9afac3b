"""The derived pages by their path below docs/."""

from collections.abc import Callable

from tests.documents.generated import (
    decisions_index,
    formats_page,
    functions_page,
    isa_page,
    operators_page,
    options_page,
    passes_page,
    recipes_index,
)

PAGES: dict[str, Callable[[], str]] = {
    "cim/isa.md": isa_page.page,
    "decisions/index.md": decisions_index.page,
    "recipes/index.md": recipes_index.page,
    "reference/formats.md": formats_page.page,
    "reference/functions.md": functions_page.page,
    "reference/operators.md": operators_page.page,
    "reference/options.md": options_page.page,
    "reference/passes.md": passes_page.page,
}
