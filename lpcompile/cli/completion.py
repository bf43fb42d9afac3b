"""`lpcompile completion SHELL`: the words that teach a shell to complete ours."""

import click

from lpcompile.cli._options import common_options
from lpcompile.cli._output import Output

SHELLS = ("bash", "zsh", "fish")
PROGRAM, VARIABLE = "lpcompile", "_LPCOMPILE_COMPLETE"
INSTALL = {
    "bash": 'eval "$(lpcompile completion bash)" in ~/.bashrc',
    "zsh": 'eval "$(lpcompile completion zsh)" in ~/.zshrc',
    "fish": "lpcompile completion fish > ~/.config/fish/completions/lpcompile.fish",
}


HELP = """Print the completion script of SHELL.

\b
bash:  eval "$(lpcompile completion bash)"    in ~/.bashrc
zsh:   eval "$(lpcompile completion zsh)"     in ~/.zshrc
fish:  lpcompile completion fish > ~/.config/fish/completions/lpcompile.fish"""


@click.command(help=HELP, short_help="A script that completes commands and options in a shell.")
@click.argument("shell", type=click.Choice(SHELLS))
@common_options
def completion(output: Output, shell: str) -> None:
    """Print the completion script of a shell."""
    from click.shell_completion import ShellComplete, get_completion_class

    maker: type[ShellComplete] | None = get_completion_class(shell)
    assert maker is not None, "click knows these shells"
    root = click.get_current_context().find_root().command
    # click's own source() asks bash for its version, which need not be installed here
    made = maker(root, {}, PROGRAM, VARIABLE)
    script = made.source_template % made.source_vars()
    output.answer({"shell": shell, "install": INSTALL[shell], "script": script}, script.rstrip())
