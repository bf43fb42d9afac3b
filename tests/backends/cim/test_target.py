"""What the `cim` target takes, what it leaves to the host and why, and the graphs that come of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

import lpcompile
from lpcompile import registry
from lpcompile.backends.cim.target import CimTarget
from lpcompile.errors import InputError, PassError, PipelineError, TargetError
from lpcompile.formats.base import resolve
from lpcompile.formats.planned import format_of
from lpcompile.ir.graph import LpGraph
from lpcompile.progress import Progress, no_progress
from lpcompile.quant.dyadic_numbers import DyadicNumbers
from lpcompile.runtime.gate import Verdict
from lpcompile.target import Options, Products, Trial
from tests.support import parse_model, random_feeds, run_model

SQUEEZE = ["DyadicGlobalAveragePool", "Lookup", "DyadicMul"]
NETWORK = """
    net (float[N,{c},4,4] x) => (float[N,3] y)
    <float[6,{c},3,3] w1, float[6] b1, float[6,6,3,3] w2, float[6] b2, float[6,3] w3, float[3] b3> {{
        a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
        b = Relu (a)
        {middle}
        f = Conv <pads = [1, 1, 1, 1]> (e, w2, b2)
        g = GlobalAveragePool (f)
        h = Flatten (g)
        i = Gemm (h, w3, b3)
        y = Softmax (i)
    }}"""


def network(middle: str = "e = MaxPool <kernel_shape = [2, 2]> (b)", c: int = 4) -> ModelProto:
    model = parse_model(NETWORK.format(middle=middle, c=c))
    for node in model.graph.node:
        node.name = f"n_{node.output[0]}"
    return model


def compiled(model: ModelProto, recipe: str = "int8", **options: Any) -> lpcompile.Artefacts:
    calls = [random_feeds(model, seed=i) for i in range(6)]
    return lpcompile.compile(model, target="cim", calibration=calls, recipe=recipe, **options)


def ops(made: lpcompile.Artefacts) -> list[str]:
    return [n.op_type for n in made.model.graph.node]


def skips(made: lpcompile.Artefacts) -> dict[str, str]:
    (found,) = [p for p in made.report["passes"] if p["name"] == "quantize-activations"]
    return {s["node"]: s["reason"] for s in found["skips"]}


def test_support_of_layers() -> None:
    target = CimTarget()
    for op in ("Conv", "Gemm", "MatMul"):
        assert target.supports(op, resolve("posit4")).yes
    assert "no int8 image" in target.supports("Conv", resolve("posit8")).reason
    assert "ConvTranspose" in target.supports("ConvTranspose", resolve("int8")).reason


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        ("y = Relu (x)", ""),
        ("y = Sigmoid (x)", ""),
        ("y = Add (x, x)", ""),
        ("y = Mul (x, channels)", ""),
        ("y = Div (x, one)", ""),
        ("y = GlobalAveragePool (x)", ""),
        ("y = Softmax (x)", "the machine has no Softmax"),
        ("y = Div (x, x)", "neither a sum"),
        ("y = Add (x, whole)", "neither a sum"),
        ("y = Concat <axis = 0> (x, whole)", "one operand is a constant"),
    ],
)
def test_support_without_weights(node: str, reason: str) -> None:
    constants = "float one, float[4,1,1] channels, float[1,4,3,3] whole"
    text = f"g (float[1,4,3,3] x) => (float[a,b,c,d] y) <{constants}> {{ {node} }}"
    graph = LpGraph.from_proto(parse_model(text))
    found = CimTarget().refuses(graph.nodes()[0], 17)
    assert reason in found
    assert bool(found) == bool(reason)
    assert "opset 13" in CimTarget().refuses(LpGraph.from_proto(parse_model(text)).nodes()[0], 12) or reason


@pytest.mark.thorough
def test_a_network_stays_on_integers_between_its_ends() -> None:
    made = compiled(network())
    assert ops(made) == [
        "QuantizeLinear",
        "DyadicConv_int8",
        "MaxPool",
        "DyadicConv_int8",
        "DyadicGlobalAveragePool",
        "Flatten",
        "AccumulateGemm_int8",
        "DequantizeLinear",
        "Add",
        "Softmax",
    ]
    assert made.model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert made.report["target"] == "cim"
    assert made.report["verification"]["elements_different"] == 0
    assert skips(made) == {"n_y": "the machine has no Softmax, so it stays on the host"}
    feeds = random_feeds(network(), seed=9)
    whole = run_model(made.model, feeds)["y"]
    alone = [run_model(made.model, {"x": feeds["x"][i : i + 1]})["y"] for i in range(2)]
    np.testing.assert_array_equal(whole, np.concatenate(alone))


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("middle", "wanted"),
    [
        ("e = HardSwish (b)", ["Lookup"]),
        ("e = LeakyRelu (b)", ["Lookup"]),
        ("c = GlobalAveragePool (b)\nd = Sigmoid (c)\ne = Mul (b, d)", SQUEEZE),
        ("c = Transpose <perm = [0, 1, 3, 2]> (b)\ne = Add (b, c)", ["Transpose", "DyadicAdd"]),
        ("c = Sigmoid (b)\nd = Add (b, c)\ne = Relu (d)", ["Lookup"]),
        ("c = Sigmoid (b)\ne = Mul (b, c)", ["Lookup"]),
    ],
)  # fmt: skip
def test_what_stands_between_layers(middle: str, wanted: list[str]) -> None:
    made = compiled(network(middle))
    found = ops(made)
    assert found[2 : 2 + len(wanted)] == wanted
    assert found[2 + len(wanted)] == "DyadicConv_int8"


def test_a_bias_after_a_matrix_product_is_part_of_it() -> None:
    text = """net (float[N,5,8] x) => (float[N,5,3] y) <float[8,6] w1, float[6] b1, float[6,3] w2> {
        a = MatMul (x, w1)
        b = Add (b1, a)
        c = Relu (b)
        y = MatMul (c, w2) }"""
    made = compiled(parse_model(text))
    assert ops(made) == ["QuantizeLinear", "DyadicMatMul_int8", "AccumulateMatMul_int8", "DequantizeLinear"]
    feeds = random_feeds(parse_model(text), seed=9)
    wanted, found = run_model(parse_model(text), feeds)["y"], made.run(feeds)["y"]
    assert np.abs(wanted - found).max() < 0.05 * np.abs(wanted).max()


def test_moves_before_the_first_layer_run_on_codes() -> None:
    text = """net (float[N,8,8,4] x) => (float[N,6,8,8] y) <float[6,4,3,3] w> {
        t = Transpose <perm = [0, 3, 1, 2]> (x)
        y = Conv <pads = [1, 1, 1, 1]> (t, w) }"""
    made = compiled(parse_model(text))
    assert ops(made)[:4] == ["QuantizeLinear", "Transpose", "AccumulateConv_int8", "DequantizeLinear"]


def test_a_result_that_is_read_as_integers_and_as_floats() -> None:
    text = """net (float[N,4,8,8] x) => (float[N,6,8,8] t, float[N,6,8,8] y)
        <float[6,4,3,3] w1, float[6,6,3,3] w2> {
        t = Conv <pads = [1, 1, 1, 1]> (x, w1)
        y = Conv <pads = [1, 1, 1, 1]> (t, w2) }"""
    made = compiled(parse_model(text))
    assert sorted(ops(made)) == [
        "AccumulateConv_int8",
        "Add",  # of the corrected bias
        "DequantizeLinear",
        "DequantizeLinear",
        "DyadicConv_int8",
        "QuantizeLinear",
    ]


def test_layers_that_the_machine_lacks_stay_float_on_the_host() -> None:
    text = """net (float[N,4,8,8] x) => (float[N,3,10,10] y) <float[6,4,3,3] w1, float[6,3,3,3] w2> {
        t = Conv <pads = [1, 1, 1, 1]> (x, w1)
        y = ConvTranspose (t, w2) }"""
    made = compiled(parse_model(text))
    assert ops(made)[-1] == "ConvTranspose"
    (conv, transposed) = made.report["layers"]
    assert (conv["weight_format"], transposed["weight_format"]) == ("int8", "float32")
    assert "ConvTranspose" in transposed["reason"]


def test_a_node_on_the_host_divides_a_chain_of_functions() -> None:
    made = compiled(network("c = Tanh (b)\nd = Abs (c)\ne = Neg (d)"), host=("n_c",))
    assert ops(made).count("Tanh") == 1
    assert ops(made).count("Lookup") == 0  # what follows on floats stays there too


def test_host_nodes() -> None:
    made = compiled(network(), host=("n_f",))
    assert made.report["layers"][1]["reason"] == "kept float on request"
    assert "Conv" in ops(made)
    with pytest.raises(InputError, match="no node 'n_q'"):
        compiled(network(), host=("n_q",))


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"recipe": "w4a8"}, ("fixp4", "channel")),
        ({"weight_format": "posit4"}, ("posit4", "channel")),
        ({"recipe": "w4a8", "weight_format": "nf4"}, ("nf4", "channel")),
        ({"recipe": "w4a8", "group_size": 4}, ("fixp4", "group4")),
    ],
)
def test_weight_formats_apply_to_every_layer(options: dict[str, Any], wanted: tuple[str, str]) -> None:
    made = compiled(network(c=40), **options)
    assert {r["weight_format"] for r in made.report["layers"]} == {wanted[0]}
    assert made.report["layers"][0]["weight_granularity"] == wanted[1]
    assert made.report["verification"]["elements_different"] == 0


def test_a_format_without_image_is_refused() -> None:
    with pytest.raises(TargetError, match="posit8: posit8 has no int8 image") as caught:
        compiled(network(), weight_format="posit8")
    assert caught.value.exit_code == 5


@pytest.mark.thorough
def test_forms_of_the_file() -> None:
    feeds = random_feeds(network(), seed=7)
    functions, standard = (compiled(network(), emit=form) for form in ("functions", "standard"))
    assert not standard.model.functions
    assert standard.report["verification"]["integer_layers_checked"] == 4
    np.testing.assert_array_equal(functions.run(feeds)["y"], standard.run(feeds)["y"])
    with pytest.raises(PipelineError, match="cannot emit 'qdq'"):
        compiled(network(), emit="qdq")


@pytest.mark.thorough
def test_decisions_replay_to_the_same_bytes(tmp_path: Path) -> None:
    first = compiled(network())
    path = tmp_path / "decisions.toml"
    path.write_text(first.decisions)
    second = compiled(network(), decisions=path)
    assert second.model.SerializeToString() == first.model.SerializeToString()


def test_symbolic_axes() -> None:
    text = """net (float[N,4,h,8] x) => (float[N,6,h2,6] y) <float[6,4,3,3] w> { y = Conv (x, w) }"""
    model = parse_model(text)
    with pytest.raises(TargetError, match=r"axis 2 of input 'x' is not fixed \('h'\)") as caught:
        lpcompile.compile(model, target="cim")
    assert "--input-shape x=1x4xhx8" in str(caught.value.hint)
    made = lpcompile.compile(model, target="cim", recipe="int8", input_shapes={"x": (1, 4, 8, 8)})
    assert "AccumulateConv_int8" in ops(made)
    rng = np.random.default_rng(0)
    other, one = ([{"x": rng.random((2, 4, h, 8), np.float32)} for _ in range(4)] for h in (6, 7))
    made = lpcompile.compile(model, target="cim", recipe="int8", calibration=one)
    assert "AccumulateConv_int8" in ops(made)
    dims = made.model.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == ["N", 4, 7, 8]
    assert any("x=Nx4x7x8; --input-shape gives others" in w for w in made.report["warnings"])
    with pytest.raises(TargetError, match=r"axis 2 of input 'x' is not fixed \('h'\)"):
        lpcompile.compile(model, target="cim", recipe="int8", calibration=[*one, *other])
    branches = """net (bool c, float[N,h] x) => (float[N,h] y) {
        y = If (c) < then_branch = a () => (float[N,8] p) { p = Identity (x) },
                     else_branch = b () => (float[N,h] q) { q = Neg (x) }> }"""
    feeds = [{"c": np.array(False), "x": rng.random((2, 4), np.float32)} for _ in range(4)]
    with pytest.raises(TargetError, match=r"axis 1 of input 'x' is not fixed"):
        lpcompile.compile(parse_model(branches, check=False), target="cim", recipe="int8", calibration=feeds)


def test_an_old_opset_that_cannot_be_raised_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LpGraph, "raise_opset", lambda self, to: "no converter")
    with pytest.raises(TargetError, match="opset 11"):
        lpcompile.compile(parse_model(NETWORK.format(middle="e = Relu (b)", c=4), opset=11), target="cim")


def test_without_samples_ranges_are_generated_and_it_is_said() -> None:
    made = lpcompile.compile(network(), target="cim", recipe="int8")
    assert "DyadicConv_int8" in ops(made)
    assert any("generated inputs" in w for w in made.report["warnings"])
    assert "assumed" in made.report["assumptions"][0]["source"]
    assert made.report["quality"]["source"] == "generated inputs"


@pytest.mark.thorough
def test_without_a_recipe_formats_are_chosen_within_the_bits_or_as_near_as_can_be() -> None:
    """Scales of so few weights take more than the half bit that 4.5 leaves them."""
    calls = [random_feeds(network(), seed=i) for i in range(6)]
    made = lpcompile.compile(network(), target="cim", calibration=calls)
    assert made.report["recipe"] == "auto"
    assert {format_of(r["weight_format"]).bits for r in made.report["layers"]} == {4}
    bits = made.report["totals"]["bits_per_weight"]
    (said,) = (
        w for w in made.report["warnings"] if w.startswith("avg-bits cannot be brought to 4.5: the least is ")
    )
    assert bits > 4.5
    assert bits <= float(said.split()[9].rstrip(",")) <= bits * (1 + 1e-5)  # rounded up: it can be asked for
    assert made.report["verification"]["bit_exact_sim"]


def test_a_low_sqnr_is_a_warning_and_nothing_falls_back(tmp_path: Path) -> None:
    path = tmp_path / "strict.toml"
    recipe = "quantize-activations, quantize-weights{format=int2}"
    path.write_text(f'pipeline = "fold-batchnorm, {recipe}"\nmin-sqnr-db = 60\n')
    made = compiled(network(), recipe=str(path))
    assert {r["weight_format"] for r in made.report["layers"]} == {"int2"}
    assert any("below the recipe's 60 dB" in w for w in made.report["warnings"])


def test_a_failed_check_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = lambda *_, **__: Verdict("1 layers differ from the numpy reference: n_a", ["n_a"])  # noqa: E731
    monkeypatch.setattr("lpcompile.emission.judge", broken)
    with pytest.raises(PassError, match="differ from the numpy reference"):
        compiled(network())


def test_products_are_written_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    class Building(CimTarget):
        def build(
            self,
            reference: LpGraph,
            numbers: DyadicNumbers,
            options: Options,
            trial: Trial | None,
            progress: Progress = no_progress,
        ) -> Products:
            seen.update(reference=reference, numbers=numbers, options=options, trial=trial)
            report = {"machine": "m", "totals": {"energy_pj": 1.5}, "verification": {"bit_exact_sim": True}}
            return Products({"program.lpcim": b"P", "program.lpcasm": b"halt"}, report, ["costly"])

    monkeypatch.setattr(registry, "target", lambda _: Building())
    made = compiled(network(), machine="m", output=tmp_path / "out")
    assert (tmp_path / "out" / "program.lpcim").read_bytes() == b"P"
    report = made.report
    assert (report["machine"], report["totals"]["energy_pj"]) == ("m", 1.5)
    assert report["totals"]["macs"] > 0
    assert report["verification"]["bit_exact_sim"]
    assert report["verification"]["loads"]
    assert "costly" in report["warnings"]
    nodes = {n.name: n.op for n in seen["reference"].nodes() if n.domain}
    assert set(seen["numbers"].nodes) == set(nodes)
    assert set(seen["numbers"].weights) == {"n_a", "n_f", "n_i"}
    assert set(seen["numbers"].requants) == {"n_a", "n_f", "n_g"}
    assert seen["options"].machine == "m"
    assert set(seen["trial"].outputs) == {o.name for o in made.model.graph.output}
    # a later run for another target leaves no program of this one behind
    monkeypatch.undo()
    calls = [random_feeds(network(), seed=i) for i in range(6)]
    lpcompile.compile(
        network(), target="ort", calibration=calls, recipe="int8", output=tmp_path / "out", force=True
    )
    assert not (tmp_path / "out" / "program.lpcim").exists()


@pytest.mark.parametrize("given", [{"machine": "m"}, {"strict": True}, {"host": ("n_a",)}])
def test_options_of_machines_are_none_of_ort(given: dict[str, Any]) -> None:
    with pytest.raises(PipelineError, match="target 'ort' takes no option") as caught:
        lpcompile.compile(network(), target="ort", **given)
    assert caught.value.exit_code == 2
