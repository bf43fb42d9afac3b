"""Random ONNX networks: every operator that a compiler meets, in shapes that no trained network has.

`network(seed)` is a pure function.  A failure shrinks by hand: fewer `steps`, or steps left out with `without`.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto

from tests.backends.cim.growing_network import SYMBOL, Growing, Shape
from tests.backends.cim.random_layers import COMPUTING, LAYERS
from tests.backends.cim.random_moves import MOVING

OPSETS = (11, 12, 13, 13, 14, 15, 16, 17, 17, 17, 18, 19, 20, 21)
SAMPLES = 2  # of a symbolic batch


@dataclass(frozen=True)
class Network:
    """A model with inputs for it."""

    model: ModelProto
    calls: list[dict[str, np.ndarray]]


def network(seed: int, steps: int | None = None, without: Collection[int] = ()) -> Network:
    """The network of a seed.

    Args:
        seed: any.
        steps: how many steps it grows; its own number by default.
        without: steps that are left out.
    """
    rng = np.random.default_rng([seed, 0])
    opset = int(rng.choice(OPSETS))
    inputs = _inputs(rng)
    g = Growing(opset, inputs)
    steps = int(rng.integers(1, 13)) if steps is None else steps
    for step in range(steps):
        g.rng = np.random.default_rng([seed, step + 1])
        kinds = LAYERS if step == 0 and g.chance(0.5) else COMPUTING if g.chance(0.65) else MOVING
        if step not in without:
            kinds[int(g.rng.integers(len(kinds)))](g)
    g.rng = np.random.default_rng([seed, 1 << 20])
    while not g.nodes:
        g.node("Relu", ["x0"])
    model = g.model(_outputs(g))
    scale = float(rng.choice([1.0, 1.0, 1.0, 100.0, 0.01]))
    offset = float(rng.choice([0.0, 0.0, 1.0]))
    return Network(model, [_feeds(g, seed, i, scale, offset) for i in range(5)])


def _inputs(rng: np.random.Generator) -> list[Shape]:
    leads: list[int | str] = [SYMBOL, SYMBOL, SYMBOL, 1, 1, 3]
    lead = leads[int(rng.integers(6))]
    kind = int(rng.integers(10))
    channels = int(rng.choice([1, 2, 3, 4, 4, 5, 8, 16, 33]))
    if kind < 5:
        size = (int(rng.integers(1, 10)), int(rng.integers(1, 10 if channels < 33 else 4)))
        shape: Shape = (lead, channels, *size) if rng.random() < 0.85 else (lead, channels, 1, 1)
    elif kind == 5:
        shape = (lead, channels, int(rng.integers(1, 17)))
    elif kind == 6:
        shape = (lead, min(channels, 4), *(int(n) for n in rng.integers(1, 5, 3)))
    elif kind == 7:
        shape = (lead, int(rng.integers(1, 9)), channels)  # tokens
    elif kind == 8:
        shape = (lead, channels * int(rng.integers(1, 9)))
    else:
        shape = (int(rng.integers(1, 7)), channels)  # no batch axis
    more = []
    if rng.random() < 0.25:
        more.append(shape if rng.random() < 0.5 else (shape[0], channels, *[1] * (len(shape) - 2)))
        if rng.random() < 0.3:
            more[0] = (1, *more[0][1:])
    return [shape, *more]


def _outputs(g: Growing) -> list[str]:
    """All loose ends but some, and some tensors that are read inside too."""
    read = {t for n in g.nodes for t in n.input}
    made = [t for n in g.nodes for t in n.output]
    loose = [t for t in made if t not in read]
    found = [t for t in loose if g.chance(0.85)] or [loose[-1]]
    inner = [t for t in made if t in read]
    if inner and g.chance(0.25):
        found.append(str(g.pick(*inner)))
    if g.chance(0.05):
        found.append("x0")
    return found


def _feeds(g: Growing, seed: int, call: int, scale: float, offset: float) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([seed, 1 << 21, call])
    shapes = {n: [SAMPLES if isinstance(d, str) else d for d in g.shapes[n]] for n in g.inputs}
    return {n: (scale * (offset + rng.normal(0, 1, s))).astype(np.float32) for n, s in shapes.items()}
