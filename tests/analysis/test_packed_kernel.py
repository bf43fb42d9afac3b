"""When codes stay packed, and every reason for which they do not."""

import pytest

from lpcompile.analysis.layer_kernels import choose_kernels
from lpcompile.analysis.packed_kernel import MOST_ROWS
from lpcompile.backends.ort.costs import RecordedCosts
from lpcompile.backends.ort.target import OrtTarget
from lpcompile.ir.graph import LpGraph
from lpcompile.plan import Kernel, WeightPlan
from lpcompile.target import LayerShape
from tests.bench.kernel_costs_few_rows import KERNELS, ROWS, SIZES, chain
from tests.support import parse_model, run_model

GROUPS = WeightPlan("fixp4", "group32")
SLOW = "its codes do not stay packed: "


def chosen(
    rows: object = 1,
    size: tuple[int, int] = (1024, 1024),
    *,
    weights: WeightPlan | None = GROUPS,
    op: str = "MatMul",
    calibrated: bool = False,
    matmul: str = "auto",
    timed: bool = True,
) -> tuple[Kernel, str, str]:
    k, n = size
    graph = LpGraph.from_proto(
        parse_model(
            f"m (float[{rows},{k}] x) => (float[{rows},{n}] y) <float[{k},{n}] w> {{ y = {op} (x, w) }}"
        )
    )
    graph.infer_shapes()
    found = choose_kernels(
        graph, OrtTarget(), calibrated=calibrated, matmul=matmul, timed=timed, weights=weights
    )
    (choice,) = found.values()
    return choice.kernel, choice.reason, choice.unpacked


@pytest.mark.sweep
@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("weights", [GROUPS, WeightPlan("int4", "channel"), WeightPlan("int4", "group64")])
@pytest.mark.parametrize("rows", range(1, MOST_ROWS + 1))
def test_large_matrices_of_few_rows_stay_packed(rows: int, weights: WeightPlan, calibrated: bool) -> None:
    kernel, reason, unpacked = chosen(rows, weights=weights, calibrated=calibrated)
    assert kernel is Kernel.NBITS
    assert "accuracy level 4" in reason
    assert "us dynamic" in reason
    assert OrtTarget().cost_model.name in reason
    assert not unpacked


@pytest.mark.thorough
def test_against_static_ranges_the_edges_are_counted() -> None:
    large = (4096, 4096)
    kernel, reason, _ = chosen(1, large, op="Gemm", calibrated=True)
    assert kernel is Kernel.NBITS
    assert "us dynamic" not in reason
    kernel, _, unpacked = chosen(1, (768, 768), op="Gemm", calibrated=True)
    assert kernel is Kernel.INTEGER
    assert unpacked.startswith(SLOW)
    assert "us against" in unpacked


@pytest.mark.parametrize(
    ("rows", "size", "weights", "reason"),
    [
        (1, (1024, 1024), WeightPlan("posit4", "group32"), "posit4 is no 4-bit integer times a scale"),
        (1, (1024, 1024), WeightPlan("lut4", "group32"), "lut4 is no 4-bit integer times a scale"),
        (1, (1024, 1024), WeightPlan("int4", "group16"), "groups of 16 inputs are no multiple of 32"),
        (1, (1030, 1024), GROUPS, "its 1030 inputs are no multiple of 32"),
        ("B", (1024, 1024), GROUPS, "the number of rows is not fixed"),
        (3, (1024, 1024), GROUPS, "3 rows, more than 2"),
        (1, (384, 384), GROUPS, "us against"),
    ],
)
def test_every_reason_against_it(
    rows: object, size: tuple[int, int], weights: WeightPlan, reason: str
) -> None:
    kernel, _, unpacked = chosen(rows, size, weights=weights)
    assert kernel is not Kernel.NBITS
    assert unpacked.startswith(SLOW)
    assert reason in unpacked


def test_a_table_without_such_rows_leaves_it_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RecordedCosts, "few_rows_ns", lambda *_: None)
    kernel, _, unpacked = chosen()
    assert kernel is Kernel.DYNAMIC
    assert "no times for it" in unpacked


def test_it_is_left_out_in_silence_where_nobody_asked() -> None:
    assert chosen(weights=None)[::2] == (Kernel.DYNAMIC, "")
    assert chosen(weights=WeightPlan("int8", "channel"))[::2] == (Kernel.DYNAMIC, "")
    assert chosen(matmul="dynamic")[::2] == (Kernel.DYNAMIC, "")
    assert chosen(timed=False)[::2] == (Kernel.DYNAMIC, "")
    assert chosen(matmul="static", calibrated=True)[::2] == (Kernel.INTEGER, "")


def test_the_recorded_rows_are_those_that_are_measured() -> None:
    costs = RecordedCosts.load("default")
    for rows in ROWS:
        for k in KERNELS:
            found = costs.few_rows_ns(LayerShape("MatMul", 2, 1024, 1024, rows), k)
            assert found is not None
            assert 1e3 < found < 1e7
    assert costs.few_rows_ns(LayerShape("MatMul", 2, 1024, 1024, 5), "nbits") is None
    assert costs.few_rows_ns(LayerShape("MatMul", 2, 1024, 1024, None), "nbits") is None
    assert costs.few_rows_ns(LayerShape("Conv", 4, 1024, 1024, 1), "nbits") is None


def test_with_more_rows_the_recorded_gain_is_gone() -> None:
    costs = RecordedCosts.load("default")
    ratios = []
    for rows in ROWS:
        shape = LayerShape("MatMul", 2, 2048, 2048, rows)
        packed, dynamic = costs.few_rows_ns(shape, "nbits"), costs.few_rows_ns(shape, "dynamic")
        assert packed is not None
        assert dynamic is not None
        ratios.append(packed / dynamic)
    assert max(ratios[:2]) < 0.9
    assert ratios[-1] > 1


@pytest.mark.parametrize("kernel", KERNELS)
def test_chains_that_are_measured_run(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.bench.kernel_costs_few_rows.WEIGHTS", 1)
    assert min(min(s) for s in SIZES) % 32 == 0
    assert len(run_model(chain(2, 64, 32, kernel))) == 1
