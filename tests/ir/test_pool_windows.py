"""Windows and divisors of AveragePool, against ONNX Runtime's float operator."""

from math import prod

import numpy as np
import pytest

from lpcompile.ir.graph import LpGraph
from lpcompile.ir.pool_windows import pool_windows
from tests.support import parse_model, run_model

POOLS = (
    "kernel_shape=[3,3]",
    "kernel_shape=[2,3], strides=[2,1]",
    "kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]",
    "kernel_shape=[3,3], strides=[2,2], pads=[1,0,1,2], count_include_pad=1",
    "kernel_shape=[3,2], strides=[2,3], ceil_mode=1",
    "kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], ceil_mode=1",
)


@pytest.mark.parametrize("attributes", POOLS)
@pytest.mark.parametrize("sizes", [(8, 7), (9, 9), (7, 10)])
def test_sums_over_windows_divided_are_the_operator(attributes: str, sizes: tuple[int, int]) -> None:
    h, w = sizes
    text = f"g (float[1,1,{h},{w}] x) => (float[1,1,h,w] y) {{ y = AveragePool <{attributes}> (x) }}"
    graph = LpGraph.from_proto(parse_model(text))
    found = pool_windows(graph.nodes()[0], sizes)
    x = np.random.default_rng(0).normal(size=(1, 1, h, w)).astype(np.float32)
    wanted = run_model(graph.to_proto(), {"x": x})["y"][0, 0]
    padded = np.pad(x[0, 0], [(b, max(e, 0)) for b, e in zip(found.begin, found.end, strict=True)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, found.kernel)
    sums = windows[:: found.strides[0], :: found.strides[1]].sum((-1, -2))
    assert found.counts.shape in ((1,), sums.shape)
    assert found.counts.max() <= prod(found.kernel)
    np.testing.assert_allclose(sums / found.counts, wanted, atol=1e-5)
