"""What a command prints: the answer on stdout, everything else on stderr."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from lpcompile.progress import Step

SLOW_SECONDS = 2.0  # loops that pass sooner show no bar
SURE_SECONDS = 0.2  # of a loop, before its time left is believed


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
    """Called with each step; draws a bar with the time left for a loop that will take more than SLOW_SECONDS."""

    shown: bool
    _loop: tuple[str, str] = ("", "")
    _done: int = 0
    _bar: Any = field(default=None, repr=False)

    def __call__(self, step: "Step") -> None:
        """Take note of a step."""
        if not self.shown:
            return
        loop = (step.pass_name, step.what)
        if loop != self._loop or step.done < self._done:
            self.close()
            self._loop, self._done = loop, 0
        if self._bar is None and step.done < step.total and _is_slow(step):
            label = step.what if step.pass_name == "" else f"{step.pass_name}: {step.what}"
            self._bar = click.progressbar(length=step.total, label=label, file=sys.stderr)
        if self._bar is not None:
            self._bar.update(step.done - self._bar.pos)
        self._done = step.done
        if step.done >= step.total:
            self.close()

    def close(self) -> None:
        """End the line of the bar."""
        if self._bar is not None:
            self._bar.render_finish()
            self._bar = None


def _is_slow(step: "Step") -> bool:
    if step.seconds > SLOW_SECONDS:
        return True
    left = step.seconds_left
    return left is not None and step.seconds > SURE_SECONDS and step.seconds + left > SLOW_SECONDS
