"""The passes as functions for type checkers: `python -m lpcompile.pass_stub > passes/__init__.pyi` writes them down."""

from lpcompile import registry
from lpcompile.pass_functions import signature_of

HEADER = '''"""Rewrite passes as functions. Written by `python -m lpcompile.pass_stub`; do not edit."""

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any

from onnx import ModelProto

from lpcompile.planned_model import PlannedModel
from lpcompile.progress import Step
from lpcompile.records import PassReport
'''


def stub() -> str:
    """The text of the stub file."""
    return HEADER + "".join(_function(name) for name in registry.PASSES)


def _function(name: str) -> str:
    cls = registry.pass_class(name)
    signature = signature_of(cls)
    lines = []
    for i, p in enumerate(signature.parameters.values()):
        kind = p.annotation if isinstance(p.annotation, str) else p.annotation.__name__
        lines.append(
            f"    {p.name}: {kind}" + ("" if p.default is p.empty else f" = {_text(p.default)}") + ","
        )
        lines += ["    *,"] if i == 0 else []
    body = "\n".join(lines)
    head = f"def {name.replace('-', '_')}(\n{body}\n) -> {signature.return_annotation}:"
    return f'\n{head}\n    """{cls.summary[0].upper()}{cls.summary[1:]}."""\n'


def _text(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


if __name__ == "__main__":
    print(stub(), end="")
