"""Two folders change names in one step of the file system, where it has one; and stages that a killed process left."""

import contextlib
import ctypes
import errno
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_AT_FDCWD, _EXCHANGE = -100, 2  # of Linux; macOS calls 2 RENAME_SWAP
_MOST_ENTRIES = 10_000
_STAGE = ".lpcompile-"
_YOUNG_SECONDS = 60.0  # a stage this new may not have its lock yet


def swap(a: Path, b: Path) -> None:
    """Exchange two folders of one file system: at every moment both names stand for one of them, whole.

    Raises:
        OSError: not possible here; nothing happened then.
    """
    library = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(a), os.fsencode(b)
    call: Callable[[], int]
    if sys.platform == "linux" and hasattr(library, "renameat2"):
        call = lambda: library.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _EXCHANGE)  # noqa: E731
    elif sys.platform == "darwin" and hasattr(library, "renamex_np"):
        call = lambda: library.renamex_np(*names, _EXCHANGE)  # noqa: E731
    else:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(b))
    if call():
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(b))


def link_rest(source: Path, target: Path, left_out: Callable[[str], bool]) -> None:
    """Give `target` what `source` holds and it does not, as further names of the same files.

    Args:
        source: a folder.
        target: another one in the same file system.
        left_out: which entries at the top are not taken.

    Raises:
        OSError: too many entries, or a file system without such names.
    """
    count = 0
    for folder, names, files in os.walk(source):
        inside = Path(folder).relative_to(source)
        if inside == Path():
            names[:] = [n for n in names if not left_out(n)]
            files = [n for n in files if not left_out(n)]
        count += len(names) + len(files)
        if count > _MOST_ENTRIES:
            raise OSError(errno.EMLINK, "too many files beside the output", str(source))
        for name in list(names):
            if (Path(folder) / name).is_symlink():
                names.remove(name)
                files.append(name)
            else:
                (target / inside / name).mkdir(exist_ok=True)
                shutil.copystat(Path(folder) / name, target / inside / name)
        for name in files:
            if not os.path.lexists(target / inside / name):
                os.link(Path(folder) / name, target / inside / name, follow_symlinks=False)


def stage_prefix(out: Path) -> str:
    """How the names of stages of a folder begin."""
    return f".{out.name[:40]}{_STAGE}"


@contextlib.contextmanager
def held(stage: Path) -> Iterator[None]:
    """Mark a stage as in use; the mark ends with the process, however it ends."""
    descriptor = _locked(stage)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def sweep(out: Path) -> None:
    """Remove stages of a folder that nobody holds any more."""
    prefix, now = stage_prefix(out), time.time()
    with contextlib.suppress(OSError):
        for stage in [p for p in out.parent.iterdir() if p.name.startswith(prefix)]:
            if stage.is_symlink() or not stage.is_dir() or now - stage.stat().st_mtime < _YOUNG_SECONDS:
                continue
            descriptor = _locked(stage)
            if descriptor is not None:
                shutil.rmtree(stage, ignore_errors=True)
                os.close(descriptor)


def _locked(folder: Path) -> int | None:
    """A descriptor that locks a folder; None where another process has it, or locks are not to be had."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
