"""Grouped and depthwise convolutions on the arrays: several groups side by side in one block, block-diagonal.

As many groups as the rows of a block hold stand in one matrix whose other entries are zero: a column is still read once
a block, and nothing is added.  Depthwise layers run on the hp unit unless the arrays need less energy and there is room
for them beside all other weights. [cim-machine 2, op mapping]
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod

import numpy as np
from numpy.typing import NDArray

from lpcompile.backends.cim.events import PRICES, Event
from lpcompile.backends.cim.geometry import Geometry
from lpcompile.backends.cim.machine import MachineDescription
from lpcompile.backends.cim.planes import cells_of, planes_of
from lpcompile.backends.cim.program import Requant
from lpcompile.backends.cim.views import View
from lpcompile.backends.cim.work import Dense, Depthwise, Finish, Grouped, Rescale

I8 = NDArray[np.int8]
MOST_MATRICES = 256  # of depthwise layers: each is some 50 instructions, and programs shall stay small


def block_diagonal(kernels: I8) -> I8:
    """Weights of groups side by side.

    Args:
        kernels: (groups, outputs of a group, inputs of a group, taps).

    Returns:
        (taps * groups * inputs, groups * outputs), rows ordered (tap, channel).
    """
    groups, outputs, inputs, taps = kernels.shape
    found = np.zeros((taps, groups, inputs, groups, outputs), np.int8)
    each = np.arange(groups)
    found[:, each, :, each, :] = kernels.transpose(0, 3, 2, 1)
    return found.reshape(taps * groups * inputs, groups * outputs)


def on_arrays(work: Grouped, block_rows: int) -> list[Dense]:
    """A grouped layer as matrices on slices of its channels, each with the groups that a block holds."""
    groups, outputs, inputs, taps = work.kernels.shape
    each = max(1, block_rows // (inputs * taps))
    found = []
    for first in range(0, groups, each):
        stop = min(first + each, groups)
        columns = (first * outputs, stop * outputs)
        kernels = work.kernels[first:stop]
        matrix = block_diagonal(kernels)
        found.append(
            Dense(
                work.name,
                _channels(work.x, first * inputs, stop * inputs),
                _channels(work.out, *columns),
                work.window,
                matrix,
                part_of(work.requant, columns),
                work.input_bits,
                work.macs * (stop - first) // groups,
                tuple(_part_of_finish(f, columns) for f in work.steps),
                matrix.size - kernels.size,
            )
        )
    return found


def _channels(view: View, first: int, stop: int) -> View:
    return view.taken(len(view.shape) - 1, first, stop - first)


def _part_of_finish(finish: Finish, columns: tuple[int, int]) -> Finish:
    step = finish.step
    if isinstance(step, Rescale):
        step = Rescale(part_of(step.requant, columns))
    return replace(
        finish, step=step, other=None if finish.other is None else _channels(finish.other, *columns)
    )


def part_of(r: Requant, columns: tuple[int, int]) -> Requant:
    """The requantisation of some outputs."""

    def of(values: tuple[int, ...]) -> tuple[int, ...]:
        return values if len(values) == 1 else values[columns[0] : columns[1]]

    return replace(r, m=of(r.m), b=of(r.b), k=of(r.k))


def on_hp_unit(work: Grouped) -> Depthwise:
    """A depthwise layer as work of the hp unit."""
    weights = np.ascontiguousarray(work.kernels[:, :, 0, :].transpose(2, 0, 1))
    return Depthwise(work.name, work.x, work.out, work.window, weights, work.requant, work.macs, work.steps)


def saving_pj(machine: MachineDescription, g: Geometry, work: Grouped) -> float:
    """Energy of a sample that the arrays save against the hp unit, at the machine's own densities."""

    def price(event: Event) -> float:
        return PRICES[event].energy_pj(machine)

    channels, mult, _, taps = work.kernels.shape
    planes = planes_of(work.kernels)
    each = min(channels, max(1, g.block_rows // taps))
    driven = work.input_bits * machine.energy.input_density * taps * each  # rows, of one block and position
    columns = each * mult * cells_of(planes, g.bits_per_cell)
    hits = driven * mult * len(planes.coefficients) * machine.energy.weight_density
    read = price(Event.COLUMN_READ) + price(Event.SHIFT_ADD)
    if machine.adc is not None:
        read += price(Event.CONVERSION)
    block = (
        driven * (price(Event.DRIVEN_ROW) + machine.macro.columns * price(Event.CROSSED_COLUMN))
        + hits * price(Event.HIT)
        + work.input_bits * columns * read
        + each * mult * price(Event.ACCUMULATION)
    )
    hp = taps * each * mult * price(Event.HP_MAC8)
    positions = prod(work.out.shape[:-1])
    return float(positions * channels / each * (hp - block))


def decide(
    machine: MachineDescription,
    g: Geometry,
    layers: Sequence[Grouped],
    fits: Callable[[Sequence[Dense]], bool],
) -> list[list[Dense] | Depthwise]:
    """What each grouped layer becomes; depthwise ones that save most take the room first.

    Args:
        machine: whose energies count.
        g: its sizes.
        layers: all grouped layers.
        fits: whether there is room for further matrices beside all other weights.
    """
    matrices = [on_arrays(work, g.block_rows) for work in layers]
    depthwise = [i for i, work in enumerate(layers) if work.kernels.shape[2] == 1]
    found: list[list[Dense] | Depthwise] = list(matrices)
    taken = [m for i, ms in enumerate(matrices) if i not in depthwise for m in ms]
    savings = {i: saving_pj(machine, g, layers[i]) for i in depthwise}
    room = MOST_MATRICES
    for i in sorted(depthwise, key=lambda i: (-savings[i], i)):
        if savings[i] > 0 and len(matrices[i]) <= room and fits([*taken, *matrices[i]]):
            taken += matrices[i]
            room -= len(matrices[i])
        else:
            found[i] = on_hp_unit(layers[i])
    return found
