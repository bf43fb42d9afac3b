"""Table entries of assembler text as records; the forms stand in `assembler`."""

import re
from collections.abc import Iterable, Mapping, Sequence

from lpcompile.backends.cim.assembly_syntax import number, numbers, unquoted
from lpcompile.backends.cim.program import (
    MAX_DIMS,
    NO_TABLE,
    Descriptor,
    Group,
    Interface,
    PlaneSet,
    Port,
    Requant,
    Space,
    Window,
)
from lpcompile.errors import ProgramError
from lpcompile.registry import near_match

_AXES_KEYS = ("stride", "dilation", "begin", "end", "pad")
_DESCRIPTOR_KEYS = ("levels", "kernel", *_AXES_KEYS, "bits", "zero", "rq")
_GROUP_KEYS = ("planes", "rows", "outputs", "offset", "macros", "pages")
_GROUP_FLAGS = ("mult", "clipped")
_ROWS, _MACROS, _PAGES = r"(\w+)\+(\w+)/(\w+)", r"(\d+)\+(\d+)x(\d+)", r"(\w+)\+(\w+)"
_REQUANT_KEYS = ("zero", "low", "high")


def need(words: Sequence[str], least: int, usage: str, most: int | None = None) -> None:
    """Refuse a line with too few or too many words.

    Raises:
        ProgramError: naming the form.
    """
    if not least <= len(words) <= (least if most is None else most):
        raise ProgramError(f"{len(words)} words where the form is another", hint=f"write {usage}")


def options(words: Iterable[str], keys: Sequence[str], flags: Sequence[str] = ()) -> dict[str, str]:
    """Words `key=value`, and flags by themselves, as a mapping.

    Raises:
        ProgramError: one is unknown, or stands there twice.
    """
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if key not in (keys if equals else flags):
            raise ProgramError(f"unknown '{word}'", hint=near_match(key, [*keys, *flags]))
        if key in found:
            raise ProgramError(f"'{key}' stands there twice", hint="keep one of them")
        found[key] = value
    return found


def descriptor(words: Sequence[str]) -> Descriptor:
    """The descriptor after `desc I`.

    Raises:
        ProgramError: it does not have that form.
    """
    need(
        words, 3, "desc I SPACE TYPE BASE COUNT:STRIDE... KEY=VALUE...", 3 + MAX_DIMS + len(_DESCRIPTOR_KEYS)
    )
    if words[0] not in set(Space):
        raise ProgramError(
            f"no space is called '{words[0]}'", hint=near_match(words[0], [s.value for s in Space])
        )
    axes = [word for word in words[3:] if "=" not in word]
    pairs = [word.partition(":") for word in axes]
    given = options([word for word in words[3:] if "=" in word], _DESCRIPTOR_KEYS)
    return Descriptor(
        space=Space(words[0]),
        dtype=words[1],
        base=number(words[2]),
        dims=tuple([(number(n), number(stride)) for n, _, stride in pairs]),
        levels=_list(given, "levels", ()),
        window=_window(given),
        bits=number(given.get("bits", "8")),
        zero=number(given.get("zero", "0")),
        requant=number(given.get("rq", str(NO_TABLE))),
    )


def _window(given: Mapping[str, str]) -> Window | None:
    if "kernel" not in given:
        stray = [key for key in _AXES_KEYS if key in given]
        if stray:
            raise ProgramError(f"'{stray[0]}=' without a window", hint="add kernel=, one number an axis")
        return None
    kernel = _list(given, "kernel", ())
    ones, zeros = (1,) * len(kernel), (0,) * len(kernel)
    return Window(
        kernel,
        _list(given, "stride", ones),
        _list(given, "dilation", ones),
        _list(given, "begin", zeros),
        _list(given, "end", zeros),
        number(given.get("pad", "0")),
    )


def _list(given: Mapping[str, str], key: str, usual: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(map(number, given[key].split(","))) if key in given else usual


def group(words: Sequence[str]) -> Group:
    """The group after `group I`.

    Raises:
        ProgramError: it does not have that form.
    """
    given = options(words, (*_GROUP_KEYS, "step"), _GROUP_FLAGS)
    missing = [key for key in _GROUP_KEYS if key not in given]
    if missing:
        raise ProgramError(
            f"'{missing[0]}=' is missing", hint="write " + " ".join(f"{k}=" for k in _GROUP_KEYS)
        )
    row0, rows, block_rows = _parts(given, "rows", _ROWS, "ROW0+ROWS/BLOCK_ROWS")
    first_macro, across, down = _parts(given, "macros", _MACROS, "FIRST+ACROSSxDOWN")
    page0, pages = _parts(given, "pages", _PAGES, "PAGE0+PAGES")
    return Group(
        row0=row0,
        rows=rows,
        outputs=number(given["outputs"]),
        planes=number(given["planes"]),
        offset=number(given["offset"]),
        first_macro=first_macro,
        across=across,
        down=down,
        pages=pages,
        page0=page0,
        block_rows=block_rows,
        multipliers="mult" in given,
        lossless="clipped" not in given,
        step=_list(given, "step", ()),
    )


def _parts(given: Mapping[str, str], key: str, form: str, usage: str) -> tuple[int, ...]:
    match = re.fullmatch(form, given[key])
    if match is None:
        raise ProgramError(f"cannot read '{key}={given[key]}'", hint=f"write {key}={usage}")
    return tuple(map(number, match.groups()))


def plane_set(words: Sequence[str]) -> PlaneSet:
    """The plane set after `planes I`.

    Raises:
        ProgramError: it does not have that form.
    """
    need(words[:1], 1, "planes I NAME COEFFICIENTS...")
    return PlaneSet(unquoted(words[0]), numbers(words[1:]))


def lut(words: Sequence[str]) -> bytes:
    """The table after `lut I`.

    Raises:
        ProgramError: a word is no hexadecimal number of whole bytes.
    """
    try:
        return bytes.fromhex("".join(words))
    except ValueError as error:
        hint = "write 256 bytes as pairs of hexadecimal digits"
        raise ProgramError(f"no table: {error}", hint=hint) from error


def requant(words: Sequence[str], lists: Mapping[str, tuple[int, ...]]) -> Requant:
    """The requant entry of a line after `requant I`, and of the lists m, b, k below it.

    Raises:
        ProgramError: a key or a list is missing.
    """
    given = options(words, _REQUANT_KEYS)
    missing = [f"{k}=" for k in _REQUANT_KEYS if k not in given] + [k for k in "mbk" if k not in lists]
    if missing:
        hint = "write requant I zero= low= high=, then a line each of m, b and k"
        raise ProgramError(f"'{missing[0]}' is missing", hint=hint)
    zero, low, high = (number(given[key]) for key in _REQUANT_KEYS)
    return Requant(lists["m"], lists["b"], lists["k"], zero, low, high)


def interface(words: Sequence[str]) -> Interface:
    """The tensor after `input` or `output`.

    Raises:
        ProgramError: it does not have that form.
    """
    need(words[:2], 2, 'input NAME TYPE AXES..., an axis a number, "name" or ?')
    axes = tuple([None if w == "?" else unquoted(w) if '"' in w else number(w) for w in words[2:]])
    return Interface(unquoted(words[0]), unquoted(words[1]), axes)


def port(words: Sequence[str]) -> Port:
    """The port after `in` or `out` of a device stage.

    Raises:
        ProgramError: it does not have that form.
    """
    need(words[:3], 3, "in NAME TYPE DESCRIPTOR AXES... [batch], the descriptor as d7")
    if not words[2].startswith("d"):
        raise ProgramError(f"'{words[2]}' is no descriptor", hint="write d and its number")
    batch = words[-1] == "batch"
    axes = words[3:-1] if batch else words[3:]
    return Port(unquoted(words[0]), words[1], tuple(map(number, axes)), number(words[2][1:]), batch)
