"""quantize_static() beside ONNX Runtime's own: the same arguments, and outputs that are no worse."""

import contextlib
import inspect
import io
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime import quantization as rival
from onnxruntime.quantization.calibrate import create_calibrator

import lpcompile
from lpcompile.errors import CalibrationError, InputError, PassOptionError
from lpcompile.runtime.compare import compare
from lpcompile.static_quantisation import HONOURED, REFUSED, WITHOUT_EFFECT
from tests.networks import shipped, shipped_data, toy, toy_calls
from tests.support import run_model

NAME = "digits_resnet"
with np.load(shipped_data(NAME)) as _data:
    IMAGES = _data["image"]
with np.load(shipped_data(NAME, "eval")) as _data:
    FRESH, LABELS = {"image": _data["image"]}, _data["y"]
FLOAT = run_model(onnx.load(shipped(NAME)), FRESH)


class Reader(rival.CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self.calls = iter([{"image": IMAGES[i : i + 8]} for i in range(0, 64, 8)])

    def get_next(self) -> Any:
        return next(self.calls, None)


def quiet_static(path: Path, **given: Any) -> onnx.ModelProto:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lpcompile.quantize_static(shipped(NAME), path, Reader(), **given)
    return onnx.load(path)


def ops(model: onnx.ModelProto) -> Counter[str]:
    return Counter(n.op_type for n in model.graph.node)


def quality(model: onnx.ModelProto) -> tuple[float, int]:
    """SQNR against float on fresh images, and how many of them are told right."""
    found = run_model(model, FRESH)
    sqnr_db = compare([(FLOAT, found)]).sqnr_db
    assert sqnr_db is not None
    return sqnr_db, int((found["logits"].argmax(1) == LABELS).sum())


def test_every_argument_of_the_rival_is_one_of_ours() -> None:
    own, theirs = (
        list(inspect.signature(f).parameters) for f in (lpcompile.quantize_static, rival.quantize_static)
    )
    assert own[: len(theirs)] == theirs  # older versions have no cache path


def test_every_extra_option_of_the_rival_is_known() -> None:
    told = inspect.getdoc(rival.quantize_static) or ""
    known = {*HONOURED, *REFUSED, *WITHOUT_EFFECT}
    named = {line.split(" = ")[0].strip() for line in told.splitlines() if " = " in line}
    theirs = {n for n in named if n[:1].isupper() or n.startswith("extra.")} - {"True/False"}
    assert len(theirs) > 15
    assert theirs <= known


@pytest.mark.sweep
@pytest.mark.parametrize(
    "given", [{}, {"per_channel": True}, {"weight_type": rival.QuantType.QInt4, "per_channel": True}]
)
def test_no_worse_than_the_rival(given: dict[str, Any], tmp_path: Path) -> None:
    rival.quantize_static(str(shipped(NAME)), str(tmp_path / "rival.onnx"), Reader(), **given)
    theirs, right = quality(onnx.load(tmp_path / "rival.onnx"))
    ours, kept = quality(quiet_static(tmp_path / "own.onnx", **given))
    assert ours > theirs
    assert kept >= right - 1  # of 500; one image is noise


@pytest.mark.thorough
def test_forms(tmp_path: Path) -> None:
    for form, wanted in ((rival.QuantFormat.QDQ, "Conv"), ("QOperator", "QLinearConv")):
        model = quiet_static(tmp_path / "m.onnx", quant_format=form)
        assert ops(model)[wanted] == 13
        assert {n.domain for n in model.graph.node} == {""}


@pytest.mark.thorough
def test_scales_of_weights(tmp_path: Path) -> None:
    def sizes(**given: Any) -> set[int]:
        model = quiet_static(tmp_path / "m.onnx", **given)
        held = {t.name: t for t in model.graph.initializer}
        convs = {n.input[1] for n in model.graph.node if n.op_type == "Conv"}
        scales = [
            n.input[1] for n in model.graph.node if n.op_type == "DequantizeLinear" and n.output[0] in convs
        ]
        assert len(scales) == 13
        return {np.unique(onnx.numpy_helper.to_array(held[s])).size for s in scales}

    assert sizes() == {1}
    assert min(sizes(per_channel=True)) > 1


@pytest.mark.parametrize("reduced", [True, False])
def test_reduced_range_keeps_neighbours_within_int16(reduced: bool, tmp_path: Path) -> None:
    """u8 times the sum of two neighbours: channels of one tap in a convolution, inputs of a matrix."""
    model = quiet_static(tmp_path / "m.onnx", reduce_range=reduced, per_channel=True)
    weights = [
        onnx.numpy_helper.to_array(t).astype(int)
        for t in model.graph.initializer
        if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1
    ]
    rows = [np.moveaxis(w, 1, -1).reshape(len(w), -1) if w.ndim > 2 else w.T for w in weights]
    largest = max(np.abs(r[:, 0 : len(r[0]) - 1 : 2] + r[:, 1::2]).max() for r in rows)
    assert (255 * largest < 2**15) == reduced
    assert max(np.abs(w).max() for w in weights) > 64  # not a bit less for every weight


@pytest.mark.thorough
def test_nodes_and_operators_that_stay_float(tmp_path: Path) -> None:
    names = [n.name for n in onnx.load(shipped(NAME)).graph.node if n.op_type == "Conv"]

    def left(**given: Any) -> set[str]:
        """Convolutions whose weights are floats."""
        model = quiet_static(tmp_path / "m.onnx", **given)
        held = {t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
        return {n.name for n in model.graph.node if n.op_type == "Conv" and n.input[1] in held}

    assert left() == set()
    assert left(nodes_to_exclude=names[:2]) == set(names[:2])
    assert left(nodes_to_quantize=names[:3]) == set(names[3:])
    assert left(op_types_to_quantize=["Gemm"]) == set(names)


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("method", "extra"), [("MinMax", {}), ("Entropy", {}), ("Percentile", {"CalibPercentile": 99.0})]
)
def test_methods_give_different_ranges(method: str, extra: dict[str, Any], tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = lpcompile.quantize_static(
            shipped(NAME), tmp_path / "m.onnx", Reader(), calibrate_method=method, extra_options=extra
        )
    rule = {"MinMax": "minmax", "Entropy": "minmax", "Percentile": "percentile"}[method]
    assert f"rule={rule}" in made.decisions.replace('rule = "', "rule=")
    assert ("percentile=99.0" in made.decisions) == (method == "Percentile")


@pytest.mark.thorough
def test_entropy_of_the_rival_gives_the_whole_range(tmp_path: Path) -> None:
    """With 128 bins and 128 levels there is nothing to choose from; so it means the whole range here, too."""
    found = []
    for method in (rival.CalibrationMethod.MinMax, rival.CalibrationMethod.Entropy):
        made = create_calibrator(
            shipped(NAME), augmented_model_path=str(tmp_path / "augmented.onnx"), calibrate_method=method
        )
        with contextlib.redirect_stdout(io.StringIO()):
            made.collect_data(Reader())
            ranges = made.compute_data().data
        found.append({k: tuple(np.ravel(x).item() for x in r.range_value) for k, r in ranges.items()})
    assert len(found[0]) > 10
    assert found[0] == found[1]
    with pytest.warns(UserWarning, match="the whole range is its only candidate"):
        lpcompile.quantize_static(
            shipped(NAME), tmp_path / "m.onnx", Reader(), activation_type="QUInt8", calibrate_method="Entropy"
        )


def test_external_data(tmp_path: Path) -> None:
    quiet_static(tmp_path / "m.onnx", use_external_data_format=True)
    assert (tmp_path / "m.onnx.data").is_file()
    assert quality(onnx.load(tmp_path / "m.onnx"))[0] > 30


@pytest.mark.thorough
def test_smooth_quant_scales_channels(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = lpcompile.quantize_static(
            shipped(NAME), tmp_path / "m.onnx", Reader(), extra_options={"SmoothQuant": True}
        )
    assert ",equalize,quantize-activations" in made.decisions


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        ({"activation_type": rival.QuantType.QInt16}, "no activation_type=QInt16", "QUInt8"),
        ({"weight_type": "QFLOAT8E4M3FN"}, "no weight_type=QFLOAT8E4M3FN", "QInt4"),
        (
            {"calibrate_method": rival.CalibrationMethod.Distribution},
            "no calibrate_method=Distribution",
            "Entropy",
        ),
        ({"quant_format": "Q"}, "no quant_format=Q", "QDQ"),
        ({"calibration_cache_path": "c.json"}, "no calibration_cache_path", "decisions.toml"),
        *(({"extra_options": {k: "other"}}, f"no extra_options {k}=", h) for k, (_, h) in REFUSED.items()),
        ({"extra_options": {"SmoothQant": True}}, "there is no extra option 'SmoothQant'", "'SmoothQuant'"),
    ],
)
def test_what_cannot_be_done_is_refused(
    given: dict[str, Any], message: str, hint: str, tmp_path: Path
) -> None:
    with pytest.raises(PassOptionError) as caught:
        quiet_static(tmp_path / "m.onnx", **given)
    assert message in caught.value.message
    assert hint in str(caught.value.hint)
    assert not list(tmp_path.iterdir())


def test_defaults_of_the_rival_are_taken() -> None:
    for name, (same, _) in REFUSED.items():
        with pytest.raises(CalibrationError):  # nothing before it is at fault
            lpcompile.quantize_static(
                toy("residual_add"), "none", [], activation_type="QUInt8", extra_options={name: same}
            )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"activation_type": "QInt8"}, "stored as uint8"),
        ({"weight_type": "QUInt8"}, "stored as int8"),
        ({"weight_type": "QUInt4", "quant_format": "QOperator"}, "stored as int4"),
        ({"weight_type": "QInt4"}, "keeps them packed"),
        ({"calibration_providers": ["CUDAExecutionProvider"]}, "runs with CPUExecutionProvider"),
        *(({"extra_options": {k: True}}, what) for k, what in WITHOUT_EFFECT.items()),
    ],
)
def test_what_is_done_otherwise_is_said(given: dict[str, Any], said: str) -> None:
    with pytest.warns(UserWarning, match=said) as caught, pytest.raises(CalibrationError):
        lpcompile.quantize_static(toy("residual_add"), "none", [], **{"activation_type": "QUInt8", **given})
    assert {w.filename for w in caught} == {__file__}


def test_names_and_samples_are_checked(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="no calibration_data_reader"):
        lpcompile.quantize_static(shipped(NAME), tmp_path / "m.onnx")
    for given in ({"nodes_to_exclude": ["x"]}, {"nodes_to_quantize": ["x"]}):
        with pytest.raises(InputError, match="there is no node 'x'"):
            quiet_static(tmp_path / "m.onnx", **given)


def test_a_proto_and_plain_samples(tmp_path: Path) -> None:
    made = lpcompile.quantize_static(
        toy("residual_add"), tmp_path / "m.onnx", toy_calls("residual_add"), activation_type="QUInt8"
    )
    assert onnx.load(tmp_path / "m.onnx") == made.model
    assert ops(made.model)["QuantizeLinear"] > 0
