"""Pricing: nothing is lost, figures by hand, the two modes agree, paths are kept apart."""

import dataclasses
import inspect
import math
import re
import time

import numpy as np
import pytest

from lpcompile.backends.cim import latency
from lpcompile.backends.cim.activity import Executed
from lpcompile.backends.cim.energy import price
from lpcompile.backends.cim.energy_report import EnergyReport
from lpcompile.backends.cim.events import PRICES
from lpcompile.backends.cim.latency import TIMING_KEYS, cycles
from lpcompile.backends.cim.machine import MachineDescription, machine_names
from lpcompile.backends.cim.machine_figures import figures
from lpcompile.backends.cim.machine_sections import SECTIONS
from lpcompile.backends.cim.program import Group, Instruction, Program
from lpcompile.errors import ProgramError
from tests.backends.cim.synthetic import (
    ACC_OUT,
    CODES,
    DRAM_IN,
    HIDDEN,
    MVM,
    SIDE_W,
    Made,
    X,
    dense,
    packed,
    program_of,
    rows_of,
)

MACHINE = MachineDescription.load("reference")
STREAM = (
    ("boot", Instruction("WPROG", a=0)),
    ("fc", Instruction("LD", a=X, b=DRAM_IN)),
    ("fc", MVM),
    ("fc", Instruction("VMM", a=ACC_OUT, b=HIDDEN, c=SIDE_W)),
    ("fc", Instruction("ACC", a=ACC_OUT, b=ACC_OUT)),
    ("fc", Instruction("VRQ", a=CODES, b=ACC_OUT)),
    ("dw", Instruction("VMM", a=ACC_OUT, b=HIDDEN, c=SIDE_W)),
    ("relu", Instruction("VLUT", a=CODES, b=CODES)),
    ("", Instruction("BAR")),
)


def run(made: Made, machine: MachineDescription = MACHINE, **fields: object) -> list[Executed]:
    """The stream, one instruction after the other."""
    done, now = [], 0
    for node, word in STREAM:
        end = now + cycles(machine, made.program, word, 1)
        one = Executed(1, word, node, now, end, on=made.on if word is MVM else None)
        done.append(dataclasses.replace(one, **fields) if word is MVM else one)  # type: ignore[arg-type]
        now = end
    return done


@pytest.mark.parametrize("name", machine_names())
@pytest.mark.parametrize("mode", ["stat", "exact"])
def test_nothing_is_lost(name: str, mode: str) -> None:
    machine = MachineDescription.load(name)
    made = dense(flagged=machine.macro.complement)
    report = price(machine, made.program, run(made, machine), mode)
    total = report.totals.energy_pj
    assert total > 0
    assert math.fsum(report.components.values()) == pytest.approx(total, rel=1e-9)
    by_layer = [energy for parts in report.by_layer.values() for energy in parts.values()]
    assert math.fsum(by_layer) == pytest.approx(total, rel=1e-9)
    for name_, energy in report.components.items():
        assert math.fsum(p.get(name_, 0.0) for p in report.by_layer.values()) == pytest.approx(
            energy, rel=1e-9
        )
    assert set(report.by_layer) == {"boot", "fc", "dw", "relu", ""}
    assert 0 < report.assumed_share <= 1
    assert all(0 <= share <= 1 for share in report.utilisation.values())


def test_a_full_block_costs_what_the_machine_page_says() -> None:
    # one position, 15 rows, 8 outputs of 4 planes: all 32 columns of one macro; half of everything is one
    rng = np.random.default_rng(3)
    bits = np.zeros((4, 15, 8), np.uint8)
    bits.reshape(-1)[rng.permutation(480)[:240]] = 1
    group = Group(0, 15, 8, 0, 0, 0, 1, 1, 1, 0, 15)
    made = dense()
    descriptors = (rows_of(1, 15), rows_of(1, 8, "i32"), *made.program.descriptors[2:])
    program = program_of(descriptors, (group,), packed(bits, np.zeros((1, 4, 8), np.uint8)))
    report = price(MACHINE, program, [Executed(0, MVM, "fc", 0, 22, densities=(0.5,) * 4)])
    assert report.totals.macs == 120
    assert report.totals.mac_only_pj == pytest.approx(120 * figures(MACHINE, 4, 4).mac_fj * 1e-3, rel=1e-12)
    assert report.utilisation["rows"] == report.utilisation["columns"] == report.utilisation["cim_time"] == 1
    assert report.utilisation["macros"] == 1 / 16
    by_hand = {
        "wordlines": 4 * 7.5 * (2 + 32 * 0.1) * 1e-3,
        "cells": 2 * 240 * 1e-3,
        "columns": 4 * 32 * 1e-3,
        "converters": 4 * 32 * 50e-3,
        "shift-add": 4 * 32 * 10e-3,
        "accumulation": 8 * 0.1,
        "local buffers": (15 + 32) * 1.25,
        "instructions": 10.0,
        "leakage": 1.0 * 22 * 10,  # 1 mW over 22 cycles of 10 ns
    }
    assert report.components == pytest.approx(by_hand, rel=1e-12)


def test_the_two_modes_agree() -> None:
    made = dense(positions=500, rows=60, outputs=8)
    densities = tuple(made.on.sum(axis=0) / made.inputs.size)
    exact = price(MACHINE, made.program, run(made), "exact")
    stat = price(MACHINE, made.program, run(made, densities=densities), "stat")
    assert stat.totals.energy_pj == pytest.approx(exact.totals.energy_pj, rel=0.05)
    assert stat.totals.mac_only_pj == pytest.approx(exact.totals.mac_only_pj, rel=0.05)
    for name, energy in exact.components.items():
        assert stat.components[name] == pytest.approx(energy, rel=0.05)
    zero = dataclasses.replace(made, inputs=made.inputs * 0)
    assert price(MACHINE, made.program, run(zero), "exact").components.get("cells") is None


def test_main_and_side_paths_are_kept_apart() -> None:
    made = dense()
    report = price(MACHINE, made.program, run(made), "exact")
    sums = report.totals
    assert (sums.macs, sums.side_macs, sums.hp_macs) == (6 * 40 * 8, 6 * 4 * 8, 6 * 4 * 8)
    assert sums.side_path_pj == pytest.approx(
        sums.hp_pj
    )  # the same product, in a node with and without macros
    scopes = report.tops_per_w()
    assert scopes["mac_only"] == 2 * sums.macs / sums.mac_only_pj
    assert scopes["with_side_paths"] == 2 * sums.macs / (sums.mac_only_pj + sums.side_path_pj)
    assert scopes["with_side_paths_all"] > scopes["with_side_paths"] > scopes["system"]
    assert scopes["system"] == 2 * (sums.macs + sums.hp_macs) / sums.energy_pj


def test_reloads_count_and_the_boot_stands_apart() -> None:
    made = dense()
    boot, *rest = run(made)
    reloading = price(MACHINE, made.program, [boot, *rest], "exact").totals
    assert 0 < reloading.weight_loading_pj < reloading.energy_pj
    assert reloading.boot_pj == 0
    booted = price(MACHINE, made.program, rest, "exact", boot=[boot])
    alone = price(MACHINE, made.program, [boot], "exact").totals
    assert booted.totals.weight_loading_pj == 0
    assert booted.totals.boot_pj == alone.energy_pj
    assert booted.totals.energy_pj == price(MACHINE, made.program, rest, "exact").totals.energy_pj
    # 1280 cell bits, 1376 bits from DRAM, 172 bytes over one hop, one instruction; the rest is leakage
    by_hand = 1280 * 20e-3 + 1376 * 3.7 + 172 * 0.648 + 10
    assert alone.energy_pj - alone.leakage_pj == pytest.approx(by_hand)


def test_one_plane_at_a_time_is_the_same_work() -> None:
    made = dense()
    whole = price(MACHINE, made.program, [Executed(0, MVM, "fc", 0, 1, on=made.on)], "exact").totals
    planes = [
        Executed(0, Instruction("MVMP", 0, X, ACC_OUT, unit=i), "fc", 0, 1, on=made.on[:, i : i + 1])
        for i in range(4)
    ]
    parts = price(MACHINE, made.program, planes, "exact").totals
    assert parts.macs == whole.macs
    assert parts.mac_only_pj == pytest.approx(whole.mac_only_pj, rel=1e-12)


def test_repeats_step_through_groups_and_start_sums_once() -> None:
    made = dense()
    first = dataclasses.replace(made.program.groups[0], step=(1,))
    second = dataclasses.replace(first, rows=20, down=1, pages=2)
    program = dataclasses.replace(made.program, groups=(first, second, first))
    ons = [made.on, made.on[:20], made.on]
    together = [Executed(0, MVM, "fc", i, i + 1, on=on, indices=(i,)) for i, on in enumerate(ons)]
    found = price(MACHINE, program, together, "exact")
    apart = [price(MACHINE, program, [done], "exact") for done in together]
    assert found.totals.macs == sum(r.totals.macs for r in apart) == 6 * (40 + 20 + 40) * 8
    for name in ("cells", "wordlines", "converters", "accumulation", "local buffers"):
        assert found.components[name] == pytest.approx(sum(r.components[name] for r in apart), rel=1e-12)
    # INIT: the first repetition reads no sums
    assert apart[2].components["local buffers"] - apart[0].components["local buffers"] == pytest.approx(
        192 * 1.25
    )


def test_the_conventions_are_in_the_report() -> None:
    made = dense()
    report = price(MACHINE, made.program, run(made), "exact", batch=3)
    expected = {
        "ops_per_mac", "scope", "node_nm", "vdd_v", "vdd", "activity", "batch", "leakage", "weight_loading",
        "calibration", "headline_scope", "units", "host", "time",
    }  # fmt: skip
    assert set(report.conventions) == expected
    assert report.conventions["batch"] == 3
    assert report.conventions["activity"] == "counted in simulation"
    document = report.to_json()
    assert document["totals"]["energy_pj"] == report.totals.energy_pj
    assert document["energy"]["components"] == dict(report.components)
    assert all(a["source"].startswith("assumed:") for a in document["assumptions"])


def test_the_assumed_share_is_that_of_assumed_numbers() -> None:
    made = dense()
    sourced = dataclasses.replace(MACHINE, sources=dict.fromkeys(MACHINE.sources, "[horowitz2014]"))
    assert price(sourced, made.program, run(made)).assumed_share == 0
    report = price(MACHINE, made.program, run(made))
    assert {key for key, _, _ in report.assumptions} <= {k for k, _, _ in MACHINE.assumptions()}
    known = {"hp unit", "dram", "noc"}  # the reference machine cites these
    rest = math.fsum(e for n, e in report.components.items() if n not in known)
    rest -= report.by_layer["relu"]["vector"]  # and its look-up
    assert report.assumed_pj == pytest.approx(rest)


def test_latency_rests_on_listed_assumptions() -> None:
    """Every assumed number that the cycle model reads is listed, with what it is used for."""
    source = inspect.getsource(latency)
    sections = "|".join(SECTIONS)
    read = {f"{s}.{k}" for s, k in re.findall(rf"\b({sections})\.([a-z0-9_]+)", source)}
    read = {key for key in read if key in MACHINE.values()}
    steps = {"array.step_ns", "adc.share", "adc.conversion_ns", "macro.page_switch_cycles"}
    assert steps < read
    assert read <= set(TIMING_KEYS) <= set(MACHINE.values())
    report = price(MACHINE, dense().program, run(dense()))
    assert report.timing_assumptions == tuple(a for a in MACHINE.assumptions() if a[0] in TIMING_KEYS)
    used = {a["what"].split(" = ")[0]: a["used_for"] for a in report.to_json()["assumptions"]}
    assert set(used) == {a[0] for a in (*report.assumptions, *report.timing_assumptions)}
    for key in ("array.step_ns", "adc.conversion_ns", "chip.clock_mhz", "buffers.local_bytes_per_cycle"):
        assert used[key] == ["time"]
    assert used["adc.conversion_fj"] == ["energy"]


def test_work_is_that_of_the_network_where_it_is_known() -> None:
    made = dense()
    plain, known = (price(MACHINE, made.program, run(made), macs=m) for m in (None, {"fc": 7, "other": 9}))
    assert known.totals.macs == 7 < plain.totals.macs
    assert known.totals.energy_pj == plain.totals.energy_pj


def test_clipping_is_reported_where_it_was_counted() -> None:
    made = dense()
    assert price(MACHINE, made.program, run(made), "exact").clip_rate is None
    report: EnergyReport = price(MACHINE, made.program, run(made, clipped=96), "exact")
    assert report.clip_rate == 96 / (6 * 4 * 3 * 32)
    assert report.lossless_share == 1
    lossy = dataclasses.replace(made.program.groups[0], lossless=False)
    program = dataclasses.replace(made.program, groups=(lossy,))
    assert price(MACHINE, program, run(made), "exact").lossless_share == 0
    digital = MachineDescription.load("tsmc22-dcim")
    assert price(digital, made.program, run(made), "exact").lossless_share is None


def test_nothing_executed_costs_nothing() -> None:
    report = price(MACHINE, dense().program, [])
    assert report.totals.energy_pj == 0
    assert report.assumed_share == 0
    assert set(report.tops_per_w().values()) == {0.0}


def test_refusals() -> None:
    made = dense()
    with pytest.raises(ProgramError, match="no counts of its inputs"):
        price(MACHINE, made.program, run(made, on=None), "exact")
    with pytest.raises(ValueError, match="'exakt' is none of stat, exact"):
        price(MACHINE, made.program, [], "exakt")


def test_every_event_has_a_price_on_every_machine() -> None:
    for name in machine_names():
        machine = MachineDescription.load(name)
        for cost in PRICES.values():
            if machine.adc is not None or not cost.key.startswith("adc."):
                assert cost.energy_pj(machine) >= 0


def vgg8_sized() -> tuple[Program, list[Executed]]:
    """As many MACs, weights and instructions as VGG-8 on 32 by 32 pixels: 410 groups, 20 strips each."""
    rng = np.random.default_rng(0)
    weights = rng.bytes(4 * 512 * 64 // 8 + 4 * 64 * 9 // 8 + 8)
    groups = tuple(Group(0, 512, 64, 0, 0, 0, 1, 9, 1, 0, 63) for _ in range(410))
    program = program_of((rows_of(4, 512), rows_of(4, 64, "i32")), groups, weights)
    on = rng.integers(0, 5, (512, 4))
    done = [
        Executed(g % 64, dataclasses.replace(MVM, a=g), f"layer{g % 8}", s, s + 1, on=on, indices=(s,))
        for g in range(410)
        for s in range(20)
    ]
    return program, done


def test_a_network_of_the_size_of_vgg8_takes_three_seconds_at_most() -> None:
    program, done = vgg8_sized()
    start = time.perf_counter()
    price(MachineDescription.load("npp-bitplane-sram"), program, done, "exact")
    assert time.perf_counter() - start < 3
