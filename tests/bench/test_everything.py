"""The whole bench keeps what it makes, goes on where it was, and goes on after a failure."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.bench import everything
from tests.bench.bench_table import Bench, Table


def modules(calls: list[str]) -> object:
    """Stands for importlib: table `bad` fails, `good` has one row, experiments are none."""

    def import_module(name: str) -> SimpleNamespace:
        def measure(bench: Bench) -> Table:
            calls.append(name)
            if name.endswith("bad"):
                raise RuntimeError("no such luck")
            return Table("good", ("a",), [(1,)])

        return SimpleNamespace(measure=measure)

    return SimpleNamespace(import_module=import_module)


def test_what_is_there_is_kept_and_what_fails_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(everything, "importlib", modules(calls))
    monkeypatch.setattr(everything, "TABLES", ("bad", "good", "accuracy"))
    monkeypatch.setattr(everything, "EXPERIMENTS", ("side_paths",))
    bench = Bench(None, quick=True)
    assert everything.run_all(bench, tmp_path) == ["bad"]
    kept = json.loads((tmp_path / "quick" / "tables" / "good.json").read_text())
    assert kept["rows"] == [[1]]
    assert {"cpu", "onnxruntime", "numpy"} <= set(kept["about"])
    text = capsys.readouterr().out
    assert "table accuracy: left out, --zoo" in text
    assert "experiment side_paths: left out, --zoo" in text
    assert "no such luck" in text
    assert everything.run_all(bench, tmp_path) == ["bad"]
    assert everything.run_all(bench, tmp_path, again=True) == ["bad"]
    assert [name.rpartition(".")[2] for name in calls] == ["bad", "good", "bad", "bad", "good"]
