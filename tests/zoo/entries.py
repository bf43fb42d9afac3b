"""The model zoo that LPCOMPILE_ZOO names: entries, samples, and its own evaluation script.

The zoo is no part of this repository: a folder with `zoo.json`, `evaluate.py` and `prepare.py`. Its scripts
are imported from there, so that scores are the zoo's own.
"""

import functools
import importlib
import json
import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime as ort

from tests.support import Array

Feeds = dict[str, Array]


@dataclass(frozen=True)
class Paired:
    """Top-1 of a compiled model against its float model, or another one, on the same samples."""

    lost: int
    won: int
    agreement: float
    samples: int

    @property
    def drop(self) -> float:
        """Loss of accuracy."""
        return (self.lost - self.won) / self.samples

    @property
    def standard_error(self) -> float:
        """Of the drop."""
        return float((self.lost + self.won) ** 0.5 / self.samples)


class Zoo:
    """One zoo folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        records = json.loads((root / "zoo.json").read_text("utf-8"))["entries"]
        self.entries: dict[str, dict[str, Any]] = {e["name"]: e for e in records}

    @functools.cached_property
    def evaluate(self) -> ModuleType:
        """`evaluate.py` of the zoo."""
        return self._module("evaluate")

    @functools.cached_property
    def prepare(self) -> ModuleType:
        """`prepare.py` of the zoo."""
        return self._module("prepare")

    def _module(self, name: str) -> ModuleType:
        sys.path.insert(0, str(self.root))
        try:
            return importlib.import_module(name)
        finally:
            sys.path.remove(str(self.root))

    def model(self, name: str) -> Path:
        """File of the float model."""
        path: Path = self.root / self.entries[name]["model"]
        return path

    def samples(self, name: str, split: str = "calib", limit: int | None = None) -> Feeds:
        """Arrays by input name as the compiler takes them, first axis samples."""
        entry = self.entries[name]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = self.prepare.samples(entry, self.evaluate.load(self.root / entry[split]), self.root)
        return {k: v[:limit] for k, v in data.items()}

    def one_call(self, name: str, count: int = 1) -> Feeds:
        """Feeds of one call with `count` samples, where the graph allows more than one."""
        entry, arrays = self.entries[name], self.samples(name)
        if entry.get("squeeze") or entry["metric"] == "vad_auc":
            return {k: np.asarray(v[0]) for k, v in arrays.items()}
        return {k: v[: min(count, entry.get("batch", count))] for k, v in arrays.items()}

    def data(self, name: str, limit: int | None = None) -> Any:
        """The evaluation set."""
        entry = self.entries[name]
        return self.evaluate.limited(self.evaluate.load(self.root / entry["eval"]), limit)

    def score(self, name: str, model: bytes | Path, limit: int | None = None) -> float:
        """The entry's own metric."""
        entry = self.entries[name]
        found = self.evaluate.METRICS[entry["metric"]](session(model), entry, self.data(name, limit))
        return float(found)

    def paired(
        self, name: str, model: bytes | Path, limit: int | None = None, against: bytes | Path | None = None
    ) -> Paired:
        """Top-1 entries: sample by sample against another model, by default the float one."""
        entry, data = self.entries[name], self.data(name, limit)
        other = self.model(name) if against is None else against
        ours, theirs = (self.evaluate.classes(session(m), entry, data) for m in (model, other))
        right, was = ours == data["y"], theirs == data["y"]
        return Paired(
            int((was & ~right).sum()), int((right & ~was).sum()), float((ours == theirs).mean()), len(ours)
        )

    def sqnr_db(self, name: str, model: bytes | Path, samples: int = 64, batch: int | None = None) -> float:
        """SQNR of the first output over evaluation samples, as the zoo defines it; `batch` where it is fixed."""
        entry = self.entries[name] if batch is None else {**self.entries[name], "batch": batch}
        assert self.prepare, "evaluate imports it when it is called"
        found = self.evaluate.sqnr(session(model), session(self.model(name)), entry, self.root, samples)
        return float(found)


def find_zoo(folder: str | None = None) -> Zoo | None:
    """The zoo of a folder, by default the one that LPCOMPILE_ZOO names; None where there is none."""
    given = folder or os.environ.get("LPCOMPILE_ZOO")
    return Zoo(Path(given)) if given and (Path(given) / "zoo.json").is_file() else None


def session(model: bytes | Path, threads: int = 0) -> ort.InferenceSession:
    """Stock ONNX Runtime as users run it."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
