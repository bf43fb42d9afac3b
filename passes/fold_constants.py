"""Evaluate what does not depend on the inputs: constant nodes, and shape computations over static dimensions.

Left alone: what is random, what quantises (the chains of models that are quantised already), and what would only
enlarge the model: results of more than max(64 KiB, twice the constants they are made from), and once the model has
grown by `growth-bytes` every result that takes more than the constants it makes superfluous. A constant in another
order or type and the weights of a layer, or parts of which these are put together, do not count as growth: quantised
they are smaller, and where they stay float the emitted file computes them from what it holds (`ir/compact.py`). With
`growth-bytes=0` they count too.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lpcompile.ir.facts import Fact
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.random_operators import RANDOM
from lpcompile.ir.value import Value
from lpcompile.passes.constant_inputs import elements, input_at, output_at
from lpcompile.passes.inline_if import inline_if
from lpcompile.passes.node_replacement import is_named_outside, remove_dead
from lpcompile.passes.numpy_evaluation import ResultTooLargeError, evaluate
from lpcompile.passes.runtime_evaluation import connected_parts, evaluate_part
from lpcompile.passes.shape_arithmetic import SHAPE_OPS, ShapeArithmetic, reshape_target
from lpcompile.pipeline import Pass, PassContext
from lpcompile.records import PassReport

_RANDOM = RANDOM | {"Dropout"}
_QUANTISING = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
# Their result may be far larger than their inputs, by the values of these.
_GROWING = frozenset(
    {"ConstantOfShape", "Expand", "EyeLike", "OneHot", "Pad", "Range", "Resize", "Tile", "Upsample"}
)
_SMALL_BYTES = 64 * 1024
_FREE_BYTES, _SHARE = 4096, 8  # a small model may grow by the former, or by an eighth of its constants
_NO_ROOM = "its result would enlarge the model"
_FEW = 64  # elements that count for nothing: shapes, axes, scalars
_REORDERING = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "GRU", "LSTM", "MatMul", "RNN"})
_PARTS = frozenset({*_REORDERING, "Concat", "Slice"})  # of which exporters put weights together
_DEEPEST = 8


@dataclass(frozen=True, slots=True)
class FoldConstants(Pass):
    """Replace constant expressions by their values.

    Attributes:
        growth-bytes: how many bytes the model may grow by results that are larger than what they are made from; of a
            model whose constants take less than eight times that, an eighth of those, or 4 KiB.
    """

    name: ClassVar[str] = "fold-constants"
    summary: ClassVar[str] = "constant expressions and static shape computations evaluated"
    takes: ClassVar[tuple[str, ...]] = ("input_values",)
    establishes: ClassVar[frozenset[Fact]] = frozenset({Fact.CONSTANTS_FOLDED, Fact.SHAPES})

    growth_bytes: int = _SMALL_BYTES

    def run(self, graph: LpGraph, ctx: PassContext) -> PassReport:
        """Fold until nothing is left; nodes that stay although their inputs are constant are skips."""
        report = PassReport(self.name)
        before = len(graph.nodes())
        failed: dict[Node, str] = {}
        room = _Room(self._most_bytes(graph), strict=self.growth_bytes == 0)
        while True:
            graph.infer_shapes()
            sweep = _Sweep(graph, ctx, PassReport(self.name), dict(failed), room)
            sweep.shapes()
            sweep.conditions()
            sweep.simple_nodes()
            sweep.other_nodes()
            remove_dead(graph)
            report.changes += sweep.report.changes
            if not sweep.report.changes and sweep.failed == failed:
                for node, reason in sweep.stays.items():
                    report.skip(node, reason)
                report.metrics["nodes_removed"] = before - len(graph.nodes())
                return report
            failed = sweep.failed

    def _most_bytes(self, graph: LpGraph) -> int:
        held = sum(map(_bytes, graph.constants()))
        return min(self.growth_bytes, max(_FREE_BYTES, held // _SHARE))


@dataclass
class _Room:
    """Bytes that constants may still grow by; folds that free more than they store add to it."""

    left_bytes: int
    strict: bool

    def takes(self, nodes: list[Node], results: dict[Value, NDArray[Any]]) -> bool:
        """Whether there is room for the results of these nodes; if so, it is taken."""
        inside = set(nodes)
        inputs = {v for n in nodes for v in n.inputs if v is not None and v.is_constant}
        gone = (v for v in inputs if not is_named_outside(v) and all(c in inside for c in v.consumers))
        freed = sum(v.nbytes for v in gone if (elements(v) or 0) >= _FEW)
        growth = sum(a.nbytes for a in results.values() if a.size >= _FEW) - freed
        free = not self.strict and (
            ({n.op for n in nodes} <= _REORDERING and bool(nodes))
            or all(_becomes_weights(v) for v in results)
        )
        if growth > 0 and free:
            return True
        if growth > max(self.left_bytes, 0):
            return False
        self.left_bytes -= growth
        return True


def _becomes_weights(value: Value, depth: int = _DEEPEST) -> bool:
    """Whether a layer reads the tensor, or what is put together of it and of other constants."""
    for node in value.consumers if depth else ():
        if node.op in _LAYERS and input_at(node, 0) != value:
            return True
        parts = (v for v in node.inputs if v is not None and v != value)
        if node.op in _PARTS and all(_is_made_of_constants(v, depth) for v in parts):
            return any(_becomes_weights(v, depth - 1) for v in node.outputs if v is not None)
    return False


def _is_made_of_constants(value: Value, depth: int) -> bool:
    if value.is_constant:
        return True
    node = value.producer
    if node is None or node.op not in _PARTS or not depth:
        return False
    return all(_is_made_of_constants(v, depth - 1) for v in node.inputs if v is not None)


@dataclass
class _Sweep:
    """One round over the graph.

    Attributes:
        room: for growth, over all rounds.
        failed: nodes whose evaluation was tried in vain, with the reason; not tried again.
        stays: nodes that stay in this round although their inputs are constant.
    """

    graph: LpGraph
    ctx: PassContext
    report: PassReport
    failed: dict[Node, str]
    room: _Room
    stays: dict[Node, str] = field(default_factory=dict)

    def shapes(self) -> None:
        """Shape computations whose elements are static, and Reshape targets that need none."""
        known = ShapeArithmetic(self.graph)
        for node in self.graph.nodes(*SHAPE_OPS):
            if self.graph.all_constant(node.inputs):
                continue
            result, dims = output_at(node), known.of(output_at(node))
            numbers = None if dims is None else dims.numbers
            if dims is None or numbers is None or result.dtype is None or result.dtype.kind not in "iu":
                continue
            array = np.array(numbers, result.dtype)
            self._replace(node, {result: array.reshape(()) if dims.is_scalar else array})
        for node in self.graph.nodes("Reshape"):
            shape = input_at(node, 1)
            target = reshape_target(known, node)
            if shape is not None and not shape.is_constant and target is not None:
                node.set_input(1, self.graph.constant(f"{node.name}/shape", np.array(target, np.int64)))
                self.report.change(node, "its shape written as a constant", after=str(target))

    def conditions(self) -> None:
        """Branches that are never taken."""
        for node in self.graph.nodes("If"):
            condition = input_at(node, 0)
            if condition is None or not condition.is_constant:
                continue
            if (reason := inline_if(self.graph, node)) is None:
                self.report.change(node, "replaced by the branch that its constant condition takes")
            else:
                self._skip(node, reason)

    def simple_nodes(self) -> None:
        """Nodes that numpy can evaluate, in execution order, so that chains fold at once."""
        for node in self.graph.nodes():
            if not self._is_candidate(node, set()):
                continue
            if node.op == "Identity":  # a weight that exporters found twice; its readers go on sharing it
                assert node.inputs[0] is not None
                self.graph.replace_uses(output_at(node), node.inputs[0])
                self.graph.remove(node)
                self.report.change(node, "Identity replaced by the constant that it repeats")
                continue
            limit = _limit_bytes(node.inputs)
            if self._predicted_bytes(node) > limit:
                self._skip(node, _too_large(self._predicted_bytes(node)))
                continue
            try:
                array = evaluate(node, self.graph.opset, limit)
            except ResultTooLargeError:
                self._skip(node, "its result would be larger than twice its inputs")
                continue
            except (ValueError, IndexError, TypeError) as error:
                self._skip(node, f"it cannot be evaluated: {error}")
                continue
            if array is None:
                continue
            if self.room.takes([node], {output_at(node): array}):
                self._replace(node, {output_at(node): array})
            else:
                self._skip(node, _NO_ROOM)

    def other_nodes(self) -> None:
        """Constant parts that need the runtime."""
        chosen: set[Value] = set()
        nodes: list[Node] = []
        for node in self.graph.nodes():
            if not self._is_candidate(node, chosen) or not self._can_run(node):
                continue
            nodes.append(node)
            chosen.update(v for v in node.outputs if v is not None)
        for part in connected_parts(nodes):
            self._fold_part(part)

    def _fold_part(self, part: list[Node]) -> None:
        if self.ctx.run is None:
            for node in part:
                self._skip(node, "there is no runtime at hand to evaluate it")
            return
        inside = set(part)
        results = [v for node in part for v in node.outputs if v is not None]
        wanted = [v for v in results if is_named_outside(v) or any(n not in inside for n in v.consumers)]
        try:
            arrays = evaluate_part(self.graph, part, wanted, self.ctx.run)
        except Exception as error:  # whatever the runtime objects to, the nodes can stay
            for node in part:
                self._fail(node, f"the runtime cannot evaluate it: {str(error).splitlines()[0]}")
            return
        limit = _limit_bytes([v for node in part for v in node.inputs])
        small = {v: arrays[v.name] for v in wanted if arrays[v.name].nbytes <= limit}
        gone = part if len(small) == len(wanted) else []  # what makes a large result keeps its inputs
        if small and not self.room.takes(gone, small):
            for node in part:
                self._fail(node, _NO_ROOM)
            return
        for node in reversed(part):
            found = {v: arrays[v.name] for v in node.outputs if v in wanted and v is not None}
            large = [a.nbytes for a in found.values() if a.nbytes > limit]
            if large:
                self._fail(node, _too_large(max(large)))
            elif found:
                self._replace(node, found)

    def _is_candidate(self, node: Node, chosen: set[Value]) -> bool:
        """Whether a node gives the same result each time, from constants and from what was chosen already."""
        given = [v for v in node.inputs if v is not None]
        if not given or not all(v.is_constant or v in chosen for v in given) or node in self.stays:
            return False
        if node in self.failed:
            self._skip(node, self.failed[node])
            return False
        if node.domain or node.subgraphs or node.op in _RANDOM:
            self._skip(node, "it is random, has control flow or is of another operator set")
            return False
        if node.op in _QUANTISING:
            self._skip(node, "it belongs to a model that is quantised already")
            return False
        return not (node.op == "Identity" and is_named_outside(output_at(node)))

    def _can_run(self, node: Node) -> bool:
        given = [v for v in (*node.inputs, *node.outputs) if v is not None]
        if any(v.dtype is None or v.dtype.kind not in "biuf" for v in given):
            self._skip(node, "it handles elements that cannot be fed to the runtime")
            return False
        size = self._predicted_bytes(node)
        if size > _limit_bytes(node.inputs):
            self._skip(node, _too_large(size))
            return False
        if node.op in _GROWING and any(elements(v) is None for v in node.outputs if v is not None):
            self._skip(node, "the size of its result is not known")
            return False
        return True

    def _predicted_bytes(self, node: Node) -> int:
        """Bytes of the results as far as shapes tell."""
        return sum(_bytes(v) for v in node.outputs if v is not None)

    def _replace(self, node: Node, results: dict[Value, NDArray[Any]]) -> None:
        for value, array in results.items():
            self.graph.replace_uses(value, self.graph.constant(f"{value.name}/folded", array))
        others = [v for v in node.outputs if v is not None and v not in results]
        if not any(v.consumers or is_named_outside(v) for v in others):
            self.graph.remove(node)
        self.report.change(node, f"{node.op} replaced by its value")

    def _skip(self, node: Node, reason: str) -> None:
        self.stays.setdefault(node, reason)

    def _fail(self, node: Node, reason: str) -> None:
        self.failed[node] = reason
        self._skip(node, reason)


def _bytes(value: Value) -> int:
    """Bytes of a tensor, 0 where its size is not known."""
    if value.is_constant:
        return value.nbytes
    return 0 if value.dtype is None else (elements(value) or 0) * value.dtype.itemsize


def _limit_bytes(inputs: list[Value | None]) -> int:
    distinct = {v for v in inputs if v is not None}
    return max(_SMALL_BYTES, 2 * sum(map(_bytes, distinct)))


def _too_large(size_bytes: int) -> str:
    return f"its result would take {size_bytes} bytes"
