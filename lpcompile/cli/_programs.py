"""Files that hold a compiled program, as words on the command line mean them."""

import os
import tempfile
from pathlib import Path

from lpcompile.errors import OutputError, ProgramError

PROGRAM_FILE = "program.lpcim"


def program_file(text: str) -> Path:
    """The binary program that a word on the command line means.

    Args:
        text: a file, or a folder that a compiled model was written to.

    Raises:
        ProgramError: there is none.
    """
    path = Path(text)
    if path.is_dir():
        if not (path / PROGRAM_FILE).is_file():
            hint = "give an .lpcim file, or the folder that 'lpcompile MODEL --target cim' wrote"
            raise ProgramError(f"the folder holds no {PROGRAM_FILE}", where=text, hint=hint)
        return path / PROGRAM_FILE
    return _readable(path, "*.lpcim")


def assembler_text(text: str) -> tuple[Path, str]:
    """The file that a word on the command line means, and the assembler text in it.

    Raises:
        ProgramError: there is none, or it is no UTF-8 text.
    """
    path = _readable(Path(text), "*.lpcasm")
    try:
        return path, path.read_text("utf-8")
    except UnicodeDecodeError as error:
        hint = "give the .lpcasm file; 'lpcompile disasm' makes one of an .lpcim file"
        raise ProgramError("this is no text", where=text, hint=hint) from error
    except OSError as error:
        message = f"the file cannot be read: {error.strerror or error}"
        raise ProgramError(message, where=text, hint="check its permissions") from error


def _readable(path: Path, pattern: str) -> Path:
    if not path.is_file():
        what = "there is no such file" if not path.exists() else "this is no regular file"
        raise ProgramError(what, where=str(path), hint=_near_file(path, pattern))
    if not os.access(path, os.R_OK):
        raise ProgramError("the file may not be read", where=str(path), hint="check its permissions")
    return path


def _near_file(path: Path, pattern: str) -> str:
    import difflib

    if path.parent.is_dir():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob(pattern)], n=1)
        if near:
            return f"did you mean '{path.parent / near[0]}'?"
    return "check the path of the program"


def refuse_existing_file(path: Path, *, force: bool) -> None:
    """Stop before any work where the file could not be written.

    Raises:
        OutputError: it exists and `force` is not set, or it is a folder.
    """
    if path.is_dir():
        raise OutputError("this is a folder", where=str(path), hint="name a file in it with --output")
    if path.exists() and not force:
        raise OutputError("the file exists", where=str(path), hint="overwrite it with --force")


def write_file(path: Path, data: bytes) -> None:
    """Write under a temporary name and rename; nothing else in the folder is touched.

    Raises:
        OutputError: not writable, disk full.
    """
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(data)
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        hint = "choose another place"
        raise OutputError(
            f"cannot be written: {error.strerror or error}", where=str(path), hint=hint
        ) from error
