"""Renderers of records; nothing is computed here."""
