"""lpcompile: an ONNX graph compiler and deployment toolchain for low-precision inference."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpcompile.version import VERSION

__version__ = VERSION

_root = Path(__file__).resolve().parents[1]
if (_root / "pyproject.toml").is_file() and (_root / "passes" / "__init__.py").is_file():
    # A source checkout keeps passes/ and backends/ beside this folder; wheels keep them inside.
    __path__.insert(0, str(_root))

if TYPE_CHECKING:
    from lpcompile.api import Artefacts, analyze, compile, cost, load, tune
    from lpcompile.errors import LpcompileError
    from lpcompile.runtime.side_factors import side_factors, swap_factors

__all__ = [
    "Artefacts",
    "LpcompileError",
    "__version__",
    "analyze",
    "compile",
    "cost",
    "load",
    "side_factors",
    "swap_factors",
    "tune",
]


def __getattr__(name: str) -> Any:
    # Loaded on use: `import lpcompile` and `--help` must not pay for onnx and onnxruntime.
    if name in {"analyze", "compile", "cost", "load", "tune", "Artefacts"}:
        from lpcompile import api

        return getattr(api, name)
    if name in {"side_factors", "swap_factors"}:
        from lpcompile.runtime import side_factors

        return getattr(side_factors, name)
    if name == "LpcompileError":
        from lpcompile.errors import LpcompileError

        return LpcompileError
    raise AttributeError(f"module 'lpcompile' has no attribute {name!r}")
