"""Elementary functions as multiplications, additions, shifts and comparisons of one number. [notes pikelpn.md 2.2, 7].

| function  | recipe                                                                                        |
|-----------|-----------------------------------------------------------------------------------------------|
| exp       | z = round(x / -ln2), p = x + z ln2, (0.3585 (p + 1.353)^2 + 0.344) >> z [kim2021]              |
| log       | exponent and mantissa, a quadratic of the mantissa, plus exponent times ln2 (assumed)          |
| erf       | sgn(x) (a (min(|x|, -b) + b)^2 + 1) [kim2021]                                                  |
| sin       | reduced by multiples of pi/2, then an odd polynomial of degree 5 (assumed)                     |

Other functions are made of these as their definitions say; sign flips are free. A division by a constant is one all the
same: it costs what a multiplication does.
"""

from collections import Counter
from collections.abc import Mapping

from lpcompile.analysis.arithmetic import Kind

Recipe = Mapping[Kind, int]


def _of(**counts: int) -> Counter[Kind]:
    return Counter({Kind[name.upper()]: n for name, n in counts.items()})


NOTHING: Recipe = _of()
MULTIPLY, ADD, DIVIDE, ROOT = _of(multiply=1), _of(add=1), _of(divide=1), _of(root=1)
COMPARE, SHIFT, FREE = _of(compare=1), _of(shift=1), _of(free=1)
EXP = _of(multiply=4, add=4, shift=1)
LOG = _of(multiply=3, add=3, shift=1)
ERF = _of(multiply=2, add=2, compare=1, free=1)
SIN = _of(multiply=5, add=4)
SIGMOID = EXP + ADD + DIVIDE + FREE
TANH = EXP + _of(add=3) + DIVIDE  # (e^2x - 1) / (e^2x + 1)
SOFTPLUS = EXP + ADD + LOG
SOFTMAX = COMPARE + ADD + EXP + ADD + DIVIDE  # the largest taken off, exponentials, their sum, a division
GELU = MULTIPLY + ERF + ADD + _of(multiply=2)
GELU_TANH = _of(multiply=4, add=1) + TANH + ADD + _of(multiply=2)
HARD_SIGMOID = _of(multiply=1, add=1, compare=2)
ELU = EXP + ADD + MULTIPLY + COMPARE

ACTIVATIONS: Mapping[str, Recipe] = {
    "Relu": COMPARE,
    "LeakyRelu": COMPARE + MULTIPLY,
    "PRelu": COMPARE + MULTIPLY,
    "ThresholdedRelu": COMPARE,
    "Elu": ELU,
    "Celu": ELU + DIVIDE,
    "Selu": ELU + MULTIPLY,
    "Erf": ERF,
    "HardSigmoid": HARD_SIGMOID,
    "HardSwish": HARD_SIGMOID + MULTIPLY,
    "Mish": SOFTPLUS + TANH + MULTIPLY,
    "Shrink": _of(compare=2, add=1),
    "Sigmoid": SIGMOID,
    "Softplus": SOFTPLUS,
    "Softsign": ADD + DIVIDE + FREE,
    "Swish": SIGMOID + _of(multiply=2),
    "Tanh": TANH,
}
OTHERS: Mapping[str, Recipe] = {
    **dict.fromkeys(("Ceil", "Floor", "Round"), ADD),
    **dict.fromkeys(
        (
            "Abs", "And", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "IsInf", "IsNaN", "Neg",
            "Not", "Or", "Sign", "Trilu", "Where", "Xor",
        ),
        FREE,
    ),
    **dict.fromkeys(("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"), COMPARE),
    "Cos": SIN + ADD,
    "CumSum": ADD,
    "Exp": EXP,
    "Log": LOG,
    "Mod": DIVIDE,
    "Range": ADD,
    "Reciprocal": DIVIDE,
    "RotaryEmbedding": _of(multiply=2, add=1),
    "Sin": SIN,
    "Sqrt": ROOT,
}  # fmt: skip


def power(exponent: float | None) -> Recipe:
    """X to a power; None where it is not constant."""
    if exponent is None:
        return LOG + MULTIPLY + EXP
    whole = {1.0: NOTHING, 0.0: NOTHING, 0.5: ROOT, -0.5: ROOT + DIVIDE, -1.0: DIVIDE}
    if exponent in whole:
        return whole[exponent]
    if exponent == int(exponent) and abs(exponent) <= 8:
        n = int(abs(exponent))
        times = _of(multiply=n.bit_length() - 1 + n.bit_count() - 1)  # by squaring
        return times if exponent > 0 else times + DIVIDE
    return LOG + MULTIPLY + EXP
