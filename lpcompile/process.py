"""Whose this process is: settings that hold for all of it are only ours to make on our own command line."""

_ours = False


def take() -> None:
    """Say that this process is our command line's."""
    global _ours
    _ours = True


def is_ours() -> bool:
    """Whether `take` was called."""
    return _ours
