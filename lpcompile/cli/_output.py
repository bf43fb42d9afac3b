"""What a command prints: the answer on stdout, everything else on stderr."""

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import click

SLOW_SECONDS = 1.0  # loops that pass sooner show no bar


@dataclass
class Output:
    """Where and how a command speaks.

    Attributes:
        json: one JSON document instead of text.
        quiet: errors only, and answers that were asked for by themselves.
        color: None leaves it to the terminal.
    """

    json: bool = False
    quiet: bool = False
    verbose: int = 0
    color: bool | None = None

    def answer(self, document: Mapping[str, Any], text: str) -> None:
        """Print the answer in the form asked for."""
        shown = json.dumps(finite(document), indent=2, ensure_ascii=False) if self.json else text
        click.echo(printable(shown), color=self.color)

    def note(self, text: str) -> None:
        """Say something beside the answer."""
        if not self.quiet:
            click.echo(printable(text), err=True, color=self.color)

    def progress(self) -> "Progress":
        """A progress callback, silent unless stderr is a terminal."""
        return Progress(shown=sys.stderr.isatty() and not self.quiet)


def printable(text: str, kept: str = "\n\t") -> str:
    """The text with characters that would steer a terminal, or that no terminal can show, written as escapes.

    Names come from models and file systems: a name may hold an escape sequence, or bytes that are no text.

    Args:
        text: it.
        kept: what stays although it is not printable.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in text)


def finite(value: Any) -> Any:
    """The value with what JSON cannot hold (NaN, infinity) as null."""
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return value


@dataclass
class Progress:
    """Called as progress(what, done, total); draws a bar once a loop turns out to be slow."""

    shown: bool
    _what: str = ""
    _since: float = 0.0
    _done: int = 0
    _bar: Any = field(default=None, repr=False)

    def __call__(self, what: str, done: int, total: int) -> None:
        """Take note of `done` of `total`."""
        if not self.shown:
            return
        if what != self._what or done < self._done:
            self.close()
            self._what, self._since, self._done = what, time.monotonic(), 0
        if self._bar is None and done < total and time.monotonic() - self._since > SLOW_SECONDS:
            self._bar = click.progressbar(length=total, label=what, file=sys.stderr)
        if self._bar is not None:
            self._bar.update(done - self._bar.pos)
        self._done = done
        if done >= total:
            self.close()

    def close(self) -> None:
        """End the line of the bar."""
        if self._bar is not None:
            self._bar.render_finish()
            self._bar = None
