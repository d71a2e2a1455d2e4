"""The C library's heap: one for all threads, which gives back what it frees (mallopt(3))."""

from __future__ import annotations

import contextlib
import ctypes

_M_TRIM_THRESHOLD, _M_ARENA_MAX = -1, -8
KEPT = 64 << 10
"""Free bytes at the end of the heap that stay for the next who needs them."""


def one_heap(*, trimmed: bool = True) -> None:
    """Worker threads' own arenas cost megabytes; before the first of them starts. Nothing without glibc.

    `trimmed`: what is freed at its end goes back at once, which costs whoever moves much data a quarter of the time.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_ARENA_MAX, 1)
        if trimmed:
            libc.mallopt(_M_TRIM_THRESHOLD, KEPT)


def give_back() -> None:
    """What is free now, all over the heap (malloc_trim(3))."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
