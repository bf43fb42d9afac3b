"""Tables, figures, the summary and the JSON form of a report."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lpcompile.errors import InputError
from lpcompile.report.json import read_report, to_json
from lpcompile.report.table import bytes_text, db_text, table
from lpcompile.report.text import pass_times, summary


def layer(fmt: str) -> dict[str, Any]:
    return {"name": "conv", "weight_format": fmt}


REPORT: dict[str, Any] = {
    "schema": 1,
    "created_with": {"options": {}, "seed": 7},
    "model": {"path": "/data/net.onnx"},
    "target": "ort",
    "recipe": "int8",
    "warnings": [],
    "passes": [
        {"name": "canonicalize", "seconds": 0.0123, "changes": [1, 2], "skips": []},
        {"name": "fold-batchnorm", "seconds": 0.002, "changes": [], "skips": [3]},
    ],
    "layers": [layer("int8")] * 8 + [layer("float32")],
    "totals": {"bits_per_weight": 8.25, "weight_bytes": 61_234, "file_bytes": 74_200},
    "quality": {"samples": 8, "sqnr_db_output": 38.24, "top1_agreement": 0.9975, "held_back": True},
    "verification": {
        "loads": True,
        "runs": True,
        "integer_layers_checked": 8,
        "bytes": {"float": 280_100, "compiled": 74_200},
        "latency_ms": {"float": 1.2, "compiled": 0.6},
    },
}


def test_the_summary_tells_what_happened() -> None:
    out = Path("out")
    assert summary(REPORT, [out / "model.onnx", out / "report.json"]).splitlines() == [
        "net.onnx for ort, recipe int8, seed 7",
        "layers    9 with weights: 8 int8, 1 float32",
        "weights   8.25 bits each, 61.2 kB; file 280 kB -> 74.2 kB (0.26x)",
        "quality   SQNR 38.2 dB, agreement 0.998 against float on 8 held-back samples",
        "checked   in ONNX Runtime: loads, runs, 8 layers equal the numpy reference, "
        "1.2 ms -> 0.6 ms (2.00x faster)",
        "wrote     out: model.onnx, report.json",
        "next      --recipe w4a8 halves the file again; --recipe auto takes the best format for each layer",
        "          'lpcompile inspect out' lists the layers; edit decisions.toml and replay it with --decisions",
    ]


def test_the_summary_stays_short() -> None:
    many = {
        **REPORT,
        "warnings": [f"w{i}" for i in range(40)],
        "layers": [layer(f"uint{i}") for i in range(2, 8)],
        "ledger": [
            {
                "step": f"s{i}",
                "sqnr_db": 1.0,
                "gain_db": 0.1,
                "gain_error_db": None,
                "seconds": 1.0,
                "kept": i % 2 == 0,
            }
            for i in range(30)
        ],
        "ledger_basis": {"held_back": True, "samples": 8},
        "quality": {**REPORT["quality"], "sqnr_db_output": 3.0, "top1_agreement": 0.5},
        "metric": {"float": 1.0, "compiled": 0.9, "function": "m:f"},
    }
    many["layers"] = [
        {**r, "sqnr_db_local": float(i), "activation_format": "uint4", "reason": ""}
        for i, r in enumerate([*many["layers"], *[layer("uint4")] * 20])
    ] + [{**layer("float32"), "reason": f"r{i}"} for i in range(5)]
    lines = summary(many, [Path("out/model.onnx")]).splitlines()
    assert 24 <= len(lines) <= 40
    assert "          and 3 more reasons, see report.json" in lines
    assert "          and 37 more warnings, see report.json" in lines
    assert lines[1].endswith("2 others")


def test_the_summary_says_when_nothing_was_quantised() -> None:
    floats = {**REPORT, "layers": [layer("float64"), layer("float32")]}
    floats["layers"][0]["reason"] = floats["layers"][1]["reason"] = "slow"
    text = summary(floats, [Path("out/model.onnx")])
    assert "float     2 of 2 layers stayed so\n          2: slow" in text
    assert "what decides it: 2 layers stayed float: slow" in text
    assert "stayed" not in summary({**floats, "recipe": "fp32"}, [Path("out/model.onnx")])


def test_the_summary_of_little() -> None:
    bare = {**REPORT, "layers": [], "quality": {"samples": 0}, "verification": None}
    text = summary(bare, [])
    assert "layers    none with weights" in text
    assert "quality   not measured" in text
    assert "wrote     nothing (dry run)" in text
    assert "wrote" not in summary(bare)  # an old report, shown again


def test_the_summary_asks_for_data_where_there_was_none() -> None:
    quality = {**REPORT["quality"], "source": "generated inputs", "held_back": False}
    text = summary({**REPORT, "quality": quality}, [Path("out/model.onnx")])
    assert "agreement 0.998 against float on 8 generated inputs" in text
    assert "next      --calibration-data DATA gives integer activations, which are faster" in text


def test_the_summary_knows_generated_ranges_from_float_activations() -> None:
    quality = {**REPORT["quality"], "source": "generated inputs", "held_back": False}
    layers = [{**r, "activation_format": "uint8"} for r in REPORT["layers"]]
    text = summary({**REPORT, "layers": layers, "quality": quality}, [Path("out/model.onnx")])
    assert (
        "next      --calibration-data DATA: ranges from real samples fit better than generated ones" in text
    )


def test_pass_times_add_up() -> None:
    assert pass_times(REPORT).splitlines() == [
        "pass              ms  changes  skips",
        "canonicalize    12.3        2      0",
        "fold-batchnorm     2        0      1",
        "total           14.3        2      1",
    ]


def test_tables_align_and_show_what_is_missing() -> None:
    shown = table(("name", "n", "x"), [("a", 1000, 0.5), ("long", None, float("nan"))])
    assert shown.splitlines() == ["name      n    x", "a     1,000  0.5", "long      -  nan"]
    assert table(("name",), []) == "name"


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (999_600, "1 MB"), (12_345_678, "12.3 MB")]
)
def test_sizes(size: int, text: str) -> None:
    assert bytes_text(size) == text


def test_ratios() -> None:
    assert [db_text(x) for x in (None, 12.345, 200.0, -200.0)] == ["-", "12.3 dB", "exact", "-200.0 dB"]


def test_json_holds_what_json_can_hold(tmp_path: Path) -> None:
    numbers = {"schema": 1, "a": np.float32(0.5), "b": np.int64(3), "c": float("nan"), "d": (1, float("inf"))}
    (tmp_path / "report.json").write_text(to_json(numbers))
    assert read_report(tmp_path / "report.json") == {"schema": 1, "a": 0.5, "b": 3, "c": None, "d": [1, None]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("{", "not JSON"),
        ("[]", "not a report"),
        (json.dumps({"schema": 9}), "schema 9"),
    ],
)
def test_what_is_no_report(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read_report(tmp_path / "report.json")
    assert caught.value.hint


def test_posits_have_a_line_with_what_they_take() -> None:
    totals = {**REPORT["totals"], "posit_fraction": 0.0912, "posit_mac_fraction": 0.0213}
    assert "posits" not in summary(REPORT)
    floats = summary({**REPORT, "totals": totals}).splitlines()[3]
    assert floats == "posits    0.0912 of the weights, 0.0213 of the MACs; none on integers"
    totals |= {"mac_energy_overhead": 0.00071, "mac_energy_overhead_by_parameters": 0.00302,
               "mac_energy_overhead_range": [-0.001, 0.0009]}  # fmt: skip
    assert summary({**REPORT, "totals": totals}).splitlines()[3] == (
        "posits    0.0912 of the weights, 0.0213 of the MACs; MAC energy +0.07% against fixp4 (-0.10% to +0.09% with "
        "other shifters), +0.30% by weights (paper: +0.19%)"
    )
