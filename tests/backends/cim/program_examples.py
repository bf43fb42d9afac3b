"""Programs that hold together: one by hand, random ones, and one of the size of a real network."""

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from lpcompile.backends.cim.program import (
    CoreCode,
    Descriptor,
    DeviceStage,
    Group,
    HostStage,
    Instruction,
    Interface,
    PlaneSet,
    Port,
    Program,
    Requant,
    Space,
    Window,
)
from lpcompile.backends.cim.program_check import group_bytes

HALT = Instruction("HALT")
SHA = "0123456789abcdef" * 4
AT = 1 << 20  # base of random descriptors, so that levels may move them down
CIM, VEC, DMA = 0, 1, 2


def example_program() -> Program:
    """A 3x3 convolution on one core with everything that a program can hold, and a host stage behind it."""
    planes = PlaneSet("int4", (1, 2, 4, -8))
    group = Group(0, 27, 8, 0, 0, first_macro=3, across=1, down=1, pages=1, page0=0, block_rows=31, step=(1,))
    weights = bytes(i % 251 for i in range(group_bytes(group, 4)))
    second = replace(
        group, offset=len(weights), multipliers=True, lossless=False, block_rows=14, pages=2, step=()
    )
    weights += bytes(i % 7 for i in range(group_bytes(second, 4)))
    window = Window((3, 3), (1, 1), (1, 1), (1, 1), (1, 0), pad_value=114)
    image, strip, sums = ((6, 18), (6, 3), (3, 1)), ((4, 18), (6, 3), (3, 1)), ((4, 192), (6, 32), (8, 4))
    descriptors = (
        Descriptor(Space.DRAM, "u8", 64, image),
        Descriptor(Space.DRAM, "u8", 1024, ((1, 48), (6, 8), (8, 1)), levels=(48,)),
        Descriptor(Space.LB, "u8", 0, strip, levels=(18,), window=window, bits=7, zero=114),
        Descriptor(Space.LB, "i32", 4096, ((4, 192), (6, 32), (8, 4))),
        Descriptor(Space.LB, "u8", 8192, ((4, 48), (6, 8), (8, 1)), requant=1),
        Descriptor(Space.LB, "u8", 0, image),
        Descriptor(Space.DRAM, "u8", 1024, ((6, 48), (6, 8), (8, 1))),
    )
    assert descriptors[3].dims == sums
    boot = (Instruction("WPROG", 0, 0), Instruction("WPROG", 1, 0), HALT)
    run = (
        Instruction("MARK", 0),
        Instruction("LD", 5, 0),
        Instruction("SIG", 4, 0, unit=DMA),
        Instruction("WAIT", 4, 1, unit=CIM),
        Instruction("REPEAT", 2, 8),
        Instruction("MVM", 0, 2, 3, flags=3),
        Instruction("BAR"),
        Instruction("VRQ", 4, 3, 0),
        Instruction("VADDQ", 4, 4, 4),
        Instruction("FILL", 3, -5),
        Instruction("REPEAT", 1, 1),
        Instruction("VOP", 4, 4, 4, unit=3),
        Instruction("VLUT", 4, 4, 0),
        Instruction("MARK", 1),
        Instruction("MVMP", 1, 2, 3, unit=6, flags=2),
        Instruction("ST", 1, 4),
        HALT,
    )
    return Program(
        machine="tiny",
        machine_sha256=SHA,
        cores=(CoreCode(boot, (run,)), CoreCode((HALT,), ((HALT,),))),
        descriptors=descriptors,
        groups=(group, second),
        plane_sets=(planes, PlaneSet("", (-1,))),
        requants=(
            Requant((3, -4, 5, 6, 7, 7, 7, 7), (1 << 40, -(1 << 50), 0, 1, 2, 3, 4, 5), (20,) * 8, 3, 0, 255),
            Requant((1, -1), (1 << 62,), (62,), 0, -128, 127),
        ),
        luts=(bytes(range(256)), bytes(reversed(range(256)))),
        weights=weights,
        consts=b"\x01\x02\x03",
        dram_bytes=2048,
        stages=(
            DeviceStage(
                0,
                (Port("image", "u8", (1, 6, 6, 3), 0, batch_axis=True),),
                (Port("mid; dle", "u8", (1, 6, 6, 8), 6, batch_axis=True),),
            ),
            HostStage(b"an onnx model", ("mid; dle",), ("y", "z"), {"TopK_1": 'no "sorting"', "A": ""}),
        ),
        inputs=(Interface("image", "uint8", ("N", 6, 6, 3)),),
        outputs=(Interface("y", "float32", ("N", None, 10)), Interface("z", "int64", ())),
        nodes=("conv1", 'a "quoted"; node\n\u2028 é', ""),
    )


def large_program(descriptors: int = 10_000, words: int = 10_000, channels: int = 20_000) -> Program:
    """A program with tables of the size that ResNet-18 or MobileNetV2 needs."""
    random = np.random.default_rng(0)
    width = 100
    requants = tuple(
        Requant(
            tuple(random.integers(8192, 32767, width).tolist()),
            tuple(random.integers(-(1 << 36), 1 << 36, width).tolist()),
            tuple(random.integers(14, 40, width).tolist()),
            *(0, 0, 255),
        )
        for _ in range(channels // width)
    )
    window = Window((3, 3), (1, 1), (1, 1), (1, 1), (1, 1), pad_value=114)
    table = tuple(
        Descriptor(
            Space.LB,
            ("u8", "i32")[i % 2],
            int(random.integers(1 << 22)),
            ((7, 56 * 512), (56, 512), (width, 4)),
            levels=(7 * 56 * 512, 0),
            window=window if i % 2 == 0 else None,
        )
        for i in range(descriptors)
    )
    group = Group(0, 576, 64, 0, 0, 0, 1, 10, 1, 0, 63)
    groups = tuple(replace(group, first_macro=10 * i) for i in range(1000))
    pick = random.integers(7, 7 + descriptors, (words, 2)).tolist()  # not those of the example
    pieces = [
        Instruction("MVM", i % len(groups), a, b, flags=1)
        if i % 2
        else Instruction("VRQ", a, b, i % len(requants))
        for i, (a, b) in enumerate(pick)
    ]
    return replace(
        example_program(),
        cores=(CoreCode((HALT,), ((*pieces, HALT),)),),
        descriptors=(*example_program().descriptors, *table),
        groups=groups,
        requants=requants,
        weights=random.bytes(group_bytes(group, 4)),
    )


NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
SMALL = st.integers(0, 9)
WIDE = st.integers(-(1 << 62), 1 << 62)


@st.composite
def _descriptors(draw: st.DrawFn) -> Descriptor:
    dims = draw(st.lists(st.tuples(st.integers(1, 9), st.integers(-300, 300)), max_size=5))
    dtype = draw(st.sampled_from(["u8", "i8", "i16", "i32"]))
    window = None
    if len(dims) > 1 and draw(st.booleans()):
        axes = draw(st.integers(1, len(dims) - 1))
        some = st.tuples(*[st.integers(1, 3)] * axes)
        pads = st.tuples(*[st.integers(8, 20)] * axes)  # wide enough for every kernel
        window = Window(draw(some), draw(some), draw(some), draw(pads), draw(pads), draw(st.integers(0, 127)))
    return Descriptor(
        draw(st.sampled_from([Space.LB, Space.GB])),
        dtype,
        AT + draw(st.integers(0, 1 << 30)),
        tuple(dims),
        tuple(draw(st.lists(st.integers(-1000, 1000), max_size=3))),
        window,
        draw(st.integers(1, 8)) if dtype == "u8" else 8,
        draw(st.integers(-300, 300)),
        draw(st.sampled_from([-1, 0])),
    )


@st.composite
def _requants(draw: st.DrawFn) -> Requant:
    n = draw(st.integers(1, 12))
    m = draw(st.lists(st.integers(-(1 << 15), (1 << 15) - 1), min_size=n, max_size=n))
    b = draw(st.lists(WIDE, min_size=n, max_size=n))
    k = [draw(st.integers(0, 62))] * n
    low = draw(st.integers(-(1 << 31), 0))
    return Requant(tuple(m), tuple(b), tuple(k), draw(st.integers(-9, 9)), low, draw(st.integers(0, 1 << 20)))


@st.composite
def _body(draw: st.DrawFn, program: Program, depth: int = 0) -> list[Instruction]:
    found: list[Instruction] = []
    operand = {
        "d": st.integers(0, len(program.descriptors) - 1),
        "g": st.integers(0, len(program.groups) - 1),
        "n": st.integers(0, len(program.nodes) - 1),
    }
    for kind in draw(st.lists(st.integers(0, 9), max_size=5)):
        d1, d2, d3 = (draw(operand["d"]) for _ in "123")
        if kind == 0 and depth < 3:
            inner = draw(_body(program, depth + 1)) or [Instruction("NOP")]
            found += [Instruction("REPEAT", draw(st.integers(1, 3)), len(inner)), *inner]
        elif kind == 1:
            event, unit, core = draw(st.integers(0, 9)), draw(st.integers(0, 3)), 0
            found += [Instruction("SIG", event, core, unit=unit), Instruction("WAIT", event, 1, unit=unit)]
        elif kind == 2:
            found.append(Instruction("MARK", draw(operand["n"])))
        elif kind == 3:
            found.append(Instruction("FILL", d1, draw(st.integers(-(1 << 15), (1 << 15) - 1))))
        elif kind == 4:
            found.append(Instruction("MVM", draw(operand["g"]), d1, d2, flags=draw(st.integers(0, 3))))
        elif kind == 5:
            flags, unit = draw(st.integers(0, 3)), draw(st.integers(0, 7))
            found.append(Instruction("MVMP", draw(operand["g"]), d1, d2, unit, flags))
        elif kind == 6:
            found.append(Instruction("SEND", d1, 0, draw(st.integers(0, 65535))))
        else:
            found.append(Instruction("VOP", d1, d2, d3, unit=draw(st.integers(0, 6))))
    return found


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Small programs with tables and loops of every shape."""
    sets = draw(st.lists(st.lists(st.sampled_from([1, -1, 2, 64, -128]), min_size=1, max_size=8), max_size=3))
    plane_sets = tuple(PlaneSet(draw(NAMES), tuple(c)) for c in [[1], *sets])
    groups: list[Group] = []
    weight_bytes = 0
    for _ in range(draw(st.integers(1, 4))):
        rows, outputs = draw(st.integers(1, 40)), draw(st.integers(1, 9))
        planes, step = draw(st.integers(0, len(plane_sets) - 1)), (0,) * draw(st.integers(0, 3))
        group = Group(
            *(draw(SMALL), rows, outputs, planes, weight_bytes, draw(SMALL), draw(SMALL) + 1),
            *(8, draw(SMALL) + 5, draw(SMALL), draw(SMALL) + 1),  # 8 x 5 hold 40 blocks
            *(draw(st.booleans()), draw(st.booleans()), step),
        )
        groups.append(group)
        weight_bytes += group_bytes(group, 8) + group.blocks * outputs
    example = example_program()
    program = replace(
        example,
        machine=draw(NAMES.filter(bool)),
        descriptors=(*example.descriptors, *draw(st.lists(_descriptors(), max_size=5))),
        groups=tuple(groups),
        plane_sets=plane_sets,
        requants=(*example.requants, *draw(st.lists(_requants(), max_size=3))),
        luts=tuple(draw(st.lists(st.binary(min_size=256, max_size=256), max_size=1))),
        weights=draw(st.binary(max_size=3)) + bytes(weight_bytes),
        nodes=tuple(draw(st.lists(NAMES, min_size=1, max_size=4))),
    )
    streams = [(*draw(_body(program)), HALT) for _ in range(2 * draw(st.integers(1, 2)))]
    cores = [CoreCode(boot, (run,)) for boot, run in zip(streams[::2], streams[1::2], strict=True)]
    # a SIG goes to core 0; on another core its WAIT would wait for ever
    first, *others = cores
    quiet = [CoreCode(_without_events(c.boot), tuple(map(_without_events, c.run))) for c in others]
    return replace(program, cores=(first, *quiet))


def _without_events(stream: tuple[Instruction, ...]) -> tuple[Instruction, ...]:
    return tuple(Instruction("NOP") if i.mnemonic in {"SIG", "WAIT"} else i for i in stream)
