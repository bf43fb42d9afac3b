"""Activations, on both sides of their kinks and away from them."""

import pytest

from tests.autodiff.cases import Case, check

SPREAD = {"x": [[-4.2, -2.1, -0.7, -0.2], [0.3, 0.8, 1.9, 4.4]]}
CASES = [
    *(
        Case(f"y = {op} (x)", SPREAD)
        for op in (
            "Relu", "LeakyRelu", "ThresholdedRelu", "Elu", "Selu", "Celu", "Sigmoid", "HardSigmoid", "HardSwish",
            "Tanh", "Softplus", "Softsign", "Erf", "Shrink",
        )
    ),
    Case("y = LeakyRelu <alpha = -0.3> (x)", SPREAD),
    Case("y = LeakyRelu <alpha = 1.0> (x)", SPREAD),
    Case("y = ThresholdedRelu <alpha = -0.5> (x)", SPREAD),
    Case("y = Elu <alpha = 0.3> (x)", SPREAD),
    Case("y = Elu <alpha = -0.3> (x)", SPREAD),
    Case("y = Selu <alpha = 0.7, gamma = 2.0> (x)", SPREAD),
    Case("y = Selu <alpha = -0.7, gamma = 2.0> (x)", SPREAD),
    Case("y = Celu <alpha = 2.5> (x)", SPREAD),
    Case("y = HardSigmoid <alpha = 0.4, beta = 0.3> (x)", SPREAD),
    Case("y = Shrink <lambd = 1.0, bias = 0.25> (x)", SPREAD),
    Case("y = Gelu (x)", SPREAD, opset=20),
    Case('y = Gelu <approximate = "tanh"> (x)', SPREAD, opset=20),
    Case("y = Mish (x)", SPREAD, opset=18),
    Case("y = Swish (x)", SPREAD, opset=24),
    Case("y = Swish <alpha = 1.702> (x)", SPREAD, opset=24),
    Case("y = Relu (x)", SPREAD, dims={"x": "N,M"}, opset=13),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_agree_with_central_differences_and_with_onnx_runtime(case: Case) -> None:
    check(case)
