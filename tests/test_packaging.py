"""The package list, the links and the wheel agree (docs/decisions/0001-folders-at-top-level.md)."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from lpcompile.version import VERSION

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
WHEEL_BYTES = 1_350_000  # docs/decisions/0005
INSTALLED_BYTES = 250_000_000
PREFIXES = {"lpcompile": "lpcompile", "passes": "lpcompile.passes", "backends": "lpcompile.backends"}


def packages_on_disk() -> set[str]:
    """Import names of every folder with an `__init__.py`; `rglob` follows no links, so none counts twice."""
    return {
        ".".join([prefix, *init.parent.relative_to(ROOT / folder).parts])
        for folder, prefix in PREFIXES.items()
        for init in (ROOT / folder).rglob("__init__.py")
    }


def test_package_list_names_every_package() -> None:
    listed = SETTINGS["tool"]["setuptools"]["packages"]
    assert listed == sorted(listed)
    assert set(listed) == packages_on_disk()


def test_every_data_file_is_shipped() -> None:
    patterns = SETTINGS["tool"]["setuptools"]["package-data"]
    for folder, prefix in PREFIXES.items():
        for file in (ROOT / folder).rglob("*.*"):
            if file.suffix in {".py", ".pyc"} or not file.is_file():
                continue
            assert any(shipped(file, owner, patterns) for owner in owners(file, ROOT / folder, prefix)), (
                f"{file}: in no package-data pattern"
            )


def owners(file: Path, root: Path, prefix: str) -> list[tuple[str, Path]]:
    """Packages that the file lies in, and their folders: a pattern may reach into a folder that is no package."""
    inside = [f for f in file.parents if f.is_relative_to(root) and (f / "__init__.py").is_file()]
    return [(".".join([prefix, *f.relative_to(root).parts]), f) for f in inside]


def shipped(file: Path, owner: tuple[str, Path], patterns: dict[str, list[str]]) -> bool:
    relative = file.relative_to(owner[1])
    found = patterns.get(owner[0], [])
    return any(len(relative.parts) == len(Path(p).parts) and relative.match(p) for p in found)


@pytest.mark.parametrize("name", ["passes", "backends"])
def test_links_lead_static_tools_to_the_folders(name: str) -> None:
    link = ROOT / "lpcompile" / name
    if link.is_file() and not link.is_symlink():
        # git without link support checks a link out as a text file that holds its target
        assert link.read_text("utf-8").strip() == f"../{name}"
    else:
        assert link.is_symlink()
        assert link.resolve() == ROOT / name


def test_dependencies_are_the_six() -> None:
    names = [d.split(">=")[0] for d in SETTINGS["project"]["dependencies"]]
    assert names == ["onnx", "onnxruntime", "onnx-graphsurgeon", "numpy", "networkx", "click"]


def run(*command: str | Path, cwd: Path) -> str:
    """Run without the caller's Python variables, and return stdout."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # from a copy: a build leaves build/ and *.egg-info, and stale ones of the checkout would ship
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in PREFIXES:
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    for name in ["pyproject.toml", "README.md", "LICENSE"]:
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, source, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.wheel
def test_wheel_holds_one_top_level_name(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"lpcompile"}
    sources = {
        "/".join([*prefix.split("."), *file.relative_to(ROOT / folder).parts])
        for folder, prefix in PREFIXES.items()
        for file in (ROOT / folder).rglob("*.py")
    }
    assert sources == {name for name in names if name.endswith(".py")}


@pytest.mark.wheel
def test_wheel_stays_small(wheel: Path) -> None:
    assert wheel.stat().st_size <= WHEEL_BYTES


def test_what_an_installation_brings_stays_small() -> None:
    """The six dependencies and theirs, as they are installed here, without compiled Python."""
    sizes = installed_bytes([d.split(">=")[0] for d in SETTINGS["project"]["dependencies"]])
    assert {"numpy", "protobuf", "flatbuffers"} <= sizes.keys()
    assert sum(sizes.values()) <= INSTALLED_BYTES, sizes


def installed_bytes(names: list[str]) -> dict[str, int]:
    """Bytes on the disk by distribution, over all that these need."""
    found: dict[str, int] = {}
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        made = importlib.metadata.distribution(name)
        files = [Path(str(f.locate())) for f in made.files or []]
        found[name] = sum(f.stat().st_size for f in files if f.is_file() and f.suffix != ".pyc")
        needed = [Requirement(text) for text in made.requires or []]
        waiting += [r.name for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


@pytest.mark.wheel
def test_wheel_works_in_a_fresh_environment(wheel: Path, tmp_path: Path) -> None:
    fresh, empty = tmp_path / "fresh", tmp_path / "empty"
    empty.mkdir()
    venv.create(fresh, with_pip=False)
    bin_folder = fresh / ("Scripts" if os.name == "nt" else "bin")
    python = bin_folder / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", wheel, cwd=empty)
    # the dependencies are those of this environment; what the wheel installed comes first on the path
    site = Path(
        run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=empty).strip()
    )
    borrowed = [p for p in sys.path if Path(p).name in {"site-packages", "dist-packages"}]
    (site / "borrowed.pth").write_text("\n".join(borrowed), encoding="utf-8")

    assert VERSION in run(bin_folder / "lpcompile", "-V", cwd=empty)
    program = """
import importlib.resources
from importlib.util import find_spec
import lpcompile, lpcompile.passes, lpcompile.backends.ort
print(lpcompile.__file__)
assert find_spec("passes") is None
assert find_spec("backends") is None
assert find_spec("tests") is None
assert find_spec("models") is None
recipes = {f.name for f in importlib.resources.files("lpcompile.recipes").iterdir()}
assert {"fp32.toml", "int8.toml", "w4a8.toml", "w4a4.toml"} <= recipes, recipes
"""
    assert Path(run(python, "-c", program, cwd=empty).strip()).is_relative_to(site)
