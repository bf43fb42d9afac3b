"""Rewrite passes: `lpcompile passes` lists them in pipeline order, `docs/reference/passes.md` describes each.

Every other module here holds one concept that a pass is made of, and is named after it.
"""
