"""Layers whose products some CPUs add wrong: named, or kept from it."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lpcompile
from lpcompile.backends.ort.saturation import SOURCE, adds_pairs_in_int16
from lpcompile.errors import DecisionsError, InputError
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.product_order import product_order
from lpcompile.quant.rows import to_rows
from lpcompile.recipes import recipe_names
from lpcompile.runtime.reference import layer_rows
from lpcompile.runtime.reference_call import Call
from lpcompile.runtime.session import Session
from tests.exact_sums import as_users_have_them
from tests.networks import compiled_toy, toy, toy_calls, without_costs
from tests.saturating import saturating_sums

TOY = "residual_add"
VNNI = "the CPU sums products of 8 bits exactly"
REDUCED = "sums of two products of 8 bits stay within int16"
OPTIONS: list[dict[str, Any]] = [
    {"recipe": "int8"},
    {"recipe": "w4a8"},
    {"recipe": "w4a8", "weight_format": "nf4", "group_size": 0},
    {"recipe": "npp"},
    {"recipe": "dpq", "emit": "integer"},
]


def assumed(**options: Any) -> list[str]:
    return [a["what"] for a in compiled_toy(TOY, **options).report["assumptions"] if a["source"] == SOURCE]


@pytest.mark.parametrize(
    ("options", "layers"),
    [
        ({"recipe": "int8"}, "2 of 2 integer layers"),
        ({"recipe": "int8", "weight_format": "int7"}, ""),
        ({"recipe": "w4a8", "weight_format": "fixp4", "group_size": 0}, ""),
        ({"recipe": "w4a8", "weight_format": "nf4", "group_size": 0}, "2 of 2 integer layers"),
        ({"recipe": "fp32"}, ""),
    ],
)
def test_products_that_may_leave_int16_are_named(options: dict[str, Any], layers: str) -> None:
    found = assumed(**options, reduce_range="off")
    assert len(found) == bool(layers)
    assert all(what.startswith(VNNI) and layers in what for what in found)


def test_that_none_can_is_said_too() -> None:
    (what,) = assumed(recipe="int8", reduce_range="on")
    assert what.startswith(REDUCED)
    assert assumed(recipe="fp32", reduce_range="on") == []


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_no_two_products_of_the_compiled_layers_leave_int16(options: dict[str, Any]) -> None:
    """Rows of the model that is written, each neighbour times 255; without the option some do."""
    assert largest_pair(compiled_toy(TOY, **options, reduce_range="on").model) * 255 < 2**15
    assert largest_pair(compiled_toy(TOY, **options, reduce_range="off").model) * 255 >= 2**15


def largest_pair(model: onnx.ModelProto) -> int:
    """The largest sum of two weights that a convolution goes through one after the other: channels, then taps."""
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    largest = 0
    for node in model.graph.node:
        call = Call.of(node) if node.domain == "lpcompile" else None
        if call is None or not call.is_layer:
            continue
        inputs = [constants.get(name, np.zeros((1, 4, 8, 8), np.uint8)) for name in node.input]
        rows = layer_rows(call, inputs).values.astype(int)
        taps = int(np.prod(call.attributes["weight_shape"][2:]))
        ordered = np.moveaxis(rows.reshape(len(rows), -1, taps), 1, 2).reshape(len(rows), -1)
        pairs = ordered[:, 0 : ordered.shape[1] // 2 * 2].reshape(len(rows), -1, 2).sum(axis=2)
        largest = max(largest, int(np.abs(pairs).max()))
    assert largest
    return largest


@pytest.mark.parametrize("recipe", [n for n in recipe_names() if n not in ("fp32", "mixed-posit-tuned")])
def test_no_recipe_forgets_it(recipe: str) -> None:
    """Passes plan anew what earlier ones planned; the plan says to the end how weights are to be."""
    found = compiled_toy(TOY, recipe, reduce_range="on")
    assert 'reduce_range = "on"' in found.decisions
    assert not any(a["what"].startswith(VNNI) for a in found.report["assumptions"])


def test_a_replay_has_it_as_it_was(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this CPU is; who asks for something else gets that."""
    without_costs(monkeypatch)
    for asked, other in (("on", "off"), ("off", "on")):
        first = compiled_toy(TOY, "int8", reduce_range=asked)
        file = tmp_path / f"{asked}.toml"
        file.write_text(first.decisions)
        again = lpcompile.compile(toy(TOY), calibration=toy_calls(TOY), decisions=file)
        assert again.model.SerializeToString() == first.model.SerializeToString()
        changed = lpcompile.compile(toy(TOY), calibration=toy_calls(TOY), decisions=file, reduce_range=other)
        assert any("its codes are not those of the decisions" in w for w in changed.report["warnings"])


def test_decisions_with_another_word_are_refused(tmp_path: Any) -> None:
    text = compiled_toy(TOY, "int8", reduce_range="on").decisions
    file = tmp_path / "decisions.toml"
    file.write_text(text.replace('reduce_range = "on"', 'reduce_range = "sometimes"'))
    with pytest.raises(DecisionsError, match="reduce_range = 'sometimes'"):
        lpcompile.compile(toy(TOY), calibration=toy_calls(TOY), decisions=file)


def test_another_word_is_refused() -> None:
    with pytest.raises(InputError, match="'reduce_range' is no 'sometimes'"):
        lpcompile.compile(toy(TOY), calibration=toy_calls(TOY), reduce_range="sometimes")


def product(x: np.ndarray, w8: np.ndarray) -> np.ndarray:
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.INT32, None)],
        [numpy_helper.from_array(w8, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return Session(model, threads=1).run({"x": x})["y"]


def test_what_is_found_of_this_cpu_is_what_it_does() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(128, 256, (3, 40), np.uint8)
    w8 = rng.integers(60, 128, (40, 5), np.int8)
    exact = x.astype(np.int64) @ w8.astype(np.int64)
    cut = [[saturating_sums(row, column) for column in w8.T] for row in x]
    assert (np.array(cut) != exact).all()
    with as_users_have_them():
        np.testing.assert_array_equal(product(x, w8), cut if adds_pairs_in_int16() else exact)
    assert not adds_pairs_in_int16()  # of the sessions that tests have
    np.testing.assert_array_equal(product(x, w8), exact)


CONVOLUTIONS = [
    # input channels, output channels, groups, kernel
    (3, 8, 1, (3, 3)),
    (8, 8, 1, (1, 1)),
    (6, 4, 2, (2, 2)),
    (4, 12, 4, (3, 3)),
    (5, 5, 5, (3, 3)),
    (4, 6, 1, (5,)),
    (3, 4, 1, (2, 2, 2)),
]


@pytest.mark.parametrize(("channels", "outputs", "group", "kernel"), CONVOLUTIONS)
def test_the_order_of_products_is_that_of_the_kernels(
    channels: int, outputs: int, group: int, kernel: tuple[int, ...]
) -> None:
    """Two large weights at a time, on a CPU where neighbours show; there is no other place to see it."""
    with as_users_have_them():
        if not adds_pairs_in_int16():
            pytest.skip("this CPU adds products exactly")
        shape = (outputs, channels // group, *kernel)
        inputs = int(np.prod(shape[1:]))
        order = product_order(conv_node(shape, group))
        neighbours = (
            set()
            if order is None
            else {frozenset(map(int, order[i : i + 2])) for i in range(0, inputs // 2 * 2, 2)}
        )
        pairs = [(i, j) for i in range(inputs) for j in range(i + 1, inputs)]
        for start in range(0, len(pairs), outputs // group):
            part = pairs[start : start + outputs // group]
            w8 = np.zeros((outputs, inputs), np.int8)
            for row, pair in enumerate(part):
                w8[row, list(pair)] = 127
            found = conv_outputs(w8.reshape(shape), channels, group)
            for row, pair in enumerate(part):
                wrong = found[row] != round(2 * 127 * 255 / 300)
                assert wrong == (frozenset(pair) in neighbours), pair


def conv_model(w8: np.ndarray, channels: int, group: int) -> onnx.ModelProto:
    sizes = [1, channels, *(k + 1 for k in w8.shape[2:])]
    one, zero = np.float32(1), np.uint8(0)
    constants = {"s": one, "z": zero, "w": w8, "ws": one, "wz": np.int8(0), "ys": np.float32(300), "yz": zero}
    graph = helper.make_graph(
        [helper.make_node("QLinearConv", ["x", "s", "z", "w", "ws", "wz", "ys", "yz"], ["y"], group=group)],
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, sizes)],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def conv_outputs(w8: np.ndarray, channels: int, group: int) -> np.ndarray:
    """One output of each channel of the first group, all inputs 255."""
    sizes = (1, channels, *(k + 1 for k in w8.shape[2:]))
    y = Session(conv_model(w8, channels, group), threads=1).run({"x": np.full(sizes, 255, np.uint8)})["y"]
    found: np.ndarray = y.reshape(y.shape[1], -1)[:, 0].astype(int)
    return found


def conv_node(shape: tuple[int, ...], group: int) -> Any:
    weight = numpy_helper.from_array(np.zeros(shape, np.float32), "w")
    sizes = [1, shape[1] * group, *(k + 1 for k in shape[2:])]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], name="c", group=group)],
        "float",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return LpGraph.from_proto(model).node("c")


def test_the_order_of_a_matrix_is_that_of_its_inputs() -> None:
    weight = numpy_helper.from_array(np.zeros((5, 3), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="m")],
        "float",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])],
        [weight],
    )
    node = LpGraph.from_proto(helper.make_model(graph, ir_version=8)).node("m")
    order = product_order(node)
    assert order is not None
    assert order.tolist() == list(range(to_rows("MatMul", numpy_helper.to_array(weight)).shape[1]))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_this_cpu_gives_what_numpy_gives(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions as users have them, whatever the CPU: no layer differs, so none falls back."""
    without_costs(monkeypatch)
    with as_users_have_them():
        made = lpcompile.compile(toy(TOY), calibration=toy_calls(TOY), **options)
    assert not made.report["warnings"]
    layers = [layer for layer in made.report["layers"] if layer["op"] == "Conv"]
    assert len(layers) == 2
    assert all(layer["activation_format"] == "uint8" for layer in layers)
