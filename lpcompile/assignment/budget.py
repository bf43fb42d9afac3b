"""Bounds of `--budget`: which the knapsack holds, and which only the compiled model can tell. [architecture 2]."""

from collections.abc import Mapping
from dataclasses import dataclass, field

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
DEFAULT_AVG_BITS = 4.5


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
        """Bounds as the user gave them."""
        return cls(
            {k: v for k, v in bounds.items() if k in ADDITIVE},
            {k: v for k, v in bounds.items() if k in MEASURED},
        )

    @property
    def text(self) -> str:
        """As `--budget` takes it."""
        return ",".join(f"{k}={v:g}" for k, v in {**self.additive, **self.measured}.items())


def margin(name: str, value: float, bound: float) -> float:
    """How far a measured value is on the right side of its bound; negative where it is missed."""
    return value - bound if name in AT_LEAST else bound - value
