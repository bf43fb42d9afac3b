"""What a backend must offer, and what a user may ask of it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import onnx

from lpcompile.errors import TargetError
from lpcompile.formats.base import NumberFormat
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.movement import operands
from lpcompile.ir.node import Node
from lpcompile.progress import Progress, no_progress
from lpcompile.quant.dyadic_numbers import DyadicNumbers

RunModel = Callable[[bytes, Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
FLOAT8_FORM = "fp8-qdq"
FLOAT8_OPSET = 21  # INT4 and scales by block
INTEGER_FORM = "integer"  # written as functions
PORTABLE_FORMS = ("qdq", FLOAT8_FORM)  # of standard operators alone
EMIT_FORMS = ("functions", "standard", *PORTABLE_FORMS, INTEGER_FORM)


@dataclass(frozen=True, slots=True)
class Options:
    """Everything that a user may set, with the defaults of the command line.

    Attributes:
        recipe: name of a built-in recipe or path of a TOML file.
        passes: pipeline text that replaces the recipe's pipeline.
        weight_format, activation_format: override the recipe's formats.
        group_size: inputs that share an integer group scale; 0 turns group scales off; None leaves the recipe's.
        rank: of low-rank side paths, in pipelines that round weights; 0 leaves them out; None is the recipe's.
        budget: bounds by name ("avg-bits", "sqnr-db", "agreement", ...).
        metric: the user's measure of a model, a function of an `onnxruntime.InferenceSession` or its name
            "package.module:function", for the bound "metric-drop".
        layer_formats: formats of layers whose names match, "REGEX=FORMAT" or "REGEX=FORMAT/GRANULARITY"; first wins.
        decisions: path of a decisions.toml to replay.
        keep_float: names of nodes that stay float.
        emit: "functions" (one readable node a layer), "standard" (the same inlined), "qdq", or for layers of
            `dual-precision` "fp8-qdq" (float8 tensors) or "integer" (integer kernels, fast on CPUs without FP8).
        opset: raise the model to at least this opset; None raises only where a format needs it.
        input_shapes: concrete shapes of inputs with symbolic axes.
        input_values: inputs that take one value for good, by name: what hangs on them folds, and the compiled model has
            them no more. Empty with `decisions`: as these have it.
        mirror_samples: mirror images of the deciding samples decide beside them; as `decisions` have it.
        reduce_range: whether weights keep sums of two products within int16, in which x86 CPUs without VNNI make them:
            "on", "off", or "auto": where this CPU is one of them, or `decisions` have it on.
        seed: of every random choice.
        effort: 0 rounds to nearest and does no more; 1 is the recipe as it stands; 2 also learns codes block by block
            where weights have few bits; 3 also retrains the whole network, gently. A pipeline of one's own, as of
            `passes` and `decisions`, stays as it is but for what 0 leaves out.
        verify: check after every pass that outputs agree.
        benchmark: time the result against the float model.
        save_temps: keep the graph after each pass under OUT/passes.
        print_after: names of passes after which the graph is printed.
        dry_run: decide everything, write nothing.
        force: overwrite what is there.
        threads: threads of ONNX Runtime; 0 leaves it to the runtime.
        machine: name of a machine, or path of its description; None takes the target's own (targets with machines).
        strict: no warning where an error is possible (targets with machines).
        host: names of nodes that stay on the host (targets with machines).
        tuning: options of `tune-weights` by name; a pipeline without the pass gets it. None: as the recipe has it.
        checkpoint: folder for the state of learning after each block and of retraining after each epoch.
        resume: go on from the state in that folder.
    """

    recipe: str | None = None
    passes: str | None = None
    weight_format: str | None = None
    activation_format: str | None = None
    group_size: int | None = None
    rank: int | None = None
    budget: Mapping[str, float] = field(default_factory=dict)
    metric: str | Callable[[Any], Any] | None = None
    layer_formats: Sequence[str] = ()
    decisions: Path | None = None
    keep_float: Sequence[str] = ()
    emit: str = "functions"
    opset: int | None = None
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    input_values: Mapping[str, float] = field(default_factory=dict)
    mirror_samples: bool = False
    reduce_range: str = "auto"
    seed: int = 0
    effort: int = 1
    verify: bool = False
    benchmark: bool = False
    save_temps: bool = False
    print_after: Sequence[str] = ()
    dry_run: bool = False
    force: bool = False
    threads: int = 0
    machine: str | None = None
    strict: bool = False
    host: Sequence[str] = ()
    tuning: Mapping[str, str] | None = None
    checkpoint: Path | None = None
    resume: bool = False


REDUCE_RANGE = ("auto", "on", "off")
MACHINE_OPTIONS = ("machine", "strict", "host")


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What a cost table may know of a layer before anything is decided.

    Attributes:
        op: Conv, ConvTranspose, Gemm or MatMul.
        rank: of the input.
        inputs: K, products summed for one output.
        outputs: output channels.
        rows: output pixels or rows of one call; None where symbolic.
        group: groups of a convolution.
        kernel: spatial kernel of a convolution.
        input_elements: of one call, of one image for a convolution; None where symbolic.
    """

    op: str
    rank: int | None
    inputs: int
    outputs: int
    rows: int | None
    group: int = 1
    kernel: tuple[int, ...] = ()
    input_elements: int | None = None

    @property
    def depthwise(self) -> bool:
        """One input channel a group."""
        return self.op == "Conv" and self.group > 1 and self.group == self.outputs


@dataclass(frozen=True, slots=True)
class Support:
    """Whether a target has integer arithmetic for something, and why not."""

    yes: bool
    reason: str = ""


class CostModel(Protocol):
    """Time of a layer or of a piece of elementwise work, from a recorded table."""

    @property
    def name(self) -> str:
        """Name of the table, for the report."""

    def layer_ns(self, layer: LayerShape, kernel: str) -> float | None:
        """Nanoseconds of a layer under a kernel ("float", "integer", "float-out", "dynamic"); None: not known."""

    def few_rows_ns(self, layer: LayerShape, kernel: str) -> float | None:
        """The same for a MatMul or Gemm of few rows, "nbits" (MatMulNBits) among the kernels; None: not known."""

    def quantize_ns(self, elements: int) -> float:
        """Nanoseconds of one QuantizeLinear or DequantizeLinear."""

    def elementwise_ns(self, op: str, elements: int, kernel: str) -> float | None:
        """Nanoseconds of an operator without weights on so many elements, "float" or "integer"; None: not known."""

    def pool_ns(self, elements: int) -> float:
        """Nanoseconds of a MaxPool on integers that come from floats, by elements before it."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How a target wants its plans made.

    Attributes:
        fills: integers wherever they are possible between the first and the last of them, whatever the time.
        tables: functions of one tensor are tables, whole cones of nodes at once.
        float_out: layers whose int32 sums may leave as floats where nobody after them reads integers.
        expands_weights: a layer without integer arithmetic keeps stored weights that become floats when loaded.
        group_scales: whether a recipe's group scales are taken; else they must be asked for by --group-size.
        needs_ranges: without samples, inputs are generated; else activations stay float.
        falls_back: layers that fail a check, or a result that is too large, too slow or below the recipe's SQNR, go
            back to floats; else a failed check is an error, and the others are warnings.
        has_machines: takes the options of MACHINE_OPTIONS.
        batch_only: symbolic axes other than the first of every input are refused.
        emit_forms: those that it knows.
        side_paths: lowerings of low-rank side paths, of `plan.SIDE_LOWERINGS`, the target's own first.
        dyadic: integer layers requantise by `dyadic` (architecture 3.5), and its integers stand in for stored scales.
    """

    fills: bool = False
    tables: bool = False
    float_out: tuple[str, ...] = ("Gemm", "MatMul")
    expands_weights: bool = True
    group_scales: bool = True
    needs_ranges: bool = False
    falls_back: bool = True
    has_machines: bool = False
    batch_only: bool = False
    emit_forms: tuple[str, ...] = EMIT_FORMS
    side_paths: tuple[str, ...] = ("merged",)
    dyadic: bool = False


@dataclass(frozen=True, slots=True)
class Emitted:
    """What a target makes of a graph and its plan.

    Attributes:
        model: what stock ONNX Runtime runs.
        weight_bytes: of each layer's stored weights, by node name.
        reference: the graph behind the model, and
        numbers: its integers, where the target builds something from them.
        calls: the model with its calls, where they are inlined in `model`: calls are what can be checked.
    """

    model: onnx.ModelProto
    weight_bytes: dict[str, int]
    reference: LpGraph | None = None
    numbers: DyadicNumbers | None = None
    calls: onnx.ModelProto | None = None


@dataclass(frozen=True, slots=True)
class Trial:
    """A call to try things on.

    Attributes:
        feeds: as the model takes them.
        outputs: what the compiled model gave on them in ONNX Runtime.
        run_model: runs a serialised model in ONNX Runtime.
    """

    feeds: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]
    run_model: RunModel


@dataclass(frozen=True)
class Products:
    """What a target makes beside the model.

    Attributes:
        files: contents by file name.
        report: merged into report.json; its `totals` and `verification` into those of the report.
        warnings: what the user should read.
    """

    files: Mapping[str, bytes] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()


class Target(ABC):
    """One place where compiled graphs run."""

    name: ClassVar[str]
    rules: ClassVar[Rules] = Rules()

    @property
    @abstractmethod
    def cost_model(self) -> CostModel | None:
        """The recorded costs that decisions are taken by; None where time decides nothing."""

    @abstractmethod
    def supports(self, op: str, fmt: NumberFormat) -> Support:
        """Whether a layer's operator has integer arithmetic with weights in this format."""

    def packed_obstacle(self, fmt: NumberFormat, granularity: str, inputs: int) -> str:
        """Why a matrix with weights in this format cannot run from packed 4-bit codes; empty where it can."""
        return f"{self.name} has no kernel for packed weights"

    def layer_energy_pj(
        self,
        layer: LayerShape,
        weight_format: NumberFormat,
        activation_bits: int,
        *,
        group_size: int = 0,
        machine: str | None = None,
        resident: bool = True,
    ) -> float:
        """Energy of a layer on a machine before anything is lowered, for comparing formats by; pJ a call.

        Args:
            layer: its shape; of a convolution, one image.
            weight_format: of its codes.
            activation_bits: of its input.
            group_size: inputs that share an integer group scale; 0: none.
            machine: name or path; None takes the target's own.
            resident: whether the weights of the network fit the machine together; else each call loads them.

        Raises:
            TargetError: the target knows no energies, or the layer does not run on its machine.
        """
        raise TargetError(
            f"the energy of layers is not known for '{self.name}'",
            hint="energies belong to targets with machines: use --target cim",
        )

    @abstractmethod
    def supports_elementwise(self, op: str, opset: int) -> Support:
        """Whether an operator without weights can run on quantised tensors."""

    def refuses(self, node: Node, opset: int) -> str:
        """Why a node without weights cannot run on quantised tensors; empty where it can."""
        support = self.supports_elementwise(node.op, opset)
        if not support.yes:
            return support.reason
        return "one operand is a constant" if any(v.is_constant for v in operands(node)) else ""

    def runs_last(self, node: Node) -> bool:
        """Whether a node runs on integers although nothing after it reads them."""
        return False

    @abstractmethod
    def default_recipe(self) -> str:
        """Name of the recipe when the user asks for none."""

    def adds_pairs(self) -> bool:
        """Whether the CPU of this process adds two products of 8 bits in int16, which may saturate."""
        return False

    def assumptions(self, graph: LpGraph) -> list[dict[str, str]]:
        """What the compiled model takes for granted of where it will run, as `what` and `source`."""
        return []

    @abstractmethod
    def emit(self, graph: LpGraph, options: Options) -> Emitted:
        """The compiled model of a graph and its plan. Reads the graph, changes nothing."""

    def build(
        self,
        reference: LpGraph,
        numbers: DyadicNumbers,
        options: Options,
        trial: Trial | None,
        progress: Progress = no_progress,
    ) -> Products:
        """What is made beside the model, once that has passed its gate.

        Args:
            reference: the graph behind the emitted model, one `lpcompile` call a node.
            numbers: its integers by node name.
            options: the user's.
            trial: what to verify on; None where the float model could not be run.
            progress: called as progress(what, done, total).

        Raises:
            TargetError: the machine cannot express it.
        """
        return Products()
