"""inspect, run, diff, verify on small models."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.cli.cli_runner import HEADER, SMALL, error_lines, lpcompile, small_feeds, small_model

CONV = (
    HEADER
    + """
conv (float[n, 4, 8, 8] image) => (float[n, 6, 4, 4] y) <float[6, 2, 3, 3] w, float[6] b>
{ [c1] y = Conv<group = 2, strides = [2, 2], pads = [1, 1, 1, 1]>(image, w, b) }"""
)
QDQ = (
    HEADER
    + """
qdq (float[1, 2] x) => (float[1, 3] y)
<int8[2, 3] w = {1, 2, 3, 4, 5, 6}, float s = {0.5}, int8 z = {0}>
{ d = DequantizeLinear(w, s, z) [fc] y = MatMul(x, d) }"""
)
OTHER = SMALL.replace("{1, 2, 3, 4, 5, 6}", "{1, 2, 3, 4, 5, 7}")


def conv_model(folder: Path) -> Path:
    model = onnx.parser.parse_model(CONV)
    for info in list(model.graph.value_info):
        shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(shape, np.float32), info.name))
    del model.graph.value_info[:]
    onnx.save(model, folder / "conv.onnx")
    return folder / "conv.onnx"


# ---- inspect ----


def test_inspect_counts_by_hand(tmp_path: Path) -> None:
    """MACs: 6 x 4 x 4 outputs of 2 x 3 x 3 products; weights: 6 x 2 x 3 x 3 x 4 bytes."""
    document = json.loads(lpcompile("inspect", conv_model(tmp_path), "--json").stdout)
    assert document["layers"] == [
        {
            "name": "c1",
            "op": "Conv",
            "weight_shape": [6, 2, 3, 3],
            "format": "float32",
            "granularity": "-",
            "macs": 6 * 16 * 18,
            "weight_bytes": 432,
        }
    ]
    assert document["inputs"] == [{"name": "image", "dtype": "float32", "shape": ["n", 4, 8, 8]}]
    assert document["totals"]["constant_bytes"] == 432 + 24
    assert document["ops"] == {"Conv": 1}


def test_inspect_as_text(tmp_path: Path) -> None:
    lines = lpcompile("inspect", conv_model(tmp_path)).stdout.splitlines()
    assert lines[1:3] == ["input   image  float32  nx4x8x8", "output  y  float32  nx6x4x4"]
    assert lines[3] == "nodes   1: 1 Conv"
    assert lines[-1].split() == ["c1", "Conv", "6x2x3x3", "float32", "-", "1,728", "432"]


def test_inspect_takes_shapes(tmp_path: Path) -> None:
    words = ("inspect", conv_model(tmp_path), "--json", "--input-shape", "image=5x4x8x8")
    document = json.loads(lpcompile(*words).stdout)
    assert document["inputs"][0]["shape"] == [5, 4, 8, 8]
    assert document["totals"]["macs"] == 5 * 1728
    lines = error_lines("inspect", tmp_path / "conv.onnx", "--input-shape", "image=5x4x9x9", code=3)
    assert lines[0] == "error: input 'image' is nx4x8x8, not 5x4x9x9"


def test_inspect_finds_weights_behind_a_dequantize(tmp_path: Path) -> None:
    document = json.loads(lpcompile("inspect", small_model(tmp_path, text=QDQ), "--json").stdout)
    (row,) = document["layers"]
    assert (row["format"], row["weight_shape"], row["weight_bytes"]) == ("int8", [2, 3], 6 + 4 + 1)


@pytest.mark.parametrize("content", [b"", b"hello"])
@pytest.mark.parametrize("command", ["inspect", "run", "verify"])
def test_what_is_no_model(tmp_path: Path, content: bytes, command: str) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    lines = error_lines(command, tmp_path / "m.onnx", code=3)
    assert len(lines) == 2


# ---- run ----


def test_run_writes_what_the_model_gives(tmp_path: Path) -> None:
    out = tmp_path / "result.npz"
    result = lpcompile("run", small_model(tmp_path), "--input", small_feeds(tmp_path), "--output", out)
    assert result.exit_code == 0
    assert result.stderr == ""
    with np.load(out) as found:
        assert found.files == ["y"]
        np.testing.assert_array_equal(found["y"], [[1, 2, 3], [4, 5, 6]])
    first = out.read_bytes()
    assert error_lines("run", tmp_path / "small.onnx", "-o", out, code=6) == [
        f"error: {out}: the file exists",
        "hint: overwrite it with --force",
    ]
    lpcompile("run", tmp_path / "small.onnx", "--input", tmp_path / "feeds.npz", "-o", out, "--force")
    assert out.read_bytes() == first
    assert {p.name for p in tmp_path.iterdir()} == {"small.onnx", "feeds.npz", "result.npz"}


def test_run_random_repeats(tmp_path: Path) -> None:
    words = ("run", small_model(tmp_path), "--json", "--input-shape", "x=4x2")
    a, b, c = (lpcompile(*words, "--random", seed) for seed in (1, 1, 2))
    assert a.stderr == "inputs: random feeds, seed 1\n"
    first, again, other = (json.loads(r.stdout)["outputs"] for r in (a, b, c))
    assert first[0]["shape"] == [4, 3]
    assert first == again
    assert first != other


def test_run_takes_a_folder_of_ours(tmp_path: Path) -> None:
    small_model(tmp_path, "model.onnx")
    assert lpcompile("run", tmp_path, "-q").exit_code == 0


def test_run_checks_feeds(tmp_path: Path) -> None:
    model = small_model(tmp_path)
    np.savez(tmp_path / "wrong.npz", x=np.ones((2, 5), np.float32))
    lines = error_lines("run", model, "--input", tmp_path / "wrong.npz", code=3)
    assert "array 'x' is 2x5, the model takes nx2" in lines[0]
    assert error_lines("run", model, "--input", tmp_path / "absent.npz", code=3)[0].endswith(
        "No such file or directory"
    )
    lines = error_lines("run", model, "--input", tmp_path / "wrong.npz", "--random", 1, code=2)
    assert lines[0] == "error: --input and --random exclude each other"


def test_run_says_where_results_are_not_finite(tmp_path: Path) -> None:
    model = small_model(
        tmp_path, text=HEADER + "g (float[1] x) => (float[1] y) { t = Neg(x) u = Mul(t, x) y = Log(u) }"
    )
    assert "warning: NaN or infinity in y" in lpcompile("run", model).stderr


def test_run_cannot_write_into_a_missing_folder(tmp_path: Path) -> None:
    lines = error_lines("run", small_model(tmp_path), "-q", "-o", tmp_path / "no" / "r.npz", code=6)
    assert lines[0].endswith("cannot be written: No such file or directory")


# ---- diff ----


def test_diff_by_hand(tmp_path: Path) -> None:
    """Outputs of the unit rows: 91 signal, and one element differs by 1."""
    a, b = small_model(tmp_path, "a.onnx"), small_model(tmp_path, "b.onnx", OTHER)
    feeds = small_feeds(tmp_path)
    document = json.loads(lpcompile("diff", a, b, "--input", feeds, "--json").stdout)
    assert document["sqnr_db"] == pytest.approx(10 * np.log10(91))
    (row,) = document["tensors"]
    assert (row["name"], row["max_abs"], row["different"], row["elements"]) == ("y", 1.0, 1, 6)
    assert document["samples"] == 2


def test_diff_and_its_tolerance(tmp_path: Path) -> None:
    a, b = small_model(tmp_path, "a.onnx"), small_model(tmp_path, "b.onnx", OTHER)
    words = ("diff", a, b, "--input", small_feeds(tmp_path), "--tolerance")
    assert lpcompile(*words, 1).exit_code == 0
    result = lpcompile(*words, 0.5)
    assert result.exit_code == 4
    assert result.stderr.splitlines()[0] == "error: 'y' differs by 1, more than the tolerance 0.5"
    assert "19.6 dB" in result.stdout
    assert "exact" in lpcompile("diff", a, a).stdout


def test_diff_of_different_interfaces(tmp_path: Path) -> None:
    a = small_model(tmp_path, "a.onnx")
    b = small_model(tmp_path, "b.onnx", HEADER + "g (float[n, 2] z) => (float[n, 2] y) { y = Neg(z) }")
    assert "the models take different inputs (x; z)" in error_lines("diff", a, b, code=3)[0]


def test_diff_of_inner_tensors(tmp_path: Path) -> None:
    deep = HEADER + "g (float[n, 2] x) => (float[n, 2] y) { t = Relu(x) y = Neg(t) }"
    a = small_model(tmp_path, "a.onnx", deep)
    found = json.loads(lpcompile("diff", a, a, "--tensors", "--json").stdout)
    assert [t["name"] for t in found["tensors"]] == ["t", "y"]


def test_diff_shows_the_way_along_the_graph(tmp_path: Path) -> None:
    deep = (
        HEADER
        + "g (float[n, 2] x) => (float[n, 2] y) <float[2, 2] w = {1, 2, 3, 4}> { t = Relu(x) [fc] y = MatMul(t, w) }"
    )
    a, b = small_model(tmp_path, "a.onnx", deep), small_model(tmp_path, "b.onnx", deep.replace("4}", "5}"))
    words = ("diff", a, b, "--input", small_feeds(tmp_path))
    document = json.loads(lpcompile(*words, "--json").stdout)
    assert [(t["name"], t["node"], t["enters"]) for t in document["tensors"]] == [
        ("t", document["tensors"][0]["node"], False),
        ("y", "fc", True),
    ]
    assert [e["name"] for e in document["entries"]] == ["y"]
    assert "fc    MatMul  y       exact -> " in lpcompile(*words).stdout
    lines = lpcompile(*words, "--csv").stdout.splitlines()
    assert lines[0].startswith("name,sqnr_db,max_abs")
    assert [line.split(",")[0] for line in lines[1:]] == ["t", "y"]
    only = json.loads(lpcompile(*words, "--outputs", "--json").stdout)
    assert [t["name"] for t in only["tensors"]] == ["y"]
    assert error_lines(*words, "--csv", "--json", code=2)


def test_diff_of_unlike_graphs(tmp_path: Path) -> None:
    a = small_model(tmp_path, "a.onnx")
    other = small_model(tmp_path, "b.onnx", HEADER + "g (float[n, 2] x) => (float[n, 2] z) { z = Neg(x) }")
    error, hint = error_lines("diff", a, other, code=3)
    assert "no tensor of the same name" in error
    assert "--outputs" in hint
    wide = small_model(tmp_path, "c.onnx", HEADER + "g (float[n, 2] x) => (float[n, 2] y) { y = Neg(x) }")
    assert "output 'y' has shape (1, 2) instead of (1, 3)" in error_lines("diff", a, wide, code=3)[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "not a report"),
        ('{"schema": 7}', "schema 7 is not known, only 1"),
        ("[", "not JSON"),
        ('{"schema": 1}', "not a whole report: it has no key 'layers'"),
    ],
)
def test_diff_of_odd_reports(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    lines = error_lines("diff", tmp_path / "a.json", tmp_path / "a.json", code=3)
    assert len(lines) == 2
    assert message in lines[0]
    model = small_model(tmp_path)
    assert "cannot be compared with a model" in error_lines("diff", tmp_path / "a.json", model, code=3)[0]
    assert error_lines("diff", tmp_path / "a.json", tmp_path / "none.json", code=3)
    assert error_lines("diff", tmp_path / "none", model, code=3)[0].endswith("there is no such file")


# ---- verify ----


def test_verify_of_a_sound_model(tmp_path: Path) -> None:
    model = small_model(tmp_path)
    result = lpcompile("verify", model, "--against", model, "--budget", "sqnr-db=60,agreement=1", "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert all(c["ok"] for c in document["checks"])
    assert {c["name"] for c in document["checks"]} >= {
        "loads",
        "runs",
        "finite",
        "initialisers",
        "functions",
        "size",
    }
    assert document["comparison"]["sqnr_db"] == 200


def test_verify_finds_dead_initialisers(tmp_path: Path) -> None:
    dead = small_model(tmp_path, text=SMALL.replace("<float[2, 3] w", "<float[1] dead = {1}, float[2, 3] w"))
    result = lpcompile("verify", dead)
    assert result.exit_code == 1
    assert "initialisers  NO   1 dead: dead" in result.stdout
    assert result.stderr.splitlines()[0] == f"error: {dead}: initialisers: 1 dead: dead"


def test_verify_measures_bounds(tmp_path: Path) -> None:
    a, b = small_model(tmp_path, "a.onnx"), small_model(tmp_path, "b.onnx", OTHER)
    np.savez(tmp_path / "data.npz", x=np.tile(np.eye(2, dtype=np.float32), (4, 1)))
    words = ("verify", b, "--against", a, "--calibration-data", tmp_path / "data.npz", "--budget")
    assert lpcompile(*words, "sqnr-db=19").exit_code == 0
    result = lpcompile(*words, "sqnr-db=20")
    assert result.exit_code == 4
    assert result.stderr.splitlines()[0] == f"error: {b}: sqnr-db is 19.59, below 20"


def test_verify_knows_its_bounds(tmp_path: Path) -> None:
    model = small_model(tmp_path)
    assert (
        error_lines("verify", model, "--budget", "bytes=3", code=2)[0] == "error: verify measures no 'bytes'"
    )
    assert "--against" in error_lines("verify", model, "--budget", "sqnr-db=3", code=2)[1]
