"""Rewrite passes."""
