"""Functions of the domain as the file carries them: valid, self-contained, one a layout."""

from collections.abc import Iterator
from typing import Any

import onnx
import pytest
from onnx import FunctionProto

from lpcompile.formats.base import resolve
from lpcompile.ir import domain
from lpcompile.ir.decode import Storage
from lpcompile.ir.function import DOMAIN
from lpcompile.runtime.reference_call import Call
from tests.support_quant import IMAGE_FORMATS, WIDE_FORMATS, Storing, quantized_layer

STORAGES = [
    Storage(resolve("int8")),
    Storage(resolve("posit4"), transposed=True),
    Storage(resolve("int4"), group_size=32, scale_codes="s8"),
    Storage(resolve("nf4"), row_tables=True),
]
OPSETS = (13, 17, 21, 23)
READ_BY_PEOPLE = {
    "format",
    "granularity",
    "weight_shape",
    "group_size",
}  # attributes that a body may not need


def functions(opset: int) -> Iterator[FunctionProto]:
    for storage in STORAGES:
        for bias in (False, True):
            yield domain.quant_conv(storage, opset, bias=bias)
            yield domain.quant_conv(storage, opset, bias=bias, code_max=15)
            for float_out in (False, True):
                yield domain.quant_gemm(storage, opset, bias=bias, float_out=float_out)
        yield domain.quant_matmul(storage, opset, float_out=False, code_max=15)
        yield domain.quant_matmul(storage, opset, float_out=True)
        yield domain.dynamic_quant_matmul(storage, opset)
        yield domain.dequantize_weights(storage, opset, 4, 0)
        yield domain.dequantize_weights(storage, opset, 2, 1)
    for op in domain.ELEMENTWISE:
        yield domain.quant_elementwise(op, opset)
        yield domain.quant_elementwise(op, opset, 15)


@pytest.mark.parametrize("opset", OPSETS)
def test_functions_are_valid_and_written_for_the_opset_of_the_model(opset: int) -> None:
    for function in functions(opset):
        if "HardSwish" in function.name and opset < 14:
            continue
        onnx.checker.check_function(function)
        called = {n.domain for n in function.node if n.domain}
        assert called <= {DOMAIN}
        assert next((o.domain, o.version) for o in function.opset_import) == ("", opset)
        assert {o.domain for o in function.opset_import} == {"", *called}
        assert function.domain == DOMAIN


def test_every_input_is_read_and_every_attribute_declared() -> None:
    for function in functions(17):
        read = {name for node in function.node for name in node.input}
        assert set(function.input) <= read, function.name
        referred = {a.ref_attr_name for node in function.node for a in node.attribute if a.ref_attr_name}
        assert set(function.attribute) == referred | (READ_BY_PEOPLE & set(function.attribute)), function.name
        filled = [name for node in function.node for name in node.output]
        assert len(filled) == len(set(filled)), function.name
        assert read <= set(filled) | set(function.input), function.name
        assert set(filled) - read == {"y"}, function.name  # nothing is computed in vain


def test_one_name_stands_for_one_body() -> None:
    bodies: dict[str, bytes] = {}
    for function in functions(17):
        text = function.SerializeToString(deterministic=True)
        assert bodies.setdefault(function.name, text) == text


def test_every_function_says_what_it_computes_and_can_be_read_back() -> None:
    for function in functions(17):
        assert function.doc_string
        told: dict[str, Any] = {"format": "nf4", "group_size": [32]} if "_w4" in function.name else {}
        call = Call.of(onnx.helper.make_node(function.name, [], ["y"], domain=DOMAIN, **told))
        assert ("_a4" in function.name) == (call.code_max == 15)
        if call.is_layer:
            first = {"DequantizeWeights": 0, "DynamicQuantMatMul": 1}.get(call.family, 3)
            stored = function.input[first : first + call.stored_inputs]
            assert stored[0] == "codes"
            assert stored[-1] in ("w_scale", "scale_unit")
            after = function.input[first : first + call.weight_inputs][len(stored) :]
            assert len(after) == call.format_inputs
            assert set(after) == {"levels", "image_unit"} & set(function.input)
            assert ("bias" in function.input) == call.has_bias


WEIGHTS = {4: "Weights", 8: "Weights", **{bits: f"Weights{bits}" for bits in (2, 3, 5, 6, 7)}}


@pytest.mark.parametrize("fmt", [*IMAGE_FORMATS, *WIDE_FORMATS])
def test_a_format_changes_the_levels_of_a_call_and_no_body(fmt: str) -> None:
    bits = resolve(fmt).bits
    alike = (
        "nf4" if bits == 4 else f"{'int' if fmt.startswith('fixp') else 'fixp'}{bits}" if bits < 8 else fmt
    )
    model, other = (quantized_layer("conv", Storing(f)) for f in (fmt, alike))
    function = model.functions[-1]
    assert [n.op_type for n in function.node][-1] == "QLinearConv"
    assert {n.op_type for n in function.node} <= {"Cast", "Constant", "QLinearConv", WEIGHTS[bits]}
    assert list(model.functions) == list(other.functions)
