"""ConvTranspose: the convolution that it transposes, with data and delta in each other's place."""

from collections.abc import Sequence
from dataclasses import replace

from lpcompile.autodiff.builder import GradientBuilder, static_shape
from lpcompile.autodiff.ordering import after
from lpcompile.autodiff.registry import Gradient, rule
from lpcompile.autodiff.rules.arithmetic import operands
from lpcompile.autodiff.rules.convolution import channel_sum, delta_like
from lpcompile.autodiff.rules.convolution_weight import weight_gradient
from lpcompile.autodiff.rules.windows import Windows, cut_to, pad_spatial, spatial_sizes, typed
from lpcompile.errors import GradientError
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value


@rule("ConvTranspose")
def conv_transpose(
    b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]
) -> list[Gradient]:
    """Gives dX = Conv(delta, W); dW as that of this Conv, whose delta is the data."""
    (delta,) = grads
    assert delta is not None
    x, weight = operands(node, 2)
    dims = static_shape(weight)
    if dims is None:
        raise GradientError(
            "the shape of the weights is not known", where=node.name, hint="run shape inference on the model"
        )
    group = int(node.attrs.get("group", 1))
    w = transposed_windows(node, dims[2:], x, delta_like(node))
    found: list[Gradient] = [None] * len(wanted)
    if len(wanted) > 2 and wanted[2]:
        found[2] = channel_sum(b, delta, w.rank)
    if wanted[1]:
        found[1] = dw = weight_gradient(b, x, delta, dims, group, w)
        delta = after(b, delta, dw, like=delta_like(node)) if wanted[0] else delta
    if wanted[0]:
        padded = pad_spatial(b, delta, [min(0, p) for p in w.begin], [min(0, p) for p in w.end])
        made = b.op(
            "Conv",
            padded,
            weight,
            group=group,
            strides=list(w.strides),
            dilations=list(w.dilations),
            pads=[max(0, p) for p in (*w.begin, *w.end)],
        )
        found[0] = b.with_shape(typed(b, made, x), x)
        if any(extra >= s for extra, s in zip(_extra(node, w), w.strides, strict=True)):
            found[0] = b.with_shape(cut_to(b, made, x, w.rank), x)
    return found


def transposed_windows(node: Node, kernel: Sequence[int], data: Value, output: Value) -> Windows:
    """The windows of the convolution from the output of a ConvTranspose to its input.

    Raises:
        GradientError: the padding depends on a size that is not known.
    """
    rank = len(kernel)
    ones = [1] * rank
    pads = [int(p) for p in node.attrs.get("pads") or [0] * 2 * rank]
    w = Windows(
        tuple(kernel),
        tuple(int(s) for s in node.attrs.get("strides") or ones),
        tuple(int(d) for d in node.attrs.get("dilations") or ones),
        tuple(pads[:rank]),
        tuple(pads[rank:]),
        spatial_sizes(output, rank),
        spatial_sizes(data, rank),
    )
    mode = str(node.attrs.get("auto_pad", "NOTSET"))
    if "output_shape" not in node.attrs and mode in ("NOTSET", "VALID"):
        return w if mode == "NOTSET" else replace(w, begin=(0,) * rank, end=(0,) * rank)
    begin, end = [], []
    for i, extra in enumerate(_extra(node, w)):
        size, count = w.sizes[i], w.counts[i]
        if size is None or count is None:
            raise GradientError(
                "the padding depends on the size of the input",
                where=node.name,
                hint="give the model's input a fixed shape",
            )
        total = w.strides[i] * (count - 1) + extra + w.spans[i] - size
        small = total // 2
        begin.append(small if mode == "SAME_UPPER" else total - small)
        end.append(total - begin[-1])
    return replace(w, begin=tuple(begin), end=tuple(end))


def _extra(node: Node, w: Windows) -> list[int]:
    return [int(p) for p in node.attrs.get("output_padding") or [0] * w.rank]
