"""Which of two tensors a runtime computes first, said through data: graphs have no edges for order alone.

A runtime frees a tensor after its last reader. A weight gradient that waits keeps the delta and the data of its
layer, so the way back goes on only when it is there.
"""

import numpy as np

from lpcompile.autodiff.builder import GradientBuilder, static_shape
from lpcompile.ir.value import Value


def after(b: GradientBuilder, value: Value, done: Value, *, like: Value | None = None) -> Value:
    """`value` itself, but not before `done` is computed: no copy, nothing that a runtime folds away.

    It is reshaped to its own shape, to which an empty piece of `done` is joined. `like` is a tensor of that shape,
    in case the shape is known of it alone.
    """
    like = value if like is None else like
    known = like if static_shape(like) is not None else value
    empty = b.op("Slice", b.op("Reshape", done, b.constant([-1])), *(b.constant([0]) for _ in range(3)))
    shape = b.op("Concat", b.cast(empty, np.dtype(np.int64)), b.shape(known), axis=0)
    return b.with_shape(b.op("Reshape", value, shape), like)
