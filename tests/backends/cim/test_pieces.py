"""What a core must hold of a layer, by hand."""

from types import SimpleNamespace

import pytest

from lpcompile.backends.cim.pieces import _input_bytes
from lpcompile.backends.cim.program import Window


@pytest.mark.parametrize(
    ("shape", "kernel", "strides", "dilations", "wanted"),
    [
        ((1, 8, 8, 16), (3, 3), (2, 2), (1, 1), 3 * 3 * 16),
        ((1, 8, 9, 4), (3, 2), (1, 1), (2, 3), 5 * 4 * 4),  # a dilated window spans more than it reads
        ((1, 20, 5), (7,), (4,), (1,), 7 * 5),
    ],
)
def test_one_output_position_reads_its_window(
    shape: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    wanted: int,
) -> None:
    none = (0,) * len(kernel)
    work = SimpleNamespace(
        x=SimpleNamespace(shape=shape), window=Window(kernel, strides, dilations, none, none)
    )
    assert _input_bytes(work) == wanted  # type: ignore[arg-type]


def test_a_matrix_reads_one_row() -> None:
    work = SimpleNamespace(x=SimpleNamespace(shape=(4, 7, 24)), window=None)
    assert _input_bytes(work) == 24  # type: ignore[arg-type]
