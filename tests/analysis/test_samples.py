"""DATA in all its forms, and every way in which it can be wrong."""

import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpcompile.analysis import sample_files
from lpcompile.analysis.inputs import InputSpec, random_feeds
from lpcompile.analysis.samples import load_samples
from lpcompile.errors import CalibrationError, InputError

F32, I64 = np.dtype(np.float32), np.dtype(np.int64)
IMAGE = InputSpec("image", F32, ("batch", 3, 4))
ONE = InputSpec("image", F32, (1, 3, 4))


def numbered(n: int, *shape: int) -> np.ndarray:
    """(n, *shape) float32, every element another number."""
    return np.arange(n * int(np.prod(shape, dtype=int)), dtype=np.float32).reshape(n, *shape)


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def together(calls: Any, name: str = "image") -> np.ndarray:
    return np.concatenate([c[name] for c in calls])


def refused(data: Any, *inputs: InputSpec) -> CalibrationError:
    with pytest.raises(CalibrationError) as caught:
        load_samples(data, inputs or (IMAGE,))
    return caught.value


# ---- the forms ----


def test_npz_is_split_into_calls_that_hold_every_sample_once(tmp_path: Path) -> None:
    x = numbered(70, 3, 4)
    found = load_samples(str(save(tmp_path / "d.npz", image=x, labels=np.arange(70))), [IMAGE])
    assert found.source == str(tmp_path / "d.npz")
    np.testing.assert_array_equal(together(found.calls), x)
    assert {c["image"].shape for c in found.calls} == {(4, 3, 4), (2, 3, 4)}
    assert all(set(c) == {"image"} for c in found.calls)
    assert found.has_held_back


def test_a_folder_of_npz_is_read_in_order_of_names(tmp_path: Path) -> None:
    x = numbered(6, 3, 4)
    for i in (1, 0, 2):
        save(tmp_path / f"call{i}.npz", image=x[2 * i : 2 * i + 2])
    np.testing.assert_array_equal(together(load_samples(tmp_path, [IMAGE]).calls), x)


def test_a_folder_of_npy_holds_one_array_an_input(tmp_path: Path) -> None:
    x, ids = numbered(5, 3, 4), np.arange(10).reshape(5, 2)
    np.save(tmp_path / "image.npy", x)
    np.save(tmp_path / "ids.npy", ids)
    calls = load_samples(tmp_path, [IMAGE, InputSpec("ids", I64, ("batch", 2))]).calls
    np.testing.assert_array_equal(together(calls), x)
    np.testing.assert_array_equal(together(calls, "ids"), ids)


def test_npy_files_of_any_name_serve_a_model_of_one_input(tmp_path: Path) -> None:
    x = numbered(4, 3, 4)
    np.save(tmp_path / "a.npy", x[:2])
    np.save(tmp_path / "b.npy", x[2:])
    np.testing.assert_array_equal(together(load_samples(tmp_path, [IMAGE]).calls), x)
    np.testing.assert_array_equal(together(load_samples(tmp_path / "b.npy", [IMAGE]).calls), x[2:])


class Reader:
    """What ONNX Runtime calls a CalibrationDataReader."""

    def __init__(self) -> None:
        self.left = list(numbered(3, 2, 3, 4))

    def get_next(self) -> dict[str, np.ndarray] | None:
        return {"image": self.left.pop(0)} if self.left else None


def test_python_objects_give_one_call_an_item() -> None:
    expected = numbered(3, 2, 3, 4).reshape(-1, 3, 4)
    items = [{"image": x} for x in numbered(3, 2, 3, 4)]
    for data in (Reader(), Reader, items, iter(items), lambda: iter(items)):
        calls = load_samples(data, [IMAGE]).calls
        assert len(calls) == 3
        np.testing.assert_array_equal(together(calls), expected)


def test_an_array_or_a_mapping_is_read_like_a_file() -> None:
    x = numbered(5, 3, 4)
    for data in (x, {"image": x}):
        np.testing.assert_array_equal(together(load_samples(data, [IMAGE]).calls), x)


def test_a_reference_is_imported_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_lp_data.py").write_text(
        "import numpy as np\nclass Held:\n    two = [{'image': np.ones((1, 3, 4), 'float32')}] * 2\n"
    )
    monkeypatch.chdir(tmp_path)
    try:
        assert len(load_samples("my_lp_data:Held.two", [IMAGE]).calls) == 2
        assert "has no attribute 'three'" in refused("my_lp_data:Held.three").message
    finally:
        sys.modules.pop("my_lp_data", None)
    assert str(tmp_path) not in sys.path


# ---- the rules of splitting ----


@given(n=st.integers(1, 80), batch=st.integers(1, 9))
def test_a_fixed_batch_drops_only_the_remainder(n: int, batch: int) -> None:
    x = numbered(n, 3)
    spec = InputSpec("image", F32, (batch, 3))
    if n < batch:
        assert "fewer than one batch" in refused(x, spec).message
        return
    calls = load_samples(x, [spec]).calls
    assert all(c["image"].shape == (batch, 3) for c in calls)
    np.testing.assert_array_equal(together(calls), x[: n - n % batch])


@given(n=st.integers(1, 600))
def test_a_symbolic_batch_keeps_every_sample(n: int) -> None:
    x = numbered(n, 3)
    calls = load_samples(x, [InputSpec("image", F32, ("n", 3))]).calls
    assert max(len(c["image"]) for c in calls) <= 32
    np.testing.assert_array_equal(together(calls), x)


def test_large_samples_make_small_batches() -> None:
    x = np.zeros((64, 1 << 17), np.float32)  # half a MiB each
    calls = load_samples(x, [InputSpec("image", F32, ("n", 1 << 17))]).calls
    assert {len(c["image"]) for c in calls} == {2}


def test_one_rank_more_is_one_call_a_row() -> None:
    x, state, rate = numbered(5, 1, 3, 4), numbered(5, 2, 1, 8), np.full(5, 16000)
    inputs = [ONE, InputSpec("state", F32, (2, "n", 8)), InputSpec("rate", I64, ())]
    calls = load_samples({"image": x, "state": state, "rate": rate}, inputs).calls
    assert len(calls) == 5
    for i, call in enumerate(calls):
        np.testing.assert_array_equal(call["image"], x[i])
        np.testing.assert_array_equal(call["state"], state[i])
        assert call["rate"].shape == ()
        assert call["rate"] == 16000


def test_a_scalar_stands_for_all_calls() -> None:
    x = numbered(4, 3, 4)
    calls = load_samples({"image": x, "rate": np.int64(8)}, [IMAGE, InputSpec("rate", I64, ())]).calls
    np.testing.assert_array_equal(together(calls), x)
    assert all(c["rate"] == 8 for c in calls)


def test_ranks_must_agree_about_what_a_row_is() -> None:
    error = refused(
        {"image": numbered(5, 1, 3, 4), "mask": numbered(5, 3)}, ONE, InputSpec("mask", F32, ("n", 3))
    )
    assert "'mask' has the rank of its input, while others hold one call a row" in error.message
    assert error.hint == "give every array one axis more, a row for each call"


def test_sample_counts_must_agree() -> None:
    other = InputSpec("mask", F32, ("n", 3))
    error = refused({"image": numbered(5, 3, 4), "mask": numbered(4, 3)}, IMAGE, other)
    assert error.message == "the arrays hold different numbers of samples (image: 5, mask: 4)"
    assert "one call a row" in str(error.hint)


def test_different_fixed_batches_give_calls_of_their_own_sizes() -> None:
    specs = [InputSpec("a", F32, (2, 3)), InputSpec("b", F32, (6, 3)), InputSpec("c", F32, ("n", 3))]
    calls = load_samples({"a": numbered(4, 3), "b": numbered(12, 3), "c": numbered(8, 3)}, specs).calls
    assert [{k: len(v) for k, v in c.items()} for c in calls] == [{"a": 2, "b": 6, "c": 4}] * 2


# ---- types and values ----


@pytest.mark.parametrize(
    ("given_dtype", "wanted"),
    [("float64", "float32"), ("float16", "float32"), ("int32", "int64"), ("int64", "uint8")],
)
def test_values_keep_through_a_conversion(given_dtype: str, wanted: str) -> None:
    x = np.arange(12).reshape(4, 3).astype(given_dtype)
    calls = load_samples(x, [InputSpec("image", np.dtype(wanted), ("n", 3))]).calls
    assert together(calls).dtype == wanted
    np.testing.assert_array_equal(together(calls), x)


@pytest.mark.parametrize(
    ("x", "wanted", "says", "hint"),
    [
        (
            np.ones((2, 3), np.uint8),
            "float32",
            "holds integers (uint8), the model takes float32",
            "after normalising",
        ),
        (np.ones((2, 3)), "int64", "holds floats (float64), the model takes int64", "astype('int64')"),
        (np.full((2, 3), "x"), "float32", "holds text (<U1), the model takes float32", "astype('float32')"),
        (
            np.ones((2, 3), bool),
            "int64",
            "holds truth values (bool), the model takes int64",
            "astype('int64')",
        ),
        (np.full((2, 3), 300), "uint8", "holds values that uint8 cannot hold", "image (uint8, nx3)"),
        (np.full((2, 3), -1), "uint64", "holds values that uint64 cannot hold", "image (uint64, nx3)"),
        (np.full((2, 3), 1e300), "float32", "holds values that float32 cannot hold", "image (float32, nx3)"),
        (np.array([[0, 0, 0], [0, np.nan, 0]]), "float32", "holds NaN or infinity", "first at index 1,1"),
        (np.full((2, 3), -np.inf), "float32", "holds NaN or infinity", "first at index 0,0"),
    ],
)
def test_wrong_types_and_values(x: np.ndarray, wanted: str, says: str, hint: str) -> None:
    error = refused(x, InputSpec("image", np.dtype(wanted), ("n", 3)))
    assert error.message == f"array 'image' {says}"
    assert hint in str(error.hint)


# ---- everything else that can be wrong ----


def test_a_missing_input_names_what_is_there(tmp_path: Path) -> None:
    error = refused(save(tmp_path / "d.npz", imgae=numbered(2, 3, 4)))
    assert error.message == "no array for input 'image', only for: imgae"
    assert error.hint == "is 'imgae' meant for it? the model takes image (float32, batchx3x4)"
    assert error.where == str(tmp_path / "d.npz")


@pytest.mark.parametrize("shape", [(3, 4), (2, 4, 3), (2, 2, 2, 3, 4)])
def test_wrong_shapes(shape: tuple[int, ...]) -> None:
    error = refused(np.zeros(shape, np.float32))
    assert "the model takes batchx3x4" in error.message
    assert error.hint


def test_no_samples(tmp_path: Path) -> None:
    assert (
        refused(save(tmp_path / "d.npz", image=np.zeros((0, 3, 4), np.float32))).message == "holds no samples"
    )
    assert refused([]).message == "gives no samples"
    empty, full = ({"image": np.zeros((n, 3, 4), np.float32)} for n in (0, 2))
    assert refused([full, empty]).message == "call 1 holds no sample"
    assert refused(np.zeros((4, 0, 3, 4), np.float32)).message == "call 0 holds no sample"
    past = InputSpec("past", F32, ("batch", "seen", 4))
    first = {**full, "past": np.zeros((2, 0, 4), np.float32)}
    assert len(load_samples([first, first], [IMAGE, past]).calls) == 2  # before the first token
    (tmp_path / "empty").mkdir()
    assert "holds no .npz and no .npy file" in refused(tmp_path / "empty").message


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04junk", b"\x93NUMPY\x01\x00"])
@pytest.mark.parametrize("suffix", ["npz", "npy"])
def test_damaged_files(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"d.{suffix}"
    path.write_bytes(content)
    assert refused(path).message == "damaged, or not a numpy file"


def test_every_truncation_of_a_file_is_refused(tmp_path: Path) -> None:
    whole = save(tmp_path / "d.npz", image=numbered(2, 3, 4)).read_bytes()
    cut = tmp_path / "cut.npz"
    for size in range(0, len(whole), 7):
        cut.write_bytes(whole[:size])
        refused(cut)


def test_python_objects_in_files_are_not_loaded(tmp_path: Path) -> None:
    objects = np.array([{"a": 1}], dtype=object)
    np.savez(tmp_path / "d.npz", image=objects)
    np.save(tmp_path / "d.npy", objects)
    for name in ("d.npz", "d.npy"):
        assert "holds Python objects" in refused(tmp_path / name).message


def test_sizes_are_checked_before_allocating(tmp_path: Path) -> None:
    """A header that announces 16 TiB, and a sum of arrays that is above the bound."""
    header = tmp_path / "header"
    with header.open("wb") as stream:
        np.lib.format.write_array_header_1_0(
            stream, {"descr": "<f4", "fortran_order": False, "shape": (1 << 42,)}
        )
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive:
        archive.write(header, "image.npy")
    assert refused(tmp_path / "bomb.npz").message == "the arrays take 1.64e+04 GiB, more than 16 GiB"


def test_an_array_shorter_than_its_header_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = tmp_path / "header"
    with header.open("wb") as stream:
        np.lib.format.write_array_header_1_0(
            stream, {"descr": "<f4", "fortran_order": False, "shape": (1 << 20,)}
        )
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.write(header, "image.npy")
    assert refused(tmp_path / "d.npz").message == "array 'image' is cut off"
    monkeypatch.setattr(sample_files, "MOST_BYTES", 1000)
    assert "more than 0 GiB" in refused(tmp_path / "d.npz").message


def test_there_is_no_such_file() -> None:
    error = refused("nowhere.npz")
    assert str(error) == "nowhere.npz: there is no such file or folder"
    assert error.hint == "DATA is an .npz file, a folder of .npz or .npy files, or package.module:attribute"


def test_user_code_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_lp_data.py").write_text("raise RuntimeError('no disk')\n")
    monkeypatch.chdir(tmp_path)
    assert refused("broken_lp_data:x").message == "cannot be imported: RuntimeError: no disk"
    assert "ModuleNotFoundError" in refused("no_such_lp_module:x").message

    def failing() -> Any:
        yield {"image": np.ones((1, 3, 4), np.float32)}
        raise KeyError("two")

    assert refused(failing()).message == "failed while giving samples: KeyError: 'two'"
    assert refused([np.ones(3)]).message == "a ndarray, not a mapping of input names to arrays"
    assert refused(17).message == "a int gives no samples"


def test_endless_iterables_are_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lpcompile.analysis.samples.MOST_BYTES", 1000)

    def endless() -> Any:
        while True:
            yield {"image": np.ones((1, 3, 4), np.float32)}

    assert refused(endless()).hint == "let the iterator end earlier"


# ---- feeds for models without data ----


def test_random_feeds_fit_and_repeat() -> None:
    inputs = [
        IMAGE,
        InputSpec("ids", I64, ("batch", "seq")),
        InputSpec("attention_mask", I64, ("batch", "seq")),
        InputSpec("flag", np.dtype(bool), ()),
        InputSpec("names", np.dtype(object), (2,)),
        InputSpec("any", F32, None),
    ]
    a, b, c = (random_feeds(inputs, seed, {"ids": (2, 7), "any": (3,)}) for seed in (1, 1, 2))
    assert a["image"].shape == (1, 3, 4)
    assert a["ids"].shape == (2, 7)
    assert (a["ids"] == 0).all()
    assert (a["attention_mask"] == 1).all()
    assert {k: v.dtype for k, v in a.items()} == {s.name: s.dtype for s in inputs}
    np.testing.assert_array_equal(a["image"], b["image"])
    assert (a["image"] != c["image"]).any()


def test_shapes_of_random_feeds_are_checked() -> None:
    with pytest.raises(InputError, match="the model has no input 'imag'") as caught:
        random_feeds([IMAGE], 0, {"imag": (1, 3, 4)})
    assert caught.value.hint == "did you mean 'image'?"
    with pytest.raises(InputError, match="input 'image' is batchx3x4, not 1x3x5"):
        random_feeds([IMAGE], 0, {"image": (1, 3, 5)})


def test_labels_are_split_like_the_samples(tmp_path: Path) -> None:
    path = save(tmp_path / "d.npz", image=numbered(64, 3, 4), labels=np.arange(64))
    assert load_samples(path, [IMAGE]).labels == ()
    found = load_samples(path, [IMAGE], "labels")
    assert [len(a) for a in found.labels] == [len(c["image"]) for c in found.calls]
    np.testing.assert_array_equal(np.concatenate(found.labels), np.arange(64))
    assert all(set(c) == {"image"} for c in found.calls)
    assert len(found.deciding_labels) == len(found.deciding)
    first = [int(c["image"].reshape(len(c["image"]), -1)[0, 0]) // 12 for c in found.deciding]
    assert [int(a[0]) for a in found.deciding_labels] == first, "labels stay with their samples"


def test_labels_of_fixed_batches_rows_and_iterables() -> None:
    fixed = load_samples({"image": numbered(6, 3, 4), "y": np.arange(6)}, [ONE], "y")
    assert [a.tolist() for a in fixed.labels] == [[i] for i in range(6)]
    rows = load_samples({"image": numbered(3, 2, 3, 4), "y": np.arange(6).reshape(3, 2)}, [IMAGE], "y")
    assert [a.tolist() for a in rows.labels] == [[0, 1], [2, 3], [4, 5]]
    items = [{"image": numbered(2, 3, 4), "y": np.array([i, i])} for i in range(3)]
    assert [a.tolist() for a in load_samples(items, [IMAGE], "y").labels] == [[0, 0], [1, 1], [2, 2]]


def test_labels_that_are_missing_or_too_few_are_refused() -> None:
    with pytest.raises(CalibrationError, match="no array 'labels' of labels, only: image"):
        load_samples({"image": numbered(8, 3, 4)}, [IMAGE], "labels")
    with pytest.raises(CalibrationError, match="different numbers of samples"):
        load_samples({"image": numbered(8, 3, 4), "labels": np.arange(7)}, [IMAGE], "labels")
