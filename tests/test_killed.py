"""Killed, interrupted, two at once, and odd places: the output folder holds all old files or all new ones."""

import functools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest

from lpcompile import compile as compile_model
from lpcompile import folder_swap
from lpcompile.api import Artefacts
from lpcompile.errors import OutputError
from lpcompile.output import FINAL, write_folder
from tests.cli.cli_runner import error_lines, lpcompile, small_feeds, small_model
from tests.exact_sums import as_users_have_them
from tests.killed_writer import NEW, OLD, contents
from tests.networks import toy

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ("int8", "w4a8")
posix = pytest.mark.skipif(os.name != "posix", reason="needs signals and forks")
exchanges = pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="no exchange of folders")

KEPT = {name: "old" for name in OLD if name not in FINAL}
BEFORE = dict.fromkeys(OLD, "old")
AFTER = {**dict.fromkeys(NEW, "new"), **KEPT}


def points(folder: Path, *how: str) -> list[tuple[bool, dict[str, str] | None]]:
    command = [sys.executable, "-m", "tests.killed_writer", str(folder), *how]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [(killed, found) for killed, found in map(json.loads, done.stdout.splitlines())]


@pytest.mark.thorough
@posix
@exchanges
def test_an_old_folder_is_replaced_whole_wherever_the_kill_comes(tmp_path: Path) -> None:
    found = points(tmp_path / "root", "existing")
    assert len(found) > 20
    assert all(files in (BEFORE, AFTER) for _, files in found)
    assert found[-1] == (False, AFTER)
    assert sum(killed and files == AFTER for killed, files in found) > 2, "no kill after the exchange"


@posix
def test_a_new_folder_appears_whole_wherever_the_kill_comes(tmp_path: Path) -> None:
    found = points(tmp_path / "root")
    new = dict.fromkeys(NEW, "new")
    assert all(files in (None, new) for _, files in found)
    assert found[-1] == (False, new)


@pytest.mark.thorough
@posix
def test_in_the_working_directory_no_file_is_half_written(tmp_path: Path) -> None:
    """It cannot be exchanged: whoever stands in it would stand in the old one."""
    found = points(tmp_path / "root", "existing", "inside")
    for _, files in found:
        assert files is not None
        shown = {n: t for n, t in files.items() if not n.startswith(".lpcompile-")}
        assert set(shown.values()) <= {"old", "new"}
        assert set(AFTER) <= set(shown)
    assert found[-1] == (False, AFTER)


@exchanges
def test_links_beside_the_output_stay_links(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "mine").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (out / "mine" / "notes.txt").write_text("mine")
    (out / "dangling").symlink_to("nowhere")
    (out / "folder").symlink_to(tmp_path / "elsewhere")
    (out / "model.onnx.data").write_text("weights of an earlier run")
    inode = (out / "mine" / "notes.txt").stat().st_ino
    write_folder(out, {"model.onnx": lambda path: path.write_text("m")})
    assert {p.name for p in out.iterdir()} == {"mine", "dangling", "folder", "model.onnx"}
    assert (out / "mine" / "notes.txt").stat().st_ino == inode
    assert (out / "dangling").readlink() == Path("nowhere")
    assert (out / "folder").readlink() == tmp_path / "elsewhere"
    assert {p.name for p in tmp_path.iterdir()} == {"out", "elsewhere"}


def test_without_an_exchange_files_are_renamed_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_a: Path, b: Path) -> None:
        raise OSError(38, "Function not implemented", str(b))

    monkeypatch.setattr(folder_swap, "swap", refused)
    for name in OLD:
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_text("old")
    write_folder(tmp_path / "out", {name: lambda path: path.write_text("new") for name in NEW})
    assert contents(tmp_path / "out") == AFTER
    assert {p.name for p in tmp_path.iterdir()} == {"out"}


@posix
def test_stages_of_killed_runs_are_removed_by_the_next_one(tmp_path: Path) -> None:
    out = tmp_path / "out"
    prefix = folder_swap.stage_prefix(out)
    stale, young, busy = (tmp_path / f"{prefix}{n}" for n in ("stale", "young", "busy"))
    for stage in (stale, young, busy):
        stage.mkdir()
        (stage / "model.onnx").touch()
    for stage in (stale, busy):
        os.utime(stage, (0, 0))
    with folder_swap.held(busy):
        write_folder(out, {"model.onnx": lambda path: path.write_text("m")})
    assert {p.name for p in tmp_path.iterdir()} == {"out", young.name, busy.name}


def test_a_run_that_ended_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def late(path: Path) -> None:
        path.write_text("mine")
        out.mkdir()
        (out / "model.onnx").write_text("theirs")

    with pytest.raises(OutputError, match=r"the folder holds model\.onnx of an earlier run"):
        write_folder(out, {"model.onnx": late}, force=False)
    assert contents(tmp_path) == {"out/model.onnx": "theirs"}


# the real command line


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "toy.onnx"
    onnx.save(toy("residual_add"), path)
    return path


def compiling(model: Path, out: Path, recipe: str) -> list[str]:
    words = (sys.executable, "-m", "lpcompile", str(model), "-t", "ort", "--recipe", recipe)
    return [*words, "-o", str(out), "--force"]


@functools.cache
def compiled(recipe: str) -> Artefacts:
    with as_users_have_them():
        return compile_model(toy("residual_add"), recipe=recipe)


def which(out: Path) -> str:
    """The recipe that all four files come from."""
    recipe: str = json.loads((out / "report.json").read_text())["created_with"]["options"]["recipe"]
    made = compiled(recipe)
    assert (out / "model.onnx").read_bytes() == made.model.SerializeToString(deterministic=True)
    assert (out / "decisions.toml").read_text() == made.decisions
    assert f"--recipe {recipe}" in (out / "report.html").read_text()
    return recipe


@posix
@pytest.mark.slow
def test_compilations_killed_at_random_times(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    start = time.monotonic()
    subprocess.run(compiling(model, out, "int8"), cwd=ROOT, capture_output=True, check=True)
    lasts = time.monotonic() - start
    rng = random.Random(4)
    now, seen = "int8", set()
    for turn in range(50):
        wanted = RECIPES[turn % 2]
        child = subprocess.Popen(compiling(model, out, wanted), cwd=ROOT, stdout=-3, stderr=-3)
        time.sleep(lasts * rng.uniform(0.1, 1.2))
        child.kill()
        child.wait()
        found = which(out)
        assert found in (now, wanted)
        seen.add((child.returncode, found == wanted))
        now = found
    assert {(-signal.SIGKILL, False), (0, True)} <= seen or len(seen) > 1


@pytest.mark.thorough
@posix
def test_two_compilations_into_one_folder(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    both = [subprocess.Popen(compiling(model, out, r), cwd=ROOT, stdout=-3, stderr=-3) for r in RECIPES]
    assert [child.wait() for child in both] == [0, 0]
    assert which(out) in RECIPES
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.thorough
@posix
def test_an_interrupted_compilation_leaves_nothing(model: Path, tmp_path: Path) -> None:
    """Ctrl-C while the files are written."""
    program = f"""
import os, signal, sys
from lpcompile.cli import main
from lpcompile.ir import io
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is started without
save = io.save
def interrupted(model, path, **rest):
    save(model, path, **rest)
    os.kill(os.getpid(), signal.SIGINT)
io.save = interrupted
main({compiling(model, tmp_path / "new" / "out", "int8")[3:]!r})
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error: interrupted\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.thorough
@posix
def test_a_call_of_the_runtime_can_be_interrupted(tmp_path: Path) -> None:
    """Python alone hears of Ctrl-C when the call returns: here never."""
    text = """<ir_version: 8, opset_import: ["" : 17]> m (float[1] x) => (float[1] y)
    <int64 m = {4611686018427387904}, bool c = {1}> {
        y = Loop (m, c, x) <body: graph = b (int64 i, bool go, float[1] v) => (bool on, float[1] w) {
            on = Identity (go) w = Identity (v) }> }"""
    model = small_model(tmp_path, text=text)
    program = f"""
import signal
from lpcompile.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is started without
main(["run", {str(model)!r}])
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=ROOT, stdout=-1, stderr=-1, text=True) as child:
        try:
            assert child.stderr is not None
            assert "random feeds" in child.stderr.readline()  # the last thing said before the call
            time.sleep(0.5)
            child.send_signal(signal.SIGINT)
            said = child.communicate(timeout=60)
        finally:
            child.kill()
    assert (child.returncode, *said) == (130, "", "error: interrupted\n")


@pytest.mark.thorough
@posix
def test_files_larger_than_allowed(model: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for a disk that fills up while one is written."""
    program = f"""
import resource, signal
from lpcompile.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
main({compiling(model, tmp_path / "new" / "out", "int8")[3:]!r})
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 6
    assert "cannot write: File too large" in done.stderr
    assert not list(tmp_path.iterdir())


ODD = ("with space", "Größe\U0001f600", "a\nb", "-dash", "x" * 200, "\x1b[31m", os.fsdecode(b"\xff\xfe"))


@pytest.mark.sweep
@pytest.mark.parametrize("name", ODD)
def test_odd_paths(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    model, out = small_model(folder), folder / "out"
    made = lpcompile(model, "-t", "ort", "--recipe", "int8", "-o", out)
    assert made.exit_code == 0, made.output
    assert {p.name for p in out.iterdir()} == {"model.onnx", "report.json", "report.html", "decisions.toml"}
    assert made.stdout.replace("\n", "").isprintable()
    for words in (("inspect", out), ("report", out), ("report", out, "--json"), ("verify", out, "--json")):
        assert lpcompile(*words).exit_code == 0
    assert lpcompile("report", out, "--html", folder / "page.html").exit_code == 0
    assert lpcompile("run", out, "--input", small_feeds(folder), "-o", folder / "y.npz").exit_code == 0
    lines = error_lines(model, "-t", "ort", "-o", out, code=6)
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)
    lines = error_lines("inspect", folder / "none.onnx", code=3)
    assert len(lines) == 2


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "broken").symlink_to("later")
    model = small_model(tmp_path)
    for name, real in (("link", "real"), ("broken", "later")):
        assert lpcompile(model, "-t", "ort", "--recipe", "int8", "-o", tmp_path / name).exit_code == 0
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / real / "model.onnx").is_file()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_folders_without_permission(tmp_path: Path) -> None:
    model = small_model(tmp_path)
    model.chmod(0o400)
    (tmp_path / "closed").mkdir(mode=0o500)
    lines = error_lines(model, "-t", "ort", "--recipe", "int8", "-o", tmp_path / "closed" / "out", code=6)
    assert "Permission denied" in lines[0]
    (tmp_path / "parent" / "open").mkdir(parents=True)
    (tmp_path / "parent").chmod(0o500)  # no stage can stand beside the folder
    done = lpcompile(model, "-t", "ort", "--recipe", "int8", "-o", tmp_path / "parent" / "open")
    (tmp_path / "parent").chmod(0o700)
    assert done.exit_code == 0, done.output
