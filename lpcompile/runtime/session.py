"""A model in stock ONNX Runtime on the CPU, its failures as errors of this package."""

import os
import re
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto

from lpcompile import process
from lpcompile.analysis.inputs import Feeds, InputSpec
from lpcompile.errors import InputError, ModelError, UnsupportedOpError
from lpcompile.ir import io
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.slice_inputs import check_file, check_slices
from lpcompile.runtime.interrupts import run_options

LEVELS = {
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,  # the runtime's default
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "none": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
_SILENT = 4  # failures arrive as exceptions; the runtime need not print them too
# "<file>:<line> <signature of a C++ function> ", which the runtime puts before what it has to say
_ORIGIN = re.compile(
    r"\S*/onnxruntime/\S+\.(?:cc|h):\d+ "
    r"(?:(?:\w+ )*onnxruntime::[^()]*\([^()]*\)(?: const)?(?: \[with [^\]]*\])?(?:::\S*)? )?"
)
_WITH_WEIGHTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_DTYPES: dict[str, Any] = {
    "float": np.float32,
    "double": np.float64,
    "string": np.object_,
    "bool": np.bool_,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float8e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "float8e5m2": ml_dtypes.float8_e5m2,
    "float8e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "int4": ml_dtypes.int4,
    "uint4": ml_dtypes.uint4,
    **{f"{sign}int{bits}": np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


class Session:
    """One loaded model.

    Args:
        model: graph, proto, bytes or path (a path where the model has external data). The runtime reads the weights
            of a graph where they are, without a copy.
        threads: of the runtime; 0 leaves it to the runtime.
        level: of graph optimisation, one of LEVELS.
        spin: let waiting threads spin, as the runtime does by default: fastest where nothing else runs.
        profile: prefix of a profile file that the runtime writes, or None.
        outputs: of a graph: tensors to give instead of its own outputs; what they do not need is not loaded.
        patchable: of a graph: float32 weights of which the session reads a copy that may be written to between runs.
        replaced: of a graph: other values of float32 weights, by name.
        lean: free every tensor after its last reader. The runtime else holds buffers for a later tensor of the same
            size, which in a graph that goes back through its layers doubles what is resident.

    Attributes:
        inputs: what the model takes.
        outputs: names of what it gives.
        output_kinds: what each is, as tensor(float) or seq(tensor(float)).
        patchable: those copies by name; see `runtime.patched` for when the runtime minds what is written.
        replaced: names of the weights that have other values.
        serialised_bytes: size of the model as it was handed over; None for a file.

    Raises:
        UnsupportedOpError: an operator that the runtime does not have.
        ModelError: the runtime cannot load the model.
    """

    def __init__(
        self,
        model: LpGraph | ModelProto | bytes | str | os.PathLike[str],
        *,
        threads: int = 0,
        level: str = "all",
        profile: str | None = None,
        spin: bool = False,
        outputs: Sequence[str] | None = None,
        patchable: Collection[str] = (),
        replaced: Mapping[str, np.ndarray] | None = None,
        lean: bool = False,
    ) -> None:
        if process.is_ours():  # allocations are logged by no session
            onnxruntime.set_default_logger_severity(_SILENT)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _SILENT
        options.graph_optimization_level = LEVELS[level]
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.enable_mem_reuse = options.enable_mem_pattern = not lean
        # waiting threads that spin take the core from whatever else runs here, our own numpy first
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin else "0")
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = profile
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._shared: dict[str, np.ndarray] = {}
        self._values: dict[str, onnxruntime.OrtValue] = {}  # the runtime refers to them
        self.patchable: dict[str, np.ndarray] = {}
        self.replaced: frozenset[str] = frozenset()
        if patchable:  # a packed copy would not follow
            options.add_session_config_entry("session.disable_prepacking", "1")
        _check_sizes(model)
        if isinstance(model, LpGraph):
            # its floats are meant: the runtime would round those between Q-DQ pairs to 8 bits, one scale a tensor
            options.add_session_config_entry("session.disable_quant_qdq", "1")
            graph = model
            others = replaced or {}
            model, self._shared = io.shared_weights(model, outputs, apart=frozenset((*patchable, *others)))
            self.replaced = frozenset(others) & self._shared.keys()
            self._shared |= {n: others[n] for n in self.replaced}
            self.patchable = {n: self._shared[n].copy() for n in patchable if n in self._shared}
            self._shared |= self.patchable
            self._values = {n: onnxruntime.OrtValue.ortvalue_from_numpy(a) for n, a in self._shared.items()}
            options.add_external_initializers(list(self._values), list(self._values.values()))
            for name, value in self._values.items():  # or else the runtime copies what was handed over above
                if name in self.patchable or _stays_as_it_is(graph, name):
                    options.add_initializer(name, value)
        source, where = self._source(model)
        self.serialised_bytes = len(source) if isinstance(source, bytes) else None
        try:
            self.raw = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's errors share no base class
            raise _load_error(error, where) from error
        given = self.raw.get_inputs()
        unranked = _without_shape(model) if any(not i.shape for i in given) else frozenset[str]()
        shapes = [None if i.name in unranked else i.shape for i in given]
        self.inputs = [_input_spec(i.name, i.type, s, where) for i, s in zip(given, shapes, strict=True)]
        self.output_kinds = {o.name: str(o.type) for o in self.raw.get_outputs()}
        self.outputs = [o.name for o in self.raw.get_outputs()]

    def _source(self, model: ModelProto | bytes | str | os.PathLike[str]) -> tuple[bytes | str, str | None]:
        if isinstance(model, bytes):
            return model, None
        if not isinstance(model, ModelProto):
            text = os.fspath(model)
            if not _is_text(text):  # the runtime takes no such path
                return Path(text).read_bytes(), text
            return text, text
        if io.weight_bytes(model) <= io.EXTERNAL_ABOVE_BYTES:
            return model.SerializeToString(), None
        self._folder = tempfile.TemporaryDirectory(prefix="lpcompile-")
        path = Path(self._folder.name) / "model.onnx"
        io.save(model, path)
        return str(path), None

    def run(self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> Feeds:
        """Run one call.

        Args:
            feeds: arrays by input name.
            outputs: names of the outputs wanted; None for all.

        Returns:
            Arrays by output name, in the order of the graph; the members of a sequence as "name[i]".

        Raises:
            InputError: the feeds do not fit the model.
            ModelError: the runtime fails on an operator.
        """
        names = self.outputs if outputs is None else list(outputs)
        try:
            values = self.raw.run(names, dict(feeds), run_options())
        except Exception as error:
            raise _run_error(error, self.inputs) from error
        found: Feeds = {}
        for name, value in zip(names, values, strict=True):
            found.update(_tensors(name, value))
        return found


def _is_text(path: str) -> bool:
    """Whether a path can be written in UTF-8; file systems hold others."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _stays_as_it_is(graph: LpGraph, name: str) -> bool:
    """Whether the runtime's optimiser leaves a constant alone.

    Where it moves a Transpose across an Add, it transposes the constant under its own name; what is handed over as an
    initialiser would take the place of that.
    """
    value = graph.value(name)
    return not value.used_in_subgraph and all(
        not n.domain and n.op in _WITH_WEIGHTS and n.input_names[1:2] == [name] for n in value.consumers
    )


def _without_shape(model: ModelProto | bytes | str | os.PathLike[str]) -> frozenset[str]:
    """Inputs that declare no shape at all; the runtime shows them as scalars."""
    if isinstance(model, bytes):
        model = onnx.load_model_from_string(model)
    elif not isinstance(model, ModelProto):
        model = onnx.load_model(os.fspath(model), load_external_data=False)
    types = {i.name: i.type for i in model.graph.input}
    return frozenset(n for n, t in types.items() if not t.tensor_type.HasField("shape"))


def _input_spec(name: str, kind: str, shape: Any, where: str | None) -> InputSpec:
    element = kind.removeprefix("tensor(").removesuffix(")")
    if element not in _DTYPES:
        raise UnsupportedOpError(
            f"input '{name}' is a {kind}, not a tensor",
            where=where,
            hint="inputs must be tensors: replace sequences and optionals by tensors",
        )
    dims = None if shape is None else tuple(d if isinstance(d, (int, str)) else None for d in shape)
    return InputSpec(name, np.dtype(_DTYPES[element]), dims)


def _tensors(name: str, value: Any) -> Feeds:
    if value is None:  # an optional output without value
        return {}
    if isinstance(value, list):
        return {k: v for i, member in enumerate(value) for k, v in _tensors(f"{name}[{i}]", member).items()}
    if isinstance(value, dict):
        raise UnsupportedOpError(
            f"output '{name}' is a map, not a tensor",
            hint="export the model without ZipMap, so that it gives tensors",
        )
    return {name: np.asarray(value)}


def message_of(error: Exception) -> str:
    """The runtime's message in one line, without its own prefix."""
    text = " ".join(str(error).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = _ORIGIN.sub("", text)
    return text if len(text) <= 300 else text[:297] + "..."


def _check_sizes(model: LpGraph | ModelProto | bytes | str | os.PathLike[str]) -> None:
    """Refuse what would end the process instead of raising; bytes are ours."""
    if isinstance(model, LpGraph):
        model.check_sizes()
    elif isinstance(model, ModelProto):
        check_slices(model)
    elif not isinstance(model, bytes):
        check_file(os.fspath(model))


def _load_error(error: Exception, where: str | None) -> ModelError:
    text, kind = message_of(error), type(error).__name__
    if kind == "NotImplemented" or "No Op registered" in text or "is not a registered function/op" in text:
        hint = "export with standard operators that ONNX Runtime has on the CPU"
        if "find an implementation" in text:  # the operator is known, for other element types
            hint = "the runtime has it for other element types: export the model in float32"
        return UnsupportedOpError(f"ONNX Runtime cannot run an operator: {text}", where=where, hint=hint)
    hint = "check it with onnx.checker.check_model"
    if kind == "NoSuchFile":
        hint = "check the path of the model"
    return ModelError(f"ONNX Runtime cannot load the model: {text}", where=where, hint=hint)


def _run_error(error: Exception, inputs: Sequence[InputSpec]) -> InputError:
    if type(error).__name__ in {"InvalidArgument", "ValueError", "KeyError"}:
        return InputError(
            f"the feeds do not fit the model: {message_of(error)}",
            hint=f"the model takes {', '.join(map(str, inputs)) or 'no inputs'}",
        )
    return ModelError(
        f"ONNX Runtime fails while running the model: {message_of(error)}",
        hint="see whether the float model runs on the same feeds; not every model takes random ones",
    )
