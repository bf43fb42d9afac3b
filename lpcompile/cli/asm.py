"""`lpcompile asm TEXT`: assembler text as a compiled program."""

from pathlib import Path

import click

from lpcompile.cli._options import common_options
from lpcompile.cli._output import Output
from lpcompile.cli._programs import assembler_text, program_file, refuse_existing_file, write_file


@click.command(short_help="Make a compute-in-memory program of text.")
@click.argument("text")
@click.option(
    "-o",
    "--output",
    "result",
    type=click.Path(path_type=Path),
    required=True,
    metavar="PROGRAM",
    help="The program.",
)
@click.option("--data", metavar="FILE", help="Program that holds the weights which TEXT only names.")
@click.option("--force", is_flag=True, help="Overwrite PROGRAM.")
@common_options
def asm(output: Output, text: str, result: Path, data: str | None, force: bool) -> None:
    """Turn assembler text, as 'lpcompile disasm' writes it, into a program."""
    path, source = assembler_text(text)
    holder = None if data is None else program_file(data)
    refuse_existing_file(result, force=force)

    from lpcompile.backends.cim.assembly_parser import assemble
    from lpcompile.backends.cim.container import read_program, to_bytes
    from lpcompile.cli.disasm import described
    from lpcompile.report.table import bytes_text

    program = assemble(source, where=str(path), data=None if holder is None else read_program(holder))
    written = to_bytes(program)
    write_file(result, written)
    answer = (
        f"wrote {result}: {bytes_text(len(written))}, {len(program.cores)} cores, machine {program.machine}"
    )
    output.answer({**described(program, result), "written": str(result)}, answer)
