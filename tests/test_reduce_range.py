"""The last look at codes: what is exchanged, what is dropped, what becomes floats."""

from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest

from lpcompile.formats.codebook import LearnedTable
from lpcompile.ir.graph import LpGraph
from lpcompile.plan import Kernel, QuantPlan
from lpcompile.quant.concat_path import HiddenSample, concat_path
from lpcompile.quant.granularity import PerAxis
from lpcompile.quant.neighbours import pairs_saturate
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.reduce_range import BEYOND_INT16, keep_within_int16
from tests.support import parse_model
from tests.support_quant import Storing, plan_by_hand

TEXT = "m (float[4,16] x) => (float[4,6] y) <float[16,6] w> { [p] y = MatMul (x, w) }"


INT8 = Storing()


def planned(storing: Storing = INT8, *, reduced: bool = True) -> LpGraph:
    graph = plan_by_hand(
        LpGraph.from_proto(parse_model(TEXT)), ["x"], storing=storing, kernel=Kernel.FLOAT_OUT
    )
    graph.plan = replace(graph.plan, reduce_range=reduced)
    return graph


def test_codes_are_exchanged_once() -> None:
    graph = planned()
    before = graph.plan.layers["p"]
    (change,) = keep_within_int16(graph).changes
    after = graph.plan.layers["p"]
    assert before.tensor is not None
    assert after.tensor is not None
    different = int((after.tensor.codes != before.tensor.codes).sum())
    assert (change.node, change.what, change.after) == ("p", "codes exchanged", f"{different} of 96")
    assert different
    assert after.codes_sha256 == after.tensor.digest()
    assert not pairs_saturate(after.tensor.int8_image()[0], np.arange(16))
    assert not keep_within_int16(graph).changes


def test_nothing_without_the_option() -> None:
    graph = planned(reduced=False)
    before = graph.plan
    assert not keep_within_int16(graph).changes
    assert graph.plan is before


@pytest.mark.parametrize("kernel", [Kernel.WEIGHT_ONLY, Kernel.NBITS, Kernel.FLOAT])
def test_kernels_that_add_no_products_of_8_bits_are_left_alone(kernel: Kernel) -> None:
    graph = planned()
    graph.plan = graph.plan.with_layer("p", replace(graph.plan.layers["p"], kernel=kernel))
    assert not keep_within_int16(graph).changes


def test_inputs_of_4_bits_leave_room() -> None:
    graph = planned()
    x = replace(graph.plan.activations["x"], format="uint4")
    graph.plan = graph.plan.with_activation("x", x)
    assert not keep_within_int16(graph).changes


def test_a_layer_of_which_no_codes_fit_computes_in_floats() -> None:
    graph = planned()
    table = LearnedTable(bytes(range(100, 116)))
    tensor = QuantizedTensor(np.zeros((6, 16), np.uint8), table, PerAxis(0), np.ones(6, np.float32))
    graph.plan = graph.plan.with_layer("p", replace(graph.plan.layers["p"], tensor=tensor))
    (change,) = keep_within_int16(graph).changes
    assert (change.what, change.after) == (BEYOND_INT16, "weight-only")
    layer = graph.plan.layers["p"]
    assert (layer.kernel, layer.reason, layer.tensor) == (Kernel.WEIGHT_ONLY, BEYOND_INT16, tensor)


def test_a_joined_path_that_is_too_large_goes() -> None:
    """Its factors were made for CPUs that add exactly."""
    graph = planned(Storing("int4", "group8"))
    layer = graph.plan.layers["p"]
    assert layer.tensor is not None
    rng = np.random.default_rng(0)
    sample = HiddenSample(rng.integers(0, 256, (50, 16)).astype(np.int16), 0.02)
    scale = layer.tensor.int8_image()[1]
    b, a = rng.standard_normal((6, 2)) * scale[:, None], np.tile([1.0, 0.9], (2, 8))
    path = concat_path(b, a, scale, sample)
    weight = replace(layer.weight, rank=2, side_path="svd", side_lowering="concat-in")
    tensor = replace(layer.tensor, side=path)
    graph.plan = QuantPlan(
        MappingProxyType({"p": replace(layer, tensor=tensor, weight=weight)}),
        graph.plan.activations,
        reduce_range=True,
    )
    (change,) = keep_within_int16(graph).changes
    assert change.what == "without its side path"
    after = graph.plan.layers["p"]
    assert after.tensor is not None
    assert (after.kernel, after.weight.rank, after.tensor.side) == (Kernel.FLOAT_OUT, 0, None)
