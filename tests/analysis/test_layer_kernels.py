"""Every reason for which a layer does not run on integers is reached once."""

from dataclasses import dataclass

import pytest

from lpcompile.analysis.layer_kernels import choose_kernels
from lpcompile.backends.ort.target import OrtTarget
from lpcompile.formats.base import NumberFormat
from lpcompile.ir.graph import LpGraph
from lpcompile.plan import Kernel
from lpcompile.target import CostModel, LayerShape, Support
from tests.support import parse_model


@dataclass(frozen=True)
class FixedCosts:
    """A cost table in which only the kernel matters."""

    ns: dict[str, float]
    name: str = "test table"

    def layer_ns(self, layer: LayerShape, kernel: str) -> float | None:
        return self.ns.get(kernel)

    def few_rows_ns(self, layer: LayerShape, kernel: str) -> float | None:
        return self.ns.get(kernel)

    def quantize_ns(self, elements: int) -> float:
        return 0.0

    def elementwise_ns(self, op: str, elements: int, kernel: str) -> float | None:
        return None

    def pool_ns(self, elements: int) -> float:
        return 0.0


class FixedTarget(OrtTarget):
    """ONNX Runtime with another cost table."""

    def __init__(self, **ns: float) -> None:
        self._fixed = FixedCosts(ns)

    @property
    def cost_model(self) -> CostModel:
        return self._fixed


class NoIntegers(FixedTarget):
    def supports(self, op: str, fmt: NumberFormat) -> Support:
        return Support(False, "this target only knows floats")


def chosen(
    text: str, *, calibrated: bool = True, matmul: str = "auto", target: OrtTarget | None = None
) -> tuple[Kernel, str]:
    graph = LpGraph.from_proto(parse_model(text, check=False))
    graph.infer_shapes()
    kernels = choose_kernels(graph, target or FixedTarget(), calibrated=calibrated, matmul=matmul)
    assert len(kernels) == 1
    choice = next(iter(kernels.values()))
    return choice.kernel, choice.reason


CONV = "m (float[1,3,8,8] x) => (float[1,4,6,6] y) <float[4,3,3,3] w, float[4] b> { y = Conv (x, w, b) }"
MATMUL = "m (float[2,5,6] x) => (float[2,5,3] y) <float[6,3] w> { y = MatMul (x, w) }"
GEMM = "m (float[2,6] x) => (float[2,3] y) <float[6,3] w, float[3] b> { y = Gemm (x, w, b) }"


@pytest.mark.parametrize("text", [CONV, MATMUL, GEMM])
def test_layers_in_good_form_run_on_integers(text: str) -> None:
    assert chosen(text)[0] is Kernel.INTEGER


@pytest.mark.parametrize(
    ("text", "kernel", "reason"),
    [
        (
            "m (float16[2,6] x) => (float16[2,3] y) <float16[6,3] w> { y = MatMul (x, w) }",
            Kernel.FLOAT,
            "weights are float16, not float32",
        ),
        (
            "m (double[2,6] x) => (double[2,3] y) <double[6,3] w> { y = MatMul (x, w) }",
            Kernel.FLOAT,
            "weights are float64, not float32",
        ),
        (
            "m (float[2,6] x) => (float[2,3] y, float[6,3] w) <float[6,3] w> { y = MatMul (x, w) }",
            Kernel.FLOAT,
            "its weights are also read from outside",
        ),
        (
            """m (float[2,6] x, bool c) => (float[2,3] y, float[6,3] z) <float[6,3] w> {
                y = MatMul (x, w)
                z = If (c) <then_branch = t () => (float[6,3] a) { a = Identity (w) },
                            else_branch = e () => (float[6,3] b) { b = Neg (w) }>
            }""",
            Kernel.FLOAT,
            "its weights are also read from outside",
        ),
        (
            "m (float[2,5,6] x) => (float[2,5,3] y) <float[2,6,3] w> { y = MatMul (x, w) }",
            Kernel.FLOAT,
            "its weight has 3 axes; a matrix is needed",
        ),
        (
            "m (float[2,6] x) => (float[2] y) <float[6] w> { y = MatMul (x, w) }",
            Kernel.FLOAT,
            "its weight has 1 axes; a matrix is needed",
        ),
        (
            "m (float[1,4,5,5] x) => (float[1,3,6,6] y) <float[4,3,2,2] w> { y = ConvTranspose (x, w) }",
            Kernel.WEIGHT_ONLY,
            "ONNX Runtime has no integer kernel for ConvTranspose",
        ),
        (
            """m (float[1,3,H,W] x) => (float[1,4,H,W] y) <float[4,3,3,3] w>
            { y = Conv <auto_pad = "SAME_UPPER"> (x, w) }""",
            Kernel.WEIGHT_ONLY,
            "padding depends on the input shape, which is not known",
        ),
        (
            "m (float[6,2] x) => (float[2,3] y) <float[6,3] w> { y = Gemm <transA = 1> (x, w) }",
            Kernel.WEIGHT_ONLY,
            "the Gemm is not in the form x @ W + b",
        ),
        (
            """m (float[2,6] x) => (float[2,3] y) <float[6,3] w, float[3] b>
            { y = Gemm <alpha = 0.5> (x, w, b) }""",
            Kernel.WEIGHT_ONLY,
            "the Gemm is not in the form x @ W + b",
        ),
        (
            "m (float[2,6] x, float[3] b) => (float[2,3] y) <float[6,3] w> { y = Gemm (x, w, b) }",
            Kernel.WEIGHT_ONLY,
            "its bias is not one constant an output channel",
        ),
        (
            "m (float[2,6] x) => (float[2,3] y) <float[6,3] w, float[1] b> { y = Gemm (x, w, b) }",
            Kernel.WEIGHT_ONLY,
            "its bias is not one constant an output channel",
        ),
    ],
)  # fmt: skip
def test_each_obstacle_has_its_reason(text: str, kernel: Kernel, reason: str) -> None:
    assert chosen(text) == (kernel, reason)


def test_without_samples_a_conv_keeps_float_activations_and_a_matrix_measures_its_range() -> None:
    no_samples = "no calibration data, so its activations stay float"
    assert chosen(CONV, calibrated=False) == (Kernel.WEIGHT_ONLY, no_samples)
    at_run_time = "no calibration data, so the range is measured at run time"
    assert chosen(MATMUL, calibrated=False) == (Kernel.DYNAMIC, at_run_time)
    assert chosen(GEMM, calibrated=False) == (Kernel.DYNAMIC, at_run_time)


def test_without_samples_a_matrix_stays_float_where_the_table_says_so() -> None:
    slow = {"float": 1000.0, "dynamic": 1200.0}
    kernel, reason = chosen(MATMUL, calibrated=False, target=FixedTarget(**slow))
    assert (kernel, reason) == (Kernel.WEIGHT_ONLY, "faster as floats without data (test table)")
    assert chosen(MATMUL, calibrated=False, matmul="dynamic", target=FixedTarget(**slow))[0] is Kernel.DYNAMIC
    near = FixedTarget(float=1000.0, dynamic=1050.0)
    assert chosen(MATMUL, calibrated=False, target=near)[0] is Kernel.DYNAMIC


def test_a_target_without_integers_gives_its_own_reason() -> None:
    assert chosen(CONV, target=NoIntegers()) == (Kernel.WEIGHT_ONLY, "this target only knows floats")


def test_dynamic_ranges_where_the_table_says_they_are_faster() -> None:
    dynamic, static = {"float-out": 2.0, "dynamic": 1.0}, {"float-out": 1.0, "dynamic": 2.0}
    kernel, reason = chosen(MATMUL, target=FixedTarget(**dynamic))
    assert kernel is Kernel.DYNAMIC
    assert reason == "the range is measured at run time: test table"
    assert chosen(MATMUL, target=FixedTarget(**static))[0] is Kernel.INTEGER
    assert chosen(MATMUL, target=FixedTarget(**dynamic), matmul="static")[0] is Kernel.INTEGER
    assert chosen(MATMUL, target=FixedTarget(**static), matmul="dynamic")[0] is Kernel.DYNAMIC
    assert chosen(GEMM, target=FixedTarget(**dynamic))[0] is Kernel.INTEGER


def test_layers_inside_bodies_are_no_layers_of_the_graph() -> None:
    graph = LpGraph.from_proto(
        parse_model("""m (float[2,6] x, bool c) => (float[2,3] y) <float[6,3] w> {
            y = If (c) <then_branch = t () => (float[2,3] a) { a = MatMul (x, w) },
                        else_branch = e () => (float[2,3] b) { h = Neg (x)  b = MatMul (h, w) }>
        }""")
    )
    assert choose_kernels(graph, FixedTarget(), calibrated=True, matmul="auto") == {}
