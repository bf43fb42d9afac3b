"""Names, near matches and pipeline text."""

from operator import add
from string import ascii_lowercase, digits

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpcompile.errors import PipelineError, TargetError
from lpcompile.pipeline import Pass
from lpcompile.registry import PASSES, TARGETS, all_passes, near_match, pass_class, split_pipeline, target
from lpcompile.target import Target

NAMES = st.builds(add, st.sampled_from(ascii_lowercase), st.text(f"{ascii_lowercase}{digits}-", max_size=8))
VALUES = st.text(f"{ascii_lowercase}{digits}._+-", min_size=1, max_size=8)


@pytest.mark.parametrize("name", PASSES)
def test_every_option_of_a_pass_says_what_it_means(name: str) -> None:
    cls = pass_class(name)
    assert list(cls.option_texts()) == list(cls.options())
    assert all(cls.option_texts().values())


def test_every_name_loads_a_pass_of_that_name() -> None:
    for name, cls in all_passes().items():
        assert issubclass(cls, Pass)
        assert cls.name == name
        assert cls.summary
        assert cls().text == name  # defaults are left out, so every option has one
    assert list(all_passes()) == list(PASSES)


def test_every_target_loads() -> None:
    for name in TARGETS:
        assert isinstance(target(name), Target)
        assert target(name).name == name


def test_a_name_that_does_not_exist_draws_the_nearest_or_all() -> None:
    with pytest.raises(PipelineError, match="no pass is called 'quantise-weights'") as near:
        pass_class("quantise-weights")
    assert near.value.hint == "did you mean 'quantize-weights'?"
    with pytest.raises(PipelineError) as far:
        pass_class("xyz")
    assert far.value.hint == f"there are: {', '.join(PASSES)}"
    with pytest.raises(TargetError, match="no target is called 'tpu'") as wrong:
        target("tpu")
    assert wrong.value.hint is not None


@given(st.lists(st.tuples(NAMES, st.dictionaries(NAMES, VALUES, max_size=3)), min_size=1, max_size=4))
def test_pipeline_text_is_read_back(passes: list[tuple[str, dict[str, str]]]) -> None:
    text = " ,\n ".join(
        name + (" {" + ", ".join(f"{k} = {v}" for k, v in options.items()) + "}" if options else "")
        for name, options in passes
    )
    assert split_pipeline(text) == passes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the pipeline is empty"),
        (" , ", "the pipeline is empty"),
        ("a{b=1", "cannot read 'a{b=1' in the pipeline"),
        ("a}b", "cannot read 'a}b' in the pipeline"),
        ("a{b=1}c", "cannot read 'a{b=1}c' in the pipeline"),
        ("Fold", "cannot read 'Fold' in the pipeline"),
        ("a{{b=1}}", "cannot read"),
        ("a{b}", "option 'b' of pass 'a' has no value"),
        ("a{b=1,b=2}", "option 'b' of pass 'a' is given twice"),
    ],
)
def test_text_in_another_form_is_refused_with_a_hint(text: str, message: str) -> None:
    with pytest.raises(PipelineError) as caught:
        split_pipeline(text)
    assert message in caught.value.message
    assert caught.value.hint
    assert caught.value.exit_code == 2


def test_a_hint_may_name_a_few_of_many() -> None:
    words = [f"/layer{i}/Conv" for i in range(30)]
    assert near_match("nothing", words, 2) == "there are: /layer0/Conv, /layer1/Conv and 28 more"
    assert near_match("/layer7/Con", words, 2) == "did you mean '/layer7/Conv'?"
