"""Writes softposit_tables.json: what SoftPosit says about posits of up to 8 bits.

Run once, by hand, in an environment of its own (`pip install softposit==0.3.4.4`); SoftPosit is no
dependency. A posit of n bits is the upper part of a wider one of the same es, so the tables come from its
posit8 (es 0), posit16 (es 1) and posit32 (es 2). Its roundings are those of the posit standard.
"""

import itertools
import json
import math
import random
from pathlib import Path

import softposit  # type: ignore[import-not-found,unused-ignore]

_WIDER = {0: (8, softposit.posit8), 1: (16, softposit.posit16), 2: (32, softposit.posit32)}


def value(width: int, es: int, code: int) -> float | None:
    """Value of a code, None for NaR."""
    wide, make = _WIDER[es]
    number = make(0)
    number.fromBits(code << (wide - width))
    return None if number.isNaR() else float(number)


def inputs() -> list[float]:
    """Values to round: every midpoint of two posit8 values, its neighbours, and seeded random ones."""
    table = sorted(v for v in (value(8, 0, code) for code in range(256)) if v is not None)
    middles = [(a + b) / 2 for a, b in itertools.pairwise(table)]
    near = [m * (1 + d) for m in middles[::4] for d in (-1e-9, 1e-9)]
    rng = random.Random(0)
    spread = [rng.choice((-1, 1)) * math.exp(rng.uniform(-9, 9)) for _ in range(400)]
    return [*table, *middles, *near, *spread]


def main() -> None:
    """Write the file beside this script."""
    tables = {
        f"posit{width}{f'es{es}' if es else ''}": [value(width, es, code) for code in range(2**width)]
        for width in (3, 4, 5, 6, 8)
        for es in (0, 1, 2)
    }
    values = inputs()
    rounded = {"posit8": [softposit.convertDoubleToP8(v).v for v in values]}
    for width in (4, 8):  # SoftPosit rounds to any width at es = 2; its code is left-aligned in 32 bits
        rounded[f"posit{width}es2"] = [
            softposit.convertDoubleToPX2(v, width).v >> (32 - width) for v in values
        ]
    text = json.dumps(
        {"softposit": "0.3.4.4", "tables": tables, "inputs": values, "standard_rounding": rounded}
    )
    Path(__file__).with_name("softposit_tables.json").write_text(text.replace("], ", "],\n") + "\n")


if __name__ == "__main__":
    main()
