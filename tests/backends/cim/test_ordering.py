"""The order derived from vector clocks against all runs that are possible, tried one by one."""

import itertools
from collections import Counter
from functools import cache

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcompile.backends.cim.program import Instruction
from lpcompile.backends.cim.simulator.capacities import Limits
from lpcompile.backends.cim.simulator.ordering import Place, order_of
from lpcompile.backends.cim.simulator.streams import Schedule, unroll
from tests.backends.cim.build import Builder, op

UNITS = {0: "WPAGE", 1: "FILL", 2: "LD"}  # one plain instruction for each queue in use


def random_schedule(seed: int) -> Schedule:
    """A few operations on one or two cores, with few events, so that some have several senders and waiters."""
    rng = np.random.default_rng(seed)
    b = Builder(cores=int(rng.integers(1, 3)))
    events = int(rng.integers(1, 4))
    for _ in range(int(rng.integers(3, 11))):
        core, unit = int(rng.integers(b.cores)), int(rng.integers(3))
        kind = rng.random()
        if kind < 0.3:
            word = op("SIG", int(rng.integers(events)), int(rng.integers(b.cores)), unit=unit)
        elif kind < 0.55:
            word = op("WAIT", int(rng.integers(events)), int(rng.integers(1, 3)), unit=unit)
        elif kind < 0.6:
            word = op("BAR")
        else:
            word = op(UNITS[unit])
        b.run[core].append(word)
    return unroll(b.program(), 0, Limits())


def facts_by_trial(schedule: Schedule) -> tuple[set[tuple[Place, Place]], bool]:
    """Pairs of places in an order that every complete run keeps, and whether some run waits for ever."""
    lanes = schedule.lanes
    places = [(lane, i) for lane, operations in enumerate(lanes) for i in range(len(operations))]
    forward: set[tuple[Place, Place]] = set()  # (a, b): some run starts b before it ends a
    stuck = False

    @cache
    def explore(at: tuple[int, ...]) -> bool:
        """Whether a run can end from here; notes what can go on while something has not yet."""
        nonlocal stuck
        counters: Counter[tuple[int, int]] = Counter()
        for lane, done in enumerate(at):
            for operation in lanes[lane][:done]:
                word = operation.instruction
                if word.mnemonic == "SIG":
                    counters[word.b, word.a] += 1
                elif word.mnemonic == "WAIT":
                    counters[operation.core, word.a] -= word.b
        moves = []
        for lane, done in enumerate(at):
            if done == len(lanes[lane]):
                continue
            operation = lanes[lane][done]
            word = operation.instruction
            if word.mnemonic == "WAIT" and counters[operation.core, word.a] < word.b:
                continue
            members = [lane]
            if word.mnemonic == "BAR":
                members = [4 * operation.core + q for q in range(4)]
                if any(at[m] == len(lanes[m]) or lanes[m][at[m]] is not operation for m in members):
                    continue
            moves.append(members)
        if not moves:
            finished = all(done == len(lane) for done, lane in zip(at, lanes, strict=True))
            stuck |= not finished
            return finished
        ends = False
        for members in moves:
            after = tuple(done + (lane in members) for lane, done in enumerate(at))
            if explore(after):
                ends = True
                started = [(m, at[m]) for m in members]
                waiting = [(lane, i) for lane, done in enumerate(at) for i in range(done, len(lanes[lane]))]
                forward.update((w, s) for s in started for w in waiting if w not in started)
        return ends

    explore((0,) * len(lanes))
    return {pair for pair in itertools.permutations(places, 2) if pair not in forward}, stuck


def is_bar(schedule: Schedule, place: Place) -> bool:
    word: Instruction = schedule.lanes[place[0]][place[1]].instruction
    return word.mnemonic == "BAR"


@settings(max_examples=300)
@given(st.integers(0, 1 << 40))
def test_order_holds_in_every_run(seed: int) -> None:
    schedule = random_schedule(seed)
    order = order_of(schedule)
    always, stuck = facts_by_trial(schedule)
    if order.stuck:
        assert stuck
        return
    if not order.contended:
        assert not stuck
    if stuck:
        return
    places = [(lane, i) for lane, operations in enumerate(schedule.lanes) for i in range(len(operations))]
    plain = [p for p in places if not is_bar(schedule, p)]
    for first, second in itertools.permutations(plain, 2):
        if order.before(first, second):
            assert (first, second) in always
        elif not order.contended and (first, second) in always:
            raise AssertionError(f"{first} always comes before {second}")
