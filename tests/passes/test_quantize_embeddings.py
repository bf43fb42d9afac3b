"""`quantize-embeddings`: rows of int8 codes are looked up, exactly as planned; every reason; what costs too much."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

import lpcompile
from lpcompile.errors import DecisionsError
from lpcompile.passes.quantize_embeddings import (
    AS_ASKED,
    NARROW,
    NO_HALF,
    NOT_DECIDED,
    ON_REQUEST,
    OTHERS,
    OUTSIDE,
    SMALL,
)
from lpcompile.report.text import summary
from tests.cli.cli_runner import lpcompile as on_command_line
from tests.support import constants_of, parse_model, run_model

WIDTH, WORDS = 32, 64
PASSES = (
    "fold-constants,canonicalize,fold-batchnorm,quantize-activations,quantize-embeddings,quantize-weights"
)
NET = f"""m (int64[N,7] ids) => (float[N,7,8] y)
<float[{WORDS},{WIDTH}] table, float[{WIDTH},8] w> {{
    [words] e = Gather (table, ids)  [last] y = MatMul (e, w)
}}"""


def net(text: str = NET, **tables: np.ndarray) -> onnx.ModelProto:
    """The model with normal random weights, and with tables of the caller's."""
    model = parse_model(text)
    for tensor in model.graph.initializer:
        if tensor.name in tables:
            tensor.CopyFrom(numpy_helper.from_array(tables[tensor.name], tensor.name))
    return model


def calls(count: int = 8, words: int = WORDS) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(3)
    return [{"ids": rng.integers(0, words, (2, 7))} for _ in range(count)]


def compiled(model: onnx.ModelProto, **options: Any) -> Any:
    options = {"target": "ort", "passes": PASSES, "calibration": calls(), **options}
    return lpcompile.compile(model, **options)


def said(result: Any) -> dict[str, Any]:
    found: dict[str, Any] = next(p for p in result.report["passes"] if p["name"] == "quantize-embeddings")
    return found


def rounded(table: np.ndarray) -> np.ndarray:
    """By hand: a scale a row, one float32 product a number."""
    scale = (np.abs(table).max(1, keepdims=True) / np.float32(127)).astype(np.float32)
    found: np.ndarray = np.rint(table / scale).astype(np.float32) * scale
    return found


def rows_of(
    model: onnx.ModelProto, name: str, feeds: dict[str, np.ndarray], kind: int = onnx.TensorProto.FLOAT
) -> np.ndarray:
    """What a tensor of the emitted model holds: in the runtime, and by onnx's evaluator where it has no functions."""
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    del cut.graph.output[:]
    cut.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
    found: np.ndarray = run_model(cut, feeds)[name]
    if not model.functions:
        (by_onnx,) = ReferenceEvaluator(cut).run(None, feeds)
        np.testing.assert_array_equal(by_onnx, found)
    return found


@pytest.mark.parametrize("emit", ["functions", "standard", "qdq"])
def test_rows_are_those_of_the_codes(emit: str) -> None:
    model = net()
    table = constants_of(model)["table"]
    result = compiled(model, emit=emit)
    assert [c["what"] for c in said(result)["changes"]] == ["table in int8"]
    ids = calls(1)[0]["ids"]
    np.testing.assert_array_equal(rows_of(result.model, "e", {"ids": ids}), rounded(table)[ids])
    stored = constants_of(result.model)
    assert not any(a.dtype == np.float32 and a.size >= table.size for a in stored.values())
    assert [a.dtype for n, a in stored.items() if n.endswith("/codes")] == [np.int8]


def test_the_report_and_its_sums() -> None:
    model = net()
    table = constants_of(model)["table"]
    result = compiled(model)
    (record,) = result.report["tables"]
    assert (record["name"], record["shape"], record["format"]) == ("words", (WORDS, WIDTH), "int8")
    assert (record["bytes"], record["float_bytes"]) == (WORDS * (WIDTH + 4), WORDS * WIDTH * 4)
    signal = np.square(table, dtype=np.float64).sum()
    noise = np.square(table.astype(np.float64) - rounded(table)).sum()
    assert record["sqnr_db"] == pytest.approx(10 * np.log10(signal / noise))
    assert result.report["totals"]["other_bytes"] == record["bytes"]


def test_cim_gives_the_same_numbers() -> None:
    one = NET.replace("N,7", "1,7")
    samples = [{"ids": c["ids"][:1]} for c in calls()]
    result = compiled(net(one), target="cim", calibration=samples)
    assert said(result)["changes"]
    assert result.report["verification"]["bit_exact_sim"]


def test_gathers_of_one_table_share_its_codes() -> None:
    text = NET.replace("[last]", "[more] f = Gather (table, ids)  [sum] g = Add (e, f)  [last]").replace(
        "(e, w)", "(g, w)"
    )
    result = compiled(net(text))
    assert [c["node"] for c in said(result)["changes"]] == ["words", "more"]
    assert sum(n.endswith("/codes") for n in constants_of(result.model)) == 1


def test_rows_along_another_axis() -> None:
    text = f"""m (int64[4] ids) => (float[{WIDTH},4] y)
    <float[{WIDTH},{WORDS}] table, float[{WIDTH},{WIDTH}] w> {{
        [words] e = Gather <axis = 1> (table, ids)  [last] y = MatMul (w, e)
    }}"""
    model, samples = net(text), [{"ids": c["ids"][0, :4]} for c in calls()]
    result = compiled(model, calibration=samples)
    assert said(result)["changes"]
    expected = rounded(constants_of(model)["table"].T).T[:, samples[0]["ids"]]
    np.testing.assert_array_equal(rows_of(result.model, "e", samples[0]), expected)


def test_a_table_in_half_precision() -> None:
    model = net(NET.replace("float[", "float16["))
    table = constants_of(model)["table"]
    assert table.dtype == np.float16
    result = compiled(model, passes=f"widen-float16,{PASSES}")
    (record,) = result.report["tables"]
    assert (record["format"], record["float_bytes"]) == ("int8", 2 * WORDS * WIDTH)
    ids = calls(1)[0]["ids"]
    gathers = [n for n in result.model.graph.node if n.name == "words"]
    rows = rows_of(result.model, gathers[0].output[0], {"ids": ids}, onnx.TensorProto.FLOAT16)
    np.testing.assert_array_equal(rows, rounded(table.astype(np.float32))[ids].astype(np.float16))


def test_a_row_of_zeros_and_one_below_a_float32_step() -> None:
    table = np.random.default_rng(1).normal(size=(WORDS, WIDTH)).astype(np.float32)
    table[3], table[4] = 0, np.float32(1e-45)
    result = compiled(net(NET, table=table))
    ids = np.array([[3, 4, 5, 0, 0, 0, 0]])
    rows = rows_of(result.model, "e", {"ids": ids})[0]
    assert np.isfinite(rows).all()
    np.testing.assert_array_equal(rows[0], 0)
    np.testing.assert_allclose(rows[1], table[4], atol=1e-44)


BRANCH = f"""m (int64[N,7] ids, bool c) => (float[N,7,8] f, float[N,7,{WIDTH}] y)
<float[{WORDS},{WIDTH}] table, float[{WIDTH},8] w> {{
    [words] e = Gather (table, ids)  [last] f = MatMul (e, w)
    [branch] y = If (c) <
        then_branch = t () => (float[N,7,{WIDTH}] z) {{ z = Mul (e, e) }},
        else_branch = f () => (float[N,7,{WIDTH}] v) {{ v = Neg (e) }}>
}}"""
SKIPPED = {
    SMALL: NET.replace(f"[{WORDS},", "[8,"),
    NARROW: """m (int64[N,7] ids) => (float[N,7,8] y) <float[600,8] table, float[8,8] w>
        { [words] e = Gather (table, ids)  [last] y = MatMul (e, w) }""",
    OUTSIDE: BRANCH,
}


@pytest.mark.parametrize("reason", [SMALL, NARROW, OUTSIDE])
def test_reasons(reason: str) -> None:
    samples = [{**c, "ids": c["ids"] % 8} for c in calls()]
    if reason == OUTSIDE:
        samples = [{**c, "c": np.array(True)} for c in samples]
    result = compiled(net(SKIPPED[reason]), calibration=samples)
    assert ("words", reason) in [(s["node"], s["reason"]) for s in said(result)["skips"]]
    assert not result.report["tables"]


def test_a_table_that_something_else_reads() -> None:
    text = NET.replace("[last]", "[all] s = Gemm <transB = 1> (q, table)  [last]").replace(
        "ids) => (", f"ids, float[3,{WIDTH}] q) => (float[3,{WORDS}] s, "
    )
    samples = [{**c, "q": np.ones((3, WIDTH), np.float32)} for c in calls()]
    tied = compiled(net(text), calibration=samples)
    assert said(tied)["changes"], "a layer keeps codes of its own"
    text = text.replace("Gemm <transB = 1> (q, table)", "Add (q, table)").replace(
        "float[3,", f"float[{WORDS},"
    )
    text = text.replace(f"[{WORDS},{WORDS}] s", f"[{WORDS},{WIDTH}] s")
    samples = [{**c, "q": np.ones((WORDS, WIDTH), np.float32)} for c in calls()]
    read = compiled(net(text), calibration=samples)
    assert [s["reason"] for s in said(read)["skips"]] == [OTHERS]


def test_on_request() -> None:
    result = compiled(net(), keep_float=["words"])
    assert [s["reason"] for s in said(result)["skips"]] == [ON_REQUEST]


def two_tables(outlier: float) -> onnx.ModelProto:
    """One table of equal numbers, one in which a number that no layer reads hides the others of its row."""
    text = f"""m (int64[N,7] ids) => (float[N,7,8] y)
    <float[{WORDS},{WIDTH}] table, float[{WORDS},{WIDTH}] other, float[{WIDTH},8] w> {{
        [words] e = Gather (table, ids)  [hidden] f = Gather (other, ids)
        [sum] g = Add (e, f)  [last] y = MatMul (g, w)
    }}"""
    rng = np.random.default_rng(1)
    other, w = (rng.normal(size=s).astype(np.float32) for s in ((WORDS, WIDTH), (WIDTH, 8)))
    other[:, 0], w[0] = outlier, 0
    return net(text, other=other, w=w)


@pytest.mark.parametrize(("outlier", "fmt"), [(1e3, "float16"), (1e6, "")])
def test_what_costs_too_much_takes_more_bits(outlier: float, fmt: str) -> None:
    passes = PASSES.replace("quantize-weights", "quantize-weights{format=int8}")
    result = compiled(two_tables(outlier), passes=passes)
    tables = {t["name"]: t for t in result.report["tables"]}
    assert tables["words"]["format"] == "int8"
    assert tables.get("hidden", {"format": ""})["format"] == fmt
    if fmt:
        assert tables["hidden"]["bytes"] == 2 * WORDS * WIDTH
        assert tables["hidden"]["sqnr_db"] > 60
    reason = tables["hidden"]["reason"] if fmt else said(result)["skips"][0]["reason"]
    assert "it alone would leave" in reason
    loose = compiled(two_tables(outlier), passes=passes.replace("embeddings", "embeddings{least-db=0.001}"))
    assert {t["format"] for t in loose.report["tables"]} >= {"int8"}


def test_decisions_are_carried_out(tmp_path: Path) -> None:
    first = compiled(net())
    kept = tmp_path / "decisions.toml"
    kept.write_text(first.decisions)
    again = compiled(net(), passes=None, decisions=kept)
    assert again.model.SerializeToString() == first.model.SerializeToString()
    assert again.decisions == first.decisions
    kept.write_text(
        first.decisions.replace('format = "int8"\ncodes_sha256 = "', 'format = "float16"\ncodes_sha256 = "0')
    )
    half = compiled(net(), passes=None, decisions=kept)
    assert [t["format"] for t in half.report["tables"]] == ["float16"]
    assert any("table of 'words'" in w for w in half.report["warnings"])
    kept.write_text(first.decisions.partition("[tables.")[0])
    without = compiled(net(), passes=None, decisions=kept)
    assert [s["reason"] for s in said(without)["skips"]] == [NOT_DECIDED]
    kept.write_text(
        first.decisions.replace('[tables."words"]\nformat = "int8"', '[tables."words"]\nformat = "int3"')
    )
    with pytest.raises(DecisionsError, match="no format 'int3'"):
        compiled(net(), passes=None, decisions=kept)


def test_without_samples_and_twice() -> None:
    result = compiled(net(), calibration=None)
    assert result.report["tables"][0]["reason"] == "in int8; no samples to measure its cost with"
    planned = lpcompile.passes.quantize_activations(net(), calibration=calls())
    once = lpcompile.passes.quantize_embeddings(planned)
    twice = lpcompile.passes.quantize_embeddings(once)
    assert once.reports[-1].changes
    assert not twice.reports[-1].changes
    assert twice.plan.tables == once.plan.tables


def test_the_summary_and_the_ledger_tell_it() -> None:
    result = compiled(net(), passes=PASSES.replace("activations", "activations{matmul=dynamic}"))
    before, after = result.report["ledger"][:2]
    assert (before["step"], after["step"]) == ("activations alone", "quantize-embeddings")
    assert before["sqnr_db"] - 3 < after["sqnr_db"] < before["sqnr_db"]
    assert "; a table in int8, 2.3 kB" in summary(result.report)


def test_inspect_and_diff_name_the_tables(tmp_path: Path) -> None:
    for name, options in (("a", {}), ("b", {"keep_float": ["words"]})):
        compiled(net(), output=tmp_path / name, **options)
    onnx.save(net(), tmp_path / "net.onnx")
    shown = [
        json.loads(on_command_line("inspect", str(tmp_path / n), "--json").stdout) for n in ("a", "net.onnx")
    ]
    assert [(t["name"], t["dtype"], t["bytes"]) for t in shown[0]["tables"]] == [
        ("words/codes", "int8", WORDS * WIDTH)
    ]
    assert [(t["name"], t["table"]) for t in shown[1]["tables"]] == [("words", "table")]
    differ = json.loads(on_command_line("diff", str(tmp_path / "a"), str(tmp_path / "b"), "--json").stdout)
    assert differ["tables"] == [{"name": "words", "a": "int8", "b": None}]
    assert "float32" in on_command_line("diff", str(tmp_path / "a"), str(tmp_path / "b")).stdout


def test_a_table_that_is_read_twice_is_told_once() -> None:
    text = f"""m (int64[N,7] ids, int64[N,7] others) => (float[N,7,8] y)
<float[{WORDS},{WIDTH}] table, float[{WIDTH},8] w> {{
    [words] e = Gather (table, ids)  [more] f = Gather (table, others)
    s = Add (e, f)  [last] y = MatMul (s, w)
}}"""
    both = [{**c, "others": c["ids"][::-1].copy()} for c in calls()]
    result = compiled(parse_model(text), calibration=both)
    (record,) = result.report["tables"]
    assert record["name"] == "words"
    assert "a table in int8, 2.3 kB" in summary(result.report)


@pytest.mark.parametrize(("largest", "fits"), [(1.0, True), (1e6, False)])
def test_half_precision_as_asked_for(largest: float, fits: bool) -> None:
    table = np.random.default_rng(1).normal(size=(WORDS, WIDTH)).astype(np.float32)
    table[0, 0] = largest
    result = compiled(net(table=table), passes=PASSES.replace("embeddings", "embeddings{format=float16}"))
    if fits:
        ids = calls(1)[0]["ids"]
        rows = rows_of(result.model, "e", {"ids": ids})
        np.testing.assert_array_equal(rows, table.astype(np.float16).astype(np.float32)[ids])
        assert result.report["tables"][0]["reason"] == AS_ASKED
    else:
        assert [s["reason"] for s in said(result)["skips"]] == [NO_HALF]
