"""`canonicalize`: auto_pad and kernel_shape written out, Pad merged into the layer after it."""

import itertools

import pytest

from lpcompile.ir.graph import LpGraph
from lpcompile.passes.canonicalize import Canonicalize
from tests.passes.rewriting import CONTEXT, left_alone, rewrite
from tests.support import parse_model

RTOL = 1e-5


@pytest.mark.parametrize(
    ("mode", "size", "kernel", "stride"),
    [
        (mode, *rest)
        for mode, *rest in itertools.product(["SAME_UPPER", "SAME_LOWER", "VALID"], [7, 8], [1, 2, 3], [1, 2])
    ],
)
def test_auto_pad_of_conv(mode: str, size: int, kernel: int, stride: int) -> None:
    graph, _ = rewrite(
        Canonicalize(),
        f"""
        m (float[1, 3, {size}, 7] x) => (float[a, b, c, d] y) <float[4, 3, {kernel}, 2] w>
        {{ y = Conv <auto_pad = "{mode}", strides = [{stride}, 2]> (x, w) }}""",
        rtol=RTOL,
    )
    conv = graph.nodes("Conv")[0]
    assert "auto_pad" not in conv.attrs
    assert conv.attrs["kernel_shape"] == [kernel, 2]


def test_stride_one_needs_no_static_shape() -> None:
    graph, _ = rewrite(
        Canonicalize(),
        """
        m (float[N, 3, H, W] x) => (float[a, b, c, d] y) <float[4, 3, 3, 4] w>
        { y = Conv <auto_pad = "SAME_UPPER"> (x, w) }""",
        rtol=RTOL,
    )
    assert graph.nodes("Conv")[0].attrs["pads"] == [1, 1, 1, 2]


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("op", ["AveragePool", "MaxPool", "LpPool"])
def test_auto_pad_of_pools(op: str, mode: str) -> None:
    graph, _ = rewrite(
        Canonicalize(),
        f"""
        m (float[1, 3, 8, 7] x) => (float[a, b, c, d] y)
        {{ y = {op} <auto_pad = "{mode}", kernel_shape = [3, 2], strides = [2, 2]> (x) }}""",
        rtol=RTOL,
    )
    assert "auto_pad" not in graph.nodes()[0].attrs


@pytest.mark.parametrize(("mode", "kernel"), [("SAME_UPPER", 4), ("SAME_LOWER", 4), ("VALID", 3)])
def test_auto_pad_of_conv_transpose(mode: str, kernel: int) -> None:
    graph, _ = rewrite(
        Canonicalize(),
        f"""
        m (float[1, 3, 5, 6] x) => (float[a, b, c, d] y) <float[3, 4, {kernel}, {kernel}] w>
        {{ y = ConvTranspose <auto_pad = "{mode}", strides = [2, 2]> (x, w) }}""",
        rtol=RTOL,
    )
    assert "auto_pad" not in graph.nodes()[0].attrs


@pytest.mark.parametrize(
    ("shape", "layer", "reason"),
    [
        (
            "N, 3, H, 8",
            'Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (x, w)',
            "auto_pad needs static spatial dimensions",
        ),
        (
            "1, 3, 18, 18",
            'Conv <auto_pad = "SAME_LOWER", strides = [7, 7]> (x, w)',
            None,
        ),
        (
            "1, 3, 21, 18",
            'Conv <auto_pad = "SAME_LOWER", strides = [7, 7]> (x, w)',
            "auto_pad of a kernel smaller than its stride",
        ),
        (
            "1, 3, 8, 8",
            'MaxPool <auto_pad = "SAME_LOWER", kernel_shape = [3, 3], ceil_mode = 1> (x)',
            "auto_pad together with ceil_mode",
        ),
        (
            "1, 3, 8, 8",
            'MaxPool <auto_pad = "SAME_UPPER", kernel_shape = [3, 3], dilations = [2, 2]> (x)',
            "auto_pad of a dilated pool",
        ),
        (
            "1, 4, 5, 5",
            'ConvTranspose <auto_pad = "SAME_UPPER", strides = [2, 2], kernel_shape = [3, 3]> (x, w)',
            "auto_pad of ConvTranspose that cannot be split evenly",
        ),
        (
            "1, 4, 5, 5",
            'ConvTranspose <auto_pad = "SAME_UPPER", output_shape = [11, 11], strides = [2, 2]> (x, w)',
            "output_shape decides the pads",
        ),
    ],
)
def test_why_auto_pad_stays(shape: str, layer: str, reason: str | None) -> None:
    model = f"m (float[{shape}] x) => (float[a, b, c, d] y) <float[4, 3, 3, 3] w> {{ y = {layer} }}"
    graph, report = rewrite(Canonicalize(), model, rtol=RTOL)
    assert [skip.reason for skip in report.skips] == ([] if reason is None else [reason])
    assert ("auto_pad" in graph.nodes()[0].attrs) == (reason is not None)


def test_an_unknown_kernel_keeps_auto_pad() -> None:
    reasons = left_alone(
        Canonicalize(),
        """
        m (float[1, 3, 8, 8] x, float[4, 3, p, q] w) => (float[a, b, c, d] y)
        { y = Conv <auto_pad = "VALID"> (x, w) }""",
    )
    assert reasons == ["auto_pad with a kernel whose shape is not known"]


PADDED = """
    m (float[1, 3, 8, 8] x, int64[8] fed) => (float[a, b, c, d] y{outputs})
    <float[4, 3, 3, 3] w, int64[8] pads = {{0, 0, 1, 2, 0, 0, 0, 1}},
     int64[8] channels = {{0, 1, 0, 0, 0, 0, 0, 0}},
     int64[8] wide = {{0, 0, 3, 3, 0, 0, 3, 3}}, int64[8] crop = {{0, 0, -1, 0, 0, 0, 0, 0}},
     int64[4] spatial = {{1, 2, 0, 1}}, int64[2] axes = {{2, -1}}, float zero = {{0}}, float one = {{1}},
     float[4, 4, 3, 3] w4>
    {{ {body} }}"""


@pytest.mark.parametrize(
    ("body", "pads"),
    [
        ("t = Pad (x, pads)  y = Conv (t, w)", [1, 2, 0, 1]),
        ("t = Pad (x, pads, zero)  y = Conv <pads = [0, 1, 1, 0]> (t, w)", [1, 3, 1, 1]),
        ("t = Pad (x, spatial, zero, axes)  y = Conv (t, w)", [1, 2, 0, 1]),
        ('t = Pad (x, pads)  y = Conv <auto_pad = "VALID"> (t, w)', [1, 2, 0, 1]),
        ("t = Pad (x, pads)  y = AveragePool <kernel_shape = [3, 3]> (t)", [1, 2, 0, 1]),
        (
            "t = Pad (x, pads)  "
            "y = AveragePool <kernel_shape = [4, 4], pads = [1, 1, 1, 1], count_include_pad = 1> (t)",
            [2, 3, 1, 2],
        ),
    ],
)
def test_pad_merges_into_the_layer_after_it(body: str, pads: list[int]) -> None:
    graph, _ = rewrite(Canonicalize(), PADDED.format(body=body, outputs=""), opset=18, rtol=RTOL)
    assert len(graph.nodes()) == 1
    assert graph.nodes()[0].attrs["pads"] == pads


def test_pad_of_opset_seven() -> None:
    graph, _ = rewrite(
        Canonicalize(),
        """
        m (float[1, 3, 8, 8] x) => (float[a, b, c, d] y) <float[4, 3, 3, 3] w>
        { t = Pad <pads = [0, 0, 1, 1, 0, 0, 1, 1], value = 0.0> (x)  y = Conv (t, w) }""",
        opset=7,
        rtol=RTOL,
    )
    assert graph.ops() == ["Conv"]


POOL = "y = AveragePool <kernel_shape = [3, 3]"


@pytest.mark.parametrize(
    ("body", "outputs", "reason"),
    [
        (
            "t = Pad (x, pads)  y = Conv (t, w)",
            ", float[a, b, c, e] t",
            "the padded tensor is used elsewhere",
        ),
        ('t = Pad <mode = "edge"> (x, pads)  y = Conv (t, w)', "", "not constant padding"),
        ("t = Pad (x, fed)  y = Conv (t, w)", "", "its pads are not constant"),
        ("t = Pad (x, pads, one)  y = Conv (t, w)", "", "it does not pad with zeros"),
        ("t = Pad (x, crop)  y = Conv (t, w)", "", "it crops"),
        ("t = Pad (x, channels)  y = Conv (t, w4)", "", "it pads batch or channels"),
        (
            f"t = Pad (x, pads)  {POOL}, pads = [1, 1, 1, 1]> (t)",
            "",
            "the pool after it does not count its own padding",
        ),
        (f"t = Pad (x, pads)  {POOL}, ceil_mode = 1> (t)", "", "the pool after it rounds its size up"),
    ],
)
def test_why_pad_stays(body: str, outputs: str, reason: str) -> None:
    graph, report = rewrite(Canonicalize(), PADDED.format(body=body, outputs=outputs), rtol=RTOL)
    assert "Pad" in graph.ops()
    assert [skip.reason for skip in report.skips] == [reason]


def test_a_layer_with_auto_pad_left_keeps_the_pad() -> None:
    _, report = rewrite(
        Canonicalize(),
        """
        m (float[1, 3, H, 8] x) => (float[a, b, c, d] y)
        <float[4, 3, 3, 3] w, int64[8] pads = {0, 0, 1, 1, 0, 0, 1, 1}>
        { t = Pad (x, pads)  y = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (t, w) }""",
        rtol=RTOL,
    )
    assert "the layer after it has auto_pad or an unknown kernel" in [skip.reason for skip in report.skips]


def test_a_pool_takes_no_padding_wider_than_its_window() -> None:
    # ONNX Runtime 1.31 merges this itself and then refuses its own result, so there is no oracle to run.
    model = PADDED.format(body=f"t = Pad (x, wide)  {POOL}> (t)", outputs="")
    graph = LpGraph.from_proto(parse_model(model))
    report = Canonicalize().run(graph, CONTEXT)
    assert [skip.reason for skip in report.skips] == ["wider than the window of the pool after it"]
    assert report.changes == []
