"""`cost` of the report: the document, its tables, and the line of the summary."""

import json
from typing import Any

import numpy as np
import pytest

import lpcompile
from lpcompile.accounts.entries import Account, Entry, Uncounted
from lpcompile.accounts.spending import Spending
from lpcompile.analysis.arithmetic import Coefficients, Kind, Operation
from lpcompile.analysis.cost_classes import CLASSES
from lpcompile.report.cost import NODES_SHOWN, cost_document, cost_line, cost_text
from lpcompile.report.json import to_json
from lpcompile.report.text import summary
from tests.networks import SHIPPED, compiled_network
from tests.support import parse_model


def entry(name: str, macs: int, scaled: int, compared: int = 0) -> Entry:
    """MACs of 8 by 8 bits, float products and comparisons."""
    s = Spending()
    s.products("mac", macs, 8, 8)
    s.add("scale", Operation(Kind.MULTIPLY, 32, 32, floats=True), scaled)
    s.add("scale", Operation(Kind.COMPARE, 32, 32), compared)
    return Entry(name, "Conv", s.work, s.ace, 1000)


ACCOUNT = Account(
    (entry("a", 1000, 0, 10), entry("b", 500, 25)), (Uncounted("c", "Det", "operator Det is not known"),)
)


def test_the_document_by_hand() -> None:
    found = cost_document({"before": ACCOUNT})
    others = dict.fromkeys(CLASSES, 0.0)
    assert found["before"] == {**others, "mac": 96_000, "scale": 25_600, "compare": 320}
    assert found["elementwise_share"]["before"] == pytest.approx(25_600 / 121_600)
    assert (found["ace"]["before"], found["bytes_moved"]["before"]) == (96_000, 2000)
    assert found["energy45nm_pj"]["before"] == pytest.approx(1500 * 0.3 + 25 * 3.7 + 10 * 0.1)
    assert found["nodes"]["before"][1] == {
        "node": "b",
        "op": "Conv",
        "acev2": {"mac": 32_000, "scale": 25_600},
        "energy45nm_pj": pytest.approx(500 * 0.3 + 25 * 3.7),
        "bytes_moved": 1000,
    }
    assert found["uncounted"]["before"] == [{"node": "c", "op": "Det", "reason": "operator Det is not known"}]
    assert found["set"] == "acev2/int-linear"


def test_coefficients_change_figures_and_the_name() -> None:
    found = cost_document({"before": ACCOUNT}, Coefficients(count_compare=False))
    assert found["set"] == "acev2/int-linear{count-compare=0}"
    assert found["before"]["compare"] == 0


def test_the_text_shows_classes_shares_and_the_dearest_nodes() -> None:
    text = cost_text({"cost": cost_document({"before": ACCOUNT, "after": Account((entry("a", 1000, 0),))})})
    lines = text.splitlines()
    assert lines[0] == "cost of a call by acev2/int-linear; a symbolic batch is 1"
    (scale,) = [line.split() for line in lines if line.startswith("scale")]
    assert scale == ["scale", "25,600", "21.00%", "0", "0.00%"]
    assert "pool" not in text
    assert any(line.startswith("before: elementwise 21.05% of it") for line in lines)
    assert any(line.startswith("after: elementwise 0.00% of it") for line in lines)
    single = cost_text({"cost": cost_document({"before": ACCOUNT})}).splitlines()
    at = next(i for i, line in enumerate(single) if line.startswith("node"))
    assert [line.split()[0] for line in single[at + 1 : at + 3]] == ["a", "b"]
    assert single[at + 2].split() == ["b", "Conv", "57,600", "47.24%", "25,600", "1,000"]
    assert "not counted: 1 node" in single
    assert "--input-shape settles symbolic axes" not in single


def test_many_nodes_are_cut_and_symbolic_axes_have_a_mend() -> None:
    missing = tuple(
        Uncounted(f"u{i}", "Exp", "axis 1 of 'x' has no fixed size") for i in range(NODES_SHOWN + 3)
    )
    many = Account(tuple(entry(f"n{i}", 100 - i, 0) for i in range(NODES_SHOWN + 2)), missing)
    lines = cost_text({"cost": cost_document({"before": many})}).splitlines()
    assert sum(line.startswith("n") and line[1].isdigit() for line in lines) == NODES_SHOWN
    assert lines[-2:] == ["and 3 more", "--input-shape settles symbolic axes"]


def test_the_line_of_the_summary() -> None:
    cost = cost_document({"before": ACCOUNT, "after": Account((entry("a", 1000, 25),), ACCOUNT.uncounted)})
    assert cost_line({"cost": cost}) == (
        "cost      elementwise work 21.1% -> 28.6% of acev2/int-linear, 1.22e+05 -> 8.96e+04; "
        "0.000544 -> 0.000393 uJ at 45 nm; 1 node not counted"
    )
    assert cost_line({}) == ""
    assert cost_line({"cost": cost_document({"before": ACCOUNT, "after": Account()})}) == ""


@pytest.mark.sweep
@pytest.mark.parametrize("recipe", ["int8", "w4a8"])
@pytest.mark.parametrize("name", SHIPPED)
def test_the_accounts_of_a_compilation_add_up(name: str, recipe: str) -> None:
    report: dict[str, Any] = json.loads(to_json(compiled_network(name, recipe).report))
    cost, totals = report["cost"], report["totals"]
    for when in ("before", "after"):
        assert list(cost[when]) == list(CLASSES)
        nodes = sum(sum(n["acev2"].values()) for n in cost["nodes"][when])
        assert nodes == pytest.approx(sum(cost[when].values()), rel=1e-12)
        assert cost["uncounted"][when] == []
    assert sum(cost["after"].values()) == pytest.approx(totals["acev2"], rel=1e-12)
    assert cost["energy45nm_pj"]["after"] == totals["energy45nm_pj"]
    line = [line for line in summary(report).splitlines() if line.startswith("cost")]
    assert line == [cost_line(report)]
    by_node = {n["node"]: n["acev2"] for n in cost["nodes"]["after"]}
    for row in report["layers"]:  # what formats are chosen by, and the clip
        own = sum(v for k, v in by_node[row["name"]].items() if k != "compare")
        assert own == pytest.approx(row["acev2"], rel=1e-12)


def test_before_has_the_norms_of_the_model() -> None:
    report = compiled_network("digits_resnet", "int8").report
    cost = report["cost"]
    assert any("acev2/int-linear" in a["what"] and a["source"] for a in report["assumptions"])
    assert cost["before"]["norm"] > 0
    assert cost["after"]["norm"] == 0
    macs = sum(r["macs"] for r in compiled_network("digits_resnet", "int8").report["layers"])
    assert cost["before"]["mac"] == 1024 * macs


def test_samples_settle_symbolic_axes() -> None:
    """32 numbers a row, 7 rows in the first call; the batch counts once."""
    model = parse_model("g (float[n,len,32] x) => (float[n,len,16] y) <float[32,16] w> { y = MatMul (x, w) }")
    x = np.random.default_rng(0).standard_normal((6, 7, 32)).astype(np.float32)
    made = lpcompile.compile(model, calibration=[{"x": x[i : i + 2]} for i in (0, 2, 4)], recipe="int8")
    assert made.report["cost"]["before"]["mac"] == 7 * 32 * 16 * 1024
    assert made.report["cost"]["uncounted"]["after"] == []


def test_the_function_of_the_package() -> None:
    model = parse_model("g (float[n,m,32] x) => (float[n,m,16] y) <float[32,16] w> { y = MatMul (x, w) }")
    assert lpcompile.cost(model)["cost"]["before"]["mac"] == 0
    (missing,) = lpcompile.cost(model)["cost"]["uncounted"]["before"]
    assert missing["reason"] == "axis 1 of 'x' has no fixed size"
    found = lpcompile.cost(model, input_shapes={"x": (2, 7, 32)}, charge_accumulate=True)
    assert found["cost"]["before"]["mac"] == 2 * 7 * 32 * 16 * (1024 + 32)
    assert found["cost"]["set"] == "acev2/int-linear{charge-accumulate=1}"
    assert found["model"]["path"] is None
