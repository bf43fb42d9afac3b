"""Weights that are let go once they are rounded, and come back when somebody reads them."""

import weakref
from typing import Any

import numpy as np
import pytest

import lpcompile
from lpcompile import compilation
from lpcompile.accounts.sizes import settled
from lpcompile.formats.base import resolve
from lpcompile.ir.graph import LpGraph
from lpcompile.plan import Kernel, LayerPlan
from lpcompile.quant.fit import fit
from lpcompile.released import release_rounded
from tests.networks import toy, toy_calls
from tests.support import parse_model

TOY = "conv_bn_relu"
MODEL = parse_model("""
    g (float[2,4] x) => (float[2,4] y) <float[4,4] shared, float[4,4] own> {
        t = Gemm (x, shared)
        u = Gemm (t, shared)
        y = Gemm (u, own)
    }""")


def rounded(*names: str) -> LpGraph:
    """MODEL with codes for these layers."""
    graph = LpGraph.from_proto(MODEL)
    for name in names:
        weight = graph.node(name).inputs[1]
        assert weight is not None
        layer = LayerPlan(Kernel.WEIGHT_ONLY, tensor=fit(weight.values.T, resolve("int8")))
        graph.plan = graph.plan.with_layer(name, layer)
    return graph


def never() -> LpGraph:
    raise AssertionError("nobody needs the weights")


@pytest.mark.parametrize(
    ("layers", "gone"),
    [
        ((), []),
        (("Gemm_0", "Gemm_2"), ["own"]),  # Gemm_1 is float and reads what Gemm_0 reads
        (("Gemm_0", "Gemm_1", "Gemm_2"), ["shared", "own"]),
    ],
)
def test_what_only_rounded_layers_read_is_released(layers: tuple[str, ...], gone: list[str]) -> None:
    graph = rounded(*layers)
    assert release_rounded(graph, never) == gone
    assert [v.dims for v in graph.constants()] == [(4, 4), (4, 4)]
    assert graph.value("own").nbytes == 64


def test_a_reader_gets_the_same_numbers_and_they_are_made_once() -> None:
    wanted = {v.name: v.values.copy() for v in LpGraph.from_proto(MODEL).constants()}
    graph, made = rounded("Gemm_0", "Gemm_1", "Gemm_2"), []

    def remake() -> LpGraph:
        made.append(LpGraph.from_proto(MODEL))
        return made[-1]

    twin = graph.copy()
    release_rounded(graph, remake)
    for found in (graph, twin):
        for value in found.constants():
            np.testing.assert_array_equal(value.values, wanted[value.name])
    assert len(made) == 1
    assert graph.to_proto() == LpGraph.from_proto(MODEL).to_proto()


def test_replaced_weights_go_at_once() -> None:
    graph = LpGraph.from_proto(MODEL)
    node = graph.node("Gemm_2")
    graph.set_weights(node, np.ones((4, 4), np.float32), None)
    weight = node.inputs[1]
    assert weight is not None
    old = weakref.ref(weight.values.base)
    graph.set_weights(node, np.zeros((4, 4), np.float32), None)
    assert old() is None  # without the cycle collector
    assert node.input_names == ["u", "own"]


@pytest.mark.thorough
def test_a_compilation_that_keeps_its_layers_never_makes_the_float_graph_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    released: list[list[str]] = []

    def watched(graph: LpGraph, remake: Any) -> list[str]:
        del remake
        released.append(release_rounded(graph, never))
        return released[-1]

    monkeypatch.setattr(compilation, "release_rounded", watched)
    for recipe in ("int8", "w4a8"):
        for target, emit in (("ort", "functions"), ("ort", "qdq"), ("cim", "functions")):
            lpcompile.compile(toy(TOY), target=target, calibration=toy_calls(TOY), recipe=recipe, emit=emit)
    assert all(released)


def test_nothing_is_released_that_the_float_model_is_timed_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "release_rounded", lambda *_: never())
    lpcompile.compile(toy(TOY), target="cim", calibration=toy_calls(TOY), recipe="int8", benchmark=True)


def test_shapes_of_another_batch_need_no_released_weights() -> None:
    """Inference looks into small constants, and released ones have only a shape."""
    model = parse_model("g (float[n,4] x) => (float[n,4] y) <float[4,4] w> { [layer] y = Gemm (x, w) }")
    graph = LpGraph.from_proto(model)
    graph.infer_shapes()
    weight = graph.value("w")
    plan = LayerPlan(Kernel.WEIGHT_ONLY, tensor=fit(weight.values.T, resolve("int8")))
    graph.plan = graph.plan.with_layer("layer", plan)
    assert release_rounded(graph, never) == ["w"]
    assert settled(graph).value("y").shape == (1, 4)
