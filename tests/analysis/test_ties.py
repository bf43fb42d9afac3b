"""Which groups of tensors share a scale where a Concat brings them together."""

import math

from hypothesis import given
from hypothesis import strategies as st

from lpcompile.analysis.affine import Range
from lpcompile.analysis.ties import MOST_WIDENING, OUTSIDE, Join, MoveGroup, tie_groups, union


def concat(*widths: float, readers: tuple[set[str], ...], levels: tuple[int, ...] = ()) -> list[list[int]]:
    """Groups after one Concat named "cat" whose last tensor is the output."""
    names = [f"t{i}" for i in range(len(widths))]
    groups = [MoveGroup((n,), frozenset(r)) for n, r in zip(names, readers, strict=True)]
    ranges = [Range(0.0, w) for w in widths]
    join = Join("cat", tuple(names[:-1]), names[-1])
    return tie_groups(groups, [join], ranges, levels or (256,) * len(widths))


def test_similar_ranges_share() -> None:
    assert concat(1.0, 1.2, 1.2, readers=({"cat", "conv"}, {"cat", "conv"}, {"conv2"})) == [[0, 1, 2]]


def test_an_operand_that_others_read_with_a_much_finer_step_stays_apart() -> None:
    assert concat(1.0, 12.0, 12.0, readers=({"cat", "conv"}, {"cat", "conv"}, {"conv2"})) == [[0], [1, 2]]


def test_an_operand_that_the_concat_alone_reads_always_joins() -> None:
    assert concat(1.0, 12.0, 12.0, readers=({"cat"}, {"cat"}, {"conv2"})) == [[0, 1, 2]]


def test_a_caller_counts_as_a_reader() -> None:
    assert concat(1.0, 12.0, 12.0, readers=({"cat", OUTSIDE}, {"cat"}, {"conv2"})) == [[0], [1, 2]]


def test_fewer_levels_make_a_wider_step() -> None:
    apart = concat(1.0, 1.0, readers=({"cat", "conv"}, {"conv2"}), levels=(256, 16))
    assert apart == [[0], [1]]
    assert concat(1.0, 1.0, readers=({"cat"}, {"conv2"}), levels=(256, 16)) == [[0, 1]]


def test_zeros_bear_any_step() -> None:
    assert concat(0.0, 5.0, readers=({"cat", "conv"}, {"conv2"})) == [[0, 1]]


def test_a_chain_does_not_widen_its_first_member_step_by_step() -> None:
    widths = [1.3**i for i in range(6)]
    groups = [MoveGroup((f"t{i}",), frozenset({f"cat{i}", f"conv{i}"})) for i in range(6)]
    joins = [Join(f"cat{i}", (f"t{i}",), f"t{i + 1}") for i in range(5)]
    found = tie_groups(groups, joins, [Range(0, w) for w in widths], [256] * 6)
    assert found == [[0, 1], [2, 3], [4, 5]]


def test_union_of_ranges() -> None:
    assert union([Range(-1, 2), Range(-3, 0), Range(0, 1)]) == Range(-3, 2)


@given(st.data())
def test_groups_are_a_partition_and_no_guarded_step_widens_beyond_the_bound(data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 8))
    widths = data.draw(st.lists(st.floats(0.01, 100), min_size=n, max_size=n))
    groups = [MoveGroup((f"t{i}",), frozenset({f"reader{i}"})) for i in range(n)]
    joins = [
        Join(f"cat{i}", tuple(f"t{data.draw(st.integers(0, i - 1))}" for _ in range(2)), f"t{i}")
        for i in range(1, n)
    ]
    found = tie_groups(groups, joins, [Range(0, w) for w in widths], [256] * n)
    assert sorted(i for group in found for i in group) == list(range(n))
    for group in found:
        joint = max(widths[i] for i in group)
        assert all(joint <= MOST_WIDENING * widths[i] * (1 + 1e-9) for i in group)
    for join in joins:  # what stays apart would have been too wide, at least with what its side holds
        for tensor in join.inputs:
            one = next(g for g in found if int(tensor[1:]) in g)
            other = next(g for g in found if int(join.output[1:]) in g)
            both = [widths[i] for i in (*one, *other)]
            assert one == other or max(both) > MOST_WIDENING * min(both) * (1 - 1e-9)
    assert math.isclose(MOST_WIDENING**2, 2)
