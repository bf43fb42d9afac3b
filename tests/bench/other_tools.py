"""Quantisers of ONNX models that can be called here: ONNX Runtime's own, always, and those that are installed.

A caller takes a float model and samples as feeds of single calls, and gives a model that stock ONNX Runtime runs.
"""

import importlib.metadata
import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType

from tests.bench.peers import static_int8
from tests.zoo.entries import Feeds

Caller = Callable[[Path, Path, list[Feeds]], Path]


@dataclass(frozen=True)
class Tool:
    """One setting of a tool.

    Attributes:
        name: as the table shows it.
        package: that must be there to import.
        widths: of weights and activations.
        call: (float model, file to write, feeds of calls) -> the file.
    """

    name: str
    package: str
    widths: str
    call: Caller

    @property
    def shown(self) -> str:
        """Its name and version."""
        return f"{self.name} {importlib.metadata.version(self.package)}"

    @property
    def installed(self) -> bool:
        """Whether it can be called."""
        return importlib.util.find_spec(self.package) is not None


def _ort(weights: QuantType) -> Caller:
    def call(model: Path, out: Path, feeds: list[Feeds]) -> Path:
        return static_int8(model, out, iter(feeds), weights)

    return call


def _nncf(model: Path, out: Path, feeds: list[Feeds]) -> Path:
    import nncf

    def items() -> Iterator[Feeds]:
        yield from feeds

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("nncf").setLevel(logging.ERROR)
        found = nncf.quantize(onnx.load(model), nncf.Dataset(list(items())), subset_size=len(feeds))
    onnx.save(found, out)
    return out


TOOLS = (
    Tool("ONNX Runtime quantize_static", "onnxruntime", "W8A8", _ort(QuantType.QInt8)),
    Tool("ONNX Runtime quantize_static", "onnxruntime", "W4A8", _ort(QuantType.QInt4)),
    Tool("NNCF quantize", "nncf", "W8A8", _nncf),
)
# Tools without a caller here; their figures are those of the zoo's BASELINES.md (experiment `rivals`).
OTHERS = ("aimet_onnx", "quark", "modelopt", "onnx_neural_compressor", "onnxsim")


def remarks() -> list[str]:
    """What was found and what was not, one line a tool."""
    missing = {t.package for t in TOOLS if not t.installed}
    there = [package for package in OTHERS if importlib.util.find_spec(package) is not None]
    return [
        *(f"{package}: not installed, left out" for package in sorted(missing)),
        *(f"{package}: installed, but nothing here calls it; see experiment rivals" for package in there),
    ]
