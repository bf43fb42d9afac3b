"""Settings that every test shares."""

import gc

from hypothesis import settings

settings.register_profile("lpcompile", derandomize=True, deadline=None)
settings.load_profile("lpcompile")


def pytest_collection_finish() -> None:
    """Keep what was imported and collected, which lives to the end, out of every later garbage collection."""
    gc.collect()
    gc.freeze()
