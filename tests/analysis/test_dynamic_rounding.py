"""Ranges measured at run time, in floats: what numpy makes of each call; other readers go on reading floats."""

from collections.abc import Callable

import numpy as np
import pytest

import lpcompile
from lpcompile.analysis.rounded_activations import with_rounded_activations
from lpcompile.ir import io
from lpcompile.ir.graph import LpGraph
from lpcompile.plan import Kernel, LayerPlan
from lpcompile.runtime.execution import observer
from tests.networks import shipped, shipped_data
from tests.support import parse_model
from tests.support_quant import rounded_over_its_range

NET = """m (float[N,3,64] x) => (float[N,3,5] y, float[N,3,7] z) <float[64,5] w, float[64,7] v> {
    h = Relu (x)
    y = MatMul (h, w)
    z = MatMul (h, v)
}"""


def by_blocks(x: np.ndarray) -> np.ndarray:
    """Int8 by magnitudes of runs of 32 inputs."""
    blocks = x.reshape(*x.shape[:-1], -1, 32)
    step = np.abs(blocks).max(-1, keepdims=True) / np.float32(127)
    step = np.where(step > 0, step, 1)
    return (np.rint(blocks / step) * step).reshape(x.shape).astype(np.float32)


def planned(opset: int, kernel: Kernel) -> LpGraph:
    graph = io.load(parse_model(NET, opset=opset))
    first, second = graph.layers()
    graph.plan = graph.plan.with_layer(first.name, LayerPlan(kernel=kernel))
    graph.plan = graph.plan.with_layer(second.name, LayerPlan(kernel=Kernel.FLOAT))
    return graph


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
@pytest.mark.parametrize(
    ("kernel", "rounds"), [(Kernel.DYNAMIC, rounded_over_its_range), (Kernel.NBITS, by_blocks)]
)
def test_a_layer_reads_what_its_kernel_makes_of_a_call(
    opset: int, kernel: Kernel, rounds: Callable[[np.ndarray], np.ndarray]
) -> None:
    graph = planned(opset, kernel)
    run = observer(with_rounded_activations(graph, {}), ["y", "z"])
    w, v = graph.value("w").values, graph.value("v").values
    for seed in (0, 1):  # a range of its own for each call
        x = (np.random.default_rng(seed).normal(size=(2, 3, 64)) * 10.0**seed).astype(np.float32)
        x[0, 0] = -1  # a row of zeros behind the Relu
        found, h = run({"x": x}), np.maximum(x, 0)
        np.testing.assert_allclose(found["y"], rounds(h) @ w, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found["z"], h @ v, rtol=1e-5, atol=1e-5)
        assert not np.allclose(found["y"], h @ w, rtol=1e-5, atol=1e-5)


def test_without_them_floats_are_read() -> None:
    graph = planned(17, Kernel.DYNAMIC)
    x = np.random.default_rng(0).normal(size=(2, 3, 64)).astype(np.float32)
    found = observer(with_rounded_activations(graph, {}, dynamic=False), ["y"])({"x": x})["y"]
    np.testing.assert_allclose(found, np.maximum(x, 0) @ graph.value("w").values, rtol=1e-5, atol=1e-5)


def test_the_ledger_ends_where_the_compiled_network_is() -> None:
    """A transformer that measures ranges at run time: the last step in floats is ONNX Runtime on integers."""
    made = lpcompile.compile(
        shipped("digits_transformer"),
        target="ort",
        calibration=shipped_data("digits_transformer"),
        passes="fold-constants,canonicalize,fold-batchnorm,quantize-activations{matmul=dynamic},quantize-weights,correct-bias",
    )
    report = made.report
    steps = report["ledger"]
    assert steps[0]["step"] == "activations alone"
    assert steps[0]["sqnr_db"] < 60  # floats would be exact
    assert steps[-1]["sqnr_db"] == pytest.approx(report["quality"]["sqnr_db_output"], abs=0.3)
