"""Samples of a wrong form: the hint names what is likely to have gone wrong."""

import numpy as np

from lpcompile.analysis.inputs import InputSpec
from lpcompile.analysis.samples import load_samples
from tests.analysis.test_samples import F32, I64, IMAGE, numbered, refused


def hint(data: object, *inputs: InputSpec) -> str:
    return refused(data, *inputs).hint or ""


def test_channels_that_come_last_and_a_missing_first_axis_are_recognised() -> None:
    image = InputSpec("image", F32, ("N", 3, 8, 6))
    assert hint({"image": numbered(4, 8, 6, 3)}, image).endswith("array.transpose(0, 3, 1, 2)")
    assert hint({"image": numbered(3, 8, 6)}, image) == (
        "the first axis is missing: array[None] is one sample"
    )
    assert "transpose" not in hint({"image": numbered(4, 3, 6, 8)}, image)


def test_names_that_numpy_made_up_are_told_from_wrong_ones() -> None:
    assert "numpy.savez(FILE, image=array)" in hint({"arr_0": numbered(4, 3, 4)}, IMAGE)
    assert "is 'IMAGE' meant for it?" in hint({"IMAGE": numbered(4, 3, 4)}, IMAGE)


def test_objects_are_no_text() -> None:
    ids = InputSpec("ids", I64, ("batch", "seq"))
    ragged = np.array([np.arange(3), np.arange(5)], object)
    error = refused({"ids": ragged}, ids)
    assert "holds Python objects" in error.message
    assert "one mapping of inputs to arrays for each call" in (error.hint or "")
    words = InputSpec("names", np.dtype(object), ("batch",))
    assert load_samples({"names": np.array(["a", "b"], object)}, [words]).samples == 2


def test_calls_that_are_no_mapping_are_shown_what_one_is() -> None:
    assert hint([numbered(3, 4)], IMAGE) == "give {'image': array, ...} for each call"


def test_inputs_that_never_change_are_named() -> None:
    one, mask = numbered(1, 3, 4), np.ones((8, 1, 3), np.int64)
    specs = [IMAGE, InputSpec("mask", I64, ("batch", 1, 3))]
    same = load_samples({"image": np.repeat(one, 8, 0), "mask": mask}, specs)
    assert same.constant_inputs == ["image"]
    assert load_samples({"image": one, "mask": mask[:1]}, specs).constant_inputs == []
    before = InputSpec("before", IMAGE.dtype, ("batch", "past"))
    assert (
        load_samples({"image": numbered(8, 3, 4), "before": numbered(8, 0)}, [IMAGE, before]).constant_inputs
        == []
    )
    last = np.repeat(one, 8, 0)
    last[-1] += 1
    assert load_samples({"image": last, "mask": mask}, specs).constant_inputs == []
