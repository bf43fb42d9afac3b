"""Rewrite passes; `lpcompile.passes.fold_batchnorm(model)` calls one as a function.

`lpcompile passes` lists them in pipeline order, `docs/reference/passes.md` describes each.

Every other module here holds one concept that a pass is made of, and is named after it.
"""

import sys
from types import ModuleType
from typing import Any

from lpcompile import registry

_FUNCTIONS = registry.function_names()


class _Passes(ModuleType):
    """A package in which the function of a pass keeps the name that the import system would give to its module."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, ModuleType) and name in _FUNCTIONS):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Passes


def __getattr__(name: str) -> Any:
    # Made on use: the catalogues of passes must not pay for onnx and onnxruntime.
    if name not in _FUNCTIONS:
        raise AttributeError(f"module 'lpcompile.passes' has no attribute {name!r}")
    function = registry.pass_function(_FUNCTIONS[name])
    globals()[name] = function
    return function


def __dir__() -> list[str]:
    return sorted({*globals(), *_FUNCTIONS})
