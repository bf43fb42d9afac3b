"""Shapes and multiply-accumulates of layers against the convolution arithmetic by hand."""

import pytest

from lpcompile.analysis.macs import layer_shape, macs, macs_of_call
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.target import LayerShape
from tests.bench.resnet18 import resnet18
from tests.support import parse_model


def only_layer(text: str) -> Node:
    graph = LpGraph.from_proto(parse_model(text))
    graph.infer_shapes()
    return graph.layers()[0]


@pytest.mark.parametrize(
    ("text", "shape", "count"),
    [
        (
            """m (float[N,3,32,32] x) => (float[N,8,16,16] y) <float[8,3,3,3] w>
            { y = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, w) }""",
            LayerShape("Conv", 4, 27, 8, 256, 1, (3, 3), 3 * 32 * 32),
            27 * 8 * 256,
        ),
        (
            """m (float[1,6,8,8] x) => (float[1,6,6,6] y) <float[6,1,3,3] w>
            { y = Conv <group = 6> (x, w) }""",
            LayerShape("Conv", 4, 9, 6, 36, 6, (3, 3), 6 * 8 * 8),
            9 * 6 * 36,
        ),
        (
            """m (float[1,4,5,5] x) => (float[1,6,10,10] y) <float[4,3,2,2] w>
            { y = ConvTranspose <group = 2, strides = [2, 2]> (x, w) }""",
            LayerShape("ConvTranspose", 4, 8, 6, 25, 2, (2, 2), 4 * 5 * 5),
            4 * 3 * 4 * 25,  # every input pixel meets every weight of its group once
        ),
        (
            """m (float[N,7,8] x) => (float[N,7,5] y) <float[8,5] w> { y = MatMul (x, w) }""",
            LayerShape("MatMul", 3, 8, 5, 7, input_elements=7 * 8),
            8 * 5 * 7,
        ),
        (
            """m (float[4,8] x) => (float[4,5] y) <float[5,8] w> { y = Gemm <transB = 1> (x, w) }""",
            LayerShape("Gemm", 2, 8, 5, 4, input_elements=4 * 8),
            4 * 8 * 5,
        ),
    ],
)
def test_layers(text: str, shape: LayerShape, count: int) -> None:
    node = only_layer(text)
    assert layer_shape(node) == shape
    assert macs(node) == count


@pytest.mark.parametrize(("batch", "images"), [("3", 3), ("1", 1), ("N", 1)])
def test_a_fixed_batch_belongs_to_the_call(batch: str, images: int) -> None:
    conv = only_layer(
        f"m (float[{batch},2,4,4] x) => (float[{batch},5,4,4] y) <float[5,2,1,1] w> {{ y = Conv (x, w) }}"
    )
    assert (macs(conv), macs_of_call(conv)) == (2 * 5 * 16, images * 2 * 5 * 16)
    rows = only_layer(
        f"m (float[{batch},8] x) => (float[{batch},5] y) <float[8,5] w> {{ y = MatMul (x, w) }}"
    )
    assert macs(rows) == macs_of_call(rows) == images * 8 * 5


def test_symbolic_axes_other_than_the_batch_leave_the_count_unknown() -> None:
    node = only_layer("""m (float[N,3,H,W] x) => (float[N,8,H,W] y) <float[8,3,1,1] w> { y = Conv (x, w) }""")
    assert layer_shape(node).rows is None
    assert macs(node) is None
    words = only_layer("""m (float[N,T,8] x) => (float[N,T,5] y) <float[8,5] w> { y = MatMul (x, w) }""")
    assert macs(words) is None


def test_depthwise_is_one_input_channel_a_group() -> None:
    assert LayerShape("Conv", 4, 9, 6, 36, 6, (3, 3)).depthwise
    assert not LayerShape("Conv", 4, 27, 6, 36, 1, (3, 3)).depthwise


@pytest.mark.thorough
def test_resnet18_has_its_published_number_of_multiply_accumulates() -> None:
    graph = LpGraph.from_proto(resnet18(image=224))
    graph.infer_shapes()
    counts = [macs(n) for n in graph.layers()]
    assert len(counts) == 21
    assert sum(c for c in counts if c is not None) == 1_814_073_344
