"""Every error a caller can meet, and the exit code it ends with.

LpcompileError                    exit 1   the root; raised itself for nothing
├── InputError                    exit 3   an input is at fault
│   ├── ModelError                         not a model, truncated, contradicts itself
│   │   ├── UnsupportedOpError             an operator that nobody can run
│   │   └── GradientError                  an operator without a gradient, or a gradient that is not finite
│   ├── CalibrationError                   names, shapes, dtypes, NaN, no samples
│   ├── MetricError                        the user's metric: cannot be imported, fails, no number
│   ├── RecipeError                        not TOML, unknown key, unknown pass
│   ├── DecisionsError                     not TOML, unknown key, a layer that is not there
│   ├── ProgramError                       a compiled program is damaged
│   └── FormatError                        no such number format, or a value it cannot hold
├── TargetError                   exit 5   the target cannot express it
│   ├── MachineDescriptionError
│   ├── CapacityError
│   └── EncodingError
├── BudgetError                   exit 4   an asked bound was not met
├── PipelineError                 exit 2   passes in an impossible order
│   └── PassOptionError
├── OutputError                   exit 6   not writable, disk full, exists already
└── PassError                     exit 1   a pass broke its promise: our bug
"""

from collections.abc import Mapping
from typing import ClassVar


class LpcompileError(Exception):
    """Root of every error of this package.

    Args:
        message: one line, what went wrong.
        hint: one line, how to mend it.
        where: the file, node or option at fault.
    """

    exit_code: ClassVar[int] = 1
    usual_hint: ClassVar[str | None] = None  # where the place that raises knows no better

    def __init__(self, message: str, *, hint: str | None = None, where: str | None = None) -> None:
        super().__init__(message)
        self.message = " ".join(str(message).split())
        hint = hint or self.usual_hint
        self.hint = None if hint is None else " ".join(hint.split())
        self.where = where

    def __str__(self) -> str:
        return self.message if self.where is None else f"{self.where}: {self.message}"


class InputError(LpcompileError):
    """An input is at fault."""

    exit_code = 3


class ModelError(InputError):
    """The model is not one, is damaged, or contradicts itself."""


class UnsupportedOpError(ModelError):
    """The model holds an operator that cannot be run."""


class GradientError(ModelError):
    """An operator has no gradient, or a gradient is not finite."""


class CalibrationError(InputError):
    """The calibration samples do not fit the model, or there are none."""


class MetricError(InputError):
    """The user's metric cannot be imported, fails, or gives no number."""


class RecipeError(InputError):
    """The recipe cannot be read or names what does not exist."""


class DecisionsError(InputError):
    """The decisions file cannot be read or does not fit the model."""


class ProgramError(InputError):
    """A compiled program is damaged."""

    usual_hint = "the program is damaged or was edited: compile the model again"


class FormatError(InputError):
    """There is no such number format, or a value that it cannot hold."""


class TargetError(LpcompileError):
    """The target cannot express what is asked."""

    exit_code = 5


class MachineDescriptionError(TargetError):
    """A machine description is wrong."""


class CapacityError(TargetError):
    """The machine is too small."""


class EncodingError(TargetError):
    """An instruction does not fit its encoding."""


class BudgetError(LpcompileError):
    """A bound that was asked for was not met.

    Args:
        message: one line, which bound.
        hint: one line, how to mend it.
        where: the file, node or option at fault.
        nearest: by name of the bounded quantity, the values of the nearest point that can be reached.
    """

    exit_code = 4

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        where: str | None = None,
        nearest: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(message, hint=hint, where=where)
        self.nearest = dict(nearest or {})


class PipelineError(LpcompileError):
    """The passes stand in an impossible order."""

    exit_code = 2


class PassOptionError(PipelineError):
    """A pass has no such option, or the value is of the wrong kind."""


class OutputError(LpcompileError):
    """The output cannot be written."""

    exit_code = 6


class PassError(LpcompileError):
    """A pass broke its promise: a bug of this package."""
