"""The text form of a program, `.lpcasm`: written here, read by `assembly_parser`, words as in `assembly_syntax`.

    lpcasm 1                                   version of this text
    machine NAME / sha256 HEX / isa N / dram BYTES
    weights BYTES SHA256 / consts BYTES SHA256
    input NAME TYPE AXES... / output ...       axes: number, "name" or ?
    node I NAME
    planes I NAME COEFFICIENTS...
    lut I HEX...
    requant I zero= low= high=                 then lines m, b, k with numbers
    desc I SPACE TYPE BASE COUNT:STRIDE... levels= kernel= stride= dilation= begin= end= pad= bits= zero= rq=
    group I planes= rows=ROW0+ROWS/BLOCK_ROWS outputs= offset= macros=FIRST+ACROSSxDOWN pages=PAGE0+PAGES
            step= mult clipped
    stage I device RUN                         then lines in/out NAME TYPE DESCRIPTOR AXES... [batch]
    stage I host BYTES SHA256                  then lines in/out NAME, why NODE REASON
    core I boot / core I run J                 then instructions
    data weights / data consts / data host I   then indented lines of base64

What has its usual value is left out.  Without `data` the text names weights, constants and models by their size and
hash, and assembling it takes the program that holds them.
"""

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence

from lpcompile.backends.cim.assembly_syntax import instruction_text, quoted, run_lengths, wrapped
from lpcompile.backends.cim.isa import isa
from lpcompile.backends.cim.program import (
    NO_TABLE,
    Descriptor,
    DeviceStage,
    Group,
    HostStage,
    Instruction,
    Interface,
    Program,
    Requant,
    Window,
)
from lpcompile.backends.cim.program_check import check_program
from lpcompile.errors import ProgramError

TEXT_VERSION = 1
HEX_BYTES = 32
BASE64_BYTES = 72
MOST_COMMENT = 60


def disassemble(program: Program, *, full: bool = False) -> str:
    """The text of a program.

    Args:
        program: any.
        full: with weights, constants and models of host stages in it; otherwise their sizes and hashes.

    Raises:
        ProgramError: the program does not hold together.
    """
    check_program(program)
    parts = [_head(program), _tables(program), _stages(program)]
    parts += [_streams(program, core) for core in range(len(program.cores))]
    if full:
        parts.append(_data(program))
    return "".join(f"{line}\n" for part in parts for line in part)


def disassemble_core(program: Program, core: int) -> str:
    """The streams of one core, for reading.

    Raises:
        ProgramError: there is no such core, or the program does not hold together.
    """
    check_program(program)
    if not 0 <= core < len(program.cores):
        hint = (
            f"cores are 0 to {len(program.cores) - 1}"
            if program.cores
            else "the program runs on the host alone"
        )
        raise ProgramError(f"there is no core {core}", hint=hint)
    return "".join(f"{line}\n" for line in _streams(program, core))


def blob_words(data: bytes) -> list[str]:
    """What stands for bytes that are kept elsewhere: their number and their SHA-256."""
    return [str(len(data)), hashlib.sha256(data).hexdigest()]


def _head(program: Program) -> Iterator[str]:
    yield f"lpcasm {TEXT_VERSION}"
    yield f"machine {quoted(program.machine)}"
    yield f"sha256 {program.machine_sha256}"
    yield f"isa {isa().version}"
    yield f"dram {program.dram_bytes}"
    yield " ".join(["weights", *blob_words(program.weights)])
    yield " ".join(["consts", *blob_words(program.consts)])
    for word, tensors in (("input", program.inputs), ("output", program.outputs)):
        for tensor in tensors:
            yield from wrapped([word, *_interface(tensor)])


def _interface(tensor: Interface) -> list[str]:
    axes = ["?" if n is None else _always_quoted(n) if isinstance(n, str) else str(n) for n in tensor.shape]
    return [quoted(tensor.name), quoted(tensor.dtype), *axes]


def _always_quoted(name: str) -> str:
    word = quoted(name)
    return word if word.startswith('"') else f'"{word}"'


def _tables(program: Program) -> Iterator[str]:
    for index, name in enumerate(program.nodes):
        yield f"node {index} {quoted(name)}"
    for index, planes in enumerate(program.plane_sets):
        yield from wrapped(["planes", str(index), quoted(planes.name), *run_lengths(planes.coefficients)])
    for index, lut in enumerate(program.luts):
        text = [lut[at : at + HEX_BYTES].hex() for at in range(0, len(lut), HEX_BYTES)]
        yield from wrapped(["lut", str(index), *text])
    for index, requant in enumerate(program.requants):
        yield from _requant(index, requant)
    for index, descriptor in enumerate(program.descriptors):
        yield from wrapped(["desc", str(index), *_descriptor(descriptor)])
    for index, group in enumerate(program.groups):
        yield from wrapped(["group", str(index), *_group(group)])


def _requant(index: int, requant: Requant) -> Iterator[str]:
    yield f"requant {index} zero={requant.zero} low={requant.low} high={requant.high}"
    for name, values in (("m", requant.m), ("b", requant.b), ("k", requant.k)):
        yield from wrapped([name, *run_lengths(values)], "  ")


def _descriptor(d: Descriptor) -> Iterator[str]:
    yield from (d.space.value, d.dtype, hex(d.base))
    yield from (f"{n}:{stride}" for n, stride in d.dims)
    if d.levels:
        yield f"levels={_joined(d.levels)}"
    if d.window is not None:
        yield from _window(d.window)
    for key, value, usual in (("bits", d.bits, 8), ("zero", d.zero, 0), ("rq", d.requant, NO_TABLE)):
        if value != usual:
            yield f"{key}={value}"


def _window(w: Window) -> Iterator[str]:
    yield f"kernel={_joined(w.kernel)}"
    ones, zeros = (1,) * len(w.kernel), (0,) * len(w.kernel)
    for key, values, usual in (
        ("stride", w.strides, ones),
        ("dilation", w.dilations, ones),
        ("begin", w.begin, zeros),
        ("end", w.end, zeros),
    ):
        if values != usual:
            yield f"{key}={_joined(values)}"
    if w.pad_value:
        yield f"pad={w.pad_value}"


def _group(g: Group) -> Iterator[str]:
    yield f"planes={g.planes}"
    yield f"rows={g.row0}+{g.rows}/{g.block_rows}"
    yield f"outputs={g.outputs}"
    yield f"offset={g.offset}"
    yield f"macros={g.first_macro}+{g.across}x{g.down}"
    yield f"pages={g.page0}+{g.pages}"
    if g.step:
        yield f"step={_joined(g.step)}"
    yield from ["mult"] * g.multipliers + ["clipped"] * (not g.lossless)


def _joined(values: Iterable[int]) -> str:
    return ",".join(map(str, values))


def _stages(program: Program) -> Iterator[str]:
    for index, stage in enumerate(program.stages):
        if isinstance(stage, HostStage):
            yield " ".join(["stage", str(index), "host", *blob_words(stage.model)])
            yield from (f"  in {quoted(name)}" for name in stage.inputs)
            yield from (f"  out {quoted(name)}" for name in stage.outputs)
            for node, reason in sorted(stage.reasons.items()):
                yield from wrapped(["why", quoted(node), _always_quoted(reason)], "  ")
        else:
            yield f"stage {index} device {stage.index}"
            yield from _ports(stage)


def _ports(stage: DeviceStage) -> Iterator[str]:
    for word, ports in (("in", stage.inputs), ("out", stage.outputs)):
        for port in ports:
            axes = [*map(str, port.shape), *["batch"] * port.batch_axis]
            yield from wrapped([word, quoted(port.name), port.dtype, f"d{port.descriptor}", *axes], "  ")


def _streams(program: Program, number: int) -> Iterator[str]:
    core = program.cores[number]
    yield f"core {number} boot"
    yield from _stream(core.boot, program.nodes)
    for index, stream in enumerate(core.run):
        yield f"core {number} run {index}"
        yield from _stream(stream, program.nodes)


def _stream(stream: Sequence[Instruction], nodes: Sequence[str]) -> Iterator[str]:
    ends: list[int] = []
    texts: dict[Instruction, str] = {}
    for index, instruction in enumerate(stream):
        while ends and ends[-1] == index:
            ends.pop()
        text = texts.get(instruction)
        if text is None:
            text = texts[instruction] = instruction_text(instruction)
        indent = "  " * (len(ends) + 1)
        if instruction.mnemonic == "MARK":
            text += f"  ; {quoted(nodes[instruction.a])[:MOST_COMMENT]}"
        elif instruction.mnemonic == "REPEAT":
            ends.append(index + 1 + instruction.b)
        yield indent + text


def _data(program: Program) -> Iterator[str]:
    models = [(f"host {i}", s.model) for i, s in enumerate(program.stages) if isinstance(s, HostStage)]
    for name, data in (("weights", program.weights), ("consts", program.consts), *models):
        if data:
            yield f"data {name}"
            for at in range(0, len(data), BASE64_BYTES):
                yield f"  {base64.b64encode(data[at : at + BASE64_BYTES]).decode()}"
