"""Recipes: named pipelines as TOML files."""
