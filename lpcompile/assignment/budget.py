"""Bounds of `--budget`: which the knapsack holds, and which only the compiled model can tell. [architecture 2]."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from lpcompile.errors import BudgetError

ADDITIVE = {
    "avg-bits": "bits a weight, over all layers with weights",
    "bytes": "bytes of stored weights",
    "ace": "MACs x bits of weights x bits of activations",
    "acev2": "ACEv2 of the layers",
    "energy-pj": "energy of an inference on the machine (cim), estimated",
    "posit-fraction": "share of the weights in posit formats",
}
MEASURED = {
    "sqnr-db": "least output SQNR against float, dB",
    "agreement": "least share of calls with the float model's arg-max",
    "metric-drop": "largest loss of --metric against float",
}
AT_LEAST = ("sqnr-db", "agreement")
RATES = ("agreement", "posit-fraction")
DEFAULT_AVG_BITS = 4.5
ROUNDING = 1e-9  # of bounds that sums and differences of floats meet exactly
LEAST_DROP = 1e-6  # what a bound of 0 is measured by


@dataclass(frozen=True, slots=True)
class Budget:
    """Bounds by kind.

    Attributes:
        additive: by the names of ADDITIVE; the knapsack holds them.
        measured: by the names of MEASURED; an outer loop measures them.
    """

    additive: Mapping[str, float] = field(default_factory=dict)
    measured: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, bounds: Mapping[str, float]) -> "Budget":
        """Bounds as the user gave them.

        Raises:
            BudgetError: an unknown name, or no number that can be kept.
        """
        for name, bound in bounds.items():
            _check(name, bound)
        return cls(
            {k: v for k, v in bounds.items() if k in ADDITIVE},
            {k: v for k, v in bounds.items() if k in MEASURED},
        )

    @property
    def text(self) -> str:
        """As `--budget` takes it."""
        return ",".join(f"{k}={v:g}" for k, v in {**self.additive, **self.measured}.items())


def _check(name: str, bound: float) -> None:
    if name not in ADDITIVE and name not in MEASURED:
        raise BudgetError(
            f"there is no bound '{name}'", hint=f"bounds are: {', '.join((*ADDITIVE, *MEASURED))}"
        )
    if not math.isfinite(bound) or bound < 0 or (bound == 0 and name in ADDITIVE):
        raise BudgetError(f"the bound on {name} is {bound:g}", hint="a bound is a positive number")
    if name in RATES and bound > 1:
        raise BudgetError(f"{name} is a rate up to 1, not {bound:g}", hint=f"for example {name}=0.1")


def margin(name: str, value: float, bound: float) -> float:
    """How far a measured value is on the right side of its bound; negative where it is missed."""
    return value - bound if name in AT_LEAST else bound - value


def keeps(name: str, value: float, bound: float) -> bool:
    """Whether a measured value keeps its bound; a drop of 0.9 - 0.895 keeps 0.005."""
    return margin(name, value, bound) >= -ROUNDING * abs(bound)


def excess(name: str, value: float | None, bound: float) -> float:
    """A measured value over its bound, in a measure that is about linear in the noise power; at most 1 keeps it.

    Of an SQNR its noise; of a rate of agreement the square of what disagrees, for a class flips where the noise
    exceeds a margin; of a metric, whose gains and losses cancel in the first order, its drop itself.
    """
    if value is None or math.isnan(value):
        return math.inf
    found = _over(name, value, bound)
    return min(found, 1.0) if keeps(name, value, bound) else found


def _over(name: str, value: float, bound: float) -> float:
    if name == "sqnr-db":
        return float(10 ** ((bound - value) / 10))
    if name == "agreement":
        slack = 1 - bound
        if slack <= 0:
            return 0.0 if value >= bound else 1 + (1 - value)
        return ((1 - value) / slack) ** 2
    return 1 + (value - bound) / max(abs(bound), LEAST_DROP)
