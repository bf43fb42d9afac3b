"""Compute-in-memory chips: integer reference graph, program, simulator, energy."""
