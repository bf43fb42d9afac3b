"""Files in and out: broken ones are named in one line, and nothing half-written is left."""

import contextlib
import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto

from lpcompile.errors import ModelError, OutputError
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.io import load, save
from lpcompile.ir.weights import Weights
from lpcompile.ir.wire import cut_weights, with_weights
from tests.support import assert_same_outputs, conv_bn_model, parse_model, random_feeds, run_model


def big_model() -> ModelProto:
    """Weights of 4 KiB and of 144 B: some are cut out, some are not."""
    return parse_model("""
        g (float[1,32] x) => (float[1,6] y) <float[32,32] w, float[32] b, float[32,6] v, float[6] c> {
            t = Gemm (x, w, b)
            r = Relu (t)
            y = Gemm (r, v, c)
        }""")


def external_model(folder: Path) -> Path:
    path = folder / "model.onnx"
    onnx.save(big_model(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_cannot_be_mapped_is_read(tmp_path: Path) -> None:
    model, pipe, empty = big_model(), tmp_path / "pipe.onnx", tmp_path / "empty.onnx"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(pipe.write_bytes, model.SerializeToString())
        graph = load(pipe)
        assert written.result() > 0
    assert_same_outputs(model, graph.to_proto())
    empty.touch()
    with pytest.raises(ModelError, match="the file is empty"):
        load(empty)


def test_a_file_is_let_go_once_it_is_loaded(tmp_path: Path) -> None:
    model, path = big_model(), tmp_path / "m.onnx"
    onnx.save(model, path)
    graph = load(path)
    path.write_bytes(b"\0" * 16)  # in place: a mapping that stayed would show it
    assert_same_outputs(model, graph.to_proto())


def test_load_from_path_bytes_and_proto(tmp_path: Path) -> None:
    model = big_model()
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    for source in (path, str(path), path.read_bytes(), model):
        graph = load(source)
        for tensor in model.graph.initializer:
            np.testing.assert_array_equal(graph.value(tensor.name).values, onnx.numpy_helper.to_array(tensor))
        assert_same_outputs(model, graph.to_proto())


def test_weights_are_views_on_the_file(tmp_path: Path) -> None:
    data = big_model().SerializeToString()
    rest, cuts = cut_weights(data) or (b"", {})
    assert list(cuts) == [0]
    assert len(rest) < len(data) - 4096 + 16
    w = load(data).value("w").values
    assert not w.flags.owndata
    assert not w.flags.writeable


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\n", "no ONNX model"),
        (b"hello, this is text", "no ONNX model"),
        (big_model().SerializeToString()[:-700], "no ONNX model, or a truncated one"),
        (big_model().SerializeToString().replace(b"Relu", b"R\xfflu"), "not UTF-8"),
        (ModelProto().SerializeToString() + b"\x08\x08", "no ONNX model"),
    ],
)
def test_files_that_are_no_models(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        load(path)
    assert caught.value.hint
    assert "m.onnx" in str(caught.value)
    assert "\n" not in str(caught.value)


@given(data=st.data())
def test_damaged_bytes_never_end_in_anything_but_a_model_error(data: st.DataObject) -> None:
    good = bytearray(big_model().SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(good)))
    with contextlib.suppress(ModelError):
        load(bytes(good[:cut])).to_proto()


@pytest.mark.parametrize("source", ["bytes", "proto", "edited"])
def test_a_written_file_is_what_protobuf_would_write(tmp_path: Path, source: str) -> None:
    model = big_model()
    model.graph.initializer[0].doc_string = "after the data"
    graph = load(model if source == "proto" else model.SerializeToString())
    if source == "edited":
        graph.set_weights(graph.nodes("Gemm")[0], np.ones((32, 32)), np.zeros(32))
    save(graph, tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").read_bytes() == graph.to_proto().SerializeToString(deterministic=True)


@given(sizes=st.lists(st.sampled_from([1, 31, 1024, 5000, 70_000]), min_size=1, max_size=5))
def test_cutting_weights_out_and_putting_them_back(sizes: list[int]) -> None:
    model = big_model()
    for i, size in enumerate(sizes):
        model.graph.initializer.add(
            name=f"k{i}", data_type=TensorProto.INT8, dims=[size], raw_data=bytes(size)
        )
    data = model.SerializeToString(deterministic=True)
    rest, cuts = cut_weights(data) or (b"", {})
    assert [len(c) for c in cuts.values()] == [4096, *(s for s in sizes if s >= 4096)]
    weights = {i: Weights(TensorProto.INT8, (len(raw),), raw=raw) for i, raw in cuts.items()}
    assert b"".join(with_weights(rest, weights)) == data


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        load(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="this is a folder"):
        load(tmp_path)
    with pytest.raises(ModelError, match="cannot be read"):
        load("a\0b")


def test_external_data_is_mapped(tmp_path: Path) -> None:
    path = external_model(tmp_path)
    graph = load(path)
    assert graph.value("w").nbytes == 4096
    assert_same_outputs(big_model(), graph.to_proto())


def edited(path: Path, **entries: str) -> Path:
    proto = onnx.load(path, load_external_data=False)
    for entry in proto.graph.initializer[0].external_data:
        if entry.key in entries:
            entry.value = entries[entry.key]
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "/etc/passwd"}, "is not allowed"),
        ({"location": "../weights.bin"}, "is not allowed"),
        ({"location": "a/../../weights.bin"}, "is not allowed"),
        ({"location": "C:\\weights.bin"}, "is not allowed"),
        ({"location": "..\\weights.bin"}, "is not allowed"),
        ({"location": ""}, "is not allowed"),
        ({"location": "a\0b"}, "is not allowed"),
        ({"location": "link.bin"}, "leads elsewhere"),
        ({"location": "gone.bin"}, "'gone.bin' is missing"),
        ({"location": "folder"}, "is no file"),
        ({"offset": "999999999"}, "lies at bytes"),
        ({"offset": "-4"}, "lies at bytes"),
        ({"offset": "many"}, "is no number"),
        ({"length": "8"}, "needs 4096 bytes but names 8"),
        ({"length": "99999999999999"}, "needs 4096 bytes"),
    ],
)
def test_external_data_is_not_trusted(tmp_path: Path, entries: dict[str, str], message: str) -> None:
    folder = tmp_path / "model"
    (folder / "folder").mkdir(parents=True)
    path = external_model(folder)
    (tmp_path / "secret.bin").write_bytes(bytes(10_000))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(ModelError, match=message) as caught:
        load(edited(path, **entries))
    assert "\n" not in str(caught.value)


def test_a_truncated_data_file(tmp_path: Path) -> None:
    path = external_model(tmp_path)
    with (tmp_path / "weights.bin").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(ModelError, match=r"lies at bytes 0 to 4096 of 'weights\.bin', which has 100"):
        load(path)


def test_impossible_dimensions_allocate_nothing(tmp_path: Path) -> None:
    path = external_model(tmp_path)
    proto = onnx.load(path, load_external_data=False)
    proto.graph.initializer[0].dims[:] = [2**23, 2**23]
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="bytes but names 4096"):
        load(path)


@pytest.mark.parametrize("as_graph", [True, False])
def test_saving_is_deterministic_and_replaces(tmp_path: Path, as_graph: bool) -> None:
    model = conv_bn_model()
    path = tmp_path / "out.onnx"
    path.write_bytes(b"old")
    contents = set()
    for _ in range(2):
        save(LpGraph.from_proto(model) if as_graph else model, path)
        contents.add(path.read_bytes())
    assert len(contents) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["out.onnx"]
    assert_same_outputs(model, onnx.load(path))
    assert path.stat().st_mode & 0o777 == 0o666 & ~current_umask()


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("as_graph", [True, False])
def test_large_models_get_one_data_file(tmp_path: Path, as_graph: bool) -> None:
    model = big_model()
    path = tmp_path / "out.onnx"
    save(LpGraph.from_proto(model) if as_graph else model, path, threshold_bytes=1000)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.onnx", "out.onnx.data"]
    stored = {t.name: t for t in onnx.load(path, load_external_data=False).graph.initializer}
    assert stored["w"].data_location == TensorProto.EXTERNAL
    assert all(int(e.value) % 4096 == 0 for e in stored["w"].external_data if e.key == "offset")
    assert stored["b"].data_location == TensorProto.DEFAULT
    onnx.checker.check_model(path, full_check=True)
    assert_same_outputs(model, onnx.load(path))
    assert_same_outputs(model, load(path).to_proto())
    again = tmp_path / "again"
    again.mkdir()
    save(load(path), again / "out.onnx", threshold_bytes=1000)
    for name in ("out.onnx", "out.onnx.data"):
        assert (again / name).read_bytes() == (tmp_path / name).read_bytes()


def test_a_model_can_replace_the_one_it_was_loaded_from(tmp_path: Path) -> None:
    path = external_model(tmp_path)
    save(load(path), path)
    save(load(path), path, threshold_bytes=0)
    save(load(path), path, threshold_bytes=0)
    assert_same_outputs(big_model(), load(path).to_proto())


def test_an_unwritable_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written: No such file") as caught:
        save(conv_bn_model(), tmp_path / "none" / "m.onnx")
    assert caught.value.exit_code == 6


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")

    def full(self: Path, target: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError, match="No space left on device"):
        save(conv_bn_model(), path)
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    assert path.read_bytes() == b"old"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_device_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    def on_full_device(**_: Any) -> Any:
        return Path("/dev/full").open("wb")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", on_full_device)
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
    with pytest.raises(OutputError, match="No space left on device"):
        save(conv_bn_model(), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_loading_does_not_read_what_nobody_asks_for(tmp_path: Path) -> None:
    """With a sparse data file of 64 GB, anything that read or allocated it would fail."""
    path = external_model(tmp_path)
    proto = onnx.load(path, load_external_data=False)
    tensor = proto.graph.initializer[0]
    tensor.dims[:] = [2**17, 2**17]
    del tensor.external_data[:]
    for key, value in (("location", "huge.bin"), ("offset", "0"), ("length", str(2**36))):
        tensor.external_data.add(key=key, value=value)
    with (tmp_path / "huge.bin").open("wb") as file:
        file.truncate(2**36)
    path.write_bytes(proto.SerializeToString())
    graph = load(path)
    assert graph.value("w").nbytes == 2**36
    assert graph.value("w").values[5, 7] == 0


def test_random_feeds_are_reproducible() -> None:
    model = big_model()
    first, second = run_model(model, random_feeds(model)), run_model(model, random_feeds(model))
    np.testing.assert_array_equal(first["y"], second["y"])
