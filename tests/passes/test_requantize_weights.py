"""`requantize-weights`: outputs come nearer to the float ones, nothing is lost on the samples, every reason is said."""

from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import lpcompile
from lpcompile.analysis.calibration import Calibration
from lpcompile.analysis.measured import Judge
from lpcompile.analysis.rounded_network import rounded_network
from lpcompile.formats.arrays import F32, F64
from lpcompile.passes.least_scale import least_scale
from lpcompile.plan import Kernel, QuantPlan
from lpcompile.runtime.execution import observer
from tests.networks import without_costs
from tests.quantizing import NO_COSTS, Quantized, quantized, same_plan
from tests.support import parse_model, random_feeds, run_model

requantize_weights = import_module("lpcompile.passes.requantize_weights")  # the function has its name

# a plain, a depthwise and a grouped convolution, and a MatMul without bias
CNN = """m (float[2,3,8,8] x) => (float[2,5] y)
<float[8,3,3,3] w1, float[8] b1, float[8,1,3,3] w2, float[8] b2, float[12,4,1,1] w3, float[12] b3, float[12,5] w4> {
    [stem] a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)  ra = Relu (a)
    [depthwise] b = Conv <group = 8, pads = [1, 1, 1, 1]> (ra, w2, b2)  rb = Relu (b)
    [grouped] c = Conv <group = 2> (rb, w3, b3)  rc = Relu (c)
    p = GlobalAveragePool (rc)  f = Flatten (p)  [head] y = MatMul (f, w4)
}"""
SHARED = """m (float[6,12] x) => (float[6,12] y) <float[12,12] w, float[12] b> {
    [one] h = Gemm (x, w, b)  r = Relu (h)  [two] y = Gemm (r, w, b)
}"""
GPTQ = "quantize-weights{format=fixp4,rule=mse,rounding=gptq}"
NAME = "requantize-weights"
FORMATS = (
    "format=fixp4",
    "format=fixp4,granularity=group,group-size=8,scale-format=ufloat8_e4m4",
    "format=nf4",
)
AS_THEY_ARE = "its codes and its bias suit these inputs as they are"


def rounded(text: str = CNN, passes: str = GPTQ, *, calls: int = 16) -> Quantized:
    return quantized(text, f"{NO_COSTS},{passes}", calls=calls)


def noise(found: Quantized, plan: QuantPlan | None = None) -> float:
    """Of the outputs that the rounded float network gives on the deciding calls, over their power."""
    assert found.context.calibration is not None
    calls = found.context.calibration.deciding
    judge = Judge(observer(found.graph, ["y"]), calls, ["y"], per_sample=False)
    network = rounded_network(found.graph, found.graph.plan if plan is None else plan)
    return float(judge.noise_terms(observer(network, ["y"])).mean())


def emitted_noise(found: Quantized) -> float:
    """The same by the emitted model in ONNX Runtime."""
    assert found.context.calibration is not None
    errors = power = 0.0
    emitted = found.emitted()
    for feeds in found.context.calibration.deciding:
        wanted = run_model(found.original, feeds)["y"].astype(np.float64)
        errors += np.square(run_model(emitted, feeds)["y"] - wanted).sum()
        power += np.square(wanted).sum()
    return float(errors / power)


@pytest.mark.sweep
@pytest.mark.parametrize("options", FORMATS)
def test_outputs_come_nearer_on_the_samples(options: str) -> None:
    found = rounded(passes=f"quantize-weights{{{options},rule=mse,rounding=gptq}}")
    before, emitted = noise(found), emitted_noise(found)
    report = found.rerun(NAME)[NAME]
    assert {c.node for c in report.changes} > {"depthwise", "grouped"}
    after = noise(found)
    assert after < 0.95 * before
    assert report.metrics["gain_db"] == pytest.approx(10 * np.log10(before / after))
    assert emitted_noise(found) < emitted
    for layer in found.layers.values():
        assert layer.tensor is not None
        assert layer.codes_sha256 == layer.tensor.digest()


def test_earlier_errors_are_made_good_for() -> None:
    """Half of the channels before are too small: the layer after them follows, also on samples that decided nothing."""
    found = rounded(SHARED, f"{GPTQ},correct-bias", calls=60)
    plan = found.graph.plan
    first = plan.layers["one"]
    assert first.tensor is not None
    scales = np.asarray(first.tensor.scales, np.float32).copy()
    scales[::2] *= np.float32(0.7)
    tensor = replace(first.tensor, scales=scales)
    found.graph.plan = plan.with_layer(
        "one", replace(first, tensor=tensor, weight=replace(first.weight, rounding="nearest"))
    )
    before = noise(found), unseen_noise(found)
    found.rerun(NAME)
    assert noise(found) < 0.5 * before[0]
    assert unseen_noise(found) < 0.5 * before[1]
    assert found.layers["one"].tensor is tensor  # only its bias moved


def unseen_noise(found: Quantized) -> float:
    calls = [random_feeds(found.original, seed=5000 + i) for i in range(40)]
    judge = Judge(observer(found.graph, ["y"]), calls, ["y"], per_sample=False)
    return float(judge.noise_terms(observer(rounded_network(found.graph, found.graph.plan), ["y"])).mean())


def test_mean_outputs_are_those_of_the_float_layers() -> None:
    """Biases are empirical: what each layer gives in the rounded network has the mean that it has in the float one."""
    found = rounded()
    assert found.rerun(NAME)[NAME].changes
    assert found.context.calibration is not None
    network = rounded_network(found.graph, found.graph.plan)
    for tensor in ("a", "b", "c"):
        means = []
        for graph in (found.graph, network):
            run = observer(graph, [tensor])
            means.append(
                np.mean([run(c)[tensor] for c in found.context.calibration.deciding], (0, 1, 3, 4), float)
            )
        # inputs of a layer are counted once all before it are rounded, so only codes of its own can differ: not at all
        np.testing.assert_allclose(means[1], means[0], atol=1e-5)


@pytest.mark.sweep
@pytest.mark.parametrize("options", [*FORMATS, "format=int8"])
def test_no_run_loses_and_the_second_one_finds_next_to_nothing(options: str) -> None:
    found = rounded(passes=f"quantize-weights{{{options},rule=mse,rounding=gptq}},correct-bias,{NAME}")
    levels = [noise(found)]
    for _ in range(2):
        before, report = found.graph.copy(), found.rerun(NAME)[NAME]
        levels.append(noise(found))
        if not report.changes:
            assert same_plan(before, found.graph)
    assert levels[0] >= levels[1] >= levels[2]
    assert levels[2] > 0.95 * levels[0]


def test_where_a_second_run_changes_nothing_it_says_so() -> None:
    found = rounded(passes=f"{GPTQ},{NAME}")
    before, report = found.graph.copy(), found.rerun(NAME)[NAME]
    assert report.changes == []
    assert same_plan(before, found.graph)
    assert {s.reason for s in report.skips} == {AS_THEY_ARE}


@pytest.mark.thorough
def test_segments_change_the_time_and_next_to_nothing_else() -> None:
    one, many = (rounded(passes=f"{GPTQ},{NAME}{{segments={n}}}") for n in (1, 4))
    start = noise(rounded())
    assert noise(many) < 0.95 * start
    assert noise(one) <= start


def test_where_the_network_loses_all_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    found = rounded()
    before = found.graph.copy()

    def wrong(rounded: F32, mean: F64, rounded_mean: F64) -> F32:
        return np.full(len(rounded), 5.0, np.float32)

    monkeypatch.setattr(requantize_weights, "_shift", wrong)
    report = found.rerun(NAME)[NAME]
    assert same_plan(before, found.graph)
    assert report.changes == []
    assert report.metrics["gain_db"] < -1
    (reason,) = [s.reason for s in report.skips if s.node == "all layers"]
    assert reason == f"the network lost {-report.metrics['gain_db']:.2f} dB on the samples: codes stay"


@pytest.mark.parametrize("generated", [False, True])
def test_without_samples_every_layer_says_so(generated: bool) -> None:
    found = rounded(calls=8 if generated else 0)
    if generated:
        assert found.context.calibration is not None
        found.context.calibration = Calibration(found.context.calibration.calls, generated=True)
    before, report = found.graph.copy(), found.rerun(NAME)[NAME]
    assert same_plan(before, found.graph)
    assert {s.node: s.reason for s in report.skips} == dict.fromkeys(
        ("stem", "depthwise", "grouped", "head"), "no calibration data, so its inputs are not known"
    )


def test_layers_that_cannot_move_say_so() -> None:
    """Codes that were not chosen by moments stay; only a bias could move, and a MatMul has none."""
    found = rounded(passes="quantize-weights{format=int8}")
    codes = {n: layer.codes_sha256 for n, layer in found.layers.items()}
    report = found.rerun(NAME)[NAME]
    reason = "its codes were not chosen by the moments of its inputs, and it has no bias"
    assert [s.node for s in report.skips if s.reason == reason] == ["head"]
    assert {n: layer.codes_sha256 for n, layer in found.layers.items()} == codes


def test_inputs_whose_length_follows_from_rounded_values_are_left_alone() -> None:
    found = rounded(
        """m (float[1,8] x) => (float[A,2] z, float[1,8] y) <float[8,8] v, float[2,2] u> {
            [first] y = MatMul (x, v)
            r = Round (y)  n = NonZero (r)  t = Transpose <perm = [1, 0]> (n)  c = Cast <to = 1> (t)
            [last] z = MatMul (c, u) }""",
        "quantize-weights{format=fixp4,granularity=tensor,rounding=gptq}",
    )
    before, report = found.layers["last"], found.rerun(NAME)[NAME]
    assert "its input has another shape once earlier layers are rounded" in {
        s.reason for s in report.skips if s.node == "last"
    }
    assert found.layers["last"] == before


def test_a_layer_whose_matrix_is_left_out_keeps_its_codes() -> None:
    found = rounded(
        "m (float[1,4,5,5] x) => (float[1,3,6,6] y) <float[4,3,2,2] w> { [up] y = ConvTranspose (x, w) }"
    )
    report = found.rerun(NAME)[NAME]
    assert found.skip_reason("quantize-weights", "up").startswith(
        "not rounded with regard to its outputs: rows of"
    )
    assert [s.node for s in report.skips] == ["up"]
    assert report.changes == []


@pytest.mark.thorough
def test_layers_that_share_weights_each_follow_their_own_inputs() -> None:
    found = rounded(SHARED, f"{GPTQ},{NAME}", calls=40)
    one, two = found.layers["one"].tensor, found.layers["two"].tensor
    assert one is not None
    assert two is not None
    assert one.digest() != two.digest()
    np.testing.assert_allclose(emitted_noise(found), noise(found), rtol=0.2)


def test_scales_keep_the_bias_within_the_accumulator() -> None:
    model = parse_model(CNN)
    for tensor in model.graph.initializer:
        if tensor.name == "w2":
            tensor.raw_data = (np.frombuffer(tensor.raw_data, np.float32) * 1e-9).astype(np.float32).tobytes()
    found = quantized(model, f"{NO_COSTS},{GPTQ},{NAME}", calls=8)
    node, layer = found.graph.node("depthwise"), found.layers["depthwise"]
    assert layer.kernel is Kernel.INTEGER
    floor = least_scale(found.graph, node, layer.kernel)
    assert floor is not None
    assert layer.tensor is not None
    _, scale = layer.tensor.int8_image()
    assert (scale.reshape(-1) >= floor * (1 - 1e-5)).all()


@pytest.mark.thorough
@pytest.mark.parametrize("recipe", ["w4a8", "auto"])
def test_decisions_are_replayed_to_the_byte(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_costs(monkeypatch)
    model, path = parse_model(CNN), tmp_path / "decisions.toml"
    calls = [random_feeds(model, seed=i) for i in range(12)]
    first = lpcompile.compile(model, calibration=calls, recipe=recipe)
    done = next(p for p in first.report["passes"] if p["name"] == NAME)
    assert done["changes"]
    path.write_text(first.decisions, "utf-8")
    again = lpcompile.compile(model, calibration=calls, recipe=recipe, decisions=path)
    assert again.model.SerializeToString() == first.model.SerializeToString()
    assert again.decisions == first.decisions


@pytest.mark.sweep
@pytest.mark.parametrize("options", FORMATS)
def test_layers_keep_the_rounding_that_they_have(options: str) -> None:
    """Learned again for the new targets: other codes than GPTQ and its sweeps alone give, and no more noise."""
    made = {
        r: rounded(passes=f"quantize-weights{{{options},rule=mse,rounding={r},sweeps=0}}")
        for r in ("gptq", "adaround")
    }
    before = noise(made["adaround"])
    plain, learned = (m.rerun(NAME)[NAME] for m in made.values())
    assert {layer.weight.rounding for layer in made["adaround"].layers.values()} == {"adaround"}
    assert noise(made["adaround"]) < before
    assert [c.after for c in plain.changes] != [c.after for c in learned.changes]
