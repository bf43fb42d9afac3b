"""Bytes and texts, a little broken."""

import re
from random import Random

_BYTES = (b"\x00", b"\xff", b"\x80", b"\x7f", b"\n", b"\xc3", b"\xff\xff\xff\xff", b"\xff" * 9 + b"\x01")
_WORDS = (
    "0", "-1", "1", "2", "1.5", "1e308", "1e999", "nan", "inf", "-inf", "2147483648", "9223372036854775808",
    "18446744073709551616", "-9223372036854775809", "true", "'x'", '""', "[]", "{}", "[[1]]", "[1, 'a']",
    "{a = 1}", "1979-05-27", "0x10", "\u202e", "\x1b[31m", "null", "é", "../../x", "a" * 300, "[" * 300, "{" * 300,
)  # fmt: skip
_NUMBER = re.compile(r"(?<![\w.])[+-]?(?:0x[0-9a-fA-F]+|\d+\.?\d*(?:e[+-]?\d+)?)")
_TOKEN = re.compile(r"[A-Za-z_][\w.-]*|[+-]?\d[\w.+-]*|\"[^\"\n]*\"|'[^'\n]*'|[^\s\w]")


def broken_bytes(rng: Random, data: bytes) -> bytes:
    """A few bytes changed, cut, doubled or put in."""
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        at = rng.randrange(len(made) + 1)
        length = rng.choice((1, 2, 4, 8, 64, 1000))
        match rng.randrange(6):
            case 0 if made:
                made[at % len(made)] ^= 1 << rng.randrange(8)
            case 1 if made:
                made[at % len(made)] = rng.randrange(256)
            case 2:
                del made[at : at + length]
            case 3:
                made[at:at] = made[at : at + length]
            case 4:
                made[at:at] = rng.choice(_BYTES)
            case _:
                put = rng.choice(_BYTES)
                made[at : at + len(put)] = put
    if rng.random() < 0.1:
        del made[rng.randrange(len(made) + 1) :]
    return bytes(made)


def broken_text(rng: Random, text: str) -> bytes:
    """Numbers, tokens or lines changed, moved, dropped or doubled; now and then no longer text."""
    if rng.random() < 0.5:
        for _ in range(rng.choice((1, 1, 2, 4))):
            text = _number_changed(rng, text)
        return text.encode()
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        text = _lines_moved(rng, text) if rng.random() < 0.3 else _token_changed(rng, text)
    data = text.encode("utf-8", "surrogatepass")
    return broken_bytes(rng, data) if rng.random() < 0.15 else data


def _number_changed(rng: Random, text: str) -> str:
    """One number takes the value of another, or one near by: what comes out is often nearly right."""
    numbers = list(_NUMBER.finditer(text))
    if not numbers:
        return text
    chosen, other = rng.choice(numbers), rng.choice(numbers)
    old = chosen.group()
    near = str(int(old) + rng.choice((-1, 1, 8, -8))) if old.lstrip("+-").isdecimal() else f"{old}1"
    new = rng.choice((near, near, other.group(), "0", "-" + old, old + "000"))
    return text[: chosen.start()] + new + text[chosen.end() :]


def _token_changed(rng: Random, text: str) -> str:
    tokens = list(_TOKEN.finditer(text))
    if not tokens:
        return rng.choice(_WORDS)
    chosen, other = rng.choice(tokens), rng.choice(tokens)
    new = rng.choice((rng.choice(_WORDS), other.group(), "", chosen.group() * 2, chosen.group()[:-1]))
    return text[: chosen.start()] + new + text[chosen.end() :]


def _lines_moved(rng: Random, text: str) -> str:
    lines = text.splitlines(keepends=True)
    if not lines:
        return text
    at, to = rng.randrange(len(lines)), rng.randrange(len(lines))
    match rng.randrange(3):
        case 0:
            del lines[at]
        case 1:
            lines.insert(to, lines[at])
        case _:
            lines[at], lines[to] = lines[to], lines[at]
    return "".join(lines)
