"""Settings that every test shares."""

import gc

from hypothesis import settings

settings.register_profile("lpcompile", derandomize=True, deadline=None)
settings.load_profile("lpcompile")


def pytest_collection_finish() -> None:
    """Spare garbage collections: what was imported and collected lives to the end, and so does most that follows."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(700, 10, 100)
