"""What can be fuzzed: each target writes one broken input and says which command reads it."""

import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
from onnx import ModelProto

from tests.fuzz import seeds
from tests.fuzz.byte_mutations import broken_bytes, broken_text
from tests.fuzz.container_mutations import broken_program
from tests.fuzz.model_mutations import broken_model
from tests.fuzz.verdict import Case
from tests.networks import TOYS, toy

Maker = Callable[[Random, Path], Case]

_RECIPES = ("int8", "int8", "w4a8", "fp32", "auto", "w4a4", "pikelpn", "npp", "dpq", "mixed-posit")
_FORMS = ("functions", "functions", "standard", "qdq", "fp8-qdq", "integer")


def model(rng: Random, folder: Path) -> Case:
    """A real model with a few mutations, under every command that reads one."""
    name = seeds.model_names(rng)
    made, what = broken_model(rng, seeds.model_seed(name))
    path = _model_file(folder, made)
    words, out = _model_command(rng, folder, path, name)
    return Case(tuple(words), folder, out, (name, *what))


def model_bytes(rng: Random, folder: Path) -> Case:
    """A model file with broken bytes."""
    path = folder / "model.onnx"
    name = f"toy:{rng.choice(TOYS)}"
    path.write_bytes(broken_bytes(rng, seeds.model_seed(name).SerializeToString()))
    words, out = _model_command(rng, folder, path, name)
    return Case(tuple(words), folder, out, (name,))


def _model_command(rng: Random, folder: Path, path: Path, name: str) -> tuple[list[str], Path | None]:
    out = folder / "out"
    data = folder / "samples.npz"
    arrays = seeds.samples(name)
    if arrays:
        np.savez(data, **arrays)  # type: ignore[arg-type]
    given = ["--calibration-data", str(data)] if arrays and rng.random() < 0.4 else []
    draw = rng.random()
    if draw < 0.35:
        recipe, form = rng.choice(_RECIPES), rng.choice(_FORMS)
        return [str(path), "-t", "ort", "--recipe", recipe, "--emit", form, "-o", str(out), *given], out
    if draw < 0.65:
        strict = ["--strict"] if rng.random() < 0.1 else []
        return [
            str(path),
            "-t",
            "cim",
            "--recipe",
            rng.choice(_RECIPES[:2]),
            "-o",
            str(out),
            *given,
            *strict,
        ], out
    match rng.randrange(7):
        case 0:
            return ["inspect", str(path)], None
        case 1:
            return ["analyze", str(path), "--cost"], None
        case 2 if given:
            return ["analyze", str(path), *given], None
        case 3:
            return ["verify", str(path)], None
        case 4:
            return ["run", str(path), "-o", str(out), "--random", "1"], out
        case _:
            other = _model_file(folder, seeds.model_seed(name), "other.onnx")
            pair = [str(path), str(other)] if rng.random() < 0.5 else [str(other), str(path)]
            if rng.random() < 0.3:
                return ["verify", pair[0], "--against", pair[1]], None
            return ["diff", *pair, *(["--tensors"] if rng.random() < 0.4 else [])], None


def _model_file(folder: Path, made: ModelProto, name: str = "model.onnx") -> Path:
    path = folder / name
    path.write_bytes(made.SerializeToString())
    return path


def machine(rng: Random, folder: Path) -> Case:
    """A machine description."""
    path = _text_file(rng, folder, "machine.toml", rng.choice(seeds.machine_texts()))
    if rng.random() < 0.6:
        return Case(("machines", str(path)), folder)
    out = folder / "out"
    source = _model_file(folder, toy("conv_bn_relu"))
    words = (str(source), "-t", "cim", "--recipe", "int8", "--machine", str(path), "-o", str(out))
    return Case(words, folder, out)


def program(rng: Random, folder: Path) -> Case:
    """A binary program."""
    path = folder / "program.lpcim"
    broken = broken_bytes if rng.random() < 0.2 else broken_program
    path.write_bytes(broken(rng, seeds.program()[0]))
    return _program_command(rng, folder, path)


def assembler(rng: Random, folder: Path) -> Case:
    """Assembler text."""
    return _assembly(rng, folder)


def _assembly(rng: Random, folder: Path) -> Case:
    path = _text_file(rng, folder, "program.lpcasm", seeds.program()[1])
    out, data = folder / "made.lpcim", folder / "data.lpcim"
    data.write_bytes(seeds.program()[0])
    given = ("--data", str(data)) if rng.random() < 0.9 else ()
    return Case(("asm", str(path), "-o", str(out), *given), folder, out)


def assembled(rng: Random, folder: Path) -> Case:
    """Assembler text that may still assemble, and the simulator on what came out."""
    from click.testing import CliRunner

    from lpcompile.cli import main

    made = _assembly(rng, folder)
    assert made.out is not None
    if CliRunner().invoke(main, list(made.words)).exit_code:
        return made
    return _program_command(rng, folder, made.out)


def _program_command(rng: Random, folder: Path, path: Path) -> Case:
    if rng.random() < 0.4:
        return Case(("disasm", str(path)), folder)
    feeds = folder / "feeds.npz"
    np.savez(feeds, **seeds.samples("toy:conv_bn_relu"))  # type: ignore[arg-type]
    out = folder / "result.npz"
    more = ("--energy", rng.choice(("exact", "stat"))) if rng.random() < 0.5 else ()
    return Case(("sim", str(path), "--input", str(feeds), "-o", str(out), *more), folder, out)


def decisions(rng: Random, folder: Path) -> Case:
    """A decisions.toml that is replayed."""
    name = rng.choice(("conv_bn_relu", "matmul_bias", "residual_add"))
    path = _text_file(rng, folder, "decisions.toml", seeds.decisions_text(name))
    source, out = _model_file(folder, toy(name)), folder / "out"
    target = rng.choice(("ort", "ort", "cim"))
    words = (str(source), "-t", target, "--decisions", str(path), "-o", str(out))
    return Case(words, folder, out, (name,))


_LONG = re.compile(rb"(epochs|iterations|rounds|sweeps|steps)=\d{3,}")  # honest work, but too much of it here


def recipe(rng: Random, folder: Path) -> Case:
    """A recipe."""
    path = _text_file(rng, folder, "recipe.toml", rng.choice(seeds.recipe_texts()))
    path.write_bytes(_LONG.sub(rb"\1=3", path.read_bytes()))
    out = folder / "out"
    if rng.random() < 0.3:
        return Case(("recipes", str(path)), folder)
    name = rng.choice(("conv_bn_relu", "matmul_bias"))
    source = _model_file(folder, toy(name))
    data = folder / "samples.npz"
    np.savez(data, **seeds.samples(f"toy:{name}"))  # type: ignore[arg-type]
    given = ("--calibration-data", str(data)) if rng.random() < 0.7 else ()
    words = (
        str(source),
        "-t",
        rng.choice(("ort", "ort", "cim")),
        "--recipe",
        str(path),
        "-o",
        str(out),
        *given,
    )
    return Case(words, folder, out)


def calibration(rng: Random, folder: Path) -> Case:
    """A `.npz` of samples: broken bytes, or arrays of another kind."""
    name = rng.choice(("conv_bn_relu", "matmul_bias", "if_body"))
    source, data, out = _model_file(folder, toy(name)), folder / "samples.npz", folder / "out"
    data.write_bytes(_odd_archive(rng, seeds.samples(f"toy:{name}")))
    if rng.random() < 0.3:
        return Case(("run", str(source), "--input", str(data), "-o", str(out)), folder, out)
    words = (
        str(source),
        "-t",
        rng.choice(("ort", "ort", "cim")),
        "--recipe",
        "int8",
        "--calibration-data",
        str(data),
        "-o",
        str(out),
    )
    return Case(words, folder, out)


_HEADERS = (
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4), }",
    b"{'descr': '|O', 'fortran_order': False, 'shape': (2,), }",
    b"(" * 5000,
    b"__import__('os').getcwd()",
)


def _odd_archive(rng: Random, arrays: dict[str, np.ndarray]) -> bytes:
    made = dict(arrays)
    key = rng.choice(sorted(made))
    stream = io.BytesIO()
    match rng.randrange(5):
        case 0:
            np.savez(stream, **made)  # type: ignore[arg-type]
            return broken_bytes(rng, stream.getvalue())
        case 1:
            kinds = ("i1", "u8", "f2", "f8", "c8", "U3", "S3", "M8[s]", "?", "V8")
            made[key] = np.zeros(made[key].shape, rng.choice(kinds))
        case 2:
            shapes = ((), (0,), (8,), (1, *made[key].shape), (0, *made[key].shape[1:]), made[key].shape[::-1])
            made[key] = np.zeros(rng.choice(shapes), np.float32)
        case 3:
            made[key] = (
                made[key] * np.float32(rng.choice((np.nan, np.inf, 1e30, 0.0)))
                if made[key].dtype.kind == "f"
                else made[key]
            )
        case _:  # headers that promise what is not there
            np.savez(stream, **made)  # type: ignore[arg-type]
            header = rng.choice(_HEADERS)
            member = (
                b"\x93NUMPY\x01\x00" + (len(header) + 1).to_bytes(2, "little") + header + b"\n" + bytes(64)
            )
            stream = io.BytesIO()
            with zipfile.ZipFile(
                stream, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
            ) as archive:
                for name in made:
                    archive.writestr(f"{name}.npy", member)
            return stream.getvalue()
    np.savez(stream, **made)  # type: ignore[arg-type]
    return stream.getvalue()


def report(rng: Random, folder: Path) -> Case:
    """A report.json."""
    path = _text_file(rng, folder, "report.json", seeds.report_text(rng.choice(("int8", "w4a8"))))
    out = folder / "page.html"
    if rng.random() < 0.5:
        return Case(("report", str(path), "--html", str(out)), folder, out)
    return Case(("report", str(path)), folder)


def _text_file(rng: Random, folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_bytes(broken_text(rng, text))
    return path


TARGETS: dict[str, Maker] = {
    "model": model,
    "model-bytes": model_bytes,
    "machine": machine,
    "program": program,
    "assembler": assembler,
    "assembled": assembled,
    "decisions": decisions,
    "recipe": recipe,
    "calibration": calibration,
    "report": report,
}
