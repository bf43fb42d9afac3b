"""The operators of domain `lpcompile`, each with its body, as `--emit functions` writes them."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from onnx import AttributeProto, FunctionProto, NodeProto, helper, numpy_helper

from lpcompile.formats.base import resolve
from lpcompile.ir import block_matmul, domain, dyadic, dyadic_elementwise, float8, unpacking
from lpcompile.ir.decode import Storage
from lpcompile.plan import CONCAT_IN
from tests.documents.generated.markdown import NOTE, code, joined

OPSET = 17
MOST_SHOWN = 16  # numbers of a constant
_INT8 = Storage(resolve("int8"), scale_codes="s8")
_W4 = Storage(resolve("nf4"), group_size=32, scale_codes="s8")
_W4_ROWS = Storage(resolve("nf4"), scale_codes="s8", row_tables=True)
_SIDE = Storage(resolve("fixp4"), group_size=32, scale_codes="s8", side=True)
_POSIT8 = Storage(resolve("posit8"), scale_codes="s8")

LAYERS: dict[str, Callable[[], FunctionProto]] = {
    "8-bit weights": lambda: domain.quant_conv(_INT8, OPSET, bias=True),
    "4-bit codes with group scales; the levels come with the call": lambda: domain.quant_conv(
        _W4, OPSET, bias=True
    ),
    "the same for matrices, the sums leave as floats": lambda: domain.quant_gemm(
        _W4, OPSET, bias=True, float_out=True
    ),
    "without a bias, one table of levels a row": lambda: domain.quant_matmul(
        _W4_ROWS, OPSET, float_out=False
    ),
    "a low-rank side path beside the codes, merged when the model is loaded": lambda: domain.quant_conv(
        _SIDE, OPSET, bias=True
    ),
    "a side path whose hidden numbers stand beside the inputs (`lowering=concat-in`)": lambda: (
        domain.quant_matmul(_W4, OPSET, float_out=True, path=CONCAT_IN)
    ),
    "the range of the input is measured at run time": lambda: domain.dynamic_quant_matmul(_INT8, OPSET),
    "4-bit weights that stay packed in memory": lambda: block_matmul.block_quant_matmul(
        Storage(resolve("int4"), group_size=32, scale_codes="s8"), OPSET
    ),
    "weights of a layer that runs on floats": lambda: domain.dequantize_weights(_POSIT8, OPSET, 4, 0),
    "INT4 codes read as FP8 (recipe `dpq`)": lambda: float8.dual_precision_weights(OPSET, 2, 0),
}
OTHERS: dict[str, Callable[[], FunctionProto]] = {
    "a norm that no layer took in": lambda: domain.quant_norm(_INT8, OPSET),
    "one rounding for the sum": lambda: domain.quant_elementwise("Add", OPSET),
    "a function of one tensor, the result held to 4 bits": lambda: domain.quant_elementwise(
        "Sigmoid", OPSET, 15
    ),
    "FP8 numbers in float32": lambda: float8.round_float8(OPSET),
}
DYADIC: dict[str, Callable[[], FunctionProto]] = {
    "a layer whose sums are exact in float32": lambda: dyadic.dyadic_layer("Conv", _INT8, OPSET),
    "the sums alone, weights split into two digits": lambda: dyadic.dyadic_layer(
        "MatMul", _INT8, OPSET, digits=2, accumulate=True
    ),
    "a sum with one rounding": lambda: dyadic_elementwise.dyadic_add(OPSET),
    "a product": lambda: dyadic_elementwise.dyadic_mul(OPSET),
    "a mean over windows": lambda: dyadic_elementwise.dyadic_average_pool(OPSET),
    "a mean over all": lambda: dyadic_elementwise.dyadic_global_average_pool(OPSET),
    "scale and shift by channel": lambda: dyadic_elementwise.quant_norm(OPSET),
    "any function of one tensor": lambda: dyadic_elementwise.lookup(OPSET),
}
_GRAMMAR = """
| part of a name | says |
|---|---|
| `int8`, `posit8`, ... | the format, where the body holds its values |
| `w4` | codes of up to 4 bits; their int8 levels are an input of the call, so all such formats share a body |
| `_g` | integer group scales beside the codes |
| `_s8`, `_u8`, `_b16` | channel scales stored as small floats, as linear steps, as bfloat16; nothing: float32 |
| `_rows` | one table of levels a row |
| `_side` | factors of a low-rank side path, merged into the weights |
| `_path` | a side path of lowering `separate`: its outputs are added to the floats |
| `_concat` | one of lowering `concat-in`: its hidden numbers stand beside the inputs |
| `_odd` | a byte may hold codes of two rows or groups |
| `_nobias`, `_float` | without a bias; the sums leave as float32 |
| `_a4` | the output is held to 0..15 |
| `_d2`, `_d4` | weights split into two or four digits, so that float32 sums stay exact |
| `_t1`, `_t3` | axes behind that of the channels, where they are not two |
"""


def page() -> str:
    """docs/reference/functions.md."""
    shared = {f"`{name}`": partial(body, OPSET) for name, body in unpacking.BODIES.items()}
    return joined(
        "# Operators of the compiled graph",
        NOTE,
        "With `--emit functions` (the default) each quantised layer is one node of the domain `lpcompile`, and the file holds its meaning: a body of "
        "standard ONNX operators, which ONNX Runtime inlines when it loads the model. `--emit standard` writes the bodies inlined. "
        "The bodies below are those for opset 17, of some of the variants; names are put together from parts:",
        _GRAMMAR,
        "In a body `@name` is the attribute of the call. Constants of more than 16 numbers are shown by type and shape.",
        "## Layers",
        *_sections(LAYERS),
        "## Work without weights",
        *_sections(OTHERS),
        "## Integer graphs of `cim`",
        "All arithmetic is exact: integers in float32 and float64, see the [numeric contract](numeric-contract.md).",
        *_sections(DYADIC),
        "## Shared bodies: codes to weights and scales",
        "Called by the layers. Everything in them is constant, and is folded when the model is loaded.",
        *_sections(shared),
    )


def _sections(functions: Mapping[str, Callable[[], FunctionProto]]) -> list[str]:
    found = []
    for what, make in functions.items():
        function = make()
        about = f"{what[0].upper()}{what[1:]}. " if not what.startswith("`") else ""
        attributes = f" Attributes: {code(function.attribute)}." if function.attribute else ""
        found.append(
            f"### {function.name}\n\n{about}`{function.doc_string}`.{attributes}\n\n```text\n{text(function)}\n```"
        )
    return found


def text(function: FunctionProto) -> str:
    """A function as assignments, one a line."""
    lines = [f"{function.name}({', '.join(function.input)}) -> {', '.join(function.output)}"]
    return "\n".join([*lines, *(f"  {_node(node)}" for node in function.node)])


def _node(node: NodeProto) -> str:
    attributes = ", ".join(f"{a.name}={_attribute(a)}" for a in node.attribute)
    inside = "; ".join(part for part in (", ".join(node.input), attributes) if part)
    prefix = f"{node.domain}." if node.domain else ""
    return f"{', '.join(node.output)} = {prefix}{node.op_type}({inside})"


def _attribute(attribute: AttributeProto) -> str:
    if attribute.ref_attr_name:
        return f"@{attribute.ref_attr_name}"
    value = helper.get_attribute_value(attribute)
    if attribute.type == AttributeProto.TENSOR:
        return _tensor(numpy_helper.to_array(value))
    if isinstance(value, bytes):
        return value.decode()
    return _listed(value) if isinstance(value, Sequence) and not isinstance(value, str) else _number(value)


def _tensor(array: np.ndarray) -> str:
    shape = "x".join(map(str, array.shape))
    kind = f"{array.dtype}[{shape}]" if array.shape else str(array.dtype)
    return kind if array.size > MOST_SHOWN else f"{kind} {_listed(array.reshape(-1).tolist())}"


def _listed(values: Sequence[object]) -> str:
    return f"{{{', '.join(map(_number, values))}}}"


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
