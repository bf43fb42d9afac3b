"""Give memory of replaced weights back while a model is compiled, so that the peak follows what is alive.

Graph nodes and tensors refer to each other, so a constant that fell out of use goes only when the cycle collector
runs; and glibc keeps freed blocks below a threshold that it raises by itself. Measured on ResNet-18 (47 MB): peak
180 MB without a fixed threshold, 132 MB with.
"""

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

LARGE_BYTES = 16 << 20
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of mallopt(3)
_BLOCK_BYTES = 1 << 20
_HEAP_BLOCK_BYTES = 32 << 20  # the most that glibc takes
_KEPT_BYTES = 16 << 20


def keep_large_blocks_apart() -> None:
    """Let blocks of 1 MiB and more return to the system as soon as they are freed. Does nothing without glibc."""
    _glibc("mallopt", _MMAP_THRESHOLD, _BLOCK_BYTES)


@contextmanager
def freed_blocks_kept() -> Iterator[None]:
    """Let freed blocks up to 32 MiB serve again meanwhile, in place of new pages of the system.

    Rounding makes many temporaries of one to some ten MiB: a fifth of `-O1` was page faults (MobileNetV2: 19 of 86 s
    of processor time, 5 of 71 with this), for some 70 MB more memory.
    """
    _glibc("mallopt", _MMAP_THRESHOLD, _HEAP_BLOCK_BYTES)
    _glibc("mallopt", _TRIM_THRESHOLD, _KEPT_BYTES)
    try:
        yield
    finally:
        keep_large_blocks_apart()
        _glibc("mallopt", _TRIM_THRESHOLD, _BLOCK_BYTES)
        return_free_blocks()


def return_free_blocks() -> None:
    """Return smaller freed blocks too, between two steps that need much memory; some 0.5 ms."""
    _glibc("malloc_trim", 0)


def collect_replaced(discarded_bytes: int) -> None:
    """Run the cycle collector where there is enough to gain."""
    if discarded_bytes >= LARGE_BYTES:
        gc.collect()


def _glibc(function: str, *arguments: int) -> None:
    if sys.platform != "linux":
        return
    try:
        getattr(ctypes.CDLL(None), function)(*arguments)
    except (OSError, AttributeError):  # another C library: it has its own ways
        return
