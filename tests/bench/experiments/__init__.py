"""Experiments of the papers' claims: `python -m tests.bench.experiments NAME`, results under docs/results."""
