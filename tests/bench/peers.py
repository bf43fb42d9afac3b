"""ONNX Runtime's own static int8 of a zoo entry."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

from tests.bench.bench_table import scratch
from tests.zoo.entries import Feeds, Zoo

SAMPLES = 32


class _Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: Iterator[Feeds]) -> None:
        self.feeds = feeds

    def get_next(self) -> Any:
        return next(self.feeds, None)


def ort_int8(zoo: Zoo, name: str) -> Path:
    """Pre-processed, unsigned activations, signed weights per channel: what its documentation recommends.

    Raises:
        Exception: whatever the tool ends with.
    """
    out = scratch() / f"{name}-ort-int8.onnx"
    if out.exists():
        return out
    return static_int8(zoo.model(name), out, iter(calls_of(zoo, name)))


def calls_of(zoo: Zoo, name: str) -> list[Feeds]:
    """Calibration samples as feeds of single calls."""
    entry, arrays = zoo.entries[name], zoo.samples(name, limit=SAMPLES)
    whole = entry.get("squeeze") or entry["metric"] == "vad_auc"
    rows = range(len(next(iter(arrays.values()))))
    return [{k: np.asarray(v[i]) if whole else v[i : i + 1] for k, v in arrays.items()} for i in rows]


def static_int8(
    model: Path,
    out: Path,
    feeds: Iterator[Feeds],
    weights: quantization.QuantType = quantization.QuantType.QInt8,
) -> Path:
    """The same of any model, weights of 8 or 4 bits; what is made on the way lies beside `out`."""
    prepared = out.with_suffix(".prepared.onnx")
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
            quantization.quantize_static(
                str(prepared), str(out), _Reader(feeds), per_channel=True,
                activation_type=quantization.QuantType.QUInt8, weight_type=weights,
            )  # fmt: skip
        finally:
            logging.disable(logging.NOTSET)
    return out
