"""`canonicalize`: operands of Range."""

import numpy as np

from lpcompile.passes.canonicalize import Canonicalize
from tests.passes.rewriting import left_alone, rewrite


def test_a_vector_of_one_element_becomes_a_scalar() -> None:
    """The shape of `last` is not known, so the runtime takes it; with a known shape it refuses the model."""
    graph, _ = rewrite(
        Canonicalize(),
        """
        m (int64[k] n, int64[r] shape) => (int64[a] y)
        <int64 zero = {0}, int64 one = {1}> { last = Reshape (n, shape)  y = Range (zero, last, one) }""",
        feeds={"n": np.array([5]), "shape": np.array([1])},
    )
    assert graph.ops() == ["Reshape", "Range"]
    operand = graph.nodes("Range")[0].inputs[1]
    assert operand is not None
    assert operand.shape == ()


def test_scalars_stay() -> None:
    model = "m (int64 n) => (int64[a] y) <int64 zero = {0}, int64 one = {1}> { y = Range (zero, n, one) }"
    assert left_alone(Canonicalize(), model, feeds={"n": np.array(4)}) == []
