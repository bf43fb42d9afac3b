"""How wide the numbers are that scale: requantisations, scales between operands, norms on integers.

The one place that says so: a plan that holds narrower multipliers, or powers of two, tells it to `requantisation_of`.
"""

from dataclasses import dataclass

from lpcompile.analysis.arithmetic import ACCUMULATOR_BITS, Kind, Operation
from lpcompile.plan import QuantPlan
from lpcompile.quant.multipliers import multiplier_bits


@dataclass(frozen=True, slots=True)
class Requantisation:
    """`y = (m * x + b) >> k`, or `m * x` in floats. [architecture 3.5; notes pikelpn.md 2.3].

    Attributes:
        bits: of the multiplier m; 1 is a power of two, which shifts.
        floats: whether it is a float; then everything is done in floats of 32 bits.
    """

    bits: int = 32
    floats: bool = True

    def multiply(self, operand_bits: int = ACCUMULATOR_BITS) -> Operation:
        """The scaling of an operand of that width."""
        if self.floats:
            return Operation(Kind.MULTIPLY, self.bits, self.bits, floats=True)
        if self.bits == 1:
            return Operation(Kind.SHIFT, operand_bits, operand_bits)
        return Operation(Kind.MULTIPLY, self.bits, operand_bits)

    @property
    def add(self) -> Operation:
        """The addition of the offset, rounding and zero point inside."""
        return Operation(Kind.ADD, ACCUMULATOR_BITS, ACCUMULATOR_BITS, floats=self.floats)

    @property
    def shift(self) -> Operation | None:
        """The shift at the end: by a number that never changes; a power of two has shifted already."""
        done = self.floats or self.bits == 1
        return None if done else Operation(Kind.WIRED_SHIFT, ACCUMULATOR_BITS, ACCUMULATOR_BITS)

    def operations(self, operand_bits: int = ACCUMULATOR_BITS) -> list[Operation]:
        """All of an output, but for the clip."""
        found = [self.multiply(operand_bits), self.add]
        return found if self.shift is None else [*found, self.shift]


FLOAT = Requantisation()
DYADIC = Requantisation(16, floats=False)
DYADIC8 = Requantisation(8, floats=False)
POWER_OF_TWO = Requantisation(1, floats=False)


def targets_own(*, dyadic: bool) -> Requantisation:
    """What a target requantises by where a plan says nothing.

    Args:
        dyadic: `Rules.dyadic` of the target.
    """
    return DYADIC if dyadic else FLOAT


def requantisation_of(plan: QuantPlan, node: str, own: Requantisation) -> Requantisation:
    """What a node of a plan requantises by.

    Args:
        plan: of the graph; its `requants` hold multipliers in fewer bits, or as shifts.
        node: name of a layer, or of a node without weights that runs on integers.
        own: the target's.
    """
    held = plan.requants.get(node)
    return own if held is None else Requantisation(multiplier_bits(held.multiplier), floats=False)
