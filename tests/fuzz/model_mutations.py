"""Models, a little broken: each function changes a proto in place, or leaves it where it has nothing to change."""

from collections.abc import Callable
from random import Random

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

from tests.fuzz.foreign_nodes import insert_foreign_node
from tests.fuzz.weight_mutations import WEIGHT_MUTATIONS

Mutation = Callable[[Random, ModelProto], None]

ODD_TEXTS = (
    "",
    " ",
    "a b",
    "x\ny",
    "\x1b[31mred",
    "é\u202e\U0001f600",
    "../../etc/passwd",
    "/",
    "%s{0}",
    "a" * 5000,
    "\x00",
    "'\"",
)
ODD_NUMBERS = (
    0,
    1,
    -1,
    2,
    3,
    127,
    128,
    255,
    65536,
    2**31 - 1,
    -(2**31),
    2**31,
    2**40,
    2**62,
    2**63 - 1,
    -(2**63),
)
_OPERATORS = (
    "Relu", "Add", "Mul", "MatMul", "Gemm", "Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool",
    "BatchNormalization", "Softmax", "Reshape", "Transpose", "Flatten", "Concat", "Split", "Slice", "Gather", "Clip",
    "LayerNormalization", "ReduceMean", "Cast", "Identity", "Dropout", "Pad", "LSTM", "GRU", "If", "Loop", "PRelu",
    "QuantizeLinear", "DequantizeLinear", "QLinearConv", "Resize", "Erf", "Where", "Shape", "Expand", "TopK",
    "Scan", "NonZero", "Einsum", "StringNormalizer", "SequenceAt", "Constant", "Frobnicate", "LpConv", "FusedMatMul",
)  # fmt: skip
_OPSETS = (-1, 0, 1, 5, 6, 7, 9, 10, 12, 13, 14, 18, 20, 21, 22, 23, 24, 25, 99, 2**31, 2**62)
_ATTRIBUTE_MAKERS: tuple[Callable[[Random], object], ...] = (
    lambda rng: rng.choice(ODD_NUMBERS),
    lambda rng: [rng.choice(ODD_NUMBERS) for _ in range(rng.choice((1, 2, 3, 4, 8)))],
    lambda rng: [rng.choice((0, 1, 2, 3)) for _ in range(rng.choice((1, 2, 4)))],
    lambda rng: rng.choice((0.0, -1.0, 1e38, float("nan"), float("inf"))),
    lambda rng: [float(rng.choice((0, 1))), float("nan")],
    lambda rng: rng.choice((b"SAME_UPPER", b"VALID", b"\xff\xfe", b"", b"NOTSET", b"linear")),
    lambda rng: [b"a", b"\xff"],
    lambda rng: helper.make_tensor("t", TensorProto.FLOAT, [2], [1.0, 2.0]),
    lambda rng: helper.make_graph([], "body", [], []),
)


def _nodes(rng: Random, model: ModelProto) -> list[NodeProto]:
    """Nodes of the graph, now and then of a body or of a function."""
    pools = [model.graph.node, *(f.node for f in model.functions)]
    pools += [b.node for b in bodies(model.graph)]
    pools = [p for p in pools if len(p)]
    return list(rng.choice(pools) if rng.random() < 0.4 else pools[0]) if pools else []


def bodies(graph: GraphProto) -> list[GraphProto]:
    """Graphs in attributes, at any depth."""
    found = [a.g for n in graph.node for a in n.attribute if a.type == AttributeProto.GRAPH]
    return found + [inner for g in found for inner in bodies(g)]


def delete_node(rng: Random, model: ModelProto) -> None:
    if model.graph.node:
        del model.graph.node[rng.randrange(len(model.graph.node))]


def duplicate_node(rng: Random, model: ModelProto) -> None:
    if nodes := _nodes(rng, model):
        made = model.graph.node.add()
        made.CopyFrom(rng.choice(nodes))
        if rng.random() < 0.5:
            made.output[:] = [f"{o}_again" for o in made.output]


def shuffle_nodes(rng: Random, model: ModelProto) -> None:
    nodes = [NodeProto.FromString(n.SerializeToString()) for n in model.graph.node]
    rng.shuffle(nodes)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def all_names(model: ModelProto) -> list[str]:
    """Of tensors at the top level."""
    graph = model.graph
    named = [i.name for i in (*graph.input, *graph.initializer, *graph.output)]
    return named + [o for n in graph.node for o in n.output]


def rewire_input(rng: Random, model: ModelProto) -> None:
    nodes = [n for n in _nodes(rng, model) if n.input]
    if nodes:
        node = rng.choice(nodes)
        node.input[rng.randrange(len(node.input))] = rng.choice((*all_names(model), "", "nowhere"))


def change_arity(rng: Random, model: ModelProto) -> None:
    if nodes := _nodes(rng, model):
        node = rng.choice(nodes)
        names = node.input if rng.random() < 0.7 else node.output
        if names and rng.random() < 0.5:
            del names[rng.randrange(len(names)) :]
        else:
            names.append(rng.choice((*all_names(model), "", "more")))


def make_cycle(rng: Random, model: ModelProto) -> None:
    nodes = [n for n in model.graph.node if n.input and n.output]
    if nodes:
        node, later = rng.choice(nodes), rng.choice(nodes)
        node.input[0] = later.output[0]


def rename(rng: Random, model: ModelProto) -> None:
    graph = model.graph
    odd = rng.choice((*ODD_TEXTS, *all_names(model)))
    things = (*graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info)
    if things:
        rng.choice(things).name = odd


def rename_everywhere(rng: Random, model: ModelProto) -> None:
    """One tensor or node takes an odd name in all places: the model stays as valid as it was."""
    old, new = rng.choice(all_names(model) or [""]), rng.choice(ODD_TEXTS[1:])
    graph = model.graph
    for thing in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        thing.name = new if thing.name == old else thing.name
    for node in (*graph.node, *(n for b in bodies(graph) for n in b.node)):
        node.input[:] = [new if i == old else i for i in node.input]
        node.output[:] = [new if o == old else o for o in node.output]
    if graph.node and rng.random() < 0.5:
        rng.choice(graph.node).name = new


def change_operator(rng: Random, model: ModelProto) -> None:
    if nodes := _nodes(rng, model):
        rng.choice(nodes).op_type = rng.choice(_OPERATORS)


def change_domain(rng: Random, model: ModelProto) -> None:
    if nodes := _nodes(rng, model):
        rng.choice(nodes).domain = rng.choice(
            ("lpcompile", "com.microsoft", "ai.onnx.ml", "ai.onnx", "x\ny", "../..")
        )


def change_attribute(rng: Random, model: ModelProto) -> None:
    nodes = [n for n in _nodes(rng, model) if n.attribute]
    if not nodes:
        return add_attribute(rng, model)
    node = rng.choice(nodes)
    at = rng.randrange(len(node.attribute))
    match rng.randrange(4):
        case 0:
            del node.attribute[at]
        case 1:
            node.attribute[at].name = rng.choice(("axis", "kernel_shape", "pads", "", "x"))
        case 2:
            node.attribute.add().CopyFrom(node.attribute[at])
        case _:
            node.attribute[at].CopyFrom(_attribute(rng, node.attribute[at].name))
    return None


def add_attribute(rng: Random, model: ModelProto) -> None:
    if nodes := _nodes(rng, model):
        names = (
            "axis",
            "perm",
            "to",
            "group",
            "dilations",
            "strides",
            "pads",
            "transA",
            "transB",
            "alpha",
            "auto_pad",
            "odd\n",
        )
        rng.choice(nodes).attribute.append(_attribute(rng, rng.choice(names)))


def _attribute(rng: Random, name: str) -> AttributeProto:
    made = helper.make_attribute(name, rng.choice(_ATTRIBUTE_MAKERS)(rng))
    if rng.random() < 0.15:
        made.type = rng.randrange(15)  # type: ignore[assignment]  # not what it holds
    return made


def change_interface(rng: Random, model: ModelProto) -> None:
    """A type or shape of an input, output or inner tensor."""
    infos = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    if not infos:
        return
    info = rng.choice(infos)
    tensor = info.type.tensor_type
    match rng.randrange(8):
        case 0:
            tensor.elem_type = rng.randrange(30)
        case 1:
            tensor.ClearField("shape")
        case 2:
            info.ClearField("type")
        case 3:
            info.type.sequence_type.elem_type.tensor_type.elem_type = 1
        case 4:
            tensor.shape.dim.add().dim_value = rng.choice(ODD_NUMBERS)
        case 5 if tensor.shape.dim:
            del tensor.shape.dim[rng.randrange(len(tensor.shape.dim))]
        case 6 if tensor.shape.dim:
            rng.choice(tensor.shape.dim).dim_param = rng.choice((*ODD_TEXTS, "N", "batch"))
        case _ if tensor.shape.dim:
            rng.choice(tensor.shape.dim).dim_value = rng.choice(ODD_NUMBERS)


def change_outputs(rng: Random, model: ModelProto) -> None:
    graph = model.graph
    match rng.randrange(4):
        case 0 if graph.output:
            del graph.output[rng.randrange(len(graph.output))]
        case 1:
            infos = [*graph.input, *graph.output, *graph.value_info]
            graph.output.add().CopyFrom(rng.choice(infos or [helper.make_empty_tensor_value_info("o")]))
        case 2:
            graph.output.append(helper.make_empty_tensor_value_info(rng.choice((*all_names(model), "ghost"))))
        case _ if graph.input:
            del graph.input[rng.randrange(len(graph.input))]


def drop_value_info(rng: Random, model: ModelProto) -> None:
    del model.graph.value_info[:]
    if rng.random() < 0.3:
        for output in model.graph.output:
            output.ClearField("type")


def change_versions(rng: Random, model: ModelProto) -> None:
    match rng.randrange(5):
        case 0:
            model.ir_version = rng.choice((0, 1, 2, 3, 4, 7, 13, 99, 2**40, -1))
        case 1:
            del model.opset_import[:]
        case 2:
            made = model.opset_import.add()
            made.domain, made.version = (
                rng.choice(("", "ai.onnx", "lpcompile", "com.microsoft")),
                rng.choice(_OPSETS),
            )
        case _ if model.opset_import:
            rng.choice(model.opset_import).version = rng.choice(_OPSETS)


def empty_graph(rng: Random, model: ModelProto) -> None:
    del model.graph.node[:]
    if rng.random() < 0.5:
        del model.graph.output[:]
        model.graph.output.extend(model.graph.input)


def add_functions(rng: Random, model: ModelProto) -> None:
    """Local functions: sound, calling each other in a ring, of a wrong arity, or with the name of an operator."""
    domain = rng.choice(("local", "lpcompile", "ai.onnx", ""))
    nodes = [n for n in model.graph.node if len(n.input) >= 1 and n.output]
    kind = rng.randrange(4)
    calls = [("f", "g"), ("g", "f")] if kind == 0 else [("f", "f")] if kind == 1 else [("f", "Relu")]
    for name, callee in calls:
        inner = helper.make_node(callee, ["a"], ["b"], domain="" if callee == "Relu" else domain)
        wanted = ["a"] if kind != 3 else ["a", "more"]
        model.functions.append(
            helper.make_function(domain, name, wanted, ["b"], [inner], [helper.make_opsetid("", 17)])
        )
    made = model.opset_import.add()
    made.domain, made.version = domain, 1
    if nodes:
        node = rng.choice(nodes)
        node.op_type, node.domain = "f", domain
        del node.attribute[:]
        if rng.random() < 0.7:
            del node.input[1:]


def nest_deeply(rng: Random, model: ModelProto) -> None:
    """An If within an If within an If."""
    depth = rng.choice((2, 8, 20, 30))  # protobuf reads no more
    inner = helper.make_graph(
        [helper.make_node("Relu", ["deep_x"], ["deep_0"])],
        "g",
        [],
        [helper.make_empty_tensor_value_info("deep_0")],
    )
    for level in range(1, depth):
        node = helper.make_node("If", ["deep_c"], [f"deep_{level}"])
        for branch in ("then_branch", "else_branch") if level < 3 else ("then_branch",):
            attribute = node.attribute.add()
            attribute.name, attribute.type = branch, AttributeProto.GRAPH
            attribute.g.CopyFrom(inner)
        inner = helper.make_graph([node], "g", [], [helper.make_empty_tensor_value_info(f"deep_{level}")])
    model.graph.node.extend(inner.node)
    model.graph.output.extend(inner.output)
    model.graph.initializer.append(helper.make_tensor("deep_x", 1, [2], [1.0, -1.0]))
    constant = helper.make_tensor("deep_c", TensorProto.BOOL, [], [True])
    if rng.random() < 0.5:
        model.graph.initializer.append(constant)
    else:
        model.graph.input.append(helper.make_tensor_value_info("deep_c", TensorProto.BOOL, []))


def change_texts(rng: Random, model: ModelProto) -> None:
    odd = rng.choice(ODD_TEXTS)
    match rng.randrange(5):
        case 0:
            model.producer_name = model.doc_string = odd
        case 1:
            model.graph.name = model.graph.doc_string = odd
        case 2:
            entry = model.metadata_props.add()
            entry.key, entry.value = odd, odd
        case 3 if model.graph.node:
            entry = rng.choice(model.graph.node).metadata_props.add()
            entry.key, entry.value = rng.choice((odd, "lpcompile.format", "lpcompile.layer")), odd
        case _:
            annotation = model.graph.quantization_annotation.add()
            annotation.tensor_name = odd


MUTATIONS: tuple[Mutation, ...] = (
    delete_node,
    duplicate_node,
    shuffle_nodes,
    rewire_input,
    rewire_input,
    change_arity,
    make_cycle,
    rename,
    rename_everywhere,
    change_operator,
    change_operator,
    change_domain,
    change_attribute,
    change_attribute,
    add_attribute,
    change_interface,
    change_interface,
    change_outputs,
    drop_value_info,
    change_versions,
    empty_graph,
    add_functions,
    nest_deeply,
    change_texts,
    insert_foreign_node,
    insert_foreign_node,
    *WEIGHT_MUTATIONS,
)


def broken_model(rng: Random, model: ModelProto) -> tuple[ModelProto, list[str]]:
    """A copy with one to four changes, and their names."""
    made = ModelProto()
    made.CopyFrom(model)
    chosen = [rng.choice(MUTATIONS) for _ in range(rng.choice((1, 1, 1, 2, 2, 4)))]
    for mutation in chosen:
        mutation(rng, made)
    return made, [m.__name__ for m in chosen]
