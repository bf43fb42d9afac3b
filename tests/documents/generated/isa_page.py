"""The page docs/cim/isa.md, derived from `isa.toml`."""

from collections.abc import Iterator, Sequence

from lpcompile.backends.cim.isa import WORD_BITS, Isa, Operation, isa

_HEAD = """# Instruction set

Derived from `backends/cim/isa.toml` by `python -m tests.documents.generated`: edit the table, not this page.
The full meaning of every instruction stands in [execution.md](execution.md).

Version {version}. An instruction is one word of {bits} bits, little-endian. What it does not use must be zero: a word
with anything else there is refused, as are unknown opcodes, flags and units.
"""


def page() -> str:
    """The text of the page."""
    return "\n".join(_lines(isa())) + "\n"


def _lines(table: Isa) -> Iterator[str]:
    yield _HEAD.format(version=table.version, bits=WORD_BITS)
    spans = sorted(table.word.items(), key=lambda item: -item[1][0])
    yield from _table(("bits", "field"), [(f"{low + bits - 1}:{low}", name) for name, (low, bits) in spans])
    yield "\n## Operands\n"
    yield "In assembler text an operand is its number behind the letter of its kind.\n"
    kinds = [(f"`{kind['prefix']}7`" if kind["prefix"] else "`7`", name, kind["meaning"])
             for name, kind in table.kinds.items()]  # fmt: skip
    yield from _table(("text", "kind", "meaning"), kinds)
    yield "\n## Instructions\n"
    header = ("hex", "instruction", "a", "b", "c", "unit", "flags", "queue", "meaning")
    yield from _table(header, [_row(operation) for operation in table.operations.values()])
    yield "\nQueue `unit`: the one that the unit names. Queue `-`: the sequencer itself."


def _row(o: Operation) -> Sequence[str]:
    fields = {operand.field: f"{operand.name}: {operand.kind}" for operand in o.operands}
    fields |= {x.field: f"{fields[x.field]} >= {x.least}" for x in o.operands if x.least > 0}
    units = [f"{code} {name}" for name, code in o.units.items()]
    if o.plane is not None:
        units = [f"{o.plane.name}: {o.plane.least} to {o.plane.most}"]
    flags = [f"{value} {name}" for name, value in o.flags.items()]
    queue = "-" if o.queue == "none" else o.queue
    operands = [fields.get(field, "") for field in "abc"]
    return f"{o.opcode:02X}", o.mnemonic, *operands, ", ".join(units), ", ".join(flags), queue, o.meaning


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    yield from (f"| {' | '.join(row)} |".replace("  ", " ") for row in rows)
