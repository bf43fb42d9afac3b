"""Runs a program in all three ways and holds the results against each other."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcompile.backends.cim.program import Program
from lpcompile.backends.cim.simulator.capacities import Capacities
from lpcompile.backends.cim.simulator.simulator import Simulator
from tests.backends.cim.build import capacities
from tests.backends.cim.interpreter import Choose, Interpreter

Arrays = dict[str, NDArray[Any]]


def simulate(program: Program, feeds: Arrays, machine: Capacities | None = None, **options: Any) -> Arrays:
    """Outputs of the simulator."""
    return Simulator(program, machine or capacities(), **options).run(feeds).outputs


def interpret(
    program: Program, feeds: Arrays, machine: Capacities | None = None, choose: Choose | None = None
) -> Arrays:
    """Outputs of the interpreter."""
    machine = machine or capacities()
    return Interpreter(
        program,
        gb_bytes=machine.gb_bytes,
        lb_bytes=machine.lb_bytes,
        adc_bits=machine.adc_bits,
        transfer=machine.transfer,
        choose=choose,
    ).run(feeds)


def run_all(program: Program, feeds: Arrays, machine: Capacities | None = None) -> Arrays:
    """Outputs on which simulator, simulator plane by plane, and interpreter agree."""
    found = simulate(program, feeds, machine)
    for other in (simulate(program, feeds, machine, planes=True), interpret(program, feeds, machine)):
        assert found.keys() == other.keys()
        for name, array in found.items():
            np.testing.assert_array_equal(array, other[name], strict=True)
    return found
