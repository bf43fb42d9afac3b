"""A change put into functions of running Python, so that tests see it without a new start.

What a module does while it is imported is not done again, so a change of that needs a process of its own.
"""

import ast
import functools
import gc
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType

_CO_OPTIMIZED = 1  # of functions; module and class bodies have it not


def swaps(path: Path, changed: ast.Module) -> list[tuple[FunctionType, CodeType]] | None:
    """Living functions of an imported module with their new code.

    Args:
        path: of the module.
        changed: its tree, changed within functions.

    Returns:
        None where what runs at import differs, or where a function that differs lives nowhere.
    """
    before = compile(path.read_text("utf-8"), str(path), "exec")
    after = compile(ast.fix_missing_locations(changed), str(path), "exec")
    if _at_import(before) != _at_import(after):
        return None
    differing = [(a, b) for a, b in zip(_functions(before), _functions(after), strict=True) if a != b]
    living: dict[tuple[str, int], list[FunctionType]] = {}
    for found in gc.get_objects():
        if isinstance(found, FunctionType) and Path(found.__code__.co_filename).resolve() == path:
            living.setdefault(_place(found.__code__), []).append(found)
    if not differing or any(_place(a) not in living for a, _ in differing):
        return None
    return [(function, b) for a, b in differing for function in living[_place(a)]]


def swap(found: list[tuple[FunctionType, CodeType]]) -> None:
    """Put the new code in; what caches hold may be made by the old one, so it is forgotten."""
    for function, code in found:
        function.__code__ = code
    for kept in gc.get_objects():
        if isinstance(kept, functools._lru_cache_wrapper):
            kept.cache_clear()


def _place(code: CodeType) -> tuple[str, int]:
    return code.co_qualname, code.co_firstlineno


def _bodies(code: CodeType) -> Iterator[CodeType]:
    """A module's body and those of its classes."""
    yield code
    for inner in _inner(code):
        if not inner.co_flags & _CO_OPTIMIZED:
            yield from _bodies(inner)


def _inner(code: CodeType) -> list[CodeType]:
    return [c for c in code.co_consts if isinstance(c, CodeType)]


def _functions(module: CodeType) -> list[CodeType]:
    """Functions and methods; what stands within one is part of it."""
    return [f for body in _bodies(module) for f in _inner(body) if _is_named(f)]


def _is_named(code: CodeType) -> bool:
    return bool(code.co_flags & _CO_OPTIMIZED) and not code.co_name.startswith("<")


def _at_import(module: CodeType) -> list[object]:
    """All that runs at import: bodies, and comprehensions and lambdas that stand in them."""
    found: list[object] = []
    for body in _bodies(module):
        values = [repr(c) for c in body.co_consts if not isinstance(c, CodeType)]
        unnamed = [c for c in _inner(body) if c.co_flags & _CO_OPTIMIZED and not _is_named(c)]
        found += [body.co_code, values, unnamed]
    return found
