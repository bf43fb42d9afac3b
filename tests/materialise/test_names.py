"""Names of new constants."""

from lpcompile.materialise.names import KEPT, MOST, stem


def test_a_name_of_usual_length_stays() -> None:
    assert stem("/layer1/conv1/Conv") == "/layer1/conv1/Conv"
    assert stem("n" * MOST) == "n" * MOST


def test_long_names_are_short_and_differ() -> None:
    a, b = "block;" * 40 + "a", "block;" * 40 + "b"
    assert stem(a).startswith(a[:KEPT])
    assert len(stem(a)) < MOST
    assert stem(a) != stem(b)
    assert stem(a) == stem(a[:])
