"""What all services share: one answer to one question, and errors as BuildKit words them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any, NoReturn

from daemon.build.doors import failure
from daemon.rpc.serving import Call
from daemon.rpc.status import Refusal, Status
from storage.errors import PydError

log = logging.getLogger("pyd.api")


@contextlib.asynccontextmanager
async def answering(call: Call) -> AsyncIterator[Any]:
    """The request; what the block raises becomes the call's status."""
    request = await call.recv_message()
    if request is None:
        raise Refusal(Status.INVALID_ARGUMENT, "a request is missing")
    try:
        yield request
    except Refusal:
        raise
    except Exception as error:
        if not isinstance(error, (PydError, OSError)):
            log.exception("a BuildKit request failed")
        raise refusal(error) from error


def refusal(error: BaseException) -> Refusal:
    found = failure.status(error)
    return Refusal(found.code, found.message, found.details)


def unimplemented(what: str) -> NoReturn:
    raise Refusal(Status.UNIMPLEMENTED, f"{what} is not implemented by this engine")
