"""Predictions against what was published; `python -m tests.bench.cim_validation` prints the tables."""
