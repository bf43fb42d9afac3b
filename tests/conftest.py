"""Settings that every test shares."""

import gc

import pytest
from hypothesis import find, settings
from hypothesis import strategies as st

from tests import exact_sums

settings.register_profile("lpcompile", derandomize=True, deadline=None, max_examples=50)
settings.register_profile("thorough", settings.get_profile("lpcompile"), max_examples=300)  # .ci/run has it
settings.load_profile("lpcompile")
exact_sums.install()


def pytest_collection_finish() -> None:
    """Spare garbage collections: what was imported and collected lives to the end, and so does most that follows."""
    # hypothesis looks, once, who refers to its generator, and garbage collection does not tell of what is frozen
    find(st.none(), lambda _: True)
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a `sweep` the first case runs by default; the others are `thorough`."""
    seen = set()
    for item in items:
        if item.get_closest_marker("sweep") is None:
            continue
        function = item.nodeid.partition("[")[0]
        if function in seen:
            item.add_marker(pytest.mark.thorough)
        seen.add(function)
