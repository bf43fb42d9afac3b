"""Write the files of one compilation: whoever looks, and whenever we are killed, finds all old files or all new ones.

The files are written into a hidden folder beside the final one, which then takes its name in one step: by a rename
where there was nothing, else by an exchange. Where the file system has no exchange, the folder is a mount point or
holds the working directory, each file is renamed by itself: none is half-written, but a kill between two renames can
leave new files beside old ones.
"""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from lpcompile import folder_swap
from lpcompile.errors import OutputError

ALWAYS = ("model.onnx", "decisions.toml", "report.json", "report.html")
FINAL = (*ALWAYS, "program.lpcim", "program.lpcasm")  # what any target writes
_DATA = ("model.onnx.data",)  # weights of a model too large for one file
_NO_EXCHANGE = {
    errno.EXDEV,
    errno.EBUSY,
    errno.EPERM,
    errno.EACCES,
    errno.EROFS,
    errno.ENOSYS,
    errno.EINVAL,
    errno.ENOTSUP,
    errno.EMLINK,
}

Writers = Mapping[str, Callable[[Path], object]]


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


def write_folder(out: Path, writers: Writers, *, force: bool = True) -> None:
    """Write every file, then let all of them appear at once; what else the folder holds stays.

    Args:
        out: the folder; made if it is not there.
        writers: relative file name -> what writes it to a path.
        force: whether files of another run may be replaced that came to stand there meanwhile.

    Raises:
        OutputError: not writable, disk full.
    """
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        final = Path(os.path.realpath(out))  # a link to the folder stays one
        if final.parent.exists() and not final.parent.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        final.parent.mkdir(parents=True, exist_ok=True)
        if not (_may_move(final) and _written_at_once(final, writers, force=force)):
            _write_one_by_one(final, writers)
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
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()  # only while nothing came to stand in it


def _may_move(final: Path) -> bool:
    """Whether the folder may be exchanged for another: nobody's working directory, and no file system of its own."""
    if not final.exists():
        return True
    with contextlib.suppress(OSError):
        if Path.cwd().is_relative_to(final):
            return False
    return not os.path.ismount(final) and final.stat().st_dev == final.parent.stat().st_dev


def _written_at_once(final: Path, writers: Writers, *, force: bool) -> bool:
    """Whether the whole folder could take its name in one step."""
    folder_swap.sweep(final)
    stage: Path | None = None
    try:
        stage = Path(tempfile.mkdtemp(prefix=folder_swap.stage_prefix(final), dir=final.parent))
        with folder_swap.held(stage):
            _fill(stage, writers)
            stage.chmod(0o777 & ~_umask())
            try:
                stage.rename(final)  # an empty folder may stand there
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                refuse_existing(final, force=force)
                shutil.copystat(final, stage)
                folder_swap.link_rest(final, stage, lambda name: name in (*FINAL, *_DATA))
                folder_swap.swap(stage, final)
    except OSError as error:
        if error.errno in _NO_EXCHANGE:
            return False
        raise
    finally:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)  # after an exchange, the old files
    return True


def _write_one_by_one(final: Path, writers: Writers) -> None:
    """Write into a hidden folder inside, and rename each file."""
    stage: Path | None = None
    try:
        final.mkdir(exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=".lpcompile-", dir=final))
        _fill(stage, writers)
        files = {p.relative_to(stage): p for p in sorted(stage.rglob("*")) if p.is_file()}
        for name, file in files.items():  # external data lie beside the model
            (final / name).parent.mkdir(parents=True, exist_ok=True)
            file.replace(final / name)
        for old in (*FINAL, *_DATA):
            if Path(old) not in files:  # of an earlier run for another target
                (final / old).unlink(missing_ok=True)
    finally:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)


def _fill(stage: Path, writers: Writers) -> None:
    for name, write in writers.items():
        (stage / name).parent.mkdir(parents=True, exist_ok=True)
        write(stage / name)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
