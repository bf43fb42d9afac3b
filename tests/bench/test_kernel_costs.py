"""The measurement of kernels: its text is a cost model with every cell, and its fit is the least relative error."""

import pytest

from lpcompile.backends.ort.costs import RecordedCosts
from lpcompile.target import LayerShape
from tests.bench import kernel_costs as measuring
from tests.bench import kernel_costs_few_rows as measure_few_rows
from tests.bench.kernel_costs import main, measure, table
from tests.bench.kernel_costs_few_rows import FEWEST, MOST, SIZES, WEIGHTS, chain
from tests.support import run_model


def test_a_tiny_run_fills_every_cell_of_the_shipped_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = {
        "RUNS": 4,
        "DENSE": [(2, 2, 4, 3, 1)],
        "GROUPED": [(8, 4, 3, 4)],
        "DEPTHWISE": [(4, 4, 3)],
        "PLANES": [(2, 6)],
        "MATRIX": [(1, 32)],
        "EDGES": (8,),
    }
    for name, value in tiny.items():
        monkeypatch.setattr(measuring, name, value)
    for name, value in {"WEIGHTS": 1, "ROUNDS": 3, "SIZES": [(32, 64)]}.items():
        monkeypatch.setattr(measure_few_rows, name, value)

    main(["tiny"])

    printed = capsys.readouterr()
    found, shipped = RecordedCosts.parse(printed.out), RecordedCosts.load("default")
    assert found.name == "tiny"
    for ours, theirs in ((found.kernels, shipped.kernels), (found.elementwise, shipped.elementwise)):
        assert {k: set(v) for k, v in ours.items()} == {k: set(v) for k, v in theirs.items()}
    assert set(found.quantize) == set(shipped.quantize)
    cells = [*found.kernels.values(), *found.elementwise.values(), found.quantize]
    assert all(c >= 0 for cell in cells for c in cell.values())
    layers = [
        LayerShape("Conv", 4, 72, 8, 16, kernel=(3, 3)),
        LayerShape("Conv", 4, 36, 8, 16, kernel=(3, 3), group=2),
        LayerShape("Conv", 4, 9, 8, 16, kernel=(3, 3), group=8),
        LayerShape("MatMul", 2, 32, 32, 16),
    ]
    for kernel in ("float", "integer"):
        for layer in layers:
            assert (found.layer_ns(layer, kernel) or 0) > 0
        assert (found.elementwise_ns("Sigmoid", 100, kernel) or 0) > 0
    for rows in measure_few_rows.ROWS:
        for kernel in measure_few_rows.KERNELS:
            assert (found.few_rows_ns(LayerShape("MatMul", 2, 32, 64, rows), kernel) or 0) > 0
    assert found.quantize_ns(100) > 0
    assert found.pool_ns(100) > 0
    told = [line for line in printed.err.splitlines() if "us measured (fitted)" in line]
    assert len(told) == len(found.kernels) + len(found.elementwise) + 2


def test_the_fit_finds_what_times_were_made_from() -> None:
    rows = [
        ({"fixed_ns": 1.0, "ns_per_mac": float(n), "ns_per_output": float(m)}, 300 + 0.25 * n + 2 * m)
        for n, m in ((10, 1), (1000, 7), (5000, 90), (200, 400), (90000, 3))
    ]
    assert measuring._fit(rows) == {"fixed_ns": 300.0, "ns_per_mac": 0.25, "ns_per_output": 2.0}


def test_no_coefficient_is_negative() -> None:
    rows = [({"fixed_ns": 1.0, "ns_per_mac": float(n)}, 1000.0 - n) for n in (0, 100, 200)]
    assert measuring._fit(rows)["ns_per_mac"] == 0
    # the constant of least relative error: sum(1/t) / sum(1/t^2)
    inverse = [1 / t for _, t in rows]
    best = sum(inverse) / sum(i * i for i in inverse)
    assert measuring._fit(rows)["fixed_ns"] == float(f"{best:.4g}")


@pytest.mark.parametrize("name", ["here", 'a "new" one', "C:\\fast", "two\nlines", "schnäll 🐎", ""])
def test_any_name_is_read_back(name: str) -> None:
    kernels = {
        "dense.float": {"fixed_ns": 2.0},
        "1-row.nbits": {"fixed_ns": 3.0, "ns_per_weight": 1e-05},
        "Add.integer": {"fixed_ns": 4.0},
        "edge": {"fixed_ns": 5.0, "ns_per_element": 0.5},
        "pool": {"pool_ns_per_element": 7.0},
    }
    found = RecordedCosts.parse(table(name, kernels))
    assert found == RecordedCosts(
        name,
        {k: kernels[k] for k in ("dense.float", "1-row.nbits")},
        {"Add.integer": kernels["Add.integer"]},
        {"fixed_ns": 5.0, "ns_per_element": 0.5, "pool_ns_per_element": 7.0},
    )


@pytest.mark.parametrize("arguments", [["one", "two"], ["-h"], ["--help"]])
def test_other_arguments_measure_nothing(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "measure", lambda: pytest.fail("measured"))
    with pytest.raises(SystemExit, match="usage"):
        main(arguments)


def test_a_chain_whose_kernels_are_called_otherwise_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="none of Conv, Gemm"):
        measuring._kernel_ns(measuring._edge(8), 1, ("Conv", "Gemm"))


def test_the_pool_reads_and_gives_integers() -> None:
    (found,) = run_model(measuring._pool(2, 9)).values()
    assert found.dtype == "uint8"
    assert found.shape == (1, 2, 4, 4)


def test_chains_of_few_rows_go_there_and_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for k, n in SIZES:
        depth = measure_few_rows._depth(k, n)
        assert FEWEST <= depth <= MOST
        assert depth % 2 == 0
        assert depth * k * n <= WEIGHTS or depth == FEWEST
    monkeypatch.setattr(measure_few_rows, "WEIGHTS", 6 * 32 * 64)
    model = chain(3, 32, 64, "float")
    assert [tuple(t.dims) for t in model.graph.initializer] == [(32, 64), (64, 32)] * 3


def test_the_model_multiplies_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[measuring.Rows] = []

    def ones(rows: measuring.Rows) -> dict[str, float]:
        fitted.append(rows)
        return {k: float(any(terms[k] for terms, _ in rows)) for k in rows[0][0]}

    for chains in ("_conv_chain", "_elementwise_chain", "_matrix_chain"):
        monkeypatch.setattr(measuring, chains, lambda *_, **__: None)
    monkeypatch.setattr(measuring, "_kernel_ns", lambda *_: 500.0)
    monkeypatch.setattr(measuring, "few_rows", dict)
    monkeypatch.setattr(measuring, "_fit", ones)
    measured = measure()
    costs = RecordedCosts.parse(table("ones", measured))

    shapes = {
        "dense": [
            LayerShape("Conv", 4, c_in * k * k, c, (-(-size // stride)) ** 2, kernel=(k, k))
            for c_in, c, size, k, stride in measuring.DENSE
        ],
        "depthwise": [
            LayerShape("Conv", 4, k * k, c, size**2, kernel=(k, k), group=c)
            for c, size, k in measuring.DEPTHWISE
        ],
        "grouped": [
            LayerShape("Conv", 4, c // g * k * k, c, size**2, kernel=(k, k), group=g)
            for c, size, k, g in measuring.GROUPED
        ],
        "matrix": [LayerShape("MatMul", 2, k, k, m) for m, k in measuring.MATRIX],
    }
    rows = dict(zip(measured, fitted, strict=True))
    for kind, layers in shapes.items():
        for kernel in ("float", "integer"):
            wanted = [sum(terms.values()) for terms, _ in rows[f"{kind}.{kernel}"]]
            assert [costs.layer_ns(layer, kernel) for layer in layers] == wanted
