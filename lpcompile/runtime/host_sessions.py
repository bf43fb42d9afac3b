"""Runs models that arrive as bytes, each loaded once: the host's part of a program."""

import functools
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from lpcompile.runtime.session import Session


class HostSessions:
    """Runs host stages in ONNX Runtime; each model is loaded once.

    Args:
        threads: of the runtime; 0 leaves it to the runtime.
    """

    def __init__(self, threads: int = 0) -> None:
        self._session = functools.lru_cache(maxsize=16)(functools.partial(Session, threads=threads))

    def __call__(self, model: bytes, feeds: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Outputs of a model by name."""
        return self._session(model).run(feeds)
