"""Mirror images of samples: which axis, who sees them, and that decisions remember them."""

from pathlib import Path

import numpy as np
import pytest

import lpcompile
from lpcompile.analysis.calibration import Calibration
from lpcompile.analysis.inputs import InputSpec
from lpcompile.analysis.mirrored_samples import mirrored
from lpcompile.errors import CalibrationError
from tests.support import parse_model

NET = "m (float[N,3,6,5] x) => (float[N,4,6,5] y) <float[4,3,1,1] w> { [conv] y = Conv (x, w) }"


def calls(shape: tuple[int, ...], count: int = 8) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.normal(size=shape).astype(np.float32)} for _ in range(count)]


def spec(shape: tuple[int, ...]) -> InputSpec:
    return InputSpec("x", np.dtype(np.float32), shape)


@pytest.mark.parametrize(("shape", "axis"), [((2, 3, 6, 5), 3), ((2, 6, 5, 1), 2), ((1, 1, 6, 3), 3)])
def test_the_axis_of_the_width(shape: tuple[int, ...], axis: int) -> None:
    plain = Calibration(calls(shape))
    found = mirrored(plain, [spec(shape)])
    half = len(plain.deciding)
    assert len(found.deciding) == 2 * half
    for own, copy in zip(found.deciding[:half], found.deciding[half:], strict=True):
        np.testing.assert_array_equal(copy["x"], np.flip(own["x"], axis))
    assert found.judging == plain.judging, "what judges has not been seen"


def test_labels_are_those_of_the_images() -> None:
    labels = [np.array([i, i + 1]) for i in range(8)]
    plain = Calibration(calls((2, 3, 4, 4)), labels=labels)
    found = mirrored(plain, [spec((2, 3, 4, 4))])
    assert found.deciding_labels == plain.deciding_labels * 2


@pytest.mark.parametrize("shape", [(2, 7), (2, 5, 6, 7), (2, 3, 4)])
def test_what_is_no_image(shape: tuple[int, ...]) -> None:
    with pytest.raises(CalibrationError, match="no input holds images"):
        mirrored(Calibration(calls(shape)), [spec(shape)])


def test_only_images_are_mirrored() -> None:
    given = [{**c, "n": np.arange(2)} for c in calls((2, 3, 4, 4))]
    found = mirrored(Calibration(given), [spec((2, 3, 4, 4)), InputSpec("n", np.dtype(np.int64), (2,))])
    np.testing.assert_array_equal(found.deciding[-1]["n"], [0, 1])


def test_decisions_remember_them(tmp_path: Path) -> None:
    model, data = parse_model(NET), calls((2, 3, 6, 5))
    made = lpcompile.compile(model, target="ort", calibration=data, recipe="w4a8", mirror_samples=True)
    plain = lpcompile.compile(model, target="ort", calibration=data, recipe="w4a8")
    kept = tmp_path / "decisions.toml"
    kept.write_text(made.decisions)
    again = lpcompile.compile(model, target="ort", calibration=data, recipe="w4a8", decisions=kept)
    assert again.decisions == made.decisions
    assert again.model.SerializeToString() == made.model.SerializeToString()
    assert not [w for w in again.report["warnings"] if "calibration data" in w]
    assert 'mirror_samples = "true"' in made.decisions
    assert "mirror_samples" not in plain.decisions
    assert "--mirror-samples" in made.report["created_with"]["command"]


def test_without_samples() -> None:
    with pytest.raises(CalibrationError, match="no samples to mirror"):
        lpcompile.compile(parse_model(NET), target="ort", mirror_samples=True)
