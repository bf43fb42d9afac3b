"""Steps of a generated network that compute: layers, pools, elementwise nodes."""

from typing import Any

import numpy as np

from tests.backends.cim.growing_network import Growing, Shape

SPATIAL = (3, 4, 5)
Attributes = dict[str, Any]


def window(g: Growing, shape: Shape, *, small: bool = False, dilates: bool = True) -> Attributes | None:
    """Kernel, strides, dilations and pads for an image; None where nothing fits."""
    spatial = [int(n) for n in shape[2:]]
    kernel, pads_begin, pads_end, dilations = [], [], [], []
    for n in spatial:
        k = g.whole(1, 3 if small else 4)
        d = g.whole(1, 2) if dilates and g.chance(0.2) else 1
        most = min(2, k - 1) if small or g.chance(0.9) else 4
        before, after = (g.whole(0, most) if g.chance(0.6) else 0 for _ in "ab")
        if d * (k - 1) + 1 > n + before + after:
            k, d, before, after = 1, 1, 0, 0
        kernel.append(k)
        dilations.append(d)
        pads_begin.append(before)
        pads_end.append(after)
    if g.chance(0.05):
        kernel, dilations = spatial, [1] * len(spatial)  # the whole image
        pads_begin = pads_end = [0] * len(spatial)
    strides = [g.pick(1, 1, 1, 2, 3) for _ in spatial]
    found: Attributes = {"kernel_shape": kernel, "strides": strides, "pads": pads_begin + pads_end}
    if dilates and (max(dilations) > 1 or g.chance(0.2)):
        found["dilations"] = dilations
    same = "dilations" not in found and all(k >= s for k, s in zip(kernel, strides, strict=True))
    if g.chance(0.1) and same:  # a kernel smaller than its stride fails in some of ONNX Runtime's kernels
        found["auto_pad"] = g.pick("SAME_UPPER", "SAME_LOWER", "VALID")
        del found["pads"]
    return found


def conv(g: Growing) -> None:
    x = g.tensor(*SPATIAL)
    if x is None:
        return
    channels = int(g.shapes[x][1])
    attributes = window(g, g.shapes[x])
    assert attributes is not None
    divisors = [d for d in range(1, channels + 1) if channels % d == 0]
    group = g.pick(1, 1, 1, channels, g.pick(*divisors))
    outputs = group * g.whole(1, 3) if group > 1 else g.whole(1, 10)
    w = g.weight([outputs, channels // group, *attributes["kernel_shape"]])
    bias = [g.weight([outputs], g.pick(0.1, 10.0))] if g.chance(0.6) else []
    g.node("Conv", [x, w, *bias], group=group if group > 1 or g.chance(0.3) else None, **attributes)


def gemm(g: Growing) -> None:
    x = g.tensor(2)
    if x is None:
        return
    k, n, transposed = int(g.shapes[x][1]), g.whole(1, 12), g.chance(0.5)
    w = g.weight([n, k] if transposed else [k, n])
    bias = [g.weight(g.pick([n], [1, n], [1]))] if g.chance(0.6) else []
    alpha = g.pick(None, None, None, 0.5)
    g.node("Gemm", [x, w, *bias], transB=int(transposed) if transposed else None, alpha=alpha)


def matmul(g: Growing) -> None:
    x = g.tensor(2, 3, 4)
    if x is None:
        return
    n = g.whole(1, 8)
    found = g.node("MatMul", [x, g.weight([int(g.shapes[x][-1]), n])])
    if found and g.chance(0.5):
        g.node("Add", g.pick([found[0], g.weight([n])], [g.weight([n]), found[0]]))


def product_of_two(g: Growing) -> None:
    """A MatMul of two activations, which no array holds."""
    x = g.tensor(3, 4)
    if x is not None:
        turned = g.node(
            "Transpose", [x], perm=[*range(len(g.shapes[x]) - 2), len(g.shapes[x]) - 1, len(g.shapes[x]) - 2]
        )
        if turned:
            g.node("MatMul", [x, turned[0]])


def norm(g: Growing) -> None:
    x = g.tensor(2, 3, 4, 5)
    if x is None:
        return
    c = int(g.shapes[x][1])
    scale, bias, mean = (g.constant(g.rng.normal(m, 0.5, c).astype(np.float32)) for m in (1, 0, 0))
    var = g.constant(g.rng.uniform(0.1, 2, c).astype(np.float32))
    g.node("BatchNormalization", [x, scale, bias, mean, var])


def unary(g: Growing) -> None:
    x = g.tensor()
    if x is None:
        return
    op = g.pick("Relu", "Relu", "Clip", "Sigmoid", "LeakyRelu", "Tanh", "HardSigmoid", "HardSwish", "Elu", "Abs", "Neg",
                "Softplus", "Erf", "Exp", "silu", "gelu", "Identity", "PRelu", "Sqrt", "Softmax", "Floor")  # fmt: skip
    if op == "silu":
        g.node("Mul", g.pick([x, g.node("Sigmoid", [x])[0]], [g.node("Sigmoid", [x])[0], x]))
    elif op == "gelu":
        one = g.node("Erf", [x])[0]
        g.node("Mul", [g.node("Add", [one, g.constant(np.array(1, np.float32))])[0], x])
    elif op == "Clip":
        low, high = (g.constant(np.array(v, np.float32)) for v in (g.pick(-1.0, 0.0, -0.3), g.pick(0.5, 6.0)))
        g.node("Clip", g.pick([x, low, high], [x, low], [x, "", high]))
    elif op == "PRelu":
        g.node("PRelu", [x, g.constant(np.array([0.2], np.float32))])
    elif op == "Sqrt":
        g.node("Sqrt", [g.node("Relu", [x])[0]])
    elif op == "HardSwish" and g.opset < 14:
        g.node("Mul", [x, g.node("HardSigmoid", [x], alpha=1 / 6, beta=0.5)[0]])
    elif op == "LeakyRelu":
        g.node("LeakyRelu", [x], alpha=0.3)
    else:
        g.node(op, [x])


def binary(g: Growing) -> None:
    x = g.tensor()
    if x is None:
        return
    shape = g.shapes[x]
    op = g.pick("Add", "Add", "Add", "Mul", "Mul", "Sub", "Max", "Min", "Div")
    kind = g.pick("tensor", "tensor", "tensor", "number", "channel", "whole")
    if kind == "tensor" and op != "Div":
        y = g.like(shape)
    elif (kind == "channel" and len(shape) > 2) or (kind == "tensor" and len(shape) > 2):
        y = g.weight([int(shape[1]), *[1] * (len(shape) - 2)])
    elif kind == "whole" and len(shape) > 1:
        y = g.weight([int(n) for n in shape[1:]])
    else:
        y = g.constant(np.array(g.rng.uniform(0.3, 2), np.float32))
    if op == "Div" and y in g.weights:
        y = g.constant((np.abs(g.weights[y]) + 0.3).astype(np.float32))
    g.node(op, [x, y] if op == "Div" or g.chance(0.7) else [y, x])


def pool(g: Growing) -> None:
    x = g.tensor(*SPATIAL)
    if x is None:
        return
    op = g.pick("MaxPool", "AveragePool")
    attributes = window(g, g.shapes[x], small=True, dilates=op == "MaxPool")
    assert attributes is not None
    if "auto_pad" not in attributes and g.chance(0.4):
        attributes["ceil_mode"] = 1
    if op == "AveragePool" and g.chance(0.5):
        attributes["count_include_pad"] = 1
    if op == "AveragePool" and g.opset >= 19 and g.chance(0.2):
        attributes["dilations"] = [1] * (len(g.shapes[x]) - 2)
    g.node(op, [x], **attributes)


def whole_pool(g: Growing) -> None:
    x = g.tensor(*SPATIAL)
    if x is None:
        return
    op = g.pick("GlobalAveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean")
    if op != "ReduceMean":
        g.node(op, [x])
        return
    axes = list(range(2, len(g.shapes[x])))
    keep = g.pick(None, 0, 1)
    if g.opset >= 18:
        g.node(op, [x, g.integers(*axes)], keepdims=keep)
    else:
        g.node(op, [x], axes=axes, keepdims=keep)


LAYERS = (conv, conv, conv, gemm, matmul)
OTHERS = (norm, unary, unary, binary, binary, pool, pool, whole_pool, product_of_two)
COMPUTING = (*LAYERS, *LAYERS, *OTHERS)
