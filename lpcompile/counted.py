"""Counts in sentences: one layer, two layers."""


def counted(count: int, noun: str, one: str = "", more: str = "") -> str:
    """`1 layer differs`, `2 layers differ`: a noun with a regular plural, and the verb of either where there is one.

    Args:
        count: how many.
        noun: what, one of it.
        one: the verb after one.
        more: the verb after several or none.
    """
    text, verb = (f"{count} {noun}", one) if count == 1 else (f"{count} {noun}s", more)
    return f"{text} {verb}" if verb else text
