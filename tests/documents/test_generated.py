"""Derived pages are those of the code, and leave nothing out."""

import re

import pytest

from lpcompile.runtime.reference_call import DYADIC_ELEMENTWISE, FLOAT8_VALUES, FLOAT8_WEIGHTS, LAYERS
from tests.documents.blocks import read
from tests.documents.generated.pages import PAGES


@pytest.mark.parametrize("name", PAGES)
def test_a_derived_page_is_up_to_date(name: str) -> None:
    assert read(f"docs/{name}") == PAGES[name](), "run: python -m tests.documents.generated"


def test_every_family_of_functions_has_a_body_on_the_page() -> None:
    headings = re.findall(r"^### (\w+)$", read("docs/reference/functions.md"), re.MULTILINE)
    families = (*LAYERS, *DYADIC_ELEMENTWISE, FLOAT8_WEIGHTS, FLOAT8_VALUES)
    shown = {
        re.sub(r"(Conv|Gemm|MatMul)$", "", f) for f in families if any(h.startswith(f) for h in headings)
    }
    assert {re.sub(r"(Conv|Gemm|MatMul)$", "", f) for f in families} == shown
