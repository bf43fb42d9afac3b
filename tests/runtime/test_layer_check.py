import numpy as np
import pytest
from onnx import ModelProto, helper

from lpcompile.ir.graph import LpGraph
from lpcompile.plan import Kernel
from lpcompile.runtime.layer_check import check_layers
from tests.support import parse_model, random_feeds
from tests.support_quant import LAYERS, Storing, compiled, plan_by_hand, quantized_layer

TWO = """g (float[1,5,8,8] x) => (float[1,6,8,8] y)
    <float[6,5,3,3] w1, float[6] b1, float[6,6,3,3] w2, float[6] b2> {
    a = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (x, w1, b1)
    c = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (a, w2, b2)
    y = Add (c, a)
}"""


def two_layers() -> ModelProto:
    storing = Storing("int4", "group32", "ufloat8_e4m4")
    model = parse_model(TWO)
    for node, name in zip(model.graph.node, ("first", "second", "sum"), strict=True):
        node.name = name
    return compiled(
        plan_by_hand(LpGraph.from_proto(model), ["x", "a", "c", "y"], storing=storing, elementwise=["sum"])
    )


def swap_nibbles(model: ModelProto) -> None:
    """Make the bodies read the nibbles of weights in the wrong order."""
    for function in model.functions:
        for concat in function.node if "Weights" in function.name else ():
            if concat.op_type == "Concat" and concat.attribute[0].i in (
                1,
                3,
            ):  # halves of bytes, levels of pairs
                concat.input[:] = concat.input[::-1]


def test_a_sound_model_agrees_everywhere() -> None:
    model = two_layers()
    checks = check_layers(model, random_feeds(model))
    assert [c.name for c in checks] == ["first", "second", "sum"]
    assert [c.op for c in checks] == [n.op_type for n in model.graph.node if n.domain]
    assert [c.different for c in checks[:2]] == [0, 0]
    assert [c.compared for c in checks] == [64 * 6, 64 * 6, 6 * 64]
    assert checks[2].largest_step <= 1


def test_levels_of_another_format_show_at_their_layer_alone() -> None:
    model = two_layers()
    second = next(n for n in model.graph.node if n.name == "second")
    told = next(a for a in second.attribute if a.name == "format")
    told.s = b"posit4"  # the levels that the body is given are those of int4
    checks = check_layers(model, random_feeds(model))
    assert [c.name for c in checks if c.different] == ["second"]
    assert next(c for c in checks if c.different).largest_step >= 1


def test_swapped_nibbles_are_found() -> None:
    model = quantized_layer("conv", Storing("int4"))
    swap_nibbles(model)
    (check,) = check_layers(model, random_feeds(model))
    assert check.different > check.compared / 4


def test_an_output_that_is_not_held_to_four_bits_is_found() -> None:
    model = quantized_layer("conv", Storing("int4"), held="uint4")
    body = next(f for f in model.functions if f.name.startswith("QuantConv"))
    minimum = next(n for n in body.node if n.op_type == "Min")
    minimum.op_type = "Identity"
    del minimum.input[1:]
    feeds = {k: 4 * v for k, v in random_feeds(model).items()}
    (check,) = check_layers(model, feeds)
    assert check.different


@pytest.mark.parametrize("layer", ["gemm", "matmul-rank-3"])
@pytest.mark.parametrize("kernel", [Kernel.FLOAT_OUT, Kernel.DYNAMIC, Kernel.WEIGHT_ONLY])
def test_float_results_are_compared_exactly(layer: str, kernel: Kernel) -> None:
    model = quantized_layer(layer, Storing("nf4"), kernel)
    (check,) = check_layers(model, random_feeds(model))
    assert (check.name, check.different, check.largest_step) == ("layer", 0, 0.0)
    assert check.compared >= 45


@pytest.mark.parametrize("kernel", [Kernel.FLOAT_OUT, Kernel.WEIGHT_ONLY])
def test_a_wrong_float_result_is_found(kernel: Kernel) -> None:
    model = quantized_layer("gemm", Storing("nf4"), kernel)
    swap_nibbles(model)
    (check,) = check_layers(model, random_feeds(model))
    assert check.different
    assert 0 < check.largest_step < 3


@pytest.mark.sweep
@pytest.mark.parametrize("layer", LAYERS)
def test_a_sample_finds_what_all_positions_find(layer: str) -> None:
    model = quantized_layer(layer, Storing("posit4"))
    swap_nibbles(model)
    feeds = random_feeds(model)
    (some,), (every,) = check_layers(model, feeds, positions=3), check_layers(model, feeds, positions=10**6)
    shape = [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim]
    assert every.compared == np.prod(shape)
    assert some.compared == 3 * (shape[1] if layer.startswith("conv") else shape[-1])
    assert some.different
    assert every.different


def test_positions_are_drawn_by_the_seed() -> None:
    model = quantized_layer("conv", Storing("posit4"))
    swap_nibbles(model)
    feeds = random_feeds(model)
    found = [check_layers(model, feeds, positions=2, seed=s) for s in (0, 0, 1, 2, 3)]
    assert found[0] == found[1]
    assert any(f != found[0] for f in found[2:])


def test_the_model_stays_as_it_was() -> None:
    for model in (two_layers(), quantized_layer("gemm", Storing("nf4"), Kernel.WEIGHT_ONLY)):
        before = model.SerializeToString(deterministic=True)
        check_layers(model, random_feeds(model))
        assert model.SerializeToString(deterministic=True) == before


def test_a_float_model_has_nothing_to_check() -> None:
    model = parse_model(TWO)
    assert check_layers(model, random_feeds(model)) == []


def test_an_empty_batch_compares_nothing() -> None:
    model = quantized_layer("matmul", Storing("int8"))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "n"
    del model.graph.value_info[:]
    (check,) = check_layers(model, {"x": np.zeros((0, 37), np.float32)})
    assert (check.compared, check.different) == (0, 0)


def test_shared_and_fed_tensors_are_no_obstacle() -> None:
    """A call that reads a graph input and fills a graph output directly."""
    layer = quantized_layer("matmul", Storing("int8"))
    call = next(n for n in layer.graph.node if n.domain)
    keep = set(call.input)
    graph = helper.make_graph(
        [call],
        "g",
        [helper.make_tensor_value_info(call.input[0], 2, [5, 37])],
        [helper.make_tensor_value_info(call.output[0], 2, [5, 9])],
        [t for t in layer.graph.initializer if t.name in keep],
    )
    model = helper.make_model(
        graph, functions=layer.functions, opset_imports=layer.opset_import, ir_version=8
    )
    codes = np.random.default_rng(0).integers(0, 256, (5, 37)).astype(np.uint8)
    (check,) = check_layers(model, {call.input[0]: codes})
    assert (check.compared, check.different) == (45, 0)
