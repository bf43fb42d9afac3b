"""The reader of other tools' figures, on a table made for it."""

import pytest

from tests.zoo.baselines import parse_baselines, read_baselines
from tests.zoo.entries import find_zoo

TEXT = """# What others reach

Words with a | in them.

## small_net (top1, float 0.751)

| setting | tool | config | score | drop | SQNR dB | bytes | s |
|---|---|---|--:|--:|--:|--:|--:|
| W4A8 | one* | a_b | 0.7450 | +0.0060 | 16.74 | 61857 | 24.6 |
| W4A8 ends 8 | two | c | 0.7610 | -0.0100 | -0.26 | 68424 | 1 |
| W4A8 | two | d | fails in a runtime | | | 726946 | 1.65 |
| W4A8 | two | e | fails in a runtime | | |  |  |
| W4A4 ends A8 | two | f | 0.1 | +0.6510 | 1.5 | 99 | 0.5 |

## Remarks

| a | table | of | something |

## language_model (perplexity, float 7.04272)

| setting | tool | config | score | drop | SQNR dB | bytes | s |
|---|---|---|--:|--:|--:|--:|--:|
| W4A32 b32 | one | g | 7.0428 | +0.0001 | 33.15 | 3818013 | 2.3 |
"""


def test_tables() -> None:
    found = parse_baselines(TEXT)
    assert list(found) == ["small_net", "language_model"]
    small = found["small_net"]
    assert (small.metric, small.float_score, len(small.rows)) == ("top1", 0.751, 5)
    first = small.rows[0]
    assert (first.setting, first.tool, first.config) == ("W4A8", "one*", "a_b")
    assert (first.score, first.drop, first.sqnr_db, first.size, first.seconds) == (
        0.745,
        0.006,
        16.74,
        61857,
        24.6,
    )
    assert found["language_model"].rows[0].setting == "W4A32 b32"


def test_what_did_not_run_has_no_figures() -> None:
    rows = parse_baselines(TEXT)["small_net"].rows
    assert (rows[2].score, rows[2].drop, rows[2].sqnr_db, rows[2].size) == (None, None, None, 726946)
    assert (rows[3].size, rows[3].seconds) == (None, None)


def test_rows_of_widths() -> None:
    small = parse_baselines(TEXT)["small_net"]
    assert [r.config for r in small.of("W4A8")] == ["a_b", "c"]
    assert [r.config for r in small.of("W4A4")] == ["f"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("| 16.74 ", "", "line 9: 7 cells"),
        ("| SQNR dB | bytes |", "| bytes | SQNR dB |", "line 7: the columns are"),
        ("language_model", "small_net", "line 19: 'small_net' comes twice"),
    ],
)
def test_other_tables_are_refused(old: str, new: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_baselines(TEXT.replace(old, new, 1))


@pytest.mark.zoo
def test_the_tables_of_the_zoo() -> None:
    zoo = find_zoo()
    if zoo is None:
        pytest.skip("LPCOMPILE_ZOO names no folder with a zoo.json")
    found = read_baselines(zoo.root)
    assert set(found) <= set(zoo.entries)
    for name, entry in found.items():
        assert entry.metric == zoo.entries[name]["metric"]
        assert entry.float_score == pytest.approx(zoo.entries[name]["fp32"]["score"], abs=1e-4)
        assert entry.of("W4A8")
        for row in entry.of("W4A8"):  # drops are those of the scores
            assert row.score is not None
            assert row.drop is not None
            sign = 1 if zoo.entries[name].get("higher_is_better", True) else -1
            assert row.drop == pytest.approx(sign * (entry.float_score - row.score), abs=2e-4)
