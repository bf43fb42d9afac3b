"""Executes a program of the CIM target, bit by bit and cycle by cycle."""
