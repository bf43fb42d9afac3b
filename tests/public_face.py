"""The public names with their signatures as text: `python -m tests.public_face > tests/golden/public_face.txt`."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any

import lpcompile

MODULES = ("passes",)  # their functions stand in passes/__init__.pyi, which has a test of its own


def public_face() -> str:
    """One line a name, members of classes below them, in alphabetical order."""
    lines = [line for name in sorted(set(lpcompile.__all__) - set(MODULES)) for line in _lines(name)]
    return "\n".join(lines) + "\n"


def _lines(name: str) -> Iterator[str]:
    found: Any = getattr(lpcompile, name)
    if isinstance(found, str):
        yield f"{name}: str"
        return
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(found))).body
    if isinstance(node, ast.FunctionDef):
        yield _signature(node)
        return
    assert isinstance(node, ast.ClassDef)
    bases = ", ".join(ast.unparse(b) for b in node.bases)
    yield f"class {name}({bases})" if bases else f"class {name}"
    for member in node.body:
        if isinstance(member, ast.AnnAssign) and not ast.unparse(member.target).startswith("_"):
            yield f"    {ast.unparse(member)}"
        if isinstance(member, ast.FunctionDef) and (
            member.name == "__init__" or not member.name.startswith("_")
        ):
            attribute = any(ast.unparse(d) == "property" for d in member.decorator_list)
            yield f"    {'property ' if attribute else ''}{_signature(member)}"


def _signature(node: ast.FunctionDef) -> str:
    gives = "" if node.returns is None else f" -> {ast.unparse(node.returns)}"
    return f"{node.name}({ast.unparse(node.args)}){gives}"


if __name__ == "__main__":
    print(public_face(), end="")
