"""Runs cases in a process of its own, which may be killed, and says on stdout what became of each."""

import json
import resource
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from random import Random

from tests.fuzz.targets import TARGETS
from tests.fuzz.verdict import Case, judged


def made_case(target: str, seed: int, index: int, folder: Path) -> Case:
    """The case of this number: the same on every machine."""
    return TARGETS[target](Random(f"{seed}/{target}/{index}"), folder)


def main(target: str, seed: str, first: str, end: str, memory: str, seconds: str, keep: str) -> None:
    """Run cases [first, end).

    Each has `memory` bytes and `seconds` of processor time, after which SIGPROF ends this process; inputs that fail
    are copied below `keep`, if that is not empty.
    """
    resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory(prefix="lpcompile-fuzz-") as root:
        for index in range(int(first), int(end)):
            folder = Path(root) / f"{index}"
            folder.mkdir()
            case = made_case(target, int(seed), index, folder)
            _say(index, "begun", " ".join(case.words) + f"  [{', '.join(case.what)}]")
            _copy(keep, target, folder)  # a case that kills this process must be there already
            signal.setitimer(signal.ITIMER_PROF, float(seconds))
            verdict = judged(case)
            signal.setitimer(signal.ITIMER_PROF, 0)
            if verdict.problem is None and keep:
                shutil.rmtree(Path(keep) / f"{target}-{index}", ignore_errors=True)
            _say(index, "failed" if verdict.problem else "passed", verdict.problem or str(verdict.code))
            shutil.rmtree(folder, ignore_errors=True)


def _copy(keep: str, target: str, folder: Path) -> None:
    if keep:
        shutil.copytree(folder, Path(keep) / f"{target}-{folder.name}", dirs_exist_ok=True)


def _say(index: int, what: str, text: str) -> None:
    print(json.dumps([index, what, text]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
