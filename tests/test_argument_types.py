"""Arguments of another kind than their annotations: named before any work, with what they take and an example."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lpcompile
from lpcompile.argument_types import fits, words
from lpcompile.errors import InputError, LpcompileError
from lpcompile.target import Options
from tests.support import parse_model

MODEL = parse_model("""m (float[N,16] x) => (float[N,4] y) <float[16,8] w, float[8,4] v> {
    h = MatMul (x, w)  r = Relu (h)  y = MatMul (r, v) }""")
SAMPLES = {"x": np.random.default_rng(0).standard_normal((8, 16)).astype(np.float32)}
ODD: list[Any] = [
    [], ["a"], ["a", 1], ("x",), "abc", b"x", 3, -1, 2.5, float("nan"), True, {"a": 1}, {"a": "b"}, {1: 2}, object(),
    np.zeros(3), None,
]  # fmt: skip


@pytest.mark.thorough
@pytest.mark.parametrize("name", [f.name for f in fields(Options)])
def test_no_option_ends_in_an_error_of_python(name: str) -> None:
    for value in ODD:
        with suppress(LpcompileError):
            lpcompile.compile(MODEL, calibration=SAMPLES, **{name: value})


@pytest.mark.parametrize("name", ["model", "target", "recipe", "output", "options", "progress"])
def test_no_argument_does(name: str) -> None:
    for value in (v for v in ODD if not isinstance(v, str) or name != "output"):
        given: dict[str, Any] = {"model": MODEL, "dry_run": True, name: value}
        with suppress(LpcompileError):
            lpcompile.compile(given.pop("model"), **given)


@pytest.mark.parametrize(
    ("call", "message", "hint"),
    [
        (
            lambda: lpcompile.compile(MODEL, budget=["avg-bits=4.5"]),
            "'budget' is a mapping of names to numbers, not ['avg-bits=4.5']",
            "for example budget={'avg-bits': 4.5}",
        ),
        (
            lambda: lpcompile.compile(MODEL, keep_float="node"),
            "'keep_float' is a list of names, not 'node'",
            "for example keep_float=['/head/Gemm']",
        ),
        (
            lambda: lpcompile.compile(MODEL, budgets={"avg-bits": 4}),
            "compile() has no argument 'budgets'",
            "did you mean 'budget'?",
        ),
        (lambda: lpcompile.compile(MODEL, seed="1"), "'seed' is a whole number, not '1'", "for example seed=1"),
        (lambda: lpcompile.compile(ODD[6]), "'model' is a text or a path", "for example model='model.onnx'"),
        (
            lambda: lpcompile.analyze(MODEL, SAMPLES, methods="fisher"),
            "'methods' is a list of names, not 'fisher'",
            "for example methods=['fisher', 'measured']",
        ),
        (
            lambda: lpcompile.analyze(MODEL, SAMPLES, sample=3),
            "analyze() has no argument 'sample'",
            "did you mean 'samples'?",
        ),
        (
            lambda: lpcompile.cost(MODEL, shift_coef=0.5),
            "cost() has no argument 'shift_coef'",
            "shift_coeff",
        ),
        (
            lambda: lpcompile.passes.quantize_activations(MODEL, calibration=SAMPLES, seed=ODD[4]),
            "'seed' is a whole number, not 'abc'",
            "for example seed=1",
        ),
        (lambda: lpcompile.compile(MODEL, seed=-1), "'seed' is at least 0, not -1", "0 is"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_an_example(call: Callable[[], Any], message: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert caught.value.message.startswith(message)
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("value", "hint", "does"),
    [
        (np.int64(3), int, True),
        (np.float32(3), float, True),
        (3, float, True),
        (True, int, False),
        (np.True_, bool, True),
        (1, bool, False),
        ("a", Sequence[str], False),
        (("a", "b"), Sequence[str], True),
        ([1, "b"], Sequence[str], False),
        ({"x": [1, 2]}, Mapping[str, tuple[int, ...]], True),
        ({"x": [1.5]}, Mapping[str, tuple[int, ...]], False),
        ("folder", Path | None, True),
        (None, Path | None, True),
        (Path("a"), str | PathLike[str], True),
        (print, Callable[[Any], Any] | None, True),
        (3, Callable[[Any], Any] | None, False),
        (3, Any, True),
    ],
)
def test_values_fit_their_annotations(value: Any, hint: Any, does: bool) -> None:
    assert fits(value, hint) is does
    assert words(hint)


def test_numbers_of_retraining_are_given_as_they_are() -> None:
    tuning = {"epochs": 1, "learning_rate": 0.25}
    made = lpcompile.compile(MODEL, calibration=SAMPLES, recipe="mixed-posit-tuned", tuning=tuning)
    assert "--tune epochs=1" in made.report["created_with"]["command"]
