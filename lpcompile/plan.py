"""Every decision as immutable data: what each layer, activation and elementwise node becomes.

A graph pass edits the float graph; a plan pass maps plan to plan; `materialise` alone turns a plan into nodes.
`decisions.toml` is the text of this and nothing else (`plan_text`).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from lpcompile.quant.multipliers import is_snapped
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.quant.row_table import RowTable

K = TypeVar("K")
V = TypeVar("V")


ADAROUND = "adaround"  # learned, from what "gptq" gives
METRIC_ROUNDINGS = ("gptq", ADAROUND)  # those that need the moments of a layer's inputs
MERGED, SEPARATE, CONCAT_IN = "merged", "separate", "concat-in"  # lowerings of side paths
SIDE_LOWERINGS = (MERGED, SEPARATE, CONCAT_IN)
APART = (SEPARATE, CONCAT_IN)  # those that leave the factors what they are
ROUNDINGS = ("nearest", "kernel-sums", *METRIC_ROUNDINGS)


class Kernel(StrEnum):
    """How a layer runs.

    INTEGER: integers in and out (`y = clip(rne(acc * m) + zp)`, architecture 3.5 `float`).
    FLOAT_OUT: integers in, the accumulator scaled to float (MatMul and Gemm before a float node).
    DYNAMIC: the activation range is measured at run time, float in and out.
    NBITS: 4-bit weights stay packed in memory, activations are rounded to int8 for each block of 32 inputs at run time
        (MatMulNBits, accuracy level 4), float in and out.
    FLOAT8: 4-bit weights that expand to FP8 numbers, inputs rounded to FP8, sums in float32, float in and out.
    WEIGHT_ONLY: weights stored in their format, expanded to float when the model is loaded.
    FLOAT: left alone.
    """

    INTEGER = "integer"
    FLOAT_OUT = "float-out"
    DYNAMIC = "dynamic"
    NBITS = "matmul-nbits"
    FLOAT8 = "float8"
    WEIGHT_ONLY = "weight-only"
    FLOAT = "float"


DUAL_SCALES = "bfloat16"  # format of the scales of int4 codes that are read as FP8
EIGHTHS = "its scales are those of codes that are read as FP8"  # why a pass leaves them alone
FLOAT8_FORMAT = "float8_e4m3fn"  # of activations, saturating at 448
STATIC = (Kernel.INTEGER, Kernel.FLOAT_OUT)  # kernels that read integers of a static range
AT_RUN_TIME = (Kernel.DYNAMIC, Kernel.NBITS)  # kernels that measure the range of what they read
SUMMING = (*STATIC, Kernel.DYNAMIC)  # kernels that sum products of 8 bits in int32


@dataclass(frozen=True, slots=True)
class ActivationOptions:
    """How activations will be rounded, for passes that come before.

    Attributes:
        format: "uint8" or "uint4".
        matmul: "static", "dynamic" or "auto", of matrix products.
        timed: whether kernels are chosen by their times.
    """

    format: str = "uint8"
    matmul: str = "auto"
    timed: bool = True


@dataclass(frozen=True, slots=True)
class WeightPlan:
    """How the weights of one layer are stored.

    Attributes:
        format: canonical format name; "lut4": a table is to be learned; "float32": the layer keeps its weights.
        granularity: "tensor", "channel" or "group<N>" (integer group scales, N inputs each).
        scale_rule: one of `quant.fit.RULES` or, per tensor or channel, of its LIMITED_RULES.
        scale_format: "float32" or "ufloat8_e4m4", the format the channel scales are stored in; "bfloat16": int4 codes
            that are read as FP8, whose float group scales these are (`passes.dual_precision`).
        rounding: how codes are chosen: one of ROUNDINGS; of those codes one of `quant.dual_rounding.ROUNDINGS`.
        codebooks: one 16-entry table a channel, 32 hex digits each; empty: the format's own table.
        double_quantized: a mode of `quant.double_quantization` that the channel scales were brought to afterwards.
        rank: of the side path that repairs them; 0: none.
        side_path: how its factors are chosen, one of `quant.low_rank.METHODS`; empty without one.
        side_lowering: "merged" into the weights when the model is loaded, "separate": it runs beside them, or
            "concat-in": one product reads its hidden numbers beside the inputs; empty without one.
    """

    format: str = "float32"
    granularity: str = "channel"
    scale_rule: str = "absmax"
    scale_format: str = "float32"
    rounding: str = "nearest"
    codebooks: tuple[str, ...] = ()
    double_quantized: str = ""
    rank: int = 0
    side_path: str = ""
    side_lowering: str = ""

    @property
    def alone(self) -> "WeightPlan":
        """Without a side path."""
        return replace(self, rank=0, side_path="", side_lowering="")


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """One layer with weights, and why it became what it is.

    Attributes:
        float8_input: scale of the FP8 numbers that its codes were rounded for, where it now reads others; 0: it does
            not, or they were rounded for floats.
    """

    kernel: Kernel = Kernel.FLOAT
    weight: WeightPlan = WeightPlan()
    tensor: QuantizedTensor | None = None  # the codes once rounded
    bias_correction: NDArray[np.float32] | None = field(
        default=None, compare=False
    )  # added to the bias, (C_out,)
    codes_sha256: str = ""
    float8_input: float = 0.0
    reason: str = ""
    weight_sqnr_db: float | None = field(default=None, compare=False)  # what rounding the weights lost
    local_sqnr_db: float | None = field(default=None, compare=False)  # output of this layer alone, estimated
    end_sqnr_db: float | None = field(
        default=None, compare=False
    )  # output of the model, were no other rounded
    sensitivity: float | None = field(default=None, compare=False)  # predicted loss of 4 bits a channel


@dataclass(frozen=True, slots=True)
class ActivationPlan:
    """One activation held in integers, `x = scale * (q - zero_point)`, or in FP8, `x = scale * q`.

    Attributes:
        format: "uint8", "uint4" (a range 0..15 held in 8 bits) or FLOAT8_FORMAT.
        scale: a float32 value, exactly; a power of two for FP8.
        zero_point: the code of zero.
        tie_group: name of the tensor that stands for the group; members share scale and zero point.
        rule: how the range was found.
        reason: why, in the user's words.
        start: the scale before it was learned, where a replay begins to learn it anew; 0: it was not.
    """

    format: str
    scale: float
    zero_point: int
    tie_group: str
    rule: str = ""
    reason: str = ""
    start: float = 0.0

    @property
    def code_max(self) -> int:
        """The largest code in use."""
        return (1 << int(self.format.removeprefix("uint"))) - 1

    @property
    def low(self) -> float:
        """The smallest value that can be held."""
        return self.scale * -self.zero_point

    @property
    def high(self) -> float:
        """The largest value that can be held."""
        return self.scale * (self.code_max - self.zero_point)


@dataclass(frozen=True, slots=True)
class NormPlan:
    """A normalisation that stayed in the graph and whose constants were learned or measured anew.

    Attributes:
        constants: by number of the input, in its shape, float32; they take the place of the float model's.
        constants_sha256: of these.
        reason: why, in the user's words.
    """

    constants: Mapping[int, NDArray[np.float32]] = field(
        default_factory=lambda: MappingProxyType({}), compare=False
    )
    constants_sha256: str = ""
    reason: str = ""

    @classmethod
    def of(cls, constants: Mapping[int, NDArray[np.float32]], reason: str) -> "NormPlan":
        """With the digest of the constants."""
        digest = hashlib.sha256()
        for i, array in sorted(constants.items()):
            digest.update(f"{i} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array, "<f4").tobytes())
        return cls(MappingProxyType(dict(constants)), digest.hexdigest(), reason)


@dataclass(frozen=True, slots=True)
class RequantPlan:
    """How the requantisation multiplier of a layer or a norm is held.

    Attributes:
        multiplier: a name of `quant.multipliers`; its `multiplier_bits` says how many bits, 1 being a shift.
        reason: why, in the user's words.
        centre: (C,) where the line through the multipliers turns when they are rounded: mean outputs of a layer without
            its bias, mean inputs of a norm; the shift is made anew so that the output there stays the same.
    """

    multiplier: str
    reason: str = ""
    centre: NDArray[np.float64] | None = field(default=None, compare=False)


TARGETS_OWN = RequantPlan("")


@dataclass(frozen=True, slots=True)
class TablePlan:
    """A constant whose rows a Gather looks up, as an embedding, and how it is stored.

    Attributes:
        format: one of `quant.row_table.FORMATS`.
        table: the codes.
        codes_sha256: of codes and scales.
        reason: why, in the user's words.
    """

    format: str
    table: RowTable | None = field(default=None, compare=False)
    codes_sha256: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RecurrentPlan:
    """An LSTM, GRU or RNN whose weights are int8 with a scale a row.

    Attributes:
        kernel: DYNAMIC: 8-bit inputs and hidden states, their ranges measured at every step; WEIGHT_ONLY.
        weights: W and R.
        codes_sha256: of both.
        reason: why, in the user's words.
    """

    kernel: Kernel
    weights: tuple[RowTable, RowTable] | None = field(default=None, compare=False)
    codes_sha256: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class QuantPlan:
    """Decisions by name, in execution order: layers, elementwise nodes, norms by node, activations by tensor.

    Requantisations are by node, layers and norms; those without an entry are the target's own.

    Attributes:
        reduce_range: weights keep sums of two neighbouring products within int16, in which x86 CPUs without VNNI make
            them.
    """

    layers: Mapping[str, LayerPlan] = field(default_factory=lambda: MappingProxyType({}))
    activations: Mapping[str, ActivationPlan] = field(default_factory=lambda: MappingProxyType({}))
    elementwise: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))  # node -> reason
    norms: Mapping[str, NormPlan] = field(default_factory=lambda: MappingProxyType({}))  # those that changed
    requants: Mapping[str, RequantPlan] = field(default_factory=lambda: MappingProxyType({}))
    tables: Mapping[str, TablePlan] = field(default_factory=lambda: MappingProxyType({}))  # by Gather
    recurrent: Mapping[str, RecurrentPlan] = field(default_factory=lambda: MappingProxyType({}))
    reduce_range: bool = False

    def with_layer(self, name: str, plan: LayerPlan) -> "QuantPlan":
        """The plan with one layer decided anew."""
        return replace(self, layers=_with(self.layers, name, plan))

    def with_activation(self, tensor: str, plan: ActivationPlan) -> "QuantPlan":
        """The plan with one activation decided anew."""
        return replace(self, activations=_with(self.activations, tensor, plan))

    def with_norm(self, name: str, plan: NormPlan) -> "QuantPlan":
        """The plan with one normalisation decided anew; constants that it does not name stay as they were planned."""
        before = self.norms.get(name, NormPlan()).constants
        whole = NormPlan.of({**before, **plan.constants}, plan.reason)
        return replace(self, norms=_with(self.norms, name, whole))

    def scales_held(self, name: str) -> str:
        """Why the scales of a layer's weights stay as they are whatever is learned; empty where they need not."""
        if is_snapped(self.requants.get(name, TARGETS_OWN).multiplier):
            return "its scales suit its requantisation multipliers"
        weight = self.layers.get(name, LayerPlan()).weight
        if weight.scale_format == DUAL_SCALES:
            return EIGHTHS
        mode = weight.double_quantized
        return f"its scales are held as {mode}" if mode else ""

    def with_requant(self, name: str, plan: RequantPlan) -> "QuantPlan":
        """The plan with the requantisation of one node decided anew."""
        return replace(self, requants=_with(self.requants, name, plan))

    def with_table(self, name: str, plan: TablePlan) -> "QuantPlan":
        """The plan with the table of one Gather decided anew."""
        return replace(self, tables=_with(self.tables, name, plan))

    def with_recurrent(self, name: str, plan: RecurrentPlan) -> "QuantPlan":
        """The plan with one recurrent layer decided anew."""
        return replace(self, recurrent=_with(self.recurrent, name, plan))

    def without(self, nodes: set[str], reason: str) -> "QuantPlan":
        """The plan in which these nodes stay float, and why."""
        layers = {k: LayerPlan(reason=reason) if k in nodes else v for k, v in self.layers.items()}
        kept = {k: v for k, v in self.elementwise.items() if k not in nodes}
        requants = {k: v for k, v in self.requants.items() if k not in nodes}
        return replace(
            self,
            layers=MappingProxyType(layers),
            elementwise=MappingProxyType(kept),
            requants=MappingProxyType(requants),
        )

    def more_precise(self, reason: str) -> "tuple[QuantPlan, list[str]]":
        """The next more precise plan, float activations first, then float weights; and the layers that changed."""
        integer = [k for k, v in self.layers.items() if v.kernel not in (Kernel.FLOAT, Kernel.WEIGHT_ONLY)]
        if integer:
            layers = {
                k: replace(v, kernel=Kernel.WEIGHT_ONLY, reason=reason) if k in integer else v
                for k, v in self.layers.items()
            }
            return self._of_layers(layers), integer
        stored = [k for k, v in self.layers.items() if v.kernel is Kernel.WEIGHT_ONLY]
        layers = {
            k: LayerPlan(Kernel.FLOAT, WeightPlan(), reason=reason) if k in stored else v
            for k, v in self.layers.items()
        }
        return self._of_layers(layers), stored

    def _of_layers(self, layers: Mapping[str, LayerPlan]) -> "QuantPlan":
        """These layers, and of the rest what needs no integer activations."""
        return QuantPlan(
            MappingProxyType(dict(layers)),
            tables=self.tables,
            recurrent=self.recurrent,
            reduce_range=self.reduce_range,
        )


def _with(mapping: Mapping[K, V], key: K, value: V) -> Mapping[K, V]:
    return MappingProxyType({**mapping, key: value})
