"""Predictions against what was published; `python -m lpcompile.backends.cim.validation` prints the tables."""
