"""Objects of the user's own modules, as "package.module:attribute" names them."""

import importlib
import re
import sys
from pathlib import Path
from typing import Any

from lpcompile.errors import InputError

_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def is_reference(text: str) -> bool:
    """Whether a text has the form package.module:attribute."""
    return _REFERENCE.fullmatch(text) is not None


def imported(reference: str, error: type[InputError]) -> Any:
    """The object of that name; modules are looked for on the Python path and in the current folder.

    Args:
        reference: package.module:attribute.
        error: what to raise.

    Raises:
        InputError: of the class `error`: the module or the attribute is not there, or importing it fails.
    """
    module, attribute = reference.split(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as failure:  # user code: whatever it raises
        raise error(
            f"cannot be imported: {type(failure).__name__}: {failure}",
            where=reference,
            hint="it is looked for on the Python path and in the current folder",
        ) from failure
    finally:
        sys.path.remove(str(Path.cwd()))
    return found
