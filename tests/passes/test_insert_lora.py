"""`insert-lora`: it repairs, the emitted model says the same, every skip has its reason, a replay is the same file."""

import functools
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper

import lpcompile
from lpcompile.accounts.planned import planned_account
from lpcompile.errors import PassOptionError, PipelineError
from lpcompile.formats.arrays import F32
from lpcompile.formats.base import NumberFormat
from lpcompile.passes.insert_lora import InsertLora
from lpcompile.passes.side_paths import mac_ratio
from lpcompile.plan import Kernel, LayerPlan
from lpcompile.quant.codebook_search import Fitting
from lpcompile.quant.low_rank import METHODS
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.quant.rows import to_rows
from lpcompile.registry import pass_class
from lpcompile.report.document import layer_records, totals
from lpcompile.runtime.layer_check import check_layers
from lpcompile.target import Options
from tests.networks import without_costs
from tests.quantizing import NO_COSTS, Quantized, quantized
from tests.support import parse_model, random_feeds

# a convolution, one in groups, a thin one, a Gemm and a MatMul
NET = """m (float[2,8,6,6] x) => (float[2,40] y)
<float[32,8,3,3] w1, float[32] b1, float[32,16,1,1] w2, float[32] b2, float[4,32,1,1] w3, float[4] b3,
 float[144,48] w4, float[48] b4, float[48,40] w5> {
    [conv] a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)  ra = Relu (a)
    [grouped] b = Conv <group = 2> (ra, w2, b2)  rb = Relu (b)
    [thin] c = Conv (rb, w3, b3)  rc = Relu (c)
    f = Flatten (rc)
    [gemm] d = Gemm (f, w4, b4)  rd = Relu (d)
    [matmul] y = MatMul (rd, w5)
}"""
GPTQ = "quantize-weights{format=fixp4,granularity=group,group-size=16,rule=output-mse,rounding=gptq,sweeps=0}"
NAME = "insert-lora"
REPAIRED = {"conv", "gemm", "matmul"}


def repaired(options: str = "rank=4", *, rounding: str = GPTQ, calls: int = 12) -> Quantized:
    return quantized(NET, f"{NO_COSTS},{rounding},{NAME}{{{options}}}", calls=calls)


def changed(found: Quantized) -> set[str]:
    return {c.node for c in found.reports[NAME].changes}


def assert_exact(found: Quantized, layers: set[str]) -> None:
    """ONNX Runtime and the numpy reference give the same integers."""
    checks = check_layers(found.emitted(), random_feeds(found.original, seed=3))
    assert {c.name for c in checks} >= layers
    assert all(c.different == 0 for c in checks if c.name in layers)


@functools.cache
def rounded() -> Quantized:
    """Without paths; made once, so do not change it."""
    return quantized(NET, f"{NO_COSTS},{GPTQ}", calls=12)


def output_losses(found: Quantized) -> dict[str, float]:
    """tr(E H E^T) of layers by the metrics that GPTQ gathers."""
    metrics = rounded().context.metrics
    losses = {}
    for name in REPAIRED:
        node, plan = found.graph.node(name), found.layers[name]
        assert plan.tensor is not None
        weight = node.inputs[1]
        assert weight is not None
        e = to_rows(node.op, weight.values).astype(np.float64) - plan.tensor.dequantize()
        losses[name] = float(np.sum((e @ metrics[name].matrix[0]) * e))
    return losses


@pytest.mark.sweep
@pytest.mark.parametrize("method", METHODS)
def test_every_method_brings_outputs_nearer(method: str) -> None:
    nearest = GPTQ.replace("gptq", "nearest")
    before = quantized(NET, f"{NO_COSTS},{nearest}", calls=12)
    found = repaired(f"rank=4,method={method}", rounding=nearest)
    assert changed(found) == REPAIRED
    losses, earlier = output_losses(found), output_losses(before)
    assert all(losses[name] < earlier[name] for name in REPAIRED)
    for name in REPAIRED:
        layer = found.layers[name]
        assert (layer.weight.rank, layer.weight.side_path) == (4, method)
        assert layer.tensor is not None
        assert layer.codes_sha256 == layer.tensor.digest()


@pytest.mark.thorough
def test_by_the_full_matrix_outputs_come_nearest_for_the_same_codes() -> None:
    losses = {m: output_losses(repaired(f"method={m}")) for m in ("qera", "lqer", "svd")}
    for name in REPAIRED:
        assert losses["qera"][name] < losses["lqer"][name] * 1.001
        assert losses["qera"][name] < losses["svd"][name]


@pytest.mark.thorough
def test_the_emitted_model_computes_what_the_plan_says() -> None:
    found = repaired()
    assert_exact(found, REPAIRED)
    assert found.sqnr_db() > rounded().sqnr_db()


@pytest.mark.sweep
@pytest.mark.parametrize(("sweeps", "fits"), [(0, 1), (1, 2)])
def test_codes_that_are_the_same_are_not_chosen_twice(
    sweeps: int, fits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the rest of its weights, a layer is fitted as a whole only where it was rounded otherwise before."""
    told, counted = Fitting.fit, Counter[str]()

    def fit(self: Fitting, rows: F32, fmt: NumberFormat) -> QuantizedTensor:
        counted["fits"] += 1
        return told(self, rows, fmt)

    def fitted_by(options: str) -> tuple[int, list[str]]:
        counted.clear()
        found = quantized(NET, f"{NO_COSTS},{GPTQ}{options}", calls=12)
        return counted["fits"], [plan.codes_sha256 for plan in found.layers.values()]

    monkeypatch.setattr(Fitting, "fit", fit)
    before, _ = fitted_by("")
    repaired_by = f",{NAME}{{rank=4,sweeps={sweeps}}}"
    after, codes = fitted_by(repaired_by)
    assert after - before == fits * len(REPAIRED)
    monkeypatch.setattr(InsertLora, "_carried_out", lambda *_: False)
    anew, same = fitted_by(repaired_by)
    assert anew - before == 2 * len(REPAIRED)
    assert codes == same


def test_a_second_run_changes_no_plan() -> None:
    found = repaired()
    plan = found.graph.plan
    found.rerun(NAME)
    assert {k: v.codes_sha256 for k, v in found.layers.items()} == {
        k: v.codes_sha256 for k, v in plan.layers.items()
    }


def test_layers_that_take_no_path_say_why() -> None:
    found = repaired()
    assert found.skip_reason(NAME, "grouped") == "each of its 2 groups would need factors of its own"
    assert found.skip_reason(NAME, "thin") == "a path of rank 4 has 1.12 of its products, above 0.5"
    eight = repaired(rounding="quantize-weights{format=int8}")
    assert not changed(eight)
    assert eight.skip_reason(NAME, "conv") == "int8 has little to repair"
    floats = repaired(rounding="quantize-weights{format=posit4es1}")
    assert "no int8 image" in floats.skip_reason(NAME, "conv")


def test_layers_that_stay_packed_or_float_say_so() -> None:
    found = quantized(NET, f"{NO_COSTS},{GPTQ}", calls=12)
    layers = found.layers
    found.graph.plan = found.graph.plan.with_layer("gemm", replace(layers["gemm"], kernel=Kernel.NBITS))
    found.graph.plan = found.graph.plan.with_layer("matmul", LayerPlan(reason="asked for"))
    report = found.rerun(NAME)[NAME]
    reasons = {s.node: s.reason for s in report.skips}
    assert reasons["gemm"].startswith("its codes stay packed")
    assert reasons["matmul"] == "it was not rounded"


def test_without_samples_factors_are_blind_to_inputs() -> None:
    found = repaired(calls=0)
    assert changed(found) == REPAIRED
    told = {c.node: c.what for c in found.reports[NAME].changes}
    assert "loftq instead of lowrank-first: no calibration data" in told["conv"]
    assert found.layers["conv"].weight.side_path == "loftq"


@pytest.mark.sweep
@pytest.mark.parametrize("rank", [1, 40, 512])
def test_any_rank_is_cut_to_the_size_of_the_layer(rank: int) -> None:
    found = repaired(f"rank={rank},most-macs=100")
    for name in changed(found):
        tensor = found.layers[name].tensor
        assert tensor is not None
        assert tensor.side is not None
        assert tensor.side.rank <= min(rank, *tensor.shape)


def test_weights_that_two_layers_read_are_repaired_for_each() -> None:
    shared = """m (float[6,64] x) => (float[6,64] y) <float[64,64] w, float[64] b> {
        [one] h = Gemm (x, w, b)  r = Relu (h)  [two] y = Gemm (r, w, b) }"""
    found = quantized(shared, f"{NO_COSTS},{GPTQ},{NAME}{{rank=4}}", calls=12)
    assert changed(found) == {"one", "two"}
    assert_exact(found, changed(found))


def test_an_output_that_the_path_holds_whole_spoils_no_other() -> None:
    """Its residual is nothing, and in units of the scale of nothing its factors would take all of their 8 bits."""
    model = parse_model(NET)
    (w5,) = (t for t in model.graph.initializer if t.name == "w5")
    values = numpy_helper.to_array(w5).copy()
    values[:, 7] *= 300
    w5.CopyFrom(numpy_helper.from_array(values, "w5"))
    found = quantized(model, f"{NO_COSTS},{GPTQ},{NAME}{{rank=4}}", calls=12)
    tensor = found.layers["matmul"].tensor
    assert tensor is not None
    assert tensor.side is not None
    row = np.abs(tensor.side.product()).max(axis=1)
    assert 127 < row[7] == row.max() < 4.5 * 127
    assert np.abs(tensor.side.b[np.arange(40) != 7]).max() > 30


@pytest.mark.thorough
def test_what_is_rounded_again_keeps_its_path() -> None:
    found = repaired()
    found.rerun("correct-bias,requantize-weights")
    for name in REPAIRED:
        tensor = found.layers[name].tensor
        assert tensor is not None
        assert tensor.side is not None
    assert_exact(found, changed(found))


@pytest.mark.thorough
def test_what_learns_codes_leaves_repaired_layers_alone_and_scales_move_with_their_path() -> None:
    found = repaired()
    before = found.layers
    reports = found.rerun("reconstruct-blocks{iterations=2},tune-weights{epochs=1},tune-scales{epochs=1}")
    for name in ("reconstruct-blocks", "tune-weights"):
        reasons = {s.node: s.reason for s in reports[name].skips}
        assert reasons["gemm"].startswith("a side path repairs its codes as they are")
    for name in REPAIRED:
        was, now = before[name].tensor, found.layers[name].tensor
        assert was is not None
        assert now is not None
        assert now.side is was.side
        np.testing.assert_array_equal(now.codes, was.codes)
    assert_exact(found, REPAIRED)


@pytest.mark.thorough
def test_the_report_counts_bytes_bits_and_products() -> None:
    found = repaired()
    plain = quantized(NET, f"{NO_COSTS},{GPTQ}", calls=12)
    target = found.context.target
    assert target is not None
    records, without = (
        {r.name: r for r in layer_records(q.graph, target.emit(q.graph, Options()).weight_bytes)}
        for q in (found, plain)
    )
    assert {name: r.rank for name, r in records.items()} == {
        **dict.fromkeys(records, 0),
        **dict.fromkeys(REPAIRED, 4),
    }
    shapes = {"conv": (32, 72), "gemm": (48, 144), "matmul": (40, 48)}
    for name, (m, n) in shapes.items():
        more = records[name].weight_bytes - without[name].weight_bytes
        assert more == 4 * (m + n) + 4 + 4 + m + 4  # factors, a multiplier a rank, a step a row, two units
    side = sum(records[n].macs * mac_ratio(4, *shape) for n, shape in shapes.items())
    sums = totals(list(records.values()), found.graph, planned_account(found.graph))
    assert sums["side_path_mac_fraction"] == pytest.approx(side / sums["macs"])


def test_options_are_checked() -> None:
    for options, words in (
        ({"rank": 0}, "at least 1"),
        ({"rank": 513}, "at most 512"),
        ({"method": "pca"}, "is one of qera"),
        ({"factors": "int4"}, "is one of int8"),
        ({"most-macs": 0}, "is positive"),
    ):
        with pytest.raises(PassOptionError, match=words):
            pass_class(NAME).configured(options)
    with pytest.raises(PipelineError, match="requires 'weights-quantized'"):
        quantized(NET, NAME, calls=0)


# from end to end


def compiled(monkeypatch: pytest.MonkeyPatch, **options: object) -> lpcompile.Artefacts:
    without_costs(monkeypatch)
    model = parse_model(NET)
    calls = [random_feeds(model, seed=i) for i in range(12)]
    return lpcompile.compile(model, calibration=calls, **options)  # type: ignore[arg-type]


@pytest.mark.thorough
def test_a_replay_is_the_same_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = compiled(monkeypatch, recipe="npp", rank=4)
    assert 'side_path = "lowrank-first"' in first.decisions
    file = tmp_path / "decisions.toml"
    file.write_text(first.decisions, "utf-8")
    again = compiled(monkeypatch, decisions=file)
    assert again.model.SerializeToString() == first.model.SerializeToString()
    assert not [w for w in again.report["warnings"] if "codes" in w]


@pytest.mark.thorough
def test_a_rank_is_asked_of_any_recipe_that_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = {
        (recipe, rank): {
            n["name"]: n["rank"] for n in compiled(monkeypatch, recipe=recipe, rank=rank).report["layers"]
        }
        for recipe, rank in (("w4a8", 2), ("w4a8", None), ("npp", 0), ("npp", 2))
    }
    assert ranks["npp", 2] == {**ranks["w4a8", 2], "conv": 0}  # the first layer has 8 bits
    assert ranks["w4a8", 2]["gemm"] == 2
    assert set(ranks["w4a8", None].values()) == set(ranks["npp", 0].values()) == {0}
