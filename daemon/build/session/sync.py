"""FileSync.DiffCopy, the asynchronous half: packets go to a thread by batches, requests for files to the client."""

from __future__ import annotations

import asyncio
import contextlib
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from daemon.build.session.receive import Receiver
from daemon.build.session.threads import in_thread
from daemon.rpc.calls import Call, Metadata, call
from daemon.rpc.http2 import Connection
from storage.errors import PydError

METHOD = "/moby.filesync.v1.FileSync/DiffCopy"
_FIN, _REQUEST, _ERROR = b"\x08\x03", b"\x08\x01", b"\x08\x04"
_AT_ONCE = 1024
_MANY = 64 << 10
"""Bytes: a client that has sent so much sends much. What comes by drops then is gathered for a moment."""
_MOMENT = 0.004
"""Seconds. Each turn through the thread costs more than the dozen of small packets that come meanwhile."""


def metadata(name: str, patterns: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """A request's headers as the client decodes them: values that are not ASCII are escaped, and marked."""
    found: list[tuple[str, str]] = []
    for key, values in (("dir-name", [name]), *patterns.items()):
        if not all(value.isascii() and value.isprintable() for value in values):
            values = [urllib.parse.quote_plus(value.encode("utf-8", "surrogateescape")) for value in values]
            found.append((f"{key}-encoded", "1"))
        found += [(key, value) for value in values]
    return found


async def receive(
    connection: Connection, make: Callable[[], Receiver], headers: Metadata, report: Callable[[int], None]
) -> tuple[dict[str, Any], int]:
    """Runs a receiver, made while the client looks at its files, to its end: what that gives, and bytes received.

    What it made is gone when this raises. `report`: bytes so far.
    """
    async with await call(connection, METHOD, headers) as under_way:
        receiver = await in_thread(make)
        try:
            return await _run(under_way, receiver, report), receiver.received
        except BaseException:
            await in_thread(receiver.abandon)
            raise


async def _run(under_way: Call, receiver: Receiver, report: Callable[[int], None]) -> dict[str, Any]:
    requests = _Requests(under_way)
    asking = asyncio.create_task(requests.run())
    result: dict[str, Any] | None = None
    try:
        while batch := await under_way.batch():
            if result is None:
                asked, result = await in_thread(_step, receiver, batch)
                requests.add(asked)
                report(receiver.received)
                if result is not None:
                    await under_way.send([_FIN])
            else:
                receiver.take(batch)  # nothing but the client's own end is left to come
            if receiver.fin:
                await under_way.end()
            elif result is None and receiver.received > _MANY and sum(map(len, batch)) < _MANY:
                await asyncio.sleep(_MOMENT)
        return result if result is not None else await in_thread(receiver.finish)
    except PydError as error:
        with contextlib.suppress(PydError, TimeoutError):  # it may be gone
            async with asyncio.timeout(1):
                text = str(error).encode("utf-8", "replace")[:4096]
                await under_way.send([_ERROR + b"\x22" + _varint(len(text)) + text], end=True)
        raise
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


def _step(receiver: Receiver, batch: list[bytes]) -> tuple[list[int], dict[str, Any] | None]:
    """A batch taken, and the end when that was the last: one change of threads for both."""
    asked = receiver.take(batch)
    return asked, receiver.finish() if receiver.complete else None


class _Requests:
    """Files to be asked for: sent beside receiving, since the client may stop reading while it sends."""

    def __init__(self, under_way: Call) -> None:
        self._call = under_way
        self._waiting: list[int] = []
        self._wake = asyncio.Event()

    def add(self, numbers: list[int]) -> None:
        if numbers:
            self._waiting += numbers
            self._wake.set()

    async def run(self) -> None:
        with contextlib.suppress(PydError):  # whoever receives hears of it
            while True:
                await self._wake.wait()
                self._wake.clear()
                numbers, self._waiting = self._waiting, []
                for start in range(0, len(numbers), _AT_ONCE):
                    some = numbers[start : start + _AT_ONCE]
                    await self._call.send([_REQUEST + (b"\x18" + _varint(n) if n else b"") for n in some])


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
