"""Counted bits are those of the initialisers that a compiled file holds, read off the file."""

import functools
from dataclasses import replace
from itertools import product

import onnx
import pytest
from onnx import ModelProto

import lpcompile
from lpcompile.assignment.layer_facts import LayerFormat, layer_facts
from lpcompile.assignment.stored_size import stored_bits
from lpcompile.errors import FormatError
from lpcompile.formats.base import resolve
from lpcompile.ir.graph import LpGraph
from lpcompile.materialise import materialise
from lpcompile.plan import Kernel, WeightPlan
from tests.networks import without_costs
from tests.support import parse_model, random_feeds
from tests.support_quant import Storing, layer_graph, plan_by_hand, stored_bytes

INTEGERS = tuple(f"int{n}" for n in range(2, 9))
IMAGED = (*INTEGERS, "uint4", "fixp4", "posit4", "posit5", "nf4", "pot4", "float4_e2m1fn")
FLOATS = ("posit4es1", "posit6es1", "posit8", "float8_e4m3fn")  # become floats when loaded
GROUPED = ("int2", "int3", "int4", "fixp4", "posit4", "nf4", "pot4", "float4_e2m1fn")
GROUP = "group32"
KINDS = tuple(product(("tensor", "channel"), ("float32", "ufloat8_e4m4")))


@functools.cache
def network(positive: bool = False) -> ModelProto:
    """Rows of 9, 63, 33 and 21 weights: odd counts leave nibbles over. Unsigned formats want positive weights."""
    model = parse_model(
        """n (float[2,1,5,5] x) => (float[2,5] z)
        <float[7,1,3,3] w1, float[7] b1, float[33,7,3,3] w2, float[33,21] w3, float[21,5] w4, float[5] b4>
        {
            a = Conv (x, w1, b1)  r = Relu (a)
            c = Conv (r, w2)      f = Flatten (c)
            m = MatMul (f, w3)    z = Gemm (m, w4, b4)
        }"""
    )
    for tensor in model.graph.initializer if positive else ():
        tensor.CopyFrom(onnx.numpy_helper.from_array(abs(onnx.numpy_helper.to_array(tensor)), tensor.name))
    return model


def of_file(model: ModelProto, layer: str) -> int:
    return 8 * stored_bytes(model, layer)


def check_functions(fmt: str, granularity: str, scale_format: str) -> None:
    """Materialise the network with all layers alike, and compare each."""
    graph = LpGraph.from_proto(network(positive=fmt.startswith("uint")))
    kernel = Kernel.WEIGHT_ONLY if resolve(fmt).image() is None else Kernel.INTEGER
    tensors = [] if kernel is Kernel.WEIGHT_ONLY else ["x", "a", "r", "c", "f", "m", "z"]
    plan_by_hand(graph, tensors, storing=Storing(fmt, granularity, scale_format), kernel=kernel)
    result, weight_bytes = materialise(graph)
    model = result.to_proto()
    held = LayerFormat(WeightPlan(fmt, granularity, scale_format=scale_format), 8, kernel)
    assert len(weight_bytes) == 4
    for node in graph.layers():
        counted = stored_bits(layer_facts(node), held)
        assert counted == 8 * weight_bytes[node.name] == of_file(model, node.name), node


@pytest.mark.sweep
@pytest.mark.parametrize("fmt", [*IMAGED, *FLOATS])
def test_every_format_takes_in_the_file_what_was_counted(fmt: str) -> None:
    for granularity, scale_format in KINDS:
        check_functions(fmt, granularity, scale_format)


@pytest.mark.parametrize("fmt", GROUPED)
def test_group_scales_take_four_bits_each_where_a_row_has_several(fmt: str) -> None:
    check_functions(fmt, GROUP, "float32")
    check_functions(fmt, GROUP, "ufloat8_e4m4")


@pytest.mark.sweep
@pytest.mark.parametrize(("fmt", "granularity"), [("int8", "channel"), ("fixp4", GROUP), ("nf4", "tensor")])
@pytest.mark.parametrize(
    ("target", "emit"), [("cim", "functions"), ("ort", "qdq"), ("ort", "standard"), ("ort", "functions")]
)
def test_reports_of_whole_compilations_agree(
    fmt: str, granularity: str, target: str, emit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On `cim`, integers of the requantisation stand in for scales; `qdq` holds the image."""
    without_costs(monkeypatch)
    kind = "group" if granularity == GROUP else granularity
    made = lpcompile.compile(
        network(),
        target=target,
        calibration=[random_feeds(network(), seed=i) for i in range(4)],
        recipe="int8",
        passes="fold-constants, canonicalize, fold-batchnorm, quantize-activations, "
        f"quantize-weights{{format={fmt}, granularity={kind}}}",
        emit=emit,
        group_size=32 if kind == "group" else None,  # cim takes groups only where they are asked for
    )
    facts = {n.name: layer_facts(n) for n in LpGraph.from_proto(network()).layers()}
    assert list(facts) == [row["name"] for row in made.report["layers"]]
    kernels = {
        n.name.removesuffix("/weight"): Kernel(p.value)
        for n in made.model.graph.node
        for p in n.metadata_props
        if p.key == "lpcompile.kernel"
    }
    quantised = [row for row in made.report["layers"] if row["weight_format"] != "float32"]
    assert len(quantised) >= 3
    for row in made.report["layers"]:
        held = LayerFormat()
        if row in quantised:
            weight = WeightPlan(fmt, granularity)
            # expanded where `standard` shows no kernel of its own
            held = LayerFormat(weight, 8, kernels.get(row["name"], Kernel.INTEGER))
            assert 8 * row["weight_bytes"] == of_file(made.model, row["name"])
        counted = stored_bits(facts[row["name"]], held, dyadic=target == "cim", emit=emit)
        assert counted == 8 * row["weight_bytes"], row


@pytest.mark.parametrize("scale_format", ["float32", "ufloat8_e4m4"])
@pytest.mark.parametrize("layer", ["conv-even", "gemm", "conv-depthwise", "conv-grouped-dilated"])
def test_a_codebook_a_row_takes_sixteen_bytes_a_row(layer: str, scale_format: str) -> None:
    graph = layer_graph(layer)
    plan_by_hand(graph, ["x", "y"], storing=Storing("nf4", "channel", scale_format, row_tables=True))
    _, weight_bytes = materialise(graph)
    (node,) = graph.layers()
    facts, plan = layer_facts(node), graph.plan.layers[node.name]
    held = LayerFormat(plan.weight, 8, plan.kernel)
    assert stored_bits(facts, held) == 8 * weight_bytes[node.name]
    plain = replace(held, weight=replace(plan.weight, codebooks=()))
    assert stored_bits(facts, held) - stored_bits(facts, plain) == 16 * 8 * facts.rows[0]


def test_hand_counted_sizes() -> None:
    """5 rows of 7: 35 codes are 18 bytes of nibbles; groups of 3 are 3 a row, 15 in 8 bytes.

    Words of whole codes: 9 of a byte (2 bits), 5 of 3 bytes (3 bits), 5 of 5 (5 bits), 9 of 3 (6 bits), 5 of 7.
    """

    def size(fmt: str, granularity: str, scales: str = "float32") -> int:
        held = LayerFormat(WeightPlan(fmt, granularity, scale_format=scales), 8, Kernel.INTEGER)
        return stored_bits((5, 7), held) // 8

    assert size("int4", "channel") == 18 + 5 * 4
    codes = {"int2": 9, "int3": 15, "int5": 25, "int6": 27, "int7": 35, "int8": 35}
    assert {fmt: size(fmt, "channel") - 5 * 4 for fmt in codes} == codes
    assert size("int4", "group3", "ufloat8_e4m4") == 18 + 8 + 5 + 4
    assert size("int4", "group7") == size("int4", "channel")
    assert size("int4", "tensor", "ufloat8_e4m4") == 18 + 5 * 4
    assert stored_bits((5, 7), LayerFormat()) == 35 * 32


@pytest.mark.parametrize("granularity", ["group", "group0", "groups", "group-3"])
def test_a_granularity_that_is_none_is_named(granularity: str) -> None:
    held = LayerFormat(WeightPlan("int4", granularity), 8, Kernel.INTEGER)
    with pytest.raises(FormatError, match=granularity):
        stored_bits((5, 7), held)
