import numpy as np
import onnx
import pytest
from onnx import ModelProto

from lpcompile.analysis.regions import Regions, find_regions
from lpcompile.backends.ort.target import OrtTarget
from lpcompile.errors import TargetError
from lpcompile.formats.base import resolve
from lpcompile.ir.domain import ELEMENTWISE
from lpcompile.ir.function import DOMAIN
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.movement import CLAMPS, DATA_INPUTS
from lpcompile.plan import Kernel
from lpcompile.target import EMIT_FORMS, INTEGER_FORM, Options
from tests.support import parse_model, random_feeds, run_model
from tests.support_quant import FLOAT_FORMATS, IMAGE_FORMATS, Storing, layer_graph, plan_by_hand, stored_bytes


@pytest.mark.parametrize("op", ["Conv", "Gemm", "MatMul"])
@pytest.mark.parametrize("fmt", IMAGE_FORMATS)
def test_layers_have_integer_kernels_for_formats_with_an_image(op: str, fmt: str) -> None:
    assert OrtTarget().supports(op, resolve(fmt)).yes


@pytest.mark.parametrize("fmt", FLOAT_FORMATS)
def test_formats_without_an_image_are_refused_with_the_reason(fmt: str) -> None:
    support = OrtTarget().supports("Conv", resolve(fmt))
    assert not support.yes
    assert support.reason == f"{fmt} has no int8 image"


def test_transposed_convolutions_have_no_integer_kernel() -> None:
    assert "ConvTranspose" in OrtTarget().supports("ConvTranspose", resolve("int8")).reason


@pytest.mark.parametrize("opset", [13, 14, 21, 23])
def test_elementwise_operators_and_the_opset_that_has_them(opset: int) -> None:
    target = OrtTarget()
    for op in (*ELEMENTWISE, *DATA_INPUTS, *CLAMPS):
        exists = op != "HardSwish" or opset >= 14
        assert target.supports_elementwise(op, opset).yes == exists, op
    assert not target.supports_elementwise("Softmax", opset).yes


def test_an_unknown_cost_table_is_a_target_error() -> None:
    with pytest.raises(TargetError, match="nowhere"):
        OrtTarget("nowhere")


CONV = "a = Conv <kernel_shape=[3,3]> (x, w)"
POOL = "y = AveragePool <kernel_shape=[2,2]"
RESIZE = "p = Resize <mode="
CROP = 'coordinate_transformation_mode="tf_crop_and_resize"'
AFTER = "y = Conv <kernel_shape=[1,1]> (p, v)"
REFUSED = {
    f"{POOL}, strides=[2,2], ceil_mode=1, count_include_pad=1> (a)": "beyond the padding",
    f'{RESIZE}"linear"> (a, , s)': "nearest",
    f'{RESIZE}"nearest", {CROP}> (a, r, s)': "real value",
    "p, i = MaxPool <kernel_shape=[2,2]> (a)": "indices",
    f'{POOL}, auto_pad="SAME_UPPER"> (a)': "padding depends",
    "p = Add (a, k)": "constant",
}
TAKEN = (
    f"{POOL}, strides=[2,2], ceil_mode=1> (a)",
    f'{RESIZE}"nearest"> (a, , s)',
    "p = MaxPool <kernel_shape=[2,2]> (a)",
    "p = Add (a, a)",
)


def regions_of(node: str) -> Regions:
    after = AFTER if node.startswith("p") else ""
    output = "y, float[N,M,K,L] i" if "i =" in node else "y"
    model = parse_model(
        f"""g (float[1,3,9,9] x) => (float[N,M,H,W] {output}) <float[4,3,3,3] w, float[2,4,1,1] v,
        float[4] s = {{1.0,1.0,2.0,2.0}}, float[8] r = {{0.0,0.0,0.0,0.0,1.0,1.0,1.2,1.2}},
        float[1] k = {{0.5}}>
        {{ {CONV}\n {node}\n {after} }}""",
        check=False,
    )
    model.graph.node[1].name = "middle"
    graph = LpGraph.from_proto(model)
    return find_regions(graph, OrtTarget(), graph.layers())


@pytest.mark.parametrize("node", REFUSED)
def test_what_integers_would_get_wrong_stays_float(node: str) -> None:
    found = regions_of(node)
    assert REFUSED[node] in found.skipped["middle"]
    assert "middle" not in found.elementwise


@pytest.mark.parametrize("node", TAKEN)
def test_what_integers_get_right_runs_on_integers(node: str) -> None:
    assert "middle" in regions_of(node).elementwise


# emission


def emitted(
    layer: str,
    form: str,
    kernel: Kernel = Kernel.INTEGER,
) -> tuple[ModelProto, dict[str, int]]:
    storing = Storing("nf4", scale_format="ufloat8_e4m4")
    graph = plan_by_hand(layer_graph(layer), ["x", "y"], storing=storing, kernel=kernel)
    found = OrtTarget().emit(graph, Options(emit=form))
    return found.model, found.weight_bytes


@pytest.mark.parametrize("layer", ["conv", "gemm", "matmul"])
@pytest.mark.parametrize("kernel", [Kernel.INTEGER, Kernel.WEIGHT_ONLY])
def test_the_three_forms_give_the_same_numbers(layer: str, kernel: Kernel) -> None:
    models = {form: emitted(layer, form, kernel=kernel)[0] for form in EMIT_FORMS}
    feeds = random_feeds(models["functions"])
    wanted = run_model(models["functions"], feeds)["y"]
    for form, model in models.items():
        onnx.checker.check_model(model, full_check=True)
        assert bool(model.functions) == (form in ("functions", INTEGER_FORM))
        assert (DOMAIN in {o.domain for o in model.opset_import}) == bool(model.functions)
        np.testing.assert_array_equal(run_model(model, feeds)["y"], wanted)


@pytest.mark.parametrize("form", EMIT_FORMS)
def test_weight_bytes_are_those_of_the_initialisers(form: str) -> None:
    model, weight_bytes = emitted("conv", form)
    assert weight_bytes == {"layer": stored_bytes(model, "layer")}


def test_emission_reads_the_graph_and_changes_nothing() -> None:
    graph = plan_by_hand(layer_graph("conv"), ["x", "y"])
    before = graph.to_proto().SerializeToString(deterministic=True)
    for form in EMIT_FORMS:
        OrtTarget().emit(graph, Options(emit=form))
    assert graph.to_proto().SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("layer", ["conv", "gemm", "matmul"])
def test_an_inlined_layer_keeps_its_name_and_metadata(layer: str) -> None:
    model, _ = emitted(layer, "standard")
    found = [n for n in model.graph.node if n.name == "layer"]
    assert len(found) == 1
    told = {p.key: p.value for p in found[0].metadata_props}
    assert told["lpcompile.format"] == "nf4"
    assert told["lpcompile.kernel"] == "integer"
