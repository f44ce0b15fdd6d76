"""CRC-32 of bytes that are read in pieces, in whatever order.

Threads that read ahead do not keep the order, and a piece need not be kept for its checksum: that
of two pieces in a row follows from theirs, as in zlib's ``crc32_combine``
(https://github.com/madler/zlib, crc32.c). A checksum is a polynomial over GF(2); bytes that follow
multiply it by x⁸ each, modulo the polynomial of CRC-32. Bit 31 is x⁰, bit 30 is x¹, and so on.
"""

from __future__ import annotations

import functools
import threading
import zlib

POLYNOMIAL = 0xEDB88320
MOST_PIECES = 64
"""Pieces that are remembered; of more, nobody is reading the whole."""


class Pieces:
    """What has been read of some bytes, and its checksums."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[int, int]] = {}  # first byte → the one behind the last, sum
        self._lock = threading.Lock()

    def add(self, begin: int, raw: bytes, size: int) -> int | None:
        """Add a piece; return the checksum of all bytes once there are `size` of them."""
        end, found = begin + len(raw), zlib.crc32(raw)
        if begin == end:
            return found if size == 0 else None
        with self._lock:
            if len(self._found) >= MOST_PIECES:
                self._found.clear()
            before = min(
                (first for first, (e, _) in self._found.items() if e == begin), default=None
            )
            if before is not None:
                found = joined(self._found.pop(before)[1], found, end - begin)
                begin = before
            if end in self._found:
                last, following = self._found.pop(end)
                found, end = joined(found, following, last - end), last
            self._found[begin] = end, found
            if (begin, end) != (0, size):
                return None
            self._found.clear()  # it may be read, and checked, again
        return found


def joined(first: int, second: int, length: int) -> int:
    """Checksum of two pieces in a row, from that of each and the bytes of the second."""
    return _product(_power(length), first) ^ second


@functools.lru_cache(maxsize=256)
def _power(count: int) -> int:
    """x to the 8 · count."""
    result, factor = 1 << 31, 1 << 23
    while count:
        if count & 1:
            result = _product(factor, result)
        factor, count = _product(factor, factor), count >> 1
    return result


def _product(one: int, other: int) -> int:
    product = 0
    for bit in range(31, -1, -1):
        if one >> bit & 1:
            product ^= other
        other = other >> 1 ^ POLYNOMIAL if other & 1 else other >> 1
    return product
