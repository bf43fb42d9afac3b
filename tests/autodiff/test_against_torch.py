"""Gradients run by ONNX Runtime against torch's autograd in float64, over drawn shapes and attributes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.autodiff.agreement import gradients_by, probes_of
from tests.support import assert_close, parse_model, run_model

torch = pytest.importorskip("torch")
Array = NDArray[Any]
drawn = settings(max_examples=15, deadline=None, derandomize=True, database=None)


def arrays(**shapes: Sequence[int]) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def assert_as_torch(text: str, feeds: Mapping[str, Array], layer: Any) -> None:
    """All inputs get the gradients that torch gives for `layer(tensors) -> outputs`."""
    model = parse_model(text, check=False)
    found = gradients_by(run_model, model, feeds, list(feeds))
    probes = probes_of(run_model(model, feeds))
    tensors = {n: torch.tensor(x.astype(np.float64), requires_grad=True) for n, x in feeds.items()}
    outputs = layer(tensors)
    loss = sum(
        (o.reshape(v.shape) * torch.tensor(v)).sum() for o, v in zip(outputs, probes.values(), strict=True)
    )
    loss.backward()
    for name, tensor in tensors.items():
        assert_close(found[name].astype(np.float64), tensor.grad.numpy(), 1e-4, name)


def declared(feeds: Mapping[str, Array]) -> str:
    return ", ".join(f"float[{','.join(map(str, x.shape))}] {n}" for n, x in feeds.items())


@drawn
@given(st.data())
def test_convolutions(data: st.DataObject) -> None:
    draw = data.draw
    rank, transposed = draw(st.integers(1, 3)), draw(st.booleans())
    group, multiplier, c_in = draw(st.sampled_from([(1, 3, 2), (2, 2, 4), (3, 1, 3), (3, 2, 3)]))
    kernel = [draw(st.integers(1, 3)) for _ in range(rank)]
    strides = [draw(st.integers(1, 3)) for _ in range(rank)]
    dilations = [draw(st.integers(1, 2)) for _ in range(rank)]
    pads = [draw(st.integers(0, (k - 1) * d)) for k, d in zip(kernel, dilations, strict=True)]
    sizes = [draw(st.integers(5, 7)) for _ in range(rank)]
    shape = (c_in, multiplier, *kernel) if transposed else (group * multiplier, c_in // group, *kernel)
    feeds = arrays(x=(2, c_in, *sizes), w=shape, b=(group * multiplier,))
    op = "ConvTranspose" if transposed else "Conv"
    attrs = f"strides={strides}, pads={pads + pads}, dilations={dilations}, group={group}"
    kind = f"conv{'_transpose' if transposed else ''}{rank}d"
    options = {"stride": strides, "padding": pads, "dilation": dilations, "groups": group}
    assert_as_torch(
        f"net ({declared(feeds)}) => (float[{','.join('NMABC'[: rank + 2])}] y) {{ y = {op} <{attrs}> (x, w, b) }}",
        feeds,
        lambda t: [getattr(torch.nn.functional, kind)(t["x"], t["w"], t["b"], **options)],
    )


@drawn
@given(st.data())
def test_pools(data: st.DataObject) -> None:
    draw = data.draw
    rank, op = draw(st.integers(1, 3)), draw(st.sampled_from(["MaxPool", "AveragePool"]))
    kernel = [draw(st.integers(1, 3)) for _ in range(rank)]
    strides = [draw(st.integers(1, 3)) for _ in range(rank)]
    pads = [draw(st.integers(0, k // 2)) for k in kernel]
    sizes = [draw(st.integers(5, 8)) for _ in range(rank)]
    counted = draw(st.booleans())
    feeds = arrays(x=(2, 3, *sizes))
    extra = f", count_include_pad={int(counted)}" if op == "AveragePool" else ""
    options = {"count_include_pad": counted} if op == "AveragePool" else {}
    kind = f"{'max' if op == 'MaxPool' else 'avg'}_pool{rank}d"
    assert_as_torch(
        f"net ({declared(feeds)}) => (float[{','.join('NMABC'[: rank + 2])}] y) "
        f"{{ y = {op} <kernel_shape={kernel}, strides={strides}, pads={pads + pads}{extra}> (x) }}",
        feeds,
        lambda t: [getattr(torch.nn.functional, kind)(t["x"], kernel, strides, pads, **options)],
    )


@drawn
@given(
    st.sampled_from(["Batch", "Layer", "Instance"]), st.integers(2, 4), st.integers(2, 4), st.integers(1, 2)
)
def test_normalisations(kind: str, batch: int, channels: int, rank: int) -> None:
    sizes = (3, 4)[:rank]
    affine = sizes[-1] if kind == "Layer" else channels
    feeds = arrays(x=(batch, channels, *sizes), s=(affine,), b=(affine,))
    F = torch.nn.functional

    def layer(t: Mapping[str, Any]) -> list[Any]:
        if kind == "Layer":
            return [F.layer_norm(t["x"], (affine,), t["s"], t["b"], 1e-2)]
        if kind == "Batch":
            return [
                F.batch_norm(
                    t["x"],
                    torch.zeros(channels).double(),
                    torch.ones(channels).double(),
                    t["s"],
                    t["b"],
                    False,
                    0.1,
                    1e-2,
                )
            ]
        return [F.instance_norm(t["x"], None, None, t["s"], t["b"], True, 0.1, 1e-2)]

    zeros, ones = (",".join(digit * channels) for digit in "01")
    held = f"<float[{channels}] m = {{{zeros}}}, float[{channels}] v = {{{ones}}}>"
    held = held if kind == "Batch" else ""
    operands = "x, s, b, m, v" if kind == "Batch" else "x, s, b"
    assert_as_torch(
        f"net ({declared(feeds)}) => (float[{','.join('NMAB'[: rank + 2])}] y) {held} "
        f"{{ y = {kind}Normalization <epsilon=0.01> ({operands}) }}",
        feeds,
        layer,
    )


@drawn
@given(
    st.sampled_from(["LSTM", "GRU"]), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.booleans()
)
def test_recurrent_layers(op: str, steps: int, inputs: int, hidden: int, both: bool) -> None:
    ways, gates = 1 + both, {"LSTM": 4, "GRU": 3}[op]
    feeds = arrays(
        x=(steps, 2, inputs),
        w=(ways, gates * hidden, inputs),
        r=(ways, gates * hidden, hidden),
        b=(ways, 2 * gates * hidden),
        h=(ways, 2, hidden),
    )
    # torch orders the gates input, forget, cell, output and reset, update, new
    order = {"LSTM": [0, 2, 3, 1], "GRU": [1, 0, 2]}[op]

    def turned(x: Any) -> Any:
        return torch.cat([x.chunk(gates)[i] for i in order])

    def layer(t: Mapping[str, Any]) -> list[Any]:
        net = getattr(torch.nn, op)(inputs, hidden, bidirectional=both).double()
        names = [n for n, _ in net.named_parameters()]
        parts: dict[str, Any] = {}
        for d, tail in enumerate(["", "_reverse"][:ways]):
            data_bias, state_bias = t["b"][d].chunk(2)
            parts |= {f"weight_ih_l0{tail}": turned(t["w"][d]), f"weight_hh_l0{tail}": turned(t["r"][d])}
            parts |= {f"bias_ih_l0{tail}": turned(data_bias), f"bias_hh_l0{tail}": turned(state_bias)}
        state = (t["h"], torch.zeros_like(t["h"])) if op == "LSTM" else t["h"]
        y, last = torch.func.functional_call(net, {n: parts[n] for n in names}, (t["x"], state))
        y = y.reshape(steps, 2, ways, hidden).permute(0, 2, 1, 3)
        return [y, last[0] if op == "LSTM" else last]

    extra = ", linear_before_reset=1" if op == "GRU" else ""
    direction = "bidirectional" if both else "forward"
    assert_as_torch(
        f"net ({declared(feeds)}) => (float[S,W,N,H] y, float[W,N,H] z) "
        f'{{ y, z = {op} <hidden_size={hidden}, direction="{direction}"{extra}> (x, w, r, b, , h) }}',
        feeds,
        layer,
    )
