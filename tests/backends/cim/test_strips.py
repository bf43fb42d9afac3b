"""Strips: every output position once, and bands that give each of them its own window."""

from collections import Counter
from itertools import product
from math import prod

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lpcompile.backends.cim.program import Window
from lpcompile.backends.cim.strips import band, input_extent, strip_sizes, strips


@given(st.lists(st.integers(1, 12), min_size=1, max_size=4), st.integers(1, 400), st.integers(1, 9))
def test_strips_cover_every_position_once_and_fit(counts: list[int], capacity: int, least: int) -> None:
    sizes = strip_sizes(counts, lambda s: 3 * prod(s), capacity, least)
    if sizes is None:
        assert capacity < 3
        return
    assert 3 * prod(sizes) <= capacity
    found = list(strips(counts, sizes))
    seen = Counter(p for strip in found for p in product(*(range(a, b) for a, b in strip)))
    assert set(seen.values()) == {1}
    assert len(seen) == prod(counts)
    assert found == sorted(found)
    assert all(b - a <= s for strip in found for (a, b), s in zip(strip, sizes, strict=True))
    assert len(found) >= min(least, prod(counts)) or len(found) >= min(least, 2)


def test_leading_axes_are_cut_first() -> None:
    assert strip_sizes((4, 8, 8), prod, 64, 1) == (1, 8, 8)
    assert strip_sizes((1, 8, 8), prod, 1 << 20, 4) == (1, 2, 8)
    assert strip_sizes((1, 8, 8), lambda s: prod(s) + 100, 50, 1) is None


@st.composite
def windowed(draw: st.DrawFn) -> tuple[Window, list[int], list[int]]:
    """A window, the counts of its input, those of its output."""
    rank = draw(st.integers(1, 2))

    def few(low: int, high: int) -> st.SearchStrategy[list[int]]:
        return st.lists(st.integers(low, high), min_size=rank, max_size=rank)

    counts, kernel = draw(few(1, 7)), draw(few(1, 3))
    strides, dilations = draw(few(1, 3)), draw(few(1, 2))
    begin, end = draw(few(0, 3)), draw(few(0, 3))
    for i in range(rank):  # no position in the padding alone
        reach = dilations[i] * (kernel[i] - 1)
        begin[i] = min(begin[i], reach)
        end[i] = max(min(end[i], reach), reach + 1 - counts[i] - begin[i])
    window = Window(tuple(kernel), tuple(strides), tuple(dilations), tuple(begin), tuple(end), 99)
    return window, counts, list(window.out_counts(tuple(counts)))


def gathered(window: Window, x: np.ndarray) -> np.ndarray:
    """The numbers of every window by numpy: (positions..., taps...)."""
    padded = np.pad(x, list(zip(window.begin, window.end, strict=True)), constant_values=window.pad_value)
    out = window.out_counts(x.shape)
    found = np.empty((*out, *window.kernel), x.dtype)
    for p in np.ndindex(*out):
        for t in np.ndindex(*window.kernel):
            at = tuple(
                i * s + j * d for i, s, j, d in zip(p, window.strides, t, window.dilations, strict=True)
            )
            found[(*p, *t)] = padded[at]
    return found


@given(windowed(), st.data())
def test_a_band_holds_the_numbers_of_its_strip(
    case: tuple[Window, list[int], list[int]], data: st.DataObject
) -> None:
    window, counts, out = case
    strip = []
    for n in out:
        first = data.draw(st.integers(0, n - 1))
        strip.append((first, data.draw(st.integers(first + 1, n))))
    x = np.arange(prod(counts)).reshape(counts)
    ranges, inner = band(window, counts, strip)
    assert all(0 <= a < b <= n for (a, b), n in zip(ranges, counts, strict=True))
    extent = input_extent(window, counts, [b - a for a, b in strip])
    assert all(b - a <= e for (a, b), e in zip(ranges, extent, strict=True))
    assert min(inner.begin + inner.end) >= 0
    part = gathered(inner, x[tuple(slice(a, b) for a, b in ranges)])
    whole = gathered(window, x)[tuple(slice(a, b) for a, b in strip)]
    np.testing.assert_array_equal(part, whole)
