"""Codes beside a side path: GPTQ that knows what merging rounds away."""

from dataclasses import replace

import numpy as np
import pytest

from lpcompile.formats.base import resolve
from lpcompile.quant.fit import fit
from lpcompile.quant.gptq import gptq_factored
from lpcompile.quant.gram_factor import factor
from lpcompile.quant.low_rank import low_rank, weighted_loss
from lpcompile.quant.merged_rounding import merged_codes
from lpcompile.quant.side_path import side_path


@pytest.mark.parametrize("granularity", ["channel", "group"])
def test_outputs_come_nearer_than_by_codes_that_know_of_no_merging(granularity: str) -> None:
    rng = np.random.default_rng(0)
    w = rng.standard_normal((24, 64)).astype(np.float32)
    x = rng.standard_normal((64, 64)) @ (rng.standard_normal((64, 2000)) / np.arange(1, 65)[:, None])
    h = x @ x.T / x.shape[1]
    factors = factor(h[None].astype(np.float32))
    main = fit(w, resolve("fixp4"), granularity=granularity, group_size=16, rule="mse")
    main = gptq_factored(w, main, factors)
    b, a = low_rank(w - main.dequantize(), 4, h)
    tensor = replace(main, side=side_path(b, a, *main.int8_image(), largest=main.largest_level))
    assert tensor.side is not None
    path = (tensor.side.product() * main.int8_image()[1].reshape(-1, 1)).astype(np.float32)
    blind = replace(gptq_factored(w - path, main, factors), side=tensor.side)
    found = merged_codes(w, tensor, factors)
    assert found.side is tensor.side
    assert found.scales is main.scales
    assert weighted_loss(w - found.dequantize(), h) < 0.99 * weighted_loss(w - blind.dequantize(), h)


def test_without_a_path_nothing_changes() -> None:
    main = fit(np.eye(4, dtype=np.float32), resolve("fixp4"))
    assert merged_codes(np.eye(4, dtype=np.float32), main, factor(np.eye(4, dtype=np.float32)[None])) is main
