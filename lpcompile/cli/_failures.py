"""How a command fails: two lines or one JSON object on stderr, and an exit code."""

import contextlib
import errno
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import click

from lpcompile.cli._output import printable
from lpcompile.errors import InputError, LpcompileError, OutputError

INTERRUPTED = 130
PIPE_CLOSED = 141
TOO_LARGE = 3
LONGEST_LINE = 900  # names of a model may have any length
_NOT_WRITABLE = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EDQUOT}
_NO_PATH = {errno.ENAMETOOLONG, errno.ELOOP}
_INTERNAL_HINT = "this is a bug: run again with -vv for the traceback and report it"


@dataclass(frozen=True)
class Failures:
    """What the user asked for, known before the words are parsed, since parsing may be what fails."""

    json: bool = False
    traceback: bool = False
    color: bool | None = None

    @classmethod
    def asked_by(cls, words: Sequence[str]) -> "Failures":
        """Read the common options off the command line."""
        verbose = sum(len(w) - 1 for w in words if re.fullmatch("-v+", w)) + words.count("--verbose")
        plain = "--no-color" in words or bool(os.environ.get("NO_COLOR"))
        return cls("--json" in words, verbose >= 2, False if plain else None)

    def show(self, error: BaseException) -> int:
        """Say what went wrong and return the exit code."""
        if isinstance(error, BrokenPipeError):
            _discard_stdout()
            return PIPE_CLOSED
        message, hint, where, code = described(error)
        if self.traceback and not isinstance(error, (click.ClickException, KeyboardInterrupt)):
            import traceback

            traceback.print_exception(error)
        if self.json:
            click.echo(json.dumps({"error": message, "hint": hint, "where": where, "code": code}), err=True)
            return code
        located = message if where is None else f"{where}: {message}"
        self._line("error: ", "red", located)
        if hint:
            self._line("hint: ", "cyan", hint)
        return code

    def _line(self, label: str, color: str, text: str) -> None:
        shown = printable(text, kept="")
        shown = shown if len(shown) <= LONGEST_LINE else shown[:LONGEST_LINE] + "..."
        click.echo(click.style(label, fg=color, bold=True) + shown, err=True, color=self.color)


def _discard_stdout() -> None:
    """Whoever read our output has gone; the flush at exit must not fail again."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def described(error: BaseException) -> tuple[str, str | None, str | None, int]:
    """Message, hint, place and exit code of an exception."""
    if isinstance(error, LpcompileError):
        return error.message, error.hint, error.where, error.exit_code
    if isinstance(error, click.ClickException):
        return " ".join(error.format_message().split()), _usage_hint(error), None, error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", None, None, INTERRUPTED
    if isinstance(error, MemoryError):
        hint = "give fewer or smaller calibration samples, or use a machine with more memory"
        return "out of memory", hint, None, TOO_LARGE
    if isinstance(error, OSError) and error.errno in _NOT_WRITABLE:
        where = None if error.filename is None else str(error.filename)
        hint = "choose another place with --output, or make room there"
        return f"cannot be written: {error.strerror}", hint, where, OutputError.exit_code
    if isinstance(error, OSError) and error.errno in _NO_PATH:
        where = None if error.filename is None else str(error.filename)
        return f"no such path is possible: {error.strerror}", "give another path", where, InputError.exit_code
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return f"internal error in lpcompile: {text}", _INTERNAL_HINT, None, LpcompileError.exit_code


def _usage_hint(error: click.ClickException) -> str:
    own: str | None = getattr(error, "hint", None)
    if own is not None:
        return own
    ctx = getattr(error, "ctx", None)
    return f"see '{'lpcompile' if ctx is None else ctx.command_path} --help'"
