"""Sessions whose sums of products are exact on every CPU: tests of numbers are not about what some CPU does to them.

x86 without VNNI adds two u8 x s8 products in int16, which saturates. With this setting of ONNX Runtime it takes a
slower kernel that does not; on other CPUs the setting changes nothing. `as_users_have_them` takes it away again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx
import onnxruntime

from lpcompile.backends.ort.saturation import adds_pairs_in_int16

_TWICE = "Attempt to replace the existing tensor"
_SETTING = ("session.x64quantprecision", "1")
_OPTIONS: Any = onnxruntime.SessionOptions
_SESSION: Any = onnxruntime.InferenceSession


class ExactOptions(_OPTIONS):  # type: ignore[misc]
    """Options with the setting."""

    def __init__(self) -> None:
        super().__init__()
        self.add_session_config_entry(*_SETTING)


class ExactSession(_SESSION):  # type: ignore[misc]
    """A session with the setting, whether it is given options or not."""

    def __init__(self, model: Any, sess_options: Any = None, *args: Any, **named: Any) -> None:
        options = sess_options or ExactOptions()
        try:
            super().__init__(model, options, *args, **named)
        except Exception as error:  # the runtime's errors share no base class
            if _TWICE not in str(error):
                raise
            try:
                super().__init__(_read_once(model), options, *args, **named)
            except Exception:  # it merged the copies again: sums as this CPU makes them
                super().__init__(model, _OPTIONS(), *args, **named)


def _read_once(model: bytes | str) -> bytes:
    """The model with a copy of every constant for each reader: the runtime makes a shared one unsigned twice."""
    proto = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(model)
    constants = {t.name: t for t in proto.graph.initializer}
    seen = set[str]()
    for node in proto.graph.node:
        for i, name in enumerate(node.input):
            if name in constants and name in seen:
                node.input[i] = f"{name}/{len(proto.graph.initializer)}"
                copy = proto.graph.initializer.add()
                copy.CopyFrom(constants[name])
                copy.name = node.input[i]
            seen.add(name)
    return bytes(proto.SerializeToString())


def install() -> None:
    """Give every session of this process the setting."""
    onnxruntime.SessionOptions, onnxruntime.InferenceSession = ExactOptions, ExactSession


@contextmanager
def as_users_have_them() -> Iterator[None]:
    """Sessions as the runtime makes them by default."""
    now = onnxruntime.SessionOptions, onnxruntime.InferenceSession
    onnxruntime.SessionOptions, onnxruntime.InferenceSession = _OPTIONS, _SESSION
    adds_pairs_in_int16.cache_clear()
    try:
        yield
    finally:
        onnxruntime.SessionOptions, onnxruntime.InferenceSession = now
        adds_pairs_in_int16.cache_clear()
