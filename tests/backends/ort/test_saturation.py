"""Which layers need a CPU that sums products exactly."""

from typing import Any

import pytest

from lpcompile.backends.ort.saturation import SOURCE
from tests.networks import compiled_toy

TOY = "residual_add"


@pytest.mark.parametrize(
    ("options", "layers"),
    [
        ({"recipe": "int8"}, "2 of 2 integer layers"),
        ({"recipe": "int8", "weight_format": "int7"}, ""),
        ({"recipe": "w4a8", "weight_format": "fixp4", "group_size": 0}, ""),
        ({"recipe": "w4a8", "weight_format": "nf4", "group_size": 0}, "2 of 2 integer layers"),
        ({"recipe": "fp32"}, ""),
    ],
)
def test_products_that_may_leave_int16_are_named(options: dict[str, Any], layers: str) -> None:
    found = [a["what"] for a in compiled_toy(TOY, **options).report["assumptions"] if a["source"] == SOURCE]
    assert len(found) == bool(layers)
    assert all(layers in what for what in found)
