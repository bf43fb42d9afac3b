"""The output folder: nothing half-written under a final name, whatever fails, and nothing left behind."""

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import lpcompile
from lpcompile.api import Artefacts
from lpcompile.errors import OutputError
from lpcompile.ir import io
from lpcompile.output import refuse_existing, write_folder
from tests.cli.cli_runner import error_lines
from tests.networks import compiled_network, shipped, toy


def tree(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


def write(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text)


def fail(error: BaseException) -> Callable[[Path], object]:
    def writer(path: Path) -> None:
        path.write_text("half")
        raise error

    return writer


def test_files_arrive_together(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    write_folder(out, {"model.onnx": write("m"), "passes/00-x.onnx": write("p")})
    assert tree(out) == {"model.onnx", "passes", "passes/00-x.onnx"}
    assert (out / "passes" / "00-x.onnx").read_text() == "p"


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), ValueError()]
)
def test_a_failing_writer_leaves_nothing(error: BaseException, tmp_path: Path) -> None:
    out = tmp_path / "out"
    expected = OutputError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        write_folder(out, {"model.onnx": write("m"), "report.json": fail(error)})
    assert not list(tmp_path.iterdir())


def test_a_failing_writer_leaves_an_earlier_run_as_it_was(tmp_path: Path) -> None:
    old = {"model.onnx": "old", "report.json": "old", "notes.txt": "mine"}
    for name, text in old.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(OutputError):
        write_folder(tmp_path, {"model.onnx": write("new"), "report.json": fail(OSError(errno.EIO, "x"))})
    assert {n: (tmp_path / n).read_text() for n in tree(tmp_path)} == old


def test_a_killed_compilation_leaves_no_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(_model: object, path: Path) -> None:
        path.write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(io, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        lpcompile.compile(toy("shared_weights"), recipe="int8", output=tmp_path / "new" / "out")
    assert not list(tmp_path.rglob("model.onnx"))
    assert not list(tmp_path.rglob(".lpcompile-*"))
    assert not (tmp_path / "new").exists()


def test_folders_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="this is a file, not a folder"):
        refuse_existing(tmp_path / "file", force=True)
    for out in (tmp_path / "file" / "out", tmp_path / "file" / "a" / "b"):
        with pytest.raises(OutputError, match="cannot write: Not a directory") as caught:
            lpcompile.compile(toy("shared_weights"), recipe="int8", output=out)
        assert caught.value.hint == "choose a folder with room that you may write to, with --output"


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a file system that nobody may write to")
def test_a_folder_that_cannot_be_written() -> None:
    lines = error_lines(
        shipped("digits_mobilenet"), "-t", "ort", "--recipe", "int8", "-o", "/proc/self/out", code=6
    )
    assert lines[0].startswith("error: /proc/self/out: cannot write: ")
    assert lines[1].startswith("hint: choose a folder")


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if os.name != "posix" or os.geteuid() != 0 or mount is None:
        pytest.skip("only root may mount a small file system")
    command = [mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield disk
    subprocess.run(["umount", str(disk)], capture_output=True, check=True)


def test_a_full_disk(full_disk: Path) -> None:
    made = compiled_network("digits_resnet", "int8")
    copy = Artefacts(made.model, made.report, made.decisions)
    for out in (full_disk / "out", full_disk):
        with pytest.raises(OutputError, match="No space left on device") as caught:
            copy.write(out)
        assert caught.value.exit_code == 6
        assert caught.value.hint
        assert not list(full_disk.iterdir())


def test_a_full_disk_from_the_command_line(full_disk: Path) -> None:
    lines = error_lines(
        shipped("digits_resnet"), "-t", "ort", "--recipe", "int8", "-o", full_disk / "out", code=6
    )
    assert "No space left on device" in lines[0]
    assert lines[1].startswith("hint: ")
    assert not list(full_disk.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_write_that_fails_late(tmp_path: Path) -> None:
    """The same without a mount: one of the files is on a device that is always full."""

    def full(path: Path) -> None:
        with Path("/dev/full").open("w") as device:
            device.write("x" * 1_000_000)

    with pytest.raises(OutputError, match="No space left on device"):
        write_folder(tmp_path / "out", {"model.onnx": write("m"), "report.json": full})
    assert not list(tmp_path.iterdir())
