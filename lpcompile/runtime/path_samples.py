"""What layers of a compiled model read, for other factors of side paths that are concatenated to them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

from lpcompile.analysis.hidden_samples import POSITIONS, codes_of_run, longest_rows
from lpcompile.analysis.samples import load_samples
from lpcompile.quant.concat_path import HiddenSample
from lpcompile.runtime.layer_check import showing
from lpcompile.runtime.session import Session


def path_samples(model: ModelProto, layers: Mapping[str, NodeProto], data: Any) -> dict[str, HiddenSample]:
    """Samples of what layers read in the model as it is.

    Args:
        model: compiled.
        layers: calls of matrix products by name; those that read floats find their range at run time.
        data: samples of the model's inputs in any form that compiling takes.

    Raises:
        CalibrationError: the samples are unreadable or do not fit.
        ModelError: the model does not load or run.
    """
    constants = {t.name: t for t in model.graph.initializer}
    given = {i.name for i in model.graph.input}
    tensors = sorted({node.input[0] for node in layers.values()})
    hidden = set(tensors) - given - {o.name for o in model.graph.output}
    with showing(model, hidden):
        session = Session(model)
    calls = load_samples(data, session.inputs).calls
    wanted = -(-POSITIONS // max(1, len(calls)))
    taken: dict[str, list[NDArray[np.int16]]] = {name: [] for name in layers}
    for feeds in calls:
        values = {**feeds, **session.run(feeds, [t for t in tensors if t not in given])}
        samples = max((len(v) for v in feeds.values() if v.ndim), default=1)
        for name, node in layers.items():
            x = values[node.input[0]]
            if x.dtype == np.uint8:
                codes = x.astype(np.int16) - numpy_helper.to_array(constants[node.input[2]]).astype(np.int16)
            else:
                codes, _ = codes_of_run(x, samples)
            rows = codes.reshape(-1, codes.shape[-1])
            taken[name].append(rows[longest_rows(rows, wanted)])
    return {name: HiddenSample(np.concatenate(parts), 0.0) for name, parts in taken.items()}
