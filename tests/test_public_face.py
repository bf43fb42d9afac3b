"""What programs may rely on: names, signatures, documentation, types."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import lpcompile
from tests.public_face import public_face

GOLDEN = Path(__file__).parent / "golden" / "public_face.txt"
FUNCTIONS = [n for n in lpcompile.__all__ if inspect.isfunction(getattr(lpcompile, n))]
CLASSES = [n for n in lpcompile.__all__ if inspect.isclass(getattr(lpcompile, n))]


def test_public_names_and_signatures_are_those_that_were_agreed_on() -> None:
    """`python -m tests.public_face > tests/golden/public_face.txt`, and a line in CHANGELOG.md."""
    assert public_face() == GOLDEN.read_text("utf-8")


def test_types_are_announced() -> None:
    assert (Path(lpcompile.__file__).parent / "py.typed").is_file()


@pytest.mark.thorough
def test_all_names_are_there_and_loaded_on_use() -> None:
    code = "import sys, lpcompile; print('onnx' in sys.modules); [getattr(lpcompile, n) for n in lpcompile.__all__]"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
    assert set(lpcompile.__all__) <= set(dir(lpcompile))
    with pytest.raises(AttributeError, match="has no attribute 'compil'"):
        _ = lpcompile.compil


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_document_every_argument_and_error(name: str) -> None:
    function = getattr(lpcompile, name)
    doc = inspect.getdoc(function) or ""
    for parameter in inspect.signature(function).parameters.values():
        stars = "**" if parameter.kind is parameter.VAR_KEYWORD else ""
        assert f"    {stars}{parameter.name}: " in doc, parameter.name
    assert "Raises:" in doc
    assert "Returns:" in doc
    assert all(p.annotation is not p.empty for p in inspect.signature(function).parameters.values())


@pytest.mark.parametrize("name", CLASSES)
def test_classes_document_every_field_and_method(name: str) -> None:
    cls = getattr(lpcompile, name)
    doc = inspect.getdoc(cls) or ""
    fields = [f for f in getattr(cls, "__dataclass_fields__", {}) if not f.startswith("_")]
    for field in fields:
        assert field in doc, field
    for member, value in vars(cls).items():
        if not member.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
            assert inspect.getdoc(value), member
