"""Copies of layers against every choice that there is."""

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from lpcompile.backends.cim.replicate import Load, replicate

LOADS = st.builds(Load, st.integers(1, 40), st.integers(1, 5), st.integers(1, 5))


@given(st.lists(LOADS, min_size=1, max_size=4), st.integers(1, 30))
def test_the_bottleneck_is_the_least_there_is(loads: list[Load], pages: int) -> None:
    found = replicate(loads, pages)
    choices = [c for c in product(*(range(1, load.most + 1) for load in loads))
               if sum(n * load.pages for n, load in zip(c, loads, strict=True)) <= pages]  # fmt: skip

    def bottleneck(counts: tuple[int, ...]) -> int:
        return max(-(-load.cycles // n) for n, load in zip(counts, loads, strict=True))

    if not choices:
        assert found is None
        return
    assert found in choices
    assert bottleneck(found) == min(map(bottleneck, choices))


def test_no_layers_and_no_room() -> None:
    assert replicate([], 4) == ()
    assert replicate([Load(10, 5, 2)], 4) is None
