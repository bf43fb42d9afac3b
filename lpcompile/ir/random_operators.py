"""Operators that draw numbers at every run: what is measured beside them holds their noise, too."""

from collections import Counter

from lpcompile.ir.graph import LpGraph

RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)


def random_operators(graph: LpGraph) -> str | None:
    """A sentence on the operators of a model that draw, Dropout in training mode among them; None without any.

    Those with a seed of their own draw the same in every session, and count nevertheless: a rewrite moves what they
    draw first.
    """
    drawing = Counter(n.op for n in graph.nodes() if not n.domain and n.op in RANDOM)
    for node in graph.nodes("Dropout"):
        mode = node.inputs[2] if len(node.inputs) > 2 else None
        if mode is not None and not (mode.is_constant and not mode.values.any()):
            drawing["Dropout in training mode"] += 1
    if not drawing:
        return None
    named = ", ".join(f"{count} {op}" for op, count in drawing.most_common(3))
    return f"the model draws random numbers ({named}): SQNR and agreement hold their noise as well"
