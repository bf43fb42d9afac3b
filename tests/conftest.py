"""Settings that every test shares."""

from hypothesis import settings

settings.register_profile("lpcompile", derandomize=True, deadline=None)
settings.load_profile("lpcompile")
