"""Rewrite passes, in pipeline order; `lpcompile.passes.fold_batchnorm(model)` calls one as a function.

| pass                | does                                                                              |
| ------------------- | --------------------------------------------------------------------------------- |
| `widen-float16`     | spells float16 graphs in float32, so that their layers can run on integers        |
| `fold-constants`    | evaluates constant expressions and static shape computations; inlines decided Ifs |
| `canonicalize`      | one spelling for padding, clips, pools and matrix products; removes no-ops        |
| `fold-batchnorm`    | folds batch norms, also those spelled as Mul and Add, into the layer beside them  |
| `rotate`            | rotates residual streams of transformers, folded into weights                     |
| `equalize`          | scales channels between layers so that rounding loses less, where samples are given |

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
