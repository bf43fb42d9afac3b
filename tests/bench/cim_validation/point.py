"""One row of the validation page: a prediction beside a published value."""

from dataclasses import dataclass

INPUT = "input"  # the value was fitted to what it is compared with
ACCOUNT = "accounting"  # the same constants went in; the row checks how they are counted
PREDICTED = "predicted"  # nothing was fitted to it
HINDSIGHT = "hindsight"  # a sourced constant, chosen among others with the value in sight
MIXED = "mixed"  # partly fitted


@dataclass(frozen=True, slots=True)
class Point:
    """A prediction beside a published value.

    Attributes:
        machine: whose constants were used.
        what: with its unit.
        predicted, published: in that unit.
        kind: input, accounting, hindsight, mixed or predicted.
        note: what was calibrated or assumed.
    """

    machine: str
    what: str
    predicted: float
    published: float
    kind: str
    note: str

    @property
    def error(self) -> float:
        """Relative error of the prediction."""
        return self.predicted / self.published - 1
