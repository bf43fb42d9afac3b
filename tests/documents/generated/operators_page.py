"""Which ONNX operators each target runs on integers, and which have gradients."""

from lpcompile.autodiff.registry import ROUNDINGS, STOPS, operators
from lpcompile.backends.ort.target import UINT8_SINCE
from lpcompile.formats.base import resolve
from lpcompile.ir.domain import ELEMENTWISE
from lpcompile.ir.factor_rules import LAYERS
from lpcompile.ir.forms import FORM_OPS
from lpcompile.ir.movement import CLAMPS, DATA_INPUTS
from lpcompile.ir.unary import UNARY, WITH_NUMBER
from lpcompile.registry import TARGETS, target
from tests.documents.generated.markdown import NOTE, code, joined, table

OPSET = 21
_KINDS = {
    "pool": {"AveragePool", "GlobalAveragePool"},
    "norm": {"BatchNormalization"},
}


def page() -> str:
    """docs/reference/operators.md."""
    with_rule = {name for name in operators() if "::" not in name}
    own = [name for name in operators() if "::" in name]
    runs = {*LAYERS, *ELEMENTWISE, *DATA_INPUTS, *CLAMPS, *FORM_OPS}
    rows = [
        (f"`{op}`", *(_on(name, op) for name in TARGETS), _gradient(op, with_rule))
        for op in sorted(runs, key=str.lower)
    ]
    only = sorted(with_rule - runs)
    return joined(
        "# ONNX operators",
        NOTE,
        "An operator that is not on this page stays in floats on `ort` and on the host on `cim`, and has no gradient. "
        "None is refused that ONNX Runtime can run: a network with such operators compiles, the report names each with its reason.",
        "## On integers",
        _legend(),
        table(("operator", *(f"on `{name}`" for name in TARGETS), "gradient"), rows),
        f"On `ort` {_later()}. Below opset 13 a model is raised to 13 first where that is possible.",
        "## Gradients",
        "Gradients serve `analyze`, `--recipe auto`, `reconstruct-blocks`, `tune-weights` and `tune-scales`. They are ONNX graphs themselves. "
        "A model with an operator without a gradient still compiles: what needs it is left out, or measured instead.",
        f"Further operators with a rule, which no target runs on integers: {code(only)}.",
        *([f"Of other domains: {code(own)}."] if own else []),
        f"Nothing flows back through {code(sorted(STOPS))}: their outputs are piecewise constant, or no real numbers.",
        f"Through {code(sorted(ROUNDINGS))} the gradient of the numbers before rounding flows. "
        "How to add a rule: [A gradient](../add/gradient.md).",
    )


def _legend() -> str:
    return (
        "*layer*: has weights; runs as integer products, in every format with an int8 image. *codes*: moves or selects 8-bit codes, "
        "nothing is rounded. *clamp*: on codes, mostly taken in by the layer before it. *rounded*: integers in and out with one rounding. "
        "*pool*, *norm*: the same, over windows, by channel. *table*: a function of one tensor, 256 entries. *float*: stays float. *host*: runs on the host, "
        "in ONNX Runtime. Whether a node really runs on integers depends on its neighbours, constants and types; the report says why not."
    )


def _on(name: str, op: str) -> str:
    found = target(name)
    if found.supports(op, resolve("int8")).yes:
        return "layer"
    if op in LAYERS:
        return "float, weights stored in few bits" if found.rules.expands_weights else "host"
    if not found.supports_elementwise(op, OPSET).yes:
        norm = name == "ort" and op in _KINDS["norm"]
        return "norm" if norm else "float" if found.rules.falls_back else "host"
    if op in DATA_INPUTS:
        return "codes"
    if op in CLAMPS:
        return "clamp"
    kind = next((kind for kind, ops in _KINDS.items() if op in ops), "")
    if kind:
        return kind
    if not found.rules.tables:
        return "rounded"
    if op not in UNARY:
        return "rounded"
    if op in WITH_NUMBER:
        return (
            "rounded; with a constant number: table"
            if op in ("Add", "Sub", "Mul")
            else "with a constant number: table"
        )
    return "table"


def _gradient(op: str, with_rule: set[str]) -> str:
    return "yes" if op in with_rule else "stops" if op in STOPS else "none"


def _later() -> str:
    return ", ".join(f"`{op}` takes integers from opset {since} on" for op, since in UINT8_SINCE.items())
