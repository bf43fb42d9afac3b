"""The graph: one wrapper on graphsurgeon, reading and writing models, and the operators of domain `lpcompile`."""
