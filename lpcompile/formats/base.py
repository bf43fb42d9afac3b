"""What a number format is, and how one is found by its name."""

import difflib
import re
from functools import lru_cache
from typing import Protocol, runtime_checkable

from lpcompile.errors import FormatError
from lpcompile.formats import codebook, integer, minifloat, posit
from lpcompile.formats.arrays import F32, F64, I8, U8, Real
from lpcompile.formats.nearest import Nearest

# Each family offers NAMES, parse(name), and WHAT: first letters of a name -> what such formats are.
FAMILIES = (integer, posit, minifloat, codebook)
_SCALED_POSIT = re.compile(r"posit4_?(sc,?[48])")


@runtime_checkable
class NumberFormat(Protocol):
    """A way to read codes of up to 8 bits as numbers; a frozen value with a canonical name."""

    @property
    def name(self) -> str:
        """Canonical name; `resolve(f.name) == f`."""

    @property
    def bits(self) -> int:
        """Payload bits an element, scales not counted."""

    @property
    def max(self) -> float:
        """Largest finite magnitude before scaling."""

    @property
    def codebook_bits(self) -> int:
        """Bits that a tensor must carry to define its table; 0 for a format with a fixed one."""

    @property
    def nearest(self) -> Nearest:
        """The rounding onto `grid()`."""

    def __hash__(self) -> int: ...

    def table(self) -> F64:
        """(2**bits,) value of each code, NaN where the code is reserved."""

    def grid(self) -> F64:
        """(K,) the finite values of `table()`, ascending, each once."""

    def encode(self, x: Real) -> U8:
        """Codes of the nearest grid points, ties to the even code, saturating; NaN is a FormatError."""

    def encode_f32(self, x: F32, scale: F32 | float | None = None) -> U8:
        """Codes nearest to the float32 quotient x / scale; scale > 0 is broadcastable to x."""

    def decode(self, codes: U8) -> F32:
        """Values of codes; a reserved code gives NaN."""

    def image(self) -> I8 | None:
        """(2**bits,) the int8 image indexed by code, 0 where reserved; None where there is none."""

    @property
    def image_scale(self) -> float:
        """`image()[code] * image_scale` is the real value of a code; 1 where there is no image."""

    @property
    def image_exact(self) -> bool:
        """Whether `image() * image_scale` equals `table()`."""


def format_names() -> list[str]:
    """Names of the formats with a fixed table, family by family."""
    return [name for family in FAMILIES for name in family.NAMES]


def description(name: str) -> str:
    """What a format is, in a few words; empty where its family does not say."""
    words = {start: text for family in FAMILIES for start, text in family.WHAT.items()}
    return next((text for start, text in words.items() if name.startswith(start)), "")


@lru_cache(maxsize=4096)
def resolve(name: str) -> NumberFormat:
    """The format of a name.

    Raises:
        FormatError: there is none; the hint lists near matches.
    """
    for family in FAMILIES:
        found: NumberFormat | None = family.parse(name)
        if found is not None:
            return found
    raise FormatError(f"no number format is called {name!r}", hint=_hint(name))


def _hint(name: str) -> str:
    if _SCALED_POSIT.fullmatch(name):
        return (
            "sc4 and sc8 are labels of the scale, not formats: use 'posit4', the scale takes the divisor in"
        )
    if name.startswith("lut4"):
        return (
            "a learned codebook is 'lut4:' and 32 hexadecimal digits: 16 int8 values in code order; "
            "as --weight-format 'lut4' alone has one learned for each layer"
        )
    near = difflib.get_close_matches(name, format_names(), n=3)
    if near:
        return "did you mean " + " or ".join(repr(n) for n in near) + "?"
    return "'lpcompile formats' lists them, for example 'int8', 'fixp4', 'posit4', 'float8_e4m3fn'"
