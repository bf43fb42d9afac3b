"""Programs with one broken section and sums that are right again: what lies behind the CRC is reached."""

import struct
import zlib
from random import Random

from tests.fuzz.byte_mutations import broken_bytes

_HEADER = struct.Struct("<6sHHHIQ32s")  # as backends/cim/container.py draws it
_ENTRY = struct.Struct("<HHHHQII")


def broken_program(rng: Random, data: bytes) -> bytes:
    """A program file with broken bytes in one section, now and then with a section more or fewer."""
    magic, version, isa, name_bytes, count, _, sha = _HEADER.unpack_from(data)
    at = _HEADER.size + name_bytes
    name = data[_HEADER.size : at]
    entries = [_ENTRY.unpack_from(data, at + i * _ENTRY.size) for i in range(count)]
    at += count * _ENTRY.size + 4
    sections: list[tuple[tuple[int, ...], bytes]] = []
    for kind, core, number, _zero, length, _crc, _end in entries:
        sections.append(((kind, core, number), data[at : at + length]))
        at += length
    chosen = rng.randrange(len(sections))
    key, content = sections[chosen]
    match rng.randrange(12):
        case 0:
            del sections[chosen]
        case 1:
            sections.insert(chosen, (key, content))
        case 2:
            sections[chosen] = (tuple(rng.choice((k, k + 1, 65535)) for k in key), content)
        case 3 | 4 | 5 | 6 | 7 | 8 if content:
            at = rng.randrange(len(content))
            near = bytes([(content[at] + rng.choice((-1, 1, 2, 16))) % 256])
            sections[chosen] = (key, content[:at] + near + content[at + 1 :])
        case _:
            sections[chosen] = (key, broken_bytes(rng, content))
    total = _HEADER.size + len(name) + _ENTRY.size * len(sections) + 4 + sum(len(c) for _, c in sections)
    parts = [_HEADER.pack(magic, version, isa, len(name), len(sections), total, sha), name]
    parts += [_ENTRY.pack(*k, 0, len(c), zlib.crc32(c), 0) for k, c in sections]
    head = b"".join(parts)
    return b"".join([head, struct.pack("<I", zlib.crc32(head)), *(c for _, c in sections)])
