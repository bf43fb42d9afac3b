"""Resize in every mode: gradients that agree with differences, and with the forward pass of ONNX Runtime itself."""

import numpy as np
import pytest

from lpcompile.errors import GradientError
from tests.autodiff.cases import NARROW, Case, check, gradient
from tests.autodiff.gradients import probes_of, reverse_mode, runtime

X = {"x": (1, 2, 4, 5)}
HALF_DYNAMIC, DYNAMIC = {"x": "N,2,4,5"}, {"x": "N,2,H,W"}
TRANSFORMATIONS = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")


def _scaled(attrs: str, *scales: float, dims: dict[str, str] | None = None, opset: int = 17) -> Case:
    return Case(
        f"y = Resize <{attrs}> (x, , s)", X, {"s": np.array(scales, np.float32)}, dims=dims or {}, opset=opset
    )


def _sized(attrs: str, *sizes: int, dims: dict[str, str] | None = None, opset: int = 17) -> Case:
    return Case(f"y = Resize <{attrs}> (x, , , s)", X, {"s": list(sizes)}, dims=dims or {}, opset=opset)


def _modes(mode: str, transformation: str, nearest: str = "round_prefer_floor") -> str:
    attrs = f'mode = "{mode}", coordinate_transformation_mode = "{transformation}"'
    return attrs if mode != "nearest" else f'{attrs}, nearest_mode = "{nearest}"'


CASES = [
    *(
        case
        for mode in ("nearest", "linear", "cubic")
        for transformation in TRANSFORMATIONS
        for attrs in [_modes(mode, transformation)]
        for case in (
            _scaled(attrs, 1, 1, 2, 2),
            _sized(attrs, 1, 2, 7, 5, dims=HALF_DYNAMIC),
            _sized(attrs, 1, 2, 7, 3, dims=DYNAMIC, opset=13),
        )
    ),
    *(
        case
        for nearest in ("floor", "ceil", "round_prefer_ceil")
        for transformation in ("half_pixel", "asymmetric")
        for attrs in [_modes("nearest", transformation, nearest)]
        for case in (_scaled(attrs, 1, 1, 2, 3, dims=DYNAMIC), _scaled(attrs, 1, 1, 2, 0.7))
    ),
    _scaled(_modes("linear", "half_pixel"), 1, 1, 0.6, 1.7, dims=DYNAMIC),
    _scaled(_modes("linear", "half_pixel"), 1, 1, 1, 1),
    _scaled(_modes("nearest", "asymmetric", "floor"), 2, 1.5, 1, 3),
    _sized(_modes("nearest", "asymmetric", "floor"), 3, 2, 8, 5),
    _scaled('mode = "cubic", exclude_outside = 1, cubic_coeff_a = -0.5', 1, 1, 2, 1.5),
    _scaled('mode = "linear", antialias = 1', 1, 1, 0.5, 0.6, opset=18),
    _scaled('mode = "linear", axes = [3, 2]', 1.6, 2, opset=18),
    _scaled(_modes("linear", "half_pixel_symmetric"), 1, 1, 1.3, 0.7, opset=19),
    Case(
        'y = Resize <mode = "linear"> (x, , s)',
        {**X, "s": np.array([1, 1, 2, 1.5], np.float32)},
        wanted=("x",),
    ),
    Case('y = Resize <mode = "linear"> (x, , , s)', {**X, "s": [1, 2, 3, 7]}, dims={**DYNAMIC, "s": "4"}),
]


@pytest.mark.sweep
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_agree_with_central_differences_and_with_onnx_runtime(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("transformation", ["align_corners", "tf_crop_and_resize"])
def test_what_runtimes_read_differently_is_the_adjoint_of_what_this_one_does(
    mode: str, transformation: str
) -> None:
    # The reference evaluator and ONNX Runtime disagree about fractional scales with aligned corners, and about crops.
    attrs = f"{_modes(mode, transformation)}, extrapolation_value = 0.5"
    constants = {
        "s": np.array([1, 1, 0.6, 1.7], np.float32),
        "r": np.array([0, 0, 0.1, 0, 1, 1, 0.8, 1.2], np.float32),
    }
    case = Case(f"y = Resize <{attrs}> (x, r, s)", X, constants)
    model, feeds = case.model(NARROW), case.feeds(NARROW)
    found = reverse_mode(model, feeds, ["x"], runtime)["x"]
    y, y_of_zero = runtime(model, feeds)["y"], runtime(model, {"x": np.zeros_like(feeds["x"])})["y"]
    probe = probes_of({"y": y})["y"]
    assert found is not None
    np.testing.assert_allclose((found * feeds["x"]).sum(), (probe * (y - y_of_zero)).sum(), rtol=1e-4)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (_sized('keep_aspect_ratio_policy = "not_larger", axes = [2, 3]', 8, 8, opset=18), "keep_aspect_ratio_policy"),
        (Case("z = Reshape (x, s) y = Resize <mode = \"linear\"> (z, , f)", {**X, "s": [1, 2, 4, 5]},
              {"f": np.array([1, 1, 2, 2], np.float32)}, dims={"s": "K"}), "unknown rank"),
    ],
)  # fmt: skip
def test_what_has_no_gradient_is_refused(case: Case, message: str) -> None:
    with pytest.raises(GradientError, match=message):
        gradient(case)
