"""Try many broken inputs: `python -m tests.fuzz TARGET --cases N --seed S`.

Cases run in a process with a limit on memory; one that takes too long or dies is a failure like any other.
"""

import argparse
import json
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
GIB = 2**30
SLOWEST = 30  # seconds of a busy machine for one of processor time


def main() -> int:
    """Run the cases asked for; exit 1 if any fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=[*TARGETS, "all"], help="what is broken")
    parser.add_argument("--cases", type=int, default=1000, help="how many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case, to repeat one")
    parser.add_argument(
        "--seconds", type=float, default=20, help="of processor time, most that one case may take"
    )
    parser.add_argument("--memory", type=float, default=4, help="GiB of address space")
    parser.add_argument("--keep", default="", help="folder for the inputs that fail")
    asked = parser.parse_args()
    bad = 0
    for target in TARGETS if asked.target == "all" else [asked.target]:
        start = time.monotonic()
        codes: Counter[str] = Counter()
        kinds: Counter[str] = Counter()
        for index, text, words in failing(target, asked, codes):
            kinds[re.sub(r"\d+", "#", text)[:160]] += 1
            print(f"{target} {index}: {text}\n    {words}", flush=True)
        bad += kinds.total()
        ended = ", ".join(f"{count} with {code}" for code, count in sorted(codes.items()) if count)
        seconds = time.monotonic() - start
        print(f"{target}: {asked.cases} cases in {seconds:.0f} s; exits: {ended}")
        print(f"{target}: {kinds.total()} failures of {len(kinds)} kinds", flush=True)
    return int(bad > 0)


def failing(target: str, asked: argparse.Namespace, codes: Counter[str]) -> Iterator[tuple[int, str, str]]:
    """Number, problem and words of each case that fails; `codes` counts how the others ended."""
    index, end = asked.first, asked.first + asked.cases
    while index < end:
        words, state = "", ""
        for number, state, text in _results(target, asked, index, end):
            index = number + (state != "begun")
            words = text if state == "begun" else words
            codes[text] += state == "passed"
            if state == "failed":
                yield number, text, words
        if state in ("begun", ""):
            yield index, "the process died" if state else "the process did not start", words
            index += 1


def _results(target: str, asked: argparse.Namespace, first: int, end: int) -> Iterator[tuple[int, str, str]]:
    """What a worker says; ends where it ends, or is killed because one case takes too long."""
    limits = (str(int(asked.memory * GIB)), str(asked.seconds), asked.keep)
    command = [
        sys.executable,
        "-m",
        "tests.fuzz.worker",
        target,
        str(asked.seed),
        str(first),
        str(end),
        *limits,
    ]
    with tempfile.TemporaryFile() as noise:
        worker = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=noise)
        assert worker.stdout is not None
        with worker, selectors.DefaultSelector() as waiting:
            waiting.register(worker.stdout, selectors.EVENT_READ)
            number = first
            while waiting.select(SLOWEST * asked.seconds):
                line = worker.stdout.readline()
                if not line:
                    break
                number, state, text = json.loads(line)
                yield number, state, text
            else:
                worker.kill()
                yield number, "failed", f"no end after {SLOWEST * asked.seconds:g} s"
        noise.seek(0)
        if worker.returncode == -signal.SIGPROF:
            yield number, "failed", f"no end after {asked.seconds:g} s of processor time"
        elif worker.returncode not in (0, -signal.SIGKILL):
            print(noise.read().decode("utf-8", "replace")[-1500:], file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
