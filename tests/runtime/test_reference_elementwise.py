"""Elementwise work of the numpy reference at the ends of its range."""

import warnings

import numpy as np
import pytest

from lpcompile.runtime.reference_call import Call
from lpcompile.runtime.reference_elementwise import elementwise_outputs


@pytest.mark.parametrize(("family", "lowest", "highest"), [("Sigmoid", 0, 255), ("Elu", 127, 255)])
def test_wide_ranges_saturate_without_a_warning(family: str, lowest: int, highest: int) -> None:
    """Steps of 4 reach from -512 to 508, where float32 has no exp."""
    codes = np.array([0, 255], np.uint8)
    scale = 1 / 255 if family == "Sigmoid" else 1.0
    zero = 0 if family == "Sigmoid" else 128
    inputs = [codes, np.float32(4), np.uint8(128), np.float32(scale), np.uint8(zero)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = elementwise_outputs(Call(family, {}, code_max=255), [np.asarray(i) for i in inputs])
    assert found.tolist() == [lowest, highest]
