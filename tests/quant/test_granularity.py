import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from lpcompile.errors import FormatError
from lpcompile.quant.granularity import Granularity, PerAxis, PerGroup, PerTensor, parse

shapes = st.lists(st.integers(1, 7), min_size=2, max_size=4).map(tuple)
granularities = st.one_of(
    st.just(PerTensor()),
    st.integers(0, 1).map(PerAxis),
    st.builds(PerGroup, st.integers(1, 9), st.integers(0, 1)),
)


@given(granularities)
def test_text_round_trips(granularity: Granularity) -> None:
    assert parse(str(granularity)) == granularity


@given(shapes, granularities)
def test_every_element_reads_its_own_scale(shape: tuple[int, ...], granularity: Granularity) -> None:
    scale_shape = granularity.scale_shape(shape)
    scales = np.arange(np.prod(scale_shape, dtype=int)).reshape(scale_shape)
    full = np.broadcast_to(granularity.expand(scales, shape), shape)
    for at in np.ndindex(shape):
        if isinstance(granularity, PerTensor):
            own: tuple[int, ...] = ()
        elif isinstance(granularity, PerAxis):
            own = (at[granularity.axis],)
        else:
            own = tuple(i // granularity.size if a == granularity.axis else i for a, i in enumerate(at))
        assert full[at] == scales[own]


def test_a_short_last_group() -> None:
    assert PerGroup(32).scale_shape((8, 70)) == (8, 3)
    assert PerGroup(32, axis=0).scale_shape((70, 8)) == (3, 8)


def test_channel_is_another_word_for_the_first_axis() -> None:
    assert parse("channel") == PerAxis(0)


@pytest.mark.parametrize("text", ["", "group", "group0", "axis", "row", "group32@x"])
def test_unknown_text(text: str) -> None:
    with pytest.raises(FormatError, match="no granularity") as caught:
        parse(text)
    assert caught.value.hint is not None


@pytest.mark.parametrize("granularity", [PerAxis(2), PerGroup(4, axis=2)])
def test_an_axis_that_is_not_there(granularity: Granularity) -> None:
    with pytest.raises(FormatError, match="needs an axis 2"):
        granularity.scale_shape((3, 4))


def test_an_empty_group() -> None:
    with pytest.raises(FormatError, match="a group of 0 elements"):
        PerGroup(0)
