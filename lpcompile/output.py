"""Write the files of one compilation so that nothing half-written ever stands under a final name."""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from lpcompile.errors import OutputError

ALWAYS = ("model.onnx", "decisions.toml", "report.json", "report.html")
FINAL = (*ALWAYS, "program.lpcim", "program.lpcasm")  # what any target writes


def refuse_existing(out: Path, *, force: bool) -> None:
    """Stop before any work where the output could not be written.

    Raises:
        OutputError: `out` is a file, or holds files of an earlier run and `force` is not set.
    """
    if out.exists() and not out.is_dir():
        raise OutputError("this is a file, not a folder", where=str(out), hint="give a folder with --output")
    ours = [name for name in FINAL if (out / name).exists()]
    if ours and not force:
        raise OutputError(
            f"the folder holds {', '.join(ours)} of an earlier run",
            where=str(out),
            hint="overwrite with --force, or choose another folder with --output",
        )


def write_folder(out: Path, writers: Mapping[str, Callable[[Path], None]]) -> None:
    """Write every file into a hidden folder beside the final names, then rename them into place.

    Args:
        out: the folder; made if it is not there.
        writers: relative file name -> what writes it to a path.

    Raises:
        OutputError: not writable, disk full.
    """
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    work: Path | None = None
    try:
        out.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".lpcompile-", dir=out))
        for name, write in writers.items():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            write(work / name)
        for file in sorted(p for p in work.rglob("*") if p.is_file()):  # external data lie beside the model
            target = out / file.relative_to(work)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)
        for name in FINAL:
            if name not in writers:  # of an earlier run for another target
                (out / name).unlink(missing_ok=True)
    except (OSError, OutputError) as error:
        system = error.__cause__ if isinstance(error, OutputError) else error
        if not isinstance(system, OSError):
            raise
        raise OutputError(
            f"cannot write: {system.strerror or system}",
            where=str(out),
            hint="choose a folder with room that you may write to, with --output",
        ) from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
        with contextlib.suppress(OSError):
            for folder in made:
                folder.rmdir()  # only while nothing came to stand in it
