"""Commands and their options, as `--help` has them."""

import click

from lpcompile.cli import main
from tests.documents.generated.markdown import NOTE, joined, table

COMMON = {"--verbose", "--quiet", "--json", "--no-color", "--help"}


def page() -> str:
    """docs/reference/options.md."""
    commands = {name: main.commands[name] for name in main.commands}
    rows = [(f"[`lpcompile {n}`](#{n})", c.get_short_help_str(200)) for n, c in commands.items()]
    return joined(
        "# Commands and options",
        NOTE,
        "`lpcompile MODEL ...` is short for `lpcompile compile MODEL ...`. Every command has `-v` (tell of each pass; `-vv` of each change, with "
        "tracebacks), `-q` (errors only), `--json` (one document on stdout, errors as JSON on stderr) and `--no-color`.",
        table(("command", "does"), rows),
        *(_section(name, command) for name, command in commands.items()),
    )


def _section(name: str, command: click.Command) -> str:
    with click.Context(command, info_name=f"lpcompile {name}", show_default=True) as ctx:
        own = [p for p in command.get_params(ctx) if isinstance(p, click.Option) and not COMMON & set(p.opts)]
        records = [p.get_help_record(ctx) for p in own]
        pieces = command.collect_usage_pieces(ctx)
    help_text = " ".join((command.help or "").replace("\b", "").split())
    options = [(f"`{head}`", " ".join(what.split())) for head, what in filter(None, records)]
    return joined(
        f"## {name}",
        f"`lpcompile {' '.join([name, *pieces])}`",
        help_text,
        *([table(("option", "meaning"), options)] if options else []),
    )
