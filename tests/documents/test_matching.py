"""Recorded outputs are exact where they can be."""

import pytest

from tests.documents.matching import difference, line_agrees, other_outline


def test_the_same_text_agrees_whatever_its_blanks() -> None:
    assert difference("a  b\nc\n", "a b\n c\n") is None


@pytest.mark.parametrize(
    ("wanted", "line", "agrees"),
    [
        ("14 layers", "14 layers", True),
        ("14 layers", "15 layers", False),
        ("35.0 dB", "36.1 dB", True),
        ("35.0 dB", "38.0 dB", False),
        ("1.000", "0.900", False),
        ("+0.00", "+0.01", True),
        ("1,024.5 pJ", "1,030.0 pJ", True),
        ("4.29e+09", "4.3e+09", True),
        ("4.29e+09", "9.29e+09", False),
        ("took ... s", "took 12.25 s", True),
        ("-0.5", "0.5", False),
        ("-3.96 +- 1.00", "-3.60 +- 0.70", True),
        ("-3.96 +- 1.00", "-3.40 +- 0.70", True),
        ("-3.96 +- 0.40", "-3.40 +- 0.40", False),
        ("-3.96 +- 1.00", "-5.00 +- 1.00", False),
        ("20.0 +- 1.5 dB", "21.4 +- 1.1 dB", True),
        ("20.0 +- 0.5 dB", "21.4 +- 0.5 dB", False),
        ("+1.72 +- 0.81", "+1.72 +- 1.40", False),
    ],
)
def test_lines(wanted: str, line: str, agrees: bool) -> None:
    assert line_agrees(wanted, line) is agrees


def test_dots_on_a_line_stand_for_lines() -> None:
    assert difference("a\n...\nd", "a\nb\nc\nd") is None
    assert difference("a\n...\nd", "a\nd") is None
    assert difference("a\n...\ne", "a\nb\nd") == "recorded: e"


def test_the_first_line_that_differs_is_named() -> None:
    assert difference("a\nb\nc", "a\nx\nc") == "recorded: b"
    assert difference("a", "a\nb") == "more was printed than is recorded"


SUMMARY = """m.onnx for ort
layers    3: 2 int8, 1 nf4
gains     of each step
          step  dB
          a     1.5
layer  op
/a/b   Conv
/c     Conv
"""


@pytest.mark.parametrize(
    ("printed", "agrees"),
    [
        (SUMMARY, True),
        (
            SUMMARY.replace("2 int8, 1 nf4", "3 lut4").replace("1.5", "99.5").replace("/c     Conv\n", ""),
            True,
        ),
        (SUMMARY.replace("          a     1.5\n", "          a     1.5\n          b     2\n"), True),
        (SUMMARY.replace("gains     of each step\n", ""), False),
        (SUMMARY.replace("layers", "error:"), False),
        (SUMMARY + "warning   something\n", False),
        ("", False),
    ],
)
def test_the_outline_is_that_of_lines_at_the_margin(printed: str, agrees: bool) -> None:
    assert (other_outline(SUMMARY, printed) is None) == agrees
    assert other_outline("...\nlayer  op\n...", printed) is None or not printed
