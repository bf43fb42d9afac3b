"""Nodes that are legal and awkward: sizes that explode, loops that do not end."""

from random import Random
from typing import Any

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

_HUGE = (2**20, 2**31, 2**34, 2**40, 2**62)


def insert_foreign_node(rng: Random, model: ModelProto) -> None:
    """One of the nodes below, fed by constants or by a tensor of the graph, and read by a node or an output."""
    made, weights, result = _MAKERS[rng.randrange(len(_MAKERS))](rng)
    tensors = [n.output[0] for n in model.graph.node if n.output] + [i.name for i in model.graph.input]
    for node in made:
        node.input[:] = [rng.choice(tensors) if i == "?" and tensors else i for i in node.input]
    model.graph.initializer.extend(_weight(name, values) for name, values in weights.items())
    at = rng.randrange(len(model.graph.node) + 1)
    nodes = [NodeProto.FromString(n.SerializeToString()) for n in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:at], *made, *nodes[at:]])
    match rng.randrange(3):
        case 0 if model.graph.output:
            model.graph.node.append(
                helper.make_node("Add", [model.graph.output[0].name, result], ["foreign_sum"])
            )
            model.graph.output.append(helper.make_empty_tensor_value_info("foreign_sum"))
        case 1:
            model.graph.output.append(helper.make_empty_tensor_value_info(result))
        case _ if model.graph.node:
            reader = rng.choice(model.graph.node)
            if reader.input and result not in reader.output:
                reader.input[0] = result


def _weight(name: str, values: Any) -> TensorProto:
    members = values if isinstance(values, list) else [values]
    kind = TensorProto.BOOL if isinstance(members[0], bool) else TensorProto.INT64
    if any(isinstance(v, float) for v in members):
        kind = TensorProto.FLOAT
    return helper.make_tensor(name, kind, [len(members)] if isinstance(values, list) else [], members)


_Made = tuple[list[NodeProto], dict[str, object], str]


def _fill(rng: Random) -> _Made:
    return [helper.make_node("ConstantOfShape", ["f_s"], ["f_o"])], {"f_s": [rng.choice(_HUGE), 4]}, "f_o"


def _expand(rng: Random) -> _Made:
    return (
        [helper.make_node("Expand", ["f_x", "f_s"], ["f_o"])],
        {"f_x": 1.0, "f_s": [rng.choice(_HUGE)]},
        "f_o",
    )


def _tile(rng: Random) -> _Made:
    return [helper.make_node("Tile", ["?", "f_r"], ["f_o"])], {"f_r": [1, rng.choice(_HUGE)]}, "f_o"


def _range(rng: Random) -> _Made:
    weights: dict[str, object] = {"f_a": 0, "f_b": rng.choice(_HUGE), "f_c": rng.choice((1, -1, 0))}
    return [helper.make_node("Range", ["f_a", "f_b", "f_c"], ["f_o"])], weights, "f_o"


def _loop(rng: Random) -> _Made:
    """Steps on a constant or on the input."""
    body: GraphProto = helper.make_graph(
        [
            helper.make_node("Identity", ["c_in"], ["c_out"]),
            helper.make_node("Mul", ["v_in", "v_in"], ["v_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v_in", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("c_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v_out", TensorProto.FLOAT, None),
        ],
    )
    start = rng.choice(("?", "f_v"))
    steps = rng.choice((0, 3, 1000))  # more, and the model itself never ends
    weights: dict[str, object] = {"f_m": steps, "f_c": True, "f_v": 1.0}
    return [helper.make_node("Loop", ["f_m", "f_c", start], ["f_o"], body=body)], weights, "f_o"


def _resize(rng: Random) -> _Made:
    factor = rng.choice((0.0, -1.0, 2.0, 1e9, float("nan")))
    return [helper.make_node("Resize", ["?", "", "f_s"], ["f_o"])], {"f_s": [1.0, 1.0, factor, factor]}, "f_o"


def _pad(rng: Random) -> _Made:
    rank, size = rng.choice((2, 4)), rng.choice((1, -1, -100, 2**31, 2**40))
    return (
        [helper.make_node("Pad", ["?", "f_p"], ["f_o"], mode=rng.choice(("constant", "reflect", "odd")))],
        {"f_p": [size] * (2 * rank)},
        "f_o",
    )


def _one_hot(rng: Random) -> _Made:
    weights: dict[str, object] = {"f_i": [0, 1], "f_d": rng.choice(_HUGE), "f_v": [0.0, 1.0]}
    return [helper.make_node("OneHot", ["f_i", "f_d", "f_v"], ["f_o"])], weights, "f_o"


def _reshape(rng: Random) -> _Made:
    shape = rng.choice(([-1], [0, -1], [-1, -1], [2**40], [-5], [1, 1, 1, 1, 1, 1, 1, 1, -1]))
    return [helper.make_node("Reshape", ["?", "f_s"], ["f_o"])], {"f_s": shape}, "f_o"


def _random(rng: Random) -> _Made:
    return [helper.make_node("RandomNormal", [], ["f_o"], shape=[rng.choice((2, 2**31))])], {}, "f_o"


def _unary(rng: Random) -> _Made:
    kinds = (
        "Sqrt",
        "Log",
        "Reciprocal",
        "NonZero",
        "IsNaN",
        "Shape",
        "Size",
        "Abs",
        "CumSum",
        "Softmax",
        "Flatten",
        "Det",
        "Unique",
        "SequenceConstruct",
        "Optional",
    )
    return [helper.make_node(rng.choice(kinds), ["?"], ["f_o"])], {}, "f_o"


def _divide(rng: Random) -> _Made:
    return (
        [helper.make_node(rng.choice(("Div", "Mod", "Pow")), ["?", "f_z"], ["f_o"])],
        {"f_z": rng.choice((0, 0.0, -1.5, 1e38))},
        "f_o",
    )


def _einsum(rng: Random) -> _Made:
    equation = rng.choice(("ij->ji", "ij,jk->ik", "...", "i" * 60, "ij->", "ii->i", "a\nb"))
    return [helper.make_node("Einsum", ["?"], ["f_o"], equation=equation)], {}, "f_o"


_MAKERS = (
    _fill,
    _expand,
    _tile,
    _range,
    _loop,
    _resize,
    _pad,
    _one_hot,
    _reshape,
    _random,
    _unary,
    _divide,
    _einsum,
)
