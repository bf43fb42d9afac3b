"""Conv and ConvTranspose against central differences, ONNX Runtime and torch."""

import numpy as np
import pytest

from tests.autodiff.agreement import assert_gradients
from tests.support import run_model

CONVS = {
    "plain": ("[2,3,5,6]", "[4,3,3,3]", ""),
    "padded": ("[2,3,5,6]", "[4,3,3,3]", "pads=[1,1,1,1]"),
    "pointwise": ("[2,3,5,6]", "[4,3,1,1]", ""),
    "pointwise with a stride": ("[2,3,5,6]", "[4,3,1,1]", "strides=[2,3]"),
    "stride 2": ("[2,3,6,7]", "[4,3,3,3]", "pads=[1,1,1,1], strides=[2,2]"),
    "unequal padding": ("[2,3,6,7]", "[4,3,3,2]", "pads=[0,0,1,1], strides=[2,2]"),
    "unequal strides": ("[2,3,7,7]", "[4,3,3,2]", "pads=[2,1,0,1], strides=[2,3]"),
    "dilation and stride": ("[2,3,9,8]", "[4,3,3,2]", "pads=[2,1,0,1], strides=[2,3], dilations=[3,2]"),
    "dilation": ("[2,3,7,8]", "[4,3,3,2]", "pads=[2,1,0,1], dilations=[2,3]"),
    "wide padding": ("[1,2,4,4]", "[2,2,2,2]", "pads=[3,2,2,3]"),
    "wide padding, stride": ("[1,2,4,4]", "[2,2,2,2]", "pads=[3,2,2,3], strides=[2,2]"),
    "stride above kernel": ("[1,2,8,7]", "[2,2,2,2]", "strides=[3,4]"),
    "groups": ("[2,4,5,6]", "[6,2,3,3]", "pads=[1,1,1,1], group=2"),
    "groups, stride": ("[2,4,5,6]", "[6,2,3,3]", "pads=[1,1,1,1], group=2, strides=[2,2]"),
    "depthwise": ("[2,4,5,6]", "[4,1,3,3]", "pads=[1,1,1,1], group=4"),
    "depthwise, stride": ("[2,4,6,7]", "[4,1,3,3]", "pads=[0,0,1,1], group=4, strides=[2,2]"),
    "depthwise, multiplier": ("[2,2,5,6]", "[6,1,3,3]", "pads=[1,1,1,1], group=2, strides=[2,1]"),
    "same upper": ("[1,2,7,6]", "[3,2,3,3]", 'auto_pad="SAME_UPPER", strides=[2,2]'),
    "same lower": ("[1,2,7,6]", "[3,2,4,2]", 'auto_pad="SAME_LOWER", strides=[2,2]'),
    "valid": ("[1,2,7,6]", "[3,2,3,3]", 'auto_pad="VALID"'),
    "one axis": ("[2,3,9]", "[4,3,4]", "pads=[2,1], strides=[2], dilations=[2]"),
    "many taps": ("[2,3,9,12]", "[4,3,7,10]", "pads=[1,2,3,0], strides=[2,3]"),
    "a filter bank": ("[2,2,301]", "[3,2,80]", "strides=[16], dilations=[2], pads=[5,0]"),
    "three axes": ("[1,2,4,5,4]", "[3,2,2,3,2]", "pads=[1,0,1,0,1,1], strides=[2,1,2]"),
    "many channels": ("[2,9,4,4]", "[3,9,3,3]", "pads=[1,1,1,1]"),
}


@pytest.mark.sweep
@pytest.mark.parametrize("weight", ["constant", "input"])
@pytest.mark.parametrize("name", CONVS)
def test_conv(name: str, weight: str) -> None:
    x, w, attrs = CONVS[name]
    bias = w[1:].split(",")[0]
    inputs, constants = f"double{x} x", f"double{w} w, double[{bias}] b"
    if weight == "input":
        inputs, constants = f"double{x} x, double{w} w", f"double[{bias}] b"
    spatial = ",".join("ABC"[: x.count(",") - 1])
    assert_gradients(
        f"net ({inputs}) => (double[N,M,{spatial}] y) <{constants}> {{ y = Conv <{attrs}> (x, w, b) }}",
        ["x", "w", "b"],
    )


@pytest.mark.sweep
@pytest.mark.parametrize("name", [n for n in CONVS if "same" not in n])
def test_conv_of_symbolic_sizes(name: str) -> None:
    x, w, attrs = CONVS[name]
    sizes = [int(d) for d in x[1:-1].split(",")]
    spatial = ",".join("ABC"[: x.count(",") - 1])
    declared = ",".join(["N", str(sizes[1]), *(f"S{i}" for i in range(len(sizes) - 2))])
    feeds = {"x": np.random.default_rng(0).normal(size=sizes)}
    assert_gradients(
        f"net (double[{declared}] x) => (double[N,M,{spatial}] y) <double{w} w> {{ y = Conv <{attrs}> (x, w) }}",
        ["x", "w"],
        feeds,
    )


TRANSPOSED = {
    "plain": ("[2,3,4,5]", "[3,4,3,3]", ""),
    "stride and padding": ("[2,3,4,5]", "[3,2,3,3]", "strides=[2,2], pads=[1,1,1,0]"),
    "output padding": ("[1,3,4,5]", "[3,2,3,3]", "strides=[2,2], pads=[1,1,1,1], output_padding=[1,1]"),
    "groups": ("[1,4,4,5]", "[4,3,3,2]", "strides=[2,1], group=2"),
    "depthwise": ("[1,4,4,5]", "[4,1,3,3]", "strides=[2,2], group=4, pads=[1,1,1,1]"),
    "dilation": ("[1,2,4,5]", "[2,3,3,2]", "dilations=[2,3], pads=[1,1,1,1]"),
    "one axis": ("[2,3,6]", "[3,4,4]", "strides=[3], pads=[1,2]"),
    "valid": ("[1,2,4,5]", "[2,3,3,2]", 'strides=[2,1], auto_pad="VALID"'),
    "same upper": ("[1,2,4,5]", "[2,3,4,3]", 'strides=[1,2], auto_pad="SAME_UPPER"'),
    "same lower": ("[1,2,4,5]", "[2,3,4,3]", 'strides=[1,2], auto_pad="SAME_LOWER"'),
    "the size of the output": ("[1,2,4,5]", "[2,3,4,3]", "strides=[1,2], output_shape=[6,10]"),
}
_ONLY_IN_THE_RUNTIME = (
    "group",
    "auto_pad",
    "output_shape",
)  # onnx's reference evaluator makes something else


@pytest.mark.sweep
@pytest.mark.parametrize("name", TRANSPOSED)
def test_conv_transpose(name: str) -> None:
    x, w, attrs = TRANSPOSED[name]
    spatial = ",".join("ABC"[: x.count(",") - 1])
    runtime = any(word in attrs for word in _ONLY_IN_THE_RUNTIME)
    bias = int(w[1:-1].split(",")[1]) * (int(attrs.split("group=")[1][0]) if "group" in attrs else 1)
    kind = "float" if runtime else "double"
    text = (
        f"net ({kind}{x} x) => ({kind}[N,M,{spatial}] y) <{kind}{w} w, {kind}[{bias}] b> "
        f"{{ y = ConvTranspose <{attrs}> (x, w, b) }}"
    )
    if runtime:  # linear in each operand: a step of 1 is as good as a small one
        assert_gradients(text, ["x", "w", "b"], by=run_model, step=1.0)
    else:
        assert_gradients(text, ["x", "w", "b"])
