"""Calling the command line as a user would."""

from pathlib import Path

import numpy as np
import onnx
from click.testing import CliRunner, Result

from lpcompile.cli import main

HEADER = '<ir_version: 8, opset_import: ["": 17]>'
SMALL = (
    HEADER
    + """
small (float[n, 2] x) => (float[n, 3] y) <float[2, 3] w = {1, 2, 3, 4, 5, 6}> { [fc] y = MatMul(x, w) }"""
)


def lpcompile(*words: object, env: dict[str, str] | None = None) -> Result:
    """Run a command line; exceptions that are no exit fail the test."""
    return CliRunner().invoke(main, [str(w) for w in words], catch_exceptions=False, env=env)


def error_lines(*words: object, code: int) -> list[str]:
    """The lines on stderr of a command that must fail with `code`, having said nothing on stdout."""
    result = lpcompile(*words)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    return result.stderr.splitlines()


def small_model(folder: Path, name: str = "small.onnx", text: str = SMALL) -> Path:
    """A file with one MatMul: y = x @ [[1, 2, 3], [4, 5, 6]]."""
    path = folder / name
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def small_feeds(folder: Path, x: object = ((1, 0), (0, 1))) -> Path:
    """Feeds of the small model."""
    path = folder / "feeds.npz"
    np.savez(path, x=np.array(x, np.float32))
    return path
