"""Rounded activations: constants or fed, they are what a quantiser makes of the tensor."""

import numpy as np
import pytest

from lpcompile.analysis.rounded_activations import ranges_of, with_ranges_fed, with_rounded_activations
from lpcompile.ir import io
from lpcompile.plan import ActivationPlan
from lpcompile.runtime.execution import observer
from tests.support import parse_model

NET = """m (float[N,6] x) => (float[N,3] y) <float[6,4] w, float[4,3] v> {
    h = MatMul (x, w)
    r = Relu (h)
    y = MatMul (r, v)
}"""


def by_numpy(x: np.ndarray, plan: ActivationPlan) -> np.ndarray:
    codes = np.rint(x / np.float32(plan.scale)) + plan.zero_point
    return np.asarray(
        (np.clip(codes, 0, plan.code_max) - plan.zero_point) * np.float32(plan.scale), np.float32
    )


PLANS = [
    ActivationPlan("uint4", 0.25, 7, "x"),
    ActivationPlan("uint4", 0.125, 3, "x"),
    ActivationPlan("uint8", 0.01, 128, "x"),
]


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("fed", [True, False])
def test_nodes_read_what_a_quantiser_gives(plan: ActivationPlan, fed: bool) -> None:
    graph = io.load(parse_model(NET))
    second = ActivationPlan("uint4", 0.5, 0, "r")
    x = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    feeds = {"x": x}
    if fed:
        changed, name = with_ranges_fed(graph, [["x"], ["r"]])
        feeds[name] = ranges_of([plan, second])
    else:
        changed = with_rounded_activations(graph, {"x": plan, "r": second})
    found = observer(changed, ["y"])(feeds)["y"]
    w, v = graph.value("w").values, graph.value("v").values
    wanted = by_numpy(np.maximum(by_numpy(x, plan) @ w, 0), second) @ v
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_one_session_serves_all_ranges() -> None:
    graph = io.load(parse_model(NET))
    changed, name = with_ranges_fed(graph, [["x"], ["r"]])
    run = observer(changed, ["y"])
    x = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    for plan in PLANS:
        plans = {"x": plan, "r": PLANS[1]}
        wanted = observer(with_rounded_activations(graph, plans), ["y"])({"x": x})["y"]
        np.testing.assert_array_equal(run({"x": x, name: ranges_of(list(plans.values()))})["y"], wanted)
