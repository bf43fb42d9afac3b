"""Writes an output folder again and again, killed one file-system call later each time; run as a program.

`python -m tests.killed_writer FOLDER` prints, for each point, what the folder held afterwards.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lpcompile.output import FINAL, write_folder

OLD = (*FINAL, "passes/00-x.onnx", "mine/notes.txt")
NEW = FINAL[:4]
_TOUCHES = ("open", "os.", "shutil.", "ctypes.dlsym", "tempfile.")


def contents(folder: Path) -> dict[str, str]:
    """Text by relative name."""
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def writers() -> dict[str, Callable[[Path], Any]]:
    """Of the new files, in two halves each."""

    def write(path: Path) -> None:
        with path.open("w") as file:
            file.write("ne")
            file.flush()
            path.open().close()  # a call at which the kill may come
            file.write("w")

    return dict.fromkeys(NEW, write)


def killed_at(point: int, out: Path) -> bool:
    """Write in a process that is killed at that call; whether it was."""
    pid = os.fork()
    if pid == 0:
        left = point

        def hook(event: str, _args: object) -> None:
            nonlocal left
            if event.startswith(_TOUCHES) and event != "os.kill":
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        write_folder(out, writers())
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def main(root: Path, existing: bool, inside: bool) -> None:
    """Every point of one way to write, until a run ends by itself."""
    out = root / "out"
    for point in range(10_000):
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        if existing:
            for name in OLD:
                (out / name).parent.mkdir(parents=True, exist_ok=True)
                (out / name).write_text("old")
        if inside:
            os.chdir(out)
        killed = killed_at(point, out)
        print(json.dumps([killed, contents(out) if out.exists() else None]), flush=True)
        if inside:
            os.chdir("/")
        if not killed:
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), "existing" in sys.argv[2:], "inside" in sys.argv[2:])
