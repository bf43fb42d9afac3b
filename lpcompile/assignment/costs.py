"""Costs of a layer's candidates by name: additive over layers, known before any code is chosen. [architecture 6].

| name             | unit    | what it is                                                                        |
|------------------|---------|-----------------------------------------------------------------------------------|
| bits             | bits    | of the file, for weights, scales, multipliers and tables (`stored_size`)          |
| bytes            | bytes   | the same                                                                          |
| ace              | -       | MACs times payload bits times activation bits [neseem2024]                        |
| acev2            | -       | products and scales by the set `acev2/int-linear` (`analysis.arithmetic`)         |
| energy45nm-pj    | pJ      | the same work by energies at 45 nm [horowitz2014]; accumulation too, no memory    |
| posit            | weights | that are posits                                                                   |
| posit-macs       | MACs    | with posit weights                                                                |
| energy-pj        | pJ      | of a call on the target's machine, as the target estimates it                     |
| latency-ns       | ns      | by the target's recorded table, on one thread; a guide: latency does not add up   |

Counts are those of a call, a symbolic batch being 1; without a static shape a layer has no MACs.
"""

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lpcompile.assignment.infeasible import bounds_missed, one_bound_missed
from lpcompile.assignment.layer_facts import LayerFacts, LayerFormat
from lpcompile.assignment.layer_operations import ace, acev2_by_class, energy45nm_pj, layer_operations
from lpcompile.assignment.requantisation import Requantisation, targets_own
from lpcompile.assignment.stored_size import stored_bits
from lpcompile.errors import BudgetError, TargetError
from lpcompile.plan import Kernel
from lpcompile.target import Target


@dataclass(frozen=True, slots=True)
class Setting:
    """Where a graph will run.

    Attributes:
        target: its rules, tables and energies; None: an `ort`-like target that knows neither time nor energy.
        machine: name or path of a machine; None takes the target's own.
        emit: form of the model.
        resident: whether all weights fit the machine together.
    """

    target: Target | None = None
    machine: str | None = None
    emit: str = "functions"
    resident: bool = True

    @property
    def dyadic(self) -> bool:
        """Whether integer layers requantise by `dyadic`."""
        return self.target is not None and self.target.rules.dyadic

    @property
    def requantisation(self) -> Requantisation:
        """What integer layers requantise by, before a pass makes that narrower."""
        return targets_own(dyadic=self.dyadic)


Rule = Callable[[LayerFacts, LayerFormat, Setting], float]


@dataclass(frozen=True, slots=True)
class LayerCost:
    """A cost: its name, unit, source, and the rule that gives it."""

    name: str
    unit: str
    source: str
    of: Rule


def _bits(layer: LayerFacts, held: LayerFormat, where: Setting) -> float:
    return float(stored_bits(layer, held, dyadic=where.dyadic, emit=where.emit))


def _acev2(layer: LayerFacts, held: LayerFormat, where: Setting) -> float:
    return sum(acev2_by_class(layer_operations(layer, held, where.requantisation)).values())


def _energy45nm_pj(layer: LayerFacts, held: LayerFormat, where: Setting) -> float:
    return energy45nm_pj(layer_operations(layer, held, where.requantisation))


def _energy_pj(layer: LayerFacts, held: LayerFormat, where: Setting) -> float:
    fmt, target = held.number_format, where.target
    if target is None:
        raise TargetError("energy-pj needs a target with machines", hint="use --target cim")
    if fmt is None or not held.on_integers:
        raise TargetError(
            "a layer on floats runs on no machine, so it has no energy there",
            where=layer.name,
            hint="give it a format that the target supports",
        )
    grouped = held.groups_of(layer.rows[1]) > 0
    return layer.images * target.layer_energy_pj(
        layer.shape,
        fmt,
        held.activation_bits,
        group_size=held.group_size if grouped else 0,
        machine=where.machine,
        resident=where.resident,
    )


_TABLE_KERNELS = {
    Kernel.INTEGER: "integer",
    Kernel.FLOAT_OUT: "float-out",
    Kernel.DYNAMIC: "dynamic",
    Kernel.WEIGHT_ONLY: "float",
    Kernel.FLOAT: "float",
}


def _latency_ns(layer: LayerFacts, held: LayerFormat, where: Setting) -> float:
    table = None if where.target is None else where.target.cost_model
    if table is None:
        raise TargetError("this target has no table of times", hint="latency-ns belongs to --target ort")
    if held.kernel is Kernel.NBITS:
        found = table.few_rows_ns(layer.shape, "nbits")
    else:
        found = table.layer_ns(layer.shape, _TABLE_KERNELS[held.kernel])
    if found is None:
        raise TargetError(
            f"table '{table.name}' has no time for a {held.kernel.value} {layer.shape.op} of this shape",
            where=layer.name,
            hint="give symbolic axes a size with --input-shape, or leave latency-ns out",
        )
    return layer.images * found


COSTS: Mapping[str, LayerCost] = {
    cost.name: cost
    for cost in (
        LayerCost("bits", "bits", "architecture 2", _bits),
        LayerCost("bytes", "bytes", "architecture 2", lambda x, f, w: _bits(x, f, w) / 8),
        LayerCost("ace", "", "[neseem2024]", lambda x, f, _: ace(x, f)),
        LayerCost("acev2", "", "[neseem2024], set acev2/int-linear", _acev2),
        LayerCost("energy45nm-pj", "pJ", "[horowitz2014]", _energy45nm_pj),
        LayerCost("posit", "weights", "[azizi2023]", lambda x, f, _: float(x.weights * f.is_posit)),
        LayerCost("posit-macs", "MACs", "[azizi2023]", lambda x, f, _: float(x.macs * f.is_posit)),
        LayerCost("energy-pj", "pJ", "the machine's description", _energy_pj),
        LayerCost("latency-ns", "ns", "the target's recorded table", _latency_ns),
    )
}


def cost_named(name: str) -> LayerCost:
    """The cost of that name.

    Raises:
        BudgetError: there is none.
    """
    if name not in COSTS:
        near = difflib.get_close_matches(name, COSTS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"costs are {', '.join(COSTS)}"
        raise BudgetError(f"no cost of layers is called '{name}'", hint=hint)
    return COSTS[name]


def costs_of(
    names: Sequence[str], layer: LayerFacts, held: LayerFormat, where: Setting | None = None
) -> dict[str, float]:
    """Costs of a candidate by name.

    Args:
        names: keys of `COSTS`.
        layer: the layer.
        held: the candidate.
        where: it will run.

    Raises:
        BudgetError: an unknown name.
        TargetError: a cost that the target does not know for this layer.
        FormatError: an unknown format or granularity.
    """
    return {name: cost_named(name).of(layer, held, where or Setting()) for name in names}


_PER_WEIGHT = {"avg-bits": "bits", "posit-fraction": "posit"}  # bounds on averages over all weights


def additive_bounds(budget: Mapping[str, float], layers: Sequence[LayerFacts]) -> dict[str, float]:
    """Bounds on sums of costs that a budget asks for, by name of the cost; what is not additive is left out.

    Args:
        budget: as the user gave it: `avg-bits` and `posit-fraction` are averages over the weights of all layers, float
            ones among them; names of `COSTS` bound sums.
        layers: all layers with weights.
    """
    weights, found = sum(layer.weights for layer in layers), dict[str, float]()
    for key, bound in budget.items():
        name = _PER_WEIGHT.get(key, key)
        if name in COSTS:
            value = bound * weights if key in _PER_WEIGHT else bound
            found[name] = min(value, found.get(name, value))
    return found


def missed_as_asked(
    error: BudgetError, budget: Mapping[str, float], bounds: Mapping[str, float], layers: Sequence[LayerFacts]
) -> BudgetError:
    """An error about bounds on sums, in the units in which the budget was given, rounded up so that it can be kept.

    Args:
        error: with its nearest point, by names of `COSTS`.
        budget: as the user gave it.
        bounds: on sums, as `additive_bounds` has them, less what layers take that are not assigned.
        layers: all layers with weights.
    """
    weights, whole = sum(layer.weights for layer in layers), additive_bounds(budget, layers)
    found = {}
    for key in budget:
        name = _PER_WEIGHT.get(key, key)
        if name in error.nearest:
            value = error.nearest[name] + whole[name] - bounds[name]
            found[key] = _rounded_up(value / weights if key in _PER_WEIGHT else value)
    if not found:
        return error
    if len(found) > 1:
        return bounds_missed(found, {key: budget[key] for key in found})
    ((key, value),) = found.items()
    return one_bound_missed(key, budget[key], value)


def _rounded_up(value: float) -> float:
    """To six digits."""
    if value <= 0:
        return 0.0
    digits = 5 - math.floor(math.log10(value))
    shown = float(f"{value:.6g}")
    return shown if shown >= value else round(shown + 10.0**-digits, max(0, digits))


def bits_left_alone(facts: Mapping[str, LayerFacts], assigned: Sequence[str]) -> float:
    """Of the layers that are not assigned."""
    return sum(
        costs_of(["bits"], f, f.left_alone)["bits"] for n, f in facts.items() if n not in set(assigned)
    )


def average_bits(bits: float, facts: Mapping[str, LayerFacts], assigned: Sequence[str]) -> float:
    """Stored bits a weight over all layers, where those of the assigned ones take `bits` together."""
    return (bits + bits_left_alone(facts, assigned)) / max(1, sum(f.weights for f in facts.values()))
