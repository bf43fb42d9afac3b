"""The same cases, chosen by coverage: `python -m tests.fuzz.guided TARGET [CASES]`, where `atheris` is installed.

Bytes that atheris makes up stand for the choices of the mutations: it learns which changes lead somewhere new.
"""

import sys
import tempfile
from pathlib import Path
from random import Random

import atheris

with atheris.instrument_imports(include=["lpcompile"]):
    from tests.fuzz.targets import TARGETS
    from tests.fuzz.verdict import judged


class Chosen(Random):
    """Choices from bytes; zeros where they end."""

    def __init__(self, data: bytes) -> None:
        super().__init__(0)
        self._data, self._at = data, 0

    def getrandbits(self, k: int) -> int:
        """The next `k` bits."""
        size = (k + 7) // 8
        taken = self._data[self._at : self._at + size]
        self._at += size
        return int.from_bytes(taken, "little") & ((1 << k) - 1)

    def random(self) -> float:
        """The next 16 bits as a fraction."""
        return self.getrandbits(16) / 65536


def main() -> None:
    """Run until a case fails, or all were tried."""
    target, cases = sys.argv[1], (sys.argv[2:] or ["1000"])[0]

    def one(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            case = TARGETS[target](Chosen(data), Path(folder))
            verdict = judged(case)
            if verdict.problem is not None:
                raise AssertionError(f"{verdict.problem}: {case.words} {case.what}")

    atheris.Setup([sys.argv[0], f"-runs={cases}", "-max_len=4096", "-len_control=0"], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
