"""Whether a program holds together: every reference, bound and length, before anybody acts on it.

What depends on the machine (sizes of memories, number of macros, converters), and whether operands fit each other in
dtype and shape, is the simulator's to say.
"""

from lpcompile.backends.cim.interface_check import check_interface
from lpcompile.backends.cim.program import (
    DTYPE_BYTES,
    DTYPE_RANGES,
    MAX_DIMS,
    MAX_LEVELS,
    NO_TABLE,
    Descriptor,
    DeviceStage,
    Group,
    PlaneSet,
    Program,
    Requant,
    Space,
    Window,
)
from lpcompile.backends.cim.program_limits import (
    INT64,
    LUT_BYTES,
    MOST_ADDRESS,
    MOST_COEFFICIENTS,
    MOST_ELEMENTS,
    MOST_ENTRIES,
    MOST_NUMBER,
    MOST_STAGES,
    check_all,
    check_name,
    check_range,
    extent,
    refuse,
)
from lpcompile.backends.cim.stream_check import check_streams

TABLES = (
    "cores",
    "descriptors",
    "groups",
    "plane_sets",
    "requants",
    "luts",
    "stages",
    "nodes",
    "inputs",
    "outputs",
)


def check_program(program: Program) -> None:
    """Check the structure of a program.

    Raises:
        ProgramError: a reference leads nowhere, a number is out of bounds, a stream does not end, or stages do not
            connect.
    """
    check_name(program.machine, "machine")
    sha = program.machine_sha256
    if len(sha) != 64 or not set(sha) <= set("0123456789abcdef"):
        refuse("the hash of the machine is not 64 hexadecimal digits", "machine")
    for name in TABLES:
        check_range(len(getattr(program, name)), 0, MOST_ENTRIES, "number of entries", name)
    for name in program.nodes:
        check_name(name, "nodes", empty=True)
    check_range(program.dram_bytes, 0, MOST_ADDRESS, "dram bytes", "program")
    if len(program.consts) > program.dram_bytes:
        refuse(f"{len(program.consts)} bytes of constants in a DRAM image of {program.dram_bytes}", "consts")
    for index, descriptor in enumerate(program.descriptors):
        _check_descriptor(descriptor, len(program.requants), f"descriptor {index}")
    for index, planes in enumerate(program.plane_sets):
        _check_planes(planes, f"plane set {index}")
    for index, group in enumerate(program.groups):
        _check_group(group, program, f"group {index}")
    for index, requant in enumerate(program.requants):
        _check_requant(requant, f"requant {index}")
    for index, lut in enumerate(program.luts):
        if len(lut) != LUT_BYTES:
            refuse(f"{len(lut)} bytes instead of {LUT_BYTES}", f"lut {index}")
    check_range(len(program.stages), 0, MOST_STAGES, "number of entries", "stages")
    runs = sum(isinstance(stage, DeviceStage) for stage in program.stages)
    if runs and not program.cores:
        refuse("device stages without a core", "stages")
    for number, core in enumerate(program.cores):
        if len(core.run) != runs:
            refuse(f"{len(core.run)} run streams for {runs} device stages", f"core {number}")
    check_interface(program)
    check_streams(program)


def group_bytes(group: Group, planes: int) -> int:
    """Bytes that a group takes of the weights section.

    Args:
        group: any.
        planes: number of its one-bit planes.
    """
    stored = -(-planes * group.rows * group.outputs // 8)
    flags = -(-group.blocks * planes * group.outputs // 8)
    return stored + flags + (group.blocks * group.outputs if group.multipliers else 0)


def _check_descriptor(d: Descriptor, requants: int, where: str) -> None:
    if d.space not in set(Space):
        refuse(f"unknown space '{d.space}'", where)
    if d.dtype not in DTYPE_BYTES:
        refuse(f"unknown dtype '{d.dtype}'", where)
    if len(d.dims) > MAX_DIMS:
        refuse(f"{len(d.dims)} axes, more than {MAX_DIMS}", where)
    if len(d.levels) > MAX_LEVELS:
        refuse(f"{len(d.levels)} levels, more than {MAX_LEVELS}", where)
    check_range(d.base, 0, MOST_ADDRESS, "base", where)
    elements = 1
    for n, stride in d.dims:
        check_range(n, 1, MOST_ELEMENTS, "count", where)
        check_range(stride, -MOST_ADDRESS, MOST_ADDRESS, "stride", where)
        elements *= n
    check_range(elements, 1, MOST_ELEMENTS, "number of elements", where)
    check_all(d.levels, -MOST_ADDRESS, MOST_ADDRESS, "level", where)
    if extent(d)[0] < 0:
        refuse("it starts before address 0", where)
    check_range(d.bits, 1, 8, "bits", where)
    if d.bits != 8 and d.dtype != "u8":
        refuse(f"bits of a {d.dtype} operand", where)
    check_range(d.zero, *DTYPE_RANGES["i32"], "zero", where)
    check_range(d.requant, NO_TABLE, requants - 1, "requant", where)
    if d.window is not None:
        _check_window(d, d.window, where)


def _check_window(d: Descriptor, w: Window, where: str) -> None:
    axes = len(w.kernel)
    if not 1 <= axes < len(d.dims) or {len(v) for v in (w.strides, w.dilations, w.begin, w.end)} != {axes}:
        refuse("the window has another number of axes than the operand", where)
    for name, values in (("kernel", w.kernel), ("stride", w.strides), ("dilation", w.dilations)):
        check_all(values, 1, MOST_ENTRIES, f"window {name}", where)
    check_all((*w.begin, *w.end), 0, MOST_ENTRIES, "padding", where)
    check_range(w.pad_value, *DTYPE_RANGES[d.dtype], "pad value", where)
    positions = w.out_counts(d.counts[-1 - axes : -1])
    if min(positions) < 1:
        refuse("the window is larger than what it slides over", where)
    gathered = d.counts[-1]
    for n in (*d.counts[: -1 - axes], *positions, *w.kernel):
        gathered *= n
    check_range(gathered, 1, MOST_ELEMENTS, "number of gathered elements", where)


def _check_planes(planes: PlaneSet, where: str) -> None:
    check_name(planes.name, where, empty=True)
    check_range(len(planes.coefficients), 1, MOST_COEFFICIENTS, "number of planes", where)
    for c in planes.coefficients:
        if abs(c).bit_count() != 1 or abs(c) > MOST_NUMBER:
            refuse(f"coefficient {c} is no signed power of two below 2^31", where)


def _check_group(g: Group, program: Program, where: str) -> None:
    at_least_one = ("rows", "outputs", "across", "down", "pages", "block_rows")
    for name in (*at_least_one, "row0", "first_macro", "page0"):
        check_range(getattr(g, name), int(name in at_least_one), MOST_NUMBER, name, where)
    check_range(g.planes, 0, len(program.plane_sets) - 1, "planes", where)
    if g.blocks > g.down * g.pages:
        refuse(f"{g.blocks} blocks of rows on {g.down} macros of {g.pages} pages", where)
    if len(g.step) > MAX_LEVELS:
        refuse(f"{len(g.step)} levels, more than {MAX_LEVELS}", where)
    check_all(g.step, -MOST_ENTRIES, MOST_ENTRIES, "step", where)
    end = g.offset + group_bytes(g, len(program.plane_sets[g.planes].coefficients))
    if g.offset < 0 or end > len(program.weights):
        refuse(f"bytes {g.offset} to {end} of {len(program.weights)} bytes of weights", where)


def _check_requant(r: Requant, where: str) -> None:
    for name, values, (low, high) in (
        ("m", r.m, DTYPE_RANGES["i16"]),
        ("b", r.b, INT64),
        ("k", r.k, (0, 62)),
    ):
        if len(values) not in {1, max(len(r.m), len(r.b), len(r.k))}:
            refuse(f"{len(values)} values of {name}: neither one nor as many as the others", where)
        check_all(values, low, high, name, where)
    for name in ("zero", "low", "high"):
        check_range(getattr(r, name), *DTYPE_RANGES["i32"], name, where)
    if r.low > r.high:
        refuse(f"low {r.low} is above high {r.high}", where)
