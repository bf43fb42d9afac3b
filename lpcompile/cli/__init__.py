"""The command line: `lpcompile MODEL --target TARGET`, and commands beside it.

Nothing heavy is imported here or at the top of a command's file, so `--help` costs little more than click.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lpcompile import __version__, process
from lpcompile.cli._failures import INTERRUPTED, Failures
from lpcompile.cli.analyze import analyze
from lpcompile.cli.asm import asm
from lpcompile.cli.catalog import formats, passes, recipes
from lpcompile.cli.compile import compile_command
from lpcompile.cli.completion import completion
from lpcompile.cli.diff import diff
from lpcompile.cli.disasm import disasm
from lpcompile.cli.factors import factors
from lpcompile.cli.inspect import inspect
from lpcompile.cli.machines import machines
from lpcompile.cli.report import report_command
from lpcompile.cli.run import run
from lpcompile.cli.sim import sim
from lpcompile.cli.tune import tune
from lpcompile.cli.verify import verify

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = ["main"]

PROGRAM = "lpcompile"
HELP = """Compile an ONNX model to low precision.

\b
lpcompile model.onnx --target ort --calibration-data samples.npz
lpcompile inspect model-ort

Options of the main form: lpcompile compile --help"""


class MainGroup(click.Group):
    """`lpcompile MODEL ...` means `lpcompile compile MODEL ...`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `compile` before words that are no command."""
        own = {opt for p in self.get_params(ctx) for opt in p.opts}
        if args and args[0] not in own and args[0] not in self.commands:
            word = args[0]
            if word.isidentifier() and not os.path.exists(word):  # noqa: PTH110 (may be too long for a path)
                raise click.UsageError(f"{word!r} is neither a file nor a command.{self._near(word)}", ctx)
            args = ["compile", *args]
        return super().parse_args(ctx, args)

    def _near(self, word: str) -> str:
        import difflib

        near = difflib.get_close_matches(word, self.commands, n=1)
        return f" Did you mean {near[0]!r}?" if near else ""

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem]":
        """Commands, and models for the main form; any file where no command begins so."""
        from click.shell_completion import CompletionItem

        found = super().shell_complete(ctx, incomplete)
        if not found:  # beside commands bash would take it as the only answer
            return [CompletionItem(incomplete, type="file")]
        models = Path().glob(f"{incomplete}*.onnx") if incomplete.isidentifier() else ()
        return [*found, *(CompletionItem(str(m)) for m in sorted(models))]

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what it raises ends as two lines on stderr and an exit code."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except (Exception, KeyboardInterrupt) as error:
            failures: Failures = ctx.ensure_object(Failures)
            raise click.exceptions.Exit(failures.show(error)) from error

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Entry point; usage errors are shown like every other error."""
        if not standalone_mode:
            return super().main(args, prog_name or PROGRAM, complete_var, standalone_mode, **extra)
        process.take()
        words = list(sys.argv[1:] if args is None else args)
        failures = Failures.asked_by(words)
        try:
            code = super().main(
                words, prog_name or PROGRAM, complete_var, standalone_mode=False, obj=failures, **extra
            )
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            code = error.exit_code
        except click.ClickException as error:
            code = failures.show(error)
        except click.Abort:
            code = INTERRUPTED
        sys.exit(code if isinstance(code, int) else 0)


@click.group(
    PROGRAM,
    cls=MainGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True},
    help=HELP,
    subcommand_metavar="MODEL --target TARGET | COMMAND ...",
)
@click.version_option(__version__, "-V", "--version", prog_name=PROGRAM)
def main() -> None:
    """Compile an ONNX model to low precision."""


_COMMANDS = (
    compile_command,
    tune,
    inspect,
    analyze,
    run,
    diff,
    verify,
    factors,
    report_command,
    disasm,
    asm,
    sim,
    formats,
    passes,
    recipes,
    machines,
    completion,
)
for _command in _COMMANDS:
    main.add_command(_command)
