"""Answers packed for clients that ask for it: Accept-Encoding, as archives of containers honour it.

Docker's `deflate` is the bare format of RFC 1951, without the zlib header that RFC 9110 (8.4.1.2) means; so is ours.
Source: moby api/server/router/container/copy.go, and gddo's httputil.NegotiateContentEncoding that it calls.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import AsyncIterator, Iterator

WINDOW = {"gzip": 16 + zlib.MAX_WBITS, "deflate": -zlib.MAX_WBITS}
_NAME = re.compile(r"[ \t]*([!#$%&'*+\-.^_`|~0-9A-Za-z/]+)[ \t]*")
_QUALITY = re.compile(r";[ \t]*q=([01](?:\.\d*)?)[ \t]*")


def _accepted(header: str) -> Iterator[tuple[str, float]]:
    """(coding, quality) up to the first item that makes no sense."""
    position = 0
    while name := _NAME.match(header, position):
        position, quality = name.end(), 1.0
        if header.startswith(";", position):
            found = _QUALITY.match(header, position)
            if found is None:
                return
            position, quality = found.end(), float(found[1])
        yield name[1], quality
        if not header.startswith(",", position):
            return
        position += 1


def negotiated(header: str) -> str:
    """gzip, deflate or "": the best of what `header` accepts, gzip where both are as good."""
    best, quality = "", 0.0
    accepted = list(_accepted(header))
    for offer in WINDOW:
        for coding, wanted in accepted:
            if wanted > quality and coding in ("*", offer):
                best, quality = offer, wanted
    return best


async def packed(source: AsyncIterator[bytes], coding: str) -> AsyncIterator[bytes]:
    """`source` in that coding; compressing is done beside the event loop. Closing it closes the source."""
    pack = zlib.compressobj(wbits=WINDOW[coding])
    try:
        async for piece in source:
            data = await asyncio.to_thread(pack.compress, piece)
            if data:
                yield data
        yield pack.flush()
    finally:
        close = getattr(source, "aclose", None)
        if close is not None:
            await close()
