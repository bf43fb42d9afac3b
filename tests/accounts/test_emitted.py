"""Where codes become floats and floats codes, against the model that is emitted."""

from collections.abc import Iterable

import pytest

import lpcompile
from lpcompile.ir.function import DOMAIN
from tests.networks import SHIPPED, compiled_network, compiled_toy, shipped, shipped_data

TOYS = ("concat_branches", "conv_bn_relu", "depthwise", "residual_add", "shared_weights")


def nodes_of(made: lpcompile.Artefacts) -> list[str]:
    return [n["node"] for n in made.report["cost"]["nodes"]["after"]]


def ending(names: Iterable[str], end: str) -> set[str]:
    return {name for name in names if name.endswith(end)}


def check(made: lpcompile.Artefacts) -> None:
    counted = nodes_of(made)
    for end, op in (("/quantize", "QuantizeLinear"), ("/dequantize", "DequantizeLinear")):
        assert ending((n.name for n in made.model.graph.node if n.op_type == op), end) == ending(counted, end)
    calls = {n.name for n in made.model.graph.node if n.domain == DOMAIN and not n.name.endswith("/weight")}
    assert calls <= set(counted)
    assert made.report["cost"]["uncounted"]["after"] == []


@pytest.mark.sweep
@pytest.mark.parametrize("name", SHIPPED)
def test_edges_of_shipped_networks(name: str) -> None:
    check(compiled_network(name, "int8"))


@pytest.mark.parametrize("name", TOYS)
def test_edges_of_toys(name: str) -> None:
    made = compiled_toy(name)
    assert ending(nodes_of(made), "/quantize")
    check(made)


@pytest.mark.thorough
def test_edges_of_a_reference_graph() -> None:
    name = "digits_resnet"
    check(lpcompile.compile(shipped(name), target="cim", calibration=shipped_data(name), recipe="int8"))
