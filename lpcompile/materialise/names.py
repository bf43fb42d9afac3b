"""Names of new constants: `<origin>/<role>`, the origin abbreviated where an exporter left a paragraph.

A name stands at the constant and at every reader: 400 characters each were a tenth of a 4-bit MobileNetV2.
"""

import zlib

MOST = 64
KEPT = 40


def stem(origin: str) -> str:
    """The origin's name, or its beginning and a checksum of all of it where it is longer than MOST characters."""
    if len(origin) <= MOST:
        return origin
    return f"{origin[:KEPT]}~{zlib.crc32(origin.encode()):08x}"
