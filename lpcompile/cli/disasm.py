"""`lpcompile disasm PROGRAM`: a compiled program as assembler text."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lpcompile.cli._options import common_options
from lpcompile.cli._output import Output
from lpcompile.cli._programs import program_file, refuse_existing_file, write_file

if TYPE_CHECKING:
    from lpcompile.backends.cim.program import Program


@click.command(short_help="Show a compute-in-memory program as text.")
@click.argument("program")
@click.option(
    "-o", "--output", "result", type=click.Path(path_type=Path), metavar="FILE", help="Write the text there."
)
@click.option("--full", is_flag=True, help="With weights, constants and host models, as base64.")
@click.option("--core", type=click.IntRange(min=0), metavar="N", help="Only the streams of that core.")
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@common_options
def disasm(
    output: Output, program: str, result: Path | None, full: bool, core: int | None, force: bool
) -> None:
    """Show PROGRAM as assembler text: an .lpcim file, or a folder that a compiled model was written to.

    'lpcompile asm' turns the whole text into the program again; without --full it needs PROGRAM for that too.
    """
    if full and core is not None:
        raise click.UsageError("--full and --core exclude each other")
    path = program_file(program)
    if result is not None:
        refuse_existing_file(result, force=force)

    from lpcompile.backends.cim.assembler import disassemble, disassemble_core
    from lpcompile.backends.cim.container import read_program

    read = read_program(path)
    text = disassemble(read, full=full) if core is None else disassemble_core(read, core)
    document = described(read, path)
    if result is None:
        output.answer({**document, "text": text}, text.rstrip("\n"))
        return
    write_file(result, text.encode())
    output.answer({**document, "written": str(result)}, f"wrote {result}")


def described(program: "Program", path: Path) -> dict[str, Any]:
    """Sizes of a program, as data."""
    from lpcompile.backends.cim.container import size_without_weights
    from lpcompile.backends.cim.isa import isa

    tables = ("descriptors", "groups", "plane_sets", "requants", "luts", "stages", "nodes")
    return {
        "path": str(path),
        "machine": program.machine,
        "machine_sha256": program.machine_sha256,
        "isa_version": isa().version,
        "file_bytes": path.stat().st_size,
        "bytes_without_weights": size_without_weights(program),
        "weight_bytes": len(program.weights),
        "const_bytes": len(program.consts),
        "dram_bytes": program.dram_bytes,
        "tables": {name: len(getattr(program, name)) for name in tables},
        "cores": [
            {"core": number, "boot_words": len(code.boot), "run_words": [len(stream) for stream in code.run]}
            for number, code in enumerate(program.cores)
        ],
    }
