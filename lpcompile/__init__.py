"""lpcompile: an ONNX graph compiler and deployment toolchain for low-precision inference."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpcompile.version import VERSION

__version__ = VERSION

_root = Path(__file__).resolve().parents[1]
if (_root / "pyproject.toml").is_file() and (_root / "passes" / "__init__.py").is_file():
    # A source checkout keeps passes/ and backends/ beside this folder; wheels keep them inside.
    __path__.insert(0, str(_root))

if TYPE_CHECKING:
    from lpcompile import passes
    from lpcompile.api import Artefacts, analyze, compile, cost, load, tune
    from lpcompile.errors import LpcompileError
    from lpcompile.planned_model import PlannedModel
    from lpcompile.progress import Step
    from lpcompile.runtime.side_factors import side_factors, swap_factors
    from lpcompile.static_quantisation import quantize_static
    from lpcompile.target import Options

_PUBLIC = {
    **dict.fromkeys(("Artefacts", "analyze", "compile", "cost", "load", "tune"), "lpcompile.api"),
    "LpcompileError": "lpcompile.errors",
    "Options": "lpcompile.target",
    "PlannedModel": "lpcompile.planned_model",
    "Step": "lpcompile.progress",
    "quantize_static": "lpcompile.static_quantisation",
    **dict.fromkeys(("side_factors", "swap_factors"), "lpcompile.runtime.side_factors"),
}

__all__ = [
    "Artefacts",
    "LpcompileError",
    "Options",
    "PlannedModel",
    "Step",
    "__version__",
    "analyze",
    "compile",
    "cost",
    "load",
    "passes",
    "quantize_static",
    "side_factors",
    "swap_factors",
    "tune",
]


def __getattr__(name: str) -> Any:
    # Loaded on use: `import lpcompile` and `--help` must not pay for onnx and onnxruntime.
    if name == "passes":
        return import_module("lpcompile.passes")
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'lpcompile' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
