"""Arguments of functions that users call, against their annotations: a wrong one is named before any work."""

import functools
import inspect
import types
import typing
from collections import abc
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np

from lpcompile.errors import InputError
from lpcompile.registry import near_match

P = ParamSpec("P")
R = TypeVar("R")
_WORDS: Mapping[Any, str] = {
    str: "a text",
    bytes: "bytes",
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    Path: "a path",
    type(None): "None",
}


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: refuse arguments that are of another kind than their annotations say.

    Raises:
        InputError: by the function; names the argument, what it takes and what it got.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def refusing(*given: P.args, **named: P.kwargs) -> R:
        known = signature.parameters
        rest = next((n for n, p in known.items() if p.kind is p.VAR_KEYWORD), None)
        for word in named if rest is None else ():
            if word not in known:
                raise _unknown(function.__name__, word, list(known))
        bound = signature.bind(*given, **named).arguments
        check(_hints(function), {n: v for n, v in bound.items() if n != rest})
        return function(*given, **named)

    return refusing


def check_fields(cls: type, given: Mapping[str, Any], function: str) -> None:
    """Refuse names that are no fields of a dataclass, and values of another kind than theirs.

    Raises:
        InputError: names the field.
    """
    hints = _hints(cls)
    for word in given:
        if word not in hints:
            raise _unknown(function, word, list(hints))
    check(hints, given)


def check(hints: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse values of another kind than their annotations say.

    Raises:
        InputError: names the first one.
    """
    for name, value in given.items():
        if not fits(value, hints.get(name, Any)):
            raise InputError(
                f"'{name}' is {words(hints[name])}, not {_shown(value)}",
                hint=f"for example {name}={_example(name, hints[name])}",
            )


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the kind of an annotation; what is not understood fits."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, h) for h in inner)
    if origin is abc.Callable or hint is Callable:
        return callable(value)
    if origin is abc.Mapping or origin is dict:
        pairs = value.items() if isinstance(value, Mapping) else None
        return pairs is not None and all(fits(k, inner[0]) and fits(v, inner[1]) for k, v in pairs)
    if origin in (abc.Sequence, tuple, list):
        return isinstance(value, (list, tuple)) and all(fits(v, inner[0]) for v in value)
    if hint is bool:
        return isinstance(value, (bool, np.bool_))
    if hint is int:
        return isinstance(value, Integral) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, Real) and not isinstance(value, bool)
    if hint is Path or origin is PathLike:
        return isinstance(value, (str, PathLike))
    if hint is None:
        return value is None
    plain = isinstance(hint, type) and not getattr(hint, "_is_protocol", False)
    return isinstance(value, hint) if plain else True


def words(hint: Any) -> str:
    """An annotation in words."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        kinds = dict.fromkeys(words(h) for h in inner)
        return " or ".join(kinds)
    if origin is abc.Mapping or origin is dict:
        return f"a mapping of {_plural(inner[0])} to {_plural(inner[1])}"
    if origin in (abc.Sequence, tuple, list):
        return f"a list of {_plural(inner[0])}"
    if origin is abc.Callable or hint is Callable:
        return "a function"
    if origin is PathLike:
        return "a path"
    return _WORDS.get(hint, f"a {getattr(hint, '__name__', hint)}")


def _plural(hint: Any) -> str:
    several = {str: "names", int: "whole numbers", float: "numbers", Any: "values"}
    return several.get(hint) or words(hint).removeprefix("a ").replace("list", "lists")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"a {type(value).__name__}"


_EXAMPLES: Mapping[str, str] = {
    "budget": "{'avg-bits': 4.5}",
    "input_shapes": "{'image': (1, 3, 224, 224)}",
    "input_values": "{'training': 0}",
    "tuning": "{'epochs': 3}",
    "layer_formats": "['conv1.*=int8']",
    "keep_float": "['/head/Gemm']",
    "host": "['/head/Gemm']",
    "print_after": "['fold-batchnorm']",
    "methods": "['fisher', 'measured']",
    "model": "'model.onnx'",
    "target": "'ort'",
    "recipe": "'int8'",
    "options": "lpcompile.Options(seed=1)",
    "metric": "'package.module:function'",
}


def _example(name: str, hint: Any) -> str:
    if name in _EXAMPLES:
        return _EXAMPLES[name]
    by_kind = ((bool, "True"), (int, "1"), (float, "0.5"), (str, "'text'"), (Path, "'folder'"))
    inner = typing.get_args(hint) or (hint,)
    return next((text for kind, text in by_kind if kind in inner), "print")


def _unknown(function: str, word: str, known: Sequence[str]) -> InputError:
    return InputError(f"{function}() has no argument '{word}'", hint=near_match(word, list(known)))


@functools.cache
def _hints(of: Any) -> Mapping[str, Any]:
    return typing.get_type_hints(of)
