"""Proofs hold for sound programs and name what is wrong with others."""

import time
from dataclasses import replace

import numpy as np
import pytest

from lpcompile.backends.cim.program import Instruction, Space
from lpcompile.backends.cim.proofs import Proofs, prove
from tests.backends.cim.build import TWOS8, Builder, capacities, op, window

RNG = np.random.default_rng(5)
INIT = 1


def layer(weights: np.ndarray, **options: object) -> tuple[Builder, int, int]:
    """One MVM with INIT; builder, group, accumulator."""
    b = Builder()
    x = b.feed("x", (4, len(weights)))
    acc = b.desc((4, weights.shape[1]), "i32")
    group = b.group(weights, TWOS8, **options)  # type: ignore[arg-type]
    b.run[0] += [op("MVM", group, x, acc, flags=INIT)]
    return b, x, acc


def proofs(b: Builder, **changes: object) -> Proofs:
    return prove(b.program(), capacities(**changes))


def test_a_sound_layer_is_proven() -> None:
    weights = RNG.integers(-128, 128, (100, 6))
    b, _, acc = layer(weights)
    y = b.desc((4, 6))
    b.run[0] += [op("BAR"), op("VRQ", y, acc, b.requant(20000, 1 << 20, 21)), op("BAR")]
    b.fetch("y", y)
    found = proofs(b)
    assert found.hold, str(found)
    expected = max(np.maximum(weights, 0).sum(axis=0).max(), np.maximum(-weights, 0).sum(axis=0).max()) * 255
    assert found.largest_sum == expected
    assert (found.groups, found.lossless_groups, found.columns) == (1, 1, 2 * 8 * 6)
    assert found.lossy_columns == 0
    assert (found.requantisations, found.requantisations_in_float) == (1, 1)
    assert "no deadlock, and all events and messages used up: holds" in str(found)
    assert found.document()["hold"] is True


def test_bounds_follow_clips_tables_and_constants() -> None:
    b = Builder()
    w = b.const(RNG.integers(-128, 128, (300, 4)).astype(np.int16) * 200)
    x = b.feed("x", (2, 300))
    low = b.desc((2, 300), "i16")
    acc = b.desc((2, 4), "i32")
    b.run[0] += [op("VRQ", low, x, b.requant(1, 0, 4, high=15)), op("VMM", acc, low, w, flags=INIT)]
    found = proofs(b)
    assert found.hold, str(found)
    values = np.frombuffer(bytes(b.consts), np.int16).reshape(300, 4).astype(np.int64)
    assert (
        found.largest_sum
        == max(np.maximum(values, 0).sum(axis=0).max(), np.maximum(-values, 0).sum(axis=0).max()) * 15
    )
    b.requants[0] = replace(b.requants[0], high=32767)
    assert proofs(b).counts == {"sums": 1}


def test_an_accumulator_that_might_overflow_is_named() -> None:
    b, x, acc = layer(RNG.integers(-128, 128, (100, 6)))
    b.nodes = ["conv"]
    b.run[0].insert(0, op("MARK", 0))
    b.run[0] += [op("REPEAT", 4000, 1), op("MVM", 0, x, acc)]
    found = proofs(b)
    assert found.counts["sums"] > 0
    assert "(MVM)" in found.first["sums"]
    assert "node 'conv': a sum may reach" in found.first["sums"]


def test_what_a_sample_leaves_behind_is_not_taken_as_known() -> None:
    b, x, acc = layer(RNG.integers(-8, 8, (10, 2)))
    b.boot[0].append(op("FILL", acc, 0))
    b.run[0][-1] = op("MVM", 0, x, acc)
    assert set(proofs(b).first) == {"sums"}
    b.run[0].insert(0, op("FILL", acc, 0))
    assert proofs(b).hold


def test_false_lossless_flags_are_found() -> None:
    b, _, _ = layer(np.full((127, 2), -1), block_rows=127, complement=False)
    assert "group 0 is marked lossless" in proofs(b).first["groups"]
    assert proofs(b, adc_bits=7).hold
    assert proofs(b, adc_bits=None).hold
    b.groups[0] = replace(b.groups[0], lossless=False)
    found = proofs(b)
    assert found.hold
    assert found.largest_sum == 127 * 255 * 255  # no more is known of a lossy column
    assert found.lossy_columns == found.columns  # every bit of -1 is set
    assert "marked lossy" in proofs(b, adc_bits=7).first["groups"]


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        ([op("WAIT", 0, 1, unit=1)], "events", "waits for ever"),
        ([op("SIG", 0, 0, unit=1)], "events", "ends with event 0 of core 0 at 1"),
        ([op("SEND", 0, 0, 1)], "events", "nobody receives tag 1"),
        ([op("SIG", 0, 0)] * 2 + [op("WAIT", 0, 1, unit=u) for u in (1, 2)], "events", "compete for signals"),
        ([op("FILL", 0, 1), op("ST", 1, 0)], "races", "are not ordered"),
        ([op("FILL", 7, 1)], "streams", "no descriptor 7"),
        ([op("REPEAT", 9, 9)], "streams", "leaves its stream"),
        ([op("VRQ", 0, 0, 4)], "sums", "no requant entry 4"),
        ([op("VRQ", 0, 0, 0)], "sums", "beyond 2^62"),
    ],
)
def test_violations_by_kind(words: list[Instruction], kind: str, message: str) -> None:
    b = Builder()
    b.desc((4,))
    b.desc((4,), space=Space.GB)
    b.requant(1, 1 << 62, 0)
    b.run[0] = words
    found = proofs(b)
    assert not found.hold
    assert message in found.first[kind]
    assert f"VIOLATED {found.counts[kind]} times" in str(found)


@pytest.mark.thorough
def test_programs_without_any_order_are_given_up_soon() -> None:
    b = Builder()
    left, right = b.desc((4,), dims=((4, 2),), base=0), b.desc((4,), dims=((4, 2),), base=1)
    source = b.desc((4,), space=Space.GB)
    b.run[0] = [op("REPEAT", 20000, 1), op("FILL", left, 1), op("REPEAT", 20000, 1), op("LD", right, source)]
    start = time.process_time()
    assert "too many accesses unordered" in proofs(b).first["streams"]
    b.run[0][3] = op("LD", b.again(left, base=2), source)
    b.run[0][0] = b.run[0][2] = op("REPEAT", 200, 1)
    assert proofs(b).counts["races"] == 1000  # it stops to count
    assert time.process_time() - start < 5


def test_damaged_groups_are_violations() -> None:
    b, _, _ = layer(np.ones((10, 2)))
    b.groups[0] = replace(b.groups[0], offset=1 << 40)
    assert "of the weights" in proofs(b).first["streams"]


def test_an_mvm_must_find_its_group() -> None:
    b, _, _ = layer(np.ones((10, 2)))
    b.boot[0] = [word for word in b.boot[0] if word.mnemonic != "WPROG"]
    found = proofs(b)
    assert set(found.first) == {"weights"}
    assert "group 0 is not in the macros" in found.first["weights"]
    b.run[0].insert(0, op("WPROG", 0, b.groups[0].page0))
    assert proofs(b).hold
    b.run[0].append(op("WPROG", 0, b.groups[0].page0))
    assert proofs(b).hold
    b.run[0][-1] = op("WPROG", 0, b.groups[0].page0 + 1)
    assert "starts at page" in proofs(b).first["weights"]
    b.groups[0] = replace(b.groups[0], first_macro=1 << 20)
    assert "leaves the macros" in proofs(b).first["weights"]


def test_a_group_of_the_boot_must_be_there_for_the_next_sample() -> None:
    b, _, _ = layer(np.ones((10, 2)))
    other = len(b.groups)
    b.groups.append(replace(b.groups[0], lossless=b.groups[0].lossless, row0=0))
    b.run[0].append(op("WPROG", other, b.groups[0].page0))
    assert "for the next sample" in proofs(b).first["weights"]
    b.run[0].append(op("WPROG", 0, b.groups[0].page0))
    assert proofs(b).hold


def big(cores: int, strips: int) -> Builder:
    """A pipeline over cores: load, multiply, requantise, store, with double buffers and events."""
    b = Builder(cores=cores)
    total = b.desc((strips, 4, 18, 16), space=Space.GB)
    rows, out = 4 * 18 * 16, 4 * 16 * 16
    result = b.desc((strips, 4, 16, 16), space=Space.GB)
    source = b.again(total, dims=((4, 288), (18, 16), (16, 1)), levels=(rows,))
    target = b.again(result, dims=((4, 256), (16, 16), (16, 1)), levels=(out,))
    x, acc, y = b.desc((4, 18, 16)), b.desc((2, 16, 16), "i32"), b.desc((2, 16, 16))
    xw = b.again(x, window=window((3, 3)))
    store = b.again(target, dims=((2, 256), (16, 16), (16, 1)))
    rq = b.requant(300, 1 << 12, 13)
    group = b.group(RNG.integers(-8, 8, (144, 16)), boot=False)
    for core in range(cores):
        b.boot[core] = [op("WPROG", group, 0)]
        mine = strips // cores
        first = core * mine
        load = b.again(source, base=b.descriptors[source].base + first * rows)
        save = b.again(store, base=b.descriptors[store].base + first * out)
        body = [
            op("WAIT", 0, 1, unit=2), op("LD", x, load), op("SIG", 1, core, unit=2),
            op("WAIT", 1, 1, unit=0), op("WAIT", 2, 1, unit=0), op("MVM", group, xw, acc, flags=INIT),
            op("SIG", 0, core, unit=0), op("SIG", 3, core, unit=0),
            op("WAIT", 3, 1, unit=1), op("WAIT", 4, 1, unit=1), op("VRQ", y, acc, rq),
            op("SIG", 2, core, unit=1), op("SIG", 5, core, unit=1),
            op("WAIT", 5, 1, unit=2), op("ST", save, y), op("SIG", 4, core, unit=2),
        ]  # fmt: skip
        b.run[core] = [op("SIG", 0, core, unit=0), op("SIG", 2, core, unit=1), op("SIG", 4, core, unit=2)]
        b.run[core] += [op("REPEAT", mine, len(body)), *body]
        b.run[core] += [op("WAIT", 0, 1, unit=2), op("WAIT", 2, 1, unit=0), op("WAIT", 4, 1, unit=1)]
    return b


@pytest.mark.thorough
def test_twenty_thousand_instructions_are_proven_fast() -> None:
    b = big(16, 1280)
    machine = capacities(cores=16, gb_bytes=1 << 23, macros=16)
    start = time.process_time()
    found = prove(b.program(), machine)
    seconds = time.process_time() - start
    assert found.hold, str(found)
    assert found.operations > 20_000
    assert seconds < 4  # 2 s on an idle core
