"""What became of the blocks so far: for the report, and to go on from after an interruption."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from lpcompile.formats.arrays import F32
from lpcompile.plan import LayerPlan, QuantPlan
from lpcompile.quant.nearest_codes import channel_scales, with_channel_scales

Arrays = dict[str, F32]
_OUTCOMES = "outcomes"


@dataclass(frozen=True, slots=True)
class BlockOutcome:
    """One block.

    Attributes:
        name: of the block.
        layers: those that were to be learned.
        reason: why they stay as they were; empty where they changed.
        fixed: other layers of it, and why their codes cannot be learned.
        before_db, after_db: signal over error of its outputs, on the samples held out; the error of what was kept.
        samples: that it saw, the held out ones among them.
        iterations: steps.
        batch: samples a step.
        seconds: it took.
    """

    name: str
    layers: Sequence[str] = ()
    reason: str = ""
    fixed: Mapping[str, str] = field(default_factory=dict)
    before_db: float = 0.0
    after_db: float = 0.0
    samples: int = 0
    iterations: int = 0
    batch: int = 0
    seconds: float = 0.0


def to_state(plan: QuantPlan, outcomes: Sequence[BlockOutcome]) -> Arrays:
    """Codes, scales, biases and ranges of the plan, and the outcomes."""
    state: Arrays = {_OUTCOMES: np.asarray(json.dumps([asdict(o) for o in outcomes]))}
    for name in {layer for o in outcomes if not o.reason for layer in o.layers}:
        layer = plan.layers[name]
        assert layer.tensor is not None
        state[f"codes|{name}"] = np.asarray(layer.tensor.codes)
        state[f"scales|{name}"] = channel_scales(layer.tensor)
        db = layer.weight_sqnr_db
        state[f"weight_sqnr_db|{name}"] = np.asarray(np.nan if db is None else db)
        state[f"reason|{name}"] = np.asarray(layer.reason)
        if layer.bias_correction is not None:
            state[f"bias|{name}"] = layer.bias_correction
    for tensor, activation in plan.activations.items():
        state[f"range|{tensor}"] = np.asarray(activation.scale)
        state[f"rule|{tensor}"] = np.asarray(activation.rule)
        state[f"start|{tensor}"] = np.asarray(activation.start)
    return state


def of_state(plan: QuantPlan, state: Mapping[str, F32]) -> tuple[QuantPlan, list[BlockOutcome]]:
    """The plan with what a state holds, and the outcomes."""
    for key, array in state.items():
        kind, _, name = key.partition("|")
        if kind == "codes":
            plan = plan.with_layer(name, _restored(plan.layers[name], name, state))
        elif kind == "range":
            rule, start = str(state[f"rule|{name}"]), float(state[f"start|{name}"])
            activation = replace(plan.activations[name], scale=float(array), rule=rule, start=start)
            plan = plan.with_activation(name, activation)
    return plan, [BlockOutcome(**found) for found in json.loads(str(state[_OUTCOMES]))]


def _restored(layer: LayerPlan, name: str, state: Mapping[str, F32]) -> LayerPlan:
    assert layer.tensor is not None
    tensor = with_channel_scales(layer.tensor, np.asarray(state[f"scales|{name}"], np.float32))
    tensor = replace(tensor, codes=np.asarray(state[f"codes|{name}"], np.uint8))
    db = float(state[f"weight_sqnr_db|{name}"])
    return replace(
        layer,
        tensor=tensor,
        codes_sha256=tensor.digest(),
        bias_correction=state.get(f"bias|{name}", layer.bias_correction),
        reason=str(state[f"reason|{name}"]),
        weight_sqnr_db=None if np.isnan(db) else db,
        local_sqnr_db=None,
    )
