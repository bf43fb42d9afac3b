"""Formats that the user gives to layers by name: "REGEX=FORMAT" or "REGEX=FORMAT/GRANULARITY"."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lpcompile.errors import PipelineError
from lpcompile.formats.planned import planned_name
from lpcompile.plan import WeightPlan

GRANULARITY = re.compile(r"tensor|channel|group(?:[2-9]|[1-9]\d{1,6})", re.ASCII)
FLOAT = "float32"
_HINT = "write it as 'REGEX=FORMAT' or 'REGEX=FORMAT/GRANULARITY', for example 'head.*=int8' or 'conv1=nf4/group16'"


@dataclass(frozen=True, slots=True)
class Override:
    """One rule.

    Attributes:
        pattern: matched against whole layer names.
        format: canonical name, or "float32" for a layer that keeps its weights.
        granularity: "channel", "group32", ...; "" leaves it to the assignment.
    """

    pattern: re.Pattern[str]
    format: str
    granularity: str

    def allows(self, weight: WeightPlan) -> bool:
        """Whether a candidate is of this kind."""
        return weight.format == self.format and self.granularity in ("", weight.granularity)

    @property
    def text(self) -> str:
        """As the user wrote it, for reasons."""
        return f"{self.pattern.pattern}={self.format}" + (f"/{self.granularity}" if self.granularity else "")


def parse_overrides(texts: Iterable[str]) -> list[Override]:
    """Rules in the order they were given.

    Raises:
        PipelineError: not of that form, or no regular expression.
        FormatError: there is no such format.
    """
    found = []
    for text in texts:
        pattern, equals, wanted = text.rpartition("=")
        name, _, granularity = wanted.partition("/")
        if not equals or not pattern or not name:
            raise PipelineError(f"cannot read the layer format '{text}'", hint=_HINT)
        if granularity and not GRANULARITY.fullmatch(granularity):
            raise PipelineError(f"no granularity '{granularity}' in '{text}'", hint=_HINT)
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            raise PipelineError(f"'{pattern}' is no regular expression: {error}", hint=_HINT) from error
        fmt = FLOAT if name in (FLOAT, "float") else planned_name(name)
        found.append(Override(compiled, fmt, granularity))
    return found


def override_of(name: str, overrides: Sequence[Override]) -> Override | None:
    """The first rule that matches a whole layer name."""
    return next((o for o in overrides if o.pattern.fullmatch(name)), None)


def unmatched(overrides: Sequence[Override], names: Iterable[str]) -> list[str]:
    """Patterns that match no layer."""
    known = list(names)
    return [o.pattern.pattern for o in overrides if not any(o.pattern.fullmatch(n) for n in known)]
