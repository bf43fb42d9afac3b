"""What costs know of a layer before its codes exist, and of the way in which it might be held."""

from dataclasses import dataclass, field
from math import ceil, prod

from lpcompile.analysis.macs import layer_shape, macs_of_call
from lpcompile.errors import FormatError
from lpcompile.formats.base import NumberFormat
from lpcompile.formats.planned import format_of
from lpcompile.ir.node import Node
from lpcompile.ir.store import Shape
from lpcompile.plan import DUAL_SCALES, Kernel, WeightPlan
from lpcompile.quant.rows import TRANSPOSED_OPS
from lpcompile.target import LayerShape

FLOAT_BITS = {"float64": 64, "float32": 32, "float16": 16, "bfloat16": 16}
_FLOAT_KERNELS = (Kernel.FLOAT, Kernel.WEIGHT_ONLY)


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """A layer with weights.

    Attributes:
        name: of the node.
        shape: what cost tables and machines take.
        rows: (C_out, K) of the stored weights, one row a scale (of a ConvTranspose: input channels).
        macs: multiply-accumulates of a call; 0 where a shape is symbolic.
        output_elements: of a call; 0 where a shape is symbolic.
        images: calls of `shape` that one call of the layer is (a fixed batch of a convolution).
        has_bias: whether a constant is added to its outputs.
        dtype: name of the float type that its weights have in the model.
    """

    name: str
    shape: LayerShape
    rows: tuple[int, int]
    macs: int
    output_elements: int
    images: int = 1
    has_bias: bool = False
    dtype: str = "float32"

    @property
    def left_alone(self) -> "LayerFormat":
        """Its weights as they are, its input of the same type."""
        return LayerFormat(WeightPlan(self.dtype), FLOAT_BITS.get(self.dtype, 32))

    @property
    def weights(self) -> int:
        """Constant weights."""
        return self.rows[0] * self.rows[1]


@dataclass(frozen=True, slots=True)
class LayerFormat:
    """One way to hold a layer.

    Attributes:
        weight: its weights; format "float32" where they stay.
        activation_bits: of its input: 8, 4, or 32 where it stays float.
        kernel: how it runs.
    """

    weight: WeightPlan = field(default_factory=WeightPlan)
    activation_bits: int = 32
    kernel: Kernel = Kernel.FLOAT

    @property
    def number_format(self) -> NumberFormat | None:
        """Format of the codes; None where weights stay float.

        Raises:
            FormatError: there is none of that name.
        """
        return None if self.weight.format in FLOAT_BITS else format_of(self.weight.format)

    @property
    def weight_bits(self) -> int:
        """Payload of one weight."""
        fmt = self.number_format
        return FLOAT_BITS[self.weight.format] if fmt is None else fmt.bits

    @property
    def is_posit(self) -> bool:
        """Whether the codes are posits."""
        return self.weight.format.startswith("posit")

    @property
    def on_integers(self) -> bool:
        """Whether the products are of integers."""
        return self.kernel not in _FLOAT_KERNELS and self.number_format is not None

    @property
    def has_image(self) -> bool:
        """Whether products are of the int8 image of codes that are read as FP8, their group scales within."""
        dual = self.weight.scale_format == DUAL_SCALES
        return dual and self.kernel not in (*_FLOAT_KERNELS, Kernel.FLOAT8, Kernel.NBITS)

    @property
    def group_size(self) -> int:
        """Inputs that share an integer group scale; 0 without.

        Raises:
            FormatError: the granularity is no group of some size.
        """
        if not self.weight.granularity.startswith("group"):
            return 0
        size = self.weight.granularity.removeprefix("group")
        if not size.isdecimal() or int(size) < 1:
            raise FormatError(f"'{self.weight.granularity}' is no granularity of weights", hint="use group32")
        return int(size)

    def groups_of(self, inputs: int) -> int:
        """Groups of a row of so many inputs; 0 where it has a single scale, as rows of one group have."""
        size = self.group_size
        return ceil(inputs / size) if 0 < size < inputs else 0


def layer_facts(node: Node) -> LayerFacts:
    """The facts of a node of `graph.layers()`; a symbolic batch is 1."""
    weight, x, y = node.inputs[1], node.inputs[0], node.outputs[0]
    assert weight is not None
    dims = weight.dims
    columns_first = node.op in TRANSPOSED_OPS and not node.attrs.get("transB", 0)
    rows = 1 if len(dims) < 2 else dims[-1] if columns_first else dims[0]
    batch = x.shape[0] if node.op in ("Conv", "ConvTranspose") and x is not None and x.shape else 1
    return LayerFacts(
        name=node.name,
        shape=layer_shape(node),
        rows=(rows, prod(dims) // max(1, rows)),
        macs=macs_of_call(node) or 0,
        output_elements=0 if y is None else _elements(y.shape),
        images=batch if isinstance(batch, int) else 1,
        has_bias=len(node.inputs) > 2 and node.inputs[2] is not None,
        dtype="float32" if weight.dtype is None else weight.dtype.name,
    )


def _elements(shape: Shape | None) -> int:
    dims = [1 if i == 0 and not isinstance(d, int) else d for i, d in enumerate(shape or ())]
    return prod(d if isinstance(d, int) else 0 for d in dims) if shape is not None else 0
