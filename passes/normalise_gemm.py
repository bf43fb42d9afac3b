"""Rules of `canonicalize`: a matrix product with a row added is a Gemm, and every Gemm has one form.

Y = alpha * A B' + beta * C with constant B and C becomes Y = A (alpha B) + (beta C), B laid out (K, N).
"""

import numpy as np
from numpy.typing import NDArray

from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value
from lpcompile.passes.constant_inputs import dim_of, input_at, is_float, rank_of
from lpcompile.passes.node_replacement import put_instead
from lpcompile.records import PassReport


def matmul_add_to_gemm(graph: LpGraph, report: PassReport) -> None:
    """Join MatMul (M, K) x (K, N) and the Add of a constant row into one Gemm."""
    for add in graph.nodes("Add"):
        for product_value, row in _orders(add):
            product = graph.sole_producer(product_value, "MatMul")
            if product is None or not row.is_constant:
                continue
            data, weight = product.inputs[0], product.inputs[1]
            if data is None or weight is None or not weight.is_constant or not is_float(weight):
                continue
            if rank_of(weight) != 2 or rank_of(data) != 2:
                if rank_of(data) is None:
                    report.skip(product, "the rank of its input is not known")
                continue
            columns = weight.shape[1] if weight.shape else 0
            if not isinstance(columns, int) or not _is_row(row, columns):
                report.skip(product, "what is added to it is no constant row")
                continue
            name = product.name
            gemm = put_instead(graph, add, "Gemm", [data, weight, _as_row(graph, row, columns)])
            graph.remove(product)
            report.change(name, "MatMul and Add put together", after=f"Gemm {gemm.name}")
            break


def normalise_gemm(graph: LpGraph, report: PassReport) -> None:
    """Fold alpha, beta and transB of a Gemm into its constants."""
    made: dict[tuple[Value, float, bool], Value] = {}  # layers that share a weight go on sharing
    for gemm in graph.nodes("Gemm"):
        weight, bias = gemm.inputs[1], input_at(gemm, 2)
        alpha, beta = gemm.attrs.get("alpha", 1.0), gemm.attrs.get("beta", 1.0)
        flip = bool(gemm.attrs.get("transB", 0))
        odd_row = bias is not None and bias.is_constant and _odd_row(bias, weight, flip)
        if alpha == 1.0 and not flip and (beta == 1.0 or bias is None) and not odd_row:
            continue
        if weight is None or not weight.is_constant or not is_float(weight):
            report.skip(gemm, "its weight is not a float constant")
            continue
        if bias is not None and not bias.is_constant and beta != 1.0:
            report.skip(gemm, "beta scales a bias that is not constant")
            continue
        key = (weight, alpha, flip)
        if key not in made:
            made[key] = weight if alpha == 1.0 and not flip else _scaled(graph, weight, alpha, flip)
        gemm.set_input(1, made[key])
        if bias is not None and bias.is_constant:
            columns = made[key].values.shape[1]
            scaled = bias if beta == 1.0 else _scaled(graph, bias, beta, flip=False)
            gemm.set_input(2, _as_row(graph, scaled, columns) if _is_row(scaled, columns) else scaled)
        for attribute in ("alpha", "beta", "transB"):
            gemm.attrs.pop(attribute, None)
        report.change(gemm, "alpha, beta and transB folded into its constants")


def _orders(node: Node) -> list[tuple[Value, Value]]:
    a, b = node.inputs
    return [] if a is None or b is None else [(a, b), (b, a)]


def _is_row(value: Value, columns: int) -> bool:
    """Whether a constant is one number, or one a column, in a shape that adds no axis to (M, N)."""
    shape = value.shape or ()
    return len(shape) <= 2 and all(d == 1 for d in shape[:-1]) and all(d in (1, columns) for d in shape[-1:])


def _odd_row(bias: Value, weight: Value | None, flip: bool) -> bool:
    """Whether a bias is a row in another shape than (N,)."""
    columns = dim_of(weight, 0 if flip else 1)
    return (
        columns is not None and rank_of(weight) == 2 and _is_row(bias, columns) and bias.shape != (columns,)
    )


def _as_row(graph: LpGraph, value: Value, columns: int) -> Value:
    if value.shape == (columns,):
        return value
    row: NDArray[np.generic] = np.broadcast_to(value.values.reshape(-1), (columns,))
    return graph.constant(f"{value.name}/row", np.ascontiguousarray(row))


def _scaled(graph: LpGraph, value: Value, factor: float, flip: bool) -> Value:
    array = value.values.T if flip else value.values
    if factor != 1.0:
        array = (array.astype(np.float64) * factor).astype(array.dtype)
    stem = f"{value.name}/{'scaled' if factor != 1.0 else 'transposed'}"
    return graph.constant(stem, np.ascontiguousarray(array))
