"""A choice of operators against the gradients of torch, kinks and ties among them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.autodiff.cases import Case, gradient
from tests.autodiff.gradients import probes_of, reference

torch = pytest.importorskip("torch")
F = torch.nn.functional

KINKS = {"x": [[-4.0, -3.0, -1.0, 0.0], [0.5, 1.0, 3.0, 6.0]]}
IMAGE = {"x": (1, 2, 4, 5)}
ROUNDED_DOWN = 'mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"'
ALIGNED = 'mode = "linear", coordinate_transformation_mode = "align_corners"'
LINEAR = 'mode = "linear", coordinate_transformation_mode = "pytorch_half_pixel"'
Reference = Callable[..., Any]

TABLE: list[tuple[Case, Reference]] = [
    (Case("y = Relu (x)", KINKS), F.relu),
    (Case("y = LeakyRelu <alpha = 0.1> (x)", KINKS), lambda x: F.leaky_relu(x, 0.1)),
    (Case("y = Clip (x, lo, hi)", KINKS, {"lo": 0.0, "hi": 6.0}), F.relu6),
    (Case("y = HardSigmoid <alpha = 0.1666666667, beta = 0.5> (x)", KINKS), F.hardsigmoid),
    (Case("y = Elu (x)", KINKS), F.elu),
    (Case("y = Selu (x)", KINKS), F.selu),
    (Case("y = Softplus (x)", KINKS), F.softplus),
    (Case("y = Softsign (x)", KINKS), F.softsign),
    (Case("y = Mish (x)", KINKS, opset=18), F.mish),
    (Case("y = Swish (x)", KINKS, opset=24), F.silu),
    (Case("y = Gelu (x)", KINKS, opset=20), F.gelu),
    (Case('y = Gelu <approximate = "tanh"> (x)', KINKS, opset=20), lambda x: F.gelu(x, approximate="tanh")),
    (Case("y = Erf (x)", KINKS), torch.erf),
    (Case("y = Abs (x)", KINKS), torch.abs),
    (Case("y = PRelu (x, s)", {**KINKS, "s": [0.2]}), F.prelu),
    (Case("y = Pow (x, p)", KINKS, {"p": 3.0}), lambda x: x**3),
    (Case("y = Max (x, z)", {**KINKS, "z": [[-3.0], [1.0]]}), torch.maximum),
    (Case("y = Min (x, z)", {**KINKS, "z": [[-3.0], [1.0]]}), torch.minimum),
    (
        Case("y = ReduceMax (x, a)", {"x": [[1.0, 3.0, 3.0]]}, {"a": [1]}, opset=18),
        lambda x: x.amax(1, keepdim=True),
    ),
    (
        Case("y = ReduceL2 (x, a)", {"x": [[0.0, 0.0], [3.0, 4.0]]}, {"a": [1]}, opset=18),
        lambda x: x.norm(dim=1, keepdim=True),
    ),
    (Case("y = ReduceLogSumExp (x, a)", KINKS, {"a": [0]}, opset=18), lambda x: x.logsumexp(0, keepdim=True)),
    (Case("y = CumSum (x, a)", KINKS, {"a": 1}), lambda x: x.cumsum(1)),
    (
        Case("y = Gather (x, i)", {"x": (4, 3)}, {"i": [[1, -1], [1, 0]]}),
        lambda x: x[torch.tensor([[1, -1], [1, 0]])],
    ),
    (
        Case('y = Pad <mode = "reflect"> (x, p)', IMAGE, {"p": [0, 0, 1, 2, 0, 0, 3, 1]}),
        lambda x: F.pad(x, (2, 1, 1, 3), "reflect"),
    ),
    (
        Case('y = Pad <mode = "edge"> (x, p)', IMAGE, {"p": [0, 0, 1, 2, 0, 0, 3, 1]}),
        lambda x: F.pad(x, (2, 1, 1, 3), "replicate"),
    ),
    (
        Case('y = DepthToSpace <blocksize = 2, mode = "CRD"> (x)', {"x": (1, 8, 2, 3)}),
        lambda x: F.pixel_shuffle(x, 2),
    ),
    (
        Case(f"y = Resize <{ROUNDED_DOWN}> (x, , s)", IMAGE, {"s": np.array([1, 1, 2, 2], np.float32)}),
        lambda x: F.interpolate(x, scale_factor=2, mode="nearest"),
    ),
    (
        Case(f"y = Resize <{ALIGNED}> (x, , , s)", IMAGE, {"s": [1, 2, 7, 3]}),
        lambda x: F.interpolate(x, (7, 3), mode="bilinear", align_corners=True),
    ),
    (
        Case(f"y = Resize <{LINEAR}> (x, , , s)", IMAGE, {"s": [1, 2, 9, 3]}),
        lambda x: F.interpolate(x, (9, 3), mode="bilinear", align_corners=False),
    ),
    (
        Case('y = Resize <mode = "cubic"> (x, , , s)', IMAGE, {"s": [1, 2, 8, 10]}),
        lambda x: F.interpolate(x, (8, 10), mode="bicubic", align_corners=False),
    ),
]


@pytest.mark.parametrize(("case", "function"), TABLE, ids=[str(case) for case, _ in TABLE])
def test_gradients_agree_with_torch(case: Case, function: Reference) -> None:
    found = gradient(case)
    (probe,) = probes_of(reference(case.model(), case.feeds())).values()
    inputs = {name: torch.tensor(x, requires_grad=True) for name, x in case.feeds().items()}
    y = function(*inputs.values())
    y.backward(torch.tensor(probe))
    for name in case.names:
        np.testing.assert_allclose(found[name], inputs[name].grad.numpy(), rtol=1e-6, atol=1e-7, err_msg=name)
