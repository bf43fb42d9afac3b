"""Models that contradict themselves, each once found by `tests.fuzz`: refused, or compiled for what they compute."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

import lpcompile
from lpcompile.backends.cim.container import from_bytes
from lpcompile.emission import Gate, _refusal
from lpcompile.errors import ModelError, PassError
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.layer_checks import check_layers
from lpcompile.ir.movement import bounds
from lpcompile.ir.shapes import drop_contradictions
from lpcompile.quant.input_metric import InputMetric
from lpcompile.recipes import load_recipe
from lpcompile.runtime.gate import Verdict
from lpcompile.runtime.layer_check import check_layers as check_calls
from lpcompile.runtime.sizes import Sizes
from tests.cli.cli_runner import lpcompile as command
from tests.fuzz.verdict import Case, judged
from tests.networks import toy, toy_calls
from tests.support import parse_model

CONV = """m (float[N,4,8,8] x) => (float[N,4,8,8] y)
<float[4,4,3,3] w, float[{bias}] b> {{ y = Conv <pads: ints = [1,1,1,1]{more}> (x, w, b) }}"""
GEMM = "m (float[N,4] x) => (float[N,3] y) <float[{dims}] w, float[{bias}] b> {{ y = Gemm (x, w, b) }}"
NORM = """m (float[N,4,8,8] x) => (float[N,4,8,8] y)
<float[4,4,1,1] w, float[4] g, float[{bias}] b, float[4] mean, float[4] var>
{{ t = Conv (x, w) y = BatchNormalization (t, g, b, mean, var) }}"""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (CONV.format(bias=8, more=""), "does not fit 4 channels"),
        (CONV.format(bias=4, more=", kernel_shape: ints = [3,5]"), "does not fit the kernel"),
        (CONV.format(bias=4, more=", group: int = 3"), "group"),
        (CONV.format(bias=4, more=", group: int = 0"), "group"),
        (GEMM.format(dims="4,3", bias=2), "does not fit 3 channels"),
        (GEMM.format(dims="4,3,1", bias=3), "is no matrix"),
        (NORM.format(bias=3), "not of one length"),
        ("m (float[N,4] x) => (float[N,4] y) <int64 axis> { y = Flatten (x, axis) }", "input size 2"),
        ('m (float[N,4] x) => (float[N,4] y) { y = Softmax <axis: string = "a"> (x) }', "axis"),
    ],
)
def test_constants_that_do_not_fit_are_named(text: str, found: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(parse_model(text, check=False), path)
    for words in ((str(path), "-t", "ort"), (str(path), "-t", "cim"), ("analyze", str(path), "--cost")):
        out = tmp_path / "out"
        case = Case(
            (*words, *(("-o", str(out)) if len(words) == 3 and words[1] == "-t" else ())), tmp_path, out
        )
        verdict = judged(case)
        assert (verdict.code, verdict.problem) == (3, None)
    shown = command("analyze", path, "--cost").stderr
    assert found in shown
    assert str(path) in shown


def declared(outputs: list[int], inner: list[int] | None = None) -> ModelProto:
    """The residual toy, which declares shapes that it does not compute."""
    model = ModelProto()
    model.CopyFrom(toy("residual_add"))
    for info, dims in (
        (model.graph.output[0], outputs),
        *((i, inner) for i in model.graph.value_info if inner),
    ):
        del info.type.tensor_type.shape.dim[:]
        for size in dims:
            info.type.tensor_type.shape.dim.add().dim_value = size
    return model


@pytest.mark.sweep
@pytest.mark.parametrize("outputs", [[1, 4, 65536, 8], [1, 4], [1, 4, 8, 8, 1]])
@pytest.mark.parametrize("target", ["ort", "cim"])
def test_what_a_model_computes_counts_and_not_what_it_declares(outputs: list[int], target: str) -> None:
    """Programs once had races where a declared size was believed."""
    calls = toy_calls("residual_add")
    made = lpcompile.compile(declared(outputs), target=target, recipe="int8", calibration=calls)
    good = lpcompile.compile(toy("residual_add"), target=target, recipe="int8", calibration=calls)
    np.testing.assert_array_equal(made.run(calls[0])["y"], good.run(calls[0])["y"])
    assert any(
        "declares types or shapes that it does not compute, of y" in w for w in made.report["warnings"]
    )
    assert not any("declares" in w for w in good.report["warnings"])


def test_declared_shapes_that_agree_or_cannot_be_checked_stay() -> None:
    text = "m (float[N,4] x) => (float[N,M] y) { t = my.Odd (x) y = Relu (t) }"
    header = '<ir_version: 8, opset_import: ["": 17, "my": 1]>'
    graph = LpGraph.from_proto(parse_model(f"{header} {text}", check=False))
    drop_contradictions(graph)
    assert graph.value("y").shape == ("N", "M")
    assert not graph.notes


def test_a_declared_type_that_is_not_computed() -> None:
    model = parse_model("m (float[2,4] x) => (float[2,4] y) { y = Relu (x) }")
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    graph = LpGraph.from_proto(model)
    drop_contradictions(graph)
    assert graph.value("y").dtype == np.float32


def test_a_layer_that_a_body_reads_keeps_its_name() -> None:
    """The program once looked for its weights under another one."""
    calls = toy_calls("if_body")
    made = lpcompile.compile(toy("if_body"), target="cim", calibration=calls, recipe="int8")
    (layer,) = (r for r in made.report["layers"] if r["name"] == "Gemm_0")
    assert not layer["weight_format"].startswith("float")
    assert "Gemm_0" in from_bytes(made.files["program.lpcim"]).nodes
    assert "Gemm_0" in {n.name for n in made.model.graph.node}
    wanted = calls[0]["x"] @ array("w") + array("b")
    wanted = np.maximum(wanted, 0) @ array("v")
    assert np.abs(made.run(calls[0])["y"] - wanted).max() < 0.05 * np.abs(wanted).max()


def array(name: str) -> np.ndarray:
    return numpy_helper.to_array(next(t for t in toy("if_body").graph.initializer if t.name == name))


def test_clip_bounds_that_are_no_scalars() -> None:
    text = "m (float[2] x) => (float[2] y) <float[{n}] low> {{ y = Clip (x, low) }}"
    two, one = (LpGraph.from_proto(parse_model(text.format(n=n), check=False)) for n in (2, 1))
    assert bounds(two.node("Clip_0")) is None
    low = one.value("low").values.item()
    assert bounds(one.node("Clip_0")) == (low, float("inf"))


def test_infinite_constants_of_a_norm_are_refused_in_silence(tmp_path: Path) -> None:
    model = parse_model(NORM.format(bias=4))
    for name, value in (("g", np.inf), ("mean", np.inf)):
        tensor = next(t for t in model.graph.initializer if t.name == name)
        tensor.CopyFrom(numpy_helper.from_array(np.full(4, value, np.float32), name))
    onnx.save(model, tmp_path / "model.onnx")
    words = (str(tmp_path / "model.onnx"), "-t", "ort", "--recipe", "int8", "-o", str(tmp_path / "out"))
    assert judged(Case(words, tmp_path)).problem is None


def test_a_size_that_nobody_has_memory_for_is_one_line(tmp_path: Path) -> None:
    """The runtime has a log of its own for allocations; it once wrote there as well."""
    text = "m (float[1] x) => (float[M] y) <int64[1] s = {4611686018427387904}> { y = Expand (x, s) }"
    onnx.save(parse_model(text), tmp_path / "model.onnx")
    verdict = judged(Case(("run", str(tmp_path / "model.onnx")), tmp_path))
    assert (verdict.code, verdict.problem) == (3, None)


def test_results_that_are_not_finite_are_told_of(tmp_path: Path) -> None:
    text = """m (float[2] x) => (float[2] y) <float[2] z = {0, 0}, bool[2] k = {1, 0}> {
        c = Div (x, z) a = Abs (c) d = Neg (a) y = Where (k, a, d) }"""  # infinity and its negative
    onnx.save(parse_model(text, check=False), tmp_path / "model.onnx")
    found = command("run", tmp_path / "model.onnx")
    assert found.exit_code == 0
    assert "warning: NaN or infinity in y" in found.stderr
    assert judged(Case(("run", str(tmp_path / "model.onnx")), tmp_path)).problem is None


def test_a_float_model_that_does_not_run_is_at_fault_itself(tmp_path: Path) -> None:
    text = "m (float[N,4] x) => (float[K,4] y) <int64[1] s> { t = MatMul (x, w) y = Reshape (t, s) }"
    text = text.replace("<int64[1] s>", "<int64[3] s = {7, -1, 0}, float[4,4] w>").replace(
        "[K,4] y", "[K,L,M] y"
    )
    onnx.save(parse_model(text, check=False), tmp_path / "model.onnx")
    out = tmp_path / "out"
    verdict = judged(Case((str(tmp_path / "model.onnx"), "-t", "ort", "-o", str(out)), tmp_path, out))
    assert verdict.problem is None


def verdict_of(model: ModelProto, tmp_path: Path, *words: str) -> tuple[int | None, str | None]:
    """Exit code and what is wrong with how a command ended."""
    path, out = tmp_path / "model.onnx", tmp_path / "-".join(("out", *words)).replace("/", "")
    onnx.save(model, path)
    analyses = words[:1] == ("analyze",)
    found = judged(
        Case(
            ("analyze", str(path), *words[1:]) if analyses else (str(path), *words, "-o", str(out)),
            tmp_path,
            None if analyses else out,
        )
    )
    return found.code, found.problem


def with_constant(text: str, name: str, values: object) -> ModelProto:
    model = parse_model(text, check=False)
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(values, np.float32), name))
    return model


def test_negative_variances_are_no_norm(tmp_path: Path) -> None:
    model = with_constant(NORM.format(bias=4), "var", [1, -1, 2, 1])
    for target in ("ort", "cim"):
        assert verdict_of(model, tmp_path, "-t", target, "--recipe", "int8")[1] is None


def test_large_inputs_of_layers_in_fp8_overflow_in_silence(tmp_path: Path) -> None:
    text = "m (float[N,8] x) => (float[N,6] y) <float[1] big, float[8,6] w> { t = Mul (x, big)  y = MatMul (t, w) }"
    model = with_constant(text, "big", [1e26])
    assert verdict_of(model, tmp_path, "-t", "ort", "--recipe", "dpq") == (0, None)


@pytest.mark.parametrize(("largest", "kind"), [(2e38, ModelError), (2e3, PassError)])
def test_values_near_the_end_of_float32_are_the_models_own_fault(
    largest: float, kind: type[Exception]
) -> None:
    outputs = {"y": np.array([1, -largest, np.inf], np.float32)}
    gate = Gate([{}], [outputs], Sizes(0, 0), None, load_recipe("int8"))
    refused = _refusal(Verdict("output 'y' of the compiled model is not finite"), gate)
    assert type(refused) is kind
    assert "is not finite" in refused.message
    assert ("near the end of float32" in refused.message) == (kind is ModelError)


def test_ranges_of_what_is_not_finite_are_not_compared() -> None:
    text = "m (float[N,8] x) => (float[N,6] y) <float[8,6] w> { y = MatMul (x, w) }"
    dynamic = "quantize-activations{cost=none, matmul=dynamic}"
    pipeline = f"canonicalize, fold-batchnorm, {dynamic}, quantize-weights{{format=int8}}"
    x = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    made = lpcompile.compile(parse_model(text), passes=pipeline, calibration={"x": x})
    assert "DynamicQuantMatMul" in str(made.model.graph.node)
    (found,) = (c for c in check_calls(made.model, {"x": x}) if c.op.startswith("DynamicQuant"))
    assert found.compared > 0
    x[1, 2] = np.nan
    (found,) = (c for c in check_calls(made.model, {"x": x}) if c.op.startswith("DynamicQuant"))
    assert (found.compared, found.different) == (0, 0)


def test_a_branch_without_a_condition(tmp_path: Path) -> None:
    model = toy("if_body")
    (node,) = (n for n in model.graph.node if n.op_type == "If")
    del node.input[:]
    assert verdict_of(model, tmp_path, "analyze", "--cost")[1] is None


def test_a_group_that_is_a_graph(tmp_path: Path) -> None:
    """A Gemm has no such attribute, so no check of layers looks at it."""
    model = toy("if_body")
    (gemm,) = (n for n in model.graph.node if n.op_type == "Gemm")
    body = onnx.helper.make_graph([], "g", [], [])
    gemm.attribute.append(onnx.helper.make_attribute("group", body))
    assert verdict_of(model, tmp_path, "analyze", "--cost")[1] is None


def test_a_function_in_our_own_domain_that_stays_is_named(tmp_path: Path) -> None:
    model = parse_model("m (float[2] x) => (float[2] y) { a = Exp (x)  y = Neg (a) }")
    body = onnx.helper.make_node("Relu", ["a"], ["b"])
    imports = [onnx.helper.make_opsetid("", 13)]  # the model has another
    model.functions.append(onnx.helper.make_function("lpcompile", "f", ["a"], ["b"], [body], imports))
    model.opset_import.append(onnx.helper.make_opsetid("lpcompile", 1))
    model.graph.node[1].CopyFrom(onnx.helper.make_node("f", ["a"], ["y"], domain="lpcompile"))
    assert verdict_of(model, tmp_path, "-t", "cim", "--recipe", "int8") == (3, None)
    with pytest.raises(ModelError, match="'lpcompile::f' cannot be inlined"):
        LpGraph.from_proto(model)


def test_moments_beyond_float32_stay_at_its_end() -> None:
    largest = np.finfo(np.float32).max
    moments = np.full((1, 3, 3), largest, np.float32)
    metric = InputMetric.of(moments, np.zeros((1, 3)), centred=False, step=2e19)  # its noise goes beyond
    assert np.array_equal(metric.matrix, moments)


def test_groups_that_are_a_list() -> None:
    model = parse_model(CONV.format(bias=4, more=", group: ints = [1, 2]"), check=False)
    with pytest.raises(ModelError, match="'group' is no number"):
        check_layers(LpGraph.from_proto(model))


def test_an_input_that_no_memory_holds(tmp_path: Path) -> None:
    text = "m (float[4611686018427387904,4] x) => (float[M,3] y) <float[4,3] w> { y = MatMul (x, w) }"
    assert verdict_of(parse_model(text, check=False), tmp_path, "-t", "ort", "--recipe", "fp32")[1] is None
