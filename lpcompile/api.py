"""compile(), tune(), analyze(), cost(), load(): everything that the command line does, for Python."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from lpcompile.analysis.arithmetic import Coefficients
from lpcompile.argument_types import check_fields, checked
from lpcompile.compilation import Compilation
from lpcompile.errors import CalibrationError, InputError
from lpcompile.graph_costs import model_costs
from lpcompile.ir import io
from lpcompile.layer_analysis import Question, analyze_model
from lpcompile.output import refuse_existing, write_folder
from lpcompile.pipeline import Observer, quiet
from lpcompile.planned_model import PlannedModel
from lpcompile.progress import Steps, Tell
from lpcompile.report.json import read_report, to_json
from lpcompile.report.page import page
from lpcompile.runtime.session import Session
from lpcompile.target import Options

if TYPE_CHECKING:
    import onnxruntime

PATHS = ("decisions", "checkpoint")  # of `Options`
MODEL, REPORT, PAGE, DECISIONS = "model.onnx", "report.json", "report.html", "decisions.toml"
TUNED_RECIPE = "mixed-posit-tuned"  # of retraining, where none is named


@dataclass
class Artefacts:
    """What a compilation gives.

    Attributes:
        model: the compiled graph.
        report: `report.json`, schema 1.
        decisions: text of `decisions.toml`.
        path: the folder it was written to, or None.
        temporaries: graphs between passes by file name, with `save_temps`.
        files: contents of what the target makes beside the model, by file name.
    """

    model: onnx.ModelProto
    report: dict[str, Any]
    decisions: str
    path: Path | None = None
    temporaries: dict[str, onnx.ModelProto] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    _session: Session | None = None

    def session(self) -> "onnxruntime.InferenceSession":
        """The compiled model in stock ONNX Runtime."""
        return self._own_session().raw

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name for the feeds of one call.

        Args:
            feeds: arrays by name of the inputs, in the shapes and types that the float model takes.

        Raises:
            InputError: the feeds do not fit the model.
        """
        return self._own_session().run(feeds)

    def write(self, out: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write everything into a folder; nothing half-written is left under a final name.

        Raises:
            OutputError: not writable, disk full, or files of an earlier run without `force`.
        """
        folder = Path(out)
        refuse_existing(folder, force=force)
        writers = {name: _writer_of_model(proto) for name, proto in self.temporaries.items()}
        writers |= {name: _writer_of_bytes(content) for name, content in self.files.items()}
        writers |= {
            MODEL: _writer_of_model(self.model),
            DECISIONS: lambda path: _write_text(path, self.decisions),
            REPORT: lambda path: _write_text(path, to_json(self.report)),
            PAGE: lambda path: _write_text(path, page(self.report)),
        }
        write_folder(folder, writers, force=force)
        self.path = folder

    def _own_session(self) -> Session:
        if self._session is None:
            self._session = Session(self.model, spin=True)
        return self._session


def _writer_of_model(proto: onnx.ModelProto) -> Any:
    return lambda path: io.save(proto, path)


def _writer_of_bytes(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def _write_text(path: Path, text: str) -> None:
    # a path that is no text has lone surrogates, which JSON can hold as escapes only
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


@checked
def compile(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto | PlannedModel,
    *,
    target: str = "ort",
    calibration: Any = None,
    recipe: str | None = None,
    output: str | os.PathLike[str] | None = None,
    options: Options | None = None,
    progress: Tell | None = None,
    observe: Observer | None = None,
    **overrides: Any,
) -> Artefacts:
    """Compile a float ONNX model.

    Args:
        model: path, bytes or proto; or a model that passes called as functions have planned: it is emitted, verified
            and reported on, and options that would decide are refused.
        target: "ort" or "cim".
        calibration: samples: a `.npz`, a folder, "package.module:attribute", an iterable of {input: array}, an object
            with `get_next()`, or None for weights only.
        recipe: name of a recipe or path of a TOML file; None takes the target's default.
        output: folder to write to; None writes nothing.
        options: everything else that the command line offers.
        progress: called with a `Step` at the start of each pass and as loops go on: name of the pass, fraction of the
            loop that is over, seconds left, ... What it raises ends the compilation, and nothing is written.
        observe: called after each pass.
        **overrides: single fields of `Options`; paths may be texts.

    Returns:
        The model, its report and its decisions, written already where `output` names a folder.

    Raises:
        LpcompileError: see `lpcompile.errors` for the tree.
    """
    if isinstance(tuning := overrides.get("tuning"), Mapping):
        overrides["tuning"] = {str(k).replace("_", "-"): str(v) for k, v in tuning.items()}
    check_fields(Options, overrides, "compile")
    paths = {k: Path(v) for k in PATHS if (v := overrides.get(k)) is not None}
    chosen = replace(options or Options(), **{**overrides, **paths})
    if recipe is not None:
        chosen = replace(chosen, recipe=recipe)
    if output is not None:
        refuse_existing(Path(output), force=chosen.force)
    done = Compilation(target, chosen, Steps(progress), observe or quiet).run(model, calibration)
    artefacts = Artefacts(done.model, done.report, done.decisions, None, done.temporaries, done.files)
    if output is not None and not chosen.dry_run:
        artefacts.write(output, force=chosen.force)
    return artefacts


@checked
def tune(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto,
    calibration: Any,
    *,
    recipe: str | None = None,
    tuning: Mapping[str, Any] | None = None,
    **rest: Any,
) -> Artefacts:
    """Compile a float ONNX model and retrain its rounded weights on the samples.

    Args:
        model: path, bytes or proto.
        calibration: samples as `compile` takes them; labels among them, where the loss asks for them.
        recipe: name of a recipe or path of a TOML file; None takes TUNED_RECIPE.
        tuning: options of the pass `tune-weights` by name: epochs, batch, estimator, learning-rate, loss, labels, ...
        **rest: of `compile`; `checkpoint` names a folder for the state after each epoch, `resume` goes on from it.

    Returns:
        What `compile` gives.

    Raises:
        LpcompileError: see `lpcompile.errors` for the tree.
    """
    if calibration is None:
        raise CalibrationError("there are no samples to retrain on", hint="give calibration data")
    return compile(model, calibration=calibration, recipe=recipe or TUNED_RECIPE, tuning=tuning or {}, **rest)


@checked
def analyze(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto,
    calibration: Any,
    *,
    progress: Tell | None = None,
    **question: Any,
) -> dict[str, Any]:
    """Rank the layers of a float ONNX model by what it loses when their weights are quantised, one at a time.

    Args:
        model: path, bytes or proto.
        calibration: samples as `compile` takes them; labels among them, where the loss asks for them.
        progress: called with a `Step` as loops go on.
        **question: fields of `layer_analysis.Question`: methods, format, granularity, loss, activations, samples, ...

    Returns:
        What `lpcompile analyze --json` prints: layers with scores and standard errors by method, largest first; rank
        correlations of the methods, their times, warnings.

    Raises:
        LpcompileError: see `lpcompile.errors` for the tree.
    """
    check_fields(Question, question, "analyze")
    return analyze_model(model, calibration, Question(**question), progress)


@checked
def cost(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto,
    *,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    input_values: Mapping[str, float] | None = None,
    **coefficients: Any,
) -> dict[str, Any]:
    """Count what a call of a float ONNX model computes, node by node; nothing is compiled.

    Args:
        model: path, bytes or proto.
        input_shapes: concrete shapes of inputs with symbolic axes; a symbolic batch is 1.
        input_values: of inputs that take one value for good; branches that they choose are counted alone.
        **coefficients: fields of `analysis.arithmetic.Coefficients`: shift_coeff, charge_accumulate, wired_shift,
            count_compare.

    Returns:
        What `lpcompile analyze --cost --json` prints: under "cost" the ACEv2 units of "before" by class, its nodes,
        picojoules at 45 nm, bytes moved, and the nodes that could not be counted.

    Raises:
        LpcompileError: see `lpcompile.errors` for the tree.
    """
    check_fields(Coefficients, coefficients, "cost")
    by = Coefficients(**coefficients)
    return model_costs(model, input_shapes=input_shapes, input_values=input_values, coefficients=by)


@checked
def load(path: str | os.PathLike[str]) -> Artefacts:
    """Read back a compiled folder, or any `.onnx` file.

    Args:
        path: of the folder that a compilation wrote, or of a model.

    Returns:
        What `compile` gave; of a model that stands alone, without report and decisions.

    Raises:
        InputError: there is no model.
    """
    given = Path(path)
    model = given / MODEL if given.is_dir() else given
    if given.is_dir() and not model.is_file():
        raise InputError(
            "no model.onnx in this folder",
            where=str(given),
            hint="give the folder that 'lpcompile MODEL' wrote",
        )
    proto = io.load(model).to_proto()
    folder = model.parent
    report = read_report(folder / REPORT) if (folder / REPORT).is_file() else {}
    decisions = (folder / DECISIONS).read_text("utf-8") if (folder / DECISIONS).is_file() else ""
    return Artefacts(proto, report, decisions, folder)
